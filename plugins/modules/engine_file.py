#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_file
short_description: Put the engine's wheel or the client's agent on a machine
version_added: 0.1.0
description:
  - Transfers the wheel of the engine or C(agent.pyz), as the collection ships them.
  - In a git checkout both are built on the controller, byte-reproducible, with nothing but Python's standard library.
  - The roles use it; there is little reason to call it yourself.
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  action:
    support: full
  async:
    support: none
  bypass_host_loop:
    support: none
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  what:
    description: Which of the two files.
    type: str
    required: true
    choices: [wheel, agent]
  dest:
    description:
      - For O(what=wheel) a directory on the target, since a wheel's name tells its version.
      - For O(what=agent) the path of the file on the target.
    type: path
    required: true
  owner:
    description: The user that owns the file.
    type: str
    default: root
  group:
    description: The group that owns the file.
    type: str
    default: root
  mode:
    description: The permissions of the file.
    type: raw
    default: '0644'
"""

EXAMPLES = r"""
- name: Put the agent on a client
  stowage.backup.engine_file:
    what: agent
    dest: /usr/local/lib/stowage/agent.pyz
"""

RETURN = r"""
path:
  description: Path of the file on the target.
  returned: success
  type: str
  sample: /opt/stowage/wheels/stowage_backup-0.1.0-py3-none-any.whl
sha256:
  description: The file's checksum; the same sources give the same one.
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""
# This is a virtual module that is entirely implemented as an action plugin and runs on the controller.
