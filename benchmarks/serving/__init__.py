"""What a request costs, against what users would pick instead and against the physical limit."""
