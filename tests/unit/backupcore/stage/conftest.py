"""For the tests of stage/: a little server of their own."""

from __future__ import annotations

import pytest
from stage_world import World


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.catalog.close()
