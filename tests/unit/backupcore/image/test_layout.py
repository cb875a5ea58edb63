"""Names of files and folders of a dump."""

from __future__ import annotations

import pytest

from backupcore.image import layout


def test_names_as_the_format_says():
    assert [layout.part_name(7, codec) for codec in ("zstd", "gzip", "none")] == [
        "image-0007.tar.zst", "image-0007.tar.gz", "image-0007.tar",
    ]  # fmt: skip
    assert layout.part_name(0, "zstd", native="pgdump") == "image-0000.pgdump.zst"
    assert (layout.index_name("zstd"), layout.frames_name("none")) == ("index.tsv.zst", "frames.tsv")
    assert layout.dump_prefix("web1", "etc", "D") == "web1/etc/D"
    assert layout.dump_prefix("web1", "srv", "D", "a") == "web1/srv.a/D"


def test_the_shells_star_lists_the_parts_in_order():
    names = [layout.part_name(number, "zstd") for number in range(layout.MAX_PARTS)]

    assert names == sorted(names)
    assert [layout.parse_part_name(name) for name in names] == [(number, "tar") for number in range(len(names))]
    for number in (-1, layout.MAX_PARTS):
        with pytest.raises(ValueError):
            layout.part_name(number, "zstd")


@pytest.mark.parametrize(
    "name", ["image-0.tar", "image-0000.tar.bz2", "../image-0000.tar", "image-0000.tar\n", "index.tsv"]
)
def test_other_names_are_no_parts(name):
    assert layout.parse_part_name(name) is None
