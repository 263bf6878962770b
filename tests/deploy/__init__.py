"""What deploy/ says, held against what the code does and what Docker and Kubernetes accept."""
