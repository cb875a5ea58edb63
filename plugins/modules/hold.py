#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hold
short_description: Keep dumps or whole clients, whatever retention says
version_added: 0.1.0
description:
  - Nothing of what is held is removed, the chains it needs included, until it is released.
  - On targets that lock files, each file of it gets a legal hold too, which is read back and ends with the release.
  - Without O(name) it only tells what is held.
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._attributes.actiongroup_backup
  - stowage.backup._engine
attributes:
  check_mode:
    support: partial
    details:
      - Whether there is such a dump or client is not looked up.
  diff_mode:
    support: full
  async:
    support: full
options:
  name:
    description: Dumps, by their names, and clients.
    type: list
    elements: str
    default: []
  state:
    description: V(present) holds them, V(absent) releases them.
    type: str
    choices: [present, absent]
    default: present
  why:
    description: For those who find it held years later. What is held already keeps what was said first.
    type: str
    default: ""
  dumps:
    description: Whether V(absent) for a client also ends the holds of its single dumps, such as those a rebuild found.
    type: bool
    default: false
seealso:
  - module: stowage.backup.prune
"""

EXAMPLES = r"""
- name: Keep everything of a client while a case is open
  stowage.backup.hold:
    name: web01
    why: case 4711, until legal says otherwise

- name: Let it go
  stowage.backup.hold:
    name: web01
    state: absent

- name: Read what is held
  stowage.backup.hold:
  register: held
"""

RETURN = r"""
held:
  description: What is held now; in check mode, before.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(dump) or V(client).
      type: str
    name:
      description: Its name.
      type: str
    since:
      description: When it was held, ISO 8601.
      type: str
    why:
      description: What was said then.
      type: str
at_targets:
  description: How many copies got a legal hold at their targets, or lost it.
  returned: success
  type: int
problems:
  description:
    - Targets that did not hold or release a copy.
    - It is held or released here all the same, and the next run tries again.
  returned: success
  type: list
  elements: str
status:
  description: V(ok), or V(warn) when there are problems.
  returned: success
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: success
  type: list
  elements: str
  sample: [stowage prune --dry-run]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


def lines(held):
    """What is held, as a diff wants it."""
    return "".join("%s %s\n" % (one["kind"], one["name"]) for one in held)


def apply(module):
    """Holds or releases; the result."""
    params = module.params
    before = _engine.call(module, ["hold"])
    names = {one["name"] for one in before["held"]}
    absent = params["state"] == "absent"
    # a client's single dumps are known to the engine alone, so with dumps it is asked whatever is held
    todo = [name for name in params["name"] if (name in names) == absent or absent and params["dumps"]]
    result = {"changed": False, "at_targets": 0, "problems": [], "status": "ok", "next": before["next"]}
    after = before["held"]
    if module.check_mode:
        if absent:
            after = [one for one in after if one["name"] not in todo]
        else:
            after = after + [{"kind": "dump or client", "name": name} for name in todo]
        result.update(held=before["held"])
    else:
        for name in todo:
            words = ["release", name] if absent else ["hold", name, "--why=" + params["why"]]
            answer = _engine.call(module, words + (["--dumps"] if absent and params["dumps"] else []))
            result["at_targets"] += answer["at_targets"]
            result["problems"] += answer["problems"]
        after = _engine.call(module, ["hold"])["held"] if todo else after
        result.update(held=after)
    result["changed"] = lines(before["held"]) != lines(after)
    result["status"] = "warn" if result["problems"] else "ok"
    result["diff"] = {"before": lines(before["held"]), "after": lines(after)}
    return result


def main():
    spec = _engine.argument_spec()
    spec.update(
        name={"type": "list", "elements": "str", "default": []},
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        why={"type": "str", "default": ""},
        dumps={"type": "bool", "default": False},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        result = apply(module)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    for problem in result["problems"]:
        module.warn(problem)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
