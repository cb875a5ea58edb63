"""Which keys open a dump: open ones first, then those somebody knows a passphrase of, nobody asked twice."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from passphrases import PASSPHRASE, Asked

from backupcore.errors import ConfigError, ImageDamaged, KeyLocked, KeyMissing, TargetRefused
from backupcore.image import recipients, seal
from backupcore.keys import ring, store

PREFIX = "web1/etc/20261122T183514Z-L0-914b8a4b"


class Dump:
    """A sealed dump: its manifest as far as keys need it, and its keys*.tsv."""

    def __init__(self, *sealed_for, number=1):
        self.keys = {name: seal.FileKey.make() for name in ("image-0000.tar.zst.enc", "index.tsv.zst.enc")}
        commitments = {name: key.commitment for name, key in self.keys.items()}
        named = tuple((one.type, one.fingerprint) for one in sealed_for)
        self.sealed = seal.Seal("server", named, commitments, {})
        self.prefix = PREFIX
        self.files, self.read = {}, []
        self.wrap(1, *sealed_for)

    def wrap(self, number, *whom):
        lines = [line for name, key in self.keys.items() for line in recipients.key_lines(name, key, whom)]
        name = "keys.tsv" if number == 1 else f"keys-{number}.tsv"
        self.files[name] = b"".join([*lines, *recipients.private_lines(whom)])

    def read_small(self, name, limit):
        self.read.append(name)
        if name not in self.files:
            raise TargetRefused(f"{name} is not there")
        return self.files[name]


def keep(folder, name, key, data):
    """A recipient whose private key lies on the server as data."""
    with store.changing(folder):
        store.add(folder, name, key.recipient.public)
    if data:
        path = store.private_file(folder, name)
        path.write_bytes(data)
        path.chmod(0o600)


def test_a_dump_that_is_not_sealed_needs_no_key(tmp_path):
    ring = store.private_keys(tmp_path)
    assert ring.unlock(SimpleNamespace(sealed=None, prefix=PREFIX), None) is None


def test_an_open_key_opens_with_one_file_read(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].to_pem())
    dump = Dump(pairs[0].recipient, pairs[1].recipient)
    ask = Asked(None)
    assert store.private_keys(tmp_path, (), ask).unlock(dump, dump.read_small) == dump.keys
    assert dump.read == ["keys.tsv"] and ask.questions == []


def test_only_the_files_that_are_asked_for_are_opened(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].to_pem())
    dump = Dump(pairs[0].recipient)
    found = store.private_keys(tmp_path).unlock(dump, dump.read_small, ["index.tsv.zst.enc"])
    assert list(found) == ["index.tsv.zst.enc"]


def test_a_key_file_opens_and_its_passphrase_is_asked_for_once(tmp_path, pairs):
    path = tmp_path / "usb.pem"
    path.write_bytes(pairs[0].protect_pem(PASSPHRASE))
    dump, ask = Dump(pairs[0].recipient), Asked(b"not this one", PASSPHRASE)
    ring = store.private_keys(tmp_path / "keys", [path], ask)
    assert ring.unlock(dump, dump.read_small) == dump.keys
    assert ring.unlock(dump, dump.read_small) == dump.keys
    assert [wrong for _what, wrong in ask.questions] == [False, True]


def test_a_protected_key_of_the_server_is_asked_for_only_when_the_dump_needs_it(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].protect_pem(PASSPHRASE))
    keep(tmp_path, "escrow", pairs[1], pairs[1].protect_pem(b"another passphrase"))
    dump, ask = Dump(pairs[1].recipient), Asked(b"another passphrase")
    assert store.private_keys(tmp_path, (), ask).unlock(dump, dump.read_small) == dump.keys
    assert ask.questions == [("key escrow", False)]


def test_who_does_not_know_one_passphrase_is_asked_for_the_next(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].protect_pem(PASSPHRASE))
    keep(tmp_path, "escrow", pairs[1], pairs[1].protect_pem(PASSPHRASE))
    dump = Dump(pairs[0].recipient, pairs[1].recipient)
    assert store.private_keys(tmp_path, (), Asked(None, PASSPHRASE)).unlock(dump, dump.read_small) == dump.keys


def test_a_passphrase_alone_opens(tmp_path, pairs):
    words = recipients.load_recipient(pairs[0].recipient.public, "words", pairs[0].protect(PASSPHRASE))
    dump = Dump(pairs[1].recipient, words)
    assert store.private_keys(tmp_path, (), Asked(PASSPHRASE)).unlock(dump, dump.read_small) == dump.keys


def test_a_renewed_file_of_keys_is_found_also_behind_a_gap(tmp_path, pairs):
    keep(tmp_path, "new", pairs[2], pairs[2].to_pem())
    dump = Dump(pairs[0].recipient)
    dump.wrap(4, pairs[2].recipient)
    assert store.private_keys(tmp_path).unlock(dump, dump.read_small) == dump.keys


def test_a_spoiled_file_of_keys_does_not_hide_a_good_one(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].to_pem())
    dump = Dump(pairs[0].recipient)
    good, dump.keys = dump.keys, {name: seal.FileKey.make() for name in dump.keys}
    dump.wrap(1, pairs[0].recipient)
    with pytest.raises(ImageDamaged, match="not the one that was signed"):
        store.private_keys(tmp_path).unlock(dump, dump.read_small)
    dump.keys = good
    dump.wrap(2, pairs[0].recipient)
    assert store.private_keys(tmp_path).unlock(dump, dump.read_small) == good


def test_without_any_key_nothing_is_read_and_the_error_names_whom_it_is_sealed_for(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], None)
    dump = Dump(pairs[0].recipient, pairs[1].recipient)
    with pytest.raises(KeyMissing, match="sealed for operations, rsa " + pairs[1].recipient.fingerprint[:16]) as error:
        store.private_keys(tmp_path).unlock(dump, dump.read_small)
    assert "--key FILE" in error.value.hint and dump.read == []


def test_a_protected_key_that_nobody_can_open_is_told_as_such(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].protect_pem(PASSPHRASE))
    dump = Dump(pairs[0].recipient)
    with pytest.raises(KeyLocked, match="key operations is protected by a passphrase"):
        store.private_keys(tmp_path).unlock(dump, dump.read_small)
    with pytest.raises(KeyLocked, match="does not open with this passphrase"):
        store.private_keys(tmp_path, (), Asked(b"wrong", None)).unlock(dump, dump.read_small)


def test_another_key_does_not_open(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].to_pem())
    dump = Dump(pairs[1].recipient)
    with pytest.raises(KeyMissing):
        store.private_keys(tmp_path).unlock(dump, dump.read_small)


def test_a_dump_whose_keys_cannot_be_read_says_so(tmp_path, pairs):
    keep(tmp_path, "operations", pairs[0], pairs[0].to_pem())
    dump = Dump(pairs[0].recipient)
    dump.files.clear()
    with pytest.raises(TargetRefused, match="keys.tsv is not there"):
        store.private_keys(tmp_path).unlock(dump, dump.read_small)


def test_a_planted_private_key_that_would_take_gigabytes_is_passed_over(tmp_path, pairs, monkeypatch):
    monkeypatch.setitem(recipients._SCRYPT, "n", 1 << 24)
    monkeypatch.setattr(recipients.hashlib, "scrypt", lambda *_a, **_k: bytes(32))
    bomb = pairs[0].protect(PASSPHRASE)
    monkeypatch.undo()
    planted = recipients.load_recipient(pairs[0].recipient.public, "words", bomb)
    dump, ask = Dump(planted), Asked(PASSPHRASE)
    begun = time.process_time()
    with pytest.raises(KeyMissing):
        store.private_keys(tmp_path, (), ask).unlock(dump, dump.read_small)
    assert ask.questions == [] and time.process_time() - begun < 2


def test_what_is_offered_is_any_bytes(pairs):
    good = pairs[0].protect(PASSPHRASE)
    assert recipients._is_modest(good)
    for at in range(120):
        recipients._is_modest(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])  # no crash
    for cut in (0, 1, 2, 5, 60, len(good) - 1):
        assert not recipients._is_modest(good[:cut])
    assert not recipients._is_modest(good + b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user for a moment")
def test_a_key_that_only_root_reads_is_told_with_its_reader_and_a_way(tmp_path):
    key = Path(tempfile.mkdtemp(prefix="stowage-key-")) / "escrow key.pem"
    key.parent.chmod(0o755)
    key.write_bytes(b"key")
    key.chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError) as caught:
            ring.read_file(key)
        os.seteuid(0)
        key.parent.chmod(0o700)
        os.seteuid(65534)
        with pytest.raises(ConfigError) as closed:
            ring.read_file(key)
    finally:
        os.seteuid(0)
        shutil.rmtree(key.parent)
    me = pwd.getpwuid(65534).pw_name
    told = f"{key}: Permission denied: this command runs as {me}"
    assert caught.value.message == f"{told}; it is of root, mode 0600"
    install = f"sudo install -m 0600 -o {me} '{key}' '/run/escrow key.pem' and --key"
    assert caught.value.hint.startswith(install) and f"--key - < '{key}'" in caught.value.hint
    assert closed.value.message == f"{told}; not even its folder may be entered"
