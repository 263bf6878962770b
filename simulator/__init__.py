"""A simulated world: users and items whose tastes are known, for tests, the demo and closed-loop experiments."""

from simulator.config import ClickWeights, ExposureMix, InvalidWorldConfig, WorldConfig
from simulator.world import PageFeedback, UnknownEntity, World

__all__ = [
    "ClickWeights",
    "ExposureMix",
    "InvalidWorldConfig",
    "PageFeedback",
    "UnknownEntity",
    "World",
    "WorldConfig",
]
