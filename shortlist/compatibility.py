"""Which retrieval and ranking versions can work with each other, by what their manifests say.

The two move independently. A pair works when both mean the same by the features that both know, and
when the ranker knows enough of the items that retrieval proposes. A feature, an item or a source
that only one of them knows is no obstacle: rankers have defaults for what they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.artifacts import Manifest
from shortlist.errors import ShortlistError

__all__ = ["IncompatibleVersions", "check_pair", "items_sample", "known_share", "pair_entries"]

_FEATURES = ("item_features", "user_features", "context_features")
_SAMPLE = 256  # keys: shares of items are known to within 0.06 (two standard errors)


class IncompatibleVersions(ShortlistError):
    """A retrieval and a ranking version that cannot serve the same page."""

    status_name = "FAILED_PRECONDITION"


def pair_entries(
    features: Sequence[Mapping[str, str]], keys: npt.NDArray[np.uint64]
) -> dict[str, Any]:
    """The entries of a manifest's `meta` that `check_pair` reads.

    `features` are name -> role of items, of users and of the context; `keys` are all items'.
    """
    return {
        **{entry: dict(roles) for entry, roles in zip(_FEATURES, features, strict=True)},
        "items_sample": items_sample(keys),
    }


def check_pair(retrieval: Manifest, ranking: Manifest, *, least_known_items: float) -> None:
    """Raises `IncompatibleVersions` naming both versions and why.

    What a manifest does not say is not judged: versions from before it was written down.
    """
    if reasons := list(_reasons(retrieval.meta, ranking.meta, least_known_items)):
        raise IncompatibleVersions(
            f"retrieval {retrieval.version} and ranking {ranking.version} do not go together: "
            + "; ".join(reasons)
        )


def items_sample(keys: npt.NDArray[np.uint64]) -> list[str]:
    """The smallest keys, as text: keys are hashes, so that these are a random sample, and two
    catalogues' samples can be compared (bottom-k sketches: Cohen & Kaplan, PODC 2007)."""
    return [str(key) for key in np.sort(keys)[:_SAMPLE].tolist()]


def known_share(wanted: Sequence[str], known: Sequence[str]) -> float:
    """About which share of the items sampled in `wanted` belongs to the catalogue of `known`."""
    mine, theirs = {int(key) for key in wanted}, {int(key) for key in known}
    # A sample that is not full is the whole catalogue, and says something of every key.
    ends = [max(sample) for sample in (mine, theirs) if len(sample) >= _SAMPLE]
    reach = min(ends, default=None)
    judged = {key for key in mine if reach is None or key <= reach}
    return len(judged & theirs) / len(judged) if judged else 0.0


def _reasons(
    retrieval: Mapping[str, Any], ranking: Mapping[str, Any], least_known_items: float
) -> Iterator[str]:
    for entry in _FEATURES:
        ours, theirs = retrieval.get(entry, {}), ranking.get(entry, {})
        for name in sorted(ours.keys() & theirs.keys()):
            if ours[name] != theirs[name]:
                yield f"{entry}.{name} is {ours[name]} to retrieval and {theirs[name]} to ranking"
    if "items_sample" in retrieval and "items_sample" in ranking:
        share = known_share(retrieval["items_sample"], ranking["items_sample"])
        if share < least_known_items:
            yield f"ranking knows {share:.0%} of retrieval's items, {least_known_items:.0%} needed"
    sources = set(ranking.get("sources", ()))
    if sources and not sources & set(retrieval.get("sources", sources)):
        yield "retrieval has none of the sources that ranking learned from"
