"""The public tier: from a request to a page, through one visible list of stages (`assemble.py`)."""
