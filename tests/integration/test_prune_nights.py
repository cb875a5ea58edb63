"""Nights that prune themselves: what keep promises is restored as it was, what it does not is gone everywhere."""

from __future__ import annotations

import os
import time

import pytest
from cli_lab import Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    server = Server(base)
    copies = [{"target": "nas", "keep": {"last": 2}}, {"target": "far", "keep": {"last": 3}, "self_contained": True}]
    server.write(
        targets={name: {"type": "directory", "path": str(base / name)} for name in ("nas", "far")},
        policies={"standard": {"copies": copies, "keep_on_holding": 0}}, prune={"grace": 0}, drill={"nightly": False},
    )  # fmt: skip
    for name in ("nas", "far"):
        (base / name).mkdir()
    yield server
    server.close()


def test_nights_that_prune_themselves(server, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "old").write_text("from the first night\n")
    server.client("web1", {"data": str(tree)})
    for night, level in enumerate((0, 1, 2, 0, 1, 2, 0, 1)):
        (tree / "night").write_text(f"night {night}\n")
        (tree / f"only{night}").write_text("x")
        server.stowage("run", "--level", level)
        time.sleep(1.05)  # a dump's name has whole seconds
    assert "prune: " in server.stowage("report")[0]
    server.stowage("prune")
    there = {name: len(list((server.base / name).rglob("manifest.json"))) for name in ("nas", "far")}
    # nas: nights 6 and 7; far: 5, 6 and 7 with the chain of 5
    assert there == {"nas": 2, "far": 5}
    dumps = server.json("list", "dumps", "--limit", "0")["dumps"]
    assert len(dumps) == 5 and all(one["holding"] is None for one in dumps)
    for night, dump in zip((3, 4, 5, 6, 7), dumps):
        out = tmp_path / f"out{night}"
        server.stowage("restore", "web1", "data", "--at", dump["dump"], "--to", out)
        found = {path.name: path.read_text() for path in out.rglob("*") if path.is_file()}
        assert found["night"] == f"night {night}\n" and found["old"] == "from the first night\n"
        assert {f"only{number}" for number in range(night + 1)} <= set(found)
    assert not list((server.base / "nas").rglob(dumps[0]["dump"]))
    left = {path.name.split(".")[0] for folder in ("index", "state") for path in
            (server.base / "state" / folder).rglob("*") if path.is_file()}  # fmt: skip
    assert left == {one["dump"] for one in dumps}
    server.stowage("verify")
    assert "nothing to remove" in server.stowage("prune")[0]
