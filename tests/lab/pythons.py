"""Other Pythons on this machine, for what must run on clients. Finds them; installs none."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from typing import Optional


def find(version: str) -> Optional[str]:
    """A working interpreter of a version such as 3.8: on PATH, or of pyenv; None when there is none.

    A version manager's shim may exist and not run, so it is tried.
    """
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    places = [shutil.which("python" + version), *sorted(glob.glob(f"{root}/versions/{version}.*/bin/python"))]
    for place in places:
        if place and subprocess.run([place, "-c", ""], capture_output=True).returncode == 0:
            return place
    return None


def require(version: str) -> str:
    """The same; fails loudly when there is none, since a skip would hide what was not tried."""
    found = find(version)
    assert found, f"no Python {version} on this machine: install it (pyenv install {version}) to run this test"
    return found
