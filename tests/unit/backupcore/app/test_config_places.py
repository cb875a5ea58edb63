"""Targets that are no places of their own are refused: what prune removes from one would be gone from the other."""

from __future__ import annotations

import pytest

from backupcore.app import config, drivers
from backupcore.errors import ConfigError

DRIVERS = drivers.load()


@pytest.fixture
def load(tmp_path):
    def load(targets):
        (tmp_path / "holding").mkdir(exist_ok=True)
        (tmp_path / "nas").mkdir(exist_ok=True)
        text = f"state: {tmp_path}/state\nholding: [{{path: {tmp_path}/holding, use: 1 GB}}]\ntargets:\n"
        file = tmp_path / "stowage.yml"
        text += "".join(f"  {name}: {one}\n" for name, one in targets.items())
        file.write_text(text.replace("ROOT", str(tmp_path)))
        return config.load(file, DRIVERS).settings.targets

    return load


PUT = "put: [p, '{path}', '%s:{name}'], get: [g, '{name}'], list: [l], delete: [d, '{name}']"
SAME = [
    ("{type: directory, path: ROOT/nas}", "{type: directory, path: ROOT/nas/../nas/, mount: true}"),
    ("{type: directory, path: ROOT/nas}", "{type: directory, path: ROOT/link}"),
    ("{type: s3, bucket: acme, prefix: a}", "{type: s3, bucket: acme, prefix: a, storage_class: GLACIER}"),
    ("{type: s3, bucket: acme, endpoint: 'http://S3.host'}", "{type: s3, bucket: acme, endpoint: 'http://s3.host/'}"),
    ("{type: sftp, host: box, user: a, path: /x, known_hosts: /k, key: /k}",
     "{type: sftp, host: box, user: b, path: /x, known_hosts: /k, key: /j}"),
    ("{type: command, %s}" % (PUT % "a"), "{type: command, parallel: 2, %s}" % (PUT % "a")),
]  # fmt: skip
OTHER = [
    ("{type: directory, path: ROOT/nas/a}", "{type: directory, path: ROOT/nas/b}"),
    ("{type: s3, bucket: acme-backup, prefix: a}", "{type: s3, bucket: acme-backup, prefix: b}"),
    ("{type: s3, bucket: acme-backup}", "{type: s3, bucket: acme-backup, endpoint: 'http://s3.example'}"),
    ("{type: sftp, host: box, user: a, known_hosts: /k, key: /k}",
     "{type: sftp, host: box, user: b, known_hosts: /k, key: /k}"),
    ("{type: command, %s}" % (PUT % "a"), "{type: command, %s}" % (PUT % "b")),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_targets_at_one_place_are_refused(load, tmp_path, one, other):
    (tmp_path / "nas").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nas")
    with pytest.raises(ConfigError) as caught:
        load({"one": one, "two": other})
    assert '"one" is the same place' in caught.value.message and "stowage.yml:5" in caught.value.message


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_places_of_their_own_are_taken(load, one, other):
    assert set(load({"one": one, "two": other})) == {"one", "two"}


@pytest.mark.parametrize("path", ["ROOT/holding", "ROOT/holding/web1", "ROOT/state", "ROOT/state/x"])
def test_a_folder_of_the_engine_is_no_target(load, path):
    with pytest.raises(ConfigError, match="the engine's own"):
        load({"one": "{type: directory, path: %s}" % path})


def test_the_word_for_the_holding_disk_names_no_target(load):
    with pytest.raises(ConfigError, match='"holding" cannot name a target'):
        load({"holding": "{type: directory, path: ROOT/nas}"})
