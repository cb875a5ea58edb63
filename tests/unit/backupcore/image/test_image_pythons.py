"""Image code on other Pythons: agents run it from 3.8 on, and the same values must give the same bytes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from pythons import require

ROOT = Path(__file__).resolve().parents[4]

# Standard library only; prints what must not depend on the Python, after reading back what it wrote.
PROGRAM = """
import hashlib, io, sys
sys.path.insert(0, sys.argv[1])
from backupcore.image import codec, dumpdir, frames, index, order, pax

made = [
    (pax.regular(b"./a/\\xff\\n", 0o4755, 2500001, 7, 3, -1500000000), b"abc"),
    (pax.regular(b"./b", 0o644, 1, 2, 5, 1700000000123456789), b"12345"),
    (pax.member(b"./" + b"d" * 300 + b"/", "d", 0o755, 0, 0, 0, 5 * 10**18 + 1,
                xattrs={b"user.a=b": b"\\0\\xff",
                        b"system.posix_acl_access": bytes.fromhex("0200000001000600ffffffff")},
                dumpdir=dumpdir.build_of([(b"z", "Y"), (b"a", "D")])), b""),
    (pax.member(b"./s", "f", 0, 0, 0, 9 << 30, 1, sparse=[(0, 512), (8 << 30, 512)]), b"x" * 1024),
    (pax.member(b"./l", "l", 0o777, 0, 0, 0, 1, b"\\xfe" * 200), b""),
]
archive = b"".join(header + content + pax.padding(len(content)) for header, content in made) + pax.END
rows = b"".join(
    index.format_entry(member.path, member.kind, member.mode, member.uid, member.gid, member.size, member.mtime_ns,
                       -1, 2**64 - 1, member.link,
                       hashlib.sha256(member.read()).digest() if member.kind == "f" else None)
    for member in pax.Reader(io.BytesIO(archive).read)
)
entries = list(index.read([b"".join(sorted(rows.splitlines(True), key=lambda line: index.parse(line[:-1]).key()))]))
table = b"".join(frames.write([frames.Frame(0, 0, 0, 9, 0, 12, bytes(32), frames.LAST)]))
assert len(entries) == len(made) and len(list(frames.read([table]))) == 1
for name in codec.available():
    one = codec.get(name)
    assert one.decompress(one.compress(archive), len(archive)) == archive
    assert b"".join(one.unpack([one.compress(archive), one.compress(rows)])) == archive + rows
print(hashlib.sha256(archive + rows + table).hexdigest())
"""


def run(python):
    return subprocess.run(
        [python, "-I", "-S", "-c", PROGRAM, str(ROOT)], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_another_python_writes_the_same_bytes(version):
    assert run(require(version)) == run(sys.executable)


def test_grammar_of_the_oldest():
    for path in sorted((ROOT / "backupcore" / "image").glob("*.py")):
        ast.parse(path.read_text("utf-8"), feature_version=(3, 8))
