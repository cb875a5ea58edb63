"""What the module asks is what the command line understands, and what it returns is what the engine says."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
import yaml

pytest.importorskip("ansible.module_utils.basic")
from ansible_collections.stowage.backup.plugins.modules import plan_info  # noqa: E402

from backupcore.cli import _main  # noqa: E402

NOTHING = {"clients": [], "sources": [], "level": None, "why": None, "estimate": "none"}


def understood(**params):
    words = plan_info.command({**NOTHING, **params})
    return _main.parser(words[0]).parse_args(words)


def test_nothing_said_asks_nobody():
    args = understood()
    assert (args.command, args.estimate, args.why, args.level, args.client) == ("plan", None, None, None, [])


def test_all_that_can_be_said():
    args = understood(clients=["web1", "-x"], sources=["etc", "web1:www"], level=0, estimate="new")
    assert (args.client, args.source, args.level) == (["web1", "-x"], ["etc", "web1:www"], 0)
    assert args.estimate == "new"
    assert understood(why="-web1:etc", estimate="all").why == "-web1:etc"


def test_the_documentation_tells_the_options_and_what_is_returned():
    options = yaml.safe_load(plan_info.DOCUMENTATION)["options"]
    assert set(options) == set(NOTHING)
    assert options["estimate"]["choices"] == ["none", "new", "all"]
    told = yaml.safe_load(plan_info.RETURN)
    assert set(told) == {*plan_info.SAME, "plan", "why"}
