"""A finished folder: what is written last, and what a check finds."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import replace

import pytest

from backupcore.errors import ImageDamaged
from backupcore.image import folder, layout
from backupcore.image.manifest import FileRecord, Link, Manifest, Signer

NAME = "20261122T170000Z-L0-00000001"


def record(path):
    data = path.read_bytes()
    return FileRecord(path.name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def made(tmp_path):
    """(folder, keys, draft, signer) of a finished dump."""
    path = tmp_path / NAME
    path.mkdir()
    for name in ("image-0000.tar.zst", "image-0001.tar.zst", "index.tsv.zst", "frames.tsv.zst"):
        (path / name).write_bytes(name.encode() * 100)
    draft = Manifest(
        server="0123456789abcdef", client="web1", source="etc", type="tree", path="/etc\x1b[31m", dump=NAME, level=0,
        counter=1, begun_ns=10**18, ended_ns=10**18 + 5, codec="zstd", archive_size=5, entries=1,
        parts=(record(path / "image-0000.tar.zst"), record(path / "image-0001.tar.zst")),
        index=record(path / "index.tsv.zst"), frames=record(path / "frames.tsv.zst"),
    )  # fmt: skip
    signer = Signer.make(tmp_path / "keys")
    return path, {signer.fingerprint: signer.public}, draft, signer


def test_a_finished_folder_passes_its_check(made):
    path, keys, draft, signer = made
    done = folder.finish(path, draft, signer)

    assert sorted(os.listdir(path)) == [
        "RESTORE.txt", "SHA256SUMS", "frames.tsv.zst", "image-0000.tar.zst", "image-0001.tar.zst", "index.tsv.zst",
        "manifest.json", "manifest.sig",
    ]  # fmt: skip
    assert folder.check_folder(path, keys) == folder.check_folder(path, keys, full=True) == done.manifest
    assert done.manifest_sha256 == hashlib.sha256((path / layout.MANIFEST).read_bytes()).hexdigest()
    assert done.manifest.signer == signer.fingerprint
    assert subprocess.run(["sha256sum", "-c", "--quiet", layout.SUMS], cwd=path).returncode == 0
    assert all(os.stat(path / name).st_mode & 0o077 == 0 for name in (layout.MANIFEST, layout.SUMS, layout.RESTORE))


def test_files_are_written_in_the_order_that_a_kill_may_cut(made, monkeypatch):
    """The signature last: a folder without it is no dump."""
    path, keys, draft, signer = made
    written = []
    monkeypatch.setattr(folder.files, "write_synced", lambda place, data: written.append(place.name))
    folder.finish(path, draft, signer)

    assert written == ["SHA256SUMS", "RESTORE.txt", "manifest.json", "manifest.sig"]


def test_nothing_is_overwritten(made):
    path, _keys, draft, signer = made
    folder.finish(path, draft, signer)
    with pytest.raises(FileExistsError):
        folder.finish(path, draft, signer)


def test_a_manifest_that_nobody_could_read_is_not_signed(made):
    path, _keys, draft, signer = made
    with pytest.raises(ImageDamaged):
        folder.finish(path, replace(draft, counter=0), signer)
    assert not (path / layout.MANIFEST).exists()


@pytest.mark.parametrize(
    "name", ["manifest.json", "manifest.sig", "SHA256SUMS", "RESTORE.txt", "image-0001.tar.zst", "index.tsv.zst"]
)
@pytest.mark.parametrize("how", ["gone", "cut", "longer", "empty", "folder", "link", "link of its size", "fifo"])
def test_a_file_that_is_not_as_written_is_found(made, name, how):
    path, keys, draft, signer = made
    folder.finish(path, draft, signer)
    victim = path / name
    data = victim.read_bytes()
    victim.unlink()
    if how == "folder":
        victim.mkdir()
    elif how == "link":
        (path.parent / "elsewhere").write_bytes(data)
        victim.symlink_to(path.parent / "elsewhere")
    elif how == "link of its size":
        victim.symlink_to("x" * len(data[:4000]))
    elif how == "fifo":
        os.mkfifo(victim)
    elif how != "gone":
        victim.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b""}[how])
    with pytest.raises(ImageDamaged, match=NAME):
        folder.check_folder(path, keys)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "SHA256SUMS", "RESTORE.txt", "image-0000.tar.zst"])
def test_a_changed_byte_is_found(made, name):
    path, keys, draft, signer = made
    folder.finish(path, draft, signer)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(ImageDamaged, match=NAME):
        folder.check_folder(path, keys, full=True)
    if name.startswith("image"):
        folder.check_folder(path, keys)  # the quick check looks at sizes only


def test_a_dump_under_another_name_is_found(made):
    path, keys, draft, signer = made
    folder.finish(path, draft, signer)
    path.rename(path.parent / NAME.replace("L0", "L1"))
    with pytest.raises(ImageDamaged, match="this is dump"):
        folder.check_folder(path.parent / NAME.replace("L0", "L1"), keys)


def test_restore_txt_says_what_it_is_and_carries_no_key(made):
    path, _keys, draft, signer = made
    folder.finish(path, draft, signer)
    text = (path / layout.RESTORE).read_text()

    assert "web1" in text and NAME in text and "2001-09-09T01:46:40Z" in text and "GNU tar" in text and "zstd" in text
    assert "\x1b" not in text, "text from outside is escaped"
    assert "KEY" not in text and signer.fingerprint not in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_restore_txt_of_an_incremental_names_its_chain_in_order(made):
    path, _keys, draft, signer = made
    bases = ["20261101T000000Z-L0-0000000a", "20261102T000000Z-L1-0000000b"]
    name = NAME.replace("L0", "L2")
    path = path.rename(path.parent / name)
    draft = replace(draft, dump=name, level=2, base=Link(bases[1], "ab" * 32))
    folder.finish(path, draft, signer, bases)
    text = (path / layout.RESTORE).read_text()

    assert "for dump in ../%s ../%s .; do" % tuple(bases) in text
    assert "for dump in . ../%s ../%s; do" % (bases[1], bases[0]) in text
