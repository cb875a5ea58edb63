"""docs/targets.md against the options of every target that Stowage brings: all of them, their defaults, examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic_core import PydanticUndefined

from backupcore import text
from backupcore.targets import stowage_targets

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "targets.md").read_text("utf-8")
PARTS = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
SECTIONS = dict(zip(PARTS[1::2], PARTS[2::2]))
DRIVERS = {driver.type: driver for driver in stowage_targets()}


@pytest.mark.parametrize("kind", sorted(DRIVERS))
def test_every_option_is_in_the_table_and_no_other(kind):
    told = re.findall(r"^\| `([a-z0-9_]+)` \|", SECTIONS[kind], flags=re.MULTILINE)
    assert sorted(told) == sorted(DRIVERS[kind].options.model_fields)


@pytest.mark.parametrize("kind", sorted(DRIVERS))
def test_defaults_are_those_of_the_program(kind):
    rows = dict(re.findall(r"^\| `([a-z0-9_]+)` \| (.*?) \|", SECTIONS[kind], flags=re.MULTILINE))
    for name, field in DRIVERS[kind].options.model_fields.items():
        told = rows[name].strip()
        default = field.get_default(call_default_factory=True)
        if field.is_required() or default is PydanticUndefined:
            assert told == "needed", name
        elif told.startswith("`"):
            found = yaml.safe_load(told.strip("`"))
            size = text.parse_size(found) if isinstance(found, str) and "iB" in found else found
            assert (list(default) if isinstance(default, tuple) else default) == size, name
        else:
            assert told != "needed" and not default, f"{name}: its default {default!r} must be told"


@pytest.mark.parametrize("kind", sorted(DRIVERS))
def test_the_examples_are_taken_by_the_program(kind):
    shown = re.findall(r"^```yaml\n(.*?)^```", SECTIONS[kind], flags=re.MULTILINE | re.DOTALL)
    assert shown
    for example in shown:
        for target in yaml.safe_load(example)["targets"].values():
            assert target.pop("type") == kind
            DRIVERS[kind].options(**target)


def test_operators_and_newcomers_are_led_there():
    assert "](targets.md" in (ROOT / "docs" / "operator.md").read_text("utf-8")
    assert "docs/targets.md" in (ROOT / "README.md").read_text("utf-8")
    for kind in DRIVERS:
        assert f"(#{kind})" in PAGE
