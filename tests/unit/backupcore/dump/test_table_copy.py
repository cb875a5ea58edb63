"""The copy of a large frame table that is made while a dump comes: the same as the table, and nothing is left."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sealed

from backupcore.catalog import places
from backupcore.image import codec, frames
from backupcore.settings import Policy

MANY = """
greet()
start()
index(1)
for number in range(50):
    frame(number, number * 900, b"x" * 900, wire.LAST if number == 49 else 0)
done(50 * 900, 1)
"""


@pytest.mark.parametrize("encrypt", ["none", "server"])
def test_a_large_table_is_copied_while_it_comes(server, monkeypatch, encrypt):
    policy = Policy("p", part_size=1 << 20, encrypt=encrypt)
    if encrypt != "none":
        sealed.prove(server.settings.keys)
    server.client("web1", script=MANY, policy=policy)
    monkeypatch.setattr(frames, "SMALL_COPY", 2000)
    assert server.one().ok
    (row,) = server.catalog.dumps()
    path = places.frames_copy(server.settings.state, "web1", "data", row.id)
    (stored,) = Path(row.holding).glob("frames.tsv*")
    with open(path, "rb") as file:
        copy = frames.Copy(file, hashlib.sha256(stored.read_bytes()).digest())
        found = list(copy.cover(0, 50 * 900))
        assert len(found) == 50 and copy.archive_size == row.archive_size
    if encrypt == "none":
        assert found == list(frames.read(codec.get("zstd").unpack([stored.read_bytes()])))
    assert server.left() == [] and not list((server.settings.state / "pending").rglob("*.frames"))


def test_a_small_table_is_not(server, monkeypatch):
    server.client("web1")
    assert server.one().ok
    assert not list(Path(server.settings.state).rglob("*.frames"))


def test_what_a_dump_that_was_cut_left_of_it_goes(server, monkeypatch):
    server.client("web1", script=MANY.replace("done(50 * 900, 1)", "sys.exit(1)"))
    monkeypatch.setattr(frames, "SMALL_COPY", 2000)
    assert not server.one().ok
    assert server.left() == [] and not list(server.base.rglob("*.frames"))
    server.say("web1", MANY)
    assert server.one().ok and len(list(server.base.rglob("*.frames"))) == 1
