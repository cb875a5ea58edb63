"""What came of an index before the line was cut: counted, or refused as damaged."""

from __future__ import annotations

import pytest

from backupcore.dump import resume
from backupcore.errors import ImageDamaged
from backupcore.image import codec, index

FOLDER = index.format_entry(b".", "d", 0o755, 0, 0, 0, 1, 1, 1, b"", None, 0, 512)
FILE = index.format_entry(b"a", "f", 0o644, 0, 0, 7, 1, 1, 2, b"", bytes(32), 512, 1024, "s")
GZIP = codec.get("gzip")


def counted(tmp_path, *lines):
    data = GZIP.compress(b"".join(lines))
    (tmp_path / "index").write_bytes(data + b"what came behind it")
    return resume.counts(tmp_path / "index", len(data), GZIP)


def test_lines_files_bytes_and_suspects_are_counted(tmp_path):
    assert counted(tmp_path, FOLDER, FILE) == resume.Counts(2, 1, 7, 1)


@pytest.mark.parametrize("line", [
    b"no row\n", b"\n", b"a\tf\n", b"a\tf\t1\t2\t3\tmany\n", b"a\tf\t1\t2\t3\t" + b"9" * 5000 + b"\n",
])  # fmt: skip
def test_lines_of_a_hostile_client_are_damage_and_no_fault_of_ours(tmp_path, line):
    with pytest.raises(ImageDamaged):
        counted(tmp_path, FOLDER, line, FILE)
