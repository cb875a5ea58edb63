# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  engine:
    description:
      - The command C(stowage) on the backup server.
      - The one that the role P(stowage.backup.backup_server#role) installs goes on as the user C(stowage) by itself.
    type: path
    default: /usr/local/bin/stowage
  config:
    description:
      - The configuration of the backup server.
    type: path
    default: /etc/stowage/stowage.yml
requirements:
  - The engine of Stowage on the backup server, which the role P(stowage.backup.backup_server#role) installs.
"""
