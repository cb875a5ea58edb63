"""Dumps that go straight to targets: killed at every step in turn, targets that fail, and what is told of it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from backupcore.hookspecs import TargetContext, TargetError

from backupcore.app.direct import DirectTargets
from backupcore.catalog import places
from backupcore.catalog.records import DumpRow
from backupcore.catalog.store import Catalog
from backupcore.dump import accept, direct, driver, holding, lanes, runlock, source, sweep
from backupcore.errors import HoldingFull, StowageError, TargetDown, TargetRefused
from backupcore.image.copies import TargetCopy
from backupcore.image.manifest import SIZE_LIMIT, load_public_keys, open_manifest
from backupcore.schedule import bases
from backupcore.settings import CopyRule, HoldingDisk, Policy, TargetSettings
from backupcore.targets._directory_stream import DirectoryStream
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget

MIB = 1 << 20
# five parts of a MiB or so that do not compress, with time for others in between
PARTS = """
import random
greet()
start(codec="none")
index(1, "none")
channel.send(wire.STATE, b"state")
numbers, place = random.Random(5), 0
for number in range(5):
    data = numbers.randbytes(900_000)
    frame(number, place, data, wire.LAST if number == 4 else 0, part=number, codec="none")
    place += len(data)
done(place, 1)
"""


def policy(*targets, **more):
    rules = tuple(CopyRule(name) for name in targets)
    return Policy("standard", "none", part_size=MIB, copies=rules, **{"holding": "never", **more})


@pytest.fixture
def world(server):
    """The server of the other tests, with two folders as targets; opened: name -> target, to be replaced."""
    names = ("nas", "disk")
    given = {name: TargetSettings(name, "directory", {"path": str(server.base / name)}) for name in names}
    server.set(targets=given)
    server.opened = {}
    for name in names:
        context = TargetContext(name, places.server_id(server.settings.state), server.base / "state/targets" / name)
        server.opened[name] = DirectoryTarget(DirectoryOptions(path=server.base / name), context)
    server.client("web1", script=PARTS, policy=policy(*names))
    return server


def targets_of(world):
    def target(name, pruning=False):
        return getattr(world, "pruning", world.opened)[name] if pruning else world.opened[name]

    return DirectTargets(SimpleNamespace(
        settings=world.settings, catalog=world.catalog, server_id=places.server_id(world.settings.state), target=target,
    ))  # fmt: skip


def night(world, level=0):
    """Lock, sweep, dump; the result."""
    with runlock.hold(world.settings):
        straight = targets_of(world)
        world.swept = sweep.sweep(world.settings, world.catalog, straight)
        world.run = world.catalog.begin_run("run")
        planned = [bases.Planned("web1", "data", level, None, "")]
        (result,) = driver.run_dumps(world.settings, world.catalog, planned, run=world.run, direct=straight)
        tidied(world, straight)
    return result


def swept(world):
    with runlock.hold(world.settings):
        straight = targets_of(world)
        found = sweep.sweep(world.settings, world.catalog, straight)
        tidied(world, straight)
    return found


def tidied(world, straight):
    """As at the end of a run."""
    straight.tidy()
    for target in world.opened.values():
        getattr(target, "close", lambda: None)()


def left(world):
    """What lies at targets, on the disk and beside the catalog and belongs to no row."""
    rows = {row.id for row in world.catalog.dumps()}
    found = []
    for name in ("nas", "disk"):
        root = world.base / name
        found += [
            str(path) for path in root.glob("*/*/*/*") if ".stowage" not in path.parts and path.parent.name not in rows
        ]
        found += [str(path) for path in (root / ".stowage/incoming").rglob("*") if path.is_file()]
    for name in ("direct", "pending", "targets/nas/streams", "targets/disk/streams"):
        # half a note of a stream of which nothing was sent goes an hour later
        ending = "*.json" if "streams" in name else "*"
        found += [str(path) for path in (world.settings.state / name).rglob(ending) if path.is_file()]
    for name in ("index", "state"):
        found += [
            str(path)
            for path in (world.settings.state / name).rglob("*")
            if path.is_file() and path.name[:28] not in rows
        ]
    return found + world.left()


def check_copies(world, names=("nas", "disk")):
    """Every row has its verified copies, which are what was signed to the last byte."""
    keys = load_public_keys(world.settings.keys)
    for row in world.catalog.dumps():
        assert row.holding is None
        assert {one.target: one.state for one in world.catalog.copies(dump=row.id)} == dict.fromkeys(names, "verified")
        for name in names:
            copy = TargetCopy(world.opened[name], name, f"web1/data/{row.id}")
            manifest = open_manifest(copy.small("manifest.json", SIZE_LIMIT), copy.small("manifest.sig", 64), keys)
            for record in manifest.all_files():
                assert hashlib.sha256(b"".join(copy.pieces(record.name))).hexdigest() == record.sha256
        assert places.find_index(world.settings.state, "web1", "data", row.id) is not None


STEPS = [
    (direct.Note, "save"), (direct.Note, "remove"), (lanes.Lane, "_begin"), (lanes.Lane, "_finish"),
    (lanes.Lane, "_read_back"), (accept, "write_row"), (source.folder, "finish"), (DirectTargets, "bring"),
    (accept, "_keep"), (Catalog, "add_dump"), (holding.Landing, "remove"), (DirectoryStream, "finish"),
]  # fmt: skip


def dies_at(world, step, steps=STEPS, good=True):
    """A night in a process of its own that ends at once at that step, before or after it; whether it got so far. good:
    one that did not get so far has its dump."""
    world.catalog.close()
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        world.catalog = Catalog(places.catalog_file(world.settings.state))
        assert status in (0, 9)
        return status == 9
    try:
        count, lock = [0], threading.Lock()

        def passed():
            with lock:
                count[0] += 1
                if count[0] == step:
                    os._exit(9)

        for owner, name in steps:

            def wrapped(*args, _real=getattr(owner, name), **more):
                passed()
                found = _real(*args, **more)
                passed()
                return found

            setattr(owner, name, wrapped)
        world.catalog = Catalog(places.catalog_file(world.settings.state))
        os._exit(0 if night(world).ok or not good else 1)
    finally:
        os._exit(2)


@pytest.mark.timeout(300)
def test_killed_at_every_step_it_is_taken_up_or_taken_away(world):
    world.say("web1", PARTS.replace("range(5)", "range(2)").replace("number == 4", "number == 1"))
    step, kept, gone, torn = 0, 0, 0, 0
    while dies_at(world, step := step + 1):
        before = {row.id for row in world.catalog.dumps()}
        torn += bool(left(world))
        found = swept(world)
        assert found.problems == [] and found.strange == []
        assert left(world) == [], step
        after = {row.id for row in world.catalog.dumps()}
        assert set(found.adopted) == after - before
        kept += bool(after - before)
        gone += bool(found.removed) and after == before
        for row in world.catalog.dumps():
            assert "verified" in {one.state for one in world.catalog.copies(dump=row.id)}
    assert step > 40 and kept > 5 and gone > 10 and torn > 15, (step, kept, gone, torn)
    check_copies(world)
    assert night(world).ok and left(world) == []


def test_a_target_is_noted_before_it_is_sent_anything(world, monkeypatch):
    seen = []

    def begin(self, name):
        (note,) = direct.notes(world.settings.state)
        seen.append((self.name, set(note.sent), note.there))
        real(self, name)

    real = lanes.Lane._begin
    monkeypatch.setattr(lanes.Lane, "_begin", begin)
    assert night(world).ok
    assert len(seen) == 10 and all(sent == {"nas", "disk"} and there == {} for _name, sent, there in seen)
    assert left(world) == []
    check_copies(world)


class Ill:
    """A folder that fails at a part; or gives other bytes than it was sent."""

    def __init__(self, target, part, how="fails"):
        self._target, self._part, self._how = target, part, how

    def __getattr__(self, name):
        return getattr(self._target, name)

    def stream(self, name, **more):
        if self._how == "fails" and self._part in name:
            raise TargetError("the disk is ill", "replace it", True)
        return self._target.stream(name, **more)

    def read(self, name, *where):
        for piece in self._target.read(name, *where):
            yield bytes(len(piece)) if self._how == "lies" and self._part in name else piece


@pytest.mark.parametrize("how, told", [("fails", "the disk is ill"), ("lies", "gives other bytes")])
@pytest.mark.parametrize("part", ["image-0000", "image-0002", "image-0004"])
def test_a_target_that_fails_drops_out_with_what_it_has(world, part, how, told):
    world.opened["disk"] = Ill(world.opened["disk"], part, how)
    result = night(world)
    assert result.ok and result.warning and told in result.message and "its copy is made later" in result.message
    rows = {one.target: one for one in world.catalog.copies(dump=result.dump)}
    assert rows["nas"].state == "verified" and rows["disk"].state == "failed"
    assert not any(name.startswith(part) for name in rows["disk"].upload["files"])
    assert not (world.base / "disk/web1/data" / result.dump / "manifest.json").exists()
    assert direct.notes(world.settings.state) == [] and world.left() == []


def test_when_all_fail_nothing_is_left_and_nothing_called_done(world):
    world.opened = {name: Ill(one, f"image-000{place}") for place, (name, one) in enumerate(world.opened.items())}
    result = night(world)
    assert not result.ok and "target nas: the disk is ill" in result.message and "target disk" in result.message
    assert world.catalog.dumps() == [] and world.catalog.copies() == [] and left(world) == []


def test_what_cannot_be_taken_away_now_is_later(world):
    class Stuck(Ill):
        def delete(self, name):
            raise TargetError("it is read-only now")

    good, world.opened["disk"] = world.opened["disk"], Stuck(world.opened["disk"], "image-0003")
    world.opened["nas"] = Ill(world.opened["nas"], "image-0001")
    assert not night(world).ok
    (note,) = direct.notes(world.settings.state)
    assert note.leave and note.sent == ["disk"]
    assert any("target disk keeps parts" in one and "read-only" in one for one in swept(world).problems)
    world.opened["disk"] = good
    assert swept(world).problems == [] and left(world) == []


def test_what_the_nights_credential_may_not_take_away_goes_by_the_one_that_may(world):
    class Kept(Ill):
        def delete(self, name):
            raise TargetError("access denied")

    world.pruning = dict(world.opened)
    world.opened = {name: Kept(one, "image-0003") for name, one in world.opened.items()}
    assert not night(world).ok
    assert direct.notes(world.settings.state) == [] and left(world) == []


def test_a_source_that_no_target_takes_says_so(world):
    world.client("web1", script=PARTS, policy=policy())
    result = night(world)
    assert not result.ok and "no copy rule wants it on a target that takes streams" in result.message
    world.client("web1", script=PARTS, policy=policy("nas", holding="auto"))
    world.set(holding=(HoldingDisk(world.holding, 1),))
    world.opened["nas"] = Ill(world.opened["nas"], "")
    world.opened["nas"].capabilities = SimpleNamespace(streams=False)
    result = night(world)
    assert not result.ok and "no holding disk has room" in result.message
    assert "target nas takes no streams" in result.message and left(world) == []


class Away(Ill):
    """A folder that refuses everything. retry: whether time may help."""

    def __init__(self, target, retry=True):
        super().__init__(target, "")
        self.retry = retry

    def stat(self, name):
        raise TargetError("no connection to nas:22", "look at the network", self.retry)

    stream = stat


def new_dump(world):
    """The parts of a dump that is to begin now."""
    row = DumpRow("x", "web1", "data", "", "tree", "", 0, 1, 1, 1, None, None, "", "", 0, 0, 0, 0, None, "")
    return direct.Direct(targets_of(world), world.settings, row, "web1/data/x", False)


def begun(world, straight=None):
    """One up to its lanes; closed again."""
    one = new_dump(world)
    one._targets = straight or one._targets
    try:
        one.begin(world.base)
    finally:
        one.close()
        one.over()
    return [lane.name for lane in one.lanes], one.problems


def test_a_dump_whose_only_target_is_away_says_that_it_may_go_later(world):
    world.client("web1", script=PARTS, policy=policy("nas"))
    world.opened["nas"] = Away(world.opened["nas"])
    with pytest.raises(TargetDown) as caught:
        begun(world)
    assert caught.value.again and caught.value.code == "target-down"
    told = "web1:data cannot go straight to a target: target nas: no connection to nas:22"
    assert caught.value.message == told
    world.opened["nas"].retry = False  # as with a wrong password
    with pytest.raises(TargetRefused) as caught:
        begun(world)
    assert not caught.value.again
    world.set(targets={"nas": world.settings.targets["nas"]})

    def gone(name, pruning=False):
        raise TargetRefused.of(name, TargetError("the name nas cannot be resolved", "", True))

    straight = targets_of(world)
    straight._engine.target = gone
    with pytest.raises(TargetDown):
        begun(world, straight)


def test_a_place_that_is_not_mounted_may_be_so_later(world, tmp_path, disk_path):
    world.client("web1", script=PARTS, policy=policy("nas"))
    context = TargetContext("nas", "id", tmp_path / "context")
    world.opened["nas"] = DirectoryTarget(DirectoryOptions(path=disk_path, mount=True), context)
    with pytest.raises(TargetDown, match="is not on a mounted file system"):
        begun(world)


def test_a_target_that_was_away_is_asked_anew_when_the_dump_is_tried_again(world, monkeypatch):
    world.client("web1", script=PARTS, policy=policy("nas"))
    good, world.opened["nas"] = world.opened["nas"], Away(world.opened["nas"])
    straight = targets_of(world)
    with pytest.raises(TargetDown):
        begun(world, straight)
    world.opened["nas"] = good
    with pytest.raises(TargetDown):  # not for each of a hundred dumps
        begun(world, straight)
    later = time.monotonic() + 31
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert begun(world, straight) == (["nas"], [])


def test_one_of_several_targets_that_is_away_at_the_beginning_stops_nothing(world):
    world.opened["disk"] = Away(world.opened["disk"])
    result = night(world)
    assert result.ok and result.warning
    assert "target disk: no connection to nas:22; its copy is made later" in result.message
    check_copies(world, ("nas",))


def test_a_dump_whose_targets_all_broke_off_says_whether_that_may_pass(world):
    def errors(*found):
        one = new_dump(world)
        one.lanes = [SimpleNamespace(error=TargetRefused.of("nas", error)) for error in found]
        with pytest.raises(TargetRefused) as caught:
            one._alive()
        return caught.value

    gone, full = TargetError("it went silent", "", True), TargetError("the disk is full")
    assert errors(full, gone).again and not errors(full).again
    assert errors(full, gone).message == "target nas: the disk is full; target nas: it went silent"


def test_where_the_disk_is_full_and_the_target_away_it_may_go_later(world):
    world.client("web1", script=PARTS, policy=policy("nas", holding="auto"))
    world.opened["nas"] = Away(world.opened["nas"])
    one = new_dump(world)
    one.lands(world.holding, SimpleNamespace(disk=HoldingDisk(world.holding, 1)))
    with pytest.raises(HoldingFull) as caught:
        one.spill(HoldingFull("no room"))
    assert caught.value.message.startswith("no room; web1:data cannot go straight")
    assert caught.value.again and not HoldingFull("no room").again


def test_a_copy_that_comes_after_another_is_left_to_staging(world):
    rules = (CopyRule("disk", after="nas"), CopyRule("nas"))
    world.client("web1", script=PARTS, policy=replace(policy(), copies=rules))
    result = night(world)
    assert result.ok and not result.warning
    assert {one.target: one.state for one in world.catalog.copies(dump=result.dump)} == {"nas": "verified"}
    check_copies(world, ("nas",))


def test_a_spill_in_the_middle_of_a_part_keeps_every_byte(world):
    world.client("web1", script=PARTS, policy=policy("nas", "disk", holding="auto"))
    world.set(holding=(HoldingDisk(world.holding, 3 * MIB + 500_000),))
    result = night(world)
    assert result.ok, result
    check_copies(world)
    assert left(world) == [] and not list(world.holding.glob("web1/*/*"))
    parts = sorted((world.base / "nas/web1/data" / result.dump).glob("image-*"))
    assert [path.stat().st_size for path in parts] == [900_000] * 5


def test_a_lane_ends_at_once_when_its_dump_does(world):
    waiting = threading.Event()

    class Slow(Ill):
        def stream(self, name, **more):
            pace = more["pace"]

            def write(data):
                waiting.set()
                while True:
                    pace(0)

            return SimpleNamespace(write=write, abort=lambda: None)

    lane = lanes.Lane(lanes.Place("disk", Slow(world.opened["disk"], ""), None), "web1/data/x")
    lane.begin("image-0000.tar")

    def check():
        if waiting.is_set():
            raise StowageError("the run was stopped")

    with pytest.raises(StowageError, match="stopped"):
        for _ in range(100):
            lane.write(bytes(MIB), check)
    lane.stop()
    assert not lane._thread.is_alive() and lane.error is None
