"""Download a public data set from its publisher: licence first, and nothing is kept unchecked."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from shortlist.errors import ShortlistError
from shortlist.schema import DatasetCard, Download, Schema
from training.presets import load_preset

__all__ = [
    "ChecksumMismatch",
    "DownloadFailed",
    "FetchedFile",
    "LicenceNotAccepted",
    "UnsafeArchive",
    "fetch",
    "fetch_schema",
    "licence_text",
]

Progress = Callable[[str, int, int | None], None]

_TIMEOUT_S = 30.0
_BLOCK_BYTES = 1 << 20
# Text tables shrink to a fifth; a hundredth is no table.
_MOST_EXPANSION = 100


class LicenceNotAccepted(ShortlistError):
    """The terms of the publisher were shown and not agreed to; nothing was downloaded."""

    status_name = "FAILED_PRECONDITION"


class DownloadFailed(ShortlistError):
    """The publisher cannot be reached, or did not send the whole file."""

    status_name = "UNAVAILABLE"


class ChecksumMismatch(ShortlistError):
    """The file is not the one that the publisher, or the preset, describes; it was thrown away."""

    status_name = "FAILED_PRECONDITION"


class UnsafeArchive(ShortlistError):
    """The archive is damaged, or has an entry that a data set has no use for."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """One download: where it came from, what it is, and who vouches for it."""

    url: str
    sha256: str
    verified_by: str  # "sha256", "md5", "md5 of the publisher"; or "nobody: ..." with the reason
    files: tuple[Path, ...]  # what it left in the folder


@dataclass(frozen=True, kw_only=True)
class _Received:
    path: Path
    sha256: str
    md5: str


def fetch(
    name: str,
    out: Path,
    *,
    accept_licence: bool,
    show: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> tuple[FetchedFile, ...]:
    """Download the preset `name` into the folder `out`.

    `show` receives the licence before anything else happens, and later the sha256 of each file that
    nobody vouches for. Nothing appears in `out` until all is downloaded and checked. Raises
    `LicenceNotAccepted`, `DownloadFailed`, `ChecksumMismatch`, `UnsafeArchive` or `UnknownPreset`.
    """
    schema = load_preset(name)
    return fetch_schema(schema, out, accept_licence=accept_licence, show=show, progress=progress)


def fetch_schema(
    schema: Schema,
    out: Path,
    *,
    accept_licence: bool,
    show: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> tuple[FetchedFile, ...]:
    """`fetch` for any schema with a `dataset` block."""
    card = schema.dataset
    if card is None or not card.downloads:
        raise DownloadFailed(f"{schema.name} says nowhere to download from\n{_by_hand(schema)}")
    show(licence_text(card))
    if not accept_licence:
        raise LicenceNotAccepted(f"accept the licence of {schema.name} to download it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        fetched = []
        for at, download in enumerate(card.downloads):
            folder = Path(temporary) / str(at)
            folder.mkdir()
            fetched.append(_fetch_one(download, folder, schema, progress or _no_progress))
        for file in fetched:
            if file.verified_by.startswith("nobody"):
                show(f"{file.url}\n  checked by {file.verified_by}\n  sha256 {file.sha256}")
        return tuple(_moved(file, out) for file in fetched)


def licence_text(card: DatasetCard) -> str:
    """What a person has to read before the download."""
    licence = card.licence
    where = f"\n{licence.url}" if licence.url else ""
    return (
        f"{card.description}\n{card.homepage}\n\n"
        f"Licence: {licence.name}{where}\n{licence.text}\n\nCite: {card.citation}"
    )


def _fetch_one(download: Download, folder: Path, schema: Schema, progress: Progress) -> FetchedFile:
    try:
        received = _receive(download.url, folder / download.file_name, progress)
        verified_by = _verify(download, received)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadFailed(
            f"cannot download {download.url}: {reason}\n{_by_hand(schema)}"
        ) from error
    files = _extract(received.path, download) if download.archive else (received.path,)
    return FetchedFile(
        url=download.url, sha256=received.sha256, verified_by=verified_by, files=files
    )


def _by_hand(schema: Schema) -> str:
    needed = [path for table in schema.tables if not table.optional for path in table.path]
    where = f" from {schema.dataset.homepage}" if schema.dataset else ""
    return (
        f"Without the network: get {', '.join(needed)}{where} in some other way, put them into one "
        "folder, and give that folder with --source FOLDER."
    )


def _receive(url: str, path: Path, progress: Progress) -> _Received:
    """Stream `url` to `path`. Raises `OSError` or `HTTPException` when it does not arrive whole."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    done = 0
    with _open(url) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        while block := response.read(_BLOCK_BYTES):
            file.write(block)
            sha256.update(block)
            md5.update(block)
            done += len(block)
            progress(path.name, done, total)
    if total is not None and done != total:
        raise OSError(f"the connection closed after {done:,} of {total:,} bytes")
    return _Received(path=path, sha256=sha256.hexdigest(), md5=md5.hexdigest())


def _open(url: str):  # type: ignore[no-untyped-def]  # a response of urllib has no public type
    request = urllib.request.Request(url, headers={"User-Agent": "shortlist-data-fetch"})
    return urllib.request.urlopen(request, timeout=_TIMEOUT_S)


def _verify(download: Download, received: _Received) -> str:
    """Who vouches for the file. Raises `ChecksumMismatch`."""
    if download.sha256:
        _compare(download.url, "sha256", download.sha256, received.sha256)
        return "sha256"
    if download.md5:
        _compare(download.url, "md5", download.md5, received.md5)
        return "md5"
    if download.md5_url:
        try:
            published = _published_md5(download.md5_url)
        except urllib.error.HTTPError:
            if not download.unverified:
                raise
        else:
            _compare(download.url, "md5", published, received.md5)
            return "md5 of the publisher"
    return f"nobody: {download.unverified}"


def _compare(url: str, kind: str, expected: str, actual: str) -> None:
    if expected != actual:
        raise ChecksumMismatch(f"{url}: {kind} is {actual}, expected {expected}")


def _published_md5(url: str) -> str:
    with _open(url) as response:
        text = response.read(4096).decode("ascii", "replace")
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if found is None:
        raise ChecksumMismatch(f"{url} holds no md5")
    return found.group().lower()


def _extract(archive: Path, download: Download) -> tuple[Path, ...]:
    """Put the members, without their folders, beside the archive and remove it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            chosen = _chosen_members(opened, download, archive.stat().st_size)
            paths = tuple(_extract_one(opened, member, archive.parent) for member in chosen)
    except zipfile.BadZipFile as error:
        raise UnsafeArchive(f"{download.url} is damaged: {error}") from error
    archive.unlink()
    return paths


def _chosen_members(
    opened: zipfile.ZipFile, download: Download, archive_bytes: int
) -> list[zipfile.ZipInfo]:
    """The members to extract. Raises `UnsafeArchive` for the whole archive if any is suspicious."""
    chosen: dict[str, zipfile.ZipInfo] = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise UnsafeArchive(f"{download.url}: entry {member.filename!r} leaves its folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsafeArchive(f"{download.url}: entry {member.filename!r} is a link")
        if member.is_dir() or (download.members and path.name not in download.members):
            continue
        if path.name in chosen or path.name == download.file_name:
            raise UnsafeArchive(f"{download.url}: two entries are named {path.name!r}")
        chosen[path.name] = member
    if sum(member.file_size for member in chosen.values()) > _MOST_EXPANSION * archive_bytes:
        raise UnsafeArchive(f"{download.url} unpacks to over {_MOST_EXPANSION} times its size")
    return list(chosen.values())


def _extract_one(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> Path:
    path = folder / PurePosixPath(member.filename.replace("\\", "/")).name
    with opened.open(member) as source, path.open("xb") as target:
        shutil.copyfileobj(source, target, _BLOCK_BYTES)
    return path


def _moved(file: FetchedFile, out: Path) -> FetchedFile:
    out.mkdir(exist_ok=True)
    there = tuple(path.replace(out / path.name) for path in file.files)
    return FetchedFile(url=file.url, sha256=file.sha256, verified_by=file.verified_by, files=there)


def _no_progress(what: str, done: int, total: int | None) -> None:
    """Nobody watches."""
