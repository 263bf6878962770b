from __future__ import annotations

from pathlib import Path

from shortlist.commands.demo import _write_fast_config
from shortlist.config import Config


def test_a_fast_demo_trains_for_fewer_epochs(tmp_path: Path) -> None:
    _write_fast_config(tmp_path / "new")
    fast, usual = Config.load(tmp_path / "new" / "shortlist.yaml"), Config()
    assert fast.retrieval.two_tower.epochs < usual.retrieval.two_tower.epochs
    assert fast.ranking.dcn.epochs < usual.ranking.dcn.epochs


def test_a_fast_demo_keeps_the_configuration_of_its_workdir(tmp_path: Path) -> None:
    (tmp_path / "shortlist.yaml").write_text("slate: {page_size: 7}", "utf-8")
    _write_fast_config(tmp_path)
    assert Config.load(tmp_path / "shortlist.yaml").slate.page_size == 7
