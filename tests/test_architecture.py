"""The house keeps its shape: who may import whom, what lies where, what is never used.

The rules are those of CONTRIBUTING.md; a failing test names the file and the line.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
ROOMS = ("flows", "moa", "preprocessing", "reports")
MAY_IMPORT = {"flows": {"moa", "preprocessing", "reports"}, "moa": set(), "preprocessing": set(), "reports": set()}
TORCH_FREE = [
    "flows",
    "flows.overrides",
    "flows.presets",
    "flows.settings",
    "moa.config",
    "moa.evaluation.suite",
    "moa.train_config",
    "preprocessing.config",
    "reports.build",
]
VERBS = ("preprocess", "train", "publish", "evaluate", "gate", "rollback", "lifecycle", "ablate")
FORMAT_NAME = re.compile(r"moa-[a-z]+/\d+")
SOURCES = [path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports(path: Path) -> list[tuple[str, int]]:
    """Every imported module with its line, those inside functions too; relative imports as `.`."""
    found = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(("." if node.level else node.module or "", node.lineno))
    return found


def test_there_is_something_to_check() -> None:
    assert {name_of(path).split("/")[0] for path in SOURCES} == set(ROOMS)


def test_arrows() -> None:
    """flows -> {preprocessing, moa, reports}; these three never import each other; nobody imports flows or tests."""
    wrong = []
    for path in SOURCES:
        room = name_of(path).split("/")[0]
        forbidden = {*ROOMS, "tests"} - MAY_IMPORT[room] - {room}
        wrong += [f"{name_of(path)}:{line}: {name}" for name, line in imports(path) if name.split(".")[0] in forbidden]
    assert not wrong


def test_prefect_stays_in_flows() -> None:
    rest = [path for path in SOURCES if not name_of(path).startswith("flows/")]
    wrong = [
        f"{name_of(path)}:{line}" for path in rest for name, line in imports(path) if name.split(".")[0] == "prefect"
    ]
    assert not wrong


def test_nothing_unpickles() -> None:
    """Weights are safetensors, records are JSON: a downloaded file never runs code, and no pickle is written."""
    picklers = {"pickle", "dill", "joblib", "shelve"}
    wrong = [f"{name_of(path)}:{line}" for path in SOURCES for name, line in imports(path) if name in picklers]
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.save":
                wrong.append(f"{name_of(path)}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                wrong += [] if options.get("weights_only") == "True" else [f"{name_of(path)}:{node.lineno}"]
    assert not wrong


def test_every_module_says_what_it_is() -> None:
    assert not [name_of(path) for path in SOURCES if not ast.get_docstring(parse(path))]


def test_no_drawers() -> None:
    """A file is named after its concept."""
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "legacy"}
    paths = [*SOURCES, *(PROJECT / "tests").rglob("*.py")]
    found = [name_of(path) for path in paths if drawers & {part.lower() for part in path.with_suffix("").parts[-2:]}]
    assert not found


def test_datasets_holds_declarations_only() -> None:
    python = [name_of(path) for path in (PROJECT / "datasets").rglob("*.py")]
    assert not python, "a Python package named datasets shadows Hugging Face datasets"


@pytest.mark.parametrize("safe_path", ["1", ""], ids=["safepath", "plain"])
def test_hugging_face_datasets_is_not_shadowed(tmp_path: Path, safe_path: str) -> None:
    """From the project's folder, `datasets` is the installed library or nothing, never our folder."""
    library = tmp_path / "datasets"
    library.mkdir()
    (library / "__init__.py").write_text("is_the_library = True\n")
    code = (
        "import flows, importlib.util as u, sys; spec = u.find_spec('datasets'); "
        "assert spec is None or 'site-packages' in str(spec.origin), spec; "
        f"sys.path.append({str(tmp_path)!r}); import datasets; assert spec or datasets.is_the_library"
    )
    environment = {**os.environ, "PYTHONSAFEPATH": safe_path}
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, check=True)


def test_torch_free_modules() -> None:
    """Settings and reports start without torch: they are read by the server, the worker and every `--help`."""
    code = f"import sys; [__import__(name) for name in {TORCH_FREE!r}]; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


@pytest.mark.parametrize("verb", VERBS)
def test_flows_are_thin(verb: str) -> None:
    """A verb is about 60 lines and its tasks 5 to 15, arguments one per line not counted: the work is in the rooms."""
    path = PROJECT / "flows" / f"{verb}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 100
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef) and any("task" in ast.unparse(item) for item in node.decorator_list):
            assert (node.end_lineno or 0) - node.lineno < 25, f"{name_of(path)}: task {node.name} is too long"


def test_formats_between_rooms_are_written_down() -> None:
    """A format (`moa-shards/1`) that two rooms know stands in datasets/FORMAT.md, and what stands there exists."""
    documented = set(FORMAT_NAME.findall((PROJECT / "datasets/FORMAT.md").read_text(encoding="utf-8")))
    rooms: dict[str, set[str]] = {}
    for path in SOURCES:
        for name in FORMAT_NAME.findall(path.read_text(encoding="utf-8")):
            rooms.setdefault(name, set()).add(name_of(path).split("/")[0])
    assert {name for name, known_by in rooms.items() if len(known_by) > 1} <= documented <= rooms.keys()
