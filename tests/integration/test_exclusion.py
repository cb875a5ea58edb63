"""Commands that must not be at work together are not, whoever comes first; a killed one holds nothing.

The pairs are those of the table in docs/design.md; that others wait for the end of a small run is test_runlock's. Who
comes first is a process of its own that does what the command does and stops in the middle of it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_lab import Server

LIMIT = 120.0
# command -> (where it is stopped, what it calls)
STOPPED = {
    "run": ("backupcore.dump.sweep", "sweep", "engine.run(engine.select())"),
    "stage": ("backupcore.dump.sweep", "sweep", "engine.stage()"),
    "prune": ("backupcore.stage.prune", "prune", "pruning.run(engine)"),
    "prune --undo": ("backupcore.catalog.marks", "unmark", "pruning.undo(engine, None)"),
    "rebuild": ("backupcore.rebuild.merge", "rebuild", "rebuilding.rebuild(engine, rebuilding.Request('nas'))"),
    "verify": ("backupcore.app.verifying", "_repair_held", "verifying.verify(engine, verifying.Asked())"),
}
FIRST = """
import importlib, sys
from backupcore.app import pruning, rebuilding, verifying
from backupcore.app.engine import Engine
module, name, call = sys.argv[2:]
def stop(*_words, **_more):
    print("held", flush=True)
    sys.stdin.readline()
    raise SystemExit
setattr(importlib.import_module(module), name, stop)
with Engine(sys.argv[1]) as engine:
    engine.command = "stowage " + call
    exec(call)
"""
# command -> exit status while another one is at work; verify reads all the same, and says that it mends nothing
SECOND = {("run",): 1, ("stage",): 1, ("prune",): 1, ("prune", "--undo"): 1, ("rebuild", "--from", "nas"): 1,
          ("verify",): 1}  # fmt: skip
NAMES = {"run": "another run", "stage": "a staging of copies", "prune": "a prune",
         "prune --undo": "a prune", "rebuild": "a rebuild", "verify": "a verify that mends"}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One source with one dump, whose copy on nas is damaged: there is something to do for each command."""
    base = tmp_path_factory.mktemp("server")
    tree = base / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content" * 1000)
    made = Server(base)
    made.write(targets={"nas": {"type": "directory", "path": str(base / "nas")}},
               policies={"standard": {"copies": [{"target": "nas", "keep": {"last": 1}}]}})  # fmt: skip
    (base / "nas").mkdir()
    made.client("web1", {"tree": tree})
    made.stowage("run")
    (part,) = (base / "nas").glob("**/image-0000*")
    part.chmod(0o600)
    part.write_bytes(part.read_bytes()[:-1])
    yield made
    made.close()


@pytest.mark.parametrize("first", [
    one if one in ("run", "prune") else pytest.param(one, marks=pytest.mark.slow) for one in STOPPED
])  # fmt: skip
def test_what_writes_is_at_work_alone_and_a_kill_ends_it(server, first):
    process = subprocess.Popen(
        [sys.executable, "-c", FIRST, str(server.base / "stowage.yml"), *STOPPED[first]], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n", process.stderr.read()
        for words, status in SECOND.items():
            answer = server.json(*words, status=status)
            told = str(answer)
            assert f"{NAMES[first]} is at work since " in told and f"(process {process.pid})" in told, (words, answer)
            if words != ("verify",):
                assert answer["error"]["code"] == "busy", words
        running = server.json("status")["running"]
        assert running["pid"] == process.pid and running["what"] == first.split()[0]
        assert server.json("list", "dumps")["dumps"]  # who reads is never held up
        process.kill()
        process.wait(LIMIT)
        assert server.json("prune")["status"] == "ok"
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)
