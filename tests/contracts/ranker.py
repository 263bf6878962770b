"""What every `Ranker` does, local or remote. A test inherits this and supplies `ranker`.

`known_keys` may be overridden with at least 5 items that the ranker has features for.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shortlist.errors import InvalidRequest, VersionNotServed
from shortlist.ids import keys_of
from shortlist.tiers import Candidates, History, Ranker, ScoreQuery, UserContext

Keys = npt.NDArray[np.uint64]

STRANGERS = keys_of(f"no such item {number}" for number in range(20))


def candidates_of(keys: Keys) -> Candidates:
    """Every item proposed by `popular`, every other one by `two_tower` too."""
    rows = np.arange(len(keys))
    both = rows % 2 == 0
    popular = 1 / (1 + rows)
    return Candidates(
        keys=keys,
        source_names=("two_tower", "popular"),
        sources=np.where(both, 3, 2).astype(np.uint32),
        scores=np.stack([np.where(both, 0.9 - rows / 1e4, np.nan), popular]).astype(np.float32),
        ranks=np.stack([np.where(both, rows // 2, -1), rows]).astype(np.int32),
        fused=(1 / (61 + rows)).astype(np.float32),
    )


def a_query(keys: Keys, **changes: Any) -> ScoreQuery:
    query = ScoreQuery(
        request_id="contract",
        user=UserContext(user_key=0, history=History.empty(), time_ms=1_700_000_000_000),
        candidates=candidates_of(keys),
    )
    return dataclasses.replace(query, **changes)


class RankerContract:
    @pytest.fixture
    def ranker(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def known_keys(self) -> Keys:
        return keys_of(f"item-{number}" for number in range(40))

    async def test_it_has_a_name(self, ranker: Ranker) -> None:
        assert ranker.name

    async def test_its_status_says_what_it_serves(self, ranker: Ranker) -> None:
        status = await ranker.status()
        assert status.model_version
        assert status.engine
        assert status.items > 0

    async def test_every_candidate_gets_a_finite_score(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        answer = await ranker.score(a_query(known_keys))
        assert answer.scores.dtype == np.float32
        assert answer.scores.shape == known_keys.shape
        assert np.isfinite(answer.scores).all()
        assert answer.unknown_items == 0
        assert answer.model_version == (await ranker.status()).model_version

    async def test_a_single_candidate_is_scored(self, ranker: Ranker, known_keys: Keys) -> None:
        assert (await ranker.score(a_query(known_keys[:1]))).scores.shape == (1,)

    async def test_scores_follow_their_items(self, ranker: Ranker, known_keys: Keys) -> None:
        query = a_query(known_keys)
        order = np.random.default_rng(0).permutation(len(known_keys))
        shuffled = dataclasses.replace(query, candidates=query.candidates.take(order))
        scores = (await ranker.score(query)).scores
        np.testing.assert_allclose(
            (await ranker.score(shuffled)).scores, scores[order], rtol=1e-4, atol=1e-5
        )

    async def test_unknown_items_are_scored_and_counted(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        keys = np.concatenate([known_keys[:5], STRANGERS])
        answer = await ranker.score(a_query(keys))
        assert np.isfinite(answer.scores).all()
        assert answer.unknown_items == len(STRANGERS)

    async def test_a_user_with_a_history_is_answered(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        history = History(
            keys=np.concatenate([known_keys[:3], STRANGERS[:1]]),
            times_ms=np.array([0, 1, 2, 3], np.int64),
            weights=np.array([1, 0, 0.5, 1], np.float32),
        )
        user = UserContext(
            user_key=7,
            history=history,
            attributes={"country": "NZ", "age": 31.0, "likes": ("tea", "rain")},
            context={"device": "phone"},
            time_ms=1_700_000_000_000,
        )
        answer = await ranker.score(a_query(known_keys, user=user))
        assert np.isfinite(answer.scores).all()

    async def test_the_same_question_gets_the_same_answer(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        version = (await ranker.status()).model_version
        free = await ranker.score(a_query(known_keys))
        pinned = await ranker.score(
            a_query(known_keys, model_version=version, deadline_ms=10_000.0)
        )
        np.testing.assert_array_equal(free.scores, pinned.scores)

    async def test_every_model_that_it_offers_can_be_asked_for(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        models = (await ranker.status()).models
        assert len(set(models)) == len(models) > 0
        for model in models:
            answer = await ranker.score(a_query(known_keys, model=model))
            assert answer.model == model
            assert answer.scores.shape == known_keys.shape
            assert np.isfinite(answer.scores).all()

    async def test_the_model_of_questions_that_name_none_is_told(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        answer = await ranker.score(a_query(known_keys))
        assert answer.model in (await ranker.status()).models
        named = await ranker.score(a_query(known_keys, model=answer.model))
        np.testing.assert_array_equal(answer.scores, named.scores)

    async def test_a_model_it_does_not_have_is_refused_with_those_it_has(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        with pytest.raises(InvalidRequest, match="no-such-model") as refused:
            await ranker.score(a_query(known_keys, model="no-such-model"))
        ((field, text),) = refused.value.violations
        assert field == "model"
        assert all(model in text for model in (await ranker.status()).models)

    async def test_a_version_it_does_not_hold_is_refused(
        self, ranker: Ranker, known_keys: Keys
    ) -> None:
        with pytest.raises(VersionNotServed, match="no-such-version"):
            await ranker.score(a_query(known_keys, model_version="no-such-version"))
