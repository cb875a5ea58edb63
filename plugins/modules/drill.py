#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: drill
short_description: Prove that backups come back
version_added: 0.1.0
description:
  - Restores a few files drawn by lot and one small source of each client from the copy that is farthest away, compares
    them with what was dumped, and takes them away again.
  - Everything goes to the scratch folder of the client, or to the backup server where the client cannot be reached.
    No permit is needed, and nothing stays.
  - Says what a restore of all of a client would take, by what was measured, and what it would cost where targets have
    prices.
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
      - Returns what would be tried. Lots are drawn, so the next drill tries something else.
  diff_mode:
    support: none
  async:
    support: full
options:
  clients:
    description: Only these clients.
    type: list
    elements: str
    default: []
  files:
    description: So many files of each client. The configuration of the engine decides if not set.
    type: int
  target:
    description: Read from this target, or V(holding). What is farthest away if not set.
    type: str
  small:
    description: Whether to drill as every night does, so many files of as many clients and one small source.
    type: bool
    default: false
  private:
    description:
      - A private key in PEM, such as from a vault, that opens sealed dumps.
      - It reaches the engine on its standard input and is not kept.
    type: str
  passphrase:
    description:
      - Opens O(private), or the protected keys on the backup server.
      - It reaches the engine on its standard input, never on a command line or in the environment.
    type: str
  strict:
    description: Whether warnings fail the task too.
    type: bool
    default: false
seealso:
  - module: stowage.backup.restore
  - module: stowage.backup.key
"""

EXAMPLES = r"""
- name: Prove that something of every client comes back
  stowage.backup.drill:

- name: Prove more of the databases, whose dumps are sealed
  stowage.backup.drill:
    clients: [db1.example.org, db2.example.org]
    files: 50
    target: cloud
    private: "{{ vault_stowage_operations_key }}"
    passphrase: "{{ vault_stowage_passphrase }}"
"""

RETURN = r"""
headline:
  description: How many clients something was restored of, and which would take longest, in one line.
  returned: when not in check mode
  type: str
  sample: "proven: 58 of 60 clients restored within 30 days; db2 est. 1 h 50 from cloud, $3.10"
lines:
  description: What was tried and what came of it, for people.
  returned: always
  type: list
  elements: str
drill:
  description: What came of each source, estimates and money, as C(stowage drill --json) gives it.
  returned: when not in check mode
  type: dict
picks:
  description: What would be tried.
  returned: in check mode
  type: list
  elements: dict
status:
  description: V(ok), V(warn) or V(fail).
  returned: always
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: always
  type: list
  elements: str
  sample: [stowage report]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


def words_of(params, check_mode):
    """The command line after `stowage`."""
    words = ["drill"]
    for client in params["clients"]:
        words += ["--client", client]
    if params["files"] is not None:
        words += ["--files", str(params["files"])]
    if params["target"]:
        words += ["--target", params["target"]]
    return words + (["--small"] if params["small"] else []) + (["--plan"] if check_mode else [])


def main():
    spec = _engine.argument_spec()
    spec.update(
        clients={"type": "list", "elements": "str", "default": []},
        files={"type": "int"},
        target={"type": "str"},
        small={"type": "bool", "default": False},
        private={"type": "str", "no_log": True},
        passphrase={"type": "str", "no_log": True},
        strict={"type": "bool", "default": False},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    words, secret = _engine.secret_of(module.params)
    try:
        answer = _engine.call(module, words_of(module.params, module.check_mode) + words, secret)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    # what was restored is gone again: nothing has changed
    result = {"changed": False, "status": answer["status"], "next": answer["next"], "lines": answer["lines"]}
    if module.check_mode:
        module.exit_json(picks=answer["picks"], **result)
    result.update(headline=answer["proven"]["line"], drill=answer)
    if answer["status"] == "fail" or module.params["strict"] and answer["status"] == "warn":
        module.fail_json(msg=told_of(answer), **result)
    module.exit_json(**result)


def told_of(answer):
    """The worst in one line."""
    for one in answer["results"]:
        if one["status"] == "failed":
            return "%s:%s from %s: %s" % (one["client"], one["source"], one["place"], one["message"])
    return answer["lines"][0]


if __name__ == "__main__":
    main()
