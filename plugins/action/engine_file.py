# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Puts the engine's wheel or agent.pyz on a machine.

A built collection ships both inside the roles; in a git checkout they are built here, on the controller,
each time, so that what a checkout rolls out is what stands in it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.stowage.backup.plugins.plugin_utils._wheel import build_wheel

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHIPPED = {
    "wheel": os.path.join("roles", "backup_server", "files", "stowage_backup-*-py3-none-any.whl"),
    "agent": os.path.join("roles", "backup_client", "files", "agent.pyz"),
}


def is_checkout(root: str) -> bool:
    """Whether the sources of the engine stand beside the collection, which ansible-galaxy did not install."""
    return os.path.isdir(os.path.join(root, "backupcore")) and not os.path.exists(os.path.join(root, "MANIFEST.json"))


def build(what: str, root: str, folder: str) -> str:
    """Builds wheel or agent of a checkout into folder; returns its path. Raises ValueError with one line."""
    if what == "wheel":
        return build_wheel(root, folder)
    path = os.path.join(folder, "agent.pyz")
    done = subprocess.run(
        [sys.executable, "-B", "-m", "backupcore.app.agent_build", path],
        cwd=root, env=dict(os.environ, PYTHONPATH=root), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ValueError("agent.pyz was not built: %s" % (done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return path


def find(what: str, root: str, folder: str) -> str:
    """The path of wheel or agent on the controller, built into folder when there is a checkout."""
    if is_checkout(root):
        return build(what, root, folder)
    shipped = sorted(glob.glob(os.path.join(root, SHIPPED[what])))
    if len(shipped) != 1:
        raise ValueError(
            "the collection holds %s %s; install a release of stowage.backup, or build one by 'make build'"
            % ("no" if not shipped else "more than one", "engine wheel" if what == "wheel" else "agent.pyz")
        )
    return shipped[0]


class ActionModule(ActionBase):
    _supports_check_mode = True
    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        del tmp
        dummy, args = self.validate_argument_spec(
            {
                "what": {"type": "str", "required": True, "choices": ["wheel", "agent"]},
                "dest": {"type": "path", "required": True},
                "mode": {"type": "raw", "default": "0644"},
                "owner": {"type": "str", "default": "root"},
                "group": {"type": "str", "default": "root"},
            }
        )
        work = tempfile.mkdtemp(prefix="stowage-")
        try:
            try:
                path = find(args["what"], ROOT, work)
            except (OSError, ValueError, KeyError) as error:
                raise AnsibleActionFail(str(error)) from error
            with open(path, "rb") as stream:
                digest = hashlib.sha256(stream.read()).hexdigest()
            dest = args["dest"]
            if args["what"] == "wheel":
                dest = os.path.join(dest, os.path.basename(path))
            # The action plugin of the copy module does checksum, check mode, transfer and permissions.
            task = self._task.copy()
            task.args = {"src": path, "dest": dest, **{key: args[key] for key in ("mode", "owner", "group")}}
            task.diff = False  # a zip tells people nothing
            copy = self._shared_loader_obj.action_loader.get(
                "ansible.legacy.copy",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            result.update(copy.run(task_vars=task_vars))
            result.update(path=dest, sha256=digest)
            result.pop("diff", None)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return result
