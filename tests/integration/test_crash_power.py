"""The power goes at any step of a run: what was told is there, what is there is whole, and the next run is right.

State folder, holding disk and target lie on file systems of tests/lab/powercut.py, which keep of a recorded run what it
had synced by then, and of the rest nothing, or some of it in any order. A client is not cut: its tree lies elsewhere.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import crash_world
import pytest
import sealed
from cli_lab import Server
from powercut import PowerCut
from powerdisk import Disk, Node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")
SEED = int(os.environ.get("STOWAGE_KILL_SEED", "20261123"))


class World:
    """A server whose disks are cut."""

    def __init__(self, base: Path, **policy):
        self.base, self.numbers, self.turn = base, random.Random(SEED), 0
        self.mount, self.tree = base / "mount", base / "tree"
        self.mount.mkdir()
        (self.tree / "sub").mkdir(parents=True)
        self.server = Server(base)
        self.disk = PowerCut(self.mount)
        self.at = crash_world.Places(self.mount / "state", self.mount / "holding", self.mount / "nas")
        for folder in self.at[:3]:
            folder.mkdir(mode=0o700)
        self.server.write(
            state=str(self.at.state), holding=[{"path": str(self.at.holding), "use": "1 GB"}],
            targets={"nas": {"type": "directory", "path": str(self.at.target)}},
            policies={"p": {"copies": [{"target": "nas"}], "keep_on_holding": 1, **policy}},
            drill={"nightly": False}, verify={"night": 0},
        )  # fmt: skip
        self.server.client("a", {"one": {"path": str(self.tree), "policy": "p"}})
        self.runner = crash_world.Runner(base / "runner", base / "stowage.yml", self.mount)
        self.change()

    def close(self):
        self.runner.close()
        self.disk.close()

    def change(self):
        """Something new to dump."""
        self.turn += 1
        for number in range(3):
            content = self.numbers.randbytes(self.numbers.randrange(6000))
            (self.tree / "sub" / f"f{(self.turn + number) % 5}").write_bytes(content)

    def recorded(self):
        """A run that is recorded: what it did to the disks."""
        self.disk.begin()
        self.runner.run("run")
        return self.disk.log()

    def judge(self, log, at, model):
        """What is there after the cut, and what the next run makes of it; faults."""
        told = [tuple(op.rest[0].split(":")) for op in log[:at] if op.kind == "mark"]
        faults = []
        before = None
        if (self.at.state / "catalog.sqlite").exists():
            before = crash_world.look(self.at)
            faults += [f"before the next run: {one}" for one in before.faults]
        elif told:
            faults.append("the catalog is gone")
        for name, first, *rest in told if before else ():
            if name == "add_dump" and first not in before.dumps:
                faults.append(f"{first} was in the catalog and is lost")
            if name == "put_copy" and rest[1] == "verified" and before.copies.get((first, rest[0])) is None:
                faults.append(f"the copy of {first} was verified and is lost")
        child = self.runner.begin("run")
        if child.wait():
            faults.append(f"the next run: {child.out[-600:]} {child.err[-600:]}")
        after = crash_world.look(self.at)
        faults += after.faults + [f"left: {one}" for one in crash_world.left_over(self.at, after)]
        faults += [
            f"{name} was lost by the next run" for name in (set(before.dumps) if before else set()) - set(after.dumps)
        ]
        unmade = [name for name in after.dumps if getattr(after.copies.get((name, "nas")), "state", "") != "verified"]
        faults += [f"{name} has no verified copy" for name in unmade]
        return faults, after

    def opens(self, found):
        """The newest dump and what it builds on, from the target, by GNU tar: equal to the tree."""
        newest = max(found.dumps.values(), key=lambda row: row.counter)
        chain = [newest]
        while chain[0].base:
            chain.insert(0, found.dumps[chain[0].base])
        dest = self.base / "restored"
        dest.mkdir()
        for row in chain:
            parts = sorted((self.at.target / row.client / row.source / row.id).glob("image-*"))
            script = 'zstd -dcqf "$@" | tar -xpG --numeric-owner -C "$0" -f -'
            subprocess.run(["sh", "-c", script, str(dest), *parts], check=True, env={**os.environ, "LC_ALL": "C"})
        same = subprocess.run(["diff", "-r", self.tree, dest], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", dest], check=True)
        return [] if not same.returncode else [f"restored otherwise: {same.stdout[:300]!r}"]


@pytest.fixture
def world(tmp_path, request):
    made = World(tmp_path, **getattr(request, "param", {}))
    yield made
    made.close()


def cut_at(world, log, cuts, opens=True):
    """All faults of some cuts: (at, model)."""
    found, count = {}, 0
    for at, model in cuts:
        if world.disk.cut(at, model, SEED, unless_same=True):
            count += 1
            faults, after = world.judge(log, at, model)
            faults = faults or (world.opens(after) if opens else [])
            if faults:
                found[at, model, log[at - 1] if at else None] = faults
    return found, count


def some_cuts(numbers, log, count):
    """Moments by lot, half of them right after something was synced."""
    syncs = [at for at, op in enumerate(log, 1) if op.kind == "sync"]
    for number in range(count):
        at = numbers.choice(syncs) if number % 2 else numbers.randrange(len(log) + 1)
        yield at, ("lost", "some", "journal")[number % 3]


@pytest.mark.timeout(300)
def test_a_power_cut_at_some_steps_loses_nothing_that_was_told(world):
    for _night in range(2):
        world.runner.run("run")
        world.change()
    log = world.recorded()
    assert {op.rest[0].split(":")[0] for op in log if op.kind == "mark"} == set(crash_world.TOLD)
    found, count = cut_at(world, log, sorted(some_cuts(world.numbers, log, 8)))
    print(f"{len(log)} steps, {count} states")
    assert not found and count >= 5, (SEED, found)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "world", [{}, {"holding": "never"}, {"encrypt": "server"}, {"keep_on_holding": 0, "compress": "none"}],
    indirect=True, ids=["holding", "direct", "sealed", "released"],
)  # fmt: skip
def test_a_power_cut_at_every_step_loses_nothing_that_was_told(world):
    if "encrypt" in world.server.config["policies"]["p"]:
        sealed.prove(world.at.state / "keys")
    for _night in range(2):
        world.runner.run("run")
        world.change()
    log = world.recorded()
    cuts = [(at, "lost") for at in range(len(log) + 1)]
    found, count = cut_at(world, log, cuts, "encrypt" not in world.server.config["policies"]["p"])
    cuts = [(at, model) for at in range(1, len(log) + 1, 2) for model in ("some", "journal")]
    more, counted = cut_at(world, log, cuts, False)
    print(f"{len(log)} steps, {count + counted} states")
    assert not found and not more and count + counted > 100, (SEED, found, more)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_power_cut_at_every_step_of_the_very_first_run_leaves_a_server_that_works(world):
    log = world.recorded()
    cuts = [(at, model) for at in range(len(log) + 1) for model in (("lost", "some") if at % 3 == 0 else ("lost",))]
    found, count = cut_at(world, log, cuts, False)
    print(f"{len(log)} steps, {count} states")
    assert not found and count > 30, (SEED, found)


# -- the disk itself: a model that lost nothing would find nothing


def disk_with(*ops):
    disk = Disk()
    folder = disk.add(Node(0o040755))
    disk.do("link", 1, "d", folder)
    disk.begin()
    file = disk.add(Node(0o100600))
    for kind, where, *rest in ops:
        disk.do(
            kind,
            {"d": folder, "f": file}[where],
            *(file if one == "f" else folder if one == "d" else one for one in rest),
        )
    return disk, folder


def shown(image, folder):
    return {name: bytes(image[number].data) for name, number in image[folder].entries.items()}


def test_the_model_loses_what_was_not_synced_and_keeps_what_was():
    made = [("link", "d", "t", "f"), ("write", "f", 0, b"x" * 2000), ("sync", "f"), ("rename", "d", "t", "d", "name")]
    disk, folder = disk_with(*made, ("sync", "d"))
    for at in range(5):
        assert shown(disk.cut(at, "lost"), folder) == {}  # a content without a name
    assert shown(disk.cut(5, "lost"), folder) == {"name": b"x" * 2000}
    assert shown(disk.cut(1, "kept"), folder) == {"t": b""} and shown(disk.cut(4, "kept"), folder) == {
        "name": b"x" * 2000
    }
    # unsynced: a name without content, half a content, or nothing of both, but never another name first
    some = {tuple(shown(disk.cut(2, "some", seed), folder).items()) for seed in range(60)}
    assert () in some and (("t", b""),) in some and (("t", b"x" * 2000),) in some and (("t", bytes(2000)),) in some
    assert any(len(one) == 1 and 0 < len(one[0][1]) < 2000 for one in some)
    later = {tuple(shown(disk.cut(4, "some", seed), folder)) for seed in range(60)}
    assert later == {(), ("t",), ("name",)}
    # a journal: the sync of any file commits the names before it
    assert {tuple(shown(disk.cut(3, "journal", seed), folder)) for seed in range(60)} == {("t",)}


def test_a_file_that_takes_anothers_place_is_the_old_or_the_new_one_never_none():
    old = [("link", "d", "name", "f"), ("write", "f", 0, b"old"), ("sync", "f"), ("sync", "d")]
    disk, folder = disk_with(*old)
    disk.begin()
    new = disk.add(Node(0o100600))
    disk.do("link", folder, "t", new)
    disk.do("write", new, 0, b"new")
    disk.do("sync", new)
    disk.do("rename", folder, "t", folder, "name")
    for model in ("lost", "some", "journal", "kept"):
        for seed in range(30):
            assert shown(disk.cut(4, model, seed), folder)["name"] in (b"old", b"new")
    assert shown(disk.cut(4, "lost"), folder) == {"name": b"old"}
