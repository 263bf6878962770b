"""What the evaluation measures, in parts; the whole of it is in `test_jobs`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ranking_svc.ranker import RankerGeneration
from shortlist.artifacts import ArtifactStore
from shortlist.tiers import ScoreQuery, UserContext
from tests.contracts.ranker import candidates_of
from tests.ranking_svc.factory import publish_ranker
from tests.ranking_svc.tables import NOW_MS
from tests.training.tiny import tiny_dataset
from training.evaluate import _Exam, _judge
from training.histories import history_of
from training.lessons import Moment


def test_the_ranker_is_judged_on_as_much_history_as_it_is_served(tmp_path: Path) -> None:
    dataset = tiny_dataset([0] * 31, range(31), items=40, time_ms=range(NOW_MS - 31, NOW_MS))
    ranker = RankerGeneration.open(publish_ranker(ArtifactStore(tmp_path)), "numpy")
    moment = Moment(user=0, known=np.arange(30), next=np.array([30]), time_ms=NOW_MS)
    history = history_of(dataset, moment.known)
    user = UserContext(user_key=0, history=history, time_ms=NOW_MS)
    exam = _Exam(user_id="user-0", user=user, relevant=frozenset({30}), moment=moment)
    candidates = candidates_of(dataset.item_keys[30:])

    def scores(newest: int) -> list[float]:
        served = UserContext(user_key=0, history=history.last(newest), time_ms=NOW_MS)
        query = ScoreQuery(request_id="test", user=served, candidates=candidates)
        return ranker.score(query).scores.tolist()

    judged, liked = _judge(ranker, exam, candidates, dataset, 5)
    assert judged.tolist() == scores(5) != scores(30)
    assert liked.tolist() == [True] + [False] * 9
