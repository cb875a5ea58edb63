"""The agent seals for whom its own file names, and for nobody else; never in the clear where the file says so."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import pythons
import sealed
from agent_peer import Peer, Talk

from backupcore import wire
from backupcore.errors import AgentRefused, RequestError, SourceFailed
from backupcore.image.recipients import load_recipient

DUMP = "web1/s/20261122T120000Z-L0-00000001"
NEXT = "web1/s/20261122T120001Z-L1-00000002"


def named(*privates):
    return [one.recipient.fingerprint for one in privates or (sealed.recipient(),)]


def pem(private=None):
    return (private or sealed.recipient()).recipient.public.decode()


ASKED = {"encrypt": "client", "recipients": None, "prefix": DUMP}


def asked(**more):
    return {**ASKED, "recipients": named(), **more}


@pytest.fixture
def peer(tmp_path):
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "f").write_text("f")
    (tree / "d" / "noise").write_bytes(os.urandom(12 << 20))
    made = Peer(tmp_path / "agent").hurry()
    made.declare("s", tree)
    oblige(made)
    return made


def oblige(peer, encrypt="client", keys=None):
    peer.sources["s"].update({"encrypt": encrypt, "recipients": [pem()] if keys is None else keys})
    peer.write({"schema": 1, "client": "web1", "sources": peer.sources})


def refused(peer, kind, words, **request):
    talk = peer.start()
    try:
        with pytest.raises(kind, match=words) as caught:
            talk.ask(talk.request("s", None, **request))
            talk.take()
        talk.process.stdin.close()
        assert talk.process.wait(60) == 1 and talk.process.stderr.read() == b""
        assert "\n" not in caught.value.message
        return caught.value
    finally:
        talk.end()


def test_a_sealed_full_and_incremental_open_to_the_tree(peer, tmp_path):
    full = peer.dump(**asked(part_size=1 << 20))
    assert len(full.keys) > 2 and len({one["commitment"] for one in full.keys}) == len(full.keys)
    assert b"noise" not in b"".join(full.stored)
    full.open(sealed.recipient(), DUMP)
    out = tmp_path / "out"
    out.mkdir()
    full.unpack(out)
    (tmp_path / "tree" / "f").write_text("changed")
    (tmp_path / "tree" / "d" / "noise").unlink()
    second = peer.dump(base=full, **asked(prefix=NEXT))
    second.open(sealed.recipient(), NEXT)
    second.unpack(out)
    assert (out / "f").read_text() == "changed" and os.listdir(out / "d") == []


def test_a_full_without_helpers_is_sealed_as_well(peer):
    argv = ["taskset", "-c", "0", sys.executable, "-I", str(peer.pyz), "--config", str(peer.config), "serve"]
    peer.start = lambda: Talk(argv)
    full = peer.dump(**asked(part_size=1 << 20))
    full.open(sealed.recipient(), DUMP)
    assert len(full.keys) > 2 and len(full.archive()) == full.done["archive_size"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version, release", [("3.8", "cryptography==2.8"), ("3.8", "cryptography"),
                                              ("3.13", "cryptography")])  # fmt: skip
def test_old_and_new_pythons_seal_with_the_cryptography_of_their_time(peer, tmp_path, version, release):
    subprocess.run([pythons.require(version), "-m", "venv", str(tmp_path / "venv")], check=True)
    peer.python = str(tmp_path / "venv" / "bin" / "python")
    pip = [peer.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", release]
    subprocess.run(pip, check=True)
    full = peer.dump(**asked(part_size=1 << 20))
    full.open(sealed.recipient(), DUMP)
    (tmp_path / "tree" / "f").write_text("changed")
    second = peer.dump(base=full, **asked(prefix=NEXT))
    second.open(sealed.recipient(), NEXT)
    for got in (full, second):
        assert len(got.archive()) == got.done["archive_size"]


def test_two_recipients_open_the_same(peer):
    both = (sealed.recipient(), sealed.recipient("escrow"))
    oblige(peer, keys=[pem(one) for one in both])
    for one in both:
        full = peer.dump(**asked(recipients=named(*both)[::-1]))
        full.open(one, DUMP)


OTHER = named(sealed.recipient("another"))
REFUSED = {
    "no seal": {"encrypt": "none"},
    "no word of a seal": {"encrypt": None},
    "the server to seal": asked(encrypt="server"),
    "another recipient": asked(recipients=OTHER),
    "one recipient more": asked(recipients=[*named(), *OTHER]),
    "the recipient twice": asked(recipients=named() * 2),
    "no recipient": asked(recipients=[]),
    "recipients that are none": asked(recipients={"a": 1}),
    "a key of its own": asked(recipients=[pem(sealed.recipient("another"))]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_server_that_asks_for_another_seal_gets_nothing(peer, name):
    refused(peer, AgentRefused, "encrypt: client|for others than", **REFUSED[name])


@pytest.mark.parametrize("prefix", [
    None, "", "web2/s/20261122T120000Z-L0-00000001", "web1/t/20261122T120000Z-L0-00000001", "web1/s", "web1/s/x",
    "web1/s/20261122T120000Z-L1-00000001", "web1/s/20261122T120000Z-L0-00000001/x",
    "web1/s./20261122T120000Z-L0-00000001", "/web1/s/20261122T120000Z-L0-00000001",
])  # fmt: skip
def test_a_prefix_that_is_not_this_dumps_is_refused(peer, prefix):
    refused(peer, RequestError, "prefix", **asked(prefix=prefix))


def test_a_segments_prefix_is_taken(peer):
    prefix = "web1/s.0001/20261122T120000Z-L0-00000001"
    full = peer.dump(**asked(prefix=prefix))
    full.open(sealed.recipient(), prefix)


def test_a_seal_that_agent_json_does_not_name_is_refused(peer):
    oblige(peer, "none", [])
    refused(peer, AgentRefused, "encrypt: none", **asked())


@pytest.mark.parametrize("encrypt, keys", [
    ("client", []), ("none", [pem()]), ("server", [pem()]), ("yes", []), ("client", [pem(), pem()]),
    ("client", ["x"]), ("client", [1]), ("client", "x"), ("client", {}), ("client", [pem()[:-40]]),
    ("client", [sealed.recipient().to_pem().decode()]),
])  # fmt: skip
def test_an_agent_json_whose_seal_is_not_right_refuses_all(peer, encrypt, keys):
    oblige(peer, encrypt, keys)
    refused(peer, AgentRefused, "encrypt must be|public keys of its recipients", **asked())


def test_a_public_key_that_is_no_rsa_key_is_refused(peer):
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    small = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for key in (small, ec.generate_private_key(ec.SECP521R1())):
        text = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        oblige(peer, keys=[text])
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        told = [hashlib.sha256(der).hexdigest()]
        refused(peer, AgentRefused, "no RSA key|public keys of its", **asked(recipients=told))


def test_hello_tells_for_whom_and_whether_it_can(peer):
    talk = peer.start()
    hello = talk.greet()
    talk.process.stdin.close()
    talk.end()
    assert hello["seals"] == {"s": named()} and hello["cryptography"] is True
    assert load_recipient(pem().encode()).fingerprint == hello["seals"]["s"][0]


def test_without_cryptography_the_dump_fails_and_nothing_is_sent(peer, tmp_path):
    # an interpreter that sees no packages
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    peer.python = str(bare / "bin" / "python")
    talk = peer.start()
    try:
        talk.ask(talk.request("s", None, **asked()))
        with pytest.raises(SourceFailed, match="cryptography is not on this client") as caught:
            talk.channel.expect(wire.START)
        assert "python3-cryptography" in caught.value.hint and talk.hello["cryptography"] is False
    finally:
        talk.end()
