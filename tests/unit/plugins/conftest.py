"""The collection as ansible sees it, wherever the checkout lies: a scratch folder with a link to it."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def find_collection() -> None:
    """Makes `import ansible_collections.stowage.backup` find this checkout, and ansible its plugins."""
    top = Path(tempfile.mkdtemp(prefix="stowage-collection-"))
    atexit.register(shutil.rmtree, top, True)
    place = top / "ansible_collections" / "stowage"
    place.mkdir(parents=True)
    (place / "backup").symlink_to(ROOT, target_is_directory=True)
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(top)
    os.environ.setdefault("ANSIBLE_LOCAL_TEMP", str(top / "tmp"))
    from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

    if not any("ansible_collections" in name for name in sys.modules):
        _AnsibleCollectionFinder(paths=[str(top)], scan_sys_paths=False)._install()


find_collection()
