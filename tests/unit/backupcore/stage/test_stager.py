"""Copies: whole or not there, each for itself, proven, and gone on with after a kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from backupcore.hookspecs import TargetError

from backupcore.catalog.records import CopyRow
from backupcore.errors import TargetRefused
from backupcore.image.signing import Signer
from backupcore.settings import CopyRule


class Around:
    """A target around another, to make it ill: the methods given replace its own."""

    def __init__(self, inner, **methods):
        self.inner = inner
        for name, method in methods.items():
            setattr(self, name, method)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_copy_is_the_image_byte_by_byte_and_verified(world):
    dump = world.dump()
    results = world.stage()
    assert [(one.ok, one.target, one.dump) for one in results] == [(True, "nas", dump.id), (True, "disk", dump.id)]
    assert world.states(dump) == {"nas": "verified", "disk": "verified"}
    image = world.files(world.holding)
    assert len(image) == 8
    assert world.files(world.root / "nas") == world.files(world.root / "disk") == image
    assert all(one.bytes == sum(map(len, image.values())) for one in results)
    assert all(row.verified_ns and row.upload == {} for row in world.catalog.copies())
    assert world.stage() == ()


def test_manifest_json_is_put_last_only_if_absent_and_only_after_all_others_are_proven(world):
    log = []
    inner = world.opened["nas"]

    def put(name, path, **options):
        log.append(("put", name.rpartition("/")[2], options.get("if_absent", False)))
        return inner.put(name, path, **options)

    def read(name, *args):
        log.append(("read", name.rpartition("/")[2], None))
        return inner.read(name, *args)

    world.opened["nas"] = Around(inner, put=put, read=read)
    world.policy(CopyRule("nas"))
    world.dump()
    world.stage()
    log = [one for one in log[1:] if not one[1].endswith(".pub")]
    order = [name for action, name, _ in log if action == "put"]
    assert order == [
        "image-0000.tar.zst", "image-0001.tar.zst", "index.tsv.zst", "frames.tsv.zst", "SHA256SUMS", "RESTORE.txt",
        "manifest.sig", "manifest.json",
    ]  # fmt: skip
    at = log.index(("put", "manifest.json", True))
    assert {name for action, name, _ in log[:at] if action == "read"} == set(order[:-1])
    assert log[at + 1 :] == [("read", "manifest.json", None)]


def test_each_server_leaves_its_marker(world):
    world.dump()
    world.stage()
    marker = (world.root / "nas/.stowage" / world.server).read_text()
    assert re.fullmatch(world.server + "\n[0-9a-f]{32}\n", marker)


def test_the_public_keys_of_the_signers_lie_beside_the_dumps(world):
    other = Signer.make(world.root / "other")
    (world.settings.keys / "other.pub").write_bytes(other.public_pem)
    world.dump()
    world.stage()
    keys = {path.name: path.read_bytes() for path in (world.root / "nas/.stowage/keys").iterdir()}
    assert keys == {f"{one.fingerprint}.pub": one.public_pem for one in (world.signer, other)}


def test_signed_records_of_runs_follow(world):
    folder = world.settings.state / "runs"
    folder.mkdir()
    for name in ("20261122T170000Z-0001.json", "20261122T170000Z-0001.sig"):
        (folder / name).write_text(name)
    world.dump()
    world.stage()
    for name in ("20261122T170000Z-0001.json", "20261122T170000Z-0001.sig"):
        assert (world.root / "nas/.stowage/runs" / world.server / name).read_text() == name


def test_what_was_given_up_long_ago_is_cleaned_and_what_is_young_stays(world):
    world.dump()
    world.stage()
    incoming = world.root / "nas/.stowage/incoming" / world.server
    for name, age in (("old", 8), ("young", 6)):
        (incoming / name).write_bytes(b"half")
        os.utime(incoming / name, (time.time() - age * 86400,) * 2)
    world.dump()
    world.stage()
    assert [path.name for path in incoming.iterdir()] == ["young"]


def test_one_target_that_refuses_costs_its_own_copies_only(world):
    def put(*_args, **_options):
        raise TargetError("the disk is full", "make room")

    world.opened["nas"] = Around(world.opened["nas"], put=put)
    dump = world.dump()
    bad, good = world.stage()
    assert (bad.ok, bad.code, bad.message, bad.hint) == (
        False, "target-refused", "target nas: the disk is full", "make room",
    )  # fmt: skip
    assert good.ok
    assert world.states(dump) == {"nas": "failed", "disk": "verified"}
    assert world.catalog.copies(target="nas")[0].error == "target nas: the disk is full -> make room"
    world.opened["nas"] = world.directory("nas")
    assert [one.target for one in world.stage()] == ["nas"]
    assert world.states(dump) == {"nas": "verified", "disk": "verified"}


def test_a_driver_with_a_bug_costs_its_own_copies_only(world):
    def put(*_args, **_options):
        raise ZeroDivisionError("division\nby zero")

    world.opened["nas"] = Around(world.opened["nas"], put=put)
    dump = world.dump()
    bad, good = world.stage()
    assert not bad.ok and "driver directory failed: ZeroDivisionError: division by zero" in bad.message
    assert good.ok and world.states(dump)["disk"] == "verified"


def test_a_target_that_cannot_be_opened_is_asked_once(world):
    asked = []

    def refuse(name):
        if name == "nas":
            asked.append(name)
            raise TargetRefused("target nas: no connection", "stowage check")
        return world.opened[name]

    from backupcore.stage import stager

    for _ in range(3):
        world.dump()
    results = stager.stage(world.settings, world.catalog, refuse)
    assert [one.ok for one in results if one.target == "nas"] == [False] * 3
    assert [one.ok for one in results if one.target == "disk"] == [True] * 3
    assert asked == ["nas"]


def test_a_target_that_is_down_is_given_up_after_a_few_copies(world):
    tried = []

    def put(name, *_args, **_options):
        tried.append(name)
        raise TargetError("no connection", retry=True)

    world.dump()
    world.policy(CopyRule("nas"))
    world.stage()
    world.opened["nas"] = Around(world.opened["nas"], put=put)
    world.settings = replace(world.settings, copies_at_once=1)
    for _ in range(6):
        world.dump()
    assert [one.ok for one in world.stage()] == [False] * 6
    assert len(tried) == 3


# -- what is on the holding disk


def flip(path: Path, at: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_bit_that_flipped_on_the_holding_disk_is_never_copied(world):
    dump = world.dump()
    flip(Path(dump.holding) / "image-0001.tar.zst")
    results = world.stage()
    assert [one.code for one in results] == ["image-damaged"] * 2
    assert "image-0001.tar.zst is damaged" in results[0].message and dump.id in results[0].message
    assert results[0].hint == "stowage run --client web1 --source etc --level 0"
    assert world.catalog.dump(dump.id).damaged
    assert not [name for name in world.files(world.root / "nas") if "image-0001" in name or "manifest" in name]


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "SHA256SUMS", "RESTORE.txt"])
def test_a_folder_that_is_not_what_its_signature_says_is_never_copied(world, name):
    dump = world.dump()
    flip(Path(dump.holding) / name, 20)
    assert [one.code for one in world.stage()] == ["image-damaged"] * 2
    assert world.files(world.root / "nas") == {} if (world.root / "nas").exists() else True


def test_a_file_that_is_missing_is_damage_but_a_missing_folder_is_an_unmounted_disk(world):
    dump = world.dump()
    (Path(dump.holding) / "index.tsv.zst").unlink()
    assert {one.code for one in world.stage()} == {"image-damaged"}
    other = world.dump("web2")
    world.holding.rename(world.root / "away")
    results = [one for one in world.stage() if one.dump == other.id]
    assert all("mounted" in one.hint for one in results)
    assert not world.catalog.dump(other.id).damaged


def test_damage_on_the_holding_disk_beside_a_verified_copy_does_not_condemn_the_dump(world):
    dump = world.dump()
    world.policy(CopyRule("nas"))
    world.stage()
    flip(Path(dump.holding) / "image-0000.tar.zst")
    world.policy(CopyRule("nas"), CopyRule("disk"))
    image = world.files(world.root / "nas")
    assert [(one.target, one.ok) for one in world.stage()] == [("disk", True), ("holding", True)]
    assert not world.catalog.dump(dump.id).damaged
    assert world.files(world.root / "disk") == world.files(world.holding) == image


# -- what is at the target


def test_another_dump_of_that_name_is_refused_and_named(world):
    dump = world.dump()
    manifest = Path(dump.holding) / "manifest.json"
    at = world.root / "nas" / manifest.relative_to(world.holding)
    at.parent.mkdir(parents=True)
    (world.root / "nas/.stowage").mkdir()
    at.write_bytes(manifest.read_bytes().replace(world.server.encode(), b"fedcba9876543210"))
    before = at.read_bytes()
    bad, good = world.stage()
    assert not bad.ok and "of the backup server fedcba9876543210" in bad.message
    assert good.ok
    assert [path.name for path in at.parent.iterdir()] == ["manifest.json"] and at.read_bytes() == before


def test_a_manifest_that_is_garbage_is_refused(world):
    dump = world.dump()
    at = world.root / "nas" / Path(dump.holding).relative_to(world.holding) / "manifest.json"
    at.parent.mkdir(parents=True)
    (world.root / "nas/.stowage").mkdir()
    at.write_bytes(b"\x00")
    bad = world.stage()[0]
    assert not bad.ok and "whose manifest cannot be read" in bad.message


def test_a_place_that_gives_other_bytes_is_never_verified(world):
    inner = world.opened["nas"]

    def read(name, *args):
        for piece in inner.read(name, *args):
            yield bytes([piece[0] ^ 1]) + piece[1:] if name.endswith("index.tsv.zst") else piece

    world.opened["nas"] = Around(inner, read=read)
    dump = world.dump()
    bad = world.stage()[0]
    assert not bad.ok and "gives other bytes" in bad.message
    assert world.states(dump)["nas"] == "failed"
    assert not any(name.endswith(("manifest.json", "index.tsv.zst")) for name in world.files(world.root / "nas"))
    world.opened["nas"] = inner
    assert world.stage()[0].ok
    assert world.files(world.root / "nas") == world.files(world.holding)


@pytest.mark.parametrize("spoiled", ["index.tsv.zst", "manifest.json"])
def test_where_the_night_may_not_delete_what_is_wrong_is_put_anew(world, spoiled):
    inner = world.opened["nas"]

    def read(name, *args):
        for piece in inner.read(name, *args):
            yield bytes([piece[0] ^ 1]) + piece[1:] if name.endswith(spoiled) else piece

    def delete(_name):
        raise TargetError("AccessDenied")

    world.opened["nas"] = Around(inner, read=read, delete=delete)
    dump = world.dump()
    bad = world.stage()[0]
    assert not bad.ok and "gives other bytes" in bad.message
    assert world.states(dump)["nas"] == "failed"
    (place,) = (world.root / "nas").rglob(spoiled)
    place.write_bytes(b"what was kept instead")
    world.opened["nas"] = Around(inner, delete=delete)
    assert world.stage()[0].ok
    assert world.files(world.root / "nas") == world.files(world.holding)


def test_a_place_that_loses_a_file_is_never_verified(world):
    inner = world.opened["nas"]

    def put(name, *args, **options):
        stored = inner.put(name, *args, **options)
        if name.endswith("manifest.sig"):
            inner.delete(name.replace("manifest.sig", "image-0000.tar.zst"))
        return stored

    world.opened["nas"] = Around(inner, put=put)
    world.dump()
    bad = world.stage()[0]
    assert not bad.ok and "has no bytes there" in bad.message
    assert not any(name.endswith("manifest.json") for name in world.files(world.root / "nas"))
    world.opened["nas"] = inner
    assert world.stage()[0].ok


def test_what_the_place_proves_is_not_read_back(world):
    inner = world.opened["nas"]
    reads = []

    def put(name, *args, **options):
        return replace(inner.put(name, *args, **options), proven=True)

    world.opened["nas"] = Around(inner, put=put, read=lambda *args: reads.append(args) or inner.read(*args))
    world.dump()
    assert world.stage()[0].ok
    assert reads == []


def test_a_manifest_whose_answer_was_lost_is_found_out(world):
    inner = world.opened["nas"]

    def put(name, *args, **options):
        inner.put(name, *args, **options)
        if name.endswith("manifest.json"):
            raise TargetError(f"{name} is already there")  # what a retry after a lost answer hears

    def put_any(name, *args, **options):
        stored = put(name, *args, **options)
        return stored or inner.stat(name)

    world.opened["nas"] = Around(inner, put=put_any)
    dump = world.dump()
    assert world.stage()[0].ok
    assert world.states(dump)["nas"] == "verified"


def test_a_copy_that_is_whole_but_unknown_to_the_catalog_is_proven_and_not_sent_again(world):
    dump = world.dump()
    world.stage()
    puts = []
    inner = world.opened["nas"]
    world.opened["nas"] = Around(inner, put=lambda name, *a, **o: puts.append(name) or inner.put(name, *a, **o))
    world.catalog.put_copy(CopyRow(dump.id, "nas"))
    assert [one.ok for one in world.stage()] == [True]
    assert puts == []
    flip(world.root / "nas" / Path(dump.holding).relative_to(world.holding) / "image-0000.tar.zst")
    world.catalog.put_copy(CopyRow(dump.id, "nas"))
    assert [one.ok for one in world.stage()] == [True]
    assert [name.rpartition("/")[2] for name in puts] == ["image-0000.tar.zst"]
    assert world.files(world.root / "nas") == world.files(world.holding)


# -- at once, stopped, killed


def test_copies_are_made_at_once_and_told_one_at_a_time(world):
    inner = world.opened["nas"]
    together = threading.Barrier(3, timeout=60)
    first = threading.local()

    def put(name, *args, **options):
        if name.endswith("image-0000.tar.zst") and not getattr(first, "passed", False):
            first.passed = True
            together.wait()
        return inner.put(name, *args, **options)

    world.opened["nas"] = Around(inner, put=put)
    world.policy(CopyRule("nas"))
    world.settings = replace(world.settings, copies_at_once=3)
    dumps = [world.dump("web1"), world.dump("web2"), world.dump("web1")]
    busy, events = threading.Lock(), []

    def progress(event):
        assert busy.acquire(blocking=False), "two events at once"
        events.append(event)
        busy.release()

    assert all(one.ok for one in world.stage(progress=progress))
    ends = [event for event in events if event["phase"] == "verified"]
    assert {event["dump"] for event in ends} == {dump.id for dump in dumps}
    assert all(event["bytes"] == event["total"] > 6000 and event["target"] == "nas" for event in ends)


def test_an_interrupt_stops_all_copies_and_a_later_try_goes_on(world):
    inner = world.opened["nas"]
    slow = threading.Event()

    def put(name, path, **options):
        if name.endswith("image-0001.tar.zst"):
            slow.set()
            for _ in range(12000):
                time.sleep(0.01)
                options["progress"](0)
        return inner.put(name, path, **options)

    world.opened["nas"] = Around(inner, put=put)
    world.policy(CopyRule("nas"))
    dump = world.dump()
    threading.Thread(target=lambda: (slow.wait(60), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        world.stage()
    assert time.monotonic() - begun < 60  # and not 120
    assert "image-0000.tar.zst" in world.catalog.copies(dump=dump.id)[0].upload["files"]
    puts = []
    world.opened["nas"] = Around(inner, put=lambda name, *a, **o: puts.append(name) or inner.put(name, *a, **o))
    assert [one.ok for one in world.stage()] == [True]
    assert not any(name.endswith("image-0000.tar.zst") for name in puts)


KILLED = """
import sys, os, signal
from pathlib import Path
sys.path.insert(0, {here!r})
from stage_world import World
from backupcore.catalog.store import Catalog
from backupcore.catalog import places
from backupcore.stage import stager
import pickle
settings = pickle.loads(Path(sys.argv[1]).read_bytes())
kill_at = int(sys.argv[2])
catalog = Catalog(places.catalog_file(settings.state))
count = 0
put_copy, world = catalog.put_copy, World.__new__(World)
world.root, world.settings, world.server = Path(sys.argv[3]), settings, places.server_id(settings.state)
def counted(row, lasting=True):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    put_copy(row, lasting)
catalog.put_copy = counted
target = world.directory("nas")
results = stager.stage(settings, catalog, lambda name: target)
print(count, all(one.ok for one in results))
"""


def test_killed_at_every_step_the_next_try_ends_it(world, tmp_path):
    import pickle

    world.policy(CopyRule("nas"))
    dump = world.dump(parts=(2000,))
    saved = tmp_path / "settings"
    saved.write_bytes(pickle.dumps(world.settings))
    script = KILLED.format(here=str(Path(__file__).parents[3] / "lab"))
    for kill_at in (2, 4, 9, 10, 1000):
        command = [sys.executable, "-c", script, saved, str(kill_at), world.root]
        done = subprocess.run(command, cwd=Path(__file__).parents[4], capture_output=True, text=True)
        if done.returncode == 0:
            assert done.stdout.endswith("True\n"), done.stderr
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        there = world.files(world.root / "nas") if (world.root / "nas").exists() else {}
        if any(name.endswith("manifest.json") for name in there):
            assert there == world.files(world.holding), "a manifest only beside a whole image"
    else:
        pytest.fail("the copy never came to its end")
    assert world.states(dump) == {"nas": "verified"}
    assert world.files(world.root / "nas") == world.files(world.holding)


class Cut:
    """A target whose answers end after so many calls of one kind."""

    def __init__(self, inner, kind, after):
        self.inner, self.kind, self.left = inner, kind, after

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.kind:
            return found

        def called(*words, **more):
            self.left -= 1
            if self.left < 0:
                raise TargetError("the line is cut", "", True)
            return found(*words, **more)

        return called


@pytest.mark.parametrize("kind, after", [("stat", 0), ("list", 0), ("list", 1), ("read", 0), ("read", 2)])
def test_a_copy_that_a_rebuild_found_whole_is_not_forgotten_when_it_cannot_be_looked_at(world, kind, after):
    dump = world.dump()
    world.stage()
    (row,) = world.catalog.copies(dump=dump.id, target="nas")
    world.catalog.put_copy(replace(row, state="done", upload={}, verified_ns=None))
    good, world.opened["nas"] = world.opened["nas"], Cut(world.opened["nas"], kind, after)
    (result,) = world.stage()
    assert result.failed and world.states(dump) == {"nas": "done", "disk": "verified"}
    world.opened["nas"] = good
    (result,) = world.stage()
    assert result.ok and world.states(dump) == {"nas": "verified", "disk": "verified"}


def test_a_copy_that_turns_out_to_lack_a_file_and_cannot_be_mended_is_no_good_one(world):
    dump = world.dump()
    world.stage()
    (row,) = world.catalog.copies(dump=dump.id, target="nas")
    world.catalog.put_copy(replace(row, state="done", upload={}, verified_ns=None))
    next((world.root / "nas").rglob("image-0000*")).unlink()
    world.opened["nas"] = Cut(world.opened["nas"], "put", 0)
    (result,) = world.stage()
    assert result.failed and world.states(dump)["nas"] == "failed"


def test_who_looks_is_told_what_waits_and_why(world):
    from backupcore.stage.copier import Copier
    from backupcore.stage.service import Service

    row = world.dump()
    copier = Copier(world.settings, world.catalog, world.opened.__getitem__, None)
    copier.closed = lambda rule: "waits for its window: Mon 22:00" if rule.target == "disk" else ""
    service = Service(copier, dumping=True)
    service._look(None)  # as at its beginning, with no thread yet
    told = {one["target"]: one for one in service.waiting()}
    assert {(one["dump"], one["bytes"]) for one in told.values()} == {(row.id, row.stored_size)}
    assert (told["nas"]["why"], told["disk"]["why"]) == ("", "waits for its window: Mon 22:00")
