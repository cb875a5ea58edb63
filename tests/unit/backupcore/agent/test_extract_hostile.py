"""Nothing that a server, an image or another process on the client does leads a restore out of its folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupcore import wire
from backupcore.agent import folders, linux_write
from backupcore.errors import ImageDamaged, StowageError, WireError
from backupcore.image import codec, pax

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tests" / "lab"))
import packing  # noqa: E402
import tree  # noqa: E402


def member(name, kind="f", data=b"", mode=0o644, **more):
    """(bytes of a member, its digest or None)."""
    if kind == "f":
        more["size"] = len(data)
    digest = hashlib.sha256(data).digest() if kind == "f" and data else None
    return pax.member(name, kind, mode, 0, 0, mtime_ns=10**18, **more) + data + pax.padding(len(data)), digest


def raw(name, kind=b"0", link=b"", data=b"", records=b""):
    """A member with a name that our writer refuses to be given, and its digest."""
    extended = b""
    if records:
        extended = header(b"././@PaxHeader", b"x", b"", len(records)) + records + pax.padding(len(records))
    return extended + header(name, kind, link, len(data)) + data + pax.padding(len(data)), (
        hashlib.sha256(data).digest() if data else None
    )


def header(name, kind, link, size):
    text = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    rest = kind + link.ljust(100, b"\0") + b"ustar\00000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    return text + b"%06o\0 " % (sum(text) + 256 + sum(rest)) + rest


@pytest.fixture
def place(tmp_path):
    """(folder to restore to, what lies outside of it)."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    (tmp_path / "to").mkdir()
    before = tree.snapshot(outside)
    yield tmp_path / "to", outside
    assert tree.differences(before, tree.snapshot(outside)) == []
    assert sorted(os.listdir(tmp_path)) in (["outside", "to"], ["outside", "to", "unpacked"])


def unpack(to, *members, workers=0, **request):
    data = b"".join(member for member, _digest in members) + pax.END
    digests = [digest for _member, digest in members if digest]
    return packing.restore(packing.messages(data, digests), {"to": str(to)}, workers, **request)


@pytest.mark.parametrize(
    "name",
    [b"/etc/x", b"../x", b"./../x", b"./a/../../x", b"./a//x", b"././x", b"./", b".", b"..", b"", b"x", b"./x/",
     b"./a/.", b"//x", b"./\0x/../y"],
)  # fmt: skip
def test_names_that_lead_out_end_the_restore(place, name):
    if b"\0" in name:
        text = b"path=" + name
        bad = raw(b"./x", data=b"hostile", records=b"%d %b\n" % (len(text) + 4, text))
    else:
        bad = raw(name, data=b"hostile")
    with pytest.raises(ImageDamaged):
        unpack(place[0], member(b"./first", data=b"1"), bad)
    assert os.listdir(place[0]) == ["first"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_name_in_a_pax_record_is_checked_as_well(place, workers):
    for path in (b"/etc/x", b"./../x", b"./a/../../../x"):
        record = pax.record(b"path", path)
        with pytest.raises(ImageDamaged):
            unpack(place[0], raw(b"./harmless", data=b"hostile", records=record), workers=workers)
    assert os.listdir(place[0]) == []


@pytest.mark.parametrize(
    "link", [b"../outside/precious", b"/etc/passwd", b"./../outside/precious", b"./a/../../x", b""]
)
def test_hard_links_out_end_the_restore(place, link):
    with pytest.raises(ImageDamaged):
        unpack(place[0], raw(b"./link", b"1", link))
    assert os.listdir(place[0]) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("existing", ["refuse", "overwrite", "keep"])
def test_members_below_a_link_go_nowhere(place, existing, workers):
    to, outside = place
    (to / "there").symlink_to(outside)
    link = os.fsencode(outside)
    done, notes = unpack(
        to, member(b"./l", "l", link=link), member(b"./l/x", data=b"hostile"), member(b"./l/precious", data=b"hostile"),
        member(b"./l/deep/x", data=b"hostile"), member(b"./there/x", data=b"hostile"), member(b"./l/s", "l", link=b"x"),
        member(b"./l/p", "p"), member(b"./hard", "h", link=b"./l/precious"), member(b"./l/hard", "h", link=b"./ok"),
        member(b"./ok", data=b"ok"), existing=existing, workers=workers,
    )  # fmt: skip
    assert done["failed"] == 8 and done["files"] == 1 and len(notes) == 8
    assert done["entries"] - done["folders"] == 2
    assert sorted(os.listdir(to)) == ["l", "ok", "there"] and (to / "l").is_symlink()


def test_a_hard_link_to_a_link_is_a_second_name_of_the_link(place):
    to, outside = place
    unpack(to, member(b"./l", "l", link=os.fsencode(outside / "precious")), member(b"./h", "h", link=b"./l"))
    assert (to / "h").is_symlink() and (outside / "precious").stat().st_nlink == 1


def test_a_hard_link_to_a_folder_is_none(place):
    done, notes = unpack(place[0], member(b"./d/", "d", mode=0o755), member(b"./h", "h", link=b"./d"))
    assert done["failed"] == 1 and os.listdir(place[0]) == ["d"]


def test_a_folder_member_over_a_link_replaces_it_or_fails(place):
    to, outside = place
    for existing in ("refuse", "keep"):
        if not (to / "x").is_symlink():
            (to / "x").symlink_to(outside)
        done, _notes = unpack(to, member(b"./x/", "d", mode=0o777), member(b"./x/f", data=b"f"), existing=existing)
        assert (to / "x").is_symlink() and done["files"] == 0
    unpack(to, member(b"./x/", "d", mode=0o755), member(b"./x/f", data=b"f"), existing="overwrite")
    assert not (to / "x").is_symlink() and (to / "x" / "f").read_bytes() == b"f"


def test_files_over_links_never_write_through_them(place):
    to, outside = place
    big = b"hostile" * 300_000
    for name in ("small", "big"):
        (to / name).symlink_to(outside / "precious")
    for existing in ("refuse", "keep", "overwrite"):
        unpack(to, member(b"./small", data=b"hostile"), member(b"./big", data=big), existing=existing)
        assert (to / "small").is_symlink() == (to / "big").is_symlink() == (existing != "overwrite")


def test_a_file_with_a_second_name_outside_is_replaced_not_changed(place):
    to, outside = place
    os.link(outside / "precious", to / "x")
    try:
        unpack(to, member(b"./x", data=b"hostile"), existing="overwrite")
        assert (to / "x").read_bytes() == b"hostile" and (outside / "precious").read_bytes() == b"precious"
    finally:
        os.unlink(to / "x")


def test_a_member_twice_is_the_second_one_or_an_error(place):
    twice = member(b"./x", data=b"one"), member(b"./x", data=b"two")
    done, _notes = unpack(place[0], *twice)
    assert (place[0] / "x").read_bytes() == b"one" and done["failed"] == 1
    done, _notes = unpack(place[0], *twice, existing="overwrite")
    assert (place[0] / "x").read_bytes() == b"two" and done["failed"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_swapped_for_a_link_under_our_hands_leads_nowhere(place, workers):
    """A thread puts links to the outside in place of folders as fast as it can, while they are being filled."""
    to, outside = place
    stop = threading.Event()
    swaps = []

    def swap():
        while not stop.is_set():
            for name in os.listdir(to):
                try:
                    os.rename(to / name, to / ("." + name))
                    os.symlink(outside, to / name)
                    swaps.append(name)
                    os.unlink(to / name)
                    os.rename(to / ("." + name), to / name)
                except OSError:
                    pass

    members = []
    for number in range(60):
        name = b"./d%d/" % number
        members.append(member(name, "d", mode=0o777))
        members += [member(name + b"f%d" % count, data=b"hostile %d" % count) for count in range(8)]
        members.append(member(name + b"big", data=b"hostile" * 160_000 if number % 20 == 0 else b"b"))
        members += [member(name + b"l", "l", link=b"x"), member(name + b"h", "h", link=name + b"f1")]
        members += [member(name + b"sub/", "d", mode=0o777), member(name + b"sub/precious", data=b"hostile")]
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for existing in ("refuse", "overwrite"):
            unpack(to, *members, workers=workers, existing=existing)
    finally:
        stop.set()
        thread.join()
    assert swaps


def test_a_folder_that_was_replaced_gets_no_metadata(place):
    to, _outside = place
    how = folders.How("refuse", False, linux_write.rights_of_caller(False), 0)
    told = []
    fd = os.open(to, os.O_RDONLY)
    tree_ = folders.Tree(fd, True, how, set(), lambda *args: told.append(args), lambda: 1 << 62, lambda _number: None)
    tree_.folder(b"a", linux_write.Attributes(0o4777, 1000, 1000, 5, {}), None, True)
    os.rename(to / "a", to / "moved")
    (to / "a").mkdir(mode=0o700)  # root's own, put there by whoever may rename here
    os.close(tree_.current.fd)
    tree_.current.fd = -1
    tree_.finish()
    tree_.close()
    assert "replaced" in told[0][2]
    assert (to / "a").stat().st_uid == 0 and (to / "a").stat().st_mode & 0o7777 == 0o700


def test_a_link_that_was_replaced_gets_no_owner(place):
    to, _outside = place
    fd = os.open(to, os.O_RDONLY)
    os.symlink("x", "l", dir_fd=fd)
    made = os.stat("l", dir_fd=fd, follow_symlinks=False)
    os.rename(to / "l", to / "away")
    (to / "l").write_bytes(b"root's own file")
    want = linux_write.Attributes(0o777, 1000, 1000, 5, {})
    with pytest.raises(OSError, match="replaced"):
        linux_write.put_on_name(fd, b"l", made, want, 0o777, linux_write.rights_of_caller(False), set(), 0)
    os.close(fd)
    assert (to / "l").stat().st_uid == 0


def test_devices_are_made_only_by_root_outside_of_the_scratch_folder(place):
    null = pax.member(b"./null", "c", 0o666, 0, 0, dev=(1, 3)) + pax.END
    done, notes = packing.restore(packing.messages(null, []), {"scratch": str(place[0] / "restore")})
    assert done["not_kept"] == ["devices"] and done["skipped"] == 1 and "scratch" in notes[0]["message"]
    assert os.listdir(place[0] / "restore" / "r") == []
    done, notes = packing.restore(packing.messages(null, []), {"to": str(place[0] / "own")})
    assert (place[0] / "own" / "null").is_char_device() and notes == []


def test_a_setuid_file_is_never_executable_as_root_on_its_way(place, monkeypatch):
    """Between making it and giving it to its owner, a setuid file of another user has no setuid bit."""
    seen = []
    chown = os.chown

    def watched(fd, *args, **more):
        if isinstance(fd, int):
            seen.append(os.fstat(fd).st_mode)
        chown(fd, *args, **more)

    monkeypatch.setattr(os, "chown", watched)
    for size in (5, 2 << 20):
        data = pax.member(b"./s%d" % size, "f", 0o6755, 1000, 1000, size=size) + b"x" * size + pax.padding(size)
        digest = hashlib.sha256(b"x" * size).digest()
        packing.restore(packing.messages(data, [digest]), {"to": str(place[0])})
        assert (place[0] / ("s%d" % size)).stat().st_mode & 0o7777 == 0o6755
    assert len(seen) == 2 and not any(mode & 0o6077 for mode in seen)


# ---------------------------------------------------------------- the wire and the archive


def test_a_bomb_is_refused_before_it_grows(place):
    zstd = codec.get("zstd")
    bomb = zstd.compress(bytes(200 << 20))
    for length in (1000, 65 << 20, 200 << 20):
        head = wire.pack_frame_head(wire.FrameHead(0, 0, 0, length, 0))
        with pytest.raises(ImageDamaged):
            packing.restore(envelope(wire.FRAME, head + bomb), {"to": str(place[0])}, codec="zstd")
    assert os.listdir(place[0]) == []


def envelope(kind, payload=b""):
    return kind + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "sent, error",
    [
        (b"", WireError), (b"garbage that is no protocol", WireError), (envelope(wire.EXPECT, b"short"), WireError),
        (envelope(wire.DONE, b"{}"), WireError), (envelope(wire.FRAME, b"x"), WireError),
        (wire.ARCHIVE + b"\xff\xff\xff\xff", WireError),
        (envelope(wire.ARCHIVE, b"x" * 700) + envelope(wire.END), ImageDamaged),
        (envelope(wire.ARCHIVE, b"x" * 10) + envelope(wire.END), ImageDamaged),
    ],
)  # fmt: skip
def test_a_hostile_wire_ends_in_one_clear_error(place, sent, error):
    for workers in (0, 1):
        with pytest.raises(error):
            packing.restore(sent, {"to": str(place[0])}, workers)
    assert os.listdir(place[0]) == []


def test_a_header_that_promises_more_than_any_memory_is_refused(place):
    huge = header(b"././@PaxHeader", b"x", b"", 8_000_000_000) + b"x" * 5000
    with pytest.raises(ImageDamaged, match="extended header"):
        packing.restore(packing.messages(huge, []), {"to": str(place[0])})


def test_an_archive_that_ends_inside_a_member_leaves_nothing_of_it(place):
    for size in (100_000, 5 << 20):
        data, digest = member(b"./x", data=b"y" * size)
        for workers in (0, 2):
            with pytest.raises(ImageDamaged):
                packing.restore(packing.messages(data[: size // 2], [digest]), {"to": str(place[0])}, workers)
            assert os.listdir(place[0]) == []


# ---------------------------------------------------------------- any archive at all

CALL = re.compile(r'\d+ +(\w+)\((?:"[^"]*", )?(AT_FDCWD, |\d+, )?"((?:[^"\\]|\\.)*)"')

_NAMES = st.sampled_from([b"a", b"b", b"l", b"\xff\n", b"precious"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(b"/".join)
_MEMBERS = st.lists(
    st.tuples(st.sampled_from("fdlhpcF"), _PATHS, _PATHS, st.integers(0, 0o7777), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(_MEMBERS, st.sampled_from(["refuse", "overwrite", "keep"]), st.booleans(), st.booleans())
def test_no_archive_changes_anything_outside(place, members, existing, exact, again):
    to, outside = place
    made = []
    for kind, path, other, mode, out in members:
        target = os.fsencode(outside) + b"/" + other.replace(b"/", b"") if out else other
        if kind == "d":
            listed = [(b"a", "Y"), (b"b", "N")] if mode & 1 else []
            made.append(member(b"./" + path + b"/", "d", mode=mode, names=folders.dumpdir.build_of(listed)))
        elif kind == "l":
            made.append(member(b"./" + path, "l", link=target))
        elif kind == "h":
            made.append(member(b"./" + path, "h", link=b"./" + other))
        elif kind == "c":
            made.append(member(b"./" + path, "c", mode=mode, dev=(1, 3)))
        elif kind == "p":
            made.append(member(b"./" + path, "p", mode=mode))
        else:
            made.append(member(b"./" + path, data=b"hostile" * (1 if kind == "f" else 160_000), mode=mode))
    before = tree.snapshot(outside)
    for _ in range(2 if again else 1):
        done, notes = unpack(to, *made, existing=existing, exact=exact)
        assert done["failed"] + done["skipped"] == len(notes)
    assert tree.differences(before, tree.snapshot(outside)) == []
    assert not [path for path in tree.snapshot(to) if b".stowage-" in path]
    shutil.rmtree(to)
    to.mkdir()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_stream_ends_in_an_error_or_in_right_files(place, data):
    to, _outside = place
    parts = [member(b"./d/", "d"), member(b"./d/f", data=b"right"), member(b"./g", data=b"right" * 300)]
    parts.append(member(b"./l", "l", link=b"x"))
    digests = [digest for _part, digest in parts if digest]
    sent = bytearray(packing.messages(b"".join(part for part, _digest in parts) + pax.END, digests, 900))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(sent) - 1))
        sent[at] = data.draw(st.integers(0, 255))
    try:
        packing.restore(bytes(sent), {"to": str(to)})
    except StowageError:
        pass
    for path, row in tree.snapshot(to).items():
        if row["type"] == "f":
            assert row["sha256"] in [digest.hex() for digest in digests] or not row["size"], path
    shutil.rmtree(to)
    to.mkdir()


def test_nothing_here_opens_a_path_with_a_slash(place):
    """Every name that reaches the system while a tree is put down is a single name in an open folder."""
    source = place[0] / "source"
    tree.make_hostile_tree(source)
    data, digests = packing.pack(source)
    (place[0] / "sent").write_bytes(packing.messages(data, digests))
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import packing\n"
        "print(packing.restore(open(sys.argv[3] + '/sent', 'rb').read(), {'to': sys.argv[3] + '/to'}, 0)[0]['failed'])"
    )
    assert shutil.which("strace"), "strace is not here: tests/lab/packages.sh"
    log = place[0] / "log"
    argv = ["strace", "-f", "-o", log, "-e", "trace=%file", sys.executable, "-c", code]
    argv += [str(ROOT), str(ROOT / "tests/lab"), str(place[0])]
    assert subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout == b"0\n"
    to = str(place[0] / "to")
    lines = log.read_text("utf-8", "surrogateescape").split("\n")
    begun = next(number for number, line in enumerate(lines) if "mkdir" in line and '"%s"' % to in line)
    checked, wrong = 0, []
    for line in lines[begun + 1 :]:
        found = CALL.match(line)
        if not found or '"%s"' % to in line:
            continue
        call, folder, name = found.groups()
        if folder and folder != "AT_FDCWD, ":
            checked += 1
            wrong += [line] if "/" in name else []
        elif name.startswith("/proc/self/fd/"):
            wrong += [line] if not name[14:].isdigit() else []
        elif name.startswith(to + "/") or (name[:1] != "/" and call != "symlinkat"):
            wrong.append(line)
    assert checked > 600 and wrong == []
