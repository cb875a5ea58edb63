"""A server whose images are made from trees in memory, as for the tests of restores."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "restore"))
sys.path.insert(0, str(Path(__file__).parents[3] / "lab"))
from maker import MEMORY, Maker, Node, folder_node  # noqa: E402


@pytest.fixture
def maker():
    base = Path(tempfile.mkdtemp(prefix="stowage-test-", dir=MEMORY))
    made = Maker(base / "server", frame=2000, part=6000)
    yield made
    made.close()
    shutil.rmtree(base)


@pytest.fixture
def tree():
    """Some of everything: two parts and more, holes, links, a folder that is not dumped."""
    linked = Node("f", b"linked " * 50)
    return {
        b".": folder_node(), b"a": Node("f", bytes(range(256)) * 40), b"b": Node("l", link=b"a"), b"c": linked,
        b"d": folder_node(), b"d/c": linked, b"d/pipe": Node("p"), b"d/x": Node("f", b""),
        b"e": folder_node(), b"e/f": folder_node(), b"e/f/g": Node("f", b"deep" * 900, xattrs={b"user.a": b"b"}),
        b"n": Node("n", link=b"socket"),
        b"z": Node("f", b"A" * 512 + b"B" * 512, sparse=[(0, 512), (512, 512)]),
    }  # fmt: skip
