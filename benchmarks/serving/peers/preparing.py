"""What the peers read beside the world's artifacts, written once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.serving.rankers import FORMS, load_weights
from benchmarks.serving.world import Probes, retrieval_version
from ranking_svc.features import FeatureSpec, embedded_slots
from retrieval_svc.encoder import UserEncoder
from retrieval_svc.slice_files import slice_folder
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.features import FeatureEncoder
from shortlist.stores.opening import open_store
from shortlist.tiers import UserContext

__all__ = ["item_slots", "prepare_peers"]

Tell = Callable[[str], None]


def prepare_peers(workdir: Path, tell: Tell) -> None:
    """Users' vectors, features of items, ids, and the rankers as SavedModels; once a world."""
    folder = workdir / "peers"
    mark = folder / "done"
    if mark.exists():
        return
    tell("preparing the peers")
    folder.mkdir(exist_ok=True)
    asyncio.run(_write_users(workdir, folder))
    _write_items(workdir, folder)
    # TensorFlow in a process of its own: this one measures.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for form in FORMS:
            pool.submit(_write_model, workdir, folder, form).result()
    mark.write_text("", "utf-8")


def item_slots(artifact: Path) -> list[tuple[int, int]]:
    """Of the token features that have an embedding."""
    encoder = FeatureEncoder.load(artifact / "item_features.json")
    spec = FeatureSpec.load(artifact / "spec.json")
    return list(embedded_slots(encoder, has_time=spec.has_time))


async def _write_users(workdir: Path, folder: Path) -> None:
    artifact = ArtifactStore(workdir / "artifacts").open("retrieval", retrieval_version(1)).path
    tower = UserEncoder.open(artifact / "tower")
    now_ms = Probes.load(workdir / "probes.npz").now_ms
    users = json.loads((workdir / "world.json").read_text("utf-8"))["users"]
    store = open_store(Config.load(workdir / "shortlist.yaml").store, workdir)
    vectors = []
    try:
        for number in range(users):
            profile = await store.get(f"user-{number:06d}")
            assert profile is not None
            vectors.append(
                tower.encode(
                    UserContext(
                        user_key=profile.user_key,
                        history=profile.history,
                        attributes=profile.attributes,
                        time_ms=now_ms,
                    )
                )
            )
    finally:
        await store.close()
    np.save(folder / "users.npy", np.stack(vectors))


def _write_items(workdir: Path, folder: Path) -> None:
    import pyarrow.parquet as pq

    store = ArtifactStore(workdir / "artifacts")
    slice_ = slice_folder(store.open("retrieval", retrieval_version(1)).path, 0)
    ids = pq.read_table(slice_ / "items.parquet", columns=["id"])["id"].to_numpy()
    np.save(folder / "ids.npy", ids.astype(np.str_))
    weights = load_weights(store.open("ranking", next(iter(FORMS))).path)
    rng = np.random.default_rng(11)
    numeric = rng.standard_normal((len(ids) + 1, len(weights.mean)), np.float32)
    np.save(folder / "numeric.npy", numeric)


def _write_model(workdir: Path, folder: Path, form: str) -> None:
    from benchmarks.serving.peers.model import Inputs, save_model

    artifact = ArtifactStore(workdir / "artifacts").open("ranking", form).path
    save_model(
        load_weights(artifact), item_slots(artifact), Inputs.open(folder, artifact), folder / form
    )
