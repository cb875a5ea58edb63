"""Direct dumps whose line was cut: killed at every step on both sides of the cut, and what is not gone on with."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest
import test_direct_unit
from backupcore.hookspecs import TargetError
from test_direct_unit import MIB, STEPS, check_copies, dies_at, left, night, policy, swept, world
from test_resume_unit import BEGIN, FIRST, GO_ON

from backupcore.dump import again, direct, lanes, part, resume, straight

__all__ = ["world"]
TWICE = BEGIN + FIRST + GO_ON + "finish(3, 1)\n"  # its line is cut, and the next attempt is through
ALONE = "finish(0, 0)\n"  # of one that begins anew


@pytest.fixture
def cut(world, monkeypatch):
    """The world, in which the line is cut once and each night is one attempt."""
    monkeypatch.setattr(again, "PROGRESS", 0.0)
    world.client("web1", script=TWICE, policy=policy("nas", "disk", resume="next"))
    return world


def kept(world):
    """What waits for another attempt."""
    return straight.left(world.settings, "web1", "data", "")


def test_a_cut_dump_waits_at_its_targets_and_is_gone_on_with(cut):
    result = night(cut)
    assert not result.ok and cut.catalog.dumps() == []
    (came,), (note,) = kept(cut), direct.notes(cut.settings.state)
    assert note.cut and set(note.there) == {"nas", "disk"} and len(note.there["nas"]) == 1
    assert came.asked()["points"][0]["frame"] == 3 and len(came.points) == 1
    for name in ("nas", "disk"):
        (file,) = (cut.base / name / "web1/data" / note.dump).iterdir()
        assert file.read_bytes() == b"".join(one * 1000 for one in (b"a", b"b", b"c"))
    found = swept(cut)
    assert found.removed == found.adopted == found.problems == [] and len(kept(cut)) == 1
    result = night(cut)
    assert result.ok and result.dump == note.dump and left(cut) == [] and kept(cut) == []
    check_copies(cut)


# of a night whose line is cut, or that goes on with what came
CUT = [
    *STEPS, (direct.Direct, "cut"), (resume, "set_aside"), (direct.Direct, "again"), (resume.Came, "take_up"),
    (lanes.Lane, "settle"), (resume.Came, "remove"), (direct, "clean"), (os, "rename"),
]  # fmt: skip


@pytest.mark.timeout(580)
@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["cut", "gone on"])
def test_killed_at_any_step_nothing_half_is_left(cut, when, stride):
    step, seen = 1, {"kept": 0, "gone": 0, "row": 0}
    while True:
        if when == "gone on":
            assert not night(cut).ok and len(kept(cut)) == 1
        if not dies_at(cut, step, CUT, good=False):
            break
        before = {row.id for row in cut.catalog.dumps()}
        found = swept(cut)
        assert found.problems == [] and found.strange == []
        rows = {row.id for row in cut.catalog.dumps()}
        waits = kept(cut)
        seen["row" if rows - before else "kept" if waits else "gone"] += 1
        if not waits:
            assert left(cut) == [], step
        while not night(cut).ok:
            assert len(kept(cut)) == 1
        assert left(cut) == [] and kept(cut) == [], step
        if waits:
            assert waits[0].place.folder.name in {row.id for row in cut.catalog.dumps()}
        step += stride
    check_copies(cut)
    if stride == 1:
        assert seen["kept"] > 3 and seen["gone"] > 10 and (seen["row"] > 5) == (when == "gone on"), (step, seen)


@pytest.mark.parametrize("harm", ["index", "journal", "note", "old", "target"])
def test_what_is_damaged_or_old_is_taken_away_and_the_dump_begins_anew(cut, harm):
    assert not night(cut).ok
    (came,), (note,) = kept(cut), direct.notes(cut.settings.state)
    if harm == "index":
        file = next(came.place.cut.glob("index*"))
        file.write_bytes(file.read_bytes().replace(b"a\tf", b"x\tf"))
    elif harm == "journal":
        came.place.came.write_bytes(came.place.came.read_bytes()[:200])
    elif harm == "note":
        note.there["nas"] = {"image-0000.tar": f"3000 {'0' * 64}"}
        note.there["disk"] = note.there["nas"]
        note.save(cut.settings.state)
    elif harm == "old":
        old = time.time() - 37 * 3600
        os.utime(came.place.came, (old, old))
    else:
        for name in ("nas", "disk"):
            next((cut.base / name / "web1/data" / note.dump).iterdir()).write_bytes(b"short")
    cut.say("web1", BEGIN + ALONE)
    result = night(cut)
    assert result.ok and result.dump != note.dump and left(cut) == [] and kept(cut) == []
    check_copies(cut)


@pytest.mark.parametrize("say", ["0", "1", "99"])
def test_an_agent_that_wants_to_go_on_elsewhere_costs_its_own_dump_only(cut, say):
    assert not night(cut).ok
    cut.say("web1", BEGIN + FIRST + f"channel.send_json(wire.AGAIN, {{'frame': {say}}})\nfinish({say}, 1)\n")
    result = night(cut)
    assert not result.ok and cut.catalog.dumps() == []
    assert left(cut) == [] or say == "0"  # begun anew, and cut once more
    cut.say("web1", TWICE)
    while not night(cut).ok:
        assert len(kept(cut)) == 1
    assert left(cut) == [] and kept(cut) == []
    check_copies(cut)


class Stuck(test_direct_unit.Ill):
    """A folder that lets nothing go."""

    def delete(self, name):
        raise TargetError("it is locked until May")


def test_what_nothing_goes_on_with_and_cannot_be_taken_away_now_is_named_and_goes_later(cut):
    cut.client("web1", script=TWICE, policy=policy("nas", "disk", resume="night"))
    good, cut.opened["disk"] = cut.opened["disk"], Stuck(cut.opened["disk"], "nothing")
    assert not night(cut).ok and kept(cut) == []
    (note,) = direct.notes(cut.settings.state)
    assert note.leave and note.sent == ["disk"] and not list((cut.base / "nas").glob("web1/*"))
    assert any("target disk keeps parts" in one and "until May" in one for one in swept(cut).problems)
    cut.opened["disk"] = good
    assert swept(cut).problems == [] and left(cut) == []


def test_a_target_that_is_away_is_waited_for_and_what_came_is_kept(cut):
    assert not night(cut).ok
    (note,) = direct.notes(cut.settings.state)
    good = dict(cut.opened)
    for name in good:
        cut.opened[name] = test_direct_unit.Away(good[name])
    assert not night(cut).ok and len(kept(cut)) == 1
    cut.opened.update(good)
    result = night(cut)
    assert result.ok and result.dump == note.dump and left(cut) == []


def test_of_a_frame_that_is_not_whole_nothing_is_sent_but_of_a_huge_one():
    sent = []
    straightway = SimpleNamespace(frames=True, send=sent.append)
    one = part.Part(straightway, "image-0000", None)
    one.write(b"a" * MIB)
    one.write(b"b" * 10)
    assert sent == [] and one.size == 0 and not one.torn
    one.frame()
    assert b"".join(sent) == b"a" * MIB + b"b" * 10 and one.size == MIB + 10
    for _ in range(part.HELD // MIB + 1):
        one.write(b"c" * MIB)
    assert one.torn and len(sent) > 2
    one.write(b"d")
    assert one.torn and one.size == MIB + 10 + part.HELD + MIB
    one.frame()
    assert not one.torn and one.size == MIB + 11 + part.HELD + MIB
