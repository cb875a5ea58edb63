"""Histories on the disk: damage, kills, two at once, what is missing, what is hostile."""

from __future__ import annotations

import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_world import SECOND, World, line, told, versions_of

from backupcore.errors import ImageDamaged
from backupcore.image import index
from backupcore.restore.request import glob_regex
from backupcore.search import block, history, lines, query, scan, store

ALL = query.compile_query(b"*", query.GLOB, lambda text: glob_regex(text, below=False))
NAME = query.compile_query(b"f77", query.GLOB, glob_regex)


def tree_of(folders, files, salt=0):
    tree = {b".": ("d", b"", SECOND, b"")}
    for number in range(folders):
        tree[b"d%d" % number] = ("d", b"", SECOND, b"")
        for other in range(files):
            content = b"%d" % ((number * files + other) * (salt if other % 7 == 0 else 0))
            tree[b"d%d/f%d" % (number, other)] = ("f", content, other * SECOND, b"")
    return tree


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(block, "SIZE_OF", 64)
    made = World(tmp_path)
    before = tree_of(20, 100)
    base = made.full(before)
    made.incremental(tree_of(20, 100, 3), before, base)
    made.full(tree_of(19, 100, 5))
    made.full(tree_of(3, 10), client="c2")
    return made


def ask(world, wanted=ALL, processes=1, rows=None):
    opened, absent = store.open_all(world.state, rows or world.rows)
    assert not absent
    try:
        return [
            (opened[hit.history].key.client, hit.path, [told(one) for one in hit.versions])
            for hit in scan.search(opened, wanted, processes)
        ]
    finally:
        for one in opened:
            os.close(one.history.fd)


def test_many_processes_say_what_one_says_in_the_same_order(world, monkeypatch):
    world.update()
    alone = ask(world)
    assert {path: versions for client, path, versions in alone if client == "c1"} == {
        path: versions for (path, _is_dir), versions in versions_of(world).items()
    }
    monkeypatch.setattr(scan, "ALONE", 0)
    monkeypatch.setattr(scan, "TASK", 2)
    assert ask(world, processes=3) == alone
    hits = scan.search(store.open_all(world.state, world.rows)[0], ALL, 3)
    assert next(hits).path == b"."
    hits.close()  # enough was seen: no process is left behind
    assert not scan._SEARCHERS


def test_an_update_by_many_processes_makes_the_same_files(world, tmp_path):
    store.update(world.state, world.rows, world.chunks, processes=2)
    alone = World(tmp_path / "alone", world.rows, world.lines)
    alone.update()
    many, one = (
        {path.relative_to(state): path.read_bytes() for path in state.glob("search/**/*.history")}
        for state in (world.state, alone.state)
    )
    assert many == one and len(many) == 2


def test_a_name_is_found_by_the_filters_alone(world, monkeypatch):
    world.update()
    read = []
    real = history.History.text
    monkeypatch.setattr(history.History, "text", lambda self, number: read.append(number) or real(self, number))
    found = ask(world, NAME)
    assert len(found) == 20 and len(read) < 30
    opened, _absent = store.open_all(world.state, world.rows)
    assert sum(one.history.blocks for one in opened) > 30


def test_an_update_that_has_nothing_to_do_writes_nothing(world):
    assert world.update().dumps == 4
    path = store.place(world.state, store.Key("c1", "s", "", "/srv"))
    before = path.stat()
    assert world.update().dumps == 0 and path.stat().st_ino == before.st_ino


def test_an_incremental_that_touches_one_folder_leaves_the_other_blocks_as_they_are(world):
    base = tree_of(19, 100, 5)
    world.update()
    path = store.place(world.state, store.Key("c1", "s", "", "/srv"))
    with history.History(path) as old:
        before = [old.packed_names(number) for number in range(old.blocks)]
        rows = [old.read(old.table["rows"][number], old.table["rows_length"][number]) for number in range(old.blocks)]
    changed = {**base, b"d7/f3": ("f", b"new", SECOND, b"")}
    world.incremental(changed, base, world.rows[2])
    world.update()
    with history.History(path) as new:
        after = [new.packed_names(number) for number in range(new.blocks)]
        now = [new.read(new.table["rows"][number], new.table["rows_length"][number]) for number in range(new.blocks)]
    assert before == after and sum(one != other for one, other in zip(rows, now)) == 1


def test_a_source_with_another_root_has_another_history(world):
    world.full(tree_of(1, 2), root="/other")
    world.update()
    opened, absent = store.open_all(world.state, world.rows)
    assert not absent and [one.root for one in opened] == [b"/other", b"/srv", b"/srv"]


def test_a_source_without_dumps_has_no_history_any_more(world):
    world.update()
    done = world.update([row for row in world.rows if row.client == "c1"])
    assert done.removed == 1 and [path.name for path in store.folder(world.state).iterdir() if path.is_dir()] == ["c1"]


def test_a_dump_that_cannot_be_read_takes_only_those_with_it_that_build_on_it(world):
    good = world.lines[world.rows[1].id]
    world.lines[world.rows[1].id] = [b"rubbish\n"]
    done = world.update()
    assert [dump for dump, _why in done.failed] == [world.rows[1].id] and done.dumps == 3
    last = world.incremental(tree_of(19, 100, 6), tree_of(19, 100, 5), world.rows[1])
    done = world.update()
    assert [dump for dump, _why in done.failed] == [world.rows[1].id, last.id]
    opened, absent = store.open_all(world.state, world.rows)
    assert [row.id for row in absent] == [world.rows[1].id, last.id]
    world.rows.remove(last)
    world.lines[world.rows[1].id] = good  # repaired: it goes in late, behind a younger one
    assert not world.update().failed
    assert {path: versions for client, path, versions in ask(world) if client == "c1"} == {
        path: versions for (path, _is_dir), versions in versions_of(world).items()
    }


def test_one_bad_incremental_of_several_does_not_hold_up_the_others(world):
    trees = [tree_of(19, 100, 5), tree_of(19, 100, 6), tree_of(19, 100, 7), tree_of(19, 100, 8)]
    base = world.rows[2]
    made = [world.incremental(tree, trees[0], base) for tree in trees[1:]]
    world.lines[made[1].id] = [b"rubbish\n"]
    done = world.update()
    assert [dump for dump, _why in done.failed] == [made[1].id] and done.dumps == 6
    assert store.missing(world.state, world.rows) == [made[1]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_state(world):
    os.chown(world.state, 1234, 1234)
    world.update()
    assert {path.stat().st_uid for path in store.folder(world.state).rglob("*")} == {1234}
    assert store.folder(world.state).stat().st_gid == 1234


def test_two_updates_at_once_wait_or_say_so(world):
    world.update()
    with open(store.folder(world.state) / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert store.update(world.state, world.rows, world.chunks, wait=False).busy


def damage(path, place, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[place:]
    else:
        data[place] ^= 1 << (place % 8)
    path.write_bytes(data)


def test_a_damaged_history_is_never_believed(world):
    world.update()
    path = store.place(world.state, store.Key("c1", "s", "", "/srv"))
    right, whole = ask(world), path.read_bytes()
    numbers = random.Random(7)
    places = [numbers.randrange(len(whole)) for _ in range(30)] + [len(whole) - at for at in (1, 9, 30, 50)]
    silent = 0
    for number, place in enumerate(places):
        path.write_bytes(whole)
        damage(path, place, "cut" if number % 5 == 0 else "flip")
        for wanted in (ALL, NAME):
            opened, absent = store.open_all(world.state, world.rows)
            try:
                found = [
                    (opened[hit.history].key.client, hit.path, [told(one) for one in hit.versions])
                    for hit in scan.search(opened, wanted, 1)
                ]
                if not absent:
                    assert found == [one for one in right if wanted is ALL or one[1].endswith(b"/f77")]
                    silent += 1
            except history.HistoryDamaged as error:
                assert error.path == str(path)
            finally:
                for one in opened:
                    os.close(one.history.fd)
    # a name's search does not look at what it does not need; all of it was looked at by the other
    assert silent <= len(places)
    path.write_bytes(whole)
    damage(path, len(whole) // 2, "flip")
    world.full(tree_of(19, 100, 9))
    assert not world.update().failed  # found out or not: what comes out is right
    assert {one for client, one, _versions in ask(world) if client == "c1"} == {key[0] for key in versions_of(world)}


def test_a_helper_that_finds_damage_says_where(world, monkeypatch):
    world.update()
    path = store.place(world.state, store.Key("c1", "s", "", "/srv"))
    damage(path, 20, "flip")
    monkeypatch.setattr(scan, "ALONE", 0)
    monkeypatch.setattr(scan, "TASK", 2)
    with pytest.raises(history.HistoryDamaged) as caught:
        ask(world, processes=2)
    assert caught.value.path == str(path)


KILLED = """
import sys, os, time
sys.path[:0] = [{tests!r}]
from pathlib import Path
from search_world import World
import test_search_store
from backupcore.search import block
block.SIZE_OF = 64
world = World(Path({state!r}))
before = test_search_store.tree_of(20, 100)
base = world.full(before)
world.incremental(test_search_store.tree_of(20, 100, 3), before, base)
world.full(test_search_store.tree_of(19, 100, 5))
print("ready", flush=True)
while True:
    world.update()
    for path in list(Path({state!r}).glob("search/*/*/*.history")):
        path.unlink()
"""


def test_a_kill_at_any_moment_leaves_what_the_next_update_makes_right(world, tmp_path):
    world.rows[:] = world.rows[:3]
    numbers = random.Random(3)
    state = tmp_path / "killed"
    script = KILLED.format(tests=os.path.dirname(__file__), state=str(state))
    mine = World(state, world.rows, world.lines)
    for _time in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(numbers.random() / 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not mine.update().failed
        assert {path: versions for _client, path, versions in ask(mine)} == {
            path: versions for (path, _is_dir), versions in versions_of(mine).items()
        }
        assert not [*state.glob("search/**/*.tmp")]


# hostile indexes

GOOD = [
    line(b".", "d"), line(b"a", "f", b"x"), line(b"l", "l", link=b"a"), line(b"n", "n", link=b"excluded"),
    line(b"g", "-", link=b"f"), line(b"b\n", "f", b"y"), line(b"-", "f"), line(b"h", "h", b"x", link=b"a"),
    line(b"d", "d"), line(b"d/.x", "f"), line(b"d/..y", "f", flags="s"),
]  # fmt: skip


def accepted(text):
    try:
        for one in text[:-1].split(b"\n"):
            index.parse(one)
        return True
    except ImageDamaged:
        return False


def check_fields(text):
    """Of fields that no search shows, anything may stand there."""
    parts = [one.split(b"\t") for one in text[:-1].split(b"\n")]
    good = line(b"x", "f")[:-1].split(b"\t")
    return b"".join(
        b"\t".join(good[at] if at in (7, 8, 11, 12) and len(fields) == 14 else field for at, field in enumerate(fields))
        + b"\n" for fields in parts
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(GOOD) - 1), st.integers(0, 13),
    st.sampled_from([
        b"", b"-", b".", b"..", b"a//b", b"/a", b"a/", b"a/../b", b"./a", b"a/.", b"\\x00", b"\\x2f", b"\\", b"\\q",
        b"0", b"00", b"-1", b"9" * 25, b"1.5", b"1.000000000", b"-1.000000000", b"1" * 13 + b".000000000", b"0" * 64,
        b"z", b"f", b"d", b"excluded", b"s", b"sm", b"ms", b"u", b"777", b"888", b"77777", b"\0", b"\x1b[3m",
        b"\xff", b"%d" % (1 << 63), b"%d" % ((1 << 63) - 1),
    ]),
)  # fmt: skip
def test_what_an_index_may_not_hold_is_refused_here_too(number, column, value):
    fields = GOOD[number][:-1].split(b"\t")
    fields[column] = value
    text = b"\t".join(fields) + b"\n"
    try:
        found = lines.parse(text)
    except ImageDamaged:
        # never stricter, but for what only a restore can tell apart
        assert not accepted(text)
        return
    if accepted(check_fields(text)):
        assert found.paths == [index.parse(check_fields(text)[:-1]).path]
    else:
        # let through: a path that is none for a restore alone, or what is missing of something missing
        assert fields[1] in (b"-", b"n")


@pytest.mark.parametrize(
    "order", [[0, 2, 1], [0, 1, 1], [1, 0], [0, 9], [0, 10, 8], [0, 1, 8, 2], [1], [0, 8, 9, 9], [0, 8, 10, 9, 1]]
)
def test_an_index_out_of_order_is_refused(tmp_path, order):
    world = World(tmp_path)
    world.dump([GOOD[number] for number in order])
    done = world.update()
    assert len(done.failed) == 1 and re.search("out of order|what is no path", done.failed[0][1])
    assert store.open_all(world.state, world.rows)[1] == world.rows


def test_a_hostile_history_costs_no_more_than_its_size(tmp_path):
    path = tmp_path / "x.history"
    for data in (b"", b"x" * 52, b"STOWHIS1" * 40, os.urandom(5000), bytes(5000)):
        path.write_bytes(data)
        with pytest.raises(history.HistoryDamaged):
            history.History(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises((history.HistoryDamaged, OSError)):
        history.History(path)
