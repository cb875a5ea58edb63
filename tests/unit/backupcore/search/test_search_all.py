"""Whatever happens to a tree and whichever dumps are made of it: a search finds what a look at every dump finds."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_world import SECOND, World, told, versions_of

from backupcore.restore.request import glob_regex
from backupcore.search import block, browse, query, scan, store

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
NAMES = [b"a", b"b", b"A", b"-", b"a.conf", b"B.CONF", b"new\nline", b"\xc3\xa4x", b"\xc3\x84X", b"\xff", b"ab", b"a b"]
ALL = query.compile_query(b"*", query.GLOB, lambda text: glob_regex(text, below=False))


def ask(pattern, how=query.GLOB, **more):
    return query.compile_query(pattern, how, lambda text: glob_regex(text, below=False), **more)


def search(world, wanted, rows=None, processes=1):
    """{(path, is_dir): versions} of a search over all of one source."""
    opened, absent = store.open_all(world.state, rows or world.rows)
    assert not absent
    found = {}
    for hit in scan.search(opened, wanted, processes):
        key = (hit.path, hit.is_dir)
        assert key not in found
        found[key] = hit.versions
        assert hit.gone == (hit.versions[0].until >= 0) or wanted.sized
    for one in opened:
        os.close(one.history.fd)
    return found


# what happens to a tree between two dumps
changes = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "folder", "remove", "touch", "link", "leave", "unreadable", "hard"]),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        st.integers(0, 2),
    ),
    max_size=6,
)
dumps = st.lists(
    st.tuples(changes, st.sampled_from(["full", "last", "last", "first", "quiet"])), min_size=1, max_size=6
)


def apply(tree, what, names, number):
    """One change of a tree."""
    path = b"/".join(names)
    parts = [b"/".join(names[:count]) for count in range(1, len(names))]
    if any(tree.get(part, ("d",))[0] != "d" for part in parts):
        return
    below = [other for other in tree if other.startswith(path + b"/")]
    if what == "remove":
        for other in [path, *below]:
            tree.pop(other, None)
        return
    if what == "touch":
        if path in tree and tree[path][0] == "f":
            tree[path] = (*tree[path][:2], tree[path][2] + number * SECOND, b"")
        return
    for part in parts:
        tree.setdefault(part, ("d", b"", SECOND, b""))
    for other in below if what != "folder" or tree.get(path, ("d",))[0] != "d" else []:
        del tree[other]
    tree[path] = {
        "write": ("f", b"x" * number, number * SECOND + 5, b""),
        "folder": ("d", b"", SECOND, b""),
        "link": ("l", b"", SECOND, b"to" + b"o" * number),
        "leave": ("n", b"d" if number else b"", 0, b"excluded"),
        "unreadable": ("n", b"d" if number else b"", 0, b"unreadable"),
        "hard": ("h", b"y", number * SECOND, b"a"),
    }[what]


def build(world, plan, every, keep=None):
    """The dumps of a plan; the histories brought up to date after every so many."""
    tree = {b".": ("d", b"", SECOND, b"")}
    made = []
    for steps, how in plan:
        for what, names, number in steps if how != "quiet" else ():
            apply(tree, what, names, number)
        if how == "full" or not made:
            row = world.full(tree)
        else:
            row, before = made[0] if how == "first" else made[-1]
            row = world.incremental(tree, before, row)
        made.append((row, dict(tree)))
        if keep is None and len(made) % every == 0:
            world.update()
    rows = world.rows if keep is None else [*keep, *(row for row, _tree in made)]
    assert not world.update(rows).failed
    return made


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(block, "SIZE_OF", 3)
    monkeypatch.setattr(store, "DEAD", 1)


def in_a_world(test):
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="stowage-test-") as folder:
        test(World(Path(folder)))


common = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@common
@given(dumps, st.integers(1, 4))
def test_a_search_finds_what_a_look_at_every_dump_finds(plan, every):
    def check(world):
        build(world, plan, every)
        wanted = versions_of(world)
        found = {key: [told(one) for one in versions] for key, versions in search(world, ALL).items()}
        assert found == wanted
        # of some of the dumps, as after retention
        some = [row for number, row in enumerate(world.rows) if number % 2]
        if some:
            found = {key: [told(one) for one in versions] for key, versions in search(world, ALL, some).items()}
            assert found == versions_of(world, rows=some)

    in_a_world(check)


@common
@given(dumps, dumps, st.integers(1, 3))
def test_a_history_without_its_dead_dumps_says_the_same_of_the_others(plan, more, step):
    def check(world):
        build(world, plan, 2)
        keep = [row for number, row in enumerate(world.rows) if number % step == 0]
        dead = len(world.rows) - len(keep)
        assert not world.update(keep).failed
        opened, absent = store.open_all(world.state, keep)
        members = len(opened[0].lineage.members)
        os.close(opened[0].history.fd)
        assert not absent and members == (len(keep) if dead > len(keep) else len(world.rows))
        found = {key: [told(one) for one in versions] for key, versions in search(world, ALL, keep).items()}
        assert found == versions_of(world, rows=keep)
        # and it goes on with a full
        first = len(world.rows)
        build(world, [(steps, "full") for steps, _how in more], 9, keep)
        keep += world.rows[first:]
        found = {key: [told(one) for one in versions] for key, versions in search(world, ALL, keep).items()}
        assert found == versions_of(world, rows=keep)

    in_a_world(check)


@common
@given(
    dumps,
    st.sampled_from([
        b"a", b"-", b"a.conf", b"*.conf", b"?", b"[ab]", b"a*", b"srv", b"/srv", b"/srv/a", b"a/b", b"a/*", b"/srv/*/a",
        b"/srv/**/b", b"**", b"/srv/a/**", b"*/a", b"\xc3\xa4*", b"new\nline", b"\\a", b"[!a]", b"/", b"srv/a",
    ]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_kind_of_pattern_finds_what_it_means(plan, pattern, substring, fold):
    def check(world):
        build(world, plan, 2)
        wanted = ask(pattern, query.SUBSTRING if substring else query.GLOB, fold=fold)
        meant = set()
        for path, is_dir in versions_of(world):
            whole = b"/srv" if path == b"." else b"/srv/" + path
            text = whole if b"/" in pattern else whole.rpartition(b"/")[2]
            asked = pattern
            if fold:
                text, asked = query.folded(text), query.folded(asked)
            if substring:
                hit = asked in text
            else:
                full = asked if asked.startswith(b"/") or b"/" not in pattern else b"/**/" + asked
                hit = glob_regex(full, below=False).match(text)
            if hit:
                meant.add((path, is_dir))
        assert set(search(world, wanted)) == meant

    in_a_world(check)


@common
@given(dumps, st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_sizes_times_and_what_is_deleted(plan, low, high, deleted):
    def check(world):
        build(world, plan, 3)
        everything = search(world, ALL)
        for bounds, keep in (
            ({"larger": low}, lambda one: one.kind in "fh" and one.size >= low),
            ({"larger": low, "smaller": high}, lambda one: one.kind in "fh" and low <= one.size <= high),
            ({"newer": low}, lambda one: one.mtime_ns >= low * SECOND),
            ({"older": high}, lambda one: one.mtime_ns < (high + 1) * SECOND),
        ):
            wanted = {}
            for key, versions in everything.items():
                kept = [one for one in versions if keep(one)]
                if kept and (versions[0].until >= 0 or not deleted):
                    wanted[key] = kept
            assert search(world, ask(b"*", deleted=deleted, **bounds)) == wanted

    in_a_world(check)


@common
@given(dumps)
def test_a_folder_of_a_moment_is_that_of_a_restore(plan):
    def check(world):
        build(world, plan, 2)
        opened, _absent = store.open_all(world.state, world.rows)
        for row in world.rows:
            seen = world.view(row)
            moment = browse.Moment(opened[0], row.id)
            for folder in {key[0] for key in seen if key[1]}:
                wanted = [
                    (one.entry.path, one.entry.kind, one.entry.size, one.entry.link, one.stale)
                    for one in seen.values()
                    if block.parent(one.entry.path) == folder
                ]
                found = [
                    (one.path, one.row[0].decode(), int(one.row[4].replace(b"-", b"0")),
                     b"" if one.row[6] == b"-" else one.row[6], b"u" in one.row[8])
                    for one in moment.level(folder)
                ]  # fmt: skip
                assert found == wanted
            for path, _is_dir in seen:
                assert {(one.path, one.is_dir) for one in moment.entries(path)} == {
                    key for key in seen if key[0] == path
                }
        os.close(opened[0].history.fd)

    in_a_world(check)


def test_fnmatch_agrees_on_plain_globs():
    for name in NAMES:
        for glob in (b"*", b"a*", b"*.conf", b"?"):
            assert bool(ask(glob).test(name)) == fnmatch.fnmatchcase(name, glob)
