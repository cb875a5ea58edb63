"""Walk order: the key against a recursive walk, and what GNU tar makes of another order."""

from __future__ import annotations

import os
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from backupcore.image import order, pax

names = st.binary(min_size=1, max_size=3).filter(lambda name: not set(name) & {0, 0x2F} and name not in (b".", b".."))
trees = st.recursive(st.none(), lambda below: st.dictionaries(names, below, max_size=4), max_leaves=20)


def walk(tree, path=order.ROOT):
    """(path, whether a folder) in walk order, by recursion: the definition."""
    yield path, True
    below = [(name if path == order.ROOT else path + b"/" + name, tree[name]) for name in sorted(tree)]
    for name, content in below:
        if content is None:
            yield name, False
    for name, content in below:
        if content is not None:
            yield from walk(content, name)


@given(st.dictionaries(names, trees, max_size=5))
def test_sorting_by_key_is_the_walk(tree):
    expected = list(walk(tree))

    assert sorted(expected, key=lambda one: order.key(*one)) == expected
    assert len({order.key(*one) for one in expected}) == len(expected)


def test_names_with_small_bytes_stay_behind_what_is_in_the_folder():
    assert order.key(b"a/x", False) < order.key(b"a\x01", True) < order.key(b"a-b", True)
    assert order.key(b"a-b", False) < order.key(b"a", True)


def test_member_names_and_paths():
    for path, is_dir, name in ((b".", True, b"./"), (b"a/b", True, b"./a/b/"), (b"a/b", False, b"./a/b")):
        assert order.member_name(path, is_dir) == name
        assert order.index_path(name) == path


def test_tar_keeps_folder_times_in_walk_order_only(tmp_path):
    def mtime_after(paths):
        members = [
            pax.member(order.member_name(path, is_dir), "d" if is_dir else "f", 0o755, 0, 0, 0, 5 * 10**9)
            for path, is_dir in paths
        ]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        subprocess.run(["tar", "-xpf", "-", "-C", folder], input=b"".join(members) + pax.END, check=True)
        return os.stat(folder / "a").st_mtime

    whole_paths = [(b".", True), (b"a", True), (b"a-b", True), (b"a/x", False)]
    assert mtime_after(sorted(whole_paths, key=lambda one: order.key(*one))) == 5
    assert mtime_after(whole_paths) != 5  # the order of whole paths, which the format must not use
