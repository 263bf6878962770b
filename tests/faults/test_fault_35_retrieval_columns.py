from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shortlist.artifacts import ArtifactStore
from shortlist.v1 import retrieval_pb2
from tests.retrieval_svc.factory import Catalogue, publish
from tests.retrieval_svc.serving import popular_request, serving

CATALOGUE = Catalogue.random(50)
KEYS = CATALOGUE.keys[:2].tobytes()
TIMES = np.zeros(2, np.int64).tobytes()


def history(weights: Any, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "history_keys": KEYS,
        "history_times_ms": TIMES,
        "history_weights": np.array(weights, np.float32).tobytes(),
    }
    return {"user": retrieval_pb2.UserState(**(fields | changes))}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param(history([1, np.nan]), "user.history_weights", id="nan"),
        pytest.param(history([np.inf, 1]), "user.history_weights", id="inf"),
        pytest.param(history([1]), "user.history_weights", id="short weights"),
        pytest.param(history([1, 1], history_times_ms=b""), "user.history_times_ms", id="no times"),
        pytest.param(history([1, 1], history_keys=KEYS[:9]), "user.history_keys", id="half a key"),
        pytest.param({"exclude_keys": b"123"}, "exclude_keys", id="half an exclusion"),
        pytest.param({"check_keys": b"123456789"}, "check_keys", id="half a check"),
    ],
)
async def test_a_bad_column_is_refused_by_the_name_of_its_field(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    store = ArtifactStore(tmp_path)
    publish(store, CATALOGUE)
    async with serving(store) as shard:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shard.retrieval.Retrieve(popular_request(**changes))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert _fields(refused.value) == [field]


def _fields(error: grpc.aio.AioRpcError) -> list[str]:
    status = rpc_status.from_call(error)
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
    return [violation.field for violation in bad.field_violations]
