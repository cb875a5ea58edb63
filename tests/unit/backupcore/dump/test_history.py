"""What planning reads of the past: no more than it needs, and all that it needs."""

from __future__ import annotations

from dataclasses import replace

from backupcore import clock
from backupcore.catalog.records import CopyRow
from backupcore.dump import history

DAY = 86_400 * clock.NS


def test_old_dumps_are_left_out_where_newer_ones_do_without(server):
    server.client("web1", "a", "b", "c")
    server.night()
    now = clock.now_ns()
    rows = {row.source: row for row in server.catalog.dumps()}

    def add(source, name, level, days_ago, base=None):
        counter = server.catalog.next_counter("web1", source)
        made = replace(rows[source], id=name, level=level, begun_ns=now - days_ago * DAY, base=base, counter=counter)
        server.catalog.add_dump(made)

    add("a", "20260101T000000Z-L0-aaaaaaaa", 0, 300)
    add("a", "20260102T000000Z-L1-aaaaaaaa", 1, 299, "20260101T000000Z-L0-aaaaaaaa")
    add("b", "20260101T000000Z-L0-bbbbbbbb", 0, 300)
    add("b", "20260102T000000Z-L1-bbbbbbbb", 1, 2, "20260101T000000Z-L0-bbbbbbbb")

    def read(keys, days):
        found = history.gather(server.settings, server.catalog, keys, None if days is None else now - days * DAY)
        return {key[1]: len(past) for key, past in found.items()}

    keys = [("web1", "a"), ("web1", "b"), ("web1", "new")]
    assert read(None, None) == {"a": 3, "b": 3, "c": 1}
    assert read(keys, 60) == {"a": 1, "b": 3, "new": 0}  # the chain of b goes back further
    assert read(keys[:1], 60) == {"a": 1}
    # a source that was away for a year is planned by what there is of it
    assert read(keys, -1) == {"a": 3, "b": 3, "new": 0}


def test_a_copy_that_a_target_has_whole_makes_a_dump_restorable(server):
    server.client("web1", "a")
    server.night()
    (row,) = server.catalog.dumps()
    server.catalog.set_holding(row.id, None)
    for state, good in (("copying", False), ("failed", False), ("done", True), ("verified", True), ("damaged", False)):
        server.catalog.put_copy(CopyRow(row.id, "cloud", state))
        ((past,),) = history.gather(server.settings, server.catalog).values()
        assert past.restorable is good
    assert past.stored == row.stored_size and past.run == row.run
