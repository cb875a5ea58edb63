"""stowage target: list, test and add, with a folder and a bucket (moto) as places."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat

import boto3
import pytest
import yaml
from backupcore.hookspecs import Finding, TargetError
from moto.server import ThreadedMotoServer

from backupcore import cli
from backupcore.app import targeting

SECRET = "hunter2-of-the-bucket"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def base(tmp_path, monkeypatch):
    for name in ("holding", "nas"):
        (tmp_path / name).mkdir(mode=0o700)
    config = {"state": str(tmp_path / "state"), "holding": [{"path": str(tmp_path / "holding"), "use": "1 GB"}],
              "targets": {"nas": {"type": "directory", "path": str(tmp_path / "nas")}}}  # fmt: skip
    (tmp_path / "stowage.yml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(targeting, "SIZE", 2 << 20)
    monkeypatch.setattr(targeting.prove, "__defaults__", (2 << 20, None))
    return tmp_path


def stowage(base, *words, status=0, stdin=None, monkeypatch=None):
    out, err = io.StringIO(), io.StringIO()
    if stdin is not None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = cli.main(["--config", str(base / "stowage.yml"), *map(str, words)])
    out, err = out.getvalue(), err.getvalue()
    assert "bug" not in out + err and SECRET not in out + err
    assert found == status, (found, out, err)
    return out, err


def ask(base, *words, status=0):
    return json.loads(stowage(base, "--json", *words, status=status)[0])


def bucket(endpoint, name, *more):
    return ("--type", "s3", "--option", f"bucket={name}", "--option", f"endpoint={endpoint}", "--option",
            "addressing=path", *more)  # fmt: skip


def secrets(base, **keys):
    path = base / "given"
    path.write_text(yaml.safe_dump(keys or {"access_key": "AKID", "secret_key": SECRET}))
    return ("--secrets", path)


def test_a_folder_is_proven_and_known_after(base):
    listed = ask(base, "target", "list")["targets"]
    assert [(one["name"], one["state"], one["copies"]) for one in listed] == [("nas", "untested", 0)]
    found = ask(base, "target", "test", "nas", "--size", "3 MiB")
    names = {one["name"]: one for one in found["findings"]}
    assert {"write", "read", "list", "delete", "overwrite", "throughput", "clock"} <= set(names)
    assert all(one["ok"] for one in names.values()) and found["status"] in ("ok", "warn")
    assert found["up"] > 0 and found["down"] > 0 and found["bytes"] == 3 << 20 and abs(found["skew"]) < 60
    assert not list((base / "nas").rglob("*test-*"))  # nothing is left there, nor here
    assert not [path for path in (base / "state/targets/nas").iterdir() if path.name.startswith("test-")]
    (one,) = ask(base, "target", "list")["targets"]
    assert one["state"] == found["status"] and one["free"].endswith(" free") and one["file"].endswith("stowage.yml")
    out, _err = stowage(base, "target", "list")
    assert "nas" in out and str(base / "nas") in out


def test_a_place_that_fails_is_told_and_the_status_is_1(base):
    (base / "nas").rmdir()
    (base / "nas").write_text("")
    out, _err = stowage(base, "target", "test", "nas", status=1)
    assert "FAIL target nas cannot be used as it is" in out
    assert ask(base, "target", "list")["targets"][0]["state"] == "fail"
    _out, err = stowage(base, "target", "test", "nsa", status=2)
    assert 'unknown target "nsa", did you mean "nas"?' in err


class Wrong:
    """A target whose clock, bytes or promise are wrong."""

    def __init__(self, inner, fault):
        self.inner, self.fault = inner, fault

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def stat(self, name):
        found = self.inner.stat(name)
        if self.fault != "clock" or found is None:
            return found
        return found.__class__(found.name, found.size, found.modified_ns + 300 * 10**9)

    def read(self, name, *where):
        for piece in self.inner.read(name, *where):
            yield bytes(len(piece)) if self.fault == "bytes" and ".stowage/test" in name else piece

    def put(self, name, path, **more):
        if self.fault == "twice" and ".stowage/test" in name:
            more["if_absent"] = False
        return self.inner.put(name, path, **more)


@pytest.mark.parametrize(("fault", "name", "status", "words"), (
    ("clock", "clock", "warn", "behind the place's"), ("bytes", "throughput", "fail", "other bytes came back"),
    ("twice", "overwrite", "fail", "put a second time"),
))  # fmt: skip
def test_what_is_wrong_is_found(base, fault, name, status, words):
    from backupcore.app.engine import Engine

    with Engine(base / "stowage.yml") as engine:
        nas = engine.target("nas")
        found = targeting.prove(Wrong(nas, fault), lambda: nas, "nas", base / "x", 1 << 20)
    said = [one for one in found["findings"] if one["name"] == name][-1]
    assert found["status"] == status and words in said["message"] and (not said["ok"] or said["warning"])


class Guarded(Wrong):
    """A target whose credential may not remove."""

    def delete(self, name):
        raise TargetError(f"{name}: access denied")

    def probe(self):
        return iter([Finding(True, "write", "takes files")])


def test_what_was_sent_goes_by_the_credential_that_may_remove_and_else_is_told(base):
    from backupcore.app.engine import Engine

    with Engine(base / "stowage.yml") as engine:
        nas = engine.target("nas")
        guarded = Guarded(nas, "")
        old = base / "old"
        old.write_bytes(b"x" * 100)
        nas.put(".stowage/test-0123abcd", old)  # of a test that was killed
        stored = next(base.rglob("test-0123abcd"))
        os.utime(stored, (1, 1))
        found = targeting.prove(guarded, lambda: nas, "nas", base / "x", 1 << 20)
        assert found["status"] == "ok" and not list(nas.list(".stowage/test-"))
        found = targeting.prove(guarded, lambda: guarded, "nas", base / "x", 1 << 20)
        (left,) = nas.list(".stowage/test-")
    (said,) = [one for one in found["findings"] if one["name"] == "leftovers"]
    assert found["status"] == "warn" and left.name in said["message"] and said["warning"]


def test_a_bucket_is_made_proven_and_written_down_with_its_secrets_apart(base, endpoint):
    words = ("target", "add", "cloud", *bucket(endpoint, "added"), *secrets(base), "--create", "--versions")
    told = ask(base, *words, "--dry-run")
    assert told["changed"] and not told["written"] and not (base / "targets.d").exists()
    plain = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k",
                         aws_secret_access_key="s")  # fmt: skip
    assert "added" not in [one["Name"] for one in plain.list_buckets()["Buckets"]]
    told = ask(base, *words)
    assert told["written"] and told["changed"] and told["tested"]["up"] > 0
    assert plain.get_bucket_versioning(Bucket="added")["Status"] == "Enabled"
    path, keys = base / "targets.d/cloud.yml", base / "targets.d/cloud.json"
    assert SECRET not in path.read_text() and json.loads(keys.read_text())["secret_key"] == SECRET
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600 and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert yaml.safe_load(path.read_text())["targets"]["cloud"]["credentials"] == str(keys)
    # the engine reads it, and the standard policy copies there
    listed = ask(base, "target", "list")["targets"]
    assert [one["name"] for one in listed] == ["nas", "cloud"] and listed[1]["file"] == str(path)
    assert listed[1]["state"] in ("ok", "warn") and listed[1]["place"] == f"added at {endpoint}"
    again = ask(base, *words)
    assert not again["changed"] and not again["written"]
    _out, err = stowage(base, *words, "--option", "prefix=prod", status=2)
    assert "is there already, with other options" in err and "--replace" in err
    told = ask(base, *words[:3], *bucket(endpoint, "added", "--option", "prefix=prod"), "--replace")
    assert told["written"] and json.loads(keys.read_text())["secret_key"] == SECRET  # kept: none was given


def test_a_bucket_whose_rule_moves_parts_is_made_and_known_to_check(base, endpoint):
    words = ("target", "add", "cloud", *bucket(endpoint, "moving"), *secrets(base), "--option")
    told = ask(base, *words, "transition={GLACIER: 30}", "--create")
    (made,) = [one for one in told["steps"] if one["name"] == "lifecycle"]
    assert made["ok"] and "parts of images move to GLACIER after 30 days" in made["message"]
    (said,) = [one for one in told["tested"]["findings"] if one["name"] == "transition"]
    assert said["ok"] and not said["warning"] and told["written"]
    written = yaml.safe_load((base / "targets.d/cloud.yml").read_text())
    assert written["targets"]["cloud"]["transition"] == {"GLACIER": 30}
    _out, err = stowage(base, *words, "transition={glacier: 30}", "--replace", status=2)
    assert "'glacier' is no storage class" in err


def test_secrets_that_a_killed_test_left_go_with_the_next_one(base, endpoint):
    old, young = base / "state/adding-old", base / "state/adding-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "credentials.json").write_text(SECRET)
    os.utime(old, (1, 1))
    stowage(base, "target", "add", "cloud", *bucket(endpoint, "swept-bucket"), *secrets(base), "--create")
    assert [path.name for path in (base / "state").glob("adding-*")] == ["adding-young"]


def test_what_does_not_work_is_not_written(base, endpoint):
    words = ("target", "add", "cloud", *bucket(endpoint, "nowhere"), *secrets(base))
    out, _err = stowage(base, *words, status=1)
    assert "there is no such bucket" in out and "was not added" in out and not (base / "targets.d").exists()
    told = ask(base, *words, "--no-test")
    assert told["written"] and told["tested"] is None


def test_options_and_secrets_come_as_yaml_too(base, endpoint, monkeypatch):
    given = {"type": "s3", "bucket": "piped", "endpoint": endpoint, "addressing": "path", "access_key": "AKID",
             "secret_key": SECRET, "part_size": "5 MiB"}  # fmt: skip
    stowage(base, "target", "add", "cloud", "--from", "-", "--create", stdin=yaml.safe_dump(given),
            monkeypatch=monkeypatch)  # fmt: skip
    assert json.loads((base / "targets.d/cloud.json").read_text()) == {"access_key": "AKID", "secret_key": SECRET}
    found = yaml.safe_load((base / "targets.d/cloud.yml").read_text())["targets"]["cloud"]
    assert found["part_size"] == "5 MiB" and "secret_key" not in found


@pytest.mark.parametrize(("words", "told"), (
    (("add", "cloud", "--type", "s3", "--option", "secret_key=x"), "this is a secret"),
    (("add", "cloud", "--type", "s3", "--option", "bukcet=x"), 'unknown key "bukcet", did you mean "bucket"'),
    (("add", "cloud", "--type", "s4", "--option", "bucket=x"), 'there is no target type "s4"'),
    (("add", "cloud"), "has no type"),
    (("add", "cloud", "--type", "s3", "--option", "bucket=abc", "--lock"), "goes with --create"),
    (("add", "../x", "--type", "s3"), "cannot name a target"),
    (("add", "nas", "--type", "directory", "--option", "path=/x"), "stowage.yml"),
    (("list", "--create"), "takes no --create"),
    (("test",), "needs the NAME"),
    (("test", "nas", "--size", "1 TB"), "1 MiB to 4 GiB"),
))  # fmt: skip
def test_a_wrong_request_is_told_in_one_line_and_changes_nothing(base, words, told):
    _out, err = stowage(base, "target", *words, status=2)
    assert told in err and not (base / "targets.d").exists()


def test_a_file_of_targets_d_that_is_wrong_names_file_and_line(base):
    (base / "targets.d").mkdir()
    (base / "targets.d/cloud.yml").write_text("targets:\n  cloud:\n    type: s3\n    buckt: x\n")
    _out, err = stowage(base, "target", "list", status=2)
    assert f'{base}/targets.d/cloud.yml:4: unknown key "buckt", did you mean "bucket"?' in err
    (base / "targets.d/cloud.yml").write_text("targets:\n  nas: {type: directory, path: /x}\n")
    _out, err = stowage(base, "target", "list", status=2)
    assert f'cloud.yml:2: target "nas" stands twice, first in {base}/stowage.yml:' in err
    (base / "targets.d/cloud.yml").write_text("clients: {}\n")
    _out, err = stowage(base, "target", "list", status=2)
    assert "holds `targets:` and nothing else" in err


def test_root_makes_and_tests_the_place_as_the_engines_user(base, endpoint):
    assert os.geteuid() == 0  # the suite runs as root, as packages.sh needs it
    user = 65534
    os.chmod(base, 0o755)
    for parent in base.parents:
        if parent.owner() == "root" and not parent.stat().st_mode & 0o001:
            os.chmod(parent, parent.stat().st_mode | 0o011)
    os.chown(base / "holding", user, user)
    (base / "state").mkdir()
    os.chown(base / "state", user, user)
    told = ask(base, "target", "add", "cloud", *bucket(endpoint, "of-root"), *secrets(base), "--create")
    assert told["written"] and told["tested"]["up"] > 0
    made = [*(base / "state").rglob("*")]
    assert made and {path.stat().st_uid for path in made} == {user}
    assert (base / "targets.d/cloud.json").stat().st_uid == user
    assert (base / "targets.d/cloud.yml").stat().st_uid == 0  # what root's own restores read, only root writes


@pytest.mark.parametrize("option", ["--secrets", "--from"])
def test_a_secret_that_yaml_takes_for_a_number_is_refused(base, endpoint, option):
    (base / "given").write_text("access_key: KEY\nsecret_key: 0123456701234567\n")
    words = ("target", "add", "cloud", *bucket(endpoint, "any"), option, base / "given")
    _out, err = stowage(base, *words, status=2)
    assert "secret_key of target cloud is no text -> put it into quotes" in err
    assert "0123456701234567" not in err


@pytest.mark.parametrize("words", [("--lock",), ("--versions",), ("--encryption", "AES256")])
def test_what_a_folder_cannot_be_is_refused_before_anything_is_made(base, words):
    given = ("--type", "directory", "--option", f"path={base}/more", "--create", *words)
    _out, err = stowage(base, "target", "add", "more", *given, status=2)
    assert "nothing can be made of a target of type directory" in err
    assert not (base / "more").exists() and not (base / "targets.d").exists()


def test_a_test_is_told_by_the_name_of_its_target(base):
    assert "stowage: target nas: sending" in stowage(base, "target", "test", "nas", "--size", "1 MiB")[1]
