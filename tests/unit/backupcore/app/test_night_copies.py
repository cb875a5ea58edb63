"""What a run says of copies that fail: also of dumps that are the newest no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from backupcore.hookspecs import TargetError
from stage_world import World

from backupcore.app import staging


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.catalog.close()


class Refusing:
    """A target that takes nothing."""

    def __init__(self, inner):
        self.inner = inner

    def put(self, *_words, **_more):
        raise TargetError("the disk is ill", "look at it")

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_copies_of_older_dumps_that_fail_are_told_once_for_each_target(world):
    older, second, newest = world.dump("web1"), world.dump("web1", level=1), world.dump("web1", level=1)
    world.opened["nas"] = Refusing(world.opened["nas"])
    results = world.stage()
    engine = SimpleNamespace(catalog=world.catalog)
    assert {one.dump for one in results if one.failed} == {older.id, second.id, newest.id}
    (line,) = staging.older(engine, results)
    assert line == (f"no copy on nas of the older dump web1:etc {older.id}, and 1 more: target nas: the disk is ill"
                    " -> look at it")  # fmt: skip
    assert staging.older(engine, [one for one in results if one.dump == newest.id or one.ok]) == []
