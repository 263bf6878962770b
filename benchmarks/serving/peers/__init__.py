"""What users would build instead: the stages of the tutorials, as gRPC servers of their own."""
