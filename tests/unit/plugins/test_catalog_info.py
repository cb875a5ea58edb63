"""What the module asks is what the command line understands, whatever a person writes."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

pytest.importorskip("ansible.module_utils.basic")
from ansible_collections.stowage.backup.plugins.modules import catalog_info  # noqa: E402

from backupcore.cli import _main  # noqa: E402

NOTHING = dict.fromkeys(["client", "source", "at", "larger", "smaller", "newer", "older", "limit"])
NOTHING.update(recursive=False, substring=False, ignore_case=False, deleted=False, words=[])


def understood(**params):
    words = catalog_info.command({**NOTHING, **params})
    return _main.parser(words[0]).parse_args(words)


def test_a_search_with_all_there_is():
    args = understood(
        what="find", words=["--substring"], client="web1", source="etc", substring=True, ignore_case=True,
        larger="-1 MB", smaller="2 GB", newer="3 days ago", older="2026-11-22", deleted=True, limit=0,
    )  # fmt: skip
    assert (args.pattern, args.client, args.source, args.limit) == ("--substring", "web1", "etc", 0)
    assert args.substring and args.ignore_case and args.deleted
    assert (args.larger, args.smaller, args.newer, args.older) == ("-1 MB", "2 GB", "3 days ago", "2026-11-22")
    args = understood(what="find", words=["*.conf"], at="yesterday")
    assert (args.pattern, args.limit, args.substring) == ("*.conf", None, False)


def test_files_of_a_moment():
    args = understood(what="files", words=["web1:/etc", "web1:/-x"], at="-1", recursive=True, limit=3)
    assert (args.what, args.words, args.at, args.recursive) == ("files", ["web1:/etc", "web1:/-x"], "-1", True)


@pytest.mark.parametrize("what", ["runs", "dumps", "copies"])
def test_lists(what):
    args = understood(what=what, client="web1", limit=7, deleted=True)
    assert (args.what, args.client, args.limit, args.words) == (what, "web1", 7, [])
