"""A simulated world of known tastes, for tests, the demo and closed-loop experiments.

Beside it, `simulator.fanout` simulates questions to many shards, and knows nothing of the world.
"""

from simulator.config import ClickWeights, ExposureMix, InvalidWorldConfig, WorldConfig
from simulator.dataset import WrittenDataset, write_dataset
from simulator.world import PageFeedback, UnknownEntity, World

__all__ = [
    "ClickWeights",
    "ExposureMix",
    "InvalidWorldConfig",
    "PageFeedback",
    "UnknownEntity",
    "World",
    "WorldConfig",
    "WrittenDataset",
    "write_dataset",
]
