"""What a service's process says to libraries before they are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_SERVICE = """
import json, os, sys
import click
from shortlist.process import service_options

assert not {"numpy", "pyarrow"} & sys.modules.keys()

@click.command()
@service_options("test", versioned=False)
def main(arguments):
    import pyarrow
    print(json.dumps([pyarrow.default_memory_pool().backend_name, os.environ["OMP_NUM_THREADS"]]))

main()
"""
_ASKED = ("ARROW_DEFAULT_MEMORY_POOL", "OMP_NUM_THREADS")


def said(**environment: str) -> list[str]:
    """Arrow's memory and the threads of BLAS, as a service finds them."""
    kept = {name: value for name, value in os.environ.items() if name not in _ASKED}
    run = subprocess.run(
        [sys.executable, "-c", _SERVICE],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer: list[str] = json.loads(run.stdout)
    return answer


def test_arrow_has_the_memory_of_everybody_and_blas_one_thread() -> None:
    assert said() == ["system", "1"]


def test_whoever_starts_it_may_want_others() -> None:
    chosen = said(ARROW_DEFAULT_MEMORY_POOL="mimalloc", OMP_NUM_THREADS="2")
    assert chosen == ["mimalloc", "2"]
