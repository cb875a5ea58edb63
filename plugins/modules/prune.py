#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: prune
short_description: Remove copies that are past their keep
version_added: 0.1.0
description:
  - Marks copies that no C(keep), no chain, no lock and no hold asks for, and removes those that were marked long enough
    ago.
  - The nightly run does the same, unless the configuration says C(prune) C(nightly) V(false).
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._attributes.actiongroup_backup
  - stowage.backup._engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  async:
    support: full
options:
  targets:
    description: Only copies on these targets. Not together with O(undo).
    type: list
    elements: str
    default: []
  undo:
    description:
      - Whether to take marks away instead, so that what was to go stays until a later prune marks it again.
      - To keep it for good use M(stowage.backup.hold), or a longer C(keep).
    type: bool
    default: false
  dump:
    description: With O(undo) only the marks of this dump.
    type: str
seealso:
  - module: stowage.backup.hold
  - module: stowage.backup.catalog_info
"""

EXAMPLES = r"""
- name: See what would go, copy by copy
  stowage.backup.prune:
  check_mode: true
  diff: true

- name: Make room on the nas
  stowage.backup.prune:
    targets: [nas]

- name: Keep all that was marked, since the keep of a policy was a mistake
  stowage.backup.prune:
    undo: true
"""

RETURN = r"""
going:
  description: Copies that are past their keep, each with its target, size, reason, and when it goes.
  returned: without O(undo)
  type: list
  elements: dict
  contains:
    dump:
      description: The name of the dump.
      type: str
    client:
      description: Its client.
      type: str
    source:
      description: Its source.
      type: str
    target:
      description: Where the copy is.
      type: str
    bytes:
      description: What it takes there.
      type: int
    phase:
      description: V(mark), it was not marked before; V(waits), its grace lasts; V(remove), it goes.
      type: str
    goes:
      description: When its grace ends, ISO 8601.
      type: str
    reason:
      description: Why it goes.
      type: str
removed:
  description: Copies of which nothing is left, as C(dump) and C(target); in check mode none.
  returned: without O(undo)
  type: list
  elements: dict
forgotten:
  description: Dumps of which nothing is left anywhere; in check mode none.
  returned: without O(undo)
  type: list
  elements: str
staying:
  description: How many copies stay.
  returned: without O(undo)
  type: int
unmarked:
  description: How many copies are no longer marked.
  returned: with O(undo)
  type: int
problems:
  description: What could not be removed, and why.
  returned: without O(undo)
  type: list
  elements: str
unlocked:
  description: What is not locked at its target as it should be; the task fails then.
  returned: without O(undo)
  type: list
  elements: str
status:
  description: V(ok), V(warn) when there are problems, or V(fail) when something is not locked as it should be.
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

AFTER = {"mark": "marked", "waits": "marked", "remove": "gone"}


def ask(module, words):
    """What `stowage prune` answers, at the targets that were named."""
    words = ["prune"] + words
    for name in module.params["targets"]:
        words += ["--target", name]
    return _engine.call(module, words)


def pruned(module):
    """Prunes, or says what a prune would do; the result."""
    answer = ask(module, ["--dry-run"] if module.check_mode else [])
    going = [one for one in answer["copies"] if one["phase"] in AFTER]
    removed = answer.get("removed", [])
    done = {(one["dump"], one["target"]) for one in removed}
    before, after = [], []
    for one in going:
        name = "%s:%s %s on %s: " % (one["client"], one["source"], one["dump"], one["target"])
        gone = module.check_mode or (one["dump"], one["target"]) in done
        was = "" if one["phase"] == "mark" else "marked"
        before.append(name + (was or "kept"))
        after.append(name + (AFTER[one["phase"]] if gone or one["phase"] != "remove" else was))
    changed = before != after or bool(removed) or bool(answer.get("forgotten")) or bool(answer.get("locked"))
    return {
        "changed": changed, "going": going, "removed": removed, "forgotten": answer.get("forgotten", []),
        "staying": len(answer["copies"]) - len(going), "problems": answer.get("problems", []),
        "unlocked": answer.get("unlocked", []), "status": answer["status"], "next": answer["next"],
        "diff": {"before": text(before), "after": text(after)},
    }  # fmt: skip


def undone(module):
    """Takes marks away, or says how many there are; the result."""
    dump = module.params["dump"]
    marked = [one for one in ask(module, ["--dry-run"])["copies"] if one["phase"] in ("waits", "remove")]
    lines = ["%s on %s: " % (one["dump"], one["target"]) for one in marked if dump in (None, one["dump"])]
    result = {"unmarked": len(lines), "status": "ok", "next": ["stowage prune --dry-run"]}
    if not module.check_mode:
        answer = _engine.call(module, ["prune", "--undo"] + ([] if dump is None else [dump]))
        result = {"unmarked": answer["unmarked"], "status": answer["status"], "next": answer["next"]}
    result["diff"] = {"before": text(one + "marked" for one in lines), "after": text(one + "kept" for one in lines)}
    result["changed"] = result["unmarked"] > 0
    return result


def text(lines):
    """Lines as a diff wants them."""
    return "".join(line + "\n" for line in lines)


def main():
    spec = _engine.argument_spec()
    spec.update(
        targets={"type": "list", "elements": "str", "default": []},
        undo={"type": "bool", "default": False},
        dump={"type": "str"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    params = module.params
    if params["undo"] and params["targets"]:
        module.fail_json(msg="undo takes the marks of all targets: it does not go with targets")
    if params["dump"] is not None and not params["undo"]:
        module.fail_json(msg="dump goes with undo alone")
    try:
        result = undone(module) if params["undo"] else pruned(module)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    for problem in result.get("problems", []):
        module.warn(problem)
    if result.get("unlocked"):
        module.fail_json(msg=result["unlocked"][0], **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
