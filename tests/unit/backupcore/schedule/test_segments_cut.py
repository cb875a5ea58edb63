"""Where a tree is cut: whole folders, each entry in one segment, no hard link across, nothing larger than need be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backupcore.schedule import segments
from backupcore.schedule.segments import REST, Row

GB = 10**9


def walk(tree, path=b".", first=None):
    """The rows of a nested dict in walk order: int is a file's size, bytes a hard link to an earlier path."""
    if path == b".":
        yield Row(b".", True, 0)
    prefix = b"" if path == b"." else path + b"/"
    for name in sorted(name for name, below in tree.items() if not isinstance(below, dict)):
        below = tree[name]
        link = isinstance(below, bytes)
        yield Row(prefix + name, False, 0 if link else below, below if link else None)
    for name in sorted(name for name, below in tree.items() if isinstance(below, dict)):
        yield Row(prefix + name, True, 0)
        yield from walk(tree[name], prefix + name)


def segment_of(found, path):
    """The segment whose folders a path lies in, found by looking at all of them."""
    owners = [one.name for one in found for folder in one.folders if (path + b"/").startswith(folder + b"/")]
    assert len(owners) <= 1
    return owners[0] if owners else REST


def cut(tree, wanted):
    return segments.cut(lambda: walk(tree), wanted)


def test_folders_are_packed_into_segments_of_nearly_the_wanted_size():
    tree = {b"f%02d" % number: {b"a": GB} for number in range(12)}
    found = cut(tree, 4 * GB)
    assert [(one.name, len(one.folders), one.size) for one in found] == [
        ("s01", 4, 4 * GB), ("s02", 4, 4 * GB), ("s03", 4, 4 * GB), (REST, 0, 0)]  # fmt: skip


def test_a_folder_that_is_too_large_is_divided_by_its_own_folders():
    tree = {b"data": {b"x": {b"1": 3 * GB}, b"y": {b"1": 3 * GB}, b"readme": 7}, b"etc": {b"a": 5}}
    found = cut(tree, 4 * GB)
    assert [one.folders for one in found] == [(b"data/x",), (b"data/y",), ()]
    assert found[-1].size == 12
    assert segment_of(found, b"data/readme") == REST
    assert segment_of(found, b"data/y/1") == "s02"
    assert segment_of(found, b"data/yy/1") == REST  # a new folder
    assert segment_of(found, b".") == REST


def test_folders_that_share_a_file_stay_together():
    tree = {b"a": {b"1": 2 * GB}, b"b": {b"1": 2 * GB, b"2": b"a/1"}, b"c": {b"1": 2 * GB}}
    found = cut(tree, 2 * GB)
    assert [one.folders for one in found] == [(b"a", b"b"), (b"c",), ()]


def test_a_folder_that_shares_a_file_with_no_other_segment_stays_in_the_rest():
    tree = {b"a": {b"1": 2 * GB, b"2": b"top"}, b"b": {b"1": 2 * GB}, b"top": 9}
    found = cut(tree, 2 * GB)
    assert [one.folders for one in found] == [(b"b",), ()]
    assert found[-1].size == 2 * GB + 9


def test_what_has_no_folders_is_not_cut():
    assert cut({b"a": 9 * GB}, GB) == ()
    assert cut({}, GB) == ()


def test_a_source_is_cut_only_when_it_is_large_and_more_than_a_third_of_a_night():
    assert segments.wanted_size(GB, 0) is None
    assert segments.wanted_size(100 * GB, 1000 * GB) is None
    assert segments.wanted_size(600 * GB, 1000 * GB) == 250 * GB
    assert segments.wanted_size(10**15, GB) == 10**15 / segments.MOST


def test_a_segment_that_doubled_is_outgrown_and_one_that_was_always_large_is_not():
    found = cut({b"a": {b"1": 2 * GB}, b"b": {b"1": 9 * GB}}, 3 * GB)
    assert not segments.outgrown(found, {"s01": 10 * GB, "s02": 2 * GB, REST: 0}, 3 * GB)
    assert segments.outgrown(found, {"s01": 10 * GB, "s02": 7 * GB, REST: 0}, 3 * GB)


NAMES = st.sampled_from([b"a", b"b", b"c", b"a b", b"\xff", b"z"])
TREES = st.recursive(st.integers(0, 1000), lambda below: st.dictionaries(NAMES, below, max_size=5), max_leaves=40)


@given(st.dictionaries(NAMES, TREES, max_size=6), st.integers(1, 3000), st.randoms(use_true_random=False))
def test_each_entry_is_in_one_segment_and_sizes_and_links_agree(tree, wanted, chance):
    files = [row.path for row in walk(tree) if not row.is_dir]
    rows = list(walk(tree))
    for number, row in enumerate(rows):  # some files become links to an earlier one
        earlier = [one.path for one in rows[:number] if not one.is_dir and one.first is None]
        if not row.is_dir and earlier and chance.random() < 0.2:
            rows[number] = Row(row.path, False, 0, chance.choice(earlier))
    found = segments.cut(lambda: rows, wanted)
    if not found:
        return
    assert found[-1].name == REST and not found[-1].folders
    folders = [folder for one in found for folder in one.folders]
    assert len(set(folders)) == len(folders)
    assert not any(a != b and a.startswith(b + b"/") for a in folders for b in folders)
    for one in found:
        size = sum(row.size for row in rows if not row.is_dir and segment_of(found, row.path) == one.name)
        assert size == one.size
    for row in rows:
        if row.first is not None:
            assert segment_of(found, row.path) == segment_of(found, row.first)
    assert found == segments.cut(lambda: rows, wanted)
    assert len(files) == sum(not row.is_dir for row in rows)
