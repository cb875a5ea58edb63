"""Nights in a loop, the clock moved by a day between them, and what they leave behind. For tests only.

Here live the nights and the counting; what may grow is said by the tests. All nights run in this process, so that what
one of them forgets to give back is seen; agents are processes, as always. Levels go in cycles of three, and nothing is
kept for longer than some of them: at the same place of two cycles there is the same to be kept.
"""

from __future__ import annotations

import gc
import os
import resource
import sqlite3
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List

from cli_lab import Server

CYCLE = 3
FILES = 12
# Bytes of a file. A file that was written within two seconds of its dump comes again in the next one, so how much is in
# a dump hangs on the speed of the machine: they are so small that it makes no difference anybody counts.
SIZE = 300


class Soak:
    """A server with some clients, each with a source; night() makes a night a day later."""

    def __init__(self, server: Server, tmp: Path, move: Callable[[float], None], clients: int = 2):
        self.server, self.tmp, self.move, self.number = server, tmp, move, 0
        self.threads = set(threading.enumerate())  # of whoever runs the test
        self.trees: List[Path] = []
        copies = [{"target": "nas", "keep": {"last": 4}}, {"target": "far", "dumps": "full", "keep": {"last": 2}}]
        server.write(
            targets={name: {"type": "directory", "path": str(server.base / name)} for name in ("nas", "far")},
            policies={"standard": {"copies": copies, "keep_on_holding": 1}, "sealed": {
                "copies": copies, "keep_on_holding": 0, "encrypt": "server"},
                      "away": {"rpo": "9000 days"}},
            prune={"grace": 0}, cycle={"days": 7}, drill={"nightly": True, "files": 1},
        )  # fmt: skip
        for name in ("nas", "far"):
            (server.base / name).mkdir()
        server.stowage("key", "generate", "--no-passphrase")
        for number in range(clients):
            tree = tmp / f"tree{number}"
            tree.mkdir()
            for name in range(FILES):
                (tree / f"f{name}").write_bytes(os.urandom(SIZE))
            policy = "sealed" if number % 2 else "standard"
            server.client(f"c{number}", {"data": {"path": str(tree), "policy": policy}})
            self.trees.append(tree)
        # a client that is never there: failures leave nothing either
        source = {"path": str(self.trees[0]), "policy": "away"}
        server.client("gone", {"data": source}, address="127.9.9.9", presence="roaming")
        server.sshds["gone"].stop()

    def night(self) -> Dict[str, Any]:
        """A day passes, things change, the night comes, and people look."""
        self.move(24)
        level, self.number = self.number % CYCLE, self.number + 1
        for tree in self.trees:
            (tree / f"f{self.number % FILES}").write_bytes(os.urandom(SIZE))
            (tree / f"new{self.number}").write_text("x")
            (tree / f"new{self.number - CYCLE}").unlink(missing_ok=True)
        return self.server.json("run", "--level", level)

    def look(self) -> None:
        """What timers and people do between nights."""
        out = self.tmp / "out"
        self.server.json("watch")
        self.server.json("report")
        self.server.json("find", "f1")
        self.server.stowage("restore", "c0", "data", "--to", out)
        assert (out / str(self.trees[0])[1:] / "f1").read_bytes() == (self.trees[0] / "f1").read_bytes()
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        out.rmdir()
        self.server.json("verify")
        self.server.json("prune")
        self.server.json("stage")

    def count(self) -> Dict[str, int]:
        """All there is of this process and of what it has written."""
        for thread in set(threading.enumerate()) - self.threads:
            thread.join(10)  # one that is just about to end stays nowhere
        gc.collect()
        found: Dict[str, int] = Counter()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["memory"] = pages * resource.getpagesize()
        found["descriptors"] = len(os.listdir("/proc/self/fd"))
        found["threads"] = threading.active_count()
        found["children"] = len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
        # one that is loaded late is code that is used late; what grows is loaded again under other names
        files = [name for one in list(sys.modules.values()) if (name := getattr(one, "__file__", None))]
        found["modules loaded again"] = len(files) - len(set(files))
        base = self.server.base
        for path in self.tmp.rglob("*"):
            if path.is_symlink() or not path.is_file():
                found["other"] += not path.is_dir()
                continue
            words = path.relative_to(base).parts if base in path.parents else ("outside", path.parent.name)
            place = "/".join(words[: 2 if words[0] == "state" else 1])
            found[f"files {place}"] += 1
            found[f"bytes {place}"] += path.stat().st_size
        with sqlite3.connect(base / "state" / "catalog.sqlite") as catalog:
            names = [name for (name,) in catalog.execute("select name from sqlite_master where type = 'table'")]
            for name in names:
                found[f"rows {name}"] = catalog.execute(f"select count(*) from {name}").fetchone()[0]
            pages, free = (catalog.execute(f"pragma {word}").fetchone()[0] for word in ("page_count", "freelist_count"))
            found["pages catalog"] = pages - free
        catalog.close()
        return dict(found)
