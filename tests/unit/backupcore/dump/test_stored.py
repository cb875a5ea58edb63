"""What lies on a holding disk is counted now and then, and never taken for less than is known of."""

from __future__ import annotations

from backupcore.dump import stored
from backupcore.dump.space import Space
from backupcore.settings import HoldingDisk

MIB = 1 << 20


def image(disk, name, size):
    path = disk / name / "image"
    path.parent.mkdir(parents=True)
    with open(path, "wb") as stream:
        stream.truncate(size)


def test_a_fleet_of_small_dumps_does_not_walk_the_disk_for_each(tmp_path, monkeypatch):
    walks = []
    monkeypatch.setattr(stored, "stored", lambda disk: walks.append(disk) or 0)
    monkeypatch.setattr(stored, "AGE", 3600.0)
    space = Space([HoldingDisk(tmp_path, 4096 * MIB)])
    for _ in range(50):
        room = space.reserve(MIB)
        room.take(MIB)
        room.close()
    assert len(walks) == 1


def test_what_was_written_since_the_count_is_not_given_away_again(tmp_path):
    space = Space([HoldingDisk(tmp_path, 1024 * MIB)])
    first = space.reserve(600 * MIB)
    image(tmp_path, "a", 600 * MIB)
    first.take(600 * MIB)
    first.close()
    second = space.reserve(300 * MIB)
    assert second.reserved <= 424 * MIB
    second.close()


def test_what_went_since_the_count_is_found_before_anybody_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "AGE", 3600.0)
    image(tmp_path, "a", 900 * MIB)
    space = Space([HoldingDisk(tmp_path, 1024 * MIB)])
    space.reserve(100 * MIB).close()
    (tmp_path / "a" / "image").unlink()
    assert space.reserve(900 * MIB).reserved >= 900 * MIB
