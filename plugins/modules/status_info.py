#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: status_info
short_description: Read what runs now and how the last night was
version_added: 0.1.0
description:
  - Returns what the backup server is at, and the report of the last run.
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._attributes.actiongroup_backup
  - stowage.backup._engine
attributes:
  check_mode:
    support: full
    details:
      - This action does not modify state.
  diff_mode:
    support: N/A
    details:
      - This action does not modify state.
  async:
    support: full
options:
  run:
    description: Identifier of a run, to get its report instead of the last one's.
    type: str
seealso:
  - module: stowage.backup.run
  - module: stowage.backup.catalog_info
"""

EXAMPLES = r"""
- name: Read how the last night was
  stowage.backup.status_info:
  register: night

- name: Fail when a source is past its recovery point objective
  ansible.builtin.assert:
    that: night.status != 'fail'
    fail_msg: "{{ night.headline }}"
"""

RETURN = r"""
running:
  description: What runs now, as C(stowage status --json) gives it; none when nothing runs.
  returned: success
  type: dict
  contains:
    pid:
      description: The process.
      type: int
      returned: when known
    since:
      description: When it began, UTC.
      type: str
      returned: when known
    user:
      description: Whose it is.
      type: str
      returned: when known
    command:
      description: What was typed.
      type: str
      returned: when known
    bytes:
      description: Bytes of dumps that have come so far.
      type: int
      returned: while dumps or copies are made
    expected:
      description: Bytes that are expected in all; none when nobody knows.
      type: int
      returned: while dumps or copies are made
    rate:
      description: Bytes of dumps a second, smoothed; none in the first seconds.
      type: int
      returned: while dumps or copies are made
    ends:
      description: Estimated end of the dumps, UTC; none when nobody knows.
      type: str
      returned: while dumps or copies are made
    run_ends:
      description: Estimated end of the dumps and of their copies, UTC; none when nobody knows.
      type: str
      returned: while dumps or copies are made
    run_not_before:
      description: The earliest end of both, UTC, by what is known so far.
      type: str
      returned: while dumps or copies are made
    dumps:
      description: Each dump, and each copy at work, with C(phase), C(bytes), C(total), C(rate), C(ends), C(why).
      type: list
      elements: dict
      returned: always
    copies:
      description: All copies together, and those that wait (C(queue)) with their reason.
      type: dict
      returned: while dumps or copies are made
killed:
  description: What is known of a run that ended without a word since the last one; none when there is no such.
  returned: success
  type: dict
waiting:
  description: Who waits for the end of what runs.
  returned: success
  type: list
  elements: dict
headline:
  description: The last night in one line.
  returned: success
  type: str
report:
  description: The report, as C(stowage report --json) gives it.
  returned: success
  type: dict
status:
  description: V(ok), V(warn) or V(fail).
  returned: success
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: success
  type: list
  elements: str
  sample: [stowage report]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


def main():
    spec = _engine.argument_spec()
    spec.update(run={"type": "str"})
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    words = ["--run", module.params["run"]] if module.params["run"] else []
    try:
        seen = _engine.call(module, ["status"])
        report = _engine.call(module, ["report"] + words)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    module.exit_json(
        changed=False, running=seen.get("running"), killed=seen.get("killed"), waiting=seen.get("waiting", []),
        report=report, headline=report["headline"], status=report["status"], next=report["next"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
