"""The command line as a user meets it: help that teaches, one-line errors, exit codes, JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from shortlist.cli import cli, main
from shortlist.errors import ShortlistError


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in group.commands.items():
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


COMMANDS = commands()
NAMES = [" ".join(path) for path, _ in COMMANDS]


def test_every_promised_command_is_there() -> None:
    assert set(cli.commands) == {
        "import", "tune", "train", "evaluate", "serve", "up", "recommend", "similar", "demo",
        "data", "events", "items", "forget", "redeploy", "rollback", "rollout",
    }  # fmt: skip


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=NAMES)
def test_help_of_every_command_has_an_example(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert "shortlist" in text.split("Options:")[0].split("\n", 2)[2] or path == ("data", "list")


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=NAMES)
def test_every_option_has_a_help_text(path: tuple[str, ...]) -> None:
    command = dict(COMMANDS)[path]
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "shortlist demo" in capsys.readouterr().out


def test_an_unknown_command_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recomend"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: No such command 'recomend'")
    assert captured.err.count("\n") == 1


def test_a_missing_option_names_it_and_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    error = capsys.readouterr().err
    assert "--workdir" in error
    assert "shortlist train --help" in error


def test_a_shortlist_error_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["up", "--workdir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "ranking" in error
    assert "Traceback" not in error


def test_an_unexpected_error_shows_no_traceback_unless_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken() -> None:
        raise KeyError("no such thing")

    monkeypatch.setitem(cli.commands, "broken", broken)
    assert main(["broken"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: internal: KeyError: 'no such thing'")
    assert "Traceback" not in error
    with pytest.raises(KeyError):
        main(["--debug", "broken"])


def test_details_below_the_first_line_of_an_error_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def failing() -> None:
        raise ShortlistError("it died; its log ends with:\n[first]\nsecond")

    monkeypatch.setitem(cli.commands, "failing", failing)
    assert main(["failing"]) == 1
    assert capsys.readouterr().err == "error: it died; its log ends with:\n[first]\nsecond\n"


def test_a_missing_extra_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def bare() -> None:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    monkeypatch.setitem(cli.commands, "bare", bare)
    assert main(["bare"]) == 1
    assert "ray is not installed" in capsys.readouterr().err


def test_an_interrupt_ends_with_the_code_of_sigint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.commands, "interrupted", interrupted)
    assert main(["interrupted"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SHORTLIST_WORKDIR", "somewhere"), ("SHORTLIST_TRAIN_WORKDIR", "somewhere")],
)
def test_options_are_environment_variables_too(
    variable: str,
    value: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["train"]) == 2
    assert "no data set in somewhere" in capsys.readouterr().err


def test_recommend_wants_a_user_or_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--workdir", "w"]) == 2
    assert main(["recommend", "--workdir", "w", "--user", "1", "--cold"]) == 2
    assert capsys.readouterr().err.count("either --user ID or --cold") == 2


def test_recommend_wants_a_server_or_a_workdir(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--user", "1"]) == 2
    assert "--target" in capsys.readouterr().err


def test_a_context_that_is_no_pair_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--user", "1", "--workdir", "w", "--context", "phone"]) == 1
    assert "'phone' is not NAME=VALUE" in capsys.readouterr().err


def test_import_wants_one_schema(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["import", "--source", str(tmp_path), "--workdir", str(tmp_path)]
    assert main(arguments) == 2
    assert "--schema" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(checkout: Path) -> None:
    command = f"{sys.executable} -m shortlist data list | head -1"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_data_command_lists_and_shows_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    assert "movietweetings" in capsys.readouterr().out
    assert main(["data", "show", "movietweetings"]) == 0
    assert "ratings.dat" in capsys.readouterr().out
    assert main(["data", "show", "no-such-set"]) == 1
    assert "no preset 'no-such-set'" in capsys.readouterr().err


def test_a_fetch_without_the_licence_shows_it_and_downloads_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["data", "fetch", "movietweetings", "--to", str(tmp_path / "d")]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "MIT" in captured.out
    assert "accept the licence" in captured.err
    assert not (tmp_path / "d").exists()
