"""State out of indexes where no real tree leads easily: what was not read, mounts, hard links, lines that lie."""

from __future__ import annotations

import stat

import pytest

from backupcore.dump import fold
from backupcore.errors import ImageDamaged
from backupcore.image import state
from backupcore.image.index import format_entry
from backupcore.image.state import ABSENT_ROW, CARRIED, MOUNT, SUSPECT

NS = 10**9
KEPT = SUSPECT | CARRIED


def line(path, kind="f", link=b"", flags="", inode=5, size=7, when=10 * NS, digest=None):
    if kind in "-n":
        return format_entry(path, kind, 0, 0, 0, 0, 0, 0, 0, link, None, 0, 0, flags)
    size = size if kind in "fh" else 0
    return format_entry(path, kind, 0o644, 1, 2, size, when, when + 1, inode, link, digest, 0, 512, flags)


def made(tmp_path, *chain):
    """path of a folder -> (its own row, names -> rows, sub-folders)."""
    got = []
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    texts = [b"".join(lines) for lines in chain]
    fold.fold([lambda text=text: [text[:11], text[11:]] for text in texts], folder, got.append)
    found = {}
    for block in state.read(got):
        names, rows, folders = block.parts()
        own, known, below = found.setdefault(block.path, (block.own, {}, []))
        for place, name in enumerate(names):
            known[name] = tuple(rows[place * 6 : place * 6 + 6])
        below += folders
    return found


def row(kind=stat.S_IFREG, flags=0, size=7, when=10 * NS, inode=5, links=1):
    return (kind | 0o644 | flags, size, when, when + 1, inode, links)


def own(flags=0):
    return (stat.S_IFDIR | 0o644 | flags, 0, 10 * NS, 10 * NS + 1, 5, 0)


FULL = [line(b".", "d"), line(b"a"), line(b"z"), line(b"d", "d"), line(b"d/f"), line(b"d/e", "d"), line(b"d/e/g"),
        line(b"x", "n", b"excluded", "d")]  # fmt: skip


def test_a_full(tmp_path):
    assert made(tmp_path, FULL) == {
        b".": (own(), {b"a": row(), b"z": row()}, [b"d", b"x"]),
        b"d": (own(), {b"f": row()}, [b"e"]),
        b"d/e": (own(), {b"g": row()}, []),
        b"x": (ABSENT_ROW, {}, []),
    }


def test_what_could_not_be_read_keeps_its_row_and_is_suspect(tmp_path):
    found = made(tmp_path, FULL, [line(b"a", "n", b"unreadable"), line(b"new", "n", b"socket"),
                                  line(b"d", "n", b"unreadable", "d")])  # fmt: skip
    assert found[b"."] == (own(), {b"a": row(flags=KEPT), b"new": ABSENT_ROW, b"z": row()}, [b"d", b"x"])
    assert found[b"d"] == (own(KEPT), {b"f": row(flags=KEPT)}, [b"e"])
    assert found[b"d/e"] == (own(KEPT), {b"g": row(flags=KEPT)}, [])
    # read again in the next dump, but for one below
    later = [line(b".", "d"), line(b"a", size=8), line(b"d", "d"), line(b"d/f", size=9),
             line(b"d/e", "n", b"unreadable", "d")]  # fmt: skip
    found = made(tmp_path, FULL, [line(b"a", "n", b"unreadable"), line(b"d", "n", b"unreadable", "d")], later)
    assert found[b"."][1] == {b"a": row(size=8), b"z": row()}
    assert found[b"d"] == (own(), {b"f": row(size=9)}, [b"e"])
    assert found[b"d/e"] == (own(KEPT), {b"g": row(flags=KEPT)}, [])


def test_a_mount_over_a_folder_and_one_in_a_full(tmp_path):
    mount = (stat.S_IFDIR | 0o644 | MOUNT, 0, 0, 0, 0, 0)
    found = made(tmp_path, FULL, [line(b"d", "d", flags="m")])
    assert found[b"d"] == (mount, {b"f": row(flags=KEPT)}, [b"e"])
    assert found[b"d/e"] == (own(KEPT), {b"g": row(flags=KEPT)}, [])
    assert made(tmp_path, [line(b".", "d"), line(b"m", "d", flags="m")])[b"m"] == (mount, {}, [])


def test_what_is_gone_is_gone_and_kinds_change_places(tmp_path):
    found = made(tmp_path, FULL, [
        line(b".", "d"), line(b"a", "-", b"f"), line(b"d"), line(b"d", "-", b"d"), line(b"d/f", "-", b"f"),
        line(b"d/e", "-", b"d"), line(b"d/e/g", "-", b"f"), line(b"a", "d"),
    ][:3] + [line(b"a", "d"), line(b"d", "-", b"d"), line(b"d/f", "-", b"f"), line(b"d/e", "-", b"d"),
             line(b"d/e/g", "-", b"f"), line(b"x", "-", b"d")])  # fmt: skip
    assert found == {b".": (own(), {b"d": row(), b"z": row()}, [b"a"]), b"a": (own(), {}, [])}


def test_names_of_one_file_are_counted_by_its_links(tmp_path):
    full = [line(b".", "d"), line(b"a"), line(b"b", "h", b"a"), line(b"c", "l", b"to", inode=9),
            line(b"e", "h", b"c", inode=9, size=2), line(b"f", inode=5, when=11 * NS), line(b"s", "d"),
            line(b"s/z", "h", b"a")]  # fmt: skip
    found = made(tmp_path, full)
    assert found[b"."][1] == {
        b"a": row(links=3), b"b": row(links=3), b"f": row(when=11 * NS),
        b"c": row(stat.S_IFLNK, size=2, inode=9, links=2), b"e": row(stat.S_IFLNK, size=2, inode=9, links=2),
    }  # fmt: skip
    assert found[b"s"][1] == {b"z": row(links=3)}
    # dumped again as they are: still three; and when a name went, the others came with another ctime
    assert made(tmp_path, full, [line(b"a"), line(b"b", "h", b"a")])[b"."][1][b"a"] == row(links=3)
    fewer = [line(b"a", when=20 * NS), line(b"b", "h", b"a", when=20 * NS), line(b"s", "d"), line(b"s/z", "-", b"f")]
    assert made(tmp_path, full, fewer)[b"."][1][b"b"] == row(when=20 * NS, links=2)


def test_suspects_stay_suspect_and_large_folders_have_several_blocks(tmp_path):
    many = [line(b".", "d"), *(line(b"%05d" % n, flags="s" if n == 4500 else "") for n in range(5000))]
    many += [line(b"x%05d" % n, "d") for n in range(9000)]
    found = made(tmp_path, many)
    assert found[b"."][1][b"04500"] == row(flags=SUSPECT) and found[b"."][1][b"04501"] == row()
    assert len(found[b"."][1]) == 5000 and found[b"."][2] == [b"x%05d" % n for n in range(9000)]


@pytest.mark.parametrize("lines", [
    [], [line(b"a")], [line(b".", "d"), line(b"d/f")], [line(b".", "d"), line(b"d/e", "d")],
    [line(b".", "d"), line(b"b"), line(b"a")], [line(b".", "d"), line(b"a")[:-1]],
    [line(b".", "d"), line(b"a", inode=(1 << 65))], [line(b".", "d"), line(b"a", when=NS * 10**18)],
    [line(b".", "d"), line(b"a", size=1 << 63)], [line(b".", "n", b"unreadable", "d"), line(b"d/f")],
])  # fmt: skip
def test_indexes_that_cannot_be_are_refused(tmp_path, lines):
    with pytest.raises(ImageDamaged):
        made(tmp_path, lines)


@pytest.mark.parametrize("bad", [b"\n", b"no line\n", b"a\tx\t1\n", b"f\n"])
def test_what_is_no_line_is_refused_before_the_rest_is_read(tmp_path, bad):
    def chunks():
        yield line(b".", "d") + bad
        raise AssertionError("it reads on")

    with pytest.raises(ImageDamaged):
        fold.fold([chunks], tmp_path, lambda blocks: None)
