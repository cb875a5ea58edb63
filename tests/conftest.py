"""For all tests: a scratch folder of their own that is removed by rm, since hostile trees are too deep for others."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if config.option.basetemp is None:
        folder = tempfile.mkdtemp(prefix="stowage-tests-")
        Path(folder).chmod(0o755)  # some tests run as another user
        config.option.basetemp = Path(folder) / "t"
        config.add_cleanup(lambda: subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False))
