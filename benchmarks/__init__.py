"""Measurements: of parts against what they replace, and of the whole beside published figures."""
