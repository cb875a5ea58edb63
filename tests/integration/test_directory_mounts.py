"""The directory target on file systems that are mounted, away, others, read-only: real ones, in a mount namespace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import os, subprocess, sys
from pathlib import Path
from backupcore.hookspecs import TargetContext, TargetError
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget
base = Path(sys.argv[1])
point, local = base / "mnt", base / "local"
point.mkdir()
local.write_bytes(b"content")
def opened(state="state", **more):
    return DirectoryTarget(DirectoryOptions(path=point, **more), TargetContext("nas", "0123456789abcdef", base / state))
def sh(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
def disk(name):
    with open(base / name, "wb") as file:
        file.truncate(8 << 20)
    sh("mkfs.ext4", "-q", base / name)
def mount(name, *more):
    sh("mount", "-o", "loop", *more, base / name, point)
def umount():
    sh("umount", point)
def refused(*targets):
    told = set()
    for target in targets:
        for action in (lambda: target.put("y", local), lambda: target.stat("x"), lambda: list(target.list()),
                       lambda: target.delete("x"), lambda: b"".join(target.read("x")), lambda: target.clean(1)):
            try:
                action()
            except TargetError as error:
                assert "\\n" not in error.message and error.hint, error.message
                told.add(error.message.partition(str(point))[2].strip())
            else:
                raise AssertionError("not refused")
    assert not (point / "y").exists()
    assert len(told) == 1, told
    return told.pop()
"""


@pytest.fixture
def inside(disk_path):
    """inside(code): runs it in a mount namespace of its own; its asserts are this test's."""

    def run(code):
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", BEGIN + code, str(disk_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


def test_a_mount_point_with_an_old_mark_of_its_own_is_refused_when_the_disk_is_away(inside):
    inside("""
opened("by mistake").put("z", local)  # before the disk was ever mounted: its mark lies on the system disk
disk("a")
mount("a")
target = opened()
target.put("x", local)
umount()
told = refused(target, opened())
assert told == "lies on the system's own disk, it was on a mounted file system: is it mounted?", told
mount("a")
assert target.stat("x").size == opened().stat("x").size == 7
target.put("y", local)
umount()
""")


def test_another_disk_with_a_mark_is_refused_until_it_is_said_to_be_right(inside):
    inside("""
disk("a"), disk("b")
mount("b")
opened("other server").put("z", local)
umount()
mount("a")
target = opened()
target.put("x", local)
umount()
mount("b")
told = refused(target, opened())
assert told == "lies on another file system than before: is another disk mounted there?", told
(base / "state/used").unlink()
opened().put("y", local)
assert (point / "y").exists()
umount()
""")


def test_another_kind_of_file_system_is_refused(inside):
    inside("""
disk("a")
mount("a")
target = opened()
target.put("x", local)
umount()
sh("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point)
opened("other server").put("z", local)
assert refused(target, opened()) == "lies on another file system than before (ext then, tmpfs now)"
umount()
""")


def test_the_same_disk_as_another_device_and_with_spaces_in_its_way_is_known(inside):
    inside("""
point = base / "my nas\\\\"
point.mkdir()
disk("a")
disk("b")
mount("a")
opened().put("x", local)
umount()
sh("losetup", "-f", base / "b")
mount("a")
target = opened()
target.put("y", local)
assert sorted(found.name for found in target.list()) == ["x", "y"]
umount()
for line in subprocess.run(["losetup", "-j", base / "b"], capture_output=True, text=True).stdout.splitlines():
    sh("losetup", "-d", line.partition(":")[0])
""")


def test_what_an_older_version_wrote_is_taken_and_completed(inside):
    inside("""
disk("a")
mount("a")
target = opened()
target.put("x", local)
(base / "state/used").write_bytes(b"")  # as it was before
later = opened()
assert later.stat("x").size == 7
assert (base / "state/used").read_bytes() == b""
later.put("y", local)
assert b'"mounted": true' in (base / "state/used").read_bytes()
umount()
assert "mounted" in refused(later, opened())
""")


def test_read_only_is_told_and_reads_go_on(inside):
    inside("""
disk("a")
mount("a")
target = opened(mount=True)
target.put("x", local)
sh("mount", "-o", "remount,ro", point)
for action in (lambda: target.put("y", local), lambda: target.delete("x")):
    try:
        action()
    except TargetError as error:
        assert "Read-only file system" in error.message and error.hint == "mount it read-write"
    else:
        raise AssertionError("not refused")
assert b"".join(target.read("x")) == b"content"
findings = list(target.probe())
assert any(not one.ok and "Read-only" in one.message for one in findings), findings
umount()
assert refused(target) == "is not on a mounted file system"
""")
