"""The narrow waist of Shortlist: contracts, configuration, artifacts and serving bootstrap.

Every tier imports this package; it imports no tier.
"""

__version__ = "0.1.0"
