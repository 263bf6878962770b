"""What a tier's folder says beside its versions: which serves, which did, what is changing.

`current` has the serving version in its first line. The lines below it are the log of promotions,
newest first: a version, and when it began to serve. So the pointer and its history are swapped in
one step, and cannot contradict each other. `rollout` is there while a redeploy is under way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Pointer", "Promotion", "Rollout"]

_REMEMBERED = 100  # promotions


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A version began to serve."""

    version: str
    time_ms: int  # Unix milliseconds; 0 = nobody wrote it down


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """The content of `current`."""

    promotions: tuple[Promotion, ...]  # newest first, at least one

    @property
    def version(self) -> str:
        """The one that serves."""
        return self.promotions[0].version

    @property
    def previous(self) -> str | None:
        """The one to go back to: what served when the serving one was promoted first.

        Going back is a promotion, too, and takes what it went back from out of the way: going back
        twice leads two versions back, never forth again.
        """
        served: list[str] = []
        for promotion in reversed(self.promotions):
            if promotion.version in served:
                del served[served.index(promotion.version) + 1 :]
            else:
                served.append(promotion.version)
        return served[-2] if len(served) > 1 else None

    def promoted(self, version: str, time_ms: int) -> Pointer:
        """The pointer after one more promotion; the oldest are forgotten."""
        newest = Promotion(version=version, time_ms=time_ms)
        return Pointer(promotions=(newest, *self.promotions)[:_REMEMBERED])

    @staticmethod
    def first(version: str, time_ms: int) -> Pointer:
        return Pointer(promotions=(Promotion(version=version, time_ms=time_ms),))

    def render(self) -> bytes:
        log = [f"{one.version} {one.time_ms}" for one in self.promotions]
        return "\n".join([self.version, *log, ""]).encode()

    @staticmethod
    def parse(data: bytes) -> Pointer:
        """Raises `ValueError` for what `render` does not write; a version alone is fine."""
        text = data.decode("ascii")
        current, *log = text.removesuffix("\n").split("\n")
        promotions = _promotions(log) or (Promotion(version=current, time_ms=0),)
        if promotions[0].version != current:
            raise ValueError(f"says {current!r}, and {promotions[0].version!r} in its log")
        return Pointer(promotions=promotions)


class Rollout(BaseModel):
    """A change of version that has begun and not ended; every process that starts reads it.

    While it is `preparing`, `before` serves, and nobody needs `version`. When it is `activating`,
    `version` is in the memory of every replica, and requests may name either.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    version: str  # that shall serve
    before: str | None  # that serves; None = nothing does
    step: Literal["preparing", "activating"]

    def render(self) -> bytes:
        return json.dumps(self.model_dump()).encode() + b"\n"

    @staticmethod
    def parse(data: bytes) -> Rollout:
        """Raises `ValueError` for anything that `render` does not write."""
        try:
            return Rollout.model_validate_json(data)
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["msg"])) from None


def _promotions(lines: Sequence[str]) -> tuple[Promotion, ...]:
    found = []
    for line in lines:
        version, _, time = line.partition(" ")
        found.append(Promotion(version=version, time_ms=int(time)))
    return tuple(found)
