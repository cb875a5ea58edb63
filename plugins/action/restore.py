# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore with a heartbeat: the module restore starts it, this follows it."""

from __future__ import annotations

import typing as t

from ansible_collections.stowage.backup.plugins.module_utils._engine import told_of_restore
from ansible_collections.stowage.backup.plugins.plugin_utils._job import JobAction


class ActionModule(JobAction):
    module = "stowage.backup.restore"

    def judge(self, answer: dict[str, t.Any], args: dict[str, t.Any]) -> dict[str, t.Any]:
        return told_of_restore(answer)
