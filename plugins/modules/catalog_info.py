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
  - Lists what the backup server has, or finds files over all clients and all dumps, each content of a path once.
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
      - For V(files), O(words) names client and path at a moment, and what is in that folder is listed.
      - For V(find), O(words) is one pattern, a name, a path or a glob.
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
  recursive:
    description: For V(files), all that lies below, too.
    type: bool
    default: false
  substring:
    description: For V(find), the pattern is a part of the name; one with a slash is a part of the path.
    type: bool
    default: false
  ignore_case:
    description: For V(find), capital and small letters are the same.
    type: bool
    default: false
  larger:
    description: For V(find), files of at least this size, such as C(20 MB).
    type: str
  smaller:
    description: For V(find), files of at most this size.
    type: str
  newer:
    description: For V(find), last changed then or later, such as C(2026-11-22) or C(3 days ago).
    type: str
  older:
    description: For V(find), last changed before.
    type: str
  deleted:
    description: For V(find), only what the newest dump of its source no longer has.
    type: bool
    default: false
  limit:
    description: So many runs, dumps or copies, or paths for V(find); 0 for all.
    type: int
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

- name: Find deleted invoices of any spelling
  stowage.backup.catalog_info:
    what: find
    words: ["invoice"]
    substring: true
    ignore_case: true
    deleted: true
  register: found
"""

RETURN = r"""
items:
  description: What was listed or found.
  returned: success
  type: list
  elements: dict
notes:
  description: What could not be searched, and whether there is more.
  returned: success
  type: list
  elements: str
  sample: []
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


FIND = {
    "substring": {"type": "bool", "default": False},
    "ignore_case": {"type": "bool", "default": False},
    "larger": {"type": "str"},
    "smaller": {"type": "str"},
    "newer": {"type": "str"},
    "older": {"type": "str"},
    "deleted": {"type": "bool", "default": False},
}


def command(params):
    """The words of the command line; those of the user stand behind --, where no option is looked for."""
    what = params["what"]
    words = ["find" if what == "find" else "list"]
    options = ["client", "source"]
    if what == "find":
        options += list(FIND)
    if what == "files":
        options += ["at", "recursive"]
    for option in options:
        value = params[option]
        if value is True:
            words.append("--" + option.replace("_", "-"))
        elif value:
            words.append("--%s=%s" % (option.replace("_", "-"), value))
    if params["limit"] is not None and what != "files":
        words.append("--limit=%d" % params["limit"])
    # list's own word stands with the others: what options come between is not put together again
    words += ["--"] if what == "find" else ["--", what]
    return words + params["words"] if what in ("files", "find") else words


def main():
    spec = _engine.argument_spec()
    spec.update(
        what={"type": "str", "choices": list(NAMES), "default": "dumps"},
        client={"type": "str"},
        source={"type": "str"},
        words={"type": "list", "elements": "str", "default": []},
        at={"type": "str"},
        recursive={"type": "bool", "default": False},
        limit={"type": "int"},
        **FIND
    )
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[("what", "files", ["words"]), ("what", "find", ["words"])],
    )
    params = module.params
    try:
        answer = _engine.call(module, command(params))
    except _engine.EngineError as error:
        _engine.fail(module, error)
    module.exit_json(
        changed=False,
        items=answer[NAMES[params["what"]]],
        notes=answer.get("notes", []),
        status=answer["status"],
        next=answer["next"],
    )


if __name__ == "__main__":
    main()
