#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: plan_info
short_description: Read what tonight's run would do, and the nights to come
version_added: 0.1.0
description:
  - Returns the level of each source with its reason, what would be given up, and the forecast of the cycle.
  - Nothing is dumped. No client is contacted unless O(estimate) says so.
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
  clients:
    description: What a run of only these clients would do.
    type: list
    elements: str
    default: []
  sources:
    description: What a run of only sources of these names would do.
    type: list
    elements: str
    default: []
  level:
    description: As if this level were asked for.
    type: int
  why:
    description: All about this source, as C(web1:etc) or C(etc), in sentences.
    type: str
  estimate:
    description:
      - Which sources the clients are asked the size of.
      - V(new) asks where too little is known of it, as a night would.
    type: str
    choices: [none, new, all]
    default: none
seealso:
  - module: stowage.backup.run
"""

EXAMPLES = r"""
- name: See what tonight will do
  stowage.backup.plan_info:
  register: tonight

- name: Fail when something does not fit into the limits of a night
  ansible.builtin.assert:
    that: tonight.given_up | length == 0
    fail_msg: "{{ tonight.given_up | map(attribute='why') | list }}"

- name: Ask why a source gets what it gets
  stowage.backup.plan_info:
    why: web1.example.org:www
  register: www
"""

RETURN = r"""
night:
  description: The day on which the night begins. A night goes from noon to noon by the clock of the backup server.
  returned: success
  type: str
  sample: "2026-11-23"
plan:
  description:
    - Client, source, level, reason, expected bytes and seconds of each source that is dumped, in their order.
    - Also the days on which its next full is due and planned.
  returned: success
  type: list
  elements: dict
given_up:
  description: What does not fit tonight, with C(client), C(source), C(what), C(why) and C(until).
  returned: success
  type: list
  elements: dict
absent:
  description: Clients that count as away.
  returned: success
  type: list
  elements: str
forecast:
  description: The coming nights with expected C(bytes) and C(seconds), bytes by C(targets), and the C(fulls).
  returned: success
  type: list
  elements: dict
first_fulls:
  description: How many C(sources) wait for their first full dump, and over how many C(nights) these spread.
  returned: success
  type: dict
estimates:
  description: How far estimates were off, as a share (C(error)), and what could not be estimated (C(notes)).
  returned: success
  type: dict
why:
  description: What there is to say about each source that O(why) names, as a list of sentences.
  returned: when O(why) is set
  type: dict
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
  sample: [stowage run]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine

SAME = ("night", "given_up", "absent", "forecast", "first_fulls", "estimates", "status", "next")


def command(params):
    """The words for the engine."""
    words = ["plan"]
    for client in params["clients"]:
        words.append("--client=" + client)
    for source in params["sources"]:
        words.append("--source=" + source)
    if params["level"] is not None:
        words.append("--level=%d" % params["level"])
    if params["why"] is not None:
        words.append("--why=" + params["why"])
    if params["estimate"] != "none":
        words.append("--estimate=" + params["estimate"])
    return words


def main():
    spec = _engine.argument_spec()
    spec.update(
        clients={"type": "list", "elements": "str", "default": []},
        sources={"type": "list", "elements": "str", "default": []},
        level={"type": "int"},
        why={"type": "str"},
        estimate={"type": "str", "choices": ["none", "new", "all"], "default": "none"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        answer = _engine.call(module, command(module.params))
    except _engine.EngineError as error:
        _engine.fail(module, error)
    result = {key: answer[key] for key in SAME}
    result["plan"] = answer["sources"]
    if module.params["why"] is not None:
        result["why"] = answer["why"]
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
