"""Sealed dumps in a rebuild: without a key they are known and have no index; with one the index lies here opened."""

from __future__ import annotations

import pytest
import sealed

from backupcore.catalog import places
from backupcore.image import codec
from backupcore.keys.store import private_keys

TREE = {"passwd": b"root:x:0:0\n" * 40, "hosts": b"127.0.0.1 localhost\n"}


@pytest.fixture(params=["server", "client"])
def dump(world, request):
    """A sealed dump on the target."""
    found = sealed.make(
        world.root / "nas", TREE, by=request.param, signer=world.signer, server=world.server,
        private=world.root / "pending",
    )  # fmt: skip
    keys = world.root / "nas/.stowage/keys"
    keys.mkdir(parents=True)
    (keys / f"{world.signer.fingerprint}.pub").write_bytes(world.signer.public_pem)
    return found


def ring(lost, private, passphrase=None, ask=None):
    path = lost.root / "escrow.pem"
    path.write_bytes(private.protect_pem(passphrase) if passphrase else private.to_pem())
    path.chmod(0o600)
    return private_keys(lost.settings.keys, [path], ask)


def index(lost, dump):
    return places.find_index(lost.settings.state, "web1", "etc", dump.manifest.dump)


def test_without_a_key_it_is_known_and_has_no_index(lost, dump):
    for keys in (None, private_keys(lost.settings.keys)):
        report = lost.rebuild(keys=keys)
        assert (report.sealed, report.indexes.closed, report.indexes.failed, report.status) == (1, 1, 0, "OK")
        assert "sealed" in report.indexes.why_closed
    assert index(lost, dump) is None
    (row,) = lost.catalog.dumps()
    assert (row.id, row.state) == (dump.manifest.dump, None)  # no state: the next dump of the source is a full


def test_with_a_key_the_index_lies_here_opened(lost, dump):
    lost.rebuild()
    report = lost.rebuild(keys=ring(lost, dump.private))
    assert (report.added, report.known, report.indexes.fetched, report.indexes.closed) == (0, 1, 1, 0)
    path = index(lost, dump)
    assert path.name == f"{dump.manifest.dump}.tsv.zst"
    text = b"".join(codec.get("zstd").unpack([path.read_bytes()]))
    assert text == sealed.open_all(dump.path, dump.manifest, sealed.unlocked(dump))[1]
    assert b"passwd\t" in text
    assert lost.rebuild(keys=ring(lost, dump.private)).indexes.there == 1


def test_a_protected_key_opens_by_its_passphrase_only(lost, dump):
    closed = lost.rebuild(keys=ring(lost, dump.private, b"correct horse battery", lambda what, wrong: None))
    assert closed.indexes.closed == 1
    assert "passphrase" in closed.indexes.why_closed
    assert index(lost, dump) is None
    right = ring(lost, dump.private, b"correct horse battery", lambda what, wrong: b"correct horse battery")
    assert lost.rebuild(keys=right).indexes.fetched == 1


def test_another_key_opens_nothing(lost, dump):
    report = lost.rebuild(keys=ring(lost, sealed.recipient("stranger")))
    assert (report.indexes.closed, report.indexes.fetched) == (1, 0)


def test_a_bit_that_changed_is_found_before_anything_is_opened(lost, dump):
    path = dump.path / dump.manifest.index.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = lost.rebuild(keys=ring(lost, dump.private))
    assert (report.indexes.failed, report.status) == (1, "WARN")
    assert index(lost, dump) is None


def test_without_its_wrapped_keys_a_sealed_dump_is_not_whole(lost, dump):
    (dump.path / "keys.tsv").unlink()
    report = lost.rebuild(keys=ring(lost, dump.private))
    assert report.status == "WARN"
    (copy,) = lost.catalog.copies()
    assert (copy.state, copy.error) == ("failed", "keys.tsv is missing")
