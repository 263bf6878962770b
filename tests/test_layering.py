"""The import arrows of ARCHITECTURE.md, held by reading every module's imports.

The tables below are the rules; the rest of this file applies them.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGES = (
    "shortlist",
    "retrieval_svc",
    "ranking_svc",
    "orchestrator",
    "training",
    "simulator",
    "benchmarks",
)
TIERS = ("retrieval_svc", "ranking_svc")

# package -> the packages that its modules may import, besides itself
ARROWS: dict[str, tuple[str, ...]] = {
    "shortlist": (),
    "retrieval_svc": ("shortlist",),
    "ranking_svc": ("shortlist",),
    "orchestrator": ("shortlist",),
    "training": ("shortlist", "retrieval_svc", "ranking_svc", "orchestrator"),
    "simulator": ("shortlist",),
    "benchmarks": PACKAGES,
}

# file pattern -> packages that it may import beyond its package's arrows
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    # The one place that puts tiers into the orchestrator's process (I7).
    "orchestrator/embedded.py": TIERS,
}

# file pattern -> packages that it may import inside functions only (or for its annotations): the
# command line starts everything, and loads nothing that the command at hand does not need.
LAZY_EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "shortlist/commands/*.py": ("training", "simulator", "orchestrator"),
}

# library -> files that may import it at all (I8: serving imports neither TensorFlow nor Ray)
LIBRARIES: dict[str, tuple[str, ...]] = {
    "tensorflow": ("training/*", "ranking_svc/models/dcn.py", "benchmarks/*"),
    "tensorflow_recommenders": ("training/*",),
    "tf_keras": ("training/*",),
    "keras": (),  # Keras 3 and TensorFlow Recommenders do not go together
    "ray": ("training/*", "shortlist/commands/train.py", "benchmarks/*"),
    "scann": ("retrieval_svc/scann_*.py", "benchmarks/*"),
    "lightgbm": ("training/*", "benchmarks/*"),  # trees serve from their own table of nodes
    "onnx": ("training/*", "benchmarks/*"),
    "onnxruntime": ("ranking_svc/*", "training/*", "benchmarks/*"),
    "pyarrow": ("retrieval_svc/*", "ranking_svc/*", "training/*", "simulator/*", "benchmarks/*"),
}

# files that may see generated protobuf classes
PROTOBUF = (
    "shortlist/v1/*",
    "*/servicer.py",
    "benchmarks/serving/wire.py",
    "benchmarks/live/flow.py",
    "orchestrator/*_servicer.py",
    "shortlist/admin.py",
    "shortlist/client.py",
    "shortlist/feed_wire.py",
    "shortlist/remote.py",
    "shortlist/rollout_client.py",
    "shortlist/serving.py",
    "shortlist/wire.py",
)

# entry point of a serving process -> what must not be loaded by importing it
SERVING_PROCESSES: dict[str, tuple[str, ...]] = {
    "retrieval_svc.__main__": ("tensorflow", "ray", "training", "simulator", "orchestrator"),
    "ranking_svc.__main__": ("tensorflow", "ray", "training", "simulator", "orchestrator"),
    "orchestrator.__main__": ("tensorflow", "ray", "training", "simulator", "scann"),
    "shortlist.cli": ("tensorflow", "ray", "training", "simulator", "orchestrator", "grpc"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module name, and where."""

    path: str  # relative to the checkout
    line: int
    module: str
    lazy: bool  # inside a function, or under TYPE_CHECKING

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


@pytest.fixture(scope="module")
def imports(checkout: Path) -> list[Import]:
    return list(_imports(checkout))


def test_packages_follow_the_import_arrows(imports: list[Import]) -> None:
    offenders = [str(i) for i in imports if i.top in PACKAGES and not _arrow_allows(i)]
    assert offenders == []


def test_heavy_libraries_stay_where_they_belong(imports: list[Import]) -> None:
    offenders = [str(i) for i in imports if i.top in LIBRARIES and not _any(i, LIBRARIES[i.top])]
    assert offenders == []


def test_generated_protobuf_classes_stay_at_the_edges(imports: list[Import]) -> None:
    offenders = [str(i) for i in imports if _is_protobuf(i) and not _any(i, PROTOBUF)]
    assert offenders == []


@pytest.mark.parametrize("entry", SERVING_PROCESSES)
def test_importing_a_serving_process_loads_nothing_heavy(entry: str, checkout: Path) -> None:
    loaded = _modules_after_importing(entry, checkout)
    assert sorted(loaded & set(SERVING_PROCESSES[entry])) == []


def test_the_rules_notice_a_wrong_arrow() -> None:
    source = "import shortlist.ids\nfrom orchestrator import up\ndef f():\n    import training\n"
    found = list(_imports_of(source, "retrieval_svc/shard.py"))
    assert [(i.module, i.lazy, _arrow_allows(i)) for i in found] == [
        ("shortlist.ids", False, True),
        ("orchestrator", False, False),
        ("training", True, False),
    ]


def test_the_command_line_may_import_training_inside_functions_only() -> None:
    source = "import training.evaluate\ndef f():\n    import training.evaluate\n"
    found = list(_imports_of(source, "shortlist/commands/evaluate.py"))
    assert [_arrow_allows(i) for i in found] == [False, True]


def _arrow_allows(found: Import) -> bool:
    package = found.path.partition("/")[0]
    allowed = {package, *ARROWS[package], *_matching(found.path, EXCEPTIONS)}
    if found.lazy:
        allowed |= set(_matching(found.path, LAZY_EXCEPTIONS))
    return found.top in allowed


def _is_protobuf(found: Import) -> bool:
    return found.module == "shortlist.v1" or found.module.startswith("shortlist.v1.")


def _any(found: Import, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(found.path, pattern) for pattern in patterns)


def _matching(path: str, rules: dict[str, tuple[str, ...]]) -> Iterator[str]:
    for pattern, packages in rules.items():
        if fnmatch.fnmatch(path, pattern):
            yield from packages


def _imports(checkout: Path) -> Iterator[Import]:
    for package in PACKAGES:
        for file in sorted((checkout / package).rglob("*.py")):
            path = file.relative_to(checkout).as_posix()
            yield from _imports_of(file.read_text("utf-8"), path)


def _imports_of(source: str, path: str) -> Iterator[Import]:
    tree = ast.parse(source, path)
    lazy_nodes = {
        id(node) for block in ast.walk(tree) if _is_lazy(block) for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        for module in _modules_of(node):
            yield Import(path=path, line=node.lineno, module=module, lazy=id(node) in lazy_nodes)


def _is_lazy(block: ast.AST) -> bool:
    """A function's body runs when it is called; what is under TYPE_CHECKING, never."""
    if isinstance(block, ast.If):
        return isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
    return isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _modules_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        # `from shortlist import v1` names a module, too.
        yield from _from_names(node.module, [alias.name for alias in node.names])


def _from_names(module: str, names: list[str]) -> Iterator[str]:
    if module == "shortlist" and "v1" in names:
        yield "shortlist.v1"
    else:
        yield module


def _modules_after_importing(entry: str, checkout: Path) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after `import entry`."""
    code = (
        f"import sys, json, importlib; importlib.import_module({entry!r}); "
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))
