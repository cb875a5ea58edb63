"""The collection as it ships, installed into a scratch folder without all that it may not use, and hosts to use it on.

Here live building, installing and running playbooks; what is expected of them stands in the tests.
"""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "tests" / "lab"))
import hosts  # noqa: E402

CALLABLE = {"meta", "plugins", "roles", "playbooks"}


class Played:
    """What a playbook said and did."""

    def __init__(self, done: subprocess.CompletedProcess):
        self.status = done.returncode
        self.text = done.stdout + done.stderr
        self.recap = {
            host: {key: int(count) for key, count in re.findall(r"(\w+)=(\d+)", rest)}
            for host, rest in re.findall(r"^(\S+)\s+: (ok=.*)$", done.stdout, re.MULTILINE)
        }

    def changed(self) -> int:
        """How many tasks changed something, over all hosts."""
        return sum(one["changed"] for one in self.recap.values())

    def said(self, words: str) -> str:
        """The line of a message that holds words; '' when none does."""
        return next((line for line in self.text.splitlines() if words in line), "")


class Lab:
    """Hosts of one scratch folder and the collection beside them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.collections = folder / "collections"

    def install(self) -> None:
        """Builds the collection and installs it; whatever is not callable is deleted after."""
        subprocess.run([sys.executable, str(ROOT / "tests/build.py"), str(self.folder / "dist")], check=True, cwd=ROOT,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        (tarball,) = (self.folder / "dist").glob("stowage-backup-*.tar.gz")
        subprocess.run(
            [str(BIN / "ansible-galaxy"), "collection", "install", "--force", "--offline", str(tarball),
             "-p", str(self.collections)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for path in (self.collections / "ansible_collections/stowage/backup").iterdir():
            if path.name not in CALLABLE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / "ansible.cfg").write_text(
            "[defaults]\nforks = 4\ndeprecation_warnings = false\n[ssh_connection]\npipelining = true\n"
        )

    def write_inventory(self, server: str, clients: dict, **server_vars: object) -> None:
        """One backup server and clients with their variables."""
        connect = hosts.inventory(self.folder)
        listed = {name: {**connect[name], **(more or {})} for name, more in clients.items()}
        content = {
            "all": {
                "children": {
                    "backup_server": {"hosts": {server: connect[server]}, "vars": server_vars},
                    "backup_clients": {"hosts": listed},
                }
            }
        }
        (self.folder / "inventory.yml").write_text(yaml.safe_dump(content))

    def play(self, name: str, *words: str, **extra: object) -> Played:
        """Runs a playbook of the collection with extra variables."""
        return Played(subprocess.run(**self._playbook(name, words, extra), capture_output=True, text=True, check=False))

    def start(self, name: str, *words: str, **extra: object) -> subprocess.Popen:
        """Starts a playbook whose output nobody wants."""
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(**self._playbook(name, words, extra), **nothing)

    def _playbook(self, name: str, words: tuple, extra: dict) -> dict:
        inventory = str(self.folder / "inventory.yml")
        command = [str(BIN / "ansible-playbook"), "-i", inventory, f"stowage.backup.{name}", *words]
        if extra:
            command += ["-e", json.dumps(extra)]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
        }
        return {"args": command, "cwd": self.folder, "env": environment}

    def root(self, host: str) -> Path:
        """A host's root folder as seen from outside."""
        return Path(f"/proc/{hosts.inner_pid(self.folder, host)}/root")

    def on(self, host: str, script: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs a shell script on a host as root."""
        return subprocess.run(
            [*hosts.enter(self.folder, host), "sh", "-c", script], capture_output=True, text=True, check=check
        )

    def stowage(self, host: str, *words: str) -> dict:
        """The engine's answer on the server, asked as root asks it."""
        done = subprocess.run(
            [*hosts.enter(self.folder, host), "/usr/local/bin/stowage", "--json", *words],
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)
