"""For the tests of rebuild/: a server with copies on a directory target, and a second one that has lost everything."""

from __future__ import annotations

import pytest
from rebuild_world import Lost
from stage_world import World

from backupcore.settings import CopyRule


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.policy(CopyRule("nas"))
    yield world
    world.catalog.close()


@pytest.fixture
def lost(world):
    lost = Lost(world)
    yield lost
    lost.close()


@pytest.fixture
def filled(world):
    """Three dumps of one source, one of another, all on the target."""
    dumps = [world.dump(), world.dump(level=1), world.dump(), world.dump("web2")]
    world.stage()
    return dumps
