"""A run that is killed anywhere leaves whole dumps or nothing: 50 kills at random moments of real runs.

After each: what the catalog knows is whole to the last byte, what it does not know is gone after the next run or
was whole and got its row, nothing without a row is ever copied, and the next run is right.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import sealed
from dump_lab import Lab

from backupcore.catalog import places
from backupcore.dump import runlock, sweep
from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys, verify
from backupcore.keys import store
from backupcore.settings import Policy

KILLS = 50


def make_lab(base):
    base = Path(base)
    lab = Lab(base)
    for name in ("a", "b"):
        lab.client(name, {"one": base / "tree", "two": base / "tree" / "sub"})
    return lab


def night_in_a_child(base) -> int:
    """Starts a night in a process of its own (forked: all is imported already); its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        lab = make_lab(base)
        os._exit(not all(result.ok for result in lab.night().values()))
    finally:
        os._exit(2)


def change(tree, seed):
    """Something new to dump."""
    numbers = random.Random(seed)
    for name in ("f1", "f2", "sub/f3"):
        (tree / name).write_bytes(numbers.randbytes(numbers.randrange(200_000)))
    extra = tree / "sub" / f"d{seed % 5}"
    if extra.is_dir():
        (extra / "x").unlink()
        extra.rmdir()
    else:
        extra.mkdir()
        (extra / "x").write_text(str(seed))


def check_all(lab, keys, checked):
    """Every dump of the catalog is whole, its counters have no double, its base is there."""
    rows = lab.catalog.dumps()
    for row in rows:
        full = row.id not in checked
        manifest = check_folder(Path(row.holding), keys, full=full)
        assert manifest.dump == row.id and manifest.counter == row.counter
        checked.add(row.id)
        lab.catalog.chain(row.id)
    return rows


def strangers(lab, rows):
    """What is on the holding disk or beside the catalog and belongs to no row."""
    holding, state = lab.settings.holding[0].path, lab.settings.state
    known = {row.holding for row in rows}
    found = [str(path) for path in holding.glob("*/*/*") if str(path) not in known]
    found += [str(path) for path in (holding / ".incoming").rglob("*") if not path.is_dir()]
    names = {row.id for row in rows}
    found += [str(path) for path in (state / "pending").rglob("*") if path.is_file()]
    for top in ("state", "index"):
        found += [str(path) for path in (state / top).rglob("*") if path.is_file() and path.name[:28] not in names]
    return [one for one in found if ".incoming" not in one or os.path.isfile(one)]


@pytest.mark.timeout(300)
def test_a_run_killed_anywhere_leaves_whole_dumps_or_nothing(tmp_path):
    seed = int(os.environ.get("STOWAGE_KILL_SEED", "20261122"))
    numbers = random.Random(seed)
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(60):
        (tree / f"n{number}").write_bytes(numbers.randbytes(number * 300))
    change(tree, 0)
    lab = make_lab(tmp_path)
    for _night in range(2):  # the first one also makes the agent's byte code: it takes longer than those to be killed
        begun = time.monotonic()
        assert all(result.ok for result in lab.night().values()), lab.results
        length = time.monotonic() - begun
    keys = load_public_keys(lab.settings.keys)
    checked, adopted, cut, torn = set(), 0, 0, 0
    for kill in range(1, KILLS + 1):
        change(tree, kill)
        child = night_in_a_child(tmp_path)
        time.sleep(numbers.random() * length * 1.2)
        os.kill(child, signal.SIGKILL)
        hit = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        cut, length = cut + hit, length if hit else length * 0.8  # it takes less time than it did: kill earlier
        rows = check_all(lab, keys, checked)
        torn += bool(strangers(lab, rows))
        if kill % 5 == 0:  # a whole run after it: nothing is left, and what it makes is right
            begun = time.monotonic()
            results = lab.night()
            length = time.monotonic() - begun
            assert all(result.ok for result in results.values()), (seed, kill, results)
            adopted += len(lab.swept.adopted)
            assert lab.swept.strange == [] and lab.swept.problems == []
            rows = check_all(lab, keys, checked)
            assert strangers(lab, rows) == [], (seed, kill)
            path = places.run_record(lab.settings.state, lab.run.id)
            verify(path.read_bytes(), path.with_suffix(".sig").read_bytes(), keys)
            assert len(json.loads(path.read_bytes())["manifests"]) == 4
    # the kills hit something, and the last state is exact
    assert cut >= KILLS / 2 and torn >= 3, (cut, torn)
    assert all(result.ok for result in lab.night().values())
    for name in ("a", "b"):
        lab.restore_by_hand(name, "one", tmp_path / f"r-{name}")
        subprocess.run(["diff", "-r", "--no-dereference", tree, tmp_path / f"r-{name}"], check=True)
    for path in lab.settings.holding[0].path.glob("*/*/*"):
        assert lab.catalog.dump(path.name) is not None


STEPS = ("rename", "replace", "fsync", "link", "unlink", "mkdir", "rmdir")


def killed_before(base, step, encrypt) -> bool:
    """A night of one source in a child that dies before its step-th step on a disk; whether it came that far."""
    pid = os.fork()
    if not pid:
        try:
            left = [step]
            for name in STEPS:

                def counted(*args, _real=getattr(os, name), **kwargs):
                    left[0] -= 1
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return _real(*args, **kwargs)

                setattr(os, name, counted)
            lab = small_lab(base, encrypt)
            os._exit(not lab.night()["a:one"].ok)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def small_lab(base, encrypt):
    lab = Lab(base, dumps_at_once=1)
    if encrypt != "none" and not store.active(lab.settings.keys):
        sealed.prove(lab.settings.keys)
    lab.client("a", {"one": base / "tree"}, policy=Policy("standard", encrypt=encrypt))
    return lab


@pytest.mark.timeout(300)
@pytest.mark.parametrize("encrypt", ["none", "client", "server"])
def test_a_kill_before_any_step_on_the_disk_leaves_a_whole_dump_or_nothing(tmp_path, encrypt):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "unverkennbar").write_text("one")
    lab = small_lab(tmp_path, encrypt)
    assert lab.night()["a:one"].ok, lab.results
    keys = load_public_keys(lab.settings.keys)
    states = places.state_folder(lab.settings.state, "a", "one")
    adopted, checked = 0, set()
    for step in range(8, 80):  # from the folder that is made to the record of the run
        if not killed_before(tmp_path, step, encrypt):
            break
        check_all(lab, keys, checked)
        with runlock.hold(lab.settings):
            found = sweep.sweep(lab.settings, lab.catalog)
        adopted += len(found.adopted)
        assert not found.strange and not found.problems
        rows = check_all(lab, keys, checked)
        assert strangers(lab, rows) == [] and not (lab.settings.holding[0].path / ".incoming").exists(), step
        kept = {path.name for path in states.iterdir()}
        assert kept <= {row.state for row in rows if row.state}, step
        assert all(places.find_index(lab.settings.state, "a", "one", row.id) for row in rows), step
        # a dump that got its row afterwards is as good as any: its state came along
        assert {f"{row.id}.state" for row in rows[-2:]} <= kept, step
        if encrypt != "none":
            assert not sealed.names_in(lab.settings.holding[0].path, (b"unverkennbar",)), step
            assert sealed.opens(rows[-1]), step
    assert 30 < step < 79 and 5 <= adopted < 20, (step, adopted)
    assert lab.night()["a:one"].level == 1
    counters = [row.counter for row in lab.catalog.dumps()]
    assert counters == sorted(set(counters))
