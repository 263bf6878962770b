"""Artifacts behind an fsspec URL (S3, GCS, ...), and the local folder they are synced to.

`fsspec` and the file system's own package (`s3fs`, `gcsfs`) are optional and imported on use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist.errors import ArtifactRefused

__all__ = ["Mirror"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A remote root with the layout of a local one: `<tier>/<version>/...` and `<tier>/current`."""

    url: str
    local: Path
    files: Any  # an fsspec.AbstractFileSystem
    base: str  # `url` without its protocol

    @staticmethod
    def of(url: str, cache: Path | None) -> Mirror:
        """Raises `ArtifactRefused` if the packages for this kind of URL are not installed."""
        try:
            import fsspec

            files, base = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ArtifactRefused(f"{url}: needs fsspec and its file system: {error}") from None
        if cache is None:
            digest = hashlib.sha256(url.encode()).hexdigest()[:16]
            cache = Path.home() / ".cache" / "shortlist" / digest
        return Mirror(url=url.rstrip("/"), local=cache, files=files, base=base.rstrip("/"))

    def read(self, tier: str, name: str) -> bytes:
        """Raises `FileNotFoundError`."""
        self.files.invalidate_cache()  # another machine may just have written it
        data: bytes = self.files.cat_file(f"{self.base}/{tier}/{name}")
        return data

    def write(self, tier: str, name: str, data: bytes) -> None:
        """One whole object; object stores replace it atomically."""
        self.files.makedirs(f"{self.base}/{tier}", exist_ok=True)
        self.files.pipe_file(f"{self.base}/{tier}/{name}", data)

    def versions(self, tier: str, manifest: str) -> dict[str, bytes]:
        """Version -> its manifest's bytes. A version without one is not published."""
        self.files.invalidate_cache()
        found = self.files.glob(f"{self.base}/{tier}/*/{manifest}")
        return {path.split("/")[-2]: self.files.cat_file(path) for path in found}

    def fetch(self, tier: str, version: str, name: str, target: Path) -> bool:
        """Copy one file here; False if it is not there."""
        try:
            self.files.get_file(f"{self.base}/{tier}/{version}/{name}", str(target))
        except FileNotFoundError:
            return False
        return True

    def push(self, folder: Path, tier: str, version: str, *, last: str) -> None:
        """Upload a published folder; the file named `last` makes it visible."""
        names = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
        for name in sorted(names, key=lambda name: name == last):
            remote = f"{self.base}/{tier}/{version}/{name}"
            self.files.makedirs(remote.rsplit("/", 1)[0], exist_ok=True)
            self.files.put_file(str(folder / name), remote)
