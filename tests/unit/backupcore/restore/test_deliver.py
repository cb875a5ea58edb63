"""What is sent and how: whole frames, slices, hard links, names for --exact; and what damage costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from maker import BEGIN, SECOND, Node, expected, folder_node, received

from backupcore import wire
from backupcore.errors import ImageDamaged, RequestError, RestoreIncomplete, TargetRefused, WireError
from backupcore.image import codec, dumpdir, frames, layout
from backupcore.restore import deliver
from backupcore.restore.report import Options


def tree_of(count=40, size=900):
    """Folders with small files, and one file over many frames."""
    tree = {b".": folder_node()}
    for number in range(count):
        above = b"folder %d" % (number % 4)
        tree[above] = tree.get(above) or folder_node()
        tree[above + b"/file %03d" % number] = Node("f", os.urandom(size))
    tree[b"big"] = Node("f", os.urandom(50_000))
    return tree


def table(row):
    data = (Path(row.holding) / layout.frames_name(row.codec)).read_bytes()
    return frames.Table(frames.read(codec.get(row.codec).unpack([data])))


def members(maker, row):
    """path -> (offset, end) in the archive."""
    from backupcore.restore import indexes

    return {
        entry.path: (entry.offset, entry.offset + entry.length)
        for entry in indexes.entries(maker.images().chunks(row))
        if entry.length
    }


def hit(maker, row, frame):
    """Paths of which a byte lies in frame."""
    return {
        path for path, (start, end) in members(maker, row).items()
        if start < frame.offset + frame.length and end > frame.offset
    }  # fmt: skip


def test_a_whole_full_goes_out_in_the_frames_it_is_stored_in(maker):
    maker.frame = 8192
    tree = {b".": folder_node(), **{b"f%03d" % n: Node("f", os.urandom(1500)) for n in range(60)}}
    row = maker.dump(tree)
    report, peer = maker.restore("web1:/")
    assert received(peer) == expected(tree)
    count = len(table(row).frames)
    # all but the last, which holds the end of the archive
    assert peer.kinds.count(wire.FRAME) == count - 1 > 10
    assert report.status == "ok" and report.exit_status == 0
    assert peer.requests[0]["codec"] == "zstd" and peer.requests[0]["prefix"] == "srv/data"


def test_frames_that_the_agent_cannot_unpack_are_unpacked_here(maker):
    tree = tree_of()
    maker.dump(tree)
    _report, peer = maker.restore("web1:/", zstd=False)
    assert received(peer) == expected(tree)
    assert wire.FRAME not in peer.kinds and peer.requests[0]["codec"] == "none"


def test_a_chain_of_two_codecs_is_one_tree(maker):
    tree = tree_of()
    maker.dump(tree)
    changed = {**tree, b"folder 1/file 001": Node("f", b"new"), b"zz": Node("f", b"newer")}
    maker.dump(changed, 1, compress="gzip")
    _report, peer = maker.restore("web1:/")
    assert received(peer) == expected(changed)


def test_members_that_were_written_again_are_not_sent_twice(maker):
    tree = {b".": folder_node(), **{b"%d" % n: folder_node() for n in range(20)}}
    maker.dump(tree)
    _report, peer = maker.restore("web1:/")
    assert received(peer) == expected(tree)


def test_a_hard_link_whose_first_name_is_not_asked_for_gets_the_content(maker):
    shared = Node("f", b"shared" * 3000, xattrs={b"user.a": b"b"})
    holes = Node("f", bytes(4096) + b"x" * 4096 + bytes(8192), sparse=[(4096, 4096)])
    link = Node("l", link=b"somewhere", mode=0o777)
    tree = {
        b".": folder_node(), b"a": folder_node(), b"b": folder_node(), b"a/1": shared, b"b/2": shared, b"b/3": shared,
        b"a/h": holes, b"b/h": holes, b"a/l": link, b"b/l": link, b"b/alone": Node("f", b"alone"),
    }  # fmt: skip
    maker.dump(tree)
    _report, peer = maker.restore("web1:/srv/data/b")
    assert received(peer) == expected(tree, keep=lambda path: path.startswith(b"b"))
    _report, peer = maker.restore("web1:/srv/data/b/3")
    assert received(peer) == expected(tree, keep=lambda path: path == b"b/3")


def test_a_hard_link_to_a_name_that_only_the_base_holds_is_found_there(maker):
    shared = Node("f", b"kept" * 100)
    tree = {b".": folder_node(), b"a": shared, b"b": folder_node(), b"b/x": Node("f", b"x")}
    maker.dump(tree)
    row = maker.dump({**tree, b"b/y": Node("f", b"y", mtime_ns=BEGIN)}, 1)
    # an agent may link to an unchanged name of the base
    from backupcore.catalog import places
    from backupcore.image import index, pax

    path = places.find_index(maker.settings.state, "web1", "data", row.id)
    entry = next(one for one in index.read(codec.get("zstd").unpack([path.read_bytes()])) if one.path == b"b/y")
    header = pax.member(b"./b/y", "h", 0o644, 0, 0, 0, BEGIN, b"./a")
    assert len(header) == 512 <= entry.length
    line = index.format_entry(b"b/y", "h", 0o644, 0, 0, 4, BEGIN, link=b"a", offset=entry.offset, length=512)
    images = maker.images()
    original = images.chunks
    images.chunks = lambda dump, _bases=None: (
        chunk.replace(index.format_entry(*entry), line) if dump.id == row.id else chunk for chunk in original(dump)
    )
    report, peer = maker.restore("web1:/srv/data/b/y", images=images)
    assert report.failed == []
    assert peer.tree[b"/srv/data/b/y"][0][:2] == ("f", b"kept" * 100)


def test_folders_carry_their_names_for_exact(maker):
    tree = {
        b".": folder_node(), b"d": folder_node(), b"d/f": Node("f", b"1"), b"d/g": folder_node(),
        b"d/s": Node("n", link=b"socket"), b"d/m": Node("n", link=b"other-filesystem", mode=0o777),
        b"empty": folder_node(), b"gone": Node("f", b"1"),
    }  # fmt: skip
    maker.dump(tree)
    del tree[b"gone"]
    tree[b"d/h"] = Node("f", b"new")
    maker.dump(tree, 1)
    _report, peer = maker.restore("web1:/", exact=True)
    assert received(peer) == expected(tree)
    found = {path: dumpdir.parse(value) for path, value in peer.names.items()}
    assert found == {
        b"/srv/data": [(b"d", "D"), (b"empty", "D")],
        b"/srv/data/d": [(b"f", "Y"), (b"g", "D"), (b"h", "Y"), (b"m", "N"), (b"s", "N")],
        b"/srv/data/d/g": [], b"/srv/data/empty": [],
    }  # fmt: skip
    assert peer.requests[0]["exact"] is True
    _report, peer = maker.restore("web1:/srv/data/d", exact=True)
    assert set(peer.names) == {b"/srv/data/d", b"/srv/data/d/g"}


@pytest.mark.parametrize("chain", [False, True])
def test_a_damaged_frame_costs_the_members_in_it_and_nothing_else(maker, chain):
    tree = tree_of()
    row = maker.dump(tree)
    if chain:
        tree[b"later"] = Node("f", b"later")
        maker.dump(tree, 1)
    count = len(table(row).frames)
    for number in range(count):
        frame = maker.harm(row, number)
        lost = hit(maker, row, frame) - {b"."} if chain else hit(maker, row, frame)
        report, peer = maker.restore("web1:/")
        maker.harm(row, number)
        named = {path.removeprefix("/srv/data").lstrip("/").encode() or b"." for path, _why in report.failed}
        assert named == lost, number
        assert report.exit_status == (1 if lost else 0)
        assert not lost or any("damaged" in note for note in report.notes)
        # the folders are made anew, so that nothing lies in one that is open to all
        kept = {path for path in tree if path not in lost or tree[path].kind == "d"}
        assert received(peer) == expected(tree, keep=kept.__contains__)
        assert all("damaged" in why for _path, why in report.failed)
        if lost:
            assert "--level 0" in " ".join(report.next)


def test_bytes_that_are_whole_but_not_what_the_index_says_never_become_a_file(maker):
    tree = {b".": folder_node(), b"a": Node("f", b"right"), b"b": Node("f", b"also right")}
    row = maker.dump(tree)
    images = maker.images()
    original = images.chunks
    import hashlib

    old, new = (hashlib.sha256(data).hexdigest().encode() for data in (b"right", b"wrong"))
    images.chunks = lambda dump, _bases=None: (chunk.replace(old, new) for chunk in original(dump))
    _report, peer = maker.restore("web1:/", images=images)
    assert set(peer.failed) == {b"/srv/data/a"} and b"/srv/data/b" in peer.tree
    assert row.id


def test_an_index_that_rotted_on_the_server_is_fetched_again(maker):
    from backupcore.catalog import places

    tree = tree_of()
    row = maker.dump(tree)
    path = places.find_index(maker.settings.state, "web1", "data", row.id)
    good = path.read_bytes()
    for number, harmed in enumerate((None, good[:-20] + bytes(20), good[:-20] + bytes(20))):
        path.unlink()
        if harmed is not None:
            path.write_bytes(harmed)
        report, peer = maker.restore("web1:/" if number < 2 else "web1:/srv/data/big")
        assert received(peer) == expected(tree, keep=(lambda _one: True) if number < 2 else (lambda one: one == b"big"))
        assert report.failed == [] and path.read_bytes() == good


def test_an_image_that_is_gone_costs_its_members_and_those_of_the_other_dumps_come(maker):
    import shutil

    tree = tree_of(8)
    row = maker.dump(tree)
    later = {**tree, b"later": Node("f", b"later")}
    maker.dump(later, 1)
    shutil.rmtree(row.holding)
    report, peer = maker.restore("web1:/")
    assert set(peer.tree) >= {b"/srv/data/later"}
    assert {path for path, _why in report.failed} >= {"/srv/data/big", "/srv/data/folder 0/file 000"}
    assert report.exit_status == 1
    with pytest.raises(TargetRefused, match="cannot be read"):
        maker.restore("web1:/", at=row.begun_ns)


def test_several_sources_are_restored_by_one_request_each(maker):
    maker.declare("etc", "/etc")
    data, etc = {b".": folder_node(), b"a": Node("f", b"1")}, {b".": folder_node(), b"b": Node("f", b"2")}
    maker.dump(data)
    maker.dump(etc, source="etc", root="/etc")
    report, peer = maker.restore("web1:/")
    assert received(peer) == {**expected(data), **expected(etc, b"/etc")}
    assert [one["prefix"] for one in peer.requests] == ["etc", "srv/data"]
    assert len({one["name"] for one in peer.requests}) == len({one["dump"] for one in peer.requests}) == 1
    assert report.exit_status == 0


def test_an_outer_source_leaves_to_the_inner_what_is_the_inners(maker):
    maker.declare("srv", "/srv")
    outer = {b".": folder_node(), b"data": folder_node(), b"data/x": Node("f", b"old"), b"y": Node("f", b"y")}
    inner = {b".": folder_node(), b"x": Node("f", b"new")}
    maker.dump(outer, source="srv", root="/srv")
    maker.dump(inner)
    _report, peer = maker.restore("web1:/srv")
    assert received(peer) == {
        **expected(outer, b"/srv", keep=lambda path: not path.startswith(b"data")), **expected(inner)
    }  # fmt: skip


def test_what_was_there_but_is_in_no_dump_is_an_error_that_says_why(maker):
    maker.dump({b".": folder_node(), b"s": Node("n", link=b"socket"), b"f": Node("f", b"1")})
    with pytest.raises(RestoreIncomplete, match="socket"):
        maker.restore("web1:/srv/data/s")


def test_an_agent_that_gives_up_ends_the_restore_with_its_own_words(maker):
    from maker import Peer

    from backupcore.errors import AgentRefused

    maker.dump(tree_of(400, 4000))

    class Refusing(Peer):
        def expect(self, *kinds):
            if wire.START in kinds:
                return super().expect(*kinds)
            raise AgentRefused("no permit")

    with pytest.raises(AgentRefused, match="no permit") as caught:
        deliver.restore(maker.images(), maker.wanted("web1:/"), Options(), Refusing)
    assert caught.value.source == "data"

    class Cut(Peer):
        def send(self, kind, *payloads):
            if len(self.kinds) > 20:
                raise BrokenPipeError
            super().send(kind, *payloads)

        def expect(self, *kinds):
            if wire.START in kinds:
                return super().expect(*kinds)
            raise WireError("the line was cut")

    with pytest.raises(WireError, match="cut"):
        deliver.restore(maker.images(), maker.wanted("web1:/"), Options(), Cut)


def test_the_content_of_one_file_is_written_out_with_its_holes(maker):
    holes = Node("f", bytes(8192) + b"x" * 512 + bytes(100_000), sparse=[(8192, 512)])
    empty = Node("f", bytes(5000), sparse=[])
    tree = {
        b".": folder_node(), b"d": folder_node(), b"d/big": Node("f", os.urandom(30_000)), b"d/holes": holes,
        b"d/other": holes, b"d/null": Node("f"), b"d/empty": empty, b"d/l": Node("l", link=b"big", mode=0o777),
    }  # fmt: skip
    row = maker.dump(tree)
    for path in (b"d/big", b"d/holes", b"d/other", b"d/null", b"d/empty"):
        found = b"".join(deliver.cat(maker.images(), maker.wanted("web1:/srv/data/" + path.decode())))
        assert found == tree[path].data
    for word, why in (("d", "folder"), ("d/*", "others"), ("d/l", "symbolic link"), ("no", "was not there")):
        with pytest.raises(RequestError, match=why):
            list(deliver.cat(maker.images(), maker.wanted("web1:/srv/data/" + word)))
    start, _end = members(maker, row)[b"d/big"]
    maker.harm(row, table(row).cover(start, 1)[0].number)
    with pytest.raises(ImageDamaged, match="damaged"):
        list(deliver.cat(maker.images(), maker.wanted("web1:/srv/data/d/big")))


def test_the_newest_version_at_a_moment_is_sent(maker):
    tree = {b".": folder_node(), b"f": Node("f", b"one")}
    first = maker.dump(tree)
    tree[b"f"] = Node("f", b"two")
    second = maker.dump(tree, 1)
    moments = (first.begun_ns, b"one"), (second.begun_ns - SECOND, b"one"), (second.begun_ns, b"two"), (None, b"two")
    for at, data in moments:
        _report, peer = maker.restore("web1:/srv/data/f", at=at)
        assert peer.tree[b"/srv/data/f"][0][1] == data


@pytest.mark.parametrize("exact", [False, True])
def test_damage_under_members_that_are_made_anew_costs_only_them(maker, exact):
    shared = Node("f", os.urandom(30_000))
    tree = {
        b".": folder_node(), b"a": folder_node(), b"a/1": shared, b"b": folder_node(), b"b/2": shared,
        b"b/3": Node("f", os.urandom(3000)), b"c": folder_node(), b"c/f": Node("f", os.urandom(3000)),
    }  # fmt: skip
    row = maker.dump(tree)
    wanted = [path for path in tree if path[:1] in b"bc"]
    damaged = 0
    for number in range(len(table(row).frames)):
        frame = maker.harm(row, number)
        lost = hit(maker, row, frame)
        report, peer = maker.restore("web1:/srv/data/b", "web1:/srv/data/c", exact=exact)
        maker.harm(row, number)
        named = {path.removeprefix("/srv/data/").encode() for path, _why in report.failed}
        assert named == ({b"b/2"} if b"a/1" in lost else set()) | (lost & set(wanted) - {b"b/2"})
        damaged += bool(named)
        kept = {path for path in wanted if path.decode() not in map(bytes.decode, named) or tree[path].kind == "d"}
        assert set(peer.tree) == {b"/srv/data/" + path for path in kept}
        assert all(peer.tree[b"/srv/data/" + path][0] == tree[path].shown for path in kept)
    assert damaged > 5
