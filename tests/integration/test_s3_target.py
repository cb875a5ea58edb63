"""The S3 target against a real server (Ceph's gateway), alone and behind a proxy that makes faults."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from backupcore.hookspecs import TargetContext, TargetError
from botocore.config import Config

from backupcore.targets import _s3_client, s3
from backupcore.targets.s3 import S3Options, S3Target
from backupcore.testing.targets import TargetConformance

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
import s3proxy  # noqa: E402
import s3server  # noqa: E402

MIB = 1 << 20
SERVER = "0123456789abcdef"
BUCKET = "integration"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder) as answer:
        yield answer


@pytest.fixture(scope="module")
def plain(server):
    client = boto3.client(
        "s3", endpoint_url=server["endpoint"], aws_access_key_id=server["access_key"], region_name="us-east-1",
        aws_secret_access_key=server["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(autouse=True)
def empty(plain):
    yield
    for upload in plain.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
        plain.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    for item in plain.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        plain.delete_object(Bucket=BUCKET, Key=item["Key"])


def write_keys(path: Path, access_key: str, secret_key: str) -> Path:
    path.write_text(json.dumps({"access_key": access_key, "secret_key": secret_key}))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def keys(server, tmp_path_factory):
    return write_keys(tmp_path_factory.mktemp("keys") / "c", server["access_key"], server["secret_key"])


def options(endpoint: str, keys: Path, **more) -> S3Options:
    given = {"bucket": BUCKET, "prefix": "prod", "endpoint": endpoint, "addressing": "path", "credentials": keys}
    return S3Options(**{**given, "part_size": 5 * MIB, **more})


@pytest.fixture(scope="module")
def shared(server, plain, keys, tmp_path_factory):
    target = S3Target(
        options(server["endpoint"], keys), TargetContext("cloud", SERVER, tmp_path_factory.mktemp("state"))
    )
    target.facts()
    yield target
    target.close()


class TestRadosgw(TargetConformance):
    big = 11 * MIB
    driver = s3.DRIVER

    @pytest.fixture
    def target(self, shared):
        return shared


@pytest.fixture(scope="module")
def listening(server):
    with s3proxy.Proxy(server["endpoint"]) as found:
        yield found


@pytest.fixture(scope="module")
def facts(listening, plain, keys, tmp_path_factory):
    """The facts of the place behind the proxy, found once."""
    folder = tmp_path_factory.mktemp("facts")
    target = S3Target(options(listening.url, keys), TargetContext("cloud", SERVER, folder))
    target.facts()
    target.close()
    return folder / "facts.json"


@pytest.fixture
def proxy(listening):
    listening.requests.clear()
    yield listening
    listening.fault = lambda method, path: None


@pytest.fixture
def opened(proxy, facts, keys, tmp_path):
    """opened(**options) -> a target behind the proxy, its facts known."""
    targets = []
    (tmp_path / "state").mkdir()
    shutil.copy(facts, tmp_path / "state/facts.json")

    def make(keys=keys, endpoint=proxy.url, **more):
        target = S3Target(options(endpoint, keys, **more), TargetContext("cloud", SERVER, tmp_path / "state"))
        targets.append(target)
        return target

    yield make
    for target in targets:
        target.close()


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "local"
    path.write_bytes(os.urandom(21 * MIB))
    return path


def once(method: str, pattern: str, fault: str, times: int = 1):
    """A rule: the first requests of that kind meet the fault."""
    left = [times]

    def rule(found: str, path: str):
        if found == method and re.search(pattern, path) and left[0]:
            left[0] -= 1
            return fault
        return None

    return rule


def names(plain):
    return [item["Key"] for item in plain.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


# -- what the server can do, as found by trying


def test_this_server_refuses_damaged_bytes_so_a_put_is_proven(shared, local):
    assert shared.capabilities.own_checksums and shared.capabilities.overwrite_protection
    assert shared.put("big", local).proven
    small = local.with_name("small")
    small.write_bytes(b"x" * 1000)
    assert shared.put("small", small).proven
    facts = shared.facts()
    assert not facts.sha256, "this server does not keep x-amz-checksum-sha256: its check is the signed payload's"


# -- faults on the way there


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
@pytest.mark.parametrize("pattern", [r"partNumber=2", r"partNumber=5", r"uploads", r"uploadId=[^&]+$", r"list-type"])
def test_a_fault_on_the_way_there_is_tried_again(proxy, opened, local, pattern, fault):
    method = {"uploads": "POST", r"uploadId=[^&]+$": "POST", "list-type": "GET"}.get(pattern, "PUT")
    proxy.fault = once(method, pattern, fault)
    target = opened()
    assert target.put("x", local).proven
    proxy.fault = lambda method, path: None
    assert b"".join(target.read("x")) == local.read_bytes()


def test_a_server_that_stays_ill_is_told_and_the_upload_can_go_on(proxy, opened, plain, local, monkeypatch):
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 2)
    states = []
    proxy.fault = lambda method, path: "503" if re.search(r"partNumber=3(&|$)", path) else None
    with pytest.raises(TargetError, match="busy or ill|SlowDown") as error:
        opened(parallel=1).put("x", local, checkpoint=states.append)
    assert error.value.retry and "\n" not in error.value.message
    assert names(plain) == []
    proxy.fault = lambda method, path: None
    proxy.requests.clear()
    opened().put("x", local, resume=states[-1])
    assert not [path for _method, path, _size in proxy.requests if re.search(r"partNumber=(1|2)(&|$)", path)]
    assert b"".join(opened().read("x")) == local.read_bytes()


# -- faults on the way back


@pytest.mark.parametrize("fault", ["503", "reset", "lost", "cut"])
def test_a_fault_on_the_way_back_is_tried_again(proxy, opened, local, fault):
    target = opened()
    target.put("x", local)
    for offset, length in ((0, None), (3 * MIB + 7, 9 * MIB)):
        proxy.fault = once("GET", r"/x", fault)
        end = None if length is None else offset + length
        assert b"".join(target.read("x", offset, length)) == local.read_bytes()[offset:end]


def test_a_read_that_is_cut_again_and_again_ends(proxy, opened, local, monkeypatch):
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    target = opened()
    target.put("x", local)
    proxy.fault = lambda method, path: "reset" if method == "GET" and "/x" in path else None
    begun = time.monotonic()
    with pytest.raises(TargetError):
        b"".join(target.read("x"))
    assert time.monotonic() - begun < 120


def test_an_object_replaced_while_it_is_read_is_never_mixed(proxy, opened, local):
    target = opened()
    target.put("x", local)
    pieces = target.read("x")
    got = [next(pieces)]
    other = local.with_name("other")
    other.write_bytes(os.urandom(21 * MIB))
    target.put("x", other)
    proxy.fault = once("GET", r"/x", "cut")
    try:
        got.extend(pieces)
    except TargetError:
        return
    assert b"".join(got) == local.read_bytes()


# -- a place that lies


def test_a_place_that_loses_bytes_of_an_upload_part_is_found_out(opened, local, monkeypatch):
    target = opened()
    client = target.client()
    upload_part = client.upload_part

    def shorter(**arguments):
        if arguments["PartNumber"] == 5:
            arguments["Body"] = bytes(arguments["Body"].read())[:-1]
        return upload_part(**arguments)

    monkeypatch.setattr(client, "upload_part", shorter)
    with pytest.raises(TargetError, match=r"bytes long in .* after it was written"):
        target.put("x", local)


@pytest.mark.parametrize("tag", ['"00000000000000000000000000000000-5"', '"{0}-4"', '"{0}"', ""])
def test_a_whole_that_is_not_told_to_be_made_of_these_parts_proves_nothing(opened, local, monkeypatch, tag):
    target = opened()
    entry = target.entry

    def lied(name):
        found = entry(name)
        return found and {**found, "ETag": tag.format(found["ETag"].strip('"').partition("-")[0])}

    monkeypatch.setattr(target, "entry", lied)
    assert not target.put("x", local).proven
    monkeypatch.undo()
    assert target.put("x", local).proven


# -- errors of the place


def test_a_wrong_secret_is_told(opened, server, tmp_path, local):
    target = opened(keys=write_keys(tmp_path / "wrong", server["access_key"], "wrong"))
    with pytest.raises(TargetError, match="secret key is wrong") as error:
        target.put("x", local)
    assert "credentials" in error.value.hint and not error.value.retry
    with pytest.raises(TargetError, match="secret key is wrong"):
        target.stat("x")
    assert any(not finding.ok and "secret" in finding.message for finding in target.probe())


def test_a_wrong_access_key_is_told(opened, server, tmp_path):
    with pytest.raises(TargetError, match="access key is unknown"):
        opened(keys=write_keys(tmp_path / "wrong", "AKIDNOBODY", server["secret_key"])).stat("x")


def test_a_missing_bucket_is_told(opened, local):
    target = opened(bucket="nowhere")
    for action in (lambda: target.stat("x"), lambda: target.put("x", local), lambda: next(target.list())):
        with pytest.raises(TargetError, match="no such bucket"):
            action()


def test_a_clock_that_is_wrong_is_told(opened, monkeypatch):
    import botocore.auth

    wrong = botocore.auth.get_current_datetime

    def late(*args, **kwargs):
        return wrong(*args, **kwargs).replace(year=2020)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", late)
    with pytest.raises(TargetError, match="clocks differ|RequestTimeTooSkewed") as error:
        opened().stat("x")
    assert "clock" in error.value.hint


def test_tls_towards_a_plain_port_is_told(opened, proxy, monkeypatch):
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    with pytest.raises(TargetError, match="TLS") as error:
        opened(endpoint=proxy.url.replace("http:", "https:")).stat("x")
    assert "\n" not in error.value.message


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path) + ".crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    crt = Path(str(path) + ".crt")
    path.write_text(path.read_text() + crt.read_text())
    return path, crt


def test_under_tls_damaged_bytes_are_refused_too(server, plain, keys, certificate, local, tmp_path):
    both, authority = certificate
    with s3proxy.Proxy(server["endpoint"], tls=str(both)) as proxy:
        target = S3Target(options(proxy.url, keys, ca=authority), TargetContext("cloud", SERVER, tmp_path))
        assert target.capabilities.own_checksums
        assert target.put("x", local).proven
        assert b"".join(target.read("x")) == local.read_bytes()
        target.close()


def test_a_certificate_nobody_vouches_for_is_told(server, plain, keys, certificate, tmp_path, monkeypatch):
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    with s3proxy.Proxy(server["endpoint"], tls=str(certificate[0])) as proxy:
        target = S3Target(options(proxy.url, keys), TargetContext("cloud", SERVER, tmp_path))
        with pytest.raises(TargetError, match="no trusted TLS connection") as error:
            target.stat("x")
        assert "ca: FILE" in error.value.hint and not error.value.retry
        assert proxy.requests == []


@pytest.mark.parametrize(("names", "days", "told"), (
    ("subjectAltName=DNS:elsewhere.example", 2, "the certificate there is another host's"),
    ("subjectAltName=IP:127.0.0.1", -1, "the certificate there has expired"),
))  # fmt: skip
def test_a_certificate_that_does_not_fit_is_told_as_that(server, keys, certificate, tmp_path, monkeypatch, names, days,
                                                         told):  # fmt: skip
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    both, authority = certificate
    for name, text in (("ext", names), ("key", both.read_text())):
        (tmp_path / name).write_text(text)
    for words in (
        ["req", "-new", "-key", "key", "-subj", "/CN=lab", "-out", "asked"],
        ["x509", "-req", "-in", "asked", "-CA", str(authority), "-CAkey", "key", "-set_serial", "7", "-days", str(days),
         "-extfile", "ext", "-out", "made"],
    ):  # fmt: skip
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=tmp_path)
    (tmp_path / "both").write_text(both.read_text().split("-----BEGIN CERT")[0] + (tmp_path / "made").read_text())
    with s3proxy.Proxy(server["endpoint"], tls=str(tmp_path / "both")) as proxy:
        target = S3Target(options(proxy.url, keys, ca=authority), TargetContext("cloud", SERVER, tmp_path))
        with pytest.raises(TargetError) as error:
            target.stat("x")
        assert told in error.value.message and error.value.hint and not error.value.retry
        assert proxy.requests == []


def test_a_file_of_ca_without_a_certificate_is_told(server, keys, certificate, tmp_path, monkeypatch):
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    (tmp_path / "ca").write_text("no certificate")
    with s3proxy.Proxy(server["endpoint"], tls=str(certificate[0])) as proxy:
        target = S3Target(options(proxy.url, keys, ca=tmp_path / "ca"), TargetContext("cloud", SERVER, tmp_path))
        with pytest.raises(TargetError, match="the file of ca: holds no certificate"):
            target.stat("x")


def test_a_server_that_is_no_s3_is_told(opened, proxy):
    proxy.fault = lambda method, path: "flip"
    with pytest.raises(TargetError) as error:
        opened().stat("x")
    assert "\n" not in error.value.message


# -- kill -9

UPLOAD = """
import json, sys
from pathlib import Path
from backupcore.hookspecs import TargetContext
from backupcore.targets.s3 import S3Options, S3Target
given = json.loads(sys.argv[1])
target = S3Target(S3Options(**given["options"]), TargetContext("cloud", {server!r}, Path(given["state"])))
def checkpoint(state):
    Path(given["saved"]).write_text(json.dumps(state))
    print(state["parts"], flush=True)
target.put("x", Path(given["local"]), checkpoint=checkpoint)
"""


def test_killed_in_mid_upload_only_the_missing_parts_are_sent_again(proxy, opened, plain, keys, local, tmp_path):
    local.write_bytes(os.urandom(52 * MIB))
    saved = tmp_path / "saved"
    given = {
        "options": {"bucket": BUCKET, "prefix": "prod", "endpoint": proxy.url, "addressing": "path",
                    "credentials": str(keys), "part_size": 5 * MIB, "parallel": 2},
        "state": str(tmp_path / "state"), "saved": str(saved), "local": str(local),
    }  # fmt: skip
    command = [sys.executable, "-c", UPLOAD.format(server=SERVER), json.dumps(given)]
    proxy.fault = lambda method, path: "mute" if re.search(r"partNumber=(7|8)(&|$)", path) else None
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if int(line) >= 6:
                break
        child.send_signal(signal.SIGKILL)
    ((key, upload),) = [
        (found["Key"], found["UploadId"]) for found in plain.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    ]
    there = {part["PartNumber"] for part in plain.list_parts(Bucket=BUCKET, Key=key, UploadId=upload)["Parts"]}
    assert {1, 2, 3, 4, 5, 6} <= there < set(range(1, 12))
    proxy.fault = lambda method, path: None
    proxy.requests.clear()
    target = opened(parallel=2)
    assert target.put("x", local, resume=json.loads(saved.read_text())).proven
    sent = {
        int(re.search(r"partNumber=(\d+)", path).group(1)) for _m, path, _s in proxy.requests if "partNumber" in path
    }
    assert sent == set(range(1, 12)) - there
    assert b"".join(target.read("x")) == local.read_bytes()
    assert plain.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    assert list((tmp_path / "state/uploads").iterdir()) == []
