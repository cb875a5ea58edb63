"""The locks beside that of a run: one at a time, and a killed owner holds nothing."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from backupcore.errors import Busy

HOLD = """
import pathlib, sys, types
state = pathlib.Path(sys.argv[1])
settings = types.SimpleNamespace(state=state, keys=state / "keys")
{code}
with lock:
    print("held", flush=True); sys.stdin.readline()
"""
LOCKS = {
    "drill": "from backupcore.app import drilling; lock = drilling._alone(settings)",
    "key rewrap": "from backupcore.app import keys; lock = keys._alone(settings)",
    "key changes": "from backupcore.keys import store; lock = store.changing(settings.keys)",
    "search": "from backupcore.search import store; lock = store.lock(settings.state, False)",
}


def take(code, state):
    """Whether it could be had."""
    known = {"settings": SimpleNamespace(state=state, keys=state / "keys")}
    exec(code, known)
    try:
        with known["lock"] as mine:
            return mine is not False  # search goes without, and comes again
    except Busy:
        return False


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_held_by_one_and_ends_with_him(tmp_path, name):
    state = tmp_path / "state"
    assert take(LOCKS[name], state)
    other = subprocess.Popen([sys.executable, "-c", HOLD.format(code=LOCKS[name]), str(state)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert other.stdout.readline() == "held\n"
        assert not take(LOCKS[name], state)
        other.kill()
        other.wait(60)
        assert take(LOCKS[name], state)
    finally:
        other.kill()
        other.communicate(timeout=60)
