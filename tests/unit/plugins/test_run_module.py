"""What the modules run and status_info ask is what the command line understands, and what they tell is documented."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import stat
import subprocess
import sys

import pytest
import yaml

pytest.importorskip("ansible.module_utils.basic")
from ansible_collections.stowage.backup.plugins.modules import run, status_info  # noqa: E402

from backupcore.cli import _main  # noqa: E402

ENGINE = """#!/bin/sh
case "$*" in
*status*) echo '{"schema": 1, "status": "ok", "next": [], "running": {"pid": 7}, "killed": null,'
          echo '"waiting": [{"pid": 8}]}' ;;
*) echo '{"schema": 1, "status": "ok", "next": ["stowage report"], "headline": "OK", "words": "'"$*"'"}' ;;
esac
"""


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "stowage"
    path.write_text(ENGINE)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def called(module, home, **params):
    """The result of the module as ansible would run it."""
    code = f"from {module.__name__} import main; main()"
    code = "import sys; sys.path.insert(0, 'tests/unit/plugins'); import conftest; " + code
    given = json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_remote_tmp": str(home), **params}})
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, timeout=120,
                          env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_what_is_asked_is_understood():
    words = run.words_of({"clients": ["web1", "web2"], "sources": ["etc"], "level": 0})
    args = _main.parser("run").parse_args(["run", "--join", *words])
    assert (args.client, args.source, args.level, args.join) == (["web1", "web2"], ["etc"], 0, True)


def test_join_reaches_the_engine(engine, tmp_path):
    for join in (False, True):
        result = called(run, tmp_path, engine=str(engine), config="/c.yml", join=join, progress=False)
        assert ("run --join" in result["report"]["words"]) is join, result


def test_status_info_tells_all_that_the_command_tells(engine, tmp_path):
    result = called(status_info, tmp_path, engine=str(engine), config="/c.yml")
    assert (result["running"], result["killed"], result["waiting"]) == ({"pid": 7}, None, [{"pid": 8}])
    known = set(yaml.safe_load(status_info.RETURN))
    assert set(result) - {"invocation", "changed"} == known
