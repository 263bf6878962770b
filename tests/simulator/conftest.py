from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from simulator import World, WorldConfig
from simulator.log import Events, Impressions

SMALL = WorldConfig(users=800, items=3_000, events=36_000, seed=3)


@dataclass(frozen=True, kw_only=True)
class Log:
    """A whole log of a small world."""

    impressions: Impressions
    events: Events


@pytest.fixture(scope="session")
def world() -> World:
    return World(SMALL)


@pytest.fixture(scope="session")
def log(world: World) -> Log:
    blocks = list(world.blocks())
    return Log(
        impressions=_joined(Impressions, blocks),
        events=_joined(Events, [block.events() for block in blocks]),
    )


def _joined(kind, parts):
    names = kind.__dataclass_fields__
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
