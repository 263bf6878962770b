from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from orchestrator.blend import blend
from shortlist.tiers import SourceCandidates
from training.fusion import FusionLesson, Proposed, learn_fusion
from training.metrics import ndcg, recall

Keys = npt.NDArray[np.uint64]
NAMES = ("good", "bad", "rail")


def answers(lists: dict[str, Keys]) -> dict[str, SourceCandidates]:
    return {
        name: SourceCandidates(
            source=name, keys=keys, scores=-np.arange(len(keys), dtype=np.float32)
        )
        for name, keys in lists.items()
    }


def some_keys(rng: np.random.Generator, count: int, items: int = 120) -> Keys:
    return rng.permutation(items)[:count].astype(np.uint64)


def random_users(seed: int, users: int = 40) -> list[tuple[dict[str, SourceCandidates], Keys]]:
    """Lists of all lengths, some empty, some sources missing."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(users):
        lists = {name: some_keys(rng, int(rng.integers(0, 60))) for name in NAMES}
        if rng.random() < 0.2:
            del lists["rail"]
        made.append((answers(lists), some_keys(rng, int(rng.integers(1, 9)))))
    return made


# --- the evaluator is the blend ---


@pytest.mark.parametrize("guaranteed", [{}, {"rail": 5}, {"rail": 30, "bad": 20, "other": 9}])
@pytest.mark.parametrize("limit", [20, 45, 500])
@pytest.mark.parametrize("seed", range(3))
def test_recall_and_ndcg_are_those_of_the_real_blend(
    seed: int, limit: int, guaranteed: dict[str, int]
) -> None:
    rng = np.random.default_rng(seed)
    fusion = {name: (float(rng.uniform(0.1, 2)), float(rng.uniform(0, 90))) for name in NAMES}
    if seed == 0:
        fusion = dict.fromkeys(NAMES, (1.0, 60.0))  # ranks of two sources tie
    users = random_users(seed)
    lesson = FusionLesson(NAMES, [Proposed.of(NAMES, *user) for user in users], limit, guaranteed)
    fused = lesson.fused(fusion)
    recalls, gains = [], []
    for proposals, relevant in users:
        weighted = [
            SourceCandidates(
                source=name,
                keys=one.keys,
                scores=one.scores,
                weight=fusion[name][0],
                offset=fusion[name][1],
            )
            for name, one in proposals.items()
        ]
        _, candidates = blend(weighted, limit, guaranteed)
        ranked, wanted = candidates.keys.tolist(), set(relevant.tolist())
        recalls.append(recall(ranked, wanted, limit))
        gains.append(ndcg(ranked, wanted, 20))
    np.testing.assert_allclose(lesson.recall(fused), recalls)
    if limit >= 40:  # else guarantees, at most half of the blend, reach into the first 20
        np.testing.assert_allclose(lesson.ndcg(fused), gains)


def test_part_of_a_lesson_is_the_lesson_of_its_users() -> None:
    users = [Proposed.of(NAMES, *user) for user in random_users(5)]
    fusion = dict.fromkeys(NAMES, (1.0, 10.0))
    whole = FusionLesson(NAMES, users, 30, {"rail": 4})
    chosen = np.array([1, 4, 17, 39])
    part = whole.take(chosen)
    assert len(part) == 4
    np.testing.assert_array_equal(
        part.aims(part.fused(fusion)), whole.aims(whole.fused(fusion))[chosen]
    )


def test_hits_are_counted_by_rank() -> None:
    keys = np.array([5, 6, 7], np.uint64)
    user = Proposed.of(("good",), answers({"good": keys}), np.array([6, 99], np.uint64))
    shown, hit = FusionLesson(("good",), [user, user], 20, {}).hits("good")
    assert shown.tolist() == [2, 2, 2]
    assert hit.tolist() == [0, 2, 0]
    assert user.relevant == 2


# --- learning ---


def users_who_like_the_head_of_one_source(seed: int, users: int = 300) -> list[Proposed]:
    """What `good` shows first is liked; `bad` and `rail` know nothing."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(users):
        lists = {name: some_keys(rng, 100, 1000) for name in NAMES}
        chosen = np.unique(lists["good"][rng.geometric(0.05, size=5).clip(1, 100) - 1])
        made.append(Proposed.of(NAMES, answers(lists), chosen))
    return made


def aim(lesson: FusionLesson, fusion: object) -> float:
    return float(lesson.aims(lesson.fused(fusion)).mean())  # type: ignore[arg-type]


def test_a_source_that_knows_nothing_loses_its_weight() -> None:
    learned = learn_fusion(NAMES, users_who_like_the_head_of_one_source(0), limit=40, guaranteed={})
    weights = {name: weight / (offset + 1) for name, (weight, offset) in learned.fusion.items()}
    assert weights["good"] > 3 * max(weights["bad"], weights["rail"])
    others = FusionLesson(NAMES, users_who_like_the_head_of_one_source(1), 40, {})
    assert aim(others, learned.fusion) > 1.2 * aim(others, dict.fromkeys(NAMES, (1.0, 60.0)))


def users_of_two_tastes(seed: int, users: int = 400) -> list[Proposed]:
    """Half of what is liked is at the head of `good`, half is anywhere in the first 60 of `bad`."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(users):
        lists = {name: some_keys(rng, 100, 1000) for name in NAMES}
        sharp = lists["good"][rng.integers(0, 8, size=2)]
        flat = lists["bad"][rng.integers(0, 60, size=2)]
        made.append(Proposed.of(NAMES, answers(lists), np.unique(np.append(sharp, flat))))
    return made


def test_the_fit_beats_rank_fusion_and_every_source_on_users_it_has_not_seen() -> None:
    learned = learn_fusion(NAMES, users_of_two_tastes(0), limit=60, guaranteed={"rail": 5})
    held_out = learned.notes["held_out"]
    assert learned.notes["chosen"] == "fitted"
    assert held_out["fitted"] == max(held_out.values())
    assert set(held_out) == {"fitted", "rank fusion", *(f"only {name}" for name in NAMES)}
    fresh = FusionLesson(NAMES, users_of_two_tastes(1), 60, {"rail": 5})
    assert aim(fresh, learned.fusion) > aim(fresh, dict.fromkeys(NAMES, (1.0, 60.0)))
    for name in NAMES:
        alone = {one: (1.0 if one == name else 1e-4, 60.0) for one in NAMES}
        assert aim(fresh, learned.fusion) > aim(fresh, alone)


def test_what_is_no_better_on_other_users_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import fusion

    worst = {"good": (1e-4, 60.0), "bad": (1.0, 60.0), "rail": (1e-4, 60.0)}
    monkeypatch.setattr(fusion, "_ascend", lambda *_: worst)
    learned = learn_fusion(NAMES, users_who_like_the_head_of_one_source(2), limit=40, guaranteed={})
    assert learned.notes["chosen"] == "only good"
    assert learned.fusion["good"] == (1.0, 60.0)
    assert learned.fusion["bad"][0] < 1e-3


def test_few_users_get_weights_that_are_good_elsewhere() -> None:
    names = ("two_tower", "fresh", "own")
    learned = learn_fusion(names, [], limit=100, guaranteed={})
    assert learned.notes["chosen"] == "prior"
    assert learned.fusion["two_tower"][0] > learned.fusion["fresh"][0]
    assert set(learned.fusion) == set(names)


def test_the_same_users_and_seed_teach_the_same() -> None:
    users = users_of_two_tastes(3, 80)
    first, second = (learn_fusion(NAMES, users, limit=40, guaranteed={}, seed=4) for _ in range(2))
    assert first == second


def test_users_without_any_proposal_are_no_obstacle() -> None:
    nothing = [Proposed.of(NAMES, {}, np.array([1], np.uint64)) for _ in range(60)]
    learned = learn_fusion(NAMES, nothing, limit=40, guaranteed={"rail": 3})
    assert all(np.isfinite(pair).all() for pair in learned.fusion.values())
