from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shortlist.config import RankingConfig
from shortlist.errors import InvalidField
from shortlist.schema import EventType
from tests.training.tiny import tiny_dataset
from training.dataset import Dataset
from training.rewards import Rewards

EVENTS = {
    "view": EventType(weight=0.0),
    "click": EventType(weight=1.0),
    "save": EventType(weight=2.0, head="click"),
    "buy": EventType(weight=8.0),
    "gift": EventType(weight=5.0),  # never happens
}


def shop() -> Dataset:
    """Item 0 is viewed, 1 clicked and saved, 2 clicked, 3 bought twice, with values of 1 to 5."""
    names = ["view", "click", "save", "click", "buy", "buy"]
    dataset = tiny_dataset(
        [0] * 6,
        [0, 1, 1, 2, 3, 3],
        items=5,
        time_ms=range(6),
        weight=[EVENTS[name].weight for name in names],
        value=[np.nan, np.nan, 2.0, np.nan, 1.0, 5.0],
    )
    codes = list(EVENTS)
    return replace(
        dataset,
        events=replace(
            dataset.events, event=np.array([codes.index(name) for name in names], np.int8)
        ),
        info=replace(
            dataset.info,
            event_types=tuple(codes),
            schema=dataset.schema.model_copy(update={"events": EVENTS}),
        ),
    )


ALL = np.arange(6)


def rewards(**ranking: object) -> Rewards:
    return Rewards.of(shop(), ALL, RankingConfig.model_validate(ranking))


def test_there_is_a_head_for_each_kind_of_positive_event_that_happened() -> None:
    assert rewards().worth.heads == {"click": 2.0, "buy": 8.0}


def test_the_configuration_declares_what_heads_are_worth() -> None:
    declared = rewards(head_weights={"click": 0.5}, value_weight=0.1)
    assert declared.worth.heads == {"click": 0.5, "buy": 8.0}
    assert declared.worth.value == 0.1
    with pytest.raises(InvalidField, match=r"head_weights\.gift"):
        rewards(head_weights={"gift": 1.0})


def test_a_head_that_is_worth_nothing_now_is_learned_all_the_same() -> None:
    shares = rewards(head_weights={"click": 0.0}).loss_shares
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == pytest.approx(0.1 / 1.1)


def test_labels_say_which_heads_events_happen_to_each_candidate() -> None:
    dataset = shop()
    order = [4, 3, 2, 1, 0]
    labels, values = rewards().labels(dataset, ALL, dataset.item_keys[order])
    np.testing.assert_array_equal(labels, [[0, 0], [0, 1], [1, 0], [1, 0], [0, 0]])
    mean, std = np.mean([2, 1, 5]), np.std([2, 1, 5])
    np.testing.assert_allclose(
        values, [np.nan, (5 - mean) / std, np.nan, (2 - mean) / std, np.nan], rtol=1e-5
    )


def test_only_the_given_events_count() -> None:
    dataset = shop()
    labels, _ = rewards().labels(dataset, np.array([3]), dataset.item_keys)
    assert labels.sum() == 1
    assert labels[2, 0] == 1


def test_items_that_were_not_proposed_and_no_candidates_have_no_labels() -> None:
    dataset = shop()
    labels, values = rewards().labels(dataset, ALL, dataset.item_keys[:0])
    assert labels.shape == (0, 2)
    assert values.shape == (0,)
    labels, _ = rewards().labels(dataset, ALL, dataset.item_keys[[4]])
    assert not labels.any()


@pytest.mark.parametrize("values", [[np.nan] * 6, [3.0] * 6])
def test_without_values_that_differ_there_is_none_to_predict(values: list[float]) -> None:
    dataset = shop()
    events = replace(dataset.events, value=np.array(values, np.float32))
    known = Rewards.of(replace(dataset, events=events), ALL, RankingConfig())
    assert known.value_scale is None
    _, found = known.labels(dataset, ALL, dataset.item_keys)
    assert np.isnan(found).all()
