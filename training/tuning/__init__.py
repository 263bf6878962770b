"""Random search over the few parameters that matter, each part of the system on its own."""
