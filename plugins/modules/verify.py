#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: verify
short_description: Read copies and holding images again
version_added: 0.1.0
description:
  - Reads copies and holding images, marks what is damaged and makes it anew from a good copy.
  - Fails when something is damaged, also when it was made anew, unless O(fail=false).
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._attributes.actiongroup_backup
  - stowage.backup._engine
attributes:
  check_mode:
    support: none
  diff_mode:
    support: N/A
    details:
      - Nothing that a person wrote is changed.
  async:
    support: full
options:
  clients:
    description: Only dumps of these clients.
    type: list
    elements: str
    default: []
  sources:
    description: Only dumps of these sources.
    type: list
    elements: str
    default: []
  dumps:
    description: Only these dumps, by their names.
    type: list
    elements: str
    default: []
  targets:
    description: Only copies on these targets; V(holding) is the holding disk.
    type: list
    elements: str
    default: []
  depth:
    description:
      - V(quick) looks at sizes, signatures and checksums that the place keeps.
      - V(full) reads every byte.
      - V(sample) reads O(share) of all bytes, those first that were read longest ago.
    type: str
    choices: [quick, full, sample]
    default: quick
  share:
    description: How much a sample reads, in percent of all bytes.
    type: float
    default: 3.4
  last_run:
    description:
      - Path on the backup server of the signed record V(RUN.json) of a run, with V(RUN.sig) beside it, that was kept
        elsewhere.
      - A target or a catalog that has fewer or other dumps than it says is reported as rolled back.
    type: path
  repair:
    description: Whether damaged copies are made anew from good ones.
    type: bool
    default: true
  fail:
    description: Whether to fail the task when something is damaged or could not be read.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Look at all copies
  stowage.backup.verify:

- name: Read everything on the nas
  stowage.backup.verify:
    targets: [nas]
    depth: full
"""

RETURN = r"""
verify:
  description: All that was found, as C(stowage verify --json) gives it.
  returned: success
  type: dict
status:
  description: V(ok), V(warn) when something lies in a dump's folder that is no part of it, or V(fail).
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


def main():
    spec = _engine.argument_spec()
    spec.update(
        clients={"type": "list", "elements": "str", "default": []},
        sources={"type": "list", "elements": "str", "default": []},
        dumps={"type": "list", "elements": "str", "default": []},
        targets={"type": "list", "elements": "str", "default": []},
        depth={"type": "str", "choices": ["quick", "full", "sample"], "default": "quick"},
        share={"type": "float", "default": 3.4},
        last_run={"type": "path"},
        repair={"type": "bool", "default": True},
        fail={"type": "bool", "default": True},
    )
    module = AnsibleModule(argument_spec=spec)
    params = module.params
    words = ["verify", "--sample", "%g%%" % params["share"]]
    if params["depth"] != "sample":
        words = ["verify", "--" + params["depth"]]
    for name in ("client", "source", "dump", "target"):
        for value in params[name + "s"]:
            words += ["--" + name, value]
    if params["last_run"] is not None:
        words += ["--last-run", params["last_run"]]
    if not params["repair"]:
        words.append("--no-repair")
    try:
        answer = _engine.call(module, words)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    for stray in answer.get("strays", []):
        module.warn(stray)
    made = any(one.get("ok") for one in answer.get("repaired", []))
    result = {"changed": made, "verify": answer, "status": answer["status"], "next": answer["next"]}
    if answer["status"] == "fail" and params["fail"]:
        module.fail_json(msg=first_finding(answer), **result)
    module.exit_json(**result)


def first_finding(answer):
    """The first copy that is not good, in one line."""
    for one in answer.get("results", []):
        if one.get("status") != "ok":
            told = (one["client"], one["source"], one["dump"], one["place"], one["status"], one["message"])
            return "%s:%s %s on %s is %s: %s" % told
    for one in answer.get("rollbacks", []):
        return "rollback of %s: %s:%s: %s" % (one["place"], one["client"], one["source"], one["message"])
    return "; ".join(answer.get("problems", [])) or "a copy could not be made anew"


if __name__ == "__main__":
    main()
