"""Generated stubs of protos/shortlist/v1; `make protos` writes them."""
