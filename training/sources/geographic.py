"""What people like in the places where the user is, and what is there itself.

What is counted here, and what shares are made of it: `retrieval_svc.sources.geographic`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from retrieval_svc.sources.geographic import PRIOR, likely
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
_SLOWER = 8.0  # half-lives of popularity: a place has less evidence than the world
_MOST = 2000  # items a place, for what is liked there and for what is there

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
    weights, usual = _weights(lesson)
    n = dataset.n_items
    likes = add_up(dataset.events.item[lesson.liked], weights, n)
    shares = likes / max(likes.sum(), 1e-12)
    events, places = _places_of_likes(lesson, of_users, of_events)
    items = dataset.events.item[lesson.liked][events].astype(np.int64)
    liked = _liked(places, items, weights[events], shares)
    located = _located(dataset, of_items)
    if len(liked.rows) + len(located.rows) == 0:
        return Absent(name=NAME, reason="no place is known of any like or item")
    floor = 1 / PRIOR / max(n, 1)
    terms = np.union1d(places, located.terms)
    return TrainedSource(
        name=NAME,
        data=SourceData(
            columns={"likes": likes},
            lists={"liked": liked, "located": _likeliest(located, shares)},
        ),
        shared=SharedData(
            arrays={
                "places": terms,
                "likes": add_up(np.searchsorted(terms, places), weights[events], len(terms)),
                "located": add_up(
                    np.searchsorted(terms, located.all_terms),
                    likely(shares, floor)[located.rows],
                    len(terms),
                ),
            },
            settings={
                "features": sorted({*of_users, *of_events}),
                "item_features": sorted(of_items),
                "as_of_ms": lesson.as_of_ms,
                "newest_ms": lesson.as_of_ms,
                "half_life_ms": _half_life_ms(lesson),
                "usual_weight": usual,
                "likes": float(likes.sum()),
                "floor": floor,
            },
        ),
        notes={"places": len(terms)},
    )


def _geo(features: Mapping[str, Feature]) -> dict[str, Feature]:
    return {name: feature for name, feature in features.items() if feature.role == "geo"}


def _half_life_ms(lesson: SourceLesson) -> float | None:
    return None if lesson.half_life_ms is None else _SLOWER * lesson.half_life_ms


def _weights(lesson: SourceLesson) -> tuple[Doubles, float]:
    """What each like counts, about 1 for a new one of the usual weight; and that weight."""
    weights = decayed_weights(lesson, _half_life_ms(lesson))
    usual = float(lesson.dataset.events.weight[lesson.liked].mean()) if len(weights) else 1.0
    return weights / usual, usual


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


def _liked(
    places: Keys, items: npt.NDArray[np.int64], weights: Doubles, shares: Doubles
) -> PostingLists:
    """What was liked in each place and how much: the items with the largest smoothed shares.

    An item that is liked there later begins at nothing if it is not among them.
    """
    terms, place = np.unique(places, return_inverse=True)
    pairs, pair = np.unique(place * len(shares) + items, return_inverse=True)
    counts = add_up(pair, weights, len(pairs))
    place, item = np.divmod(pairs, len(shares))
    kept = top_of_each(place, counts + PRIOR * shares[item], _MOST)
    return PostingLists.of(
        terms[place[kept]], item[kept].astype(np.int32), counts[kept].astype(np.float32)
    )


def _located(dataset: Dataset, of_items: Mapping[str, Feature]) -> PostingLists:
    """Items by the places where they are."""
    rows, keys = _places_of(entity_columns(dataset.items, of_items))
    keys, rows, _ = unique_pairs(keys, rows)
    return PostingLists.of(keys, rows.astype(np.int32), np.ones(len(rows), np.float32))


def _likeliest(located: PostingLists, shares: Doubles) -> PostingLists:
    """Of each place those with the largest shares of all likes."""
    kept = top_of_each(located.all_terms, shares[located.rows], _MOST)
    return PostingLists.of(located.all_terms[kept], located.rows[kept], located.weights[kept])
