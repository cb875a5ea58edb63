"""What makes up a source: the whole, a complete cut, one on its way; and what others have followed."""

from __future__ import annotations

from types import SimpleNamespace

from backupcore.catalog import units

OLD = ("s1of2-aaaa", "s2of2-aaaa")
NEW = ("s1of3-bbbb", "s2of3-bbbb", "s3of3-bbbb")


def newest(**moments):
    """segment (whole for "", a1 for the first of OLD, b1 of NEW) -> a row of that moment."""
    names = {"whole": ""}
    for letter, of_cut in (("a", OLD), ("b", NEW)):
        names.update({f"{letter}{number}": one for number, one in enumerate(of_cut, 1)})
    return {names[word]: SimpleNamespace(begun_ns=moment) for word, moment in moments.items()}


def test_the_whole_counts_until_each_segment_has_a_dump():
    found = newest(whole=5, a1=6)
    assert units.in_force(found) == ("",) and units.retired(found) == frozenset()
    assert units.in_force(newest(a1=6)) == () and units.retired(newest(a1=6)) == frozenset()
    assert units.in_force({}) == () and units.retired({}) == frozenset()


def test_the_whole_is_retired_when_all_segments_have_newer_dumps():
    assert units.retired(newest(whole=5, a1=6, a2=7)) == {""}
    # a dump of it after the first one's full: the night in which the last one came, or the cut was given up
    found = newest(whole=8, a1=6, a2=7)
    assert units.in_force(found) == ("",) and units.retired(found) == set(OLD)
    found = newest(whole=6, a1=5, a2=9)  # a segment is older than the whole: neither is given up
    assert units.in_force(found) == ("",) and units.retired(found) == frozenset()


def test_a_cut_is_retired_by_the_next_one_when_that_is_complete():
    before = newest(whole=1, a1=5, a2=6, b1=7, b2=7)
    assert units.in_force(before) == OLD and units.retired(before) == {""}
    after = newest(whole=1, a1=5, a2=6, b1=7, b2=7, b3=8)
    assert units.in_force(after) == NEW and units.retired(after) == {"", *OLD}


def test_segments_of_two_cuts_make_no_whole():
    assert units.ways(["s1of2-aaaa", "s2of2-bbbb"]) == []
    assert units.ways(["s1of2-aaaa", "s2of3-aaaa"]) == []
    assert units.ways(["s1of2-aaaa", "", "../x", "s2of2-aaaa"]) == [("",), OLD]


def test_the_newest_dump_of_a_unit_is_that_with_the_highest_counter():
    rows = [SimpleNamespace(segment=one, counter=count) for one, count in (("", 3), ("", 1), (OLD[0], 2))]
    assert {name: row.counter for name, row in units.newest_of(rows).items()} == {"": 3, OLD[0]: 2}
