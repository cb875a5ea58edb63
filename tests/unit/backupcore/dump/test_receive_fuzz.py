"""What a real agent said, changed by chance: it is taken or refused, and nothing else happens."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupcore import wire
from backupcore.app.agent_build import build_agent
from backupcore.dump.holding import Space, landing
from backupcore.dump.receive import receive
from backupcore.errors import HoldingFull, StowageError
from backupcore.settings import HoldingDisk

DUMP = "20261122T120000Z-L0-00000001"
ROOM, PART = 1 << 22, 1 << 20


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The messages of a real dump behind START: hard links, odd names, several frames and parts, a state."""
    base = tmp_path_factory.mktemp("fuzz")
    tree = base / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(20):
        (tree / f"f{number}").write_bytes(b"%d " % number * 200)
    (tree / "big").write_bytes(os.urandom(600_000) + bytes(4 << 20) + os.urandom(600_000))
    os.link(tree / "f1", tree / "sub" / "again")
    (tree / "sub" / "odd\n\udcff").write_bytes(b"x")
    build_agent(str(base / "agent.pyz"))
    config = base / "agent.json"
    options = {"path": str(tree), "include": [], "exclude": [], "one_file_system": True, "before": None, "after": None}
    source = {"type": "tree", "options": options, "encrypt": "none", "recipients": []}
    config.write_text(json.dumps({"schema": 1, "client": "web1", "sources": {"s": source}}))
    config.chmod(0o600)
    asks = io.BytesIO()
    channel = wire.Channel(io.BytesIO(), asks)
    channel.send_json(wire.HELLO, {"protocol": wire.PROTOCOL, "version": "0.1.0"})
    channel.send_json(wire.REQUEST, {
        "request": "dump", "source": "s", "level": 0, "compress": "gzip", "gzip_fallback": True, "part_size": PART,
        "state": False, "encrypt": "none",
    })  # fmt: skip
    command = [sys.executable, "-I", str(base / "agent.pyz"), "--config", str(config), "serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(asks.getvalue())
        process.stdin.flush()
        heard, messages = wire.Channel(process.stdout, io.BytesIO(), "web1"), []
        while not messages or messages[-1][0] != wire.DONE:
            messages.append(heard.receive())
    finally:
        process.kill()
        process.communicate()
    kinds = [kind for kind, _payload in messages]
    assert kinds[:2] == [wire.HELLO, wire.START] and kinds.count(wire.FRAME) > 1 and wire.STATE in kinds
    return messages[2:]


def packed(messages):
    out = io.BytesIO()
    channel = wire.Channel(io.BytesIO(), out)
    for kind, payload in messages:
        channel.send(kind, payload)
    return out.getvalue()


def take(disk: Path, data: bytes):
    """Receives it; (what came, None when it was refused)."""
    disk.mkdir()
    place = landing(disk, "web1", "etc", DUMP)
    place.make()
    room = Space([HoldingDisk(disk, ROOM)]).reserve(None)
    try:
        channel = wire.Channel(io.BytesIO(data), io.BytesIO(), "web1")
        return place, receive(channel, place, room, "gzip", PART, head={})
    except StowageError as error:
        assert str(error.message).strip() and (isinstance(error, HoldingFull) or len(error.message) < 4000)
        return place, None
    finally:
        room.close()


@st.composite
def changes(draw):
    """How a conversation is changed: [(what, where, how much)], in parts of its length."""
    what = st.sampled_from(["byte", "cut", "again", "away", "swap", "length"])
    place = st.floats(0, 1, exclude_max=True)
    return draw(st.lists(st.tuples(what, place, st.integers(0, 255)), min_size=1, max_size=4))


def changed(messages, plan):
    messages = list(messages)
    for what, place, _much in plan:
        at = int(place * len(messages))
        if what == "again":
            messages.insert(at, messages[at])
        elif what == "away" and len(messages) > 1:
            del messages[at]
        elif what == "swap":
            messages[at - 1], messages[at] = messages[at], messages[at - 1]
    data = bytearray(packed(messages))
    for what, place, much in plan:
        at = int(place * len(data))
        if what == "byte":
            data[at] = much
        elif what == "cut":
            del data[at : at + much]
        elif what == "length":
            data[at:at] = bytes([much]) * 4
    return bytes(data)


def test_as_it_was_said_it_is_taken(said, tmp_path):
    place, got = take(tmp_path / "disk", packed(said))
    assert got is not None and got.entries == 25 and len(got.parts) > 1 and got.has_state
    assert sum(record.size for record in got.parts) > 1_000_000


def changed_by_chance(said, top, plan):
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    place, got = take(top / "disk", changed(said, plan))
    files = [path for path in top.rglob("*") if not path.is_dir()]
    assert all(place.folder.parent in path.parents for path in files)  # nothing anywhere else
    assert sum(path.stat().st_size for path in files) <= ROOM
    if got is not None:
        assert got.archive_size >= 0 and got.entries >= 0 and all(text.isprintable() for text in got.notes)
        for record in (*got.parts, got.index, got.frames):
            assert (place.folder / record.name).stat().st_size == record.size
    place.remove()
    assert not [path for path in top.rglob("*") if not path.is_dir()]


KNOWN = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=25, **KNOWN)
@given(plan=changes())
def test_changed_by_chance_it_is_taken_or_refused(said, tmp_path, plan):
    changed_by_chance(said, tmp_path / "one", plan)


@pytest.mark.slow
@settings(max_examples=1500, **KNOWN)
@given(plan=changes())
def test_changed_by_chance_very_often_it_is_taken_or_refused(said, tmp_path, plan):
    changed_by_chance(said, tmp_path / "one", plan)
