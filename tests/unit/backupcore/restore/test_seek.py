"""Looking up paths in an index gives what reading all of it gives, from few of its pieces."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupcore.errors import ImageDamaged
from backupcore.image import codec, index, order
from backupcore.restore import indexes, seek

NAME = st.binary(min_size=1, max_size=3).filter(
    lambda name: b"/" not in name and b"\0" not in name and name.strip(b".")
)


@st.composite
def trees(draw):
    """{path: kind} with the folders that are needed."""
    found = {b".": "d"}
    for parts in draw(st.lists(st.lists(NAME, min_size=1, max_size=4), max_size=30)):
        for count in range(1, len(parts)):
            found[b"/".join(parts[:count])] = "d"
        found.setdefault(b"/".join(parts), draw(st.sampled_from("fdlpn-")))
    return found


def lines_of(tree):
    rows = sorted((order.key(path, kind == "d"), path, kind) for path, kind in tree.items())
    links = {"-": b"f", "n": b"excluded", "l": b"to"}
    return [index.format_entry(path, kind, link=links.get(kind, b"")) for _key, path, kind in rows]


def written(path, lines, count, packer):
    pieces = [b"".join(lines[at : at + count]) for at in range(0, len(lines), count)]
    path.write_bytes(b"".join(map(packer.compress, pieces)))
    return path


@settings(deadline=None, max_examples=60)
@given(tree=trees(), data=st.data(), count=st.integers(1, 9), packed=st.booleans())
def test_what_is_looked_up_is_what_is_read(tmp_path_factory, tree, data, count, packed):
    name = "index.tsv.zst" if packed else "index.tsv"
    path = written(
        tmp_path_factory.mktemp("seek") / name, lines_of(tree), count, codec.get("zstd" if packed else "none")
    )
    known = st.sampled_from(sorted(tree)).filter(lambda path: path != b".")
    strange = st.lists(NAME, min_size=1, max_size=3).map(b"/".join)
    bases = data.draw(st.lists(known if len(tree) > 1 else strange, min_size=1, max_size=3))
    bases += data.draw(st.lists(strange, max_size=2))
    everything = list(indexes.entries(indexes.chunks(path), bases))
    assert list(indexes.entries(seek.chunks(path, bases), bases)) == everything


def test_few_pieces_of_a_large_index_are_unpacked(tmp_path, monkeypatch):
    tree = {b".": "d", **{b"d%02d" % n: "d" for n in range(40)}}
    tree.update({b"d%02d/f%03d" % (n, m): "f" for n in range(40) for m in range(100)})
    for packer, name in ((codec.get("zstd"), "index.tsv.zst"), (codec.get("none"), "index.tsv")):
        monkeypatch.setattr(seek, "STEP", 2000)
        path = written(tmp_path / name, lines_of(tree), 20, packer)
        (found,) = [entry for entry in indexes.entries(seek.chunks(path, [b"d20/f050"]), [b"d20/f050"])
                    if entry.path == b"d20/f050"]  # fmt: skip
        assert found.kind == "f"
        assert sum(len(chunk) for chunk in seek.chunks(path, [b"d20/f050"])) < path.stat().st_size / (
            1 if packer.name == "zstd" else 10
        )
        assert len(list(seek.chunks(path, [b"d20/f050"]))) <= 6
        whole = list(indexes.entries(seek.chunks(path, [b"d20"]), [b"d20"]))
        assert len([entry for entry in whole if entry.path.startswith(b"d20/")]) == 100


def test_what_cannot_be_searched_says_so(tmp_path):
    lines = lines_of({b".": "d", b"a": "f", b"b": "f"})
    packed = tmp_path / "index.tsv.gz"
    packed.write_bytes(gzip.compress(b"".join(lines)))
    text = b"".join(lines)
    torn = tmp_path / "torn.tsv.zst"
    zstd = codec.get("zstd")
    torn.write_bytes(zstd.compress(text[:-7]) + zstd.compress(text[-7:]))
    cut = tmp_path / "cut.tsv.zst"
    cut.write_bytes(zstd.compress(text)[:-3])
    rubbish = tmp_path / "rubbish.tsv.zst"
    rubbish.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 40)
    for path in (packed, torn, cut, rubbish):
        with pytest.raises((seek.Unseekable, ImageDamaged)):
            list(seek.chunks(path, [b"b"]))
    empty = tmp_path / "empty.tsv.zst"
    empty.write_bytes(b"")
    assert list(seek.chunks(empty, [b"b"])) == []
