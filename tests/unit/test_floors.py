"""Imports point down the floors of the house (docs/design.md): read from the sources, not from memory."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "hookspecs": 0,
    "errors": 1, "ids": 1, "clock": 1, "text": 1, "files": 1, "settings": 1, "guard": 1, "locks": 1, "hours": 1,
    "limiter": 1,
    "image": 2, "wire": 2,
    "agent": 3, "catalog": 3, "schedule": 3, "search": 3,
    "sources": 3, "snapshots": 3, "targets": 3, "events": 3, "keys": 3, "audit": 3,
    "dump": 4, "stage": 4, "restore": 4, "report": 4, "rebuild": 4, "verify": 4, "cost": 4,
    "app": 5,
    "cli": 6,
}  # fmt: skip
# Doubles and conformance suites for third parties: below the activities, used by tests only.
TESTING_MAY_IMPORT_BELOW = 4


def modules():
    """(room, path, tree) of every module of engine and contracts."""
    for top in ("backupcore", "hookspecs"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            room = "hookspecs" if top == "hookspecs" else parts[1]
            yield room, path, ast.parse(path.read_text("utf-8"))


def imported(path: Path, tree: ast.AST):
    """Dotted names of everything of ours that a module imports, also inside functions."""
    package = ("backupcore", "hookspecs") if "hookspecs" in path.relative_to(ROOT).parts[:1] else ()
    own = package + path.relative_to(ROOT).parts[1:] if package else path.relative_to(ROOT).parts
    base = own[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split(".")), node.lineno
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else ()
            stem = start + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                yield stem + (alias.name,), node.lineno


def room_of(name):
    """The room of a dotted name of ours, None for others and for the package itself."""
    if name[:1] == ("hookspecs",):
        return "hookspecs"
    if name[:1] != ("backupcore",) or len(name) < 2:
        return None
    return name[1] if name[1] in FLOORS or name[1] in ("testing", "__main__") else None


def test_every_room_has_a_floor():
    unknown = {room for room, _path, _tree in modules()} - set(FLOORS) - {"testing", "__init__", "__main__"}
    assert not unknown


def test_imports_point_down():
    wrong = []
    for room, path, tree in modules():
        if room in ("__init__", "__main__"):
            continue
        floor = TESTING_MAY_IMPORT_BELOW if room == "testing" else FLOORS[room]
        for name, line in imported(path, tree):
            other = room_of(name)
            if other is None or other == room:
                continue
            if other == "testing" or (FLOORS[other] >= floor and not (floor == FLOORS[other] == 1)):
                wrong.append(f"{path.relative_to(ROOT)}:{line} ({room}, floor {floor}) imports {other}")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints_or_exits():
    # the agent's server speaks on its standard output by its own writer, never by print
    wrong = []
    for room, path, tree in modules():
        if room in ("cli", "testing", "__main__") or path.name == "agent_build.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "exit"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["errors", "ids", "clock", "text", "files", "settings", "wire", "agent"])
def test_what_runs_on_a_client_is_python_3_8(room):
    for found, path, _tree in modules():
        if found == room:
            ast.parse(path.read_text("utf-8"), feature_version=(3, 8))


def test_a_file_says_what_lives_in_it():
    silent = [str(path.relative_to(ROOT)) for _room, path, tree in modules() if not ast.get_docstring(tree)]
    assert not silent
