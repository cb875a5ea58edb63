"""Who the S3 target is: files that change, roles, the credential that may delete, proxies; and what goes wrong there.

A real STS (moto's) takes on roles; a small server of our own gives what a test needs to see: short-lived keys, wrong
clocks, other regions, a proxy that asks for a password.
"""

from __future__ import annotations

import base64
import email.utils
import http.server
import json
import os
import socket
import threading
import time
import urllib.request
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from backupcore.hookspecs import TargetContext, TargetError
from moto.server import ThreadedMotoServer
from pydantic import ValidationError

from backupcore.targets import _s3_client, _s3_login
from backupcore.targets._s3_client import S3Options
from backupcore.targets.s3 import S3Target

SERVER = "0123456789abcdef"
ROLE = "arn:aws:iam::123456789012:role/backup"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=url, aws_access_key_id="k", aws_secret_access_key="s",
                          region_name="us-east-1")  # fmt: skip
    client.create_bucket(Bucket="login")
    yield url
    server.stop()


class Web:
    """A server that answers each request by `answer(method, path, headers, body)` -> (status, headers, body)."""

    def __init__(self):
        web = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args):
                pass

            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                web.seen.append((self.command, self.path, dict(self.headers), body))
                status, headers, content = web.answer(self.command, self.path, self.headers, body)
                self.send_response_only(status)
                for name, value in {"Content-Length": len(content), "Connection": "close", **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_CONNECT = do

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.answer = lambda *_asked: (200, {}, b"")

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exc):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def web():
    with Web() as found:
        yield found


EMPTY = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>login</Name></ListBucketResult>'


def key_of(headers):
    """The access key that a request was signed with."""
    return headers["Authorization"].split("Credential=")[1].split("/")[0]


def write(path, **keys):
    path.write_text(json.dumps(keys))
    path.chmod(0o600)
    return path


@pytest.fixture
def keys(tmp_path):
    return write(tmp_path / "keys", access_key="AKIDFIRST", secret_key="secret")


def opened(tmp_path, pruning=False, **options):
    given = {"bucket": "login", "prefix": "p", "addressing": "path", "region": "us-east-1", **options}
    return S3Target(S3Options(**given), TargetContext("cloud", SERVER, tmp_path / "state", pruning))


def test_a_role_is_taken_on_and_its_keys_are_used(endpoint, keys, tmp_path):
    with Web() as sts:

        def relay(method, path, headers, body):
            request = urllib.request.Request(endpoint + path, body, dict(headers), method=method)
            with urllib.request.urlopen(request) as answer:
                return answer.status, {"Content-Type": "text/xml"}, answer.read()

        sts.answer = relay
        target = opened(tmp_path, endpoint=endpoint, credentials=keys, role_arn=ROLE, external_id="acme-7",
                        sts_endpoint=sts.url, role_duration="15 min")  # fmt: skip
        assert list(target.list()) == [] and list(target.list()) == []
        target.close()
    ((_method, _path, headers, body),) = sts.seen  # once for all requests
    asked = {key: value[0] for key, value in parse_qs(body.decode()).items()}
    assert asked["Action"] == "AssumeRole" and asked["RoleArn"] == ROLE and asked["ExternalId"] == "acme-7"
    assert asked["DurationSeconds"] == "900" and asked["RoleSessionName"] == "stowage"
    assert key_of(headers) == "AKIDFIRST"


def of_sts(key, seconds, action="AssumeRole"):
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    return (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
        f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
        f"<Expiration>{when}</Expiration></Credentials></{action}Result></{action}Response>"
    ).encode()


def test_keys_of_a_role_are_renewed_before_they_expire(web, keys, tmp_path):
    given = []

    def answer(method, path, _headers, body):
        if b"AssumeRole" in body:
            given.append(f"ASIA{len(given)}")
            # the first expires within the minute, as after eleven hours of a night
            return 200, {}, of_sts(given[-1], 30 if len(given) == 1 else 3600)
        return 200, {}, EMPTY

    web.answer = answer
    target = opened(tmp_path, endpoint=web.url, credentials=keys, role_arn=ROLE)
    for _ in range(3):
        list(target.list())
    target.close()
    used = [key_of(headers) for method, _path, headers, _body in web.seen if method == "GET"]
    assert given == ["ASIA0", "ASIA1"] and used[0] == "ASIA0" and used[1:] == ["ASIA1", "ASIA1"]


def test_a_web_identity_is_shown_without_any_key(web, tmp_path):
    token = tmp_path / "token"
    token.write_text("one.two.three\n")
    web.answer = lambda method, path, headers, body: (
        (200, {}, of_sts("ASIAWEB", 3600, "AssumeRoleWithWebIdentity")) if body else (200, {}, EMPTY)
    )
    target = opened(tmp_path, endpoint=web.url, role_arn=ROLE, role_token=token)
    list(target.list())
    asked, listed = web.seen
    assert "Authorization" not in asked[2] and parse_qs(asked[3].decode())["WebIdentityToken"] == ["one.two.three"]
    assert key_of(listed[2]) == "ASIAWEB"
    token.unlink()
    with pytest.raises(TargetError, match="token of the role cannot be read"):
        list(opened(tmp_path, endpoint=web.url, role_arn=ROLE, role_token=token).list())


def test_a_role_that_is_refused_is_told_as_that(web, keys, tmp_path):
    error = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
    web.answer = lambda *_asked: (403, {}, error)
    target = opened(tmp_path, endpoint=web.url, credentials=keys, role_arn=ROLE)
    with pytest.raises(TargetError) as caught:
        list(target.list())
    assert caught.value.message == f"target cloud: cannot take on the role {ROLE}: access denied (AccessDenied)"
    assert "trust policy" in caught.value.hint


def test_an_sts_that_is_not_there_names_its_own_option(keys, tmp_path, monkeypatch):
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(TargetError) as caught:
            list(opened(tmp_path, endpoint=url, credentials=keys, role_arn=ROLE).list())
    assert "cannot take on the role" in caught.value.message and " sts_endpoint:" in caught.value.hint


def test_an_expired_token_is_one_clear_error_and_a_new_one_in_the_file_is_used(web, keys, tmp_path):
    expired = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    web.answer = lambda method, path, headers, body: (
        (200, {}, EMPTY) if key_of(headers) == "AKIDNEW" else (400, {}, expired)
    )
    target = opened(tmp_path, endpoint=web.url, credentials=keys)
    with pytest.raises(TargetError) as caught:
        list(target.list())
    assert caught.value.message.endswith("the session token has expired (ExpiredToken)") and not caught.value.retry
    assert "read again when it changed" in caught.value.hint
    keys.write_text("{")  # an editor is in the middle of it
    with pytest.raises(TargetError, match="expired"):
        list(target.list())
    fresh = write(tmp_path / "fresh", access_key="AKIDNEW", secret_key="s", session_token="t")
    os.replace(fresh, keys)
    assert list(target.list()) == []
    target.close()


def test_the_credential_that_may_delete_is_used_for_pruning_only(web, keys, tmp_path):
    web.answer = lambda *_asked: (200, {}, EMPTY)
    delete = write(tmp_path / "delete", access_key="AKIDDELETE", secret_key="s")
    for pruning in (False, True):
        target = opened(tmp_path, pruning, endpoint=web.url, credentials=keys, delete_credentials=delete)
        list(target.list())
        target.close()
    assert [key_of(headers) for _m, _p, headers, _b in web.seen] == ["AKIDFIRST", "AKIDDELETE"]


def test_a_clock_that_is_wrong_is_told_with_the_difference_and_what_to_do(web, keys, tmp_path):
    body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"
    then = email.utils.formatdate(time.time() + 1200, usegmt=True)
    web.answer = lambda *_asked: (403, {"Date": then}, body)
    with pytest.raises(TargetError) as caught:
        list(opened(tmp_path, endpoint=web.url, credentials=keys).list())
    assert caught.value.message.endswith("this server's clock is 20 min behind the place's (RequestTimeTooSkewed)")
    assert "chronyc makestep" in caught.value.hint


@pytest.mark.parametrize("follow", (True, False))
def test_a_bucket_in_another_region_is_found_there_or_the_region_is_named(web, keys, tmp_path, follow):
    body = b"<Error><Code>PermanentRedirect</Code><Message>use the other endpoint</Message></Error>"

    def answer(method, path, headers, _body):
        there = "/eu-west-3/s3/" in headers.get("Authorization", "")
        if there and follow:
            return 200, {}, EMPTY
        return 301, {"x-amz-bucket-region": "eu-west-3"}, body

    web.answer = answer
    target = opened(tmp_path, endpoint=web.url, credentials=keys)
    if follow:
        assert list(target.list()) == []
        return
    with pytest.raises(TargetError) as caught:
        list(target.list())
    assert "the bucket is in another region, eu-west-3" in caught.value.message
    assert caught.value.hint == "set region: eu-west-3"


def test_a_proxy_is_used_and_told_its_password_from_the_credentials(web, tmp_path):
    secret = "pa:s/s@w rd"
    keys = write(tmp_path / "both", access_key="AKID", secret_key="s", proxy_user="backup", proxy_password=secret)
    wanted = "Basic " + base64.b64encode(f"backup:{secret}".encode()).decode()

    def answer(method, path, headers, _body):
        if headers.get("Proxy-Authorization") != wanted:
            return 407, {"Proxy-Authenticate": "Basic"}, b""
        return 200, {}, EMPTY

    web.answer = answer
    target = opened(tmp_path, endpoint="http://bucket.example.invalid", credentials=keys, proxy=web.url)
    assert list(target.list()) == []
    assert urlsplit(web.seen[0][1]).hostname == "bucket.example.invalid"  # nobody looked the name up here
    only_keys = write(tmp_path / "keys-only", access_key="AKID", secret_key="s")
    for endpoint in ("http://bucket.example.invalid", "https://bucket.example.invalid"):
        with pytest.raises(TargetError) as caught:
            list(opened(tmp_path, endpoint=endpoint, credentials=only_keys, proxy=web.url).list())
        told = f"{caught.value.message} {caught.value.hint}"
        assert "the proxy wants to know who you are" in told and "proxy_password" in told, endpoint
        assert secret not in told and "pa%3A" not in told


def test_a_file_may_hold_the_proxys_password_alone(web, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDCHAIN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    keys = write(tmp_path / "proxy", proxy_user="backup", proxy_password="x")
    web.answer = lambda *_asked: (200, {}, EMPTY)
    target = opened(tmp_path, endpoint="http://bucket.example.invalid", credentials=keys, proxy=web.url)
    assert list(target.list()) == [] and key_of(web.seen[0][2]) == "AKIDCHAIN"


@pytest.mark.parametrize(("given", "told"), (
    ({"proxy": "http://user:secret@proxy:3128"}, "proxy_user"),
    ({"proxy": "proxy:3128"}, "proxy"),
    ({"external_id": "acme"}, "external_id needs role_arn"),
    ({"role_token": "/run/token"}, "role_token needs role_arn"),
    ({"client_key": "/etc/key"}, "client_key needs client_cert"),
    ({"role_arn": ROLE, "role_duration": "1 min"}, "15 min to 12 h"),
    ({"role_arn": "backup"}, "role_arn"),
    ({"restore_tier": "Fast"}, "restore_tier"),
))  # fmt: skip
def test_what_does_not_fit_together_is_refused(given, told):
    with pytest.raises(ValidationError) as caught:
        S3Options(bucket="login", **given)
    assert told in str(caught.value)


def test_a_client_key_that_others_can_read_is_refused(tmp_path, keys):
    pem = tmp_path / "client.pem"
    pem.write_text("")
    pem.chmod(0o644)
    with pytest.raises(TargetError, match="can be read by others"):
        list(opened(tmp_path, credentials=keys, client_cert=pem).list())


def test_what_botocore_knows_of_s3_is_read_once_for_all_targets(tmp_path):
    sessions = []
    for name in ("one", "two"):
        path = tmp_path / name
        path.write_text(json.dumps({"access_key": f"key of {name}", "secret_key": "s"}))
        path.chmod(0o600)
        sessions.append(_s3_login.session_of(path, None, name))
    one, two = (session._session for session in sessions)
    assert one.get_component("data_loader") is two.get_component("data_loader")
    # and nothing else: keys and what is hooked into a client are each one's own
    assert [session.get_credentials().access_key for session in sessions] == ["key of one", "key of two"]
    assert one.get_component("event_emitter") is not two.get_component("event_emitter")
