"""Going on with a cut dump, the server's side: agents that lie about it, old ones, room, and what a sweep leaves."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from backupcore.catalog import places
from backupcore.dump import resume, runlock, sweep, transport
from backupcore.dump.source import Run, Unreached, dump_source
from backupcore.dump.space import Space
from backupcore.dump.stored import INCOMING, stored
from backupcore.errors import HostKeyChanged, StowageError
from backupcore.image.folder import check_folder
from backupcore.image.manifest import Signer, load_public_keys
from backupcore.schedule import bases
from backupcore.settings import HoldingDisk, Policy

MIB = 1 << 20
BEGIN = """
request = greet()
more = {"marks": True, "identity": "x", "resume": "resume" in request} if request.get("marks") else {}
channel.send_json(wire.START, {"codec": "none", "begun_ns": 1, "source": OPTIONS, **more})

def line(path, offset, length):
    text = b"%s\\tf\\t644\\t0\\t0\\t9\\t1.000000000\\t1.000000000\\t7\\t-\\t-\\t%d\\t%d\\t-\\n" % (path, offset, length)
    channel.send(wire.INDEX, text)

def mark(file):
    channel.send_json(wire.MARK, {"file": file})

def plain(number, data, flags=0, part=0):
    frame(number, number * 1000, data, flags, part, "none")

def cut():
    time.sleep(0.05)
    os.kill(os.getpid(), 9)

def finish(number, part):
    line(b"z", number * 1000, 1000)
    plain(number, b"z" * 1000, wire.LAST, part)
    channel.send_json(wire.DONE, {"entries": 1, "files": 1, "bytes": 9, "suspects": 0,
                                  "archive_size": (number + 1) * 1000})
"""
FIRST = """
if "resume" not in request:
    line(b"a", 0, 1000)
    plain(0, b"a" * 1000)
    line(b"b", 1000, 1000)
    plain(1, b"b" * 1000)
    mark({"path": "c", "offset": 2000})
    plain(2, b"c" * 1000)
    line(b"never in a frame", 3000, 500)
    cut()
while channel.expect(wire.LINKS, wire.END)[0] != wire.END:
    pass
"""
GO_ON = "channel.send_json(wire.AGAIN, {'frame': request['resume']['points'][0]['frame']})\n"


@pytest.fixture
def attempts(server):
    """Attempts at one dump in one run."""
    server.client("web1", policy=Policy("standard", part_size=MIB, compress="none"))

    class Attempts:
        def __init__(self):
            past = bases.Planned("web1", "data", *bases.choose((), None))
            row = server.catalog.begin_run("run")
            self.plan, self.run = past, Run(
                server.settings, server.catalog, row.id, places.server_id(server.settings.state),
                Signer.load_or_make(server.settings.keys), Space(server.settings.holding), transport.connect,
                server.events.append,
            )  # fmt: skip

        def __call__(self, script):
            server.say("web1", BEGIN + script)
            try:
                return dump_source(self.run, self.plan)[0]
            except Unreached as error:
                return error.error
            except StowageError as error:
                return error

        def left(self):
            return resume.left(server.settings, "web1", "data", "")

    (server.holding / ".stowage").write_text(places.server_id(server.settings.state))
    with runlock.hold(server.settings):
        yield Attempts()


def test_what_came_is_kept_asked_for_and_gone_on_with_in_a_new_part(server, attempts):
    assert attempts(FIRST).again
    (came,) = attempts.left()
    inside, clean = came.asked()["points"]
    assert (inside["frame"], inside["part"], inside["offset"], inside["path"]) == (3, 1, 3000, "b")
    assert inside["mark"] == {"path": "c", "offset": 2000}
    assert (clean["frame"], clean["offset"], clean["path"], clean["mark"]) == (2, 2000, "b", None)
    assert stored(server.holding) > 3000  # it counts as used
    row = attempts(FIRST + "channel.send_json(wire.AGAIN, {'frame': 2})\nfinish(2, 1)\n")
    assert (row.entries, row.files, row.archive_size) == (3, 3, 3000) and "went on" in row.notes[0]
    manifest = check_folder(Path(row.holding), load_public_keys(server.settings.keys), full=True)
    assert [part.size for part in manifest.parts] == [2000, 1000]
    index = places.find_index(server.settings.state, "web1", "data", row.id).read_bytes()
    assert [text.split(b"\t")[0] for text in index.splitlines()] == [b"a", b"b", b"z"]
    assert server.left() == [] and attempts.left() == []


def test_a_dump_that_was_cut_behind_its_last_frame_gets_that_once_more(server, attempts):
    first = "line(b'a', 0, 1000)\nplain(0, b'a' * 1000)\n"
    assert attempts(first + "line(b'z', 1000, 1000)\nplain(1, b'z' * 1000, wire.LAST)\ncut()\n").again
    (came,) = attempts.left()
    assert [one["frame"] for one in came.asked()["points"]] == [1]
    row = attempts("channel.expect(wire.END)\n" + GO_ON + "finish(1, 1)\n")
    assert (row.entries, row.archive_size) == (2, 2000)
    manifest = check_folder(Path(row.holding), load_public_keys(server.settings.keys), full=True)
    assert [part.size for part in manifest.parts] == [1000, 1000]


@pytest.mark.parametrize(("script", "why"), [
    ("channel.send_json(wire.AGAIN, {'frame': 1})\nfinish(1, 1)\n", "not asked to"),
    ("channel.send_json(wire.AGAIN, {'frame': 99})\nfinish(99, 1)\n", "not asked to"),
    ("channel.send_json(wire.AGAIN, {'frame': -1})\nfinish(1, 1)\n", "no number as frame"),
    ("plain(3, b'd' * 1000, 0, 1)\n", "out of turn"),
    (GO_ON + "plain(3, b'd' * 1000, 0, 0)\n", "is in part 0 where part 1 goes on"),
    (GO_ON + "plain(2, b'd' * 1000, 0, 1)\n", "is not the next"),
    (GO_ON + "channel.send(wire.STATE, b'state')\n", "state that cannot be"),
    (GO_ON + "plain(3, b'd', wire.LAST, 1)\nchannel.send_json(wire.DONE, {'entries': 2, 'archive_size': 3001})\n",
     "sent 0 as entries and says 2"),
])  # fmt: skip
def test_an_agent_that_lies_about_what_it_goes_on_with_loses_it(server, attempts, script, why):
    assert attempts(FIRST).again
    error = attempts(FIRST + script)
    assert why in error.message and not error.again
    assert server.left() == [] and server.catalog.dumps() == []


def test_an_agent_that_cannot_go_on_begins_again_at_once(server, attempts):
    assert attempts(FIRST).again
    again = 'if "resume" not in request:\n    finish(0, 0)\nelse:\n'
    row = attempts(again + "    channel.expect(wire.END)\n    channel.send_json(wire.AGAIN, {'frame': 0})\n    cut()\n")
    assert (row.entries, row.archive_size) == (1, 1000) and "begun again" in row.notes[0]
    assert server.left() == []


@pytest.mark.parametrize("script", [
    "cut()\n",
    "line(b'a', 0, 500)\ncut()\n",
    "mark(None)\nline(b'a', 0, 500)\nplain(0, b'a' * 1000)\ncut()\n",
    "mark(7)\nline(b'a', 0, 500)\nplain(0, b'a' * 1000)\ncut()\n",
    "mark({'path': 'x' * 200000})\nline(b'a', 0, 500)\nplain(0, b'a' * 1000)\ncut()\n",
    "channel.send(wire.INDEX, b'no line\\n')\nplain(0, b'a' * 1000)\ncut()\n",
    "channel.send(wire.INDEX, b'x' * 70000 + b'\\n')\nplain(0, b'a' * 1000)\ncut()\n",
    "plain(0, b'a' * 1000)\ncut()\n",
])  # fmt: skip
def test_nothing_is_kept_where_nothing_can_go_on(server, attempts, script):
    assert attempts(script).again
    assert server.left() == [] and attempts.left() == []


@pytest.mark.parametrize("rule", ["night", "never"])
def test_of_an_agent_that_knows_no_marks_and_of_a_policy_that_wants_none_nothing_is_kept(server, attempts, rule):
    server.client("web1", policy=Policy("standard", part_size=MIB, compress="none", resume=rule))
    attempts.run = replace(attempts.run, settings=server.settings)
    start = "start('none')\n" if rule == "night" else ""
    script = FIRST.replace("    mark(", "    (lambda file: None)(")
    server.say("web1", "")
    begin = BEGIN if rule == "never" else BEGIN.replace("channel.send_json(wire.START", "(lambda *_: None)(wire.START")
    server.say("web1", begin + start + script)
    with pytest.raises(StowageError) as caught:
        dump_source(attempts.run, attempts.plan)
    assert caught.value.again and server.left() == []


@pytest.mark.parametrize("change", ["", "policy", "source", "old"])
def test_a_sweep_keeps_for_the_next_night_what_the_policy_says(server, attempts, change):
    policy = Policy("standard", part_size=MIB, compress="none", resume="next")
    server.client("web1", policy=policy)
    attempts.run = replace(attempts.run, settings=server.settings)
    assert attempts(FIRST).again
    (came,) = attempts.left()
    os.rename(came.place.cut, came.place.folder)  # as a kill leaves it
    if change == "policy":
        server.client("web1", policy=replace(policy, resume="night"))
    elif change == "source":
        server.client("web1", "other", policy=policy)
    elif change == "old":
        os.utime(came.place.came, (1, 1))
    sweep.sweep(server.settings, server.catalog)
    assert [one.head["identity"] for one in attempts.left()] == ([] if change else ["x"])
    assert bool(server.left()) == (not change)


@pytest.mark.parametrize("rule", ["night", "next"])
def test_what_came_until_time_was_up_is_for_the_next_night_where_the_policy_says_so(server, attempts, rule):
    """One that is never silent and never through: its time is over as soon as three frames came."""
    server.client("web1", policy=Policy("standard", part_size=MIB, compress="none", resume=rule))
    agents = []

    def track(agent, _source):
        agents.append(agent)

    def emit(event):
        if event["phase"] == "dumping" and event["bytes"] >= 3000:
            agents[0].reader.until = 0.0

    attempts.run = replace(attempts.run, settings=server.settings, track=track, emit=emit)
    slow = FIRST.replace(
        "    cut()\n",
        """
    while True:
        channel.send_json(wire.PROGRESS, {"entries": 3})
        channel.flush()
        time.sleep(0.05)
""",
    )
    error = attempts(slow)
    assert "at its dump for longer than" in error.message and "timeouts: dump" in error.hint and not error.again
    assert ("the next night goes on with it" in error.message) == (rule == "next")
    assert len(attempts.left()) == (rule == "next") == bool(server.left())
    if rule == "next":
        attempts.run = replace(attempts.run, id="another night", emit=server.events.append)
        sweep.sweep(server.settings, server.catalog)
        row = attempts(FIRST + "channel.send_json(wire.AGAIN, {'frame': 2})\nfinish(2, 1)\n")
        assert (row.entries, row.archive_size) == (3, 3000) and "went on" in row.notes[0]
        assert server.left() == [] and attempts.left() == []


def test_an_agent_that_is_not_reached_spoils_nothing_of_what_came_before(server, attempts):
    """Another host key, a client that was moved: no reason to begin a long dump again once that is mended."""
    server.client("web1", policy=Policy("standard", part_size=MIB, compress="none", resume="next"))
    attempts.run = replace(attempts.run, settings=server.settings)
    assert attempts(FIRST).again
    (before,) = [(one.size, one.asked()) for one in attempts.left()]

    def refuses(_settings, _client):
        raise HostKeyChanged("web1 shows another host key")

    run, attempts.run = attempts.run, replace(attempts.run, connect=refuses)
    assert not attempts(FIRST).again
    assert [(one.size, one.asked()) for one in attempts.left()] == [before]
    attempts.run = run
    assert attempts(FIRST + "channel.send_json(wire.AGAIN, {'frame': 2})\nfinish(2, 1)\n").archive_size == 3000


def test_the_room_of_a_cut_dump_is_its_own_again(tmp_path):
    disk = HoldingDisk(tmp_path, 40 * MIB)
    space = Space([disk])
    cut = tmp_path / INCOMING / "web1/etc/x.cut"
    cut.mkdir(parents=True)
    (cut / "image-0000.tar").write_bytes(bytes(10 * MIB))
    (cut.parent / "y").mkdir()
    (cut.parent / "y" / "image-0000.tar").write_bytes(bytes(10 * MIB))  # what comes in is counted by its room
    assert stored(tmp_path) == 10 * MIB
    room = space.again(tmp_path, 10 * MIB)
    os.rename(cut, cut.with_name("x"))
    assert stored(tmp_path) == 0 and room.written == room.reserved == 10 * MIB
    room.take(MIB)
    assert room.written == 11 * MIB <= room.reserved
    with pytest.raises(StowageError):
        room.take(40 * MIB)
    room.close()
    assert space.again(tmp_path / "elsewhere", MIB) is None
