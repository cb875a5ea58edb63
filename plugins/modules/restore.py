#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Restore files of a client as they were at a moment
version_added: 0.1.0
description:
  - Runs on the backup server, which sends what was asked for to a client's agent or writes it to a folder of its own.
  - Without O(to) and O(in_place) it goes to the scratch folder of the client, where it hurts nobody.
  - Anywhere else on a client it needs a permit of that client's own root, which the playbook C(stowage.backup.restore)
    writes and removes.
  - When the connection to the backup server is cut, the restore goes on, and the module finds it again.
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
      - Returns what would be read, as with O(plan).
  diff_mode:
    support: none
  async:
    support: full
options:
  what:
    description:
      - What to restore, as C(CLIENT:/PATH) words, or as C(CLIENT), C(SOURCE) and paths below it.
      - Globs are allowed.
    type: list
    elements: str
    required: true
  at:
    description:
      - The moment, such as V(2026-11-22), V(yesterday) or V(3 days ago) in the backup server's time, or a dump's name.
      - Now if not set.
    type: str
  from:
    description: Read only from this target, or from V(holding).
    type: str
  to:
    description: A folder of the backup server, or C(CLIENT:DIR) for a folder of a client.
    type: str
  in_place:
    description: Whether to write where it was.
    type: bool
    default: false
  existing:
    description: What becomes of a file that is there already.
    type: str
    choices: [refuse, overwrite, keep]
    default: refuse
  exact:
    description: Whether to remove what was not there at that moment.
    type: bool
    default: false
  permit:
    description: Identifier of the permit on the client.
    type: str
  archive_wait:
    description:
      - How long to wait for what sleeps in an archive class of its target, such as V(13 h).
      - If not set it is asked for, and the task fails; the same task goes on later.
    type: str
  private:
    description:
      - A private key in PEM, such as from a vault, that opens sealed dumps.
      - It reaches the engine on its standard input and is not kept.
    type: str
    aliases: [key]
  passphrase:
    description:
      - Opens O(private), or the protected keys on the backup server.
      - It reaches the engine on its standard input, never on a command line or in the environment.
    type: str
  plan:
    description: Whether only to return what would be read.
    type: bool
    default: false
  wait:
    description: Whether to wait for the end.
    type: bool
    default: true
  progress:
    description: Whether to show lines while waiting.
    type: bool
    default: true
  job:
    description:
      - Identifier for the engine's job, made up if not set.
      - The action plugin chooses it, so that it can stop a job of whose start it was not told any more.
    type: str
seealso:
  - module: stowage.backup.catalog_info
"""

EXAMPLES = r"""
- name: Restore a folder as it was yesterday, beside what is there now
  stowage.backup.restore:
    what: ["web1.example.org:/etc/nginx"]
    at: yesterday

- name: See what a restore would read
  stowage.backup.restore:
    what: ["web1.example.org:/"]
    plan: true
  register: plan

- name: Restore from sealed dumps, whose private key is in the vault and not on the backup server
  stowage.backup.restore:
    what: ["web1.example.org:/etc/nginx"]
    private: "{{ vault_stowage_operations_key }}"
    passphrase: "{{ vault_stowage_passphrase }}"
"""

RETURN = r"""
plan:
  description: What would be read, from where, and where it would go.
  returned: with O(plan) and in check mode
  type: dict
restored:
  description: What was restored, as C(stowage restore --json) gives it.
  returned: when it ended
  type: dict
job:
  description: Identifier of the engine's job on the backup server.
  returned: when something is restored
  type: str
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


def words_of(params):
    """The command line after `stowage`."""
    words = ["restore", "--existing", params["existing"]]
    for key in ("at", "from", "to", "permit"):
        if params[key]:
            words += ["--" + key, params[key]]
    if params["archive_wait"]:
        words += ["--wait", params["archive_wait"]]
    if params["in_place"]:
        words.append("--in-place")
    if params["exact"]:
        words.append("--exact")
    return words


def main():
    spec = _engine.argument_spec()
    spec.update(
        {
            "what": {"type": "list", "elements": "str", "required": True},
            "at": {"type": "str"},
            "from": {"type": "str"},
            "to": {"type": "str"},
            "in_place": {"type": "bool", "default": False},
            "existing": {"type": "str", "choices": ["refuse", "overwrite", "keep"], "default": "refuse"},
            "exact": {"type": "bool", "default": False},
            "permit": {"type": "str"},
            "archive_wait": {"type": "str"},
            "private": {"type": "str", "no_log": True, "aliases": ["key"]},
            "passphrase": {"type": "str", "no_log": True},
            "plan": {"type": "bool", "default": False},
            "wait": {"type": "bool", "default": True},
            "progress": {"type": "bool", "default": True},
            "job": {"type": "str"},
        }
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    params = module.params
    opening, secret = _engine.secret_of(params)
    words = words_of(params) + opening
    try:
        if module.check_mode or params["plan"]:
            plan = _engine.call(module, words + ["--plan", "--"] + params["what"], secret)
            module.exit_json(changed=not params["plan"], plan=plan, status=plan["status"], next=plan["next"])
        job = _engine.start_job(module, words + ["--"] + params["what"], secret)
        if not params["wait"]:
            module.exit_json(changed=True, job=job)
        result = _engine.told_of_restore(_engine.wait_for_job(job))
    except _engine.EngineError as error:
        _engine.fail(module, error)
    result["job"] = job
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
