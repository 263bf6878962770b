"""Every source on data so small that the answer can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from retrieval_svc.source_data import PostingLists
from retrieval_svc.sources import SOURCES, SliceView, SourceQuery
from shortlist.config import RetrievalConfig
from shortlist.ids import keys_of
from shortlist.tiers import History, UserContext
from tests.training.tiny import DAY_MS, random_dataset, tiny_dataset
from training.dataset import Dataset
from training.sources import (
    TRAINERS,
    Absent,
    SourceLesson,
    TrainedSource,
    cooccurrence,
    popular,
    trending,
)
from training.sources.base import newest_per_user, top_of_each, unique_pairs


def lesson_on(
    dataset: Dataset, *, half_life: float | None = None, as_of: int | None = None, **config: Any
) -> SourceLesson:
    if half_life is None and dataset.has_time:
        half_life = 10.0 * DAY_MS
    return SourceLesson(
        dataset=dataset,
        rows=np.arange(len(dataset.events)),
        as_of_ms=int(dataset.events.time_ms.max()) if as_of is None else as_of,
        config=RetrievalConfig(**config),
        half_life_ms=half_life,
    )


def trained(name: str, lesson: SourceLesson) -> TrainedSource:
    source = TRAINERS[name](lesson)
    assert isinstance(source, TrainedSource), source
    return source


def absent(name: str, lesson: SourceLesson) -> str:
    source = TRAINERS[name](lesson)
    assert isinstance(source, Absent)
    assert source.name == name
    return source.reason


def on_list(lists: PostingLists, term: int) -> dict[int, float]:
    """Weights by row of one list."""
    rows, weights = lists.add_up(np.array([term], np.uint64), np.ones(1))
    return dict(zip(rows.tolist(), weights.tolist(), strict=True))


def key(text: str) -> int:
    return int(keys_of([text])[0])


# --- all of them ---


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("name", TRAINERS)
def test_what_a_source_learns_fits_the_catalogue_or_it_says_why_not(name: str, timed: bool) -> None:
    dataset = random_dataset(timed=timed)
    source = TRAINERS[name](lesson_on(dataset))
    if isinstance(source, Absent):
        assert source.reason
        return
    assert source.name == name
    for column in source.data.columns.values():
        assert len(column) == dataset.n_items
        assert np.isfinite(column).all()
    for lists in source.data.lists.values():
        assert lists.starts[-1] == len(lists.rows) == len(lists.weights)
        assert lists.rows.max(initial=0) < dataset.n_items
        assert np.isfinite(lists.weights).all()
    for name_of, array in source.shared.arrays.items():
        assert array.dtype.kind != "f" or np.isfinite(array).all(), name_of


@pytest.mark.parametrize("name", ["mf", "cooccurrence", "popular", "trending"])
def test_what_nobody_liked_teaches_nothing(name: str) -> None:
    dataset = tiny_dataset([0, 1], [0, 1], time_ms=[1, 2], weight=[0.0, 0.0])
    assert absent(name, lesson_on(dataset)) == "no positive interactions"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("trending", "no times"),
        ("fresh", "which items are new"),
        ("content", "no features"),
        ("creator", "role creator"),
        ("geographic", "role geo"),
    ],
)
def test_data_without_what_a_source_needs_leaves_it_out(name: str, reason: str) -> None:
    assert reason in absent(name, lesson_on(tiny_dataset([0, 0, 1], [0, 1, 1])))


# --- matrix factorisation ---


def test_folding_in_a_history_gives_the_factor_that_training_would() -> None:
    implicit = pytest.importorskip("implicit.cpu.als")
    dataset = random_dataset(rows=600)
    lesson = lesson_on(dataset, mf={"dim": 8, "confidence": 3.0, "regularization": 2.0})
    source = trained("mf", lesson)
    vectors, gram = source.data.columns["vectors"], source.shared.arrays["gram"]
    confidence = source.shared.settings["confidence"]
    events, model = dataset.events, implicit.AlternatingLeastSquares(factors=8, regularization=2.0)
    model.item_factors = vectors
    for user in range(5):
        strength = np.bincount(
            events.item[events.user == user],
            weights=events.weight[events.user == user],
            minlength=dataset.n_items,
        )
        liked = np.flatnonzero(strength)
        factors = vectors[liked].astype(np.float64)
        c = confidence * strength[liked]
        ours = np.linalg.solve(gram + (factors.T * c) @ factors, (1 + c) @ factors)
        one = np.zeros((1, dataset.n_items), np.float32)
        one[0, liked] = 1 + c
        theirs = model.recalculate_user(0, sp.csr_matrix(one))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_people_who_like_alike_get_the_items_of_each_other() -> None:
    """Two circles of items; each user likes all but one of a circle."""
    user, item = zip(
        *((u, i + 10 * (u % 2)) for u in range(40) for i in range(10) if i != u // 4), strict=True
    )
    dataset = tiny_dataset(user, item)
    source = trained("mf", lesson_on(dataset, mf={"dim": 4}))
    vectors = source.data.columns["vectors"]
    likeness = vectors @ vectors.T
    same = np.arange(20)[:, None] // 10 == np.arange(20) // 10
    assert likeness[same].min() > np.abs(likeness[~same]).max()
    assert likeness[same].mean() > 5 * np.abs(likeness[~same]).mean()


def test_an_item_that_nobody_liked_has_no_factor() -> None:
    dataset = tiny_dataset([0, 0, 1, 1], [0, 1, 0, 2], items=4, weight=[1.0, 1.0, 1.0, 0.0])
    source = trained("mf", lesson_on(dataset, mf={"dim": 4}))
    assert source.data.columns["vectors"].any(axis=1).tolist() == [True, True, False, False]
    assert source.shared.arrays["keys"].tolist() == dataset.item_keys[:2].tolist()
    np.testing.assert_array_equal(
        source.shared.arrays["factors"], source.data.columns["vectors"][:2]
    )


# --- co-occurrence ---


def users_and_items() -> Dataset:
    """Item 0 is liked by users 0, 1, 2; item 1 by 0, 1; item 2 by 2, 3; item 3 by 3, who likes it
    twice; item 4 only seen."""
    return tiny_dataset(
        [0, 0, 1, 1, 2, 2, 3, 3, 3, 3],
        [0, 1, 0, 1, 0, 2, 2, 3, 3, 4],
        weight=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
    )


def similar(dataset: Dataset, item: int, **settings: Any) -> dict[int, float]:
    source = trained("cooccurrence", lesson_on(dataset, cooccurrence=settings))
    return on_list(source.data.lists["similar"], int(dataset.item_keys[item]))


def test_cosine_divides_what_two_items_share_by_what_each_has() -> None:
    dataset, plain = users_and_items(), {"weighting": "cosine", "shrinkage": 0.0}
    assert similar(dataset, 0, **plain) == pytest.approx({1: 2 / math.sqrt(6), 2: 1 / math.sqrt(6)})
    assert similar(dataset, 3, **plain) == pytest.approx({2: 1 / math.sqrt(2)})
    assert similar(dataset, 4, **plain) == {}


def test_shrinkage_trusts_many_shared_users_more() -> None:
    found = similar(users_and_items(), 0, weighting="cosine", shrinkage=5.0)
    assert found == pytest.approx({1: 2 / math.sqrt(6) * 2 / 7, 2: 1 / math.sqrt(6) * 1 / 6})


def test_rp3beta_walks_from_item_to_user_to_item_and_holds_popularity_against_it() -> None:
    found = similar(users_and_items(), 0, weighting="rp3beta", alpha=0.6, beta=0.35)
    step = 3**-0.6 * 2**-0.6  # from item 0 to a user of it, from the user to an item
    assert found == pytest.approx({1: 2 * step / 2**0.35, 2: step / 2**0.35})


def test_bm25_counts_shared_users_with_few_items_more() -> None:
    dataset = tiny_dataset([0, 0, 1, 1, 1, 1, 1], [0, 1, 0, 2, 3, 4, 5])
    found = similar(dataset, 0, weighting="bm25")
    assert found[1] > found[2] == pytest.approx(found[5])


def test_only_the_best_neighbours_are_kept() -> None:
    dataset = random_dataset(rows=2000)
    all_of_them = similar(dataset, 7)
    best = similar(dataset, 7, neighbours=3)
    assert best == dict(sorted(all_of_them.items(), key=lambda one: -one[1])[:3])


def test_blocks_of_items_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = random_dataset(rows=2000)
    whole = trained("cooccurrence", lesson_on(dataset)).data.lists["similar"]
    monkeypatch.setattr(cooccurrence, "_PRODUCTS", 500)
    parts = trained("cooccurrence", lesson_on(dataset)).data.lists["similar"]
    for name in ("terms", "starts", "rows", "weights"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_a_history_has_no_order_where_the_data_has_no_time() -> None:
    for timed, expected in ((True, 20.0), (False, None)):
        source = trained("cooccurrence", lesson_on(random_dataset(timed=timed)))
        assert source.shared.settings["half_life_events"] == expected


# --- content ---


def described(**features: tuple[str, list[Any]]) -> npt.NDArray[np.float32]:
    count = len(next(iter(features.values()))[1])
    dataset = tiny_dataset([0], [0], items=count, item_features=features)
    return trained("content", lesson_on(dataset)).data.columns["vectors"]


def test_items_of_the_same_kind_are_near_and_items_of_no_kind_nowhere() -> None:
    vectors = described(kind=("categorical", ["a", "a", "b", "b", None]))
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(cosines[:4, :4], np.kron(np.eye(2), np.ones((2, 2))), atol=1e-6)
    assert not vectors[4].any()


def test_a_rare_word_says_more_than_a_common_one() -> None:
    titles = ["red fox", "red owl", "wise owl", *["red hen"] * 2, *[f"plain {n}" for n in range(9)]]
    vectors = described(name=("title", titles))
    assert vectors[1] @ vectors[2] > vectors[1] @ vectors[0] > 0.1


def test_many_terms_are_reduced_and_keep_what_is_near() -> None:
    rng = np.random.default_rng(0)
    topics = [[f"w{t}x{n}" for n in range(40)] for t in range(8)]
    tags = [rng.choice(topics[row % 8], size=6, replace=False).tolist() for row in range(400)]
    dataset = tiny_dataset([0], [0], items=400, item_features={"tags": ("multi_categorical", tags)})
    source = trained("content", lesson_on(dataset, content={"dim": 8}))
    vectors = source.data.columns["vectors"]
    assert vectors.shape == (400, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    same = np.arange(400)[:, None] % 8 == np.arange(400) % 8
    cosines = vectors @ vectors.T
    assert cosines[same].mean() > 0.8
    assert cosines[~same].mean() < 0.1


def test_the_taste_of_everybody_points_at_what_is_liked() -> None:
    kinds = ("categorical", ["a", "a", "b", "b", "c", "c"])
    dataset = tiny_dataset([0, 1, 2, 3], [2, 3, 2, 0], items=6, item_features={"kind": kinds})
    source = trained("content", lesson_on(dataset, content={"dim": 4}))
    everybody, vectors = source.shared.arrays["everybody"], source.data.columns["vectors"]
    assert np.linalg.norm(everybody) == pytest.approx(1, abs=1e-5)
    liked, little, never = (vectors[row] @ everybody for row in (3, 1, 5))
    assert liked > little > never


# --- popularity ---


def popularity(dataset: Dataset, **options: Any) -> npt.NDArray[np.float32]:
    return popular.scores_of(trained("popular", lesson_on(dataset, **options)))


def test_an_old_like_counts_less_than_a_new_one() -> None:
    dataset = tiny_dataset([0, 1, 2, 3], [0, 1, 0, 1], time_ms=[0, 0, 1, 50 * DAY_MS])
    scores = popularity(dataset, half_life=5.0 * DAY_MS)
    assert scores[1] > scores[0] > 0


def test_a_young_item_is_measured_by_the_time_it_had() -> None:
    """Items 0 and 1 have as many likes as fresh, but item 1 exists for a tenth of the time."""
    day = DAY_MS
    likes = [(0, 60 + n) for n in range(6)] + [(1, 60 + n) for n in range(6)]
    item, days = zip(*sorted(likes, key=lambda one: one[1]), strict=True)
    dataset = tiny_dataset(
        range(13),
        [2, *item],
        time_ms=[0, *(day * one for one in days)],
        published_ms=[0, 58 * day, 0],
    )
    scores = popularity(dataset, half_life=100.0 * day)
    assert scores[1] > 1.5 * scores[0]


def test_an_item_without_likes_is_expected_to_do_as_its_creator_does() -> None:
    likes = [0] * 30 + [1] * 20 + [3] + [4]
    dataset = tiny_dataset(
        range(len(likes)),
        likes,
        items=7,
        item_features={"by": ("creator", ["ann", "ann", "ann", "bob", "bob", "bob", None])},
    )
    scores = popularity(dataset)
    assert scores[2] > scores[6] > scores[5] > 0


def test_without_times_popularity_is_in_the_order_of_counts() -> None:
    dataset = tiny_dataset(range(9), [0, 0, 0, 0, 1, 1, 1, 2, 2], items=4)
    assert np.argsort(-popularity(dataset)).tolist() == [0, 1, 2, 3]


def test_dislikes_do_not_make_popular() -> None:
    dataset = tiny_dataset(range(5), [0, 0, 0, 1, 1], weight=[0, 0, 0, 1, 1])
    assert popularity(dataset)[1] > popularity(dataset)[0]


# --- trends ---


def test_what_rises_is_a_trend_and_what_is_merely_popular_is_none() -> None:
    """Item 0: three likes a day, always. Item 1: one in ten days, then three a day. Item 2: the
    first like of all, today."""
    steady = [(0, d / 3) for d in range(300)]
    riser = [(1, d * 10) for d in range(9)] + [(1, 95 + d / 3) for d in range(15)]
    item, days = zip(*sorted([*steady, *riser, (2, 99.9)], key=lambda one: one[1]), strict=True)
    dataset = tiny_dataset(
        range(len(item)), item, time_ms=[int(one * DAY_MS) for one in days], published_ms=[0, 0, 0]
    )
    lesson = lesson_on(dataset, half_life=10.0 * DAY_MS)
    scores = trending.scores_of(trained("trending", lesson))
    assert scores[1] > 2
    assert abs(scores[0]) < 0.5
    assert scores[0] < scores[2] < 1


# --- fresh items ---


def test_fresh_items_are_the_newest_by_date_or_by_first_event() -> None:
    dataset = tiny_dataset(
        [0, 0, 1],
        [0, 1, 1],
        items=4,
        time_ms=[100, 200, 300],
        published_ms=[50, None, 900, None],
    )
    source = trained("fresh", lesson_on(dataset))
    assert source.data.columns["first_ms"].tolist() == [50, 200, 900, 0]


def test_only_a_twentieth_of_a_large_catalogue_is_fresh() -> None:
    dataset = tiny_dataset([0], [0], items=4000, time_ms=[9000], published_ms=list(range(1, 4001)))
    source = trained("fresh", lesson_on(dataset))
    after = source.shared.settings["after_ms"]
    assert (source.data.columns["first_ms"] >= after).sum() == 200
    assert after == 3801


# --- places ---


def in_places(**about: Any) -> Dataset:
    """Users 0-9 of Paris like item 0, users 10-19 of Rome item 1, both item 2."""
    users = list(range(20))
    return tiny_dataset(
        [*users, *users],
        [*[0] * 10, *[1] * 10, *[2] * 20],
        items=4,
        user_features={"home": ("geo", ["paris"] * 10 + ["rome"] * 10)},
        **about,
    )


def found_in(source: TrainedSource, place: str) -> dict[int, float]:
    """What serving would propose to somebody there."""
    view = SliceView(
        source="geographic",
        keys=np.empty(0, np.uint64),
        vectors=np.empty((0, 1), np.float32),
        watermark_ms=0,
        data=source.data,
        shared=source.shared,
        slice_folder=Path(),
        artifact=Path(),
        siblings={},
    )
    feature = source.shared.settings["features"][0]
    user = UserContext(user_key=1, history=History.empty(), attributes={feature: place}, time_ms=0)
    rows, scores = SOURCES["geographic"].open(view).propose(SourceQuery(user=user), 100)
    return dict(zip(rows.tolist(), scores.tolist(), strict=True))


def test_a_place_likes_what_its_people_like_smoothed_by_what_all_like() -> None:
    source = trained("geographic", lesson_on(in_places()))
    assert source.shared.settings["features"] == ["home"]
    # 20 likes in Paris, of 40 in all; 50 likes' worth of what all like.
    assert found_in(source, "paris") == pytest.approx(
        {0: (10 + 50 * 10 / 40) / 70, 2: (10 + 50 * 20 / 40) / 70}, rel=1e-5
    )


def test_the_place_of_a_request_counts_like_the_place_of_a_person() -> None:
    dataset = tiny_dataset(
        [0, 1, 2],
        [0, 1, 1],
        context={"city": ["paris", "rome", None]},
    )
    contexts = dataset.info.schema.interactions[0].context
    contexts["city"] = contexts["city"].model_copy(update={"role": "geo"})
    source = trained("geographic", lesson_on(dataset))
    assert list(found_in(source, "paris")) == [0]
    assert list(found_in(source, "rome")) == [1]


def test_items_are_found_where_they_are() -> None:
    """Item 3 has no like at all, but stands in Rome's cell of the grid."""
    rome = (41.9, 12.5)
    dataset = in_places(item_features={"at": ("geo", [(0.0, 0.0), rome, (0.0, 0.0), rome])})
    source = trained("geographic", lesson_on(dataset))
    for place in (rome, (41.1, 12.5)):  # the second is in the coarse cell only
        found = found_in(source, f"{place[0]},{place[1]}")
        assert set(found) == {1, 3}
        assert found[1] > found[3] > 0


# --- creators ---


def test_creators_have_their_items_the_popular_ones_first() -> None:
    dataset = tiny_dataset(
        [0, 1, 2],
        [0, 0, 2],
        items=4,
        item_features={"by": ("creator", ["ann", "ann", "bob", None])},
    )
    source = trained("creator", lesson_on(dataset))
    assert on_list(source.data.lists["items"], key("ann")) == pytest.approx(
        {0: 1 + math.log(3), 1: 1.0}
    )
    arrays = source.shared.arrays
    assert arrays["keys"].tolist() == dataset.item_keys[:3].tolist()
    assert arrays["starts"].tolist() == [0, 1, 2, 3]
    assert arrays["creators"].tolist() == [key("ann"), key("ann"), key("bob")]


def test_an_author_and_an_actor_of_the_same_name_are_two() -> None:
    dataset = tiny_dataset(
        [0],
        [0],
        items=2,
        item_features={"author": ("creator", ["ann", None]), "actor": ("creator", [None, "ann"])},
    )
    creators = trained("creator", lesson_on(dataset)).shared.arrays["creators"]
    assert len(set(creators.tolist())) == 2


# --- the tools ---


def test_the_newest_rows_of_a_user_are_the_last() -> None:
    users = np.array([0, 1, 0, 0, 1], np.int32)
    assert newest_per_user(users, np.array([10, 11, 12, 13, 14]), 2).tolist() == [11, 12, 13, 14]


def test_the_top_of_each_group_prefers_the_first_of_equals() -> None:
    groups, scores = np.array([1, 0, 1, 1, 0]), np.array([2.0, 1.0, 3.0, 2.0, 5.0])
    assert top_of_each(groups, scores, 2).tolist() == [0, 1, 2, 4]


def test_pairs_are_unique_and_find_back() -> None:
    one, other, places = unique_pairs(np.array([2, 1, 2]), np.array([7, 9, 7]))
    assert (one.tolist(), other.tolist(), places.tolist()) == ([1, 2], [9, 7], [1, 0, 1])
