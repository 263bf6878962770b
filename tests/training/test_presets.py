from __future__ import annotations

from pathlib import Path

import pytest

from training.presets import PresetNotChosen, UnknownPreset, list_presets, load_preset

PLAIN = [name for name in list_presets() if name != "movielens"]


def test_the_public_sets_are_there() -> None:
    assert set(list_presets()) == {
        "book-crossing",
        "gowalla",
        "movielens",
        "movielens-1m",
        "movielens-20m",
        "movielens-25m",
        "movielens-32m",
        "movielens-latest-small",
        "movietweetings",
    }


@pytest.mark.parametrize("name", PLAIN)
def test_every_preset_says_its_licence_and_where_it_comes_from(name: str) -> None:
    schema = load_preset(name)
    assert schema.name == name
    assert schema.dataset is not None
    assert schema.dataset.licence.text
    assert schema.dataset.downloads


@pytest.mark.parametrize("name", PLAIN)
def test_what_a_preset_downloads_has_the_files_it_reads(name: str) -> None:
    schema = load_preset(name)
    assert schema.dataset is not None
    fetched = {file for d in schema.dataset.downloads for file in (d.members or (d.file_name,))}
    assert {path for table in schema.tables for path in table.path} <= fetched


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownPreset, match="movietweetings"):
        load_preset("moovielens")


@pytest.mark.parametrize("name", ["../presets/gowalla", "gowalla.yaml", ""])
def test_a_path_is_no_preset(name: str) -> None:
    with pytest.raises(UnknownPreset):
        load_preset(name)


def test_the_files_in_the_folder_choose_the_layout(tmp_path: Path) -> None:
    for name in ("ratings.csv", "movies.csv"):
        (tmp_path / name).touch()
    assert load_preset("movielens", tmp_path).name == "movielens-latest-small"
    for name in ("ratings.dat", "movies.dat", "users.dat"):
        (tmp_path / name).touch()
    assert load_preset("movielens", tmp_path).name == "movielens-1m"


def test_a_folder_with_neither_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PresetNotChosen, match="movielens-1m"):
        load_preset("movielens", tmp_path)
    with pytest.raises(PresetNotChosen, match="say which"):
        load_preset("movielens")
