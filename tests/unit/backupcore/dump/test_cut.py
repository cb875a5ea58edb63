"""The file of a cut: kept for its owner only, told by the dumps when lost, refused when it is not what was written."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from backupcore.dump import cut
from backupcore.errors import StowageError
from backupcore.schedule.segments import REST, Segment

PARTS = (Segment("s01", (b"home/ann", b"www/\xff"), 5), Segment("s02", (b"srv",), 7), Segment(REST, (), 3))


class Dumps:
    """A catalog that knows one source."""

    def __init__(self, *rows):
        self.rows = rows

    def dumps(self, client, name):
        assert (client, name) == ("web1", "data")
        return list(self.rows)


@pytest.fixture
def settings(tmp_path):
    return SimpleNamespace(state=tmp_path / "state")


def row(share, begun_ns=1):
    options = {"folders": [os.fsdecode(path) for path in share.folders]}
    return SimpleNamespace(segment=share.name, options=options, begun_ns=begun_ns)


def kept(settings, parts=PARTS):
    made = cut.make(parts, 20, 8.0)
    cut.keep(settings, "web1", "data", made)
    return made, cut.place(settings, "web1", "data")


def test_it_is_kept_as_it_was_and_nobody_else_reads_it(settings):
    made, place = kept(settings)
    assert cut.read(settings, "web1", "data") == made
    assert place.stat().st_mode & 0o777 == 0o600 and place.parent.stat().st_mode & 0o077 == 0
    assert os.listdir(place.parent) == ["data.json"]
    assert [one.rest for one in made.shares] == [False, False, True]
    assert made.shares[-1].folders == (b"home/ann", b"srv", b"www/\xff")
    assert made.shares[0].request() == {"folders": ["home/ann", "www/\udcff"], "rest": False}
    assert set(made.names).isdisjoint(cut.make(PARTS, 20, 8.0).names)  # a new cut's dumps are no old one's


def test_one_that_is_lost_is_told_by_the_dumps_and_kept_again(settings):
    made, place = kept(settings)
    place.unlink()
    rows = [row(one) for one in made.shares]
    assert cut.current(settings, Dumps(*rows[:2]), "web1", "data") is None and not place.exists()
    older = cut.make(PARTS[1:], 1, 1.0)
    found = cut.current(settings, Dumps(*rows, *(row(one, 0) for one in older.shares)), "web1", "data")
    assert found.names == made.names and [one.folders for one in found.shares] == [one.folders for one in made.shares]
    assert cut.read(settings, "web1", "data") == found and place.stat().st_mode & 0o777 == 0o600


def spoilt(data):
    value = json.loads(data)
    shares = value["segments"]
    yield "empty", b""
    yield "cut off", data[: len(data) // 2]
    yield "no JSON", b"\0" * len(data)
    yield "deep", b"[" * 100000
    yield "another schema", json.dumps({**value, "schema": 2}).encode()
    yield "no segments", json.dumps({**value, "segments": []}).encode()
    yield "one is missing", json.dumps({**value, "segments": shares[1:]}).encode()
    yield "no night", json.dumps({**value, "night": float("inf")}).encode()
    folders = [["home/ann", "srv"], ["../etc"], ["/etc"], ["."], ["a//b"], [], ["home/other"], "srv", [7]]
    for wrong in folders:  # of two segments, of none, or no path of a source
        yield str(wrong), json.dumps({**value, "segments": [{**shares[0], "folders": wrong}, *shares[1:]]}).encode()
    for wrong in ("s1of3", "s1of3-0000", "../s1of3-abcd", "", None):
        yield str(wrong), json.dumps({**value, "segments": [{**shares[0], "name": wrong}, *shares[1:]]}).encode()


def test_one_that_is_not_what_was_written_is_refused_with_one_line(settings):
    made, place = kept(settings)
    data = place.read_bytes()
    assert cut.wanted(settings, "web1", "data", made.names[0]) == made.shares[0]
    count = 0
    for name, wrong in spoilt(data):
        place.write_bytes(wrong)
        assert cut.read(settings, "web1", "data") is None, name
        with pytest.raises(StowageError) as caught:
            cut.wanted(settings, "web1", "data", made.names[0])
        assert caught.value.message == f"{place} does not say what segment {made.names[0]} is" and caught.value.hint
        count += 1
    assert count == 22
    assert cut.current(settings, Dumps(), "web1", "data") is None  # without dumps of segments: the whole is dumped
    found = cut.current(settings, Dumps(*map(row, made.shares)), "web1", "data")
    assert [(one.name, one.folders) for one in found.shares] == [(one.name, one.folders) for one in made.shares]
    assert cut.read(settings, "web1", "data") == found


def test_dumps_that_contradict_each_other_tell_no_cut(settings):
    made, _place = kept(settings)
    rows = [row(one) for one in made.shares]
    assert cut.of_dumps(rows).names == made.names
    rows[0].options["folders"] = ["srv"]
    assert cut.of_dumps(rows) is None
    rows[0].options["folders"] = ["../home"]
    assert cut.of_dumps(rows) is None
    assert cut.of_dumps([SimpleNamespace(segment="", options={"folders": ["a"]}, begun_ns=1)]) is None


def test_the_folders_of_the_old_cut_are_known_until_the_new_one_is_complete(settings):
    old, _place = kept(settings)
    new = replace(cut.make((Segment("s01", (b"etc",), 1), Segment(REST, (), 1)), 21, 9.0), before=old.names)
    cut.keep(settings, "web1", "data", new)
    found = cut.read(settings, "web1", "data")
    assert found.names == new.names and found.leaving == old.shares and found.share(old.names[0]) == old.shares[0]


def test_a_full_disk_leaves_the_source_whole(settings, monkeypatch):
    made, place = kept(settings)
    place.unlink()

    def full(*_words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cut.files, "replace", full)
    assert cut.current(settings, Dumps(*map(row, made.shares)), "web1", "data") is None
