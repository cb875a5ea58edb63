"""Space on the holding disks: nobody gets what another was promised, and nothing is promised twice."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest

from backupcore.dump import holding
from backupcore.dump.holding import Space, claim, landing
from backupcore.errors import ConfigError, HoldingFull
from backupcore.settings import HoldingDisk

MIB = 1 << 20
DUMP = "20261122T120000Z-L0-00000001"


def disk(tmp_path, use, name="holding"):
    (tmp_path / name).mkdir(exist_ok=True)
    return HoldingDisk(tmp_path / name, use)


def test_what_is_reserved_is_not_given_again(tmp_path):
    space = Space([disk(tmp_path, 100 * MIB)])
    first = space.reserve(50 * MIB)
    with pytest.raises(HoldingFull, match="has 4[0-9.]* MB left|has [34][0-9.]* MB left"):
        space.reserve(60 * MIB)
    first.close()
    assert space.reserve(60 * MIB).reserved >= 60 * MIB


def test_dumps_that_are_whole_count_and_those_that_come_in_count_once(tmp_path):
    one = disk(tmp_path, 100 * MIB)
    for name, size in (("web1/etc/x/image", 30 * MIB), (".incoming/web1/etc/y/image", 30 * MIB)):
        path = one.path / name
        path.parent.mkdir(parents=True)
        with open(path, "wb") as stream:
            stream.truncate(size)
    space = Space([one])
    assert space.reserve(60 * MIB)
    with pytest.raises(HoldingFull):
        space.reserve(20 * MIB)


def test_a_reservation_grows_while_there_is_room_and_not_into_anothers(tmp_path):
    space = Space([disk(tmp_path, 200 * MIB)])
    held = space.reserve(60 * MIB)
    room = space.reserve(10 * MIB)
    for _ in range(120):
        room.take(MIB)
    assert room.written == 120 * MIB
    with pytest.raises(HoldingFull, match="no more fits"):
        for _ in range(60):
            room.take(MIB)
    held.take(60 * MIB)  # what it was promised is still there


def test_a_negative_use_leaves_that_much_of_the_disk_free(tmp_path):
    found = os.statvfs(tmp_path)
    free = found.f_bavail * found.f_frsize
    space = Space([disk(tmp_path, -(free - 64 * MIB))])
    room = space.reserve(20 * MIB)
    with pytest.raises(HoldingFull):
        space.reserve(60 * MIB)
    room.close()


def test_the_disk_with_most_room_is_taken(tmp_path):
    small, large = disk(tmp_path, 50 * MIB, "small"), disk(tmp_path, 500 * MIB, "large")
    space = Space([small, large])
    assert space.reserve(30 * MIB).disk is large
    assert space.reserve(300 * MIB).disk is large
    assert space.reserve(30 * MIB).disk in (small, large)
    with pytest.raises(HoldingFull, match="small has .* left, .*large has .* left"):
        space.reserve(400 * MIB)


def test_an_unknown_size_takes_what_is_there(tmp_path):
    space = Space([disk(tmp_path, 10 * MIB)])
    assert space.reserve(None).reserved == 10 * MIB
    with pytest.raises(HoldingFull):
        space.reserve(None)


def test_no_holding_disk_is_said():
    with pytest.raises(HoldingFull, match="no holding disk is configured"):
        Space([]).reserve(None)


def test_many_threads_never_take_more_than_there_is(tmp_path):
    space = Space([disk(tmp_path, 300 * MIB)])
    taken, full = [], []

    def work():
        room = None
        try:
            room = space.reserve(30 * MIB)
            for _ in range(100):
                room.take(MIB)
            taken.append(room)
        except HoldingFull:
            full.append(room.written if room else 0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) + len(full) == 4 and full
    assert sum(room.written for room in taken) + sum(full) <= 300 * MIB
    assert sum(room.reserved for room in space._rooms) <= 300 * MIB


def test_a_bare_mount_point_is_not_claimed_while_images_are_known_on_the_disk(tmp_path):
    class Known:
        def __init__(self, *holding):
            self.rows = [SimpleNamespace(holding=one) for one in holding]

        def dumps(self):
            return self.rows

    disk = tmp_path / "disk"
    disk.mkdir()
    known = Known(None, str(disk / "web1/etc/20261122T120000Z-L0-00000001"))
    with pytest.raises(ConfigError, match="not mounted"):
        claim(disk, "a" * 16, known)
    assert list(disk.iterdir()) == []
    claim(disk, "a" * 16, Known(None, str(tmp_path / "other/web1/etc/x")))
    claim(disk, "a" * 16, known)  # the marker is there now


def test_a_disk_is_claimed_by_the_first_server_only(tmp_path):
    one = disk(tmp_path, 1).path
    claim(one, "a" * 16)
    claim(one, "a" * 16)
    with pytest.raises(ConfigError, match="belongs to the backup server 'aaaaaaaaaaaaaaaa'") as refused:
        claim(one, "b" * 16)
    assert f"rm {one}/.stowage" in refused.value.hint


def test_a_disk_that_is_not_mounted_is_not_made(tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        claim(tmp_path / "missing", "a" * 16)
    assert not (tmp_path / "missing").exists()


def test_leaving_takes_its_own_folders_only(tmp_path):
    one, other = (landing(tmp_path, "web1", name, DUMP) for name in ("etc", "home"))
    one.make()
    other.make()
    one.state.write_text("x")
    one.row.write_text("x")
    (one.folder / "image-0000.tar.zst").write_text("x")
    one.remove()
    assert other.folder.is_dir() and not one.folder.parent.exists()
    other.remove()
    assert list(tmp_path.iterdir()) == []
    other.remove()


def test_names_of_places_are_those_of_the_format(tmp_path):
    place = landing(tmp_path, "web1", "big", DUMP, "s1")
    assert place.final == tmp_path / "web1" / "big.s1" / DUMP
    assert place.folder == tmp_path / ".incoming" / "web1" / "big.s1" / DUMP
    assert holding.INCOMING.startswith(".")
