"""Immutable, checksummed, atomically published folders: what training hands to serving.

    <root>/<tier>/<version>/     files and manifest.json; never changed once it has this name
    <root>/<tier>/current        the version that serves, and which did; swapped atomically
    <root>/<tier>/rollout        the change of version that is under way, if one is
    <root>/<tier>/.redeploy      held (flock) by the job that is changing the version
    <root>/<tier>/.staging-*     being written; no reader looks at it
    <root>/<tier>/.lock          held (flock) while a name or the pointer changes

A publisher killed at any step leaves nothing that a reader can see. A reader loads nothing before
every byte was compared with the manifest. Pickles are refused: loading one runs its author's code.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import IO, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from shortlist.durable import sync
from shortlist.errors import (
    ArtifactCorrupt,
    ArtifactNotFound,
    ArtifactRefused,
    InvalidField,
    ShortlistError,
)
from shortlist.locks import lock, locked
from shortlist.mirror import Mirror
from shortlist.pointer import Pointer, Promotion, Rollout

__all__ = [
    "Artifact",
    "ArtifactStore",
    "FileEntry",
    "Manifest",
    "PointerMoved",
    "RolloutUnderWay",
    "StagedArtifact",
    "check_version_name",
]

MANIFEST = "manifest.json"
POINTER = "current"
ROLLOUT = "rollout"

_LOCK = ".lock"
_REDEPLOY = ".redeploy"
_RESERVED = (POINTER, ROLLOUT)
_STAGING = ".staging-"
_ALIVE = ".alive"  # beside a staging folder, locked while its writer lives
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MANIFEST_LIMIT = 16 << 20  # bytes; a manifest lists files, it does not hold them
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")
_PICKLE_HEAD = re.compile(rb"\x80[\x02-\x05]")  # PROTO opcode and protocol, 2 to 5
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"


class PointerMoved(ShortlistError):
    """Somebody else promoted a version in the meantime; look again before promoting."""

    status_name = "ABORTED"


class RolloutUnderWay(ShortlistError):
    """Another job is changing the version of this tier."""

    status_name = "FAILED_PRECONDITION"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(_Record):
    """What one file of an artifact must be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]  # bytes


class Manifest(_Record):
    """`manifest.json`: what the artifact is, and every file in it."""

    format: Literal[1] = 1
    tier: str
    version: str
    created_ms: int  # Unix milliseconds
    files: dict[str, FileEntry]  # by path relative to the artifact, with forward slashes
    meta: dict[str, JsonValue]  # what the tier needs to know before it loads the files
    parents: dict[str, str]  # tier -> version that this artifact was made from


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A published version; every file in `path` agreed with the manifest when it was opened."""

    tier: str
    version: str
    path: Path
    manifest: Manifest


def check_version_name(version: str, field: str = "version") -> str:
    """Return `version` if it may name a version, else raise `InvalidField`.

    1 to 128 characters of `[A-Za-z0-9._-]`; not `current` or `rollout`, and no leading dot.
    """
    if not _NAME.fullmatch(version) or version.startswith(".") or version in _RESERVED:
        raise InvalidField(
            field, f"{version[:140]!r} is not 1 to 128 of [A-Za-z0-9._-], or is reserved"
        )
    return version


class ArtifactStore:
    """The versions of every tier below one root.

    `root` is a folder, or an fsspec URL such as `s3://bucket/artifacts`. Versions of a URL are
    synced to `cache` (default: `~/.cache/shortlist/<hash of the URL>`) and loaded from there. A URL
    has no lock: let one job at a time publish or promote below it.
    """

    def __init__(self, root: str | Path, *, cache: Path | None = None) -> None:
        self._mirror = Mirror.of(str(root), cache) if "://" in str(root) else None
        self._root = self._mirror.local if self._mirror else Path(root)

    @contextmanager
    def stage(self, tier: str) -> Iterator[StagedArtifact]:
        """A temporary folder to write a version into; removed unless it was published.

        Folders that dead processes left behind are removed first.
        """
        home = self._home(tier)
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / _LOCK):
            _sweep(home)
            folder = Path(mkdtemp(prefix=_STAGING, dir=home))
            folder.chmod(0o755)  # mkdtemp's 0700 would hide the version from a serving user
            alive = folder.with_name(folder.name + _ALIVE)
            handle = lock(alive, fcntl.LOCK_EX)  # the kernel lets go of it when we die
        try:
            yield StagedArtifact(self, tier, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            alive.unlink(missing_ok=True)
            os.close(handle)

    def open(self, tier: str, version: str | None = None) -> Artifact:
        """The version (None: the current one), after comparing every byte with its manifest.

        Raises `ArtifactNotFound` if there is none, `ArtifactCorrupt` for a file that is missing,
        truncated, altered or not listed, and `ArtifactRefused` for pickles, symbolic links, paths
        that leave the artifact and unknown formats. Each names the file.
        """
        version = self.current(tier) if version is None else check_version_name(version)
        folder = self._home(tier) / version
        if self._mirror and not folder.exists():
            self._pull(self._mirror, tier, version)
        return _verified(folder, tier, version)

    def manifest(self, tier: str, version: str) -> Manifest:
        """What a version says of itself; its files are not compared. Raises as `open` does."""
        folder = self._home(tier) / check_version_name(version)
        if self._mirror and not folder.exists():
            data = self._read(tier, f"{version}/{MANIFEST}")
            if data is None:
                raise ArtifactNotFound(f"{tier} {version} is not in {self._mirror.url}")
            return _parse_manifest(folder / MANIFEST, data)
        if not folder.is_dir():
            raise ArtifactNotFound(f"{tier} {version} is not in {folder.parent}")
        return _read_manifest(folder)

    def current(self, tier: str) -> str:
        """The version that serves. Raises `ArtifactNotFound` if none was promoted yet."""
        pointer = self._pointer(tier)
        if pointer is None:
            raise ArtifactNotFound(f"no current {tier} version in {self._where(tier)}")
        return pointer.version

    def history(self, tier: str) -> tuple[Promotion, ...]:
        """What was promoted when, newest first; empty before the first promotion."""
        pointer = self._pointer(tier)
        return pointer.promotions if pointer else ()

    def previous(self, tier: str) -> str | None:
        """The version to go back to, see `Pointer.previous`; None where there is none."""
        pointer = self._pointer(tier)
        return pointer.previous if pointer else None

    def versions(self, tier: str) -> list[str]:
        """Published versions, oldest first. They are listed, not verified."""
        if self._mirror:
            created = self._mirror.versions(tier, MANIFEST)
        else:
            created = _published(self._home(tier))
        return sorted(created, key=lambda version: (_created_ms(created[version]), version))

    def promote(self, tier: str, version: str, *, expected: str | None) -> None:
        """Make `version` current if `expected` (None: nothing) still is.

        Raises what `open` raises for a version that may not serve, and `PointerMoved`.
        """
        self.open(tier, version)
        home = self._home(tier)
        with locked(home / _LOCK):
            before = self._pointer(tier)
            found = before.version if before else None
            if found != expected:
                raise PointerMoved(
                    f"current {tier} version is {found}, not {expected}: {version} not promoted"
                )
            now_ms = time.time_ns() // 1_000_000
            after = before.promoted(version, now_ms) if before else Pointer.first(version, now_ms)
            self._write(tier, POINTER, after.render())

    def rollout(self, tier: str) -> Rollout | None:
        """The change of version that has begun and not ended."""
        data = self._read(tier, ROLLOUT)
        try:
            return Rollout.parse(data) if data else None
        except ValueError as error:
            raise ArtifactCorrupt(f"{self._where(tier)}/{ROLLOUT}: {error}") from None

    def set_rollout(self, tier: str, rollout: Rollout | None) -> None:
        """Write down what is changing, or that nothing is any more, for processes that start."""
        home = self._home(tier)
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / _LOCK):
            self._write(tier, ROLLOUT, rollout.render() if rollout else b"")

    @contextmanager
    def redeploying(self, tier: str) -> Iterator[None]:
        """Only one job at a time is in here; one that dies has left. Raises `RolloutUnderWay`."""
        home = self._home(tier)
        home.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock(home / _REDEPLOY, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RolloutUnderWay(f"another job is changing the {tier} version") from None
        try:
            yield
        finally:
            os.close(handle)

    def _publish(self, staged: Path, manifest: Manifest) -> Artifact:
        tier, version = manifest.tier, manifest.version
        _write_durably(staged / MANIFEST, _render_manifest(manifest))
        _fsync_folders(staged)
        folder = self._place(staged, tier, version)
        if self._mirror:
            self._mirror.push(folder, tier, version, last=MANIFEST)
        return Artifact(tier=tier, version=version, path=folder, manifest=manifest)

    def _place(self, staged: Path, tier: str, version: str) -> Path:
        """Give a finished folder its name: the moment a version comes to exist."""
        home = self._home(tier)
        folder = home / version
        with locked(home / _LOCK):
            if folder.exists():
                raise ArtifactRefused(f"{folder}: a version is never overwritten")
            staged.rename(folder)
            sync(home)
        sync(home.parent)
        return folder

    def _pull(self, mirror: Mirror, tier: str, version: str) -> None:
        """Copy a version here; it gets its name only after it was verified."""
        with self.stage(tier) as staged:
            if not mirror.fetch(tier, version, MANIFEST, staged.path / MANIFEST):
                raise ArtifactNotFound(f"{tier} {version} is not in {mirror.url}")
            for name in _read_manifest(staged.path).files:
                target = staged.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not mirror.fetch(tier, version, name, target):
                    raise ArtifactCorrupt(f"{mirror.url}/{tier}/{version}/{name}: missing")
            _verified(staged.path, tier, version)
            _fsync_folders(staged.path)
            self._place(staged.path, tier, version)

    def _pointer(self, tier: str) -> Pointer | None:
        data = self._read(tier, POINTER)
        if data is None:
            return None
        try:
            pointer = Pointer.parse(data)
            for promotion in pointer.promotions:
                check_version_name(promotion.version)
            return pointer
        except (ValueError, InvalidField):
            raise ArtifactCorrupt(f"{self._where(tier)}/{POINTER}: names no version") from None

    def _read(self, tier: str, name: str) -> bytes | None:
        """A file beside the versions; None where there is none."""
        try:
            if self._mirror:
                return self._mirror.read(check_version_name(tier, "tier"), name)
            return (self._home(tier) / name).read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, tier: str, name: str, data: bytes) -> None:
        """Replace a file beside the versions; to be called under the tier's lock."""
        _replace(self._home(tier) / name, data)
        if self._mirror:
            self._mirror.write(tier, name, data)

    def _home(self, tier: str) -> Path:
        return self._root / check_version_name(tier, "tier")

    def _where(self, tier: str) -> str:
        return f"{self._mirror.url}/{tier}" if self._mirror else str(self._home(tier))


class StagedArtifact:
    """A version being written, in `path`. Made by `ArtifactStore.stage`."""

    def __init__(self, store: ArtifactStore, tier: str, path: Path) -> None:
        self.path = path
        self._store = store
        self._tier = tier

    def publish(
        self,
        *,
        version: str | None = None,
        meta: Mapping[str, JsonValue],
        parents: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Make what is in `path` a version that readers can open, durably and all at once.

        The default name is the time in UTC and a hash: `20261123T153000-1a2b3c`. Raises
        `ArtifactRefused` for pickles, links, no files, meta that JSON cannot hold, or a version
        that exists.
        """
        files = {name: _seal(self.path, name) for name in sorted(_scan(self.path))}
        if not files:
            raise ArtifactRefused(f"{self.path}: no files to publish")
        created_ms = time.time_ns() // 1_000_000
        name = _default_version(created_ms, files) if version is None else version
        manifest = _manifest(
            tier=self._tier,
            version=check_version_name(name),
            created_ms=created_ms,
            files=files,
            meta=dict(meta),
            parents=dict(parents or {}),
        )
        return self._store._publish(self.path, manifest)


# -- the manifest ---------------------------------------------------------------------------------


def _manifest(**fields: Any) -> Manifest:
    try:
        manifest = Manifest(**fields)
        _render_manifest(manifest)
    except ValueError as error:  # pydantic's, or json's for NaN and infinity
        raise ArtifactRefused(f"{MANIFEST}: {error}") from None
    return manifest


def _render_manifest(manifest: Manifest) -> bytes:
    """The only bytes that this manifest may have on disk; `digest` covers all the rest."""
    document = manifest.model_dump(mode="json")
    return _render({**document, "digest": hashlib.sha256(_render(document)).hexdigest()})


def _render(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    manifest = _parse_manifest(path, _read_manifest_bytes(path))
    for name in manifest.files:
        _refuse_path(path, name)
    return manifest


def _read_manifest_bytes(path: Path) -> bytes:
    try:
        if path.is_symlink():
            raise ArtifactRefused(f"{path}: is a symbolic link")
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise ArtifactCorrupt(f"{path}: larger than {_MANIFEST_LIMIT} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactCorrupt(f"{path}: {error.strerror}") from None


def _parse_manifest(path: Path, data: bytes) -> Manifest:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ArtifactCorrupt(f"{path}: not JSON") from None
    if not isinstance(document, dict):
        raise ArtifactCorrupt(f"{path}: not a JSON object")
    if document.get("format") != 1:
        raise ArtifactRefused(f"{path}: format {document.get('format')!r:.40}, this reads 1")
    document.pop("digest", None)
    try:
        manifest = Manifest.model_validate(document)
        rendered = _render_manifest(manifest)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ArtifactCorrupt(f"{path}: {where}: {error.errors()[0]['msg']}") from None
    except ValueError:
        raise ArtifactCorrupt(f"{path}: holds NaN or infinity") from None
    if rendered != data:
        raise ArtifactCorrupt(f"{path}: altered, its digest does not match")
    return manifest


def _refuse_path(manifest: Path, name: str) -> None:
    """A manifest may only point at files below its own folder."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise ArtifactRefused(f"{manifest}: path {name[:200]!r} leaves the artifact")


def _default_version(created_ms: int, files: Mapping[str, FileEntry]) -> str:
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(created_ms / 1000))
    content = json.dumps([created_ms, {name: files[name].sha256 for name in sorted(files)}])
    return f"{moment}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


# -- verification ---------------------------------------------------------------------------------


def _verified(folder: Path, tier: str, version: str) -> Artifact:
    if folder.is_symlink():
        raise ArtifactRefused(f"{folder}: is a symbolic link")
    if not folder.is_dir():
        raise ArtifactNotFound(f"{tier} {version} is not in {folder.parent}")
    manifest = _read_manifest(folder)
    if (manifest.tier, manifest.version) != (tier, version):
        raise ArtifactCorrupt(
            f"{folder / MANIFEST}: is of {manifest.tier} {manifest.version}, not {tier} {version}"
        )
    _check_names(folder, manifest)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    return Artifact(tier=tier, version=version, path=folder, manifest=manifest)


def _check_names(folder: Path, manifest: Manifest) -> None:
    found = _scan(folder) - {MANIFEST}
    for name in sorted(manifest.files.keys() - found):
        raise ArtifactCorrupt(f"{folder / name}: missing")
    for name in sorted(found - manifest.files.keys()):
        raise ArtifactCorrupt(f"{folder / name}: not in the manifest")


def _check_file(path: Path, entry: FileEntry) -> None:
    try:
        size = path.stat().st_size
        if size != entry.size:
            raise ArtifactCorrupt(f"{path}: has {size} bytes instead of {entry.size}")
        with path.open("rb") as file:
            if _sha256(file) != entry.sha256:
                raise ArtifactCorrupt(f"{path}: altered, its SHA-256 does not match")
            _refuse_pickles(path, file)
    except OSError as error:
        raise ArtifactCorrupt(f"{path}: {error.strerror}") from None


def _scan(folder: Path) -> set[str]:
    """The files below `folder`, relative. Refuses links, devices and whatever else is no file."""
    found = set()
    for path in folder.iterdir():
        if path.is_symlink():
            raise ArtifactRefused(f"{path}: is a symbolic link")
        if path.is_dir():
            found |= {f"{path.name}/{name}" for name in _scan(path)}
        elif path.is_file():
            found.add(path.name)
        else:
            raise ArtifactRefused(f"{path}: is not a regular file")
    return found


def _refuse_pickles(path: Path, file: IO[bytes]) -> None:
    """Refuse what a loader might unpickle, by name and by content."""
    if path.name.lower().endswith(_PICKLE_SUFFIXES):
        raise ArtifactRefused(f"{path}: is a pickle")
    file.seek(0)
    head = file.read(len(_NPY_MAGIC))
    file.seek(0)
    if path.suffix == ".npy" or head == _NPY_MAGIC:
        _refuse_object_array(str(path), file)
    elif head.startswith(_ZIP_MAGIC):
        _refuse_pickles_in_zip(path, file)
    elif _PICKLE_HEAD.match(head) and _last_byte(file) == b".":  # "." is the STOP opcode
        raise ArtifactRefused(f"{path}: is a pickle")


def _refuse_pickles_in_zip(path: Path, file: IO[bytes]) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                if member.lower().endswith(_PICKLE_SUFFIXES):
                    raise ArtifactRefused(f"{path}: {member} is a pickle")
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        _refuse_object_array(f"{path}: {member}", stream)
    except zipfile.BadZipFile as error:
        raise ArtifactRefused(f"{path}: {error}") from None


def _refuse_object_array(name: str, stream: IO[bytes]) -> None:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        reader = readers[np.lib.format.read_magic(stream)]
        _, _, dtype = reader(stream)
    except (ValueError, KeyError):
        raise ArtifactRefused(f"{name}: is not a plain numpy array") from None
    if dtype.hasobject:
        raise ArtifactRefused(f"{name}: holds Python objects, which numpy pickles")


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


# -- durable writing ------------------------------------------------------------------------------


def _seal(folder: Path, name: str) -> FileEntry:
    """Flush one file to disk and say what it must be from now on."""
    if PurePosixPath(name) == PurePosixPath(MANIFEST):
        raise ArtifactRefused(f"{folder / name}: the name is reserved")
    _refuse_path(folder / MANIFEST, name)
    with (folder / name).open("rb") as file:
        os.fsync(file.fileno())
        digest = _sha256(file)
        _refuse_pickles(folder / name, file)
        return FileEntry(sha256=digest, size=os.fstat(file.fileno()).st_size)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    """Readers see the old bytes or the new ones, also after a crash."""
    temporary = path.with_name(f".{path.name}.new")
    _write_durably(temporary, data)
    temporary.replace(path)
    sync(path.parent)


def _fsync_folders(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _fsync_folders(path)
    sync(folder)


def _published(home: Path) -> dict[str, bytes]:
    """Version -> its manifest's bytes."""
    if not home.is_dir():
        return {}
    manifests = {path.name: path / MANIFEST for path in home.iterdir() if path.name[0] != "."}
    return {name: path.read_bytes() for name, path in manifests.items() if path.is_file()}


def _created_ms(manifest: bytes) -> int:
    """For the order of a listing only: a manifest that cannot be read sorts first."""
    try:
        return int(json.loads(manifest)["created_ms"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0


# -- what dead writers leave ----------------------------------------------------------------------


def _sweep(home: Path) -> None:
    """Remove the staging folders whose writers are dead: nobody holds their lock any more.

    Called under the tier's lock, so none is just being made.
    """
    for name in {path.name.removesuffix(_ALIVE) for path in home.glob(f"{_STAGING}*")}:
        alive = home / (name + _ALIVE)
        try:
            handle = lock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        shutil.rmtree(home / name, ignore_errors=True)
        alive.unlink()
        os.close(handle)
