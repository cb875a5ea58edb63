#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: check
short_description: Check everything a night needs, before the night
version_added: 0.1.0
description:
  - Connects to each client and target, compares what both sides know, and finds what no source covers.
  - Fails when something would make the night fail, unless O(fail=false).
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
  clients:
    description: Only these clients.
    type: list
    elements: str
    default: []
  strict:
    description: Whether warnings fail the task too.
    type: bool
    default: false
  fail:
    description: Whether to fail the task when something was found that would make the night fail.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Check everything
  stowage.backup.check:
"""

RETURN = r"""
check:
  description: All that was found, as C(stowage check --json) gives it.
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
    spec.update(
        clients={"type": "list", "elements": "str", "default": []},
        strict={"type": "bool", "default": False},
        fail={"type": "bool", "default": True},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    words = ["check"]
    for client in module.params["clients"]:
        words += ["--client", client]
    try:
        answer = _engine.call(module, words)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    result = {"changed": False, "check": answer, "status": answer["status"], "next": answer["next"]}
    bad = answer["status"] == "fail" or module.params["strict"] and answer["status"] == "warn"
    if bad and module.params["fail"]:
        module.fail_json(msg=first_finding(answer), **result)
    module.exit_json(**result)


def first_finding(answer):
    """The worst finding in one line."""
    for wanted in ("fail", "warn"):
        for one in answer.get("findings", []):
            if str(one.get("status", "")).lower() == wanted:
                hint = one.get("hint")
                return str(one.get("message", "")) + (" -> %s" % hint if hint else "")
    return "the check found something that would make the night fail"


if __name__ == "__main__":
    main()
