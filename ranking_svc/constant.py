"""The ranker that tests can trust: it changes nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shortlist.errors import InvalidField, VersionNotServed
from shortlist.tiers import RankerStatus, ScoreQuery, Scores

__all__ = ["ConstantRanker"]

_MODEL = "constant"


class ConstantRanker:
    """A `shortlist.tiers.Ranker` that gives every candidate the same score."""

    name = "local/constant"

    def __init__(self, keys: npt.NDArray[np.uint64], version: str = "constant") -> None:
        """`keys` are the items that it claims to know."""
        self._keys = keys
        self._version = version

    async def score(self, query: ScoreQuery) -> Scores:
        if query.model_version not in (None, self._version):
            raise VersionNotServed(f"{query.model_version} is not served; {self._version} is")
        if query.model not in ("", _MODEL):
            raise InvalidField("model", f"no ranker {query.model!r}; there are: {_MODEL}")
        known = np.isin(query.candidates.keys, self._keys)
        return Scores(
            model_version=self._version,
            model=_MODEL,
            scores=np.zeros(len(known), np.float32),
            unknown_items=int(np.count_nonzero(~known)),
        )

    async def status(self) -> RankerStatus:
        return RankerStatus(
            model_version=self._version,
            engine="constant",
            items=len(self._keys),
            watermark_ms=0,
            models=(_MODEL,),
        )

    async def close(self) -> None: ...
