"""A server whose images are made from trees in memory."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from maker import MEMORY, Maker  # noqa: E402


@pytest.fixture
def maker():
    base = Path(tempfile.mkdtemp(prefix="stowage-test-", dir=MEMORY))
    made = Maker(base / "server")
    yield made
    made.close()
    shutil.rmtree(base)
