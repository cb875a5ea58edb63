"""The manifest: its exact bytes, its signature, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore import files
from backupcore.errors import ConfigError, ImageDamaged
from backupcore.image import layout, manifest, signing
from backupcore.image.manifest import FileRecord, Link, Manifest, Signer
from backupcore.image.seal import Seal

SHA = "ab" * 32
FULL = Manifest(
    server="0123456789abcdef", client="web1", source="etc", type="tree", path="/etc",
    dump="20261122T170000Z-L0-00000001", level=0, counter=3,
    begun_ns=1_795_366_800_123_456_789, ended_ns=1_795_366_801_000_000_000, codec="zstd",
    archive_size=10240, entries=4, parts=(FileRecord("image-0000.tar.zst", 900, SHA),),
    index=FileRecord("index.tsv.zst", 80, SHA), frames=FileRecord("frames.tsv.zst", 70, SHA), agent="0.1.0",
    versions={"python": "3.11.7"}, sums_sha256=SHA, restore_sha256=SHA, signer=SHA,
)  # fmt: skip
INCREMENTAL = replace(
    FULL,
    dump="20261123T170000Z-L1-00000002",
    level=1,
    base=Link(FULL.dump, SHA),
    previous=Link(FULL.dump, SHA),
    counter=4,
)

counts = st.integers(0, 2**63)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)


@st.composite
def manifests(draw):
    codec = draw(st.sampled_from(["zstd", "gzip", "none"]))
    level = draw(st.integers(0, 9))

    def record(name):
        return FileRecord(name, draw(counts), draw(digests))

    return Manifest(
        server=draw(names), client=draw(names), source=draw(names), type="tree", path=draw(st.text()),
        dump="20261122T170000Z-L%d-0000000a" % level, level=level, counter=draw(st.integers(1, 2**63)),
        begun_ns=draw(st.integers(0, 4 * 10**18)), ended_ns=draw(st.integers(0, 4 * 10**18)), codec=codec,
        archive_size=draw(counts), entries=draw(counts),
        parts=tuple(record(layout.part_name(number, codec)) for number in range(draw(st.integers(1, 4)))),
        index=record(layout.index_name(codec)), frames=record(layout.frames_name(codec)),
        base=Link("20261121T170000Z-L0-0000000b", draw(digests)) if level else None,
        previous=draw(st.none() | st.just(Link("20261121T170000Z-L0-0000000b", SHA))),
        segment=draw(st.none() | names), agent=draw(st.text()),
        versions=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        warnings=draw(counts), suspects=draw(counts), sums_sha256=draw(digests), restore_sha256=draw(digests),
        signer=draw(digests),
    )  # fmt: skip


@given(manifests())
def test_any_manifest_comes_back(one):
    data = one.to_bytes()

    assert Manifest.from_bytes(data) == one
    assert data.isascii() and data.endswith(b"\n}\n")
    assert list(json.loads(data)) == sorted(json.loads(data))


def test_the_fields_are_those_of_the_format():
    found = json.loads(INCREMENTAL.to_bytes())

    assert set(found) == set(
        "agent archive_size base begun client codec counter dump ended entries files format level parts path previous "
        "restore_sha256 seal segment server signer source sums_sha256 suspects type versions warnings".split()
    )
    assert found["begun"] == "2026-11-22T17:00:00.123456789Z" and found["seal"] is None and found["format"] == 1
    assert found["base"] == {"dump": FULL.dump, "manifest_sha256": SHA}
    assert found["parts"] == [{"name": "image-0000.tar.zst", "sha256": SHA, "size": 900}]
    assert found["files"]["index.tsv.zst"] == {"sha256": SHA, "size": 80}


def changed(**fields):
    plain = json.loads(INCREMENTAL.to_bytes())
    plain.update(fields)
    return json.dumps(plain).encode()


WRONG = [
    ("server", ["", None, "a/b", "..", 1]), ("client", ["", "../x", "a b", None]), ("source", ["", "/", None]),
    ("segment", ["a/b", 1, ""]),
    ("dump", ["", "x", "20261123T170000Z-L1-0000000", None, "20261123T170000Z-L2-00000002"]),
    ("level", [0, 2, -1, "1", 1.0, True, None]), ("counter", [0, -1, "4", 1.5, None]),
    ("begun", [None, 5, "", "2026-11-22"]),
    ("ended", ["2026-13-22T17:00:00.123456789Z", "2026-11-22T17:00:00Z"]), ("codec", ["lzma", None, ""]),
    ("archive_size", [-1, "5", None, 1.0]), ("entries", [-1, None]), ("warnings", [-1, None]), ("suspects", ["0"]),
    ("base", [None, {}, {"dump": "x", "manifest_sha256": SHA}, {"dump": FULL.dump, "manifest_sha256": "x"}, []]),
    ("previous", [{}, "x"]), ("versions", [None, [], {"a": 1}]), ("seal", ["x", 1, []]), ("agent", [None, 1]),
    ("sums_sha256", ["", None, SHA[1:], SHA.upper()]), ("restore_sha256", [""]), ("signer", [""]), ("path", [None, 5]),
    ("parts", [[], None, {}, [5], [{"name": "image-0001.tar.zst", "size": 1, "sha256": SHA}],
               [{"name": "image-0000.tar.gz", "size": 1, "sha256": SHA}],
               [{"name": "../image-0000.tar.zst", "size": 1, "sha256": SHA}],
               [{"name": "image-0000.tar.zst", "size": -1, "sha256": SHA}],
               [{"name": "image-0000.tar.zst", "size": 1, "sha256": "x"}]]),
    ("files", [None, {}, {"index.tsv.zst": {"size": 1, "sha256": SHA}}]),
]  # fmt: skip


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG for value in values])
def test_a_wrong_field_is_refused_by_name(name, value):
    with pytest.raises(ImageDamaged, match="no |wrong one"):
        Manifest.from_bytes(changed(**{name: value}))


@pytest.mark.parametrize("name", sorted(set(json.loads(FULL.to_bytes())) - {"seal", "segment", "base", "previous"}))
def test_a_missing_field_is_refused(name):
    plain = json.loads(FULL.to_bytes())
    del plain[name]
    with pytest.raises(ImageDamaged):
        Manifest.from_bytes(json.dumps(plain).encode())


def test_a_sealed_dump_is_known_by_its_seal_and_its_names():
    def sealed(record):
        return replace(record, name=record.name + ".enc")

    parts, index, frames = tuple(map(sealed, FULL.parts)), sealed(FULL.index), sealed(FULL.frames)
    how = Seal(
        "client", (("rsa", "0" * 64),), {record.name: "1" * 64 for record in (*parts, index, frames)},
        {index.name: "2" * 64, frames.name: "3" * 64},
    )  # fmt: skip
    one = replace(FULL, seal=how.as_dict(), parts=parts, index=index, frames=frames)
    assert Manifest.from_bytes(one.to_bytes()) == one
    assert one.sealed == how and FULL.sealed is None
    for half in (
        replace(one, seal=None), replace(one, seal={"cipher": "later"}), replace(one, parts=FULL.parts),
        replace(one, index=FULL.index),
    ):  # fmt: skip
        with pytest.raises(ImageDamaged):
            Manifest.from_bytes(half.to_bytes())


def test_fields_of_a_later_version_are_left_but_a_later_format_is_refused():
    assert Manifest.from_bytes(changed(comment="later")) == INCREMENTAL
    with pytest.raises(ImageDamaged, match="format 2") as caught:
        Manifest.from_bytes(changed(format=2))
    assert "RESTORE.txt" in caught.value.hint


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"5", b"\xff", b'{"format": 1, "format": 1}', b'{"format": NaN}', b"[" * 100_000, b"{}" * 2],
)
def test_what_is_no_json_object_is_refused(data):
    with pytest.raises(ImageDamaged):
        Manifest.from_bytes(data)
    with pytest.raises(ImageDamaged):
        Manifest.from_bytes(b" " * (manifest.SIZE_LIMIT + 1))


def test_a_key_given_twice_is_refused():
    data = FULL.to_bytes().replace(b'"codec"', b'"codec": "gzip",\n "codec"')
    assert json.loads(data)["codec"] == "zstd"
    with pytest.raises(ImageDamaged):
        Manifest.from_bytes(data)


@pytest.fixture
def signer(tmp_path):
    return Signer.make(tmp_path / "keys")


def test_a_key_lasts_with_the_folder_it_is_in(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", lambda path: synced.append(os.fspath(path)))
    Signer.make(tmp_path / "keys")
    assert synced == [str(tmp_path), str(tmp_path / "keys"), str(tmp_path / "keys")]


def test_a_signed_manifest_opens_with_the_right_key_only(tmp_path, signer):
    other = Signer.make(tmp_path / "other")
    data = replace(FULL, signer=signer.fingerprint).to_bytes()
    signature = signer.sign(data)
    keys = {one.fingerprint: one.public for one in (other, signer)}

    assert len(signature) == 64
    assert manifest.open_manifest(data, signature, keys).client == "web1"
    for wrong in ((data + b" ", signature), (data, bytes(64)), (data, signature[:63]), (data, signature + b"\0"),
                  (data, other.sign(data))):  # fmt: skip
        with pytest.raises(ImageDamaged):
            manifest.open_manifest(*wrong, keys)
    for fewer in ({}, {other.fingerprint: other.public}):
        with pytest.raises(ImageDamaged, match="signature"):
            manifest.open_manifest(data, signature, fewer)


def test_keys_are_kept_and_found_again(tmp_path, signer):
    folder = tmp_path / "keys"

    assert os.stat(folder / signing.PRIVATE).st_mode & 0o777 == 0o600
    assert Signer.load(folder).fingerprint == Signer.load_or_make(folder).fingerprint == signer.fingerprint
    assert signing.load_public_keys(folder) == {signer.fingerprint: signer.public}
    trusted = Signer.load_or_make(tmp_path / "other")
    (folder / "backup2.pub").write_bytes(trusted.public_pem)
    assert set(signing.load_public_keys(folder)) == {signer.fingerprint, trusted.fingerprint}


def test_a_key_is_never_overwritten_and_never_taken_when_others_can_read_it(tmp_path, signer):
    folder = tmp_path / "keys"
    with pytest.raises(ConfigError, match="already"):
        Signer.make(folder)
    os.chmod(folder / signing.PRIVATE, 0o640)
    with pytest.raises(ConfigError, match="others can read"):
        Signer.load(folder)
    with pytest.raises(ConfigError, match="no signing key"):
        Signer.load(tmp_path)


def test_files_that_are_no_keys_are_named(tmp_path, signer):
    folder = tmp_path / "keys"
    (folder / "bad.pub").write_bytes(b"no key")
    with pytest.raises(ConfigError, match="bad.pub"):
        signing.load_public_keys(folder)
    (folder / signing.PRIVATE).write_bytes(b"no key")
    with pytest.raises(ConfigError, match="signing.pem"):
        Signer.load(folder)


def test_a_run_record_names_its_manifests_and_is_signed(signer):
    made = [
        {"client": client, "source": "etc", "dump": FULL.dump, "counter": 1, "manifest_sha256": SHA} for client in "ba"
    ]
    data, signature = manifest.sign_run_record(signer, "0123", "run", 5, 6, "OK", made)

    assert [one["client"] for one in json.loads(data)["manifests"]] == ["a", "b"]
    assert signing.verify(data, signature, {signer.fingerprint: signer.public}) == signer.fingerprint


def test_a_run_record_holds_the_end_of_the_audit_log_and_older_ones_hold_none(signer):
    keys = {signer.fingerprint: signer.public}
    head = manifest.AuditHead(7, SHA)
    data, signature = manifest.sign_run_record(signer, "0123", "run", 5, 6, "OK", [], head)
    assert manifest.open_run_record(data, signature, keys).audit == head
    data, signature = manifest.sign_run_record(signer, "0123", "run", 5, 6, "OK", [])
    assert "audit" not in json.loads(data), "as servers without a log wrote it"
    assert manifest.open_run_record(data, signature, keys).audit is None


@pytest.mark.parametrize("wrong", [[], {}, {"entries": -1, "sha256": SHA}, {"entries": 1, "sha256": "x"}, "head"])
def test_a_run_record_with_another_kind_of_end_is_refused(signer, wrong):
    data, _signature = manifest.sign_run_record(signer, "0123", "run", 5, 6, "OK", [])
    data = json.dumps({**json.loads(data), "audit": wrong}).encode()
    with pytest.raises(ImageDamaged, match="or a wrong one"):
        manifest.open_run_record(data, signer.sign(data), {signer.fingerprint: signer.public})
