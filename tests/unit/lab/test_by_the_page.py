"""Commands are taken from a page as a person would take them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "lab"))
import by_the_page  # noqa: E402

PAGE = """\
# Page

    outside

## One section

Text.

    first one
    second one

And more:

    $ shown --one
    what it says
    $ goes \\
    >     on
    and says

1. An item:

       of the item

   Text of it.

       $ more --of it
       says

2. Another:

       diff -r A B      # on web1, as root

Text after the list.

    ansible-playbook site

### Deeper

    not of it
"""


def test_blocks_items_prompts_and_continuations_are_told_apart():
    assert by_the_page.commands(by_the_page.section(PAGE, "One section")) == [
        (0, "first one"), (0, "second one"), (0, "shown --one"), (0, "goes \\\n    on"),
        (1, "of the item"), (1, "more --of it"), (2, "diff -r A B      # on web1, as root"),
        (0, "ansible-playbook site"),
    ]  # fmt: skip


def test_a_command_goes_where_the_page_says():
    assert by_the_page.place("diff -r A B      # on web1, as root", "server") == ("web1", "diff -r A B")
    assert by_the_page.place("ansible-playbook site", "server") == ("", "ansible-playbook site")
    assert by_the_page.place("stowage run", "server") == ("server", "stowage run")


def test_a_section_that_is_not_there_is_an_error():
    with pytest.raises(SystemExit):
        by_the_page.section(PAGE, "One")


@pytest.mark.parametrize("heading, least, items", [
    ("A client is lost", 8, {1, 2, 3, 4, 5, 6}), ("One thing at once", 4, {0}),
    ("The server, set up anew", 7, {1, 2, 4}), ("Only the server's memory is lost", 8, {1, 2, 3, 4}),
])  # fmt: skip
def test_the_page_of_restores_has_what_the_scenario_types(heading, least, items):
    page = (ROOT / "docs" / "restore.md").read_text("utf-8")
    told = by_the_page.commands(by_the_page.section(page, heading))
    assert len(told) >= least
    assert {item for item, _command in told} == items
