"""The retrieval tier: one process serves one slice of the catalogue, with its user tower."""
