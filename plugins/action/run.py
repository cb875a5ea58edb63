# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The night's work with live lines: the module run starts it, this follows it."""

from __future__ import annotations

import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.stowage.backup.plugins.plugin_utils._job import JobAction


class ActionModule(JobAction):
    module = "stowage.backup.run"

    def judge(self, answer: dict[str, t.Any], args: dict[str, t.Any]) -> dict[str, t.Any]:
        result: dict[str, t.Any] = {key: answer[key] for key in ("headline", "status", "next")}
        result["report"] = answer
        strict = boolean(args.get("strict", False))
        if answer["status"] == "fail" or strict and answer["status"] == "warn":
            result.update(failed=True, msg=answer["headline"])
        return result
