"""What came is synced while more comes: in which order, when, and at nobody's cost."""

from __future__ import annotations

import os
import threading

import pytest

from backupcore.dump import syncing
from backupcore.dump.holding import landing

DUMP = "20261122T120000Z-L0-00000001"


@pytest.fixture
def synced(monkeypatch):
    """What was synced, in order."""
    found = []
    monkeypatch.setattr(os, "fsync", lambda fd: found.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
    return found


@pytest.fixture(params=[False, True], ids=["clear", "sealed"])
def place(tmp_path, request):
    disk, pending = tmp_path / "disk", tmp_path / "state" / "pending"
    made = landing(disk, "web1", "etc", DUMP, private=pending if request.param else None)
    made.make()
    (made.folder / "image-0000.tar.zst").write_bytes(b"part")
    (made.folder / "index.tsv.zst").write_bytes(b"index")
    made.came.write_bytes(b"journal")
    if request.param:
        made.index.write_bytes(b"index")
    return made


def test_the_journal_is_synced_after_what_it_tells_of_and_nothing_twice(place, synced):
    one = syncing.Syncing(place)
    one.wrote(syncing.EVERY)
    one.close()
    assert synced[-1] == place.came.name and synced.count(place.came.name) == 1
    named = {"image-0000.tar.zst", "index.tsv.zst", DUMP, "etc", "web1", ".incoming", "disk"}
    sealed = {f"{DUMP}.index", "pending", "state"} if place.private is not None else set()
    assert set(synced[:-1]) == named | sealed
    synced.clear()
    with open(place.folder / "image-0000.tar.zst", "ab") as part, open(place.came, "ab") as journal:
        part.write(b"more")
        journal.write(b"more")
    one.wrote(syncing.EVERY)
    one.close()
    assert synced == ["image-0000.tar.zst", place.came.name]
    (place.folder / "image-0001.tar.zst").write_bytes(b"part")
    one.wrote(syncing.EVERY)
    one.close()
    assert synced[2:] == ["image-0001.tar.zst", DUMP]  # its name, too; the journal is as it was


def test_it_begins_after_so_many_bytes_or_seconds(place, synced, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(syncing.time, "monotonic", lambda: now[0])
    one = syncing.Syncing(place)

    def begins(count, seconds):
        synced.clear()
        now[0] += seconds
        place.came.write_bytes(place.came.read_bytes() + b"more")
        one.wrote(count)
        one.close()
        return bool(synced)

    assert [begins(syncing.EVERY // 2, 0), begins(syncing.EVERY // 2, 1), begins(1, 14), begins(1, 1)] == [
        False, True, False, True,
    ]  # fmt: skip


def at_work():
    return sum(thread.name == f"sync {DUMP}" for thread in threading.enumerate())


def test_whoever_receives_waits_for_no_disk_and_one_sync_is_at_work(place, monkeypatch):
    go, begun = threading.Event(), []
    monkeypatch.setattr(os, "fsync", lambda fd: (begun.append(fd), go.wait(60)))
    one = syncing.Syncing(place)
    for _frame in range(3):
        one.wrote(syncing.EVERY)  # comes back while the disk takes nothing
    assert at_work() == 1 and len(begun) <= 1
    go.set()
    one.close()
    assert at_work() == 0


def test_what_cannot_be_synced_or_is_gone_costs_nothing(place, monkeypatch):
    def fails(_fd):
        raise OSError(5, "Input/output error")

    one = syncing.Syncing(place)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        one.wrote(syncing.EVERY)
        one.close()
    place.remove()
    one.wrote(syncing.EVERY)
    one.close()
