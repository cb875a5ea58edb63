#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: target
short_description: Make, prove and list the places of copies
version_added: 0.1.0
description:
  - Adds a target beside those of the role's C(backup_server_targets), in a file of its own below C(targets.d), after
    its place was made, if asked for, and tested.
  - Tests a target, or lists what is known of all.
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
      - With O(state=present) it says what would be made and written; O(state=tested) does nothing then.
  diff_mode:
    support: none
  async:
    support: full
options:
  state:
    description:
      - V(present) makes sure that the target is configured as given.
      - V(tested) proves it with small files and some tens of megabytes of its own, and fails when something does not
        work.
      - V(listed) returns what is known of all targets, and asks no place.
    type: str
    choices: [present, tested, listed]
    default: present
  name:
    description:
      - Of the target. Needed unless O(state=listed).
      - One of C(backup_server_targets) is changed there, and refused here.
    type: str
  type:
    description: Its kind, such as V(s3) or V(sftp). Needed with O(state=present).
    type: str
  options:
    description: The options of its kind, as they would stand in C(stowage.yml).
    type: dict
    default: {}
  secrets:
    description:
      - Its secrets, such as C(access_key) and C(secret_key).
      - They reach the engine on its standard input and lie in a file that only its user can read.
      - If not set, those that were given before stay.
    type: dict
  create:
    description:
      - Whether to make the place, or what it lacks. A bucket is closed to the public.
      - With C(transition) among O(options) it also gets the rule that moves parts of images to other storage classes.
    type: bool
    default: false
  lock:
    description: With O(create), whether objects can be locked there.
    type: bool
    default: false
  versions:
    description: With O(create), whether what is overwritten stays as a version.
    type: bool
    default: false
  encryption:
    description: With O(create), V(AES256), V(aws:kms), or the id of a key by which the place encrypts by itself.
    type: str
  abort_days:
    description: With O(create), after how many days unfinished uploads go; V(0) for never.
    type: int
    default: 7
  old_days:
    description: With O(create), after how many days older versions go; V(0) for never.
    type: int
    default: 0
  test:
    description: Whether a target is tested before it is written down.
    type: bool
    default: true
  size:
    description: With O(state=tested), how much is sent and read, such as V(32 MiB).
    type: str
seealso:
  - module: stowage.backup.check
"""

EXAMPLES = r"""
- name: Add a bucket in another region, made for it, whose objects can be locked
  stowage.backup.target:
    name: cloud-us
    type: s3
    options:
      bucket: acme-backup-us
      region: us-west-2
      transition: {STANDARD_IA: 30, DEEP_ARCHIVE: 180}
    secrets:
      access_key: "{{ vault_s3_id }}"
      secret_key: "{{ vault_s3_key }}"
    create: true
    lock: true

- name: Prove the NAS
  stowage.backup.target:
    name: nas
    state: tested
"""

RETURN = r"""
target:
  description: What was done or found, as C(stowage target add --json) or C(stowage target test --json) gives it.
  returned: with O(state=present) and O(state=tested)
  type: dict
targets:
  description: What is known of each target.
  returned: with O(state=listed)
  type: list
  elements: dict
  contains:
    name:
      description: Of the target.
      type: str
    type:
      description: Its kind.
      type: str
    place:
      description: Where it is.
      type: str
    state:
      description: How its last test ended, V(ok), V(warn) or V(fail); V(untested) when there was none.
      type: str
    copies:
      description: How many copies are there.
      type: int
    bytes:
      description: What they take.
      type: int
    verified:
      description: When one of them was verified last, ISO 8601.
      type: str
    file:
      description: Where it is configured.
      type: str
status:
  description: V(ok), or V(warn) when something is worth knowing.
  returned: success
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: success
  type: list
  elements: str
  sample: [stowage check]
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


def words_of(params, look):
    """The command line of an add after `stowage`."""
    words = ["target", "add", params["name"], "--from", "-", "--replace"]
    if params["create"]:
        words += ["--create", "--abort-days", str(params["abort_days"]), "--old-days", str(params["old_days"])]
        words += ["--" + key for key in ("lock", "versions") if params[key]]
        if params["encryption"]:
            words += ["--encryption", params["encryption"]]
    if not params["test"]:
        words.append("--no-test")
    if look:
        words.append("--dry-run")
    return words


def present(module):
    """Adds a target, or says what would be done."""
    params = module.params
    given = dict(params["options"], type=params["type"], **(params["secrets"] or {}))
    # JSON is YAML, too
    return _engine.call(module, words_of(params, module.check_mode), json.dumps(given).encode("utf-8"))


def first_failure(answer):
    """What failed first, in one line."""
    tested = answer.get("tested") or {}
    for one in answer.get("steps", []) + tested.get("findings", []) + answer.get("findings", []):
        if not one.get("ok") and not one.get("warning"):
            hint = " -> " + one["hint"] if one.get("hint") else ""
            return "%s: %s%s" % (one.get("name"), one.get("message"), hint)
    return "the target cannot be used as it is"


def main():
    spec = _engine.argument_spec()
    spec.update(
        state={"type": "str", "choices": ["present", "tested", "listed"], "default": "present"},
        name={"type": "str"},
        type={"type": "str"},
        options={"type": "dict", "default": {}},
        secrets={"type": "dict", "no_log": True},
        create={"type": "bool", "default": False},
        lock={"type": "bool", "default": False},
        versions={"type": "bool", "default": False},
        encryption={"type": "str"},
        abort_days={"type": "int", "default": 7},
        old_days={"type": "int", "default": 0},
        test={"type": "bool", "default": True},
        size={"type": "str"},
    )
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[("state", "present", ["name", "type"]), ("state", "tested", ["name"])],
    )
    params = module.params
    try:
        if params["state"] == "listed":
            answer = _engine.call(module, ["target", "list"])
            module.exit_json(
                changed=False, targets=answer["targets"], status=answer["status"], next=answer["next"]
            )  # fmt: skip
        if params["state"] == "present":
            answer = present(module)
        elif module.check_mode:
            module.exit_json(changed=False, target={}, status="ok", next=["stowage target test " + params["name"]])
        else:
            size = ["--size", params["size"]] if params["size"] else []
            answer = _engine.call(module, ["target", "test", params["name"]] + size)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    result = {"changed": bool(answer.get("changed")), "target": answer, "status": answer["status"],
              "next": answer["next"]}  # fmt: skip
    if answer["status"] == "fail":
        module.fail_json(msg="target %s: %s" % (params["name"], first_failure(answer)), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
