"""The seal of one file, and for whom its key is wrapped: unit and property tests, with openssl as the second reader."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupcore.errors import ConfigError, ImageDamaged, KeyLocked, KeyMissing
from backupcore.image import recipients, seal

PREFIX = "web1/etc/20261122T213000Z-L0-0123abcd"
FILE = "image-0000.tar.zst.enc"


@pytest.fixture(scope="module")
def pair():
    return recipients.generate("operations", 3072)


@pytest.fixture(scope="module")
def other():
    return recipients.generate("escrow", 3072)


def sealed(frames: list[bytes], key: seal.FileKey, part: int = 0) -> list[tuple[int, int, bytes, bytes]]:
    sealer = seal.Sealer(key, PREFIX, seal.PART, part)
    found, place = [], 0
    for number, data in enumerate(frames):
        data = sealer.seal(data)
        found.append((number, place, data, sealer.mac(number, data, number == len(frames) - 1)))
        place += len(data)
    return found


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=6), st.randoms())
def test_any_frame_opens_alone_in_any_order(frames, random):
    key = seal.FileKey.make()
    rows = sealed(frames, key)
    opener = seal.Opener(key, PREFIX, seal.PART, 0)
    shuffled = list(zip(rows, frames))
    random.shuffle(shuffled)
    for (number, place, data, mac), plain in shuffled:
        assert opener.frame(number, place, data, number == len(frames) - 1, mac) == plain


def test_openssl_opens_a_whole_sealed_file_and_one_frame_of_it():
    key = seal.FileKey.make()
    frames = [b"a" * 37, b"b" * 1000, b"c" * 5]
    rows = sealed(frames, key)
    whole = b"".join(row[2] for row in rows)

    def openssl(data: bytes, counter: int) -> bytes:
        args = ["openssl", "enc", "-d", "-aes-256-ctr", "-K", key.secret[:32].hex(), "-iv", "%032x" % counter]
        return subprocess.run(args, input=data, capture_output=True, check=True).stdout

    assert openssl(whole, 0) == b"".join(frames)
    place = rows[1][1]
    assert openssl(whole[place - place % 16 :], place // 16)[place % 16 :][:1000] == frames[1]


@pytest.mark.parametrize("what", ["bit", "cut", "number", "part", "last", "kind", "prefix", "key", "mac"])
def test_a_frame_that_is_not_what_was_sealed_is_refused(what):
    key = seal.FileKey.make()
    number, place, data, mac = sealed([b"x" * 50, b"y" * 50], key)[1]
    prefix, kind, part, last = PREFIX, seal.PART, 0, True
    seal.Opener(key, prefix, kind, part).frame(number, place, data, last, mac)
    if what == "bit":
        data = bytes([data[0] ^ 1]) + data[1:]
    elif what == "cut":
        data = data[:-1]
    elif what == "number":
        number += 1
    elif what == "part":
        part = 1
    elif what == "last":
        last = False
    elif what == "kind":
        kind = seal.INDEX
    elif what == "prefix":
        prefix = PREFIX.replace("web1", "web2")
    elif what == "key":
        key = seal.FileKey(key.secret[:32] + bytes(32))
    else:
        mac = mac[:-1] + b"\0"
    with pytest.raises(ImageDamaged):
        seal.Opener(key, prefix, kind, part).frame(number, place, data, last, mac)


def test_a_table_is_checked_before_it_is_opened():
    key = seal.FileKey.make()
    sealer = seal.Sealer(key, PREFIX, seal.INDEX)
    data = sealer.seal(b"first ") + sealer.seal(b"second")
    digest = hashlib.sha256(data).digest()
    mac = sealer.table_mac(len(data), digest)
    opener = seal.Opener(key, PREFIX, seal.INDEX)
    opener.check_table(len(data), digest, mac)
    assert opener.stream().update(data) == b"first second"
    with pytest.raises(ImageDamaged):
        opener.check_table(len(data) + 1, digest, mac)
    with pytest.raises(ImageDamaged):
        seal.Opener(key, PREFIX, seal.FRAMES).check_table(len(data), digest, mac)


def test_a_key_never_shows_in_its_text():
    key = seal.FileKey.make()
    assert key.secret.hex() not in repr(key) and repr(key.secret) not in repr(key)


def manifest_seal(**change):
    value = {
        "version": 1, "by": "client", "cipher": "aes-256-ctr", "mac": "hmac-sha256",
        "recipients": [{"type": "rsa", "fingerprint": "0" * 64}],
        "keys": {"a.enc": "1" * 64, "b.enc": "2" * 64}, "macs": {"b.enc": "3" * 64},
    }  # fmt: skip
    return {**value, **change}


def test_the_record_in_the_manifest_comes_back():
    parsed = seal.parse(manifest_seal(), ("a.enc", "b.enc"), ("b.enc",))
    assert parsed.as_dict() == manifest_seal()
    assert seal.parse(None, (), ()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"cipher": "aes-256-gcm"}, {"mac": "none"}, {"by": "nobody"}, {"recipients": []},
        {"recipients": [{"type": "rsa", "fingerprint": "x"}]}, {"recipients": [{"type": 1, "fingerprint": "0" * 64}]},
        {"recipients": "x"}, {"keys": {"a.enc": "1" * 64}}, {"keys": {"a.enc": 5, "b.enc": "2" * 64}},
        {"keys": []}, {"macs": {}}, {"macs": None}, {"keys": 7},
    ],
)  # fmt: skip
def test_a_wrong_record_in_the_manifest_is_refused(change):
    with pytest.raises(ImageDamaged):
        seal.parse(manifest_seal(**change), ("a.enc", "b.enc"), ("b.enc",))


def record(key: seal.FileKey, *whose) -> seal.Seal:
    named = tuple((one.recipient.type, one.recipient.fingerprint) for one in whose)
    return seal.Seal("server", named, {FILE: key.commitment}, {})


def test_each_recipient_opens_and_nobody_else(pair, other):
    key = seal.FileKey.make()
    lines = recipients.read_keys([b"".join(recipients.key_lines(FILE, key, [pair.recipient, other.recipient]))])
    for private in (pair, other):
        assert recipients.unlock(PREFIX, record(key, pair, other), lines, [private]) == {FILE: key}
    with pytest.raises(KeyMissing):
        recipients.unlock(PREFIX, record(key, pair), lines[:1], [other])
    with pytest.raises(KeyMissing):
        recipients.unlock(PREFIX, record(key, pair), lines, [])


def test_a_key_that_was_not_committed_to_is_refused(pair):
    key, junk = seal.FileKey.make(), seal.FileKey.make()
    lines = recipients.read_keys([b"".join(recipients.key_lines(FILE, junk, [pair.recipient]))])
    with pytest.raises(ImageDamaged):
        recipients.unlock(PREFIX, record(key, pair), lines, [pair])


def test_a_spoiled_line_is_passed_over_when_a_renewed_one_is_good(pair):
    key = seal.FileKey.make()
    bad = b"%s\trsa\t%s\tAAAA\n" % (FILE.encode(), pair.recipient.fingerprint.encode())
    good = b"".join(recipients.key_lines(FILE, key, [pair.recipient]))
    future = b"%s\tkyber\t%s\tAAAA\nno line\n\xff\t\t\t\n%s\trsa\tx\t!!\n" % (FILE.encode(), b"9" * 64, FILE.encode())
    lines = recipients.read_keys([future + bad, good])
    assert recipients.unlock(PREFIX, record(key, pair), lines, [pair]) == {FILE: key}


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_keys_are_read_without_a_crash(data):
    for line in recipients.read_keys([data]):
        assert isinstance(line.value, bytes)


def test_a_protected_private_key_opens_with_its_passphrase_only_here_and_in_openssl(pair, tmp_path):
    pem = pair.protect_pem(b"two words")
    assert recipients.load_private(pem, b"two words").recipient.fingerprint == pair.recipient.fingerprint
    for wrong in (None, b"", b"other"):
        with pytest.raises(KeyLocked):
            recipients.load_private(pem, wrong)
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "words").write_bytes(b"two words\n")
    args = ["openssl", "pkey", "-in", "key.pem", "-passin", "file:words", "-pubout"]
    assert subprocess.run(args, cwd=tmp_path, capture_output=True, check=True).stdout == pair.recipient.public


def test_a_passphrase_recipient_needs_no_key_file(pair):
    who = recipients.load_recipient(pair.recipient.public, "paper", pair.protect(b"words"))
    key = seal.FileKey.make()
    text = b"".join([*recipients.key_lines(FILE, key, [who]), *recipients.private_lines([who])])
    lines = recipients.read_keys([text])
    private = recipients.load_private(recipients.offered(lines)[who.fingerprint], b"words")
    assert recipients.unlock(PREFIX, record(key, private), lines, [private]) == {FILE: key}


def test_short_and_foreign_keys_are_refused():
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(ConfigError):
            recipients.load_private(private)
        with pytest.raises(ConfigError):
            recipients.load_recipient(public)
    for garbage in (b"", b"garbage", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(ConfigError):
            recipients.load_recipient(garbage)
        with pytest.raises(ConfigError):
            recipients.load_private(garbage)


def test_a_file_of_wrapped_keys_that_no_rewrap_makes_is_told():
    files = ["image-0000.tar.zst.enc", "index.tsv.zst.enc"]

    def lines(*names, kind="rsa", who="ab" * 32):
        return b"".join(recipients.format_line(recipients.KeyLine(name, kind, who, b"wrapped")) for name in names)

    right = lines(*files)
    for good in (right, right + lines(*files, kind="passphrase") + lines("-", kind="passphrase"),
                 right + lines(files[0], kind="of-tomorrow")):  # fmt: skip
        assert recipients.stranger(good, files) is None
    for bad, why in (
        (b"", "whole line"), (right[:-1], "whole line"), (right + b"x\ty\n", "line 3 is no wrapped key"),
        (right + b"\n", "line 3"), (lines(*files, "image-0001.tar.zst.enc"), "line 3 is for a file that is not there"),
        (right + lines("-"), "not there"), (lines(files[0]), "not all keys for abababababababab"),
    ):  # fmt: skip
        assert why in recipients.stranger(bad, files)
