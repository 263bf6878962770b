"""What a candidate source is, and what it is opened with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats, Hits, Index
from retrieval_svc.rows import EVERY_ROW, Allowed, Keys
from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from shortlist.errors import ArtifactCorrupt
from shortlist.tiers import UserContext

__all__ = [
    "NO_HITS",
    "CatalogueItems",
    "CatalogueSource",
    "Describer",
    "SearchingSource",
    "SharingSource",
    "SliceView",
    "Source",
    "SourceQuery",
]

T = TypeVar("T")

NO_HITS: Hits = (np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceQuery:
    """One question to every source of a slice."""

    user: UserContext
    allowed: Allowed = EVERY_ROW  # no source may propose any other row
    _found: dict[str, Any] = field(default_factory=dict)

    def once(self, what: str, find: Callable[[], T]) -> T:
        """What `find` returns; found once for all segments and sources that call it the same.

        So a user's taste is not computed for each segment, and cannot differ between them.
        """
        if what not in self._found:
            self._found[what] = find()
        found: T = self._found[what]
        return found

    def where(self, allowed: Allowed) -> SourceQuery:
        """The same question to other rows; what was found once holds for both."""
        return replace(self, allowed=allowed)


class Source(Protocol):
    """Proposes items of one slice to one user."""

    @property
    def name(self) -> str: ...

    @classmethod
    def open(cls, view: SliceView) -> Self:
        """Raises `ArtifactCorrupt` or `ArtifactRefused`, naming the file."""
        ...

    def propose(self, query: SourceQuery, k: int) -> Hits:
        """The source's best `k` rows of those that are allowed, best first, with finite scores.

        Fewer than `k` only when no more of its rows are allowed, however few those are. None when
        the source has nothing to say to this user. Scores of one source may be compared
        across shards, and an item's score does not depend on how the items are divided. Called from
        several threads at once. May raise anything: the other sources then answer without this one.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueItems:
    """Items as the catalogue describes them now, n of them, of any slice."""

    keys: Keys  # uint64 [n], ascending
    columns: Mapping[str, Sequence[Any]]  # feature -> a value a row, None = missing
    published_ms: npt.NDArray[np.int64]  # [n], 0 = unknown
    vectors: Floats  # float32 [n, dim], unit length, of the two-tower

    def __len__(self) -> int:
        return len(self.keys)


class Describer(Protocol):
    """Makes of items what one source has to know of them. Called from one thread."""

    def describe(self, items: CatalogueItems) -> SourceData:
        """Columns and lists as training would make them of these items; no row depends on others.

        An item's data follow from the artifact and the item alone, whatever happened in between.
        """
        ...

    def remember(self, items: CatalogueItems, data: SourceData) -> None:
        """Know the items in histories from now on; `data` is what `describe` made of them."""
        ...


@runtime_checkable
class CatalogueSource(Protocol):
    """A source that knows items by what the catalogue says of them.

    When an item changes, its old row is dead for such a source. For all others, which know items by
    what happened to them, it stays.
    """

    def describer(self, view: SliceView) -> Describer:
        """`view` is the one that the source was opened with."""
        ...


@runtime_checkable
class SharingSource(Protocol):
    """A source of which a part is of no slice: what it makes of a user."""

    def over(self, view: SliceView) -> Self:
        """The same, sharing that part, over other items."""
        ...


@runtime_checkable
class SearchingSource(Protocol):
    """A source that finds its items in an index, which may miss some."""

    index: Index

    def exact(self) -> Source:
        """The same over an index that misses nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceView:
    """What one source may see of one slice of an artifact.

    The accessors check what they hand out, and raise `ArtifactCorrupt` naming the file.
    """

    source: str
    keys: Keys  # uint64 [n], ascending
    vectors: Floats  # float32 [n, dim], unit length: the two-tower's
    watermark_ms: int  # newest event that the version was trained on
    data: SourceData
    shared: SharedData
    slice_folder: Path
    artifact: Path
    siblings: Mapping[str, SliceView]  # the views of all sources of this slice

    @property
    def index_folder(self) -> Path:
        return self.slice_folder / self.source / "index"

    def sibling(self, name: str) -> SliceView | None:
        """What another source sees; None where the version does not have it."""
        return self.siblings.get(name)

    def column(self, name: str, dtype: type[np.generic], dimensions: int = 1) -> npt.NDArray[Any]:
        """[n] or [n, d]."""
        path = self.slice_folder / self.source / f"{name}.npy"
        return _checked(self.data.columns.get(name), path, dtype, dimensions)

    def lists(self, name: str) -> PostingLists:
        if name not in self.data.lists:
            raise ArtifactCorrupt(f"{self.slice_folder / self.source / name}.terms.npy: missing")
        return self.data.lists[name]

    def array(self, name: str, dtype: type[np.generic], dimensions: int = 1) -> npt.NDArray[Any]:
        """An array that all shards share."""
        return _checked(self.shared.arrays.get(name), self.shared_path(name), dtype, dimensions)

    def shared_keys(self) -> Keys:
        """uint64 [N], ascending: the items, of all shards, that the other shared arrays tell of."""
        keys = self.array("keys", np.uint64)
        if not (keys[1:] > keys[:-1]).all():
            raise ArtifactCorrupt(f"{self.shared_path('keys')}: does not ascend")
        return keys

    def number(self, name: str) -> float:
        value = self.optional_number(name)
        if value is None:
            raise ArtifactCorrupt(f"{self._settings_path}: has no {name!r}")
        return value

    def optional_number(self, name: str) -> float | None:
        value = self.shared.settings.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ArtifactCorrupt(f"{self._settings_path}: {name} is {value!r}, not a number")
        return float(value)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.shared.settings.get(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ArtifactCorrupt(f"{self._settings_path}: {name} is {values!r}, not a list")
        return tuple(values)

    def shared_path(self, name: str) -> Path:
        return self.artifact / self.source / f"{name}.npy"

    @property
    def _settings_path(self) -> Path:
        return self.artifact / self.source / "settings.json"


def _checked(
    array: npt.NDArray[Any] | None, path: Path, dtype: type[np.generic], dimensions: int
) -> npt.NDArray[Any]:
    if array is None:
        raise ArtifactCorrupt(f"{path}: missing")
    if array.dtype != dtype or array.ndim != dimensions:
        raise ArtifactCorrupt(
            f"{path}: holds {array.dtype} {array.shape} instead of {np.dtype(dtype)} "
            f"of {dimensions} dimensions"
        )
    return array
