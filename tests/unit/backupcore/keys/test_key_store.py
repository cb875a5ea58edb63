"""Recipients and private keys on a server: made, proven, brought from elsewhere, revoked, and what is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest
from passphrases import PASSPHRASE, Asked

from backupcore.errors import Busy, ConfigError, KeyLocked, RequestError
from backupcore.image import recipients
from backupcore.keys import store


def made(folder, name="operations", kind="rsa", ask=None):
    with store.changing(folder):
        return store.generate(folder, name, kind, ask)


def test_a_pair_that_was_made_is_proven_and_protected(tmp_path, quick):
    ask = Asked(PASSPHRASE)
    record = made(tmp_path / "keys", ask=ask)
    assert record.active and store.active(tmp_path / "keys") == [record]
    assert len(ask.questions) == 2 and "once more" in ask.questions[1][0]
    data = store.read_private(tmp_path / "keys", "operations")
    assert b"ENCRYPTED" in data and store.whereabouts(tmp_path / "keys", record) == "protected"
    assert recipients.load_private(data, PASSPHRASE).recipient.fingerprint == record.fingerprint
    assert stat.S_IMODE(os.stat(tmp_path / "keys").st_mode) == 0o700
    assert stat.S_IMODE(store.private_file(tmp_path / "keys", "operations").stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "keys" / "private").iterdir()) == ["operations.pem"]


def test_the_second_time_the_passphrase_must_open_what_was_written(tmp_path, quick):
    ask = Asked(PASSPHRASE, b"another passphrase", b"a third passphrase", None)
    with pytest.raises(KeyLocked, match="does not open"):
        made(tmp_path, ask=ask)
    assert [wrong for _what, wrong in ask.questions] == [False, False, True, True]
    assert store.recipients(tmp_path) == [] and list((tmp_path / "private").iterdir()) == []


def test_a_typing_error_at_the_second_time_is_forgiven(tmp_path, quick):
    assert made(tmp_path, ask=Asked(PASSPHRASE, b"corect horse battery", PASSPHRASE)).active


def test_a_pair_without_passphrase_is_told_as_open(tmp_path, quick):
    record = made(tmp_path)
    assert record.active and store.whereabouts(tmp_path, record) == "open"


def test_a_pair_of_type_passphrase_leaves_no_key_file(tmp_path, quick):
    record = made(tmp_path, "words", "passphrase", Asked(PASSPHRASE))
    assert record.active and store.whereabouts(tmp_path, record) == "passphrase"
    assert list((tmp_path / "private").iterdir()) == []
    (again,) = store.active(tmp_path)
    assert recipients.load_private(again.recipient.private, PASSPHRASE).recipient.fingerprint == record.fingerprint
    assert stat.S_IMODE((tmp_path / "recipients" / "words.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("passphrase", [b"", b"short", None])
def test_a_poor_passphrase_is_refused_before_a_key_is_made(tmp_path, quick, passphrase):
    with pytest.raises(RequestError):
        made(tmp_path, ask=Asked(passphrase))
    assert len(quick) == 3


def test_a_name_is_used_once_and_is_a_name(tmp_path, quick):
    made(tmp_path)
    with pytest.raises(RequestError, match="already"):
        made(tmp_path)
    for name in ("../up", ".hidden", "a/b", ""):
        with pytest.raises(RequestError, match="cannot name"):
            made(tmp_path, name)


def test_a_private_key_that_a_killed_command_left_is_put_aside_not_lost(tmp_path, quick):
    with store.changing(tmp_path):
        store.private_file(tmp_path, "operations").write_bytes(b"an older one")
        (tmp_path / "private" / ".operations.new").write_bytes(b"half")
    made(tmp_path)
    old = [path for path in (tmp_path / "private").iterdir() if path.name.endswith(".old")]
    assert [path.read_bytes() for path in old] == [b"an older one"]
    assert not (tmp_path / "private" / ".operations.new").exists()


def test_a_key_from_elsewhere_is_active_only_when_it_was_proven(tmp_path, pairs):
    with store.changing(tmp_path):
        record = store.add(tmp_path, "auditor", pairs[0].recipient.public)
    assert not record.active and store.active(tmp_path) == []
    assert store.whereabouts(tmp_path, record) == "away"
    with store.changing(tmp_path), pytest.raises(RequestError, match="not on this server"):
        store.prove(tmp_path, "auditor", None, None)
    with store.changing(tmp_path), pytest.raises(RequestError, match="not of auditor"):
        store.prove(tmp_path, "auditor", pairs[1].to_pem(), None)
    assert store.active(tmp_path) == []
    with store.changing(tmp_path):
        store.prove(tmp_path, "auditor", pairs[0].protect_pem(PASSPHRASE), Asked(b"wrong passphrase", PASSPHRASE))
    assert [one.name for one in store.active(tmp_path)] == ["auditor"]


def test_what_is_no_public_key_or_here_already_is_refused(tmp_path, pairs):
    with store.changing(tmp_path):
        store.add(tmp_path, "auditor", pairs[0].recipient.public)
        with pytest.raises(RequestError, match="as auditor"):
            store.add(tmp_path, "other", pairs[0].recipient.public)
        with pytest.raises(RequestError, match="private key") as error:
            store.add(tmp_path, "other", pairs[1].to_pem())
        assert "pubout" in error.value.hint
        with pytest.raises(ConfigError):
            store.add(tmp_path, "other", b"garbage")
    assert len(store.recipients(tmp_path)) == 1


def test_a_revoked_key_is_never_active_again(tmp_path, quick):
    made(tmp_path)
    with store.changing(tmp_path):
        store.revoke(tmp_path, "operations")
        with pytest.raises(RequestError, match="revoked"):
            store.prove(tmp_path, "operations", None, None)
    assert store.active(tmp_path) == []
    assert store.read_private(tmp_path, "operations") is not None


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"}, {"fingerprint": "0" * 64}, {"type": "passphrase"}, {"state": "on"}, {"proven": 1},
        {"schema": 2}, {"public": "x"}, {"private": "!"}, None,
    ],
)  # fmt: skip
def test_a_recipient_that_was_tampered_with_is_an_error_that_names_its_file(tmp_path, pairs, change):
    with store.changing(tmp_path):
        store.add(tmp_path, "auditor", pairs[0].recipient.public)
    path = tmp_path / "recipients" / "auditor.json"
    plain = json.loads(path.read_text())
    path.write_text("[]" if change is None else json.dumps({**plain, **change}))
    with pytest.raises(ConfigError, match="auditor.json"):
        store.active(tmp_path)


def test_a_private_key_that_others_can_read_is_refused(tmp_path, quick):
    made(tmp_path)
    store.private_file(tmp_path, "operations").chmod(0o640)
    with pytest.raises(ConfigError, match="others can read"):
        store.read_private(tmp_path, "operations")


def test_two_commands_do_not_change_keys_at_once(tmp_path):
    with store.changing(tmp_path), pytest.raises(Busy), store.changing(tmp_path):
        pass
    with store.changing(tmp_path):
        pass


def test_a_process_that_holds_keys_leaves_no_core_file():
    code = (
        "import ctypes, os, resource\n"
        "from backupcore.guard import keep_secret\n"
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
        "before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "keep_secret()\n"
        "print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "1 0 (0, 0)\n"


def test_keys_that_others_could_have_put_there_are_not_sealed_for(tmp_path, quick):
    made(tmp_path / "keys")
    (tmp_path / "keys" / "recipients").chmod(0o770)
    with pytest.raises(ConfigError, match="others can write"):
        store.active(tmp_path / "keys")
