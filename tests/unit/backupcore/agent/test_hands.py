"""A small tree is dumped by the agent alone, without processes and threads; whatever dumps it, it comes whole."""

from __future__ import annotations

import gc
import os
import threading
from types import SimpleNamespace

import pytest
from agent_peer import Got, dump_here

from backupcore.agent import archive, attempt, hands, outbox


def open_files():
    """How many are open, none of them garbage of what ran before."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def made(monkeypatch):
    """(helpers that note what was asked for and make nothing, what was asked for, threads that an outbox started)."""
    asked, threads = [], []
    start = outbox.Outbox._start

    def starting(self):
        start(self)
        threads.extend(self._running)

    monkeypatch.setattr(archive, "SAFE_AGE", -1 << 62)
    monkeypatch.setattr(outbox.Outbox, "_start", starting)
    return SimpleNamespace(make=lambda maker: asked.append(maker)), asked, threads


def fill(tree, folders: int, files: int, size: int = 10) -> set:
    """A tree of so many folders of so many files; the paths of the files."""
    for folder in range(folders):
        (tree / f"d{folder}").mkdir(parents=True)
        for number in range(files):
            (tree / f"d{folder}" / f"f{number}").write_bytes(os.urandom(size))
    return {os.fsencode(f"d{folder}/f{number}") for folder in range(folders) for number in range(files)}


def files_of(got: Got) -> set:
    return {path for path, row in got.rows().items() if row.kind == "f"}


def test_a_small_tree_needs_no_processes_and_no_threads(made, tmp_path):
    helpers, asked, threads = made
    files = fill(tmp_path / "tree", 3, 20, 5000)
    full = dump_here(tmp_path / "tree", None, helpers)
    assert files_of(full) == files and full.done["files"] == 60
    (tmp_path / "tree/d1/f1").write_text("changed")
    assert files_of(dump_here(tmp_path / "tree", full, helpers)) == {b"d1/f1"}
    assert not asked and not threads


@pytest.mark.parametrize("folders, files", [(2, hands.NAMES // 2), (hands.FOLDERS, 0)])
def test_a_tree_of_many_names_or_folders_asks_for_a_crew_once_and_does_without(made, tmp_path, folders, files):
    helpers, asked, _threads = made
    found = fill(tmp_path / "tree", folders, files)
    found |= {b"zz/last"}
    (tmp_path / "tree/zz").mkdir()
    (tmp_path / "tree/zz/last").write_text("behind what was held")
    before = open_files()
    got = dump_here(tmp_path / "tree", None, helpers)
    assert len(asked) == 1 and files_of(got) == found
    assert [row.kind for row in got.entries()].count("d") == folders + 2
    assert open_files() <= before


def test_a_base_of_many_names_asks_for_a_scout(made, tmp_path, monkeypatch):
    helpers, asked, _threads = made
    fill(tmp_path / "tree", 4, 30)
    full = dump_here(tmp_path / "tree", None, helpers)
    monkeypatch.setattr(attempt, "SMALL", sum(map(len, full.state)))
    assert not dump_here(tmp_path / "tree", full, helpers).lines and not asked
    monkeypatch.setattr(attempt, "SMALL", sum(map(len, full.state)) - 1)
    again = dump_here(tmp_path / "tree", full, helpers)
    assert len(asked) == 1 and again.state == full.state and not again.lines


def test_many_bytes_are_compressed_by_threads_which_end_with_the_dump(made, tmp_path):
    helpers, _asked, threads = made
    files = fill(tmp_path / "tree", 1, 3, 5 << 20)
    got = dump_here(tmp_path / "tree", None, helpers)
    assert files_of(got) == files and len(got.frames) > 3
    assert len(threads) >= 2 and not any(map(threading.Thread.is_alive, threads))


def test_what_is_held_is_closed_when_the_dump_fails(made, tmp_path, monkeypatch):
    helpers, _asked, _threads = made
    fill(tmp_path / "tree", 20, 1)
    before = open_files()

    def fails(*_args):
        raise MemoryError

    monkeypatch.setattr(archive.Archive, "plain_files", fails)
    with pytest.raises(MemoryError):
        dump_here(tmp_path / "tree", None, helpers)
    assert open_files() <= before
