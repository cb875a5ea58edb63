#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: catalog_info
short_description: Read runs, dumps, copies and files from the catalog
version_added: 0.1.0
description:
  - Lists what the backup server has, or finds files by name over all dumps.
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
  what:
    description:
      - Which list.
      - For V(files), O(words) names client and path at a moment; for V(find), O(words) is one pattern.
    type: str
    choices: [runs, dumps, copies, files, find]
    default: dumps
  client:
    description: Only this client.
    type: str
  source:
    description: Only this source.
    type: str
  words:
    description: What to list for V(files), such as C(web1:/etc), or what to find for V(find), such as C(*.conf).
    type: list
    elements: str
    default: []
  at:
    description: The moment for V(files), such as C(yesterday).
    type: str
seealso:
  - module: stowage.backup.restore
"""

EXAMPLES = r"""
- name: List the dumps of a client
  stowage.backup.catalog_info:
    client: web1.example.org
  register: dumps

- name: Find a lost file
  stowage.backup.catalog_info:
    what: find
    words: ["nginx.conf"]
  register: found
"""

RETURN = r"""
items:
  description: What was listed or found.
  returned: success
  type: list
  elements: dict
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

# the name of the list in the engine's answer
NAMES = {"runs": "runs", "dumps": "dumps", "copies": "copies", "files": "files", "find": "found"}


def main():
    spec = _engine.argument_spec()
    spec.update(
        what={"type": "str", "choices": list(NAMES), "default": "dumps"},
        client={"type": "str"},
        source={"type": "str"},
        words={"type": "list", "elements": "str", "default": []},
        at={"type": "str"},
    )
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[("what", "files", ["words"]), ("what", "find", ["words"])],
    )
    params = module.params
    words = ["find"] if params["what"] == "find" else ["list", params["what"]]
    if params["what"] in ("files", "find"):
        words += ["--"] + params["words"]
    for option in ("at", "source", "client"):
        if params[option]:
            words[words.index("--") if "--" in words else len(words) :] = ["--" + option, params[option]] + (
                ["--"] + params["words"] if "--" in words else []
            )
    try:
        answer = _engine.call(module, words)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    module.exit_json(changed=False, items=answer[NAMES[params["what"]]], status=answer["status"], next=answer["next"])


if __name__ == "__main__":
    main()
