"""The ranking tier: one process scores candidates with one model."""
