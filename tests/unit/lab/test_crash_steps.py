"""Each step that a run can be killed at is there: one of another name would be killed nowhere, or in slow ones only."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "lab"))
import crash_world  # noqa: E402


@pytest.mark.parametrize("step", crash_world.STEPS)
def test_each_step_to_be_killed_at_is_a_function_of_the_engine(step):
    module, _, name = crash_world.STEPS[step].partition(":")
    assert callable(functools.reduce(getattr, name.split("."), importlib.import_module(module)))
