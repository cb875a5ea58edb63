"""SHA-256 by the interpreter and by OpenSSL: the same digests, and which is loaded when."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from backupcore.agent import archive, hashes, outbox
from backupcore.image import codec

ROOT = Path(__file__).resolve().parents[4]
ASK = (
    "import sys\n"
    "from backupcore.agent import hashes\n"
    "print('_hashlib' in sys.modules, hashes.at_hand() is hashes.own)\n"
    "hashes.quick()\n"
    "print('hashlib' in sys.modules, hashes.at_hand() is hashes.quick())\n"
)


def test_both_say_the_same():
    for data in (b"", b"a", bytes(1000), memoryview(b"abc" * 99)):
        assert hashes.own(data).digest() == hashes.quick()(data).digest() == hashlib.sha256(data).digest()


def test_openssl_is_loaded_when_it_is_asked_for():
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True", "True", "True"], done.stderr


@pytest.mark.parametrize("size, count, quick", [(1000, 10, False), (300_000, 3, False), (300_000, 4, True),
                                                (2 << 20, 1, True)])  # fmt: skip
def test_an_archive_takes_openssl_from_a_megabyte_on(tmp_path, monkeypatch, size, count, quick):
    monkeypatch.setattr(hashes, "at_hand", lambda: hashes.own)
    monkeypatch.setattr(archive, "SAFE_AGE", -1 << 62)
    monkeypatch.chdir(tmp_path)
    names = [b"f%d" % number for number in range(count)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(name * (size // len(name)) + bytes(size % len(name)))

    class Channel:
        def send(self, *_message):
            pass

    box = outbox.Outbox(Channel(), codec.get("none"), outbox.Numbering(1 << 30), 1)
    made = archive.Archive(box, print, {})
    place = made.plain_files(names, 0, b"", lambda *_row: None)
    for name in names[place:]:
        made.regular(name, name)
    found = made._hash_for(0) is not hashes.own
    made.close()
    box.close()
    assert made.files == count and found is quick
