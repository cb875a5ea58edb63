"""The directory target: the conformance suite, and what is special about a folder."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backupcore.hookspecs import TargetContext, TargetError
from pydantic import ValidationError

from backupcore.targets import directory
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget
from backupcore.testing.targets import TargetConformance

SERVER = "0123456789abcdef"


def opened(root, state, **options):
    return DirectoryTarget(DirectoryOptions(path=root, **options), TargetContext("nas", SERVER, Path(state)))


@pytest.fixture
def place(tmp_path):
    root = tmp_path / "nas"
    root.mkdir()
    return root


@pytest.fixture
def target(place, tmp_path):
    return opened(place, tmp_path / "state")


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "local"
    path.write_bytes(b"content")
    return path


class TestDirectory(TargetConformance):
    driver = directory.DRIVER

    @pytest.fixture
    def target(self, place, tmp_path):
        return opened(place, tmp_path / "state")

    @pytest.fixture
    def plant(self, place):
        return lambda name, content: planted(os.fsencode(place) + b"/" + name, content)

    @pytest.fixture
    def again(self, place, tmp_path):
        return lambda: opened(place, tmp_path / "state")


def planted(path, content):
    with open(path, "wb") as file:
        file.write(content)


def everything_below(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_files_are_0600_and_folders_0700(target, place, local):
    target.put("client/source/file", local)
    assert (place / "client/source/file").stat().st_mode & 0o7777 == 0o600
    assert (place / "client/source").stat().st_mode & 0o7777 == 0o700
    assert (place / "client").stat().st_mode & 0o7777 == 0o700


def test_the_folder_is_made_at_the_first_use_only(tmp_path, local):
    root = tmp_path / "new"
    target = opened(root, tmp_path / "state")
    assert target.stat("x") is None and list(target.list()) == []
    assert not root.exists()
    target.put("x", local)
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
    with pytest.raises(TargetError, match="is not there") as error:
        target.put("x", local)
    assert "mounted" in error.value.hint


def test_a_folder_whose_parent_is_missing_is_refused(tmp_path, local):
    with pytest.raises(TargetError):
        opened(tmp_path / "no/such", tmp_path / "state").put("x", local)
    assert not (tmp_path / "no").exists()


def test_an_unmounted_mount_point_is_refused(target, place, local):
    target.put("x", local)
    away = place.with_name("away")
    place.rename(away)
    place.mkdir()  # the bare mount point
    for action in (
        lambda: target.put("y", local),
        lambda: target.stat("x"),
        lambda: list(target.list()),
        lambda: target.delete("x"),
    ):
        with pytest.raises(TargetError, match="mounted"):
            action()
    assert os.listdir(place) == []
    place.rmdir()
    away.rename(place)
    target.put("y", local)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_mount_true_wants_a_mounted_file_system(disk_path, local):
    point = disk_path / "mnt"
    point.mkdir()
    target = opened(point / "stowage", disk_path / "state", mount=True)
    with pytest.raises(TargetError, match="not on a mounted"):
        target.put("x", local)
    assert os.listdir(point) == []
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point], check=True)
    try:
        target.put("x", local)
        assert target.stat("x").size == 7
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path):
    point = tmp_path / "mnt"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point], check=True)
    try:
        target = opened(point, tmp_path / "state")
        big = tmp_path / "big"
        big.write_bytes(bytes(2_000_000))
        with pytest.raises(TargetError, match="No space left") as error:
            target.put("a/big", big)
        assert "room" in error.value.hint
        assert everything_below(point) == []
        small = tmp_path / "small"
        small.write_bytes(bytes(500_000))
        target.put("a/small", small)  # what the half file took is free again
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_file_system_is_told(tmp_path, local):
    point = tmp_path / "mnt"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point], check=True)
    try:
        target = opened(point, tmp_path / "state")
        target.put("x", local)
        subprocess.run(["mount", "-o", "remount,ro", point], check=True)
        with pytest.raises(TargetError, match="Read-only") as error:
            target.put("y", local)
        assert error.value.hint == "mount it read-write"
        with pytest.raises(TargetError, match="Read-only"):
            target.delete("x")
        assert b"".join(target.read("x")) == b"content"
        assert any(not finding.ok for finding in target.probe())
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.parametrize("link", ["client", "client/source", "client/source/file"])
def test_no_link_below_the_root_is_followed(target, place, tmp_path, local, link):
    outside = tmp_path / "outside"
    (outside / "source").mkdir(parents=True)
    (outside / "file").write_bytes(b"secret")
    (outside / "source/file").write_bytes(b"secret")
    target.put("other", local)
    at = place / link
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to({"client": outside, "client/source": outside / "source"}.get(link, outside / "file"))
    before = everything_below(outside)
    name = "client/source/file"
    with pytest.raises(TargetError):
        b"".join(target.read(name))
    assert [found.name for found in target.list("client")] == []
    if link != name:  # a link in the file's own place is replaced by the rename, never written through
        with pytest.raises(TargetError):
            target.put(name, local)
        with pytest.raises(TargetError):
            target.delete(name)
    else:
        target.put(name, local)
        assert not at.is_symlink()
    assert everything_below(outside) == before
    assert (outside / "file").read_bytes() == b"secret"


KILLED = """
import sys, time
from pathlib import Path
from backupcore.hookspecs import TargetContext
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget
root, state, path = sys.argv[1:]
target = DirectoryTarget(DirectoryOptions(path=root), TargetContext("nas", "0123456789abcdef", Path(state)))
target.put("client/file", Path(path), progress=lambda count: (print(count, flush=True), time.sleep(60)))
"""


def test_a_killed_put_leaves_only_what_clean_removes(target, place, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(bytes(3 << 20))
    command = [sys.executable, "-c", KILLED, place, tmp_path / "state", path]
    with subprocess.Popen(command, cwd=Path(__file__).parents[4], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"1048576\n"
        assert target.clean(time.time_ns() - 3600 * 10**9) == 0, "a young one may belong to a live put"
        child.kill()
    (left,) = everything_below(place)
    assert target.stat("client/file") is None
    assert [found.name for found in target.list()] == []
    # a copy of it that no note tells of, as versions before notes left them
    unknown = place / ".stowage/incoming" / "0123456789abcdef" / secrets.token_hex(8)
    unknown.write_bytes(b"")
    assert target.clean(time.time_ns() - 3600 * 10**9) == 1, "nobody is at it any more"
    assert everything_below(place) == [str(unknown.relative_to(place))] != [left]
    assert target.clean(time.time_ns() - 3600 * 10**9) == 0, "a young one may belong to a live put"
    assert target.clean(time.time_ns()) == 1
    assert everything_below(place) == []
    assert list((tmp_path / "state" / "streams").iterdir()) == []


def test_a_large_put_that_was_killed_is_removed_at_once_and_one_at_work_is_left(target, place, tmp_path):
    """A part of an image is gigabytes: it does not lie there for the week that a young file is given."""
    path = tmp_path / "big"
    path.write_bytes(bytes(12 << 20))
    seen = []

    def looked(_count):
        if not seen:
            seen.append(target.clean(0))

    target.put("client/whole", path, progress=looked)
    assert seen == [0] and target.stat("client/whole").size == 12 << 20
    command = [sys.executable, "-c", KILLED, place, tmp_path / "state", path]
    with subprocess.Popen(command, cwd=Path(__file__).parents[4], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"1048576\n"
        child.kill()
    assert target.clean(0) == 1 and target.clean(0) == 0
    assert not [one for one in (place / ".stowage/incoming").rglob("*") if one.is_file()]
    target.close()
    assert not list((tmp_path / "state").rglob("*.json"))


def test_clean_leaves_the_half_files_of_other_servers(target, place, local):
    target.put("x", local)
    other = place / ".stowage/incoming/fedcba9876543210"
    other.mkdir()
    (other / "half").write_bytes(b"x")
    assert target.clean(time.time_ns()) == 0
    assert (other / "half").exists()


def test_a_file_that_grows_while_it_is_copied_is_refused(target, tmp_path):
    path = tmp_path / "growing"
    path.write_bytes(bytes(1 << 20))

    def grow(_count):
        with open(path, "ab") as file:
            file.write(b"more")

    with pytest.raises(TargetError, match="changed while it was copied"):
        target.put("x", path, progress=grow)
    assert target.stat("x") is None


def test_without_hard_links_a_look_protects(target, local, monkeypatch):
    def no_links(*_args, **_kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)  # as FAT and some CIFS servers do
    target.put("x", local, if_absent=True)
    assert not target.capabilities.overwrite_protection
    with pytest.raises(TargetError, match="already"):
        target.put("x", local, if_absent=True)


def test_delete_removes_emptied_folders_but_never_the_root_or_the_mark(target, place, local):
    target.put("client/source/dump/file", local)
    target.put("client/other", local)
    target.delete("client/source/dump/file")
    assert sorted(os.listdir(place)) == [".stowage", "client"]
    assert os.listdir(place / "client") == ["other"]
    target.delete("client/other")
    assert os.listdir(place) == [".stowage"]


def test_a_relative_path_and_an_unknown_option_are_refused():
    with pytest.raises(ValidationError, match="absolute"):
        DirectoryOptions(path="nas")
    with pytest.raises(ValidationError):
        DirectoryOptions(path="/nas", pth="x")


def test_probe_warns_when_the_place_is_on_the_systems_own_disk(target, place):
    same = os.stat(place).st_dev == os.stat("/").st_dev
    assert same == any(finding.name == "mount" and finding.warning for finding in target.probe())
