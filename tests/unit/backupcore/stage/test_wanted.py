"""Which copies are due."""

from __future__ import annotations

import pytest

from backupcore.catalog.records import CopyRow
from backupcore.settings import CopyRule
from backupcore.stage.wanted import due


def names(jobs):
    return [(job.dump.id, job.row.target) for job in jobs]


@pytest.mark.parametrize(
    "dumps, expected", [("all", ["full", "incremental"]), ("full", ["full"]), ("incremental", ["incremental"])]
)
def test_a_rule_says_which_dumps_it_takes(world, dumps, expected):
    world.policy(CopyRule("nas", dumps=dumps))
    made = {"full": world.dump(), "incremental": world.dump(level=1)}
    assert names(due(world.settings, world.catalog)) == [(made[kind].id, "nas") for kind in expected]


def test_without_rules_nothing_is_due(world):
    world.policy()
    world.dump()
    assert due(world.settings, world.catalog) == []


def test_what_is_verified_or_gone_from_the_holding_disk_is_not_due(world):
    first, second = world.dump(), world.dump()
    world.catalog.put_copy(CopyRow(first.id, "nas", "verified"))
    world.catalog.put_copy(CopyRow(first.id, "disk", "failed"))
    world.catalog.set_holding(second.id, None)
    assert names(due(world.settings, world.catalog)) == [(first.id, "disk")]


@pytest.mark.parametrize("state", ["wanted", "copying", "done", "failed"])
def test_what_was_begun_is_due_again(world, state):
    world.policy(CopyRule("nas"))
    dump = world.dump()
    world.catalog.put_copy(CopyRow(dump.id, "nas", state, {"files": {"x": "1"}}))
    (job,) = due(world.settings, world.catalog)
    assert job.row.upload == {"files": {"x": "1"}}


def test_oldest_first_and_only_what_was_asked_for(world):
    a, b, c = world.dump("web1"), world.dump("web2"), world.dump("web1", level=1)
    assert names(due(world.settings, world.catalog, targets=["nas"])) == [(x.id, "nas") for x in (a, b, c)]
    assert {x for x, _ in names(due(world.settings, world.catalog, sources=[("web2", "etc")]))} == {b.id}


def test_a_source_that_left_the_configuration_gets_only_the_copies_that_were_begun(world):
    begun, other = world.dump("web2"), world.dump("web2")
    world.policy(CopyRule("nas"), clients=("web1",))
    world.catalog.put_copy(CopyRow(begun.id, "disk", "copying"))
    world.catalog.put_copy(CopyRow(begun.id, "no-more", "copying"))
    assert names(due(world.settings, world.catalog)) == [(begun.id, "disk")]
    assert other.holding


def test_a_damaged_image_is_not_sent_night_after_night(world):
    dump = world.dump()
    world.catalog.mark_damaged(dump.id)
    assert due(world.settings, world.catalog) == []
