from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

from shortlist.commands.terminal import Terminal


def run(program: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )


def test_json_is_the_only_thing_on_stdout_whatever_libraries_print(checkout: Path) -> None:
    done = run(
        """
        import os
        from shortlist.commands.terminal import Terminal
        terminal = Terminal(as_json=True)
        with terminal.only_json():
            print("from python")
            os.write(1, b"from C\\n")
            with terminal.step("Measuring"):
                pass
        terminal.out.print("a table")
        terminal.emit({"answer": 42})
        """,
        checkout,
    )
    assert json.loads(done.stdout) == {"answer": 42}
    assert done.stdout.count("\n") == 1
    for text in ("from python", "from C", "Measuring", "a table"):
        assert text in done.stderr


def test_without_json_tables_go_to_stdout_and_progress_to_stderr(checkout: Path) -> None:
    done = run(
        """
        from shortlist.commands.terminal import Terminal
        terminal = Terminal()
        with terminal.only_json(), terminal.progress() as report:
            report("reading", 10, 20)
            report("reading", 20, 20)
            report("sorting", 0, None)
        terminal.out.print("a table")
        terminal.emit({"answer": 42})
        """,
        checkout,
    )
    assert done.stdout == "a table\n"
    assert "reading" in done.stderr
    assert "sorting" in done.stderr


def test_output_through_a_pipe_is_wide_enough_for_tables() -> None:
    assert Terminal().out.width >= 80
