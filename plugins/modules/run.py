#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: run
short_description: Run the night's work now
version_added: 0.1.0
description:
  - Dumps what is asked for to the holding disk of the backup server and makes the copies that are due.
  - Shows live what is dumped, unless O(progress=false) or C(async) is used.
  - When the connection to the backup server is cut, the run goes on, and the module finds it again.
  - Stopping Ansible by C(^C) stops the run.
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
      - Returns the plan, tonight's level of each source and why.
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
  sources:
    description: Only sources of these names.
    type: list
    elements: str
    default: []
  level:
    description: The level for all of them, V(0) for a full dump. The schedule decides if not set.
    type: int
  join:
    description:
      - Whether to wait while another run, a staging, a prune or a rebuild is at work, instead of failing.
      - What another run begins to dump after this was asked for is taken from it, the rest is dumped then.
    type: bool
    default: false
  strict:
    description: Whether warnings fail the task too.
    type: bool
    default: false
  retry:
    description:
      - Whether to wait for clients that fail, when all else is done, as long as C(retry) in the configuration says.
      - The timer of the night does. If not, they are tried again while other dumps go on.
    type: bool
    default: false
  wait_for:
    description: Clients to wait for, each with how long, such as V(4 h).
    type: dict
    default: {}
  wait:
    description: Whether to wait for the end. If not, look at the run with M(stowage.backup.status_info).
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
  - module: stowage.backup.plan_info
  - module: stowage.backup.status_info
  - module: stowage.backup.check
"""

EXAMPLES = r"""
- name: Back up everything now instead of tonight
  stowage.backup.run:

- name: Make a full dump of one source
  stowage.backup.run:
    clients: [web1.example.org]
    sources: [www]
    level: 0

- name: Make sure that all of a client is dumped now, whatever else is at work
  stowage.backup.run:
    clients: [db1.example.org]
    join: true

- name: Back up a notebook as soon as it is there
  stowage.backup.run:
    clients: [nb07.example.org]
    wait_for: {nb07.example.org: 4 h}

- name: See what would be done
  stowage.backup.run:
  check_mode: true
  register: plan
"""

RETURN = r"""
job:
  description: Identifier of the engine's job on the backup server.
  returned: when not in check mode
  type: str
  sample: 1763831400-5f0c1ab2
headline:
  description: What happened, in one line.
  returned: when it ended
  type: str
  sample: OK  60 clients, 141 sources within RPO
report:
  description: The whole report, as C(stowage report --json) gives it.
  returned: when it ended
  type: dict
plan:
  description: Level, expected size and reason of each source, as M(stowage.backup.plan_info) returns it.
  returned: in check mode
  type: list
  elements: dict
given_up:
  description: What would not fit into tonight's limits, and why.
  returned: in check mode
  type: list
  elements: dict
forecast:
  description: The coming nights.
  returned: in check mode
  type: list
  elements: dict
absent:
  description: Clients that count as away.
  returned: in check mode
  type: list
  elements: str
status:
  description: V(ok), V(warn) or V(fail).
  returned: when it ended, or in check mode
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: when it ended, or in check mode
  type: list
  elements: str
  sample: [stowage report]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


def waits(params):
    """Words for clients that are waited for."""
    words = ["--retry"] if params["retry"] else []
    for client, span in sorted(params["wait_for"].items()):
        words.append("--wait-for=%s" % client + ("" if span is None else "=%s" % span))
    return words


def words_of(params):
    """What is asked for, as the command line has it."""
    words = []
    for client in params["clients"]:
        words += ["--client", client]
    for source in params["sources"]:
        words += ["--source", source]
    if params["level"] is not None:
        words += ["--level", str(params["level"])]
    return words


def main():
    spec = _engine.argument_spec()
    spec.update(
        clients={"type": "list", "elements": "str", "default": []},
        sources={"type": "list", "elements": "str", "default": []},
        level={"type": "int"},
        join={"type": "bool", "default": False},
        retry={"type": "bool", "default": False},
        wait_for={"type": "dict", "default": {}},
        strict={"type": "bool", "default": False},
        wait={"type": "bool", "default": True},
        progress={"type": "bool", "default": True},
        job={"type": "str"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    words = words_of(module.params)
    run = ["run"] + (["--join"] if module.params["join"] else []) + waits(module.params)
    try:
        if module.check_mode:
            answer = _engine.call(module, ["plan"] + words)
            plan = answer["sources"]
            more = {key: answer[key] for key in ("given_up", "forecast", "absent")}
            module.exit_json(changed=bool(plan), plan=plan, status=answer["status"], next=answer["next"], **more)
        job = _engine.start_job(module, (["--strict"] if module.params["strict"] else []) + run + words)
        if not module.params["wait"]:
            module.exit_json(changed=True, job=job)
        answer = _engine.wait_for_job(job)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    result = {"job": job, "headline": answer["headline"], "status": answer["status"], "next": answer["next"]}
    result.update(report=answer, changed=True)
    if answer["status"] == "fail" or module.params["strict"] and answer["status"] == "warn":
        module.fail_json(msg=answer["headline"], **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
