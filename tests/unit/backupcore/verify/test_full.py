"""Reading a whole copy: whatever is changed in it is found, and what is wrong is told from what is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from maker import Maker, Node, folder_node

from backupcore.errors import StowageError
from backupcore.image.copies import FolderCopy
from backupcore.image.manifest import load_public_keys
from backupcore.verify import full, head
from backupcore.verify.verdict import Verdict


def look(maker, row, ring=None, keys=None, kind="full"):
    verdict = Verdict(row, "holding", kind)
    copy = FolderCopy(row.holding, "holding")
    known = load_public_keys(maker.settings.keys) if keys is None else keys
    if kind == "quick":
        head.check(copy, verdict, known, {})
    else:
        full.check(copy, verdict, known, {}, ring, maker.settings.state, lambda _count: None)
    return verdict


@pytest.mark.parametrize("compress", ["zstd", "gzip", "none"])
def test_a_copy_that_is_right_is_read_once_and_all_of_it_is_good(maker, tree, compress):
    row = maker.dump(tree, compress=compress)
    files = {path.name: path.stat().st_size for path in Path(row.holding).iterdir()}
    assert len(files) >= 7
    verdict = look(maker, row)
    assert verdict.ok and verdict.notes == [] and verdict.message() == ""
    assert set(verdict.good) == set(files)
    assert verdict.bytes == sum(files.values())


def test_an_incremental_with_folders_written_twice_and_others_gone(maker, tree):
    maker.dump(tree)
    later = {path: node for path, node in tree.items() if not path.startswith(b"d")}
    later[b"d"] = Node("f", b"no folder any more")
    later[b"e/f/new"] = Node("f", b"new" * 3000)
    row = maker.dump(later, level=1)
    verdict = look(maker, row)
    assert verdict.ok, verdict.message()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp("made") / "server", frame=2000, part=1500)
    tree = {b".": folder_node(), b"a": Node("f", bytes(range(256)) * 50), b"d": folder_node(), b"d/e": Node("f", b"e")}
    row = maker.dump(tree)
    yield maker, row, {path.name: path.read_bytes() for path in sorted(Path(row.holding).iterdir())}
    maker.close()


@settings(max_examples=150, deadline=None)
@given(data=some.data())
def test_any_bit_that_flips_and_any_file_that_is_cut_is_damage_of_that_file(made, data):
    maker, row, files = made
    name = data.draw(some.sampled_from(sorted(files)))
    content = bytearray(files[name])
    how = data.draw(some.sampled_from(["flip", "cut", "longer", "gone"]))
    if how == "flip":
        content[data.draw(some.integers(0, len(content) - 1))] ^= 1 << data.draw(some.integers(0, 7))
    elif how == "cut":
        del content[data.draw(some.integers(0, len(content) - 1)) :]
    elif how == "longer":
        content += b"\0"
    path = Path(row.holding) / name
    try:
        path.unlink()
        if how != "gone":
            path.write_bytes(content)
        verdict = look(maker, row)
    finally:
        path.write_bytes(files[name])
    assert set(verdict.damage) == {name}
    assert not verdict.wrong
    assert name not in verdict.good
    if name != "manifest.json":
        assert set(verdict.good) == set(files) - {name}  # what is good is known: only the bad file is made anew


def test_frames_that_changed_places_are_damage(made):
    maker, row, files = made
    path = Path(row.holding) / "image-0000.tar.zst"
    content = files[path.name]
    try:
        path.write_bytes(content[len(content) // 2 :] + content[: len(content) // 2])
        assert set(look(maker, row).damage) == {path.name}
    finally:
        path.write_bytes(content)


def test_the_image_of_another_dump_is_damage(maker, tree):
    first, second = maker.dump(tree), maker.dump(tree)
    for path in Path(first.holding).iterdir():
        (Path(second.holding) / path.name).write_bytes(path.read_bytes())
    assert set(look(maker, second).damage) == {"manifest.json"}


def test_a_folder_that_is_gone_is_damage_and_says_so(maker, tree):
    row = maker.dump(tree)
    for path in Path(row.holding).iterdir():
        path.unlink()
    Path(row.holding).rmdir()
    assert look(maker, row).damage == {"manifest.json": "it is gone"}


def test_a_signer_that_is_not_trusted_any_more_is_no_damage(made):
    maker, row, _files = made
    with pytest.raises(StowageError, match="not trusted here"):
        look(maker, row, keys={})


def test_a_quick_look_finds_sizes_and_small_files_and_reads_no_part(made):
    maker, row, files = made
    verdict = look(maker, row, kind="quick")
    assert verdict.ok and verdict.bytes < sum(map(len, files.values()))
    assert set(verdict.good) == {"manifest.json", "manifest.sig", "SHA256SUMS", "RESTORE.txt"}
    path = Path(row.holding) / "image-0001.tar.zst"
    try:
        path.write_bytes(files[path.name][:-1])
        assert set(look(maker, row, kind="quick").damage) == {path.name}
    finally:
        path.write_bytes(files[path.name])


@pytest.mark.parametrize("kind", ["quick", "full"])
def test_what_somebody_put_beside_an_image_is_named_and_no_damage(made, kind):
    maker, row, _files = made
    folder = Path(row.holding)
    planted = ["image-0099.tar.zst", "keys.tsv", "keys-2.tsv", "note", "sub/", "link"]
    try:
        for name in planted[:4]:
            (folder / name).write_bytes(b"x")
        (folder / "sub").mkdir()
        (folder / "link").symlink_to("note")
        verdict = look(maker, row, kind=kind)
        assert verdict.ok and not verdict.notes
        assert sorted(verdict.strays) == sorted(planted)
    finally:
        (folder / "sub").rmdir()
        for name in [*planted[:4], "link"]:
            (folder / name).unlink()
    assert not look(maker, row, kind=kind).strays
