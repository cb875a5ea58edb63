"""The command that the role installs: who it goes on as, by what was typed."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jinja2
import pytest

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / "roles/backup_server/templates/stowage.sh.j2"


@pytest.fixture
def wrapper(tmp_path):
    """The script, with an engine that says who it is."""
    environment = jinja2.Environment()
    environment.filters["quote"] = lambda word: f"'{word}'"
    (tmp_path / "bin").mkdir()
    engine = tmp_path / "bin/stowage"
    engine.write_text('#!/bin/sh\nid -u; echo "$@"\n')
    engine.chmod(0o755)
    for parent in (tmp_path, *tmp_path.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    script = tmp_path / "stowage"
    script.write_text(environment.from_string(TEMPLATE.read_text()).render(
        backup_server_home=str(tmp_path), backup_server_config_folder="/etc/stowage", backup_server_user="nobody",
        backup_server_group="nogroup", backup_server_state_folder="/var/lib/stowage",
    ))  # fmt: skip
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(("words", "root"), (
    ("run", False), ("target test nas", False), ("target list", False), ("--json target test add", False),
    ("restore web1:/etc", False), ("restore web1:/etc --to web2:/srv", False), ("plan target add", False),
    ("target add cloud", True), ("--json --config /x target --json add cloud", True),
    ("restore web1:/etc --to /srv", True), ("simulate scenario", True),
))  # fmt: skip
def test_root_stays_root_only_where_files_are_its_own(wrapper, words, root):
    assert os.geteuid() == 0  # the suite runs as root
    said = subprocess.run([str(wrapper), *words.split()], capture_output=True, text=True, check=True).stdout.split("\n")
    assert (said[0] == "0") is root
    assert said[1] == f"--config /etc/stowage/stowage.yml {words}"
