"""What the module asks is what the command line understands, and what it returns is what the engine says."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("ansible.module_utils.basic")
from ansible_collections.stowage.backup.plugins.modules import usage_info  # noqa: E402

from backupcore.cli import _main  # noqa: E402

NOTHING = {"month": None, "by": "target", "forecast": False, "what_if": None}


def understood(**params):
    words = usage_info.command({**NOTHING, **params})
    return _main.parser(words[0]).parse_args(words)


def test_nothing_said_is_this_month_by_target():
    args = understood()
    assert (args.command, args.month, args.by, args.forecast, args.what_if) == ("usage", None, "target", False, None)


def test_all_that_can_be_said():
    assert understood(month="-1", by="source").month == "-1"
    args = understood(forecast=True, what_if="-/x.yml", by="client")
    assert (args.forecast, args.what_if, args.by) == (True, "-/x.yml", "client")


def test_the_documentation_tells_the_options_and_what_is_returned():
    options = yaml.safe_load(usage_info.DOCUMENTATION)["options"]
    assert set(options) == set(NOTHING)
    assert set(yaml.safe_load(usage_info.RETURN)) == {*usage_info.SAME, *usage_info.MAYBE}


def test_it_belongs_to_the_group_of_all_modules():
    runtime = yaml.safe_load((Path(__file__).resolve().parents[3] / "meta" / "runtime.yml").read_text("utf-8"))
    assert "usage_info" in runtime["action_groups"]["backup"]
