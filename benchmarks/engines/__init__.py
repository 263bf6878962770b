"""Libraries that search and that score, beside the ones we serve with."""
