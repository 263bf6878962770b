"""`shortlist import` on a stranger's files, in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from shortlist.cli import main
from shortlist.config import Config
from shortlist.schema import Schema
from shortlist.stores.sqlite import SqliteStore


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The files of a tiny shop, and `shop.yaml`."""
    example = checkout / "examples" / "shop"
    spec = importlib.util.spec_from_file_location("make_files", example / "make_files.py")
    assert spec is not None
    assert spec.loader is not None
    make_files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_files)
    folder = tmp_path_factory.mktemp("shop")
    make_files.main(folder, customers=30, products=40, visits=200)
    (folder / "shop.yaml").write_text((example / "shop.yaml").read_text())
    return folder


def import_shop(shop: Path, workdir: Path, *more: str, schema: Path | None = None) -> int:
    schema = schema or shop / "shop.yaml"
    return main(
        ["import", "--schema", str(schema), "--source", str(shop), "-w", str(workdir), *more]
    )


def test_an_import_fills_the_workdir(shop: Path, tmp_path: Path) -> None:
    assert import_shop(shop, tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"dataset", "store.sqlite", "schema.yaml", "shortlist.yaml"} <= names
    assert Schema.load(tmp_path / "schema.yaml") == Schema.load(shop / "shop.yaml")
    assert Config.load(tmp_path / "shortlist.yaml") == Config()


def test_the_report_is_shown_as_tables(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_shop(shop, tmp_path)
    output = capsys.readouterr().out
    assert "view, purchase" in output
    assert "480 / 60 / 60" in output


def test_with_json_the_report_is_one_object(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_shop(shop, tmp_path, "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["interactions"], report["items"]) == (600, 40)
    assert report["train"] + report["validation"] + report["test"] == 600


async def test_profiles_hold_histories_and_attributes(shop: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(import_shop, shop, tmp_path)
    user = (shop / "clickstream.csv").read_text().splitlines()[1].split(",")[0]
    store = SqliteStore(tmp_path / "store.sqlite")
    profile = await store.get(user)
    items = await store.list_items(-1, 1000)
    await store.close()
    assert len(items) == 40
    assert all(item.title and item.attributes for item in items)
    assert profile is not None
    assert len(profile.history) > 0
    assert profile.attributes["city"] in ("Lisbon", "Lyon", "Leeds", "Linz", "Lund")


def test_a_configuration_that_is_there_stays(shop: Path, tmp_path: Path) -> None:
    Config.model_validate({"retrieval": {"shards": 7}}).save(tmp_path / "shortlist.yaml")
    import_shop(shop, tmp_path)
    assert Config.load(tmp_path / "shortlist.yaml").retrieval.shards == 7


def test_a_configuration_with_a_misspelt_option_is_refused_before_anything_is_read(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shortlist.yaml").write_text("retrieval: {shard: 7}\n")
    assert import_shop(shop, tmp_path) == 1
    assert "retrieval.shard" in capsys.readouterr().err
    assert not (tmp_path / "dataset").exists()


def test_bad_rows_are_shown_with_an_example(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for path in shop.iterdir():
        (files / path.name).write_text(path.read_text())
    with (files / "clickstream.csv").open("a") as file:
        file.write("c0@example.org,LAM-0000,yesterday,view\n")
    assert import_shop(files, tmp_path / "w") == 0
    output = capsys.readouterr().out
    assert "Bad rows" in output
    assert "unparsable time" in output
    assert "clickstream.csv:602" in output


def test_too_many_bad_rows_are_one_line_and_leave_the_data_set_of_before(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_shop(shop, tmp_path) == 0
    before = (tmp_path / "dataset" / "dataset.json").read_bytes()
    wrong = yaml.safe_load((shop / "shop.yaml").read_text())
    wrong["interactions"][0]["time"] = "sku"
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert import_shop(shop, tmp_path, schema=tmp_path / "wrong.yaml") == 1
    error = capsys.readouterr().err
    assert "error:" in error
    assert "unparsable time" in error
    assert "Traceback" not in error
    assert (tmp_path / "dataset" / "dataset.json").read_bytes() == before


def test_a_mistake_in_the_schema_names_its_place(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\ninteractions: [{path: a.csv, usr: login}]\n")
    assert import_shop(shop, tmp_path, schema=tmp_path / "bad.yaml") == 1
    assert "interactions[0].usr" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["movietweetings-100k"])
def test_a_preset_imports_real_data(
    name: str, data_folder: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data_folder(name)  # type: ignore[operator]
    arguments = ["import", "--preset", "movietweetings", "--source", str(source)]
    assert main([*arguments, "--workdir", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["interactions"] > 90_000
