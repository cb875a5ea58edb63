"""The clients that the module run waits for are told in words that the command line understands."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
import yaml

pytest.importorskip("ansible.module_utils.basic")
from ansible_collections.stowage.backup.plugins.modules import run  # noqa: E402

from backupcore.cli import _main  # noqa: E402


def understood(**params):
    return _main.parser("run").parse_args(["run", *run.waits({"retry": False, "wait_for": {}, **params})])


def test_nobody_is_waited_for_unless_it_is_said():
    args = understood()
    assert (args.retry, args.wait_for) == (False, [])


def test_all_that_can_be_said():
    args = understood(retry=True, wait_for={"nb1": "4 h", "-x": None})
    assert args.retry is True and args.wait_for == ["-x", "nb1=4 h"]


def test_the_options_are_documented():
    assert {"retry", "wait_for"} <= set(yaml.safe_load(run.DOCUMENTATION)["options"])
