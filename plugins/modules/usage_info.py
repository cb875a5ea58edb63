#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: usage_info
short_description: Read what targets take, are asked for and cost
version_added: 0.1.0
description:
  - Returns bytes, files, requests, egress and money of a month, by target, client or source.
  - Foresees this month and the next to their ends, as things are and under another configuration.
  - No target and no client is contacted.
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
  month:
    description: The month, as V(2026-11); the present one when it is not said.
    type: str
  by:
    description: What there is a row for.
    type: str
    choices: [target, client, source]
    default: target
  forecast:
    description: Whether this month and the next are foreseen; not together with O(month).
    type: bool
    default: false
  what_if:
    description:
      - A file on the backup server whose configuration is tried out, and what it would change is foreseen.
      - A whole configuration, or some keys that are laid over the present one. Not together with O(month).
    type: path
seealso:
  - module: stowage.backup.plan_info
"""

EXAMPLES = r"""
- name: Read what this month costs so far
  stowage.backup.usage_info:
  register: usage

- name: Fail when next month is expected to cost too much
  stowage.backup.usage_info:
    forecast: true
  register: usage
  failed_when: usage.forecast.next.total.get('$', 0) > 500

- name: See what a policy would change
  stowage.backup.usage_info:
    what_if: /etc/stowage/weekly-to-the-cloud.yml
  register: tried
"""

RETURN = r"""
month:
  description: The month that is told, by UTC.
  returned: success
  type: str
  sample: 2026-11
so_far:
  description: Whether the month still lasts.
  returned: success
  type: bool
by:
  description: What there is a row for.
  returned: success
  type: str
  sample: target
rows:
  description:
    - The most expensive first. C(bytes), C(objects) and C(copies) there at the end of the month or now, bytes that
      C(came), C(mean_bytes) over the month, C(requests) (C(write), C(read), C(delete)), C(sent), C(egress), C(woken).
    - Also C(cost) by currency (C(storage), C(early), C(requests), C(read), C(woken), C(total)), C(unpriced) targets.
  returned: success
  type: list
  elements: dict
total:
  description: Money by currency.
  returned: success
  type: dict
  sample: {"$": 12.34}
unpriced:
  description: Targets whose price nobody knows.
  returned: success
  type: list
  elements: str
prices:
  description: The price list of each target, C(price:) where somebody wrote it, nothing where no price is known.
  returned: success
  type: dict
forecast:
  description: C(this) month and the C(next) to their ends, by target, and how many C(dumps) are expected.
  returned: when O(forecast) or O(what_if) is set
  type: dict
what_if:
  description: The same under the configuration of O(what_if), and what C(changes) by month and target.
  returned: when O(what_if) is set
  type: dict
status:
  description: V(ok).
  returned: success
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: success
  type: list
  elements: str
  sample: [stowage usage --forecast]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine

SAME = ("month", "so_far", "by", "rows", "total", "unpriced", "prices", "status", "next")
MAYBE = ("forecast", "what_if")


def command(params):
    """The words for the engine."""
    words = ["usage", "--by=" + params["by"]]
    if params["month"] is not None:
        words.append("--month=" + params["month"])
    if params["forecast"]:
        words.append("--forecast")
    if params["what_if"] is not None:
        words.append("--what-if=" + params["what_if"])
    return words


def main():
    spec = _engine.argument_spec()
    spec.update(
        month={"type": "str"},
        by={"type": "str", "choices": ["target", "client", "source"], "default": "target"},
        forecast={"type": "bool", "default": False},
        what_if={"type": "path"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        answer = _engine.call(module, command(module.params))
    except _engine.EngineError as error:
        _engine.fail(module, error)
    result = {key: answer[key] for key in SAME}
    result.update((key, answer[key]) for key in MAYBE if key in answer)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
