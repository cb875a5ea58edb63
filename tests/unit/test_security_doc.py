"""docs/security.md against the tests: every test that it names exists, and every attack it answers has one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")


def known():
    """The names of all tests."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found.update(re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), flags=re.MULTILINE))
    return found


def test_every_test_that_is_named_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 30 and not named - known()


def test_every_attack_has_an_answer_and_a_test():
    table = PAGE.split("| attack | answer | tests |\n")[1].split("\n\n")[0].splitlines()[1:]
    assert len(table) >= 20
    for row in table:
        _begin, attack, answer, named, _end = (cell.strip() for cell in row.split("|"))
        assert attack and answer and "`test_" in named, row
