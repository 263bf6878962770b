from __future__ import annotations

from click.testing import CliRunner

from ranking_svc.__main__ import main


def test_help_teaches_with_examples() -> None:
    text = CliRunner().invoke(main, ["--help"], prog_name="python -m ranking_svc").output
    assert "python -m ranking_svc --workdir W --port 7101" in text
    assert "SHORTLIST_ENGINE" in text


def test_an_unknown_engine_is_refused_with_the_ones_there_are() -> None:
    done = CliRunner().invoke(main, ["--workdir", "W", "--engine", "abacus"])
    assert done.exit_code == 2
    assert "'onnx', 'numpy', 'savedmodel'" in done.stderr
