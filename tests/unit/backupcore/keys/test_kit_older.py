"""The kit of a server that was rebuilt names the key that signed the older dumps, too."""

from __future__ import annotations

from types import SimpleNamespace

from backupcore.app import keys
from backupcore.image.signing import Signer
from backupcore.keys import kit


def test_both_keys_stand_in_the_kit_and_in_its_commands(tmp_path):
    mine, old = Signer.make(tmp_path / "keys"), Signer.make(tmp_path / "old")
    (tmp_path / "keys/adopted.pub").write_bytes(old.public_pem)
    settings = SimpleNamespace(keys=tmp_path / "keys", targets={})
    text = keys.make_kit(SimpleNamespace(settings=settings, server_id="0" * 16, drivers=SimpleNamespace(of=dict)))
    for one in (mine, old):
        assert one.public_pem.decode().strip() in text
        assert text.count(f"--signer {one.fingerprint}") == 2
    assert max(map(len, text.splitlines())) <= kit.WIDTH
