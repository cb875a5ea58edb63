#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: job
short_description: Look at a job of the engine, or stop it
version_added: 0.1.0
description:
  - Looks at what M(stowage.backup.run) and M(stowage.backup.restore) started with O(ignore:wait=false).
  - Their action plugins use it to show progress.
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._engine
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
  async:
    support: full
options:
  id:
    description: Identifier of the job.
    type: str
    required: true
  cancel:
    description: Whether to stop it. A dump that is not complete leaves nothing behind.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Start a run and go on
  stowage.backup.run:
    wait: false
  register: started

- name: Wait for its end
  stowage.backup.job:
    id: "{{ started.job }}"
  register: job
  until: not job.job.running
  retries: 1000
  delay: 30
"""

RETURN = r"""
job:
  description: The job.
  returned: success
  type: dict
  contains:
    running:
      description: Whether it is at work.
      type: bool
      returned: success
    rc:
      description: Exit status of the engine.
      type: int
      returned: when it ended
    answer:
      description: What the engine answered.
      type: dict
      returned: when it ended
    error:
      description: Code, message and hint of the engine's error.
      type: dict
      returned: when it failed to answer
now:
  description: What the engine is at, when a run is at work.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


def main():
    spec = _engine.argument_spec()
    spec.update(id={"type": "str", "required": True}, cancel={"type": "bool", "default": False})
    module = AnsibleModule(argument_spec=spec, supports_check_mode=False)
    now = None
    try:
        if module.params["cancel"]:
            _engine.cancel_job(module.params["id"])
        job = _engine.look_at_job(module.params["id"])
        if job["running"] and not module.params["cancel"]:
            try:
                now = _engine.call(module, ["status"]).get("running")
            except _engine.EngineError:
                pass  # progress is a courtesy; the job tells how it ends
    except _engine.EngineError as error:
        _engine.fail(module, error)
    module.exit_json(changed=module.params["cancel"], job=job, now=now)


if __name__ == "__main__":
    main()
