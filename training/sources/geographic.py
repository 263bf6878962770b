"""What people like in the places where the user is, and what is there itself.

The share of an item among the likes of a place is smoothed towards its share among all likes, so a
place with a few likes follows everybody, and one with many has a taste of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from shortlist.ids import keys_of
from shortlist.places import place_names
from shortlist.schema import Feature
from training.dataset import Dataset
from training.encoding import entity_columns
from training.sources.base import (
    Absent,
    Doubles,
    SourceLesson,
    TrainedSource,
    add_up,
    top_of_each,
    unique_pairs,
)
from training.sources.popular import decayed_weights

__all__ = ["train"]

NAME = "geographic"
_PRIOR = 50.0  # likes that the shares of everybody count for in a place
_SLOWER = 8.0  # half-lives of popularity: a place has less evidence than the world
_MOST = 2000  # items a place

Keys = npt.NDArray[np.uint64]
Pairs = tuple[npt.NDArray[np.int64], Keys]  # rows and the keys of their places, aligned


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """Lists of items by place: what its people like, and items that are there."""
    dataset, schema = lesson.dataset, lesson.dataset.schema
    of_users = _geo(schema.user_features)
    of_events = _geo(schema.context_features)
    of_items = _geo(schema.item_features)
    if not of_users and not of_events:
        return Absent(name=NAME, reason="no user or context feature has the role geo")
    weights = _weights(lesson)
    shares = add_up(dataset.events.item[lesson.liked], weights, dataset.n_items)
    shares = shares / max(shares.sum(), 1e-12)
    events, places = _places_of_likes(lesson, of_users, of_events)
    items = dataset.events.item[lesson.liked][events].astype(np.int64)
    terms, rows, strengths = _smoothed(places, items, weights[events], shares)
    located, there = _located(dataset, of_items, shares)
    terms = np.concatenate([terms, there[0]])
    rows, strengths = np.concatenate([rows, located]), np.concatenate([strengths, there[1]])
    if len(terms) == 0:
        return Absent(name=NAME, reason="no place is known of any like or item")
    return TrainedSource(
        name=NAME,
        data=SourceData(lists={"popular": _lists(terms, rows, strengths)}),
        shared=SharedData(
            settings={
                "features": sorted({*of_users, *of_events}),
                "item_features": sorted(of_items),
            }
        ),
        notes={"places": len(np.unique(terms))},
    )


def _geo(features: Mapping[str, Feature]) -> dict[str, Feature]:
    return {name: feature for name, feature in features.items() if feature.role == "geo"}


def _weights(lesson: SourceLesson) -> Doubles:
    """What each like counts, about 1 for a new one of the usual weight."""
    half_life = None if lesson.half_life_ms is None else _SLOWER * lesson.half_life_ms
    weights = decayed_weights(lesson, half_life)
    usual = lesson.dataset.events.weight[lesson.liked].mean() if len(weights) else 1.0
    return weights / usual


def _places_of_likes(
    lesson: SourceLesson, of_users: Mapping[str, Feature], of_events: Mapping[str, Feature]
) -> Pairs:
    """Numbers of likes and the places they happened in, or whose people they are of."""
    dataset, liked = lesson.dataset, lesson.liked
    owners, keys = _places_of(entity_columns(dataset.users, of_users))
    order = np.argsort(owners, kind="stable")
    owners, keys = owners[order], keys[order]
    users = dataset.events.user[liked]
    first = np.searchsorted(owners, users, side="left")
    sizes = np.searchsorted(owners, users, side="right") - first
    steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    numbers = [np.repeat(np.arange(len(liked)), sizes)]
    places = [keys[np.repeat(first, sizes) + steps]]
    for name in of_events:
        column = dataset.events.context[name].take(liked).dictionary_encode()
        value_of, terms = _places_of({name: column.dictionary.to_pylist()})
        codes = column.indices.fill_null(-1).to_numpy()
        for value in np.unique(value_of):
            events = np.flatnonzero(codes == value)
            for term in terms[value_of == value]:
                numbers.append(events)
                places.append(np.full(len(events), term))
    # A user at home is in one place, not twice in the same.
    likes, unique_places, _ = unique_pairs(np.concatenate(numbers), np.concatenate(places))
    return likes, unique_places


def _places_of(columns: Mapping[str, Sequence[Any]]) -> Pairs:
    """Row numbers of an entity and the keys of its places."""
    found = [
        (row, place)
        for column in columns.values()
        for row, value in enumerate(column)
        for place in place_names(value)
    ]
    rows = np.array([row for row, _ in found], np.int64)
    return rows, keys_of([place for _, place in found])


def _smoothed(
    places: Keys,
    items: npt.NDArray[np.int64],
    weights: Doubles,
    shares: Doubles,
) -> tuple[Keys, npt.NDArray[np.int64], Doubles]:
    """Places, items liked there, and their smoothed shares."""
    terms, place = np.unique(places, return_inverse=True)
    totals = add_up(place, weights, len(terms))
    pairs, pair = np.unique(place * len(shares) + items, return_inverse=True)
    counts = add_up(pair, weights, len(pairs))
    place, item = np.divmod(pairs, len(shares))
    return terms[place], item, (counts + _PRIOR * shares[item]) / (totals[place] + _PRIOR)


def _located(
    dataset: Dataset, of_items: Mapping[str, Feature], shares: Doubles
) -> tuple[npt.NDArray[np.int64], tuple[Keys, Doubles]]:
    """Items that are somewhere; their places, and their shares of the likes of what is there."""
    rows, keys = _places_of(entity_columns(dataset.items, of_items))
    terms, place = np.unique(keys, return_inverse=True)
    likely = shares[rows] + 1 / _PRIOR / max(len(shares), 1)  # nobody has liked some of them yet
    totals = add_up(place, likely, len(terms))
    return rows, (keys, likely / totals[place] if len(rows) else likely)


def _lists(terms: Keys, rows: npt.NDArray[np.int64], strengths: Doubles) -> PostingLists:
    """The strongest of each place; an item that is twice on a list is there with the sum."""
    terms, rows, pair = unique_pairs(terms, rows)
    sums = add_up(pair, strengths, len(terms))
    kept = top_of_each(terms, sums, _MOST)
    return PostingLists.of(terms[kept], rows[kept].astype(np.int32), sums[kept].astype(np.float32))
