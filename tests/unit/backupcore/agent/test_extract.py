"""A restore puts everything down as it was, does with existing entries what was asked, and never half of a file."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backupcore import wire
from backupcore.agent import extract as extracting
from backupcore.agent import writers
from backupcore.errors import AgentRefused, ImageDamaged, RequestError, WireError
from backupcore.image import codec, dumpdir, pax

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tests" / "lab"))
import packing  # noqa: E402
import tree  # noqa: E402

SMALL_FILE = b"content of a file\n"


def member(name, kind="f", data=b"", mode=0o644, uid=0, gid=0, mtime_ns=10**18, **more):
    """(bytes of a member, its digest or None)."""
    if kind == "f":
        more["size"] = len(data)
    header = pax.member(name, kind, mode, uid, gid, mtime_ns=mtime_ns, **more)
    digest = hashlib.sha256(data).digest() if kind == "f" and data else None
    return header + data + pax.padding(len(data)), digest


def archive(*members):
    """(archive, digests) of members."""
    return b"".join(data for data, _digest in members) + pax.END, [digest for _data, digest in members if digest]


def folder(name, **more):
    return member(name, "d", mode=more.pop("mode", 0o755), **more)


def unpack(to, *members, workers=0, **request):
    return packing.restore(packing.messages(*archive(*members)), {"to": str(to)}, workers, **request)


def leftovers(path):
    return [name for name in subprocess.check_output(["find", path]).split(b"\n") if b".stowage-" in name]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "tree"
    tree.make_hostile_tree(path)
    return path, packing.pack(path), tree.snapshot(path)


@pytest.mark.parametrize("workers, how", [(0, "one piece"), (2, "pieces of 70001 bytes"), (0, "gzip"), (2, "zstd")])
def test_a_hostile_tree_comes_back_without_one_difference(tmp_path, hostile, workers, how):
    _path, (data, digests), before = hostile
    packed = codec.get(how) if how in ("zstd", "gzip") else None
    cut = {"pieces of 70001 bytes": 70001, "one piece": 12 << 20}.get(how, 4 << 20)
    sent = packing.messages(data, digests, cut, packed)
    name = packed.name if packed else "none"
    done, notes = packing.restore(sent, {"to": str(tmp_path)}, workers, prefix="srv/data", codec=name)
    assert notes == [] and done["failed"] == 0 and done["not_kept"] == []
    assert tree.differences(before, tree.snapshot(tmp_path / "srv" / "data")) == []
    assert done["entries"] == len(before)
    pieces = [bytes(data)]
    kinds = [one.kind for one in pax.Reader(lambda _count: pieces.pop() if pieces else b"", many=True)]
    assert done["files"] == kinds.count("f") + kinds.count("h") < done["entries"] - done["folders"]
    assert (tmp_path / "srv").stat().st_mode & 0o7777 == 0o755


def test_the_judge_sees_a_difference_in_everything(disk_path, hostile):
    path, _packed, before = hostile
    copy = disk_path / "copy"  # a hole that was given room is told by disks only
    subprocess.run(["cp", "-a", path, copy], check=True)
    assert tree.differences(before, tree.snapshot(copy)) == []
    for change, key in (
        (lambda: os.chmod(copy / "names" / "~", 0o600), "mode"),
        (lambda: os.chown(copy / "owners" / "1000", 7, -1), "uid"),
        (lambda: os.utime(copy / "times" / "2200", ns=(0, 1)), "mtime_ns"),
        (lambda: os.setxattr(copy / "xattrs" / "user", "user.empty", b"x"), "xattrs"),
        (lambda: os.removexattr(copy / "xattrs" / "acl", "system.posix_acl_access"), "acl"),
        (lambda: os.removexattr(copy / "special" / "capability", "security.capability"), "caps"),
        (lambda: (copy / "content" / "1").write_bytes(b"?"), "sha256"),
        (lambda: os.posix_fallocate(os.open(copy / "sparse" / "only a hole", os.O_RDWR), 0, 1 << 20), "data"),
        (lambda: os.unlink(copy / "links" / "last"), "links"),
    ):
        change()
        assert any(": %s " % key in line for line in tree.differences(before, tree.snapshot(copy))), key


def test_members_may_come_without_their_folders(tmp_path):
    unpack(tmp_path, member(b"./a/b/f", data=SMALL_FILE), member(b"./a/c", data=b"x"), prefix="etc")
    assert (tmp_path / "etc/a/b/f").read_bytes() == SMALL_FILE
    assert (tmp_path / "etc/a/b").stat().st_mode & 0o7777 == 0o755


def test_a_folder_member_behind_its_content_counts_too(tmp_path):
    unpack(tmp_path, folder(b"./"), member(b"./a/f", data=b"x"), folder(b"./a/", mode=0o700, mtime_ns=5))
    assert ((tmp_path / "a").stat().st_mode & 0o7777, (tmp_path / "a").stat().st_mtime_ns) == (0o700, 5)


def test_paths_deeper_than_any_path_may_be(tmp_path):
    names = [b"%03d" % number + b"d" * 60 for number in range(120)]
    to = tmp_path / "to"
    members = [folder(b"./" + b"/".join(names[: count + 1]) + b"/", mtime_ns=count) for count in range(120)]
    done, notes = unpack(to, folder(b"./"), *members, member(b"./" + b"/".join(names) + b"/f", data=b"bottom"))
    found = tree.snapshot(to)
    subprocess.run(["rm", "-rf", to], check=True)
    assert notes == [] and done["files"] == 1 and done["folders"] == 121
    assert found[b"/".join(names) + b"/f"]["size"] == 6
    assert [found[b"/".join(names[: count + 1])]["mtime_ns"] for count in range(120)] == list(range(120))


def test_more_folders_than_descriptors_may_be_open(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (750, 750))"
    code = (
        limit + "; import sys; sys.path[:0] = sys.argv[1:3]; import packing; from backupcore.image import pax\n"
        "found = []\nfor depth in range(1, 850):\n"
        "    name = b'./' + b'd/' * depth\n    found.append(pax.member(name, 'd', 0o755, 0, 0))\n"
        "    found.append(pax.member(name + b'f', 'f', 0o644, 0, 0))\n"
        "done, notes = packing.restore(packing.messages(b''.join(found), []), {'to': sys.argv[3]}, 2)\n"
        "assert (done['files'], done['folders'], notes) == (849, 850, []), (done, notes[:3])\n"
    )
    argv = [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests" / "lab"), str(tmp_path / "to")]
    try:
        subprocess.run(argv, check=True, timeout=60)
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "to"], check=True)  # pytest's own removing recurses too deep


# ---------------------------------------------------------------- existing entries


def existing_tree(path):
    (path / "d").mkdir(parents=True)
    (path / "d" / "file").write_bytes(b"old")
    (path / "d" / "link").symlink_to("/etc/passwd")
    (path / "d" / "sub").write_bytes(b"a file where a folder was")
    (path / "d" / "more").write_bytes(b"not in the archive")
    (path / "d" / "full").mkdir()
    (path / "d" / "full" / "x").write_bytes(b"kept")
    (path / "d" / "empty").mkdir()
    os.chmod(path / "d", 0o711)
    os.setxattr(path / "d", "user.mine", b"1")


NEW = (
    folder(b"./", mtime_ns=1), folder(b"./d/", mode=0o750, mtime_ns=7),
    member(b"./d/empty", data=b"was empty"), member(b"./d/file", data=b"new"), member(b"./d/full", data=b"a file"),
    member(b"./d/link", data=b"no link"), folder(b"./d/sub/"), member(b"./d/sub/f", data=b"f"),
)  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_refuse_leaves_what_is_there_and_counts_it_as_failed(tmp_path, workers):
    existing_tree(tmp_path)
    before = tree.snapshot(tmp_path)
    done, notes = unpack(tmp_path, *NEW, workers=workers)
    assert tree.differences(before, tree.snapshot(tmp_path)) == []
    assert (done["files"], done["failed"], done["skipped"]) == (0, 6, 0)
    assert {note["path"].rpartition("/")[2] for note in notes} == {"empty", "file", "full", "link", "sub", "f"}
    assert all(note["level"] == "error" and note["message"] for note in notes)


def test_keep_leaves_what_is_there_and_adds_what_is_missing(tmp_path):
    existing_tree(tmp_path)
    done, notes = unpack(tmp_path, *NEW, member(b"./d/zz", data=b"missing"), existing="keep")
    assert (tmp_path / "d/zz").read_bytes() == b"missing" and (tmp_path / "d/file").read_bytes() == b"old"
    assert (done["files"], done["skipped"]) == (1, 5) and (tmp_path / "d").stat().st_mode & 0o7777 == 0o711
    assert {note["level"] for note in notes if not note["path"].endswith("/sub/f")} == {"warning"}


@pytest.mark.parametrize("workers", [0, 2])
def test_overwrite_replaces_all_but_folders_with_content(tmp_path, workers):
    existing_tree(tmp_path)
    number = (tmp_path / "d" / "file").stat().st_ino
    done, notes = unpack(tmp_path, *NEW, existing="overwrite", workers=workers)
    found = tmp_path / "d"
    assert (found / "file").read_bytes() == b"new" and (found / "file").stat().st_ino != number
    assert (found / "link").read_bytes() == b"no link" and not (found / "link").is_symlink()
    assert (found / "empty").read_bytes() == b"was empty" and (found / "sub/f").read_bytes() == b"f"
    assert (found / "more").read_bytes() == b"not in the archive" and (found / "full/x").read_bytes() == b"kept"
    assert found.stat().st_mode & 0o7777 == 0o750 and found.stat().st_mtime_ns == 7 and not os.listxattr(found)
    assert done["failed"] == 1 and [note["path"] for note in notes] == [str(found / "full")] and not leftovers(tmp_path)


@pytest.mark.parametrize("kind", ["f", "l", "p", "h", "big"])
def test_overwrite_puts_every_kind_over_every_kind(tmp_path, kind):
    make = {
        "f": lambda path: path.write_bytes(b"old"), "l": lambda path: path.symlink_to("gone"),
        "p": lambda path: os.mkfifo(path), "d": lambda path: path.mkdir(),
    }  # fmt: skip
    for old, there in make.items():
        path = tmp_path / old
        path.mkdir()
        there(path / "x")
        new = {
            "f": member(b"./x", data=b"new"), "l": member(b"./x", "l", link=b"new"), "p": member(b"./x", "p"),
            "h": member(b"./x", "h", link=b"./first"), "big": member(b"./x", data=b"n" * (2 << 20)),
        }[kind]  # fmt: skip
        done, notes = unpack(path, member(b"./first", data=b"first"), new, existing="overwrite")
        assert (notes, done["entries"] - done["folders"], leftovers(path)) == ([], 2, [])
        status = (path / "x").lstat()
        assert {"f": stat.S_ISREG, "l": stat.S_ISLNK, "p": stat.S_ISFIFO, "h": stat.S_ISREG, "big": stat.S_ISREG}[kind](
            status.st_mode
        )
        assert status.st_nlink == (2 if kind == "h" else 1)


def test_a_hard_link_over_a_link_to_the_same_file_leaves_nothing_behind(tmp_path):
    for _ in range(2):
        done, notes = unpack(
            tmp_path, member(b"./a", data=b"x"), member(b"./b", "h", link=b"./a"), existing="overwrite"
        )
        assert (done["files"], notes, sorted(os.listdir(tmp_path))) == (2, [], ["a", "b"])
        assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino


def test_a_hard_link_is_not_made_to_a_file_that_was_there_before(tmp_path):
    (tmp_path / "a").write_bytes(b"another file")
    done, notes = unpack(tmp_path, member(b"./a", data=b"x"), member(b"./b", "h", link=b"./a"), existing="keep")
    assert not (tmp_path / "b").exists() and done["failed"] == 1 and "first name" in notes[-1]["message"]


# ---------------------------------------------------------------- exact


def names(*pairs):
    return dumpdir.build_of(pairs)


def test_exact_takes_away_what_is_not_listed_and_nothing_else(tmp_path):
    (tmp_path / "gone" / "deep").mkdir(parents=True)
    (tmp_path / "gone" / "deep" / "f").write_bytes(b"x")
    (tmp_path / "gone" / "out").symlink_to("/etc")
    (tmp_path / "excluded").mkdir()
    (tmp_path / "excluded" / "precious").write_bytes(b"x")
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "unlisted folder").mkdir()
    (tmp_path / "unlisted folder" / "stays").write_bytes(b"no list, nothing removed")
    root = folder(b"./", mtime_ns=99, names=names((b"excluded", "N"), (b"f", "Y"), (b"unlisted folder", "D")))
    done, notes = unpack(
        tmp_path, root, member(b"./f", data=b"f"), folder(b"./unlisted folder/"), exact=True, existing="overwrite"
    )
    assert notes == [] and sorted(os.listdir(tmp_path)) == ["excluded", "f", "unlisted folder"]
    assert (tmp_path / "excluded" / "precious").exists() and (tmp_path / "unlisted folder" / "stays").exists()
    assert tmp_path.stat().st_mtime_ns == 99 and os.path.exists("/etc/passwd")


def test_without_exact_nothing_is_taken_away(tmp_path):
    (tmp_path / "more").write_bytes(b"x")
    unpack(tmp_path, folder(b"./", names=names((b"f", "Y"))), member(b"./f", data=b"f"), existing="overwrite")
    assert sorted(os.listdir(tmp_path)) == ["f", "more"]


def test_exact_replaces_a_folder_with_content_by_a_file(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "z").write_bytes(b"")
    done, notes = unpack(
        tmp_path,
        folder(b"./", names=names((b"x", "Y"))),
        member(b"./x", data=b"file"),
        existing="overwrite",
        exact=True,
    )
    assert notes == [] and (tmp_path / "x").read_bytes() == b"file"


def test_exact_never_crosses_a_mount(tmp_path):
    for kind in (["-t", "tmpfs", "none"], ["--bind", str(tmp_path / "elsewhere")]):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "top" / "gone" / "mounted").mkdir(parents=True, exist_ok=True)
        mounted = tmp_path / "top" / "gone" / "mounted"
        subprocess.run(["mount", *kind, mounted], check=True)
        try:
            (mounted / "precious").write_bytes(b"x")
            done, notes = unpack(tmp_path / "top", folder(b"./", names=names()), exact=True, existing="overwrite")
            assert (mounted / "precious").read_bytes() == b"x"
            assert done["failed"] == 1 and "mounted" in notes[0]["message"]
        finally:
            subprocess.run(["umount", mounted], check=True)


def test_a_cut_restore_takes_nothing_away(tmp_path):
    (tmp_path / "more").write_bytes(b"x")
    data, digests = archive(folder(b"./", names=names((b"f", "Y"))), member(b"./f", data=b"f"))
    with pytest.raises(WireError):
        packing.restore(
            packing.messages(data, digests, end=False), {"to": str(tmp_path)}, existing="overwrite", exact=True
        )
    assert (tmp_path / "more").exists()


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [10, 700_000, 3 << 20])
def test_content_with_another_digest_is_not_put_in_place(tmp_path, workers, size):
    data, digests = archive(member(b"./a", data=b"a" * size), member(b"./b", data=b"b"))
    digests[0] = bytes(31) + b"\1"
    done, notes = packing.restore(packing.messages(data, digests), {"to": str(tmp_path)}, workers)
    assert os.listdir(tmp_path) == ["b"] and (done["files"], done["failed"]) == (1, 1)
    assert notes[0]["path"].endswith("/a") and "index" in notes[0]["message"]


def test_wrong_content_does_not_replace_what_is_there(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    data, _digests = archive(member(b"./a", data=b"new"))
    packing.restore(packing.messages(data, [b"1" * 32]), {"to": str(tmp_path)}, existing="overwrite")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_digest_of_zeros_means_that_none_is_known(tmp_path):
    data, _digests = archive(member(b"./a", data=b"new"))
    packing.restore(packing.messages(data, [bytes(32)]), {"to": str(tmp_path)})
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_file_without_a_digest_and_a_digest_without_a_file_end_the_restore(tmp_path):
    data, digests = archive(member(b"./a", data=b"new"))
    with pytest.raises(WireError, match="without its digest"):
        packing.restore(packing.messages(data, []), {"to": str(tmp_path / "1")})
    assert not os.listdir(tmp_path / "1")
    with pytest.raises(WireError, match="digests without"):
        packing.restore(packing.messages(data, digests * 2), {"to": str(tmp_path / "2")})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_line_leaves_whole_files_and_nothing_else(tmp_path, hostile, workers):
    _path, (data, digests), before = hostile
    sent = packing.messages(data, digests, 50000, end=False)
    counts = []
    for number, at in enumerate((100, len(sent) // 3, len(sent) // 2, len(sent) * 3 // 4, len(sent))):
        place = tmp_path / str(number)
        with pytest.raises((WireError, ImageDamaged)):
            packing.restore(sent[:at], {"to": str(place)}, workers)
        assert not leftovers(place)
        found = tree.snapshot(place)
        files = [path for path in found if found[path]["type"] == "f"]
        assert all(found[path]["sha256"] == before[path]["sha256"] for path in files)
        counts.append(len(files))
    assert counts[0] == 0 and counts == sorted(counts)
    assert counts[-1] > 100


def test_a_full_disk_costs_the_files_that_do_not_fit(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "none", tmp_path], check=True)
    try:
        members = [member(b"./%03d" % number, data=b"x" * 150_000) for number in range(8)]
        big = member(b"./zz", data=b"y" * (2 << 20))
        for workers in (0, 2):
            done, notes = unpack(tmp_path / str(workers), *members, big, workers=workers)
            assert done["failed"] >= 3 and len(notes) == done["failed"] and "space" in notes[0]["message"].lower()
            sizes = [entry.stat().st_size for entry in os.scandir(tmp_path / str(workers))]
            assert set(sizes) == {150_000} and len(sizes) == done["files"] and not leftovers(tmp_path)
            shutil.rmtree(tmp_path / str(workers))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_read_only_place_costs_its_entries_only(tmp_path):
    (tmp_path / "ro").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path / "ro"], check=True)
    try:
        done, notes = unpack(
            tmp_path,
            member(b"./a", data=b"a"),
            folder(b"./ro/"),
            member(b"./ro/f", data=b"f"),
            member(b"./z", data=b"z"),
        )
        assert done["failed"] == 1 and notes[0]["path"] == str(tmp_path / "ro" / "f")
        assert (tmp_path / "a").exists() and (tmp_path / "z").exists()
    finally:
        subprocess.run(["umount", tmp_path / "ro"], check=True)


def test_a_writing_process_that_dies_ends_the_restore_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "put_files", lambda *_args: os._exit(9))
    with pytest.raises(Exception, match="writing process"):
        unpack(tmp_path, *[member(b"./%d" % number, data=b"x") for number in range(10)], workers=2)


# ---------------------------------------------------------------- rights


def run_as(uid, code):
    """Runs code in a child process of another user; its exception fails the test."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(writing, repr(code()).encode())
            status = 0
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text
    return text


def test_without_root_the_rest_comes_back_and_what_could_not_is_said(tmp_path, hostile):
    _path, (data, digests), before = hostile
    os.chmod(tmp_path, 0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o005 != 0o005:
            os.chmod(parent, parent.stat().st_mode | 0o005)
    sent = packing.messages(data, digests)
    text = run_as(1234, lambda: packing.restore(sent, {"to": str(tmp_path / "to")}, 2))
    for word in ("owners", "devices", "capabilities", "setuid bits", "xattrs"):
        assert repr(word) in text
    found = tree.snapshot(tmp_path / "to")
    assert set(before) - set(found) == {b"special/null", b"special/big numbers"}
    assert all(row["uid"] == 1234 and not int(row["mode"], 8) & 0o6000 for row in found.values() if row["type"] == "f")
    ignore = ("uid", "gid", "caps", "mode", "xattrs", "links", "mtime_ns", "acl", "default_acl")
    left = {path: row for path, row in before.items() if path in found}
    assert tree.differences(left, found, ignore=ignore) == []
    times = [path for path in left if left[path]["mtime_ns"] != found[path]["mtime_ns"]]
    assert times == []


def test_the_scratch_folder_gets_no_setuid_bits_capabilities_or_devices(tmp_path, hostile):
    _path, (data, digests), before = hostile
    config = {"scratch": str(tmp_path / "restore")}
    done, notes = packing.restore(packing.messages(data, digests), config, 2, name="web1", prefix="srv")
    place = tmp_path / "restore" / "web1" / "srv"
    assert done["destination"] == str(tmp_path / "restore" / "web1") and done["failed"] == 0 and done["skipped"] == 2
    assert set(done["not_kept"]) == {"setuid bits", "capabilities", "devices"}
    found = tree.snapshot(place)
    assert not any(int(row["mode"], 8) & 0o6000 and row["type"] != "d" for row in found.values())
    assert not any("caps" in row or row["type"] in "cb" for row in found.values())
    assert (tmp_path / "restore").stat().st_mode & 0o7777 == 0o700
    assert found[b"owners/2500001"]["uid"] == 2500001


def test_a_destination_needs_a_permit(tmp_path):
    with pytest.raises(AgentRefused, match="needs a permit"):
        packing.restore(b"", {"permits": str(tmp_path)}, destination=str(tmp_path))


def permit(tmp_path, **changes):
    import json
    import time

    value = {"schema": 1, "id": "p", "dump": "d", "destination": str(tmp_path / "to"), "paths": ["/etc/nginx"],
             "expires": time.time() + 60, **changes}  # fmt: skip
    (tmp_path / "permits").mkdir(mode=0o700, exist_ok=True)
    path = tmp_path / "permits" / "p"
    path.write_text(json.dumps(value))
    path.chmod(0o600)
    return {"permits": str(tmp_path / "permits")}


def test_a_permit_lets_through_what_it_covers_and_nothing_else(tmp_path):
    config = permit(tmp_path)
    (tmp_path / "to" / "etc").mkdir(parents=True, mode=0o711)
    (tmp_path / "to" / "etc" / "shadow").write_bytes(b"secret")
    sent = packing.messages(*archive(
        folder(b"./", mode=0o777, names=names((b"nginx", "D"))), member(b"./shadow", data=b"hostile"),
        member(b"./nginx2", data=b"hostile"), folder(b"./nginx/", mode=0o750), member(b"./nginx/conf", data=b"right"),
        member(b"./nginx/x", "h", link=b"./shadow"),
    ))  # fmt: skip
    done, notes = packing.restore(
        sent, config, destination=str(tmp_path / "to"), permit="p", prefix="etc", existing="overwrite", exact=True
    )
    etc = tmp_path / "to" / "etc"
    assert sorted(os.listdir(etc)) == ["nginx", "shadow"] and os.listdir(etc / "nginx") == ["conf"]
    assert (etc / "shadow").read_bytes() == b"secret" and etc.stat().st_mode & 0o7777 == 0o711
    assert (etc / "nginx").stat().st_mode & 0o7777 == 0o750
    assert done["failed"] == 3 and done["files"] == 1


def test_a_permit_for_another_dump_or_destination_writes_nothing(tmp_path):
    config = permit(tmp_path)
    for request in ({"dump": "other"}, {"destination": "/"}, {"permit": "q"}):
        with pytest.raises(AgentRefused):
            packing.restore(b"", config, **{"destination": str(tmp_path / "to"), "permit": "p", **request})
    assert not (tmp_path / "to").exists()


def test_a_link_above_the_restored_paths_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "srv").symlink_to(tmp_path / "real")
    with pytest.raises(AgentRefused, match="srv is a link"):
        unpack(tmp_path / "to", member(b"./f", data=b"f"), prefix="srv/data")
    assert not os.listdir(tmp_path / "real")


@pytest.mark.parametrize(
    "request_",
    [{"existing": "maybe"}, {"exact": 1}, {"prefix": "../x"}, {"prefix": "/etc"}, {"prefix": "a//b"}, {"prefix": None},
     {"dump": 7}, {"codec": "lzma"}, {"prefix": "a\0b"}],
)  # fmt: skip
def test_requests_that_are_none_are_refused(tmp_path, request_):
    with pytest.raises(RequestError):
        packing.restore(b"", {"to": str(tmp_path / "to")}, **request_)


def test_a_default_acl_above_does_not_reach_what_is_restored(tmp_path, hostile):
    _path, (data, digests), before = hostile
    (tmp_path / "to").mkdir()
    os.setxattr(tmp_path / "to", "system.posix_acl_default", tree.ACL_DEFAULT)
    for workers in (0, 2):
        packing.restore(packing.messages(data, digests), {"to": str(tmp_path / "to")}, workers, prefix="a%d" % workers)
        assert tree.differences(before, tree.snapshot(tmp_path / "to" / ("a%d" % workers))) == []


def test_the_umask_and_the_limits_of_the_caller_do_not_matter(tmp_path):
    before = os.umask(0o077)
    try:
        unpack(
            tmp_path,
            member(b"./f", data=b"f", mode=0o666),
            folder(b"./d/", mode=0o777),
            member(b"./p", "p", mode=0o622),
        )
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o7777) for name in "fdp"] == ["0o666", "0o777", "0o622"]


def test_notes_and_progress_come_while_the_server_still_sends(tmp_path):
    (tmp_path / "a").write_bytes(b"there")
    reading, writing = os.pipe()
    back, answer = os.pipe()
    server = wire.Channel(os.fdopen(back, "rb"), os.fdopen(writing, "wb", buffering=0), "agent")
    agent = wire.Channel(os.fdopen(reading, "rb"), os.fdopen(answer, "wb"), "server")
    request = {"dump": "d", "prefix": "", "existing": "refuse", "exact": False}
    thread = threading.Thread(target=extracting.extract, args=(agent, request, {"to": str(tmp_path)}, 0), daemon=True)
    thread.start()
    server.expect(wire.START)
    data, digests = archive(member(b"./a", data=b"x" * 600_000), member(b"./b", data=b"y" * 1_100_000))
    server.send(wire.EXPECT, *digests)
    server.send(wire.ARCHIVE, data[:1_200_000])
    assert server.expect(wire.NOTE)[1]["path"] == str(tmp_path / "a")
    server.send(wire.ARCHIVE, data[1_200_000:])
    server.send(wire.END)
    assert server.expect(wire.DONE)[1]["failed"] == 1
    thread.join(60)
    assert (tmp_path / "b").stat().st_size == 1_100_000
