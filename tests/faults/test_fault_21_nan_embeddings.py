from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from retrieval_svc.index import build_index
from shortlist.artifacts import ArtifactStore
from shortlist.errors import ArtifactRefused
from shortlist.v1 import admin_pb2
from tests.retrieval_svc.factory import Catalogue, Floats, clustered, publish
from tests.retrieval_svc.serving import popular_request, serving

ROWS = 1500


def build(vectors: Floats, folder: Path, queries: Floats | None = None) -> None:
    build_index(vectors, folder, exact_below=0, recall_target=0.9, k=50, seed=0, queries=queries)


@pytest.mark.parametrize("row", [0, 700, ROWS - 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_or_inf_in_item_embeddings_is_refused_before_the_build(
    tmp_path: Path, value: float, row: int
) -> None:
    vectors = clustered(ROWS, 16, seed=0)
    vectors[row, 3] = value
    with pytest.raises(ArtifactRefused, match=f"vectors: row {row} holds a NaN or Inf"):
        build(vectors, tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        pytest.param(np.zeros((ROWS, 16), np.float32), "row 0 is a zero vector", id="zeros"),
        pytest.param(np.ones((ROWS, 16)), "float64", id="doubles"),
        pytest.param(np.ones(ROWS, np.float32), "must be float32", id="flat"),
        pytest.param(np.ones((ROWS, 0), np.float32), "must be float32", id="no dimension"),
        pytest.param(np.ones((16, ROWS), np.float32).T, "contiguous", id="columns"),
    ],
)
def test_embeddings_of_another_kind_are_refused_before_the_build(
    tmp_path: Path, vectors: Floats, message: str
) -> None:
    with pytest.raises(ArtifactRefused, match=message):
        build(vectors, tmp_path / "index")


def test_nan_in_the_queries_to_tune_with_is_refused_before_the_build(tmp_path: Path) -> None:
    vectors = clustered(ROWS, 16, seed=0)
    queries = vectors[:10].copy()
    queries[4] = np.nan
    with pytest.raises(ArtifactRefused, match="queries: row 4"):
        build(vectors, tmp_path / "index", queries)


async def test_a_failed_build_leaves_the_old_index_serving(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    publish(store, Catalogue.random(200), version="old")
    broken = Catalogue.random(200, seed=1)
    broken.vectors[17] = np.nan
    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        publish(store, broken, version="new")
    assert store.versions("retrieval") == ["old"]
    async with serving(store) as shard:
        assert (await shard.retrieval.Retrieve(popular_request())).index_version == "old"


@pytest.mark.parametrize(
    "file",
    [
        "shard-00000/vectors.npy",
        "shard-00000/popular/count.npy",
        "shard-00000/mf/vectors.npy",
        "shard-00000/cooccurrence/similar.weights.npy",
        "content/vectors.npy",
        "mf/gram.npy",
        "tower/item_vectors.npy",
    ],
)
async def test_nan_in_a_published_version_is_refused_before_it_serves(
    tmp_path: Path, file: str
) -> None:
    def put_nan(folder: Path) -> None:
        values = np.load(folder / file)
        values[5] = np.nan
        np.save(folder / file, values)

    store = ArtifactStore(tmp_path)
    publish(store, Catalogue.random(200), version="old")
    publish(store, Catalogue.random(200, seed=1), version="new", damage=put_nan)
    async with serving(store, version="old") as shard:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shard.admin.PrepareVersion(admin_pb2.PrepareVersionRequest(version="new"))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert file in refused.value.details()
        assert "NaN or Inf" in refused.value.details()
        assert (await shard.retrieval.Retrieve(popular_request())).index_version == "old"
