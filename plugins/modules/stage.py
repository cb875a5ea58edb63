#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stage
short_description: Make the copies that policies ask for, or second ones
version_added: 0.1.0
description:
  - Makes the copies that the policies ask for and that are not there, as the nightly run does beside its dumps.
  - With O(from) and O(to) it copies what is verified on one target to another, though no rule asks for it.
  - What a copy is made from may sleep in an archive class. It is asked for then, and the copy goes on in a later task,
    or after O(wait).
  - Fails when a copy could not be made, or is not locked at its target as it should be, unless O(fail=false).
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
      - It says what would be copied, from where and how much, RV(plan), and copies nothing.
  diff_mode:
    support: N/A
    details:
      - Nothing that a person wrote is changed.
  async:
    support: full
options:
  targets:
    description: Only copies to these targets. Not together with O(from).
    type: list
    elements: str
    default: []
  now:
    description: Whether to make also those that wait for their window. Not together with O(from), which waits for none.
    type: bool
    default: false
  from:
    description: Copy what is on this target, and from no other place; needs O(to).
    type: str
  to:
    description: The target that second copies go to; needs O(from).
    type: str
  clients:
    description: Only dumps of these clients; needs O(from).
    type: list
    elements: str
    default: []
  sources:
    description: Only dumps of these sources, C(SOURCE) or C(CLIENT:SOURCE); needs O(from).
    type: list
    elements: str
    default: []
  dumps:
    description: Only these dumps, by their names, and what they are based on; needs O(from).
    type: list
    elements: str
    default: []
  since:
    description: Only dumps begun since this time, and what they are based on; needs O(from).
    type: str
  wait:
    description:
      - How long to wait for what sleeps in an archive, such as V(13h). Without it that is asked for, and the task ends.
    type: str
  fail:
    description: Whether to fail the task when a copy could not be made.
    type: bool
    default: true
seealso:
  - module: stowage.backup.run
  - module: stowage.backup.prune
"""

EXAMPLES = r"""
- name: Make all copies that are due, also out of their windows
  stowage.backup.stage:
    now: true

- name: See what a second region would get
  stowage.backup.stage:
    from: cloud-us
    to: cloud-eu
  check_mode: true
"""

RETURN = r"""
copies:
  description: What became of each copy; in check mode none.
  returned: success
  type: list
  elements: dict
  contains:
    client:
      description: Whose dump it is.
      type: str
    source:
      description: Of which source.
      type: str
    dump:
      description: The name of the dump.
      type: str
    target:
      description: Where it was to be copied.
      type: str
    ok:
      description: Whether it is there and verified.
      type: bool
    waits:
      description: Whether it is no failure, only not its time.
      type: bool
    message:
      description: Why it is not there.
      type: str
    hint:
      description: The next step.
      type: str
plan:
  description: For each target and place to copy from, how many copies would be made and of how many bytes.
  returned: in check mode
  type: list
  elements: dict
released:
  description: Dumps whose image left the holding disk; in check mode none.
  returned: success
  type: list
  elements: str
asleep:
  description: What copies wait for, since it sleeps in an archive; a line for each target.
  returned: success
  type: list
  elements: str
problems:
  description: Images that should have left the holding disk and could not.
  returned: success
  type: list
  elements: str
unlocked:
  description: What is not locked at its target as it should be.
  returned: success
  type: list
  elements: str
status:
  description: V(ok), V(warn) when there are problems, or V(fail).
  returned: success
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: success
  type: list
  elements: str
  sample: [stowage list copies]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine

SECOND = ("client", "source", "dump")


def words_of(module):
    """What is asked of `stowage`."""
    params = module.params
    words = ["stage"]
    for name in ("target",) + SECOND:
        for value in params[name + "s"]:
            words += ["--" + name, value]
    for name in ("from", "to", "since", "wait"):
        if params[name] is not None:
            words += ["--" + name, params[name]]
    if params["now"]:
        words.append("--now")
    if module.check_mode:
        words.append("--dry-run")
    return words


def main():
    spec = _engine.argument_spec()
    spec.update(
        {
            "targets": {"type": "list", "elements": "str", "default": []},
            "now": {"type": "bool", "default": False},
            "from": {"type": "str"},
            "to": {"type": "str"},
            "clients": {"type": "list", "elements": "str", "default": []},
            "sources": {"type": "list", "elements": "str", "default": []},
            "dumps": {"type": "list", "elements": "str", "default": []},
            "since": {"type": "str"},
            "wait": {"type": "str"},
            "fail": {"type": "bool", "default": True},
        }
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, required_together=[("from", "to")])
    try:
        answer = _engine.call(module, words_of(module))
    except _engine.EngineError as error:
        _engine.fail(module, error)
    result = {name: answer.get(name, []) for name in ("copies", "released", "asleep", "problems", "unlocked")}
    result.update(status=answer["status"], next=answer["next"])
    if module.check_mode:
        result["plan"] = answer["plan"]
        result["changed"] = any(one["copies"] > one["waits"] or module.params["now"] for one in answer["plan"])
    else:
        result["changed"] = any(one["ok"] for one in result["copies"]) or bool(result["released"])
    for problem in result["problems"]:
        module.warn(problem)
    if answer["status"] == "fail" and module.params["fail"]:
        module.fail_json(msg=first_failure(result), **result)
    module.exit_json(**result)


def first_failure(result):
    """The first copy that could not be made, in one line."""
    for one in result["copies"]:
        if not one["ok"] and not one["waits"]:
            told = "%s:%s %s: %s" % (one["client"], one["source"], one["target"], one["message"])
            return told + (" -> " + one["hint"] if one["hint"] else "")
    return "; ".join(result["unlocked"]) or "a copy could not be made"


if __name__ == "__main__":
    main()
