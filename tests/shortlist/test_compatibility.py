from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shortlist.artifacts import Manifest
from shortlist.compatibility import (
    IncompatibleVersions,
    check_pair,
    items_sample,
    known_share,
    pair_entries,
)
from shortlist.ids import keys_of

ITEMS = keys_of(f"item-{number}" for number in range(10_000))


def manifest(tier: str, **meta: Any) -> Manifest:
    return Manifest(tier=tier, version=f"{tier}-7", created_ms=1, files={}, meta=meta, parents={})


def check(retrieval: dict[str, Any], ranking: dict[str, Any]) -> None:
    check_pair(
        manifest("retrieval", **retrieval), manifest("ranking", **ranking), least_known_items=0.5
    )


def about(
    items: Any = ITEMS, *, item: dict[str, str] | None = None, user: dict[str, str] | None = None
) -> dict[str, Any]:
    return pair_entries([item or {}, user or {}, {}], np.asarray(items, np.uint64))


def test_versions_of_the_same_data_go_together() -> None:
    check(about(item={"genre": "categorical"}), about(item={"genre": "categorical"}))


def test_features_that_only_one_of_them_knows_are_no_obstacle() -> None:
    check(about(item={"genre": "categorical"}), about(item={"price": "numeric"}))


def test_a_feature_of_another_role_is_refused_with_both_versions_named() -> None:
    with pytest.raises(IncompatibleVersions) as refused:
        check(about(user={"age": "numeric"}), about(user={"age": "categorical"}))
    assert str(refused.value) == (
        "retrieval retrieval-7 and ranking ranking-7 do not go together: "
        "user_features.age is numeric to retrieval and categorical to ranking"
    )
    assert refused.value.status_name == "FAILED_PRECONDITION"


def test_other_items_are_refused_and_some_new_ones_are_not() -> None:
    check(about(), about(ITEMS[:8000]))
    check(about(ITEMS[:100]), about(ITEMS[:80]))
    with pytest.raises(IncompatibleVersions, match="knows 0% of retrieval's items, 50% needed"):
        check(about(), about(keys_of(f"song-{number}" for number in range(900))))


def test_a_ranker_that_learned_from_no_source_of_the_version_is_refused() -> None:
    check({"sources": ["mf", "popular"]}, {"sources": ["popular"]})
    with pytest.raises(IncompatibleVersions, match="none of the sources"):
        check({"sources": ["mf"]}, {"sources": ["popular"]})


def test_what_older_versions_do_not_say_is_not_judged() -> None:
    check({}, about())
    check(about(), {})


@pytest.mark.parametrize(("wanted", "known"), [(10_000, 7000), (7000, 10_000), (200, 100)])
def test_samples_tell_about_how_many_items_are_known(wanted: int, known: int) -> None:
    share = known_share(items_sample(ITEMS[:wanted]), items_sample(ITEMS[:known]))
    assert share == pytest.approx(min(wanted, known) / wanted, abs=0.1)
