"""The process beside a dump of a source with scripts: what it ends when the agent was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

KILLED_AT_ONCE = """
import os, subprocess, sys, time
from backupcore.agent import keeper

keep = keeper._keep

def late(*words):
    while os.getppid() == agent:
        time.sleep(0.01)
    keep(*words)

keeper._keep = late
os.setsid()
agent = os.getpid()
keeper.Keeper(lambda: open(sys.argv[1], "w").close())
print(subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL).pid, flush=True)
os.kill(agent, 9)
"""


def test_an_agent_that_is_killed_before_its_keeper_has_its_turn_leaves_no_script(tmp_path):
    mark = tmp_path / "after"
    words = [sys.executable, "-c", KILLED_AT_ONCE, str(mark)]
    done = subprocess.run(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[4], timeout=60)
    script, until = int(done.stdout), time.monotonic() + 60
    try:
        while _lives(script) or not mark.exists():
            assert time.monotonic() < until, (_lives(script), mark.exists())
            time.sleep(0.02)
    finally:
        if _lives(script):
            os.kill(script, 9)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
