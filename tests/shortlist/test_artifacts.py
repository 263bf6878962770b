from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shortlist.artifacts import (
    MANIFEST,
    Artifact,
    ArtifactStore,
    PointerMoved,
    RolloutUnderWay,
)
from shortlist.errors import (
    ArtifactCorrupt,
    ArtifactNotFound,
    ArtifactRefused,
    InvalidField,
    ShortlistError,
)
from shortlist.pointer import Rollout

FILES = {
    "keys.npy": np.arange(5, dtype=np.uint64),
    "shard-00000/vectors.npy": np.eye(3, dtype=np.float32),
    "shard-00000/index/config.pb": b"\x0a\x03abc",
    "empty.txt": b"",
}


def write_files(folder: Path) -> None:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)


def publish(store: ArtifactStore, version: str | None = None, tier: str = "retrieval") -> Artifact:
    with store.stage(tier) as staged:
        write_files(staged.path)
        return staged.publish(version=version, meta={"dim": 3, "é": [1, None, 0.1]})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


@pytest.fixture
def artifact(store: ArtifactStore) -> Artifact:
    return publish(store, "v1")


class TestPublishing:
    def test_what_was_published_can_be_opened(self, store: ArtifactStore) -> None:
        with store.stage("ranking") as staged:
            write_files(staged.path)
            published = staged.publish(
                version="v7", meta={"auc": 0.75}, parents={"retrieval": "v3"}
            )
        opened = store.open("ranking", "v7")
        assert opened == published
        assert (opened.tier, opened.version) == ("ranking", "v7")
        assert opened.manifest.meta == {"auc": 0.75}
        assert opened.manifest.parents == {"retrieval": "v3"}
        assert set(opened.manifest.files) == set(FILES)
        assert opened.manifest.files["shard-00000/index/config.pb"].size == 5
        np.testing.assert_array_equal(np.load(opened.path / "keys.npy"), FILES["keys.npy"])

    def test_a_default_version_is_a_time_and_a_hash(self, store: ArtifactStore) -> None:
        assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{6}", publish(store).version)

    def test_versions_are_listed_oldest_first(self, store: ArtifactStore) -> None:
        assert store.versions("retrieval") == []
        for version in ("b", "c", "a"):
            publish(store, version)
        assert sorted(store.versions("retrieval")) == ["a", "b", "c"]
        created = [store.open("retrieval", v).manifest.created_ms for v in ("b", "c", "a")]
        assert created == sorted(created)
        if len(set(created)) == 3:
            assert store.versions("retrieval") == ["b", "c", "a"]

    def test_a_version_is_never_overwritten(self, store: ArtifactStore, artifact: Artifact) -> None:
        with pytest.raises(ArtifactRefused, match="never overwritten"):
            publish(store, "v1")
        assert store.open("retrieval", "v1") == artifact

    def test_an_abandoned_stage_leaves_nothing(self, store: ArtifactStore, tmp_path: Path) -> None:
        def fail_half_way() -> None:
            with store.stage("retrieval") as staged:
                write_files(staged.path)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_half_way()
        assert os.listdir(tmp_path / "retrieval") == [".lock"]

    def test_a_finished_stage_leaves_only_the_version(
        self, artifact: Artifact, tmp_path: Path
    ) -> None:
        assert sorted(os.listdir(tmp_path / "retrieval")) == [".lock", "v1"]

    def test_two_processes_may_stage_at_the_same_time(self, store: ArtifactStore) -> None:
        with store.stage("retrieval") as one, store.stage("retrieval") as other:
            write_files(one.path)
            write_files(other.path)
            one.publish(version="one", meta={})
            other.publish(version="other", meta={})
        assert sorted(store.versions("retrieval")) == ["one", "other"]

    def test_everything_is_on_disk_before_the_version_gets_its_name(
        self, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[str] = []
        fsync, rename = os.fsync, os.rename

        def noted_fsync(handle: int) -> None:
            steps.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
            fsync(handle)

        def noted_rename(source: Path, target: Path) -> None:
            steps.append(f"-> {Path(target).name}")
            rename(source, target)

        with store.stage("retrieval") as staged:
            write_files(staged.path)
            monkeypatch.setattr(os, "fsync", noted_fsync)
            monkeypatch.setattr(os, "rename", noted_rename)
            staged.publish(version="v1", meta={})
            named = steps.index("-> v1")
            before = steps[:named]
            assert {Path(name).name for name in FILES} <= set(before[: before.index(MANIFEST)])
            assert {"index", "shard-00000", staged.path.name} <= set(before)
            assert steps[named + 1] == "retrieval"

    def test_an_empty_artifact_is_refused(self, store: ArtifactStore) -> None:
        with store.stage("retrieval") as staged, pytest.raises(ArtifactRefused, match="no files"):
            staged.publish(meta={})

    @pytest.mark.parametrize(
        "version", ["", ".", "..", ".hidden", "a/b", "current", "a b", "é", "x" * 129, "v1\n"]
    )
    def test_a_version_name_that_is_no_folder_name_is_refused(
        self, store: ArtifactStore, version: str
    ) -> None:
        with pytest.raises(InvalidField, match="version"):
            publish(store, version)
        with pytest.raises(InvalidField, match="version"):
            store.open("retrieval", version)

    def test_a_tier_name_that_is_no_folder_name_is_refused(self, store: ArtifactStore) -> None:
        with pytest.raises(InvalidField, match="tier"):
            store.versions("../elsewhere")

    def test_nan_in_the_meta_is_refused(self, store: ArtifactStore) -> None:
        with store.stage("ranking") as staged:
            write_files(staged.path)
            with pytest.raises(ArtifactRefused, match=r"manifest\.json"):
                staged.publish(meta={"auc": float("nan")})

    def test_meta_that_is_not_json_is_refused(self, store: ArtifactStore) -> None:
        with store.stage("ranking") as staged:
            write_files(staged.path)
            with pytest.raises(ArtifactRefused, match="auc"):
                staged.publish(meta={"auc": np.float32(1)})  # type: ignore[dict-item]

    def test_a_file_in_the_manifests_place_is_refused(self, store: ArtifactStore) -> None:
        with store.stage("ranking") as staged:
            (staged.path / "manifest.json").write_text("{}")
            with pytest.raises(ArtifactRefused, match="reserved"):
                staged.publish(meta={})

    def test_a_link_is_refused(self, store: ArtifactStore) -> None:
        with store.stage("ranking") as staged:
            write_files(staged.path)
            (staged.path / "link").symlink_to(staged.path / "keys.npy")
            with pytest.raises(ArtifactRefused, match="link: is a symbolic link"):
                staged.publish(meta={})

    def test_what_a_dead_process_left_is_removed_by_the_next_stage(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        program = (
            "import os, signal, sys; from shortlist.artifacts import ArtifactStore\n"
            "with ArtifactStore(sys.argv[1]).stage('retrieval') as staged:\n"
            "    (staged.path / 'half').write_text('x')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
        assert list((tmp_path / "retrieval").glob(".staging-*/half"))
        with store.stage("retrieval") as staged:
            folders = [p for p in (tmp_path / "retrieval").glob(".staging-*") if p.is_dir()]
            assert folders == [staged.path]

    def test_what_a_living_process_stages_is_kept(self, store: ArtifactStore) -> None:
        with store.stage("retrieval") as living:
            write_files(living.path)
            with store.stage("retrieval"):
                pass
            living.publish(version="v1", meta={})
        store.open("retrieval", "v1")


class TestPromoting:
    def test_nothing_is_current_before_the_first_promotion(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        with pytest.raises(ArtifactNotFound, match="retrieval"):
            store.current("retrieval")
        with pytest.raises(ArtifactNotFound, match="retrieval"):
            store.open("retrieval")

    def test_the_promoted_version_is_current(self, store: ArtifactStore) -> None:
        publish(store, "v1")
        publish(store, "v2")
        store.promote("retrieval", "v1", expected=None)
        assert store.open("retrieval").version == "v1"
        store.promote("retrieval", "v2", expected="v1")
        assert store.open("retrieval").version == "v2"
        store.promote("retrieval", "v1", expected="v2")
        assert store.current("retrieval") == "v1"

    @pytest.mark.parametrize("expected", [None, "v2", "nonsense"])
    def test_a_promotion_that_expects_something_else_changes_nothing(
        self, store: ArtifactStore, expected: str | None
    ) -> None:
        publish(store, "v1")
        publish(store, "v2")
        store.promote("retrieval", "v1", expected=None)
        with pytest.raises(PointerMoved, match="is v1"):
            store.promote("retrieval", "v2", expected=expected)
        assert store.current("retrieval") == "v1"

    def test_of_many_that_expect_the_same_one_wins(self, store: ArtifactStore) -> None:
        names = [f"v{number}" for number in range(8)]
        for name in names:
            publish(store, name)
        won = []

        def promote(name: str) -> None:
            try:
                store.promote("retrieval", name, expected=None)
            except PointerMoved:
                return
            won.append(name)

        threads = [threading.Thread(target=promote, args=[name]) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [store.current("retrieval")]

    def test_a_version_that_does_not_verify_is_not_promoted(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        (artifact.path / "empty.txt").write_text("no more")
        with pytest.raises(ArtifactCorrupt, match=r"empty\.txt"):
            store.promote("retrieval", "v1", expected=None)
        with pytest.raises(ArtifactNotFound):
            store.promote("retrieval", "v9", expected=None)
        with pytest.raises(ArtifactNotFound):
            store.current("retrieval")

    @pytest.mark.parametrize("content", [b"", b"..\n", b"v1\nv2\n", b"\xff\n", b"a/b"])
    def test_a_pointer_that_names_no_version_is_corrupt(
        self, store: ArtifactStore, artifact: Artifact, content: bytes
    ) -> None:
        (artifact.path.parent / "current").write_bytes(content)
        with pytest.raises(ArtifactCorrupt, match="retrieval/current"):
            store.open("retrieval")

    def test_a_pointer_to_a_version_that_is_gone_is_not_found(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        store.promote("retrieval", "v1", expected=None)
        shutil.rmtree(artifact.path)
        with pytest.raises(ArtifactNotFound, match="v1"):
            store.open("retrieval")


def every_file(artifact: Artifact) -> list[str]:
    return ["manifest.json", *artifact.manifest.files]


class TestOpening:
    def test_an_unknown_version_is_not_found(self, store: ArtifactStore) -> None:
        with pytest.raises(ArtifactNotFound, match="v9"):
            store.open("retrieval", "v9")

    def test_a_flipped_bit_in_any_file_is_refused_by_name(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        for name in every_file(artifact):
            path = artifact.path / name
            whole = path.read_bytes()
            for at in {0, len(whole) // 2, len(whole) - 1} if whole else ():
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                with pytest.raises((ArtifactCorrupt, ArtifactRefused), match=re.escape(name)):
                    store.open("retrieval", "v1")
            path.write_bytes(whole)
        assert store.open("retrieval", "v1") == artifact

    def test_every_byte_of_the_manifest_counts(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        path = artifact.path / "manifest.json"
        whole = path.read_bytes()
        for at in range(len(whole)):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << at % 8
            path.write_bytes(flipped)
            with pytest.raises((ArtifactCorrupt, ArtifactRefused), match=r"manifest\.json"):
                store.open("retrieval", "v1")

    def test_a_truncated_file_is_refused_by_name(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        for name in every_file(artifact):
            path = artifact.path / name
            whole = path.read_bytes()
            if whole:
                path.write_bytes(whole[:-1])
                with pytest.raises(ArtifactCorrupt, match=re.escape(name)):
                    store.open("retrieval", "v1")
                path.write_bytes(whole)

    def test_a_missing_file_is_refused_by_name(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        for name in every_file(artifact):
            path = artifact.path / name
            whole = path.read_bytes()
            path.unlink()
            with pytest.raises(ArtifactCorrupt, match=re.escape(name)):
                store.open("retrieval", "v1")
            path.write_bytes(whole)

    def test_a_file_that_the_manifest_does_not_list_is_refused(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        (artifact.path / "shard-00000" / "more.bin").write_bytes(b"x")
        with pytest.raises(ArtifactCorrupt, match=r"more\.bin: not in the manifest"):
            store.open("retrieval", "v1")

    def test_a_version_under_another_name_is_refused(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        shutil.copytree(artifact.path, artifact.path.with_name("v2"))
        with pytest.raises(ArtifactCorrupt, match="is of retrieval v1"):
            store.open("retrieval", "v2")

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (b"", ArtifactCorrupt),
            (b"{", ArtifactCorrupt),
            (b"[]", ArtifactCorrupt),
            (b"\xff", ArtifactCorrupt),
            (b"[" * 100_000, ArtifactCorrupt),
            (b"{}", ArtifactRefused),
            (b'{"format": 2}', ArtifactRefused),
            (b'{"format": 1}', ArtifactCorrupt),
            (b" " * (16 << 20) + b"{}", ArtifactCorrupt),
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_a_manifest_that_is_none_is_refused(
        self,
        store: ArtifactStore,
        artifact: Artifact,
        content: bytes,
        error: type[ShortlistError],
    ) -> None:
        (artifact.path / "manifest.json").write_bytes(content)
        with pytest.raises(error, match=r"manifest\.json"):
            store.open("retrieval", "v1")

    def test_a_rewritten_manifest_needs_its_digest(
        self, store: ArtifactStore, artifact: Artifact
    ) -> None:
        path = artifact.path / "manifest.json"
        document = json.loads(path.read_bytes())
        document["meta"]["dim"] = 4
        path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        with pytest.raises(ArtifactCorrupt, match="digest"):
            store.open("retrieval", "v1")


class TestMirroring:
    @pytest.fixture(params=["memory", "file"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        pytest.importorskip("fsspec")
        if request.param == "file":
            return f"file://{tmp_path}/bucket/artifacts"
        return f"memory://{tmp_path.name}/artifacts"

    def test_another_machine_opens_what_was_published(self, url: str, tmp_path: Path) -> None:
        trainer = ArtifactStore(url, cache=tmp_path / "trainer")
        published = publish(trainer, "v1")
        trainer.promote("retrieval", "v1", expected=None)
        replica = ArtifactStore(url, cache=tmp_path / "replica")
        assert replica.current("retrieval") == "v1"
        assert replica.versions("retrieval") == ["v1"]
        opened = replica.open("retrieval")
        assert opened.manifest == published.manifest
        assert opened.path.is_relative_to(tmp_path / "replica")
        assert replica.open("retrieval") == opened  # now from the cache

    def test_a_second_promotion_is_seen(self, url: str, tmp_path: Path) -> None:
        trainer = ArtifactStore(url, cache=tmp_path / "trainer")
        replica = ArtifactStore(url, cache=tmp_path / "replica")
        publish(trainer, "v1")
        trainer.promote("retrieval", "v1", expected=None)
        assert replica.open("retrieval").version == "v1"
        publish(trainer, "v2")
        with pytest.raises(PointerMoved):
            trainer.promote("retrieval", "v2", expected=None)
        trainer.promote("retrieval", "v2", expected="v1")
        assert replica.open("retrieval").version == "v2"
        assert replica.versions("retrieval") == ["v1", "v2"]

    def test_a_version_that_is_not_there_is_not_found(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(ArtifactNotFound, match="v9"):
            ArtifactStore(url, cache=tmp_path / "replica").open("retrieval", "v9")
        with pytest.raises(ArtifactNotFound, match="no current"):
            ArtifactStore(url, cache=tmp_path / "replica").current("retrieval")

    @pytest.mark.parametrize(
        "spoil", [Path.unlink, lambda path: path.write_bytes(b"12345")], ids=["missing", "altered"]
    )
    def test_a_corrupt_copy_never_gets_its_name(
        self, tmp_path: Path, spoil: Callable[[Path], None]
    ) -> None:
        pytest.importorskip("fsspec")
        url = f"file://{tmp_path}/bucket"
        publish(ArtifactStore(url, cache=tmp_path / "trainer"), "v1")
        spoil(tmp_path / "bucket/retrieval/v1/shard-00000/index/config.pb")
        replica = ArtifactStore(url, cache=tmp_path / "replica")
        with pytest.raises(ArtifactCorrupt, match=r"config\.pb"):
            replica.open("retrieval", "v1")
        assert os.listdir(tmp_path / "replica" / "retrieval") == [".lock"]

    def test_an_upload_is_visible_only_with_its_manifest(self, tmp_path: Path) -> None:
        pytest.importorskip("fsspec")
        url = f"file://{tmp_path}/bucket"
        publish(ArtifactStore(url, cache=tmp_path / "trainer"), "v1")
        (tmp_path / "bucket/retrieval/v1/manifest.json").unlink()
        replica = ArtifactStore(url, cache=tmp_path / "replica")
        assert replica.versions("retrieval") == []
        with pytest.raises(ArtifactNotFound):
            replica.open("retrieval", "v1")

    def test_a_url_of_an_unknown_kind_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactRefused, match="carrier-pigeon"):
            ArtifactStore("carrier-pigeon://loft/artifacts", cache=tmp_path)


def an_object_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def a_zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


class TestPickles:
    """The rest stands in tests/faults/test_fault_20_*.py."""

    def test_plain_arrays_of_every_kind_are_taken(self, store: ArtifactStore) -> None:
        with store.stage("ranking") as staged:
            np.save(staged.path / "strings.npy", np.array(["a", "bb"]))
            np.save(staged.path / "records.npy", np.zeros(2, [("a", "<f4"), ("b", "<u8")]))
            np.savez(staged.path / "arrays.npz", a=np.zeros(2), b=np.array("x"))
            (staged.path / "full-stop.txt").write_bytes(b"\x80.")
            (staged.path / "plain.zip").write_bytes(a_zip(readme__txt=b"hello"))
            staged.publish(version="v1", meta={})
        store.open("ranking", "v1")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("scann_docids.pkl", b""),
            ("x.PICKLE", b""),
            ("model.joblib", b""),
            ("innocent.bin", pickle.dumps({"a": 1}, protocol=2)),
            ("innocent.bin", pickle.dumps({"a": 1}, protocol=5)),
            ("ids.npy", an_object_array()),
            ("innocent.bin", an_object_array()),
            ("pickled.npy", pickle.dumps([1])),
            ("nothing.npy", b""),
            ("tower.npz", a_zip(ids__npy=an_object_array())),
            ("model.pt", a_zip(data__pkl=b"")),
            ("broken.zip", b"PK\x03\x04 and no more"),
        ],
    )
    def test_whatever_a_loader_might_unpickle_is_refused(
        self, store: ArtifactStore, name: str, content: bytes
    ) -> None:
        with store.stage("ranking") as staged:
            write_files(staged.path)
            (staged.path / name).write_bytes(content)
            with pytest.raises(ArtifactRefused, match=re.escape(name)):
                staged.publish(meta={})
        assert store.versions("ranking") == []


class TestRollouts:
    def test_promotions_are_remembered_newest_first(self, store: ArtifactStore) -> None:
        for version, expected in (("v1", None), ("v2", "v1"), ("v1", "v2")):
            if version not in store.versions("retrieval"):
                publish(store, version=version)
            store.promote("retrieval", version, expected=expected)
        assert [one.version for one in store.history("retrieval")] == ["v1", "v2", "v1"]
        times = [one.time_ms for one in store.history("retrieval")]
        assert times == sorted(times, reverse=True)
        assert store.previous("retrieval") is None

    def test_before_the_first_promotion_there_is_no_history(self, store: ArtifactStore) -> None:
        assert store.history("retrieval") == ()
        assert store.previous("retrieval") is None
        assert store.rollout("retrieval") is None

    def test_a_rollout_is_there_until_it_is_ended(self, store: ArtifactStore) -> None:
        rollout = Rollout(version="v2", before="v1", step="preparing")
        store.set_rollout("retrieval", rollout)
        assert store.rollout("retrieval") == rollout
        assert store.versions("retrieval") == []
        store.set_rollout("retrieval", None)
        assert store.rollout("retrieval") is None

    def test_only_one_job_changes_the_version_of_a_tier(self, store: ArtifactStore) -> None:
        with (
            store.redeploying("retrieval"),
            store.redeploying("ranking"),
            pytest.raises(RolloutUnderWay, match="retrieval"),
            store.redeploying("retrieval"),
        ):
            pass
        with store.redeploying("retrieval"):
            pass
