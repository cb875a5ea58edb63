"""A line that is cut in the middle of a dump, over a real ssh: the night itself goes on, and little is sent twice."""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path

import pytest
from dump_lab import PORT, Lab, Sshd, forced
from lineproxy import Line

from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys
from backupcore.settings import Policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_SPEC = importlib.util.spec_from_file_location("lab_tree", Path(__file__).parents[1] / "lab" / "tree.py")
tree_lab = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tree_lab)
MB = 10**6
HOST, WAY = "127.77.13.1", "127.77.13.2"


@pytest.fixture
def world(tmp_path):
    """(lab, begin): begin(tree, cuts, rate) puts a client behind a line; the Line."""
    lab = Lab(tmp_path)
    lab.make_key()
    made = []

    def begin(tree, cuts, rate=None):
        where = {"transport": "ssh", "address": WAY, "port": PORT, "user": "root"}
        client = lab.client("far", {"data": tree}, Policy("p"), **where)
        made.append(Sshd(lab, "far", HOST, forced(client)))
        line = Line((WAY, PORT), (HOST, PORT), cuts, rate)
        made.append(line)
        return line

    yield lab, begin
    for one in reversed(made):
        (one.close if isinstance(one, Line) else one.stop)()
    lab.catalog.close()


def fill(tree, size, files):
    """So many bytes that do not compress, in so many files."""
    chance = random.Random(size + files)
    for number in range(files):
        folder = tree / f"d{number // 500}"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"f{number}", "wb") as file:
            left = size // files
            while left:
                file.write(chance.randbytes(min(left, 1 << 20)))
                left -= min(left, 1 << 20)


def check(lab, tree, line, cuts, dest):
    """The dump is the tree; the share of its bytes that was sent twice."""
    result = lab.results["far:data"]
    assert result.ok and not result.warning, result
    assert len(line.passed) == len(cuts) + 1
    row = lab.latest("far", "data")
    check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
    lab.restore_by_hand("far", "data", dest)
    assert tree_lab.differences(tree_lab.snapshot(tree), tree_lab.snapshot(dest)) == []
    assert not list((lab.base / "holding/.incoming").rglob("*"))
    return (sum(line.passed) + sum(line.sent)) / row.stored_size - 1


@pytest.mark.parametrize("files", [pytest.param(1, marks=pytest.mark.slow), 600])
def test_a_line_that_is_cut_twice_brings_the_dump_in_one_night(world, tmp_path, files):
    lab, begin = world
    fill(tmp_path / "tree", 24 * MB, files)
    cuts = [15 * MB, 6 * MB]
    line = begin(tmp_path / "tree", cuts)
    lab.night()
    twice = check(lab, tmp_path / "tree", line, cuts, tmp_path / "out")
    assert twice < 0.30  # a frame of 4 MiB and one of 2, of 24 MB


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("files", [1, 20_000])
def test_8_mbit_cut_five_times_in_200_mb_sends_at_most_a_tenth_twice(world, tmp_path, files):
    lab, begin = world
    fill(tmp_path / "tree", 200 * MB, files)
    chance = random.Random(files)
    cuts = [chance.randrange(20 * MB, 38 * MB) for _ in range(5)]
    line = begin(tmp_path / "tree", cuts, 8 * MB / 8)
    lab.night()
    twice = check(lab, tmp_path / "tree", line, cuts, tmp_path / "out")
    print(f"{files} files: {100 * twice:.1f} % sent twice")
    assert twice <= 0.10
