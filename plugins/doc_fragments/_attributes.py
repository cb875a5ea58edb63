# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
  diff_mode:
    description: Will return details on what has changed, or possibly needs changing in C(check_mode), in diff mode.
  async:
    description: Supports being used with the C(async) keyword.
"""

    ACTIONGROUP_BACKUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/stowage.backup.backup) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - stowage.backup.backup
"""
