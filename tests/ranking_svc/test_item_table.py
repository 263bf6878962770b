from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from ranking_svc.item_table import ItemTable
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from tests.ranking_svc.tables import STRANGER, table


def test_unknown_keys_have_the_last_row() -> None:
    keys = np.array([50, STRANGER, 10, 0, 2**64 - 1], np.uint64)
    assert table().rows_of(keys).tolist() == [4, 5, 0, 5, 5]


def test_an_empty_table_knows_nothing() -> None:
    empty = replace(table(), keys=np.zeros(0, np.uint64))
    assert empty.rows_of(np.array([1, 2], np.uint64)).tolist() == [0, 0]


def test_a_saved_table_is_read_back(tmp_path: Path) -> None:
    table().save(tmp_path)
    loaded = ItemTable.load(tmp_path)
    for field in fields(ItemTable):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(table(), field.name))


def test_a_loaded_table_is_its_files(tmp_path: Path) -> None:
    table().save(tmp_path)
    loaded = ItemTable.load(tmp_path)
    for field in fields(ItemTable):
        column = getattr(loaded, field.name)
        assert type(column) is np.ndarray  # each index into a memmap makes another one
        assert not column.flags.writeable
        assert not column.flags.owndata


@pytest.mark.parametrize("name", [field.name for field in fields(ItemTable)])
def test_a_column_that_is_missing_or_garbage_is_refused_and_named(
    tmp_path: Path, name: str
) -> None:
    table().save(tmp_path)
    path = tmp_path / f"{name}.npy"
    path.write_bytes(b"garbage")
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        ItemTable.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        ItemTable.load(tmp_path)


ALIGNED = [f.name for f in fields(ItemTable) if f.name not in ("keys", "token_shares")]


@pytest.mark.parametrize("name", ALIGNED)
def test_a_column_of_another_length_is_refused_and_named(tmp_path: Path, name: str) -> None:
    changed = replace(table(), **{name: getattr(table(), name)[:-1]})
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy has 5 rows, not 6"):
        changed.save(tmp_path)


FLOATS = [
    *("vectors", "factors", "statistics", "token_weights", "numeric", "places", "affinities"),
    "token_shares",
]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_column_that_is_not_finite_is_refused_and_named(
    tmp_path: Path, name: str, value: float
) -> None:
    column = getattr(table(), name).copy()
    column.ravel()[-1] = value
    with pytest.raises(ArtifactRefused, match=rf"{name}\.npy holds NaN or Inf"):
        replace(table(), **{name: column}).save(tmp_path)


def test_places_are_points(tmp_path: Path) -> None:
    flat = replace(table(), places=np.zeros((6, 1, 2), np.float32))
    with pytest.raises(ArtifactCorrupt, match=r"places\.npy has shape \(6, 1, 2\)"):
        flat.save(tmp_path)
