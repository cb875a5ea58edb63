"""Webhooks, against a real server on loopback: what arrives, who is believed, what becomes of every way to fail."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time

import pytest
from backupcore.hookspecs import Event, EventError
from listener import Listener, certificate
from pydantic import ValidationError

from backupcore.events import _http, webhook

DATA = {"sources": [{"client": "web1", "message": "bad \x1b[31mname"}], "run": None, "bytes": 7}
EVENT = Event("run-finished", "FAIL", "stowage FAIL web1:etc\r\nX: y", "FAIL web1:etc\nbad \x1b[31mname", DATA)
HIDDEN = "T0PS3CR3T"


@pytest.fixture
def quick(monkeypatch):
    """No pauses between tries; how long they would have been."""
    slept = []
    monkeypatch.setattr(_http.time, "sleep", slept.append)
    return slept


def options(url, **more):
    return webhook.WebhookOptions.model_validate({"url": url, **more})


def secret(tmp_path, text=HIDDEN + "\nsecond line\n", mode=0o600):
    file = tmp_path / "secret"
    file.write_text(text)
    os.chmod(file, mode)
    return str(file)


def test_the_event_arrives_as_json_escaped_and_whole():
    with Listener() as there:
        webhook.send(options(there.url + "/hook?a=b"), EVENT)
    (got,) = there.got
    told = got.json()
    assert (got.method, got.path, got.headers["content-type"]) == ("POST", "/hook?a=b", "application/json")
    assert got.headers["host"] == f"127.0.0.1:{there.port}"
    assert (told["schema"], told["kind"], told["status"]) == (1, "run-finished", "FAIL")
    assert told["subject"] == "stowage FAIL web1:etc\\x0d\\x0aX: y"
    assert told["text"] == "FAIL web1:etc\nbad \\x1b[31mname"
    assert told["data"] == {"sources": [{"client": "web1", "message": "bad \\x1b[31mname"}], "run": None, "bytes": 7}
    assert set(told) == {"schema", "id", "sent", "kind", "status", "subject", "text", "data"}


def test_a_chat_room_gets_text_alone():
    with Listener() as there:
        webhook.send(options(there.url, body="text"), Event("test", "OK", "all is well", "all is well\nreally"))
        webhook.send(options(there.url, body="text"), Event("test", "OK", "a subject", "a text"))
    assert [one.json() for one in there.got] == [{"text": "all is well\nreally"}, {"text": "a subject\n\na text"}]


def test_the_signature_proves_the_body_and_the_secret_stays_here(tmp_path):
    with Listener() as there:
        webhook.send(options(there.url, secret_file=secret(tmp_path)), EVENT)
    (got,) = there.got
    proof = hmac.new(HIDDEN.encode(), got.body, hashlib.sha256).hexdigest()
    assert got.headers["x-stowage-signature"] == f"sha256={proof}"
    assert HIDDEN not in json.dumps(got.headers) and HIDDEN.encode() not in got.body


def test_a_secret_can_be_a_header(tmp_path):
    with Listener() as there:
        file = secret(tmp_path, f"Bearer {HIDDEN}\n")
        webhook.send(options(there.url, secret_file=file, secret_as="header"), EVENT)
        webhook.send(options(there.url, secret_file=file, secret_as="header", header="X-Api-Key"), EVENT)
    assert there.got[0].headers["authorization"] == there.got[1].headers["x-api-key"] == f"Bearer {HIDDEN}"


def test_a_secret_header_is_never_sent_over_an_open_line(tmp_path):
    asked = options("http://hooks.acme.example/", secret_file=secret(tmp_path), secret_as="header")
    for step in (webhook.check, lambda one: webhook.send(one, EVENT)):
        with pytest.raises(EventError, match="over an open line"):
            step(asked)


def test_the_address_can_be_a_secret_of_its_own(tmp_path, quick):
    with Listener((404,)) as there:
        file = secret(tmp_path, f"{there.url}/services/{HIDDEN}\n")
        asked = webhook.WebhookOptions(url_file=file)
        webhook.check(asked)
        with pytest.raises(EventError) as caught:
            webhook.send(asked, EVENT)
    assert there.paths == [f"/services/{HIDDEN}"]  # what is refused for good is not tried again
    assert "status 404 Not Found" in caught.value.message
    assert HIDDEN not in caught.value.message + caught.value.hint + repr(asked)


@pytest.mark.parametrize("text", ["", "no address\n", "ftp://x/\n", f"https://me:{HIDDEN}@host/\n", "https://h/a b\n"])
def test_an_address_file_that_holds_none_is_named_without_what_it_holds(tmp_path, text):
    with pytest.raises(EventError) as caught:
        webhook.check(webhook.WebhookOptions(url_file=secret(tmp_path, text)))
    assert str(tmp_path) in caught.value.message and HIDDEN not in caught.value.message


@pytest.mark.parametrize(("make", "why"), [(lambda file: os.chmod(file, 0o640), "can be read by others"),
                                           (os.unlink, "No such file")])  # fmt: skip
def test_a_secret_that_is_open_or_gone_is_told_before_anything_is_sent(tmp_path, make, why):
    file = secret(tmp_path)
    make(file)
    with Listener() as there:
        for step in (webhook.check, lambda one: webhook.send(one, EVENT)):
            with pytest.raises(EventError, match=why):
                step(options(there.url, secret_file=file))
    assert there.got == []


@pytest.mark.parametrize("first", [503, 429, "close"])
def test_what_may_pass_is_tried_again_with_the_same_id(first, quick):
    with Listener((first, first, 204)) as there:
        webhook.send(options(there.url), EVENT)
    assert len({one.json()["id"] for one in there.got}) == 1 and len(there.got) == 3
    assert quick == [1.0, 4.0]


def test_after_three_tries_it_is_given_up(quick):
    with Listener((500,)) as there, pytest.raises(EventError, match=r"status 500 .*\(3 tries\)"):
        webhook.send(options(there.url), EVENT)
    assert len(there.got) == 3


def test_a_redirect_leads_nowhere(tmp_path):
    with Listener() as elsewhere, Listener(((302, {"Location": elsewhere.url}),)) as there:
        with pytest.raises(EventError, match="leads elsewhere"):
            webhook.send(options(there.url, secret_file=secret(tmp_path), secret_as="header"), EVENT)
    assert len(there.got) == 1 and elsewhere.got == []


@pytest.mark.parametrize("answer", ["silent", "drip"])
@pytest.mark.parametrize("tls", [False, True])
def test_who_does_not_come_to_an_end_is_left(answer, tls, tmp_path, quick):
    made = certificate(tmp_path) if tls else None
    with Listener((answer,), tls=made) as there:
        begun = time.monotonic()
        with pytest.raises(EventError, match="does not answer: not within 1 s"):
            webhook.send(options(there.url, timeout=1, ca=str(made[0]) if tls else ""), EVENT)
        took = time.monotonic() - begun
    assert len(there.got) == 3 and 2.9 < took < 30


def test_tls_is_believed_by_its_certificate_alone(tmp_path, quick):
    mine, other = certificate(tmp_path / "mine"), certificate(tmp_path / "other")
    with Listener(tls=mine) as there:
        for ca in ("", str(other[0])):
            with pytest.raises(EventError, match="certificate of 127.0.0.1:.* is not trusted"):
                webhook.send(options(there.url, ca=ca), EVENT)
        with pytest.raises(EventError, match="is not trusted"):  # the name is looked at, too
            url = there.url.replace("127.0.0.1", "localhost")
            webhook.send(options(url, ca=str(mine[0])), EVENT)
        assert there.got == [] and quick == []
        webhook.send(options(there.url, ca=str(mine[0])), EVENT)
    assert len(there.got) == 1


def test_nobody_there_and_no_tls_there_are_two_things(quick):
    with Listener() as there:
        closed = there.port
        with pytest.raises(EventError, match="no TLS"):
            webhook.send(options(there.url.replace("http:", "https:")), EVENT)
    with pytest.raises(EventError, match=f"127.0.0.1:{closed} does not answer: Connection refused"):
        webhook.send(options(f"http://127.0.0.1:{closed}/"), EVENT)
    with pytest.raises(EventError, match="ca of the event|No such file") as caught:
        webhook.send(options("https://127.0.0.1:1/", ca="/nowhere/ca.pem"), EVENT)
    assert "/nowhere/ca.pem" in caught.value.message


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "one of the two is needed"),
        ({"url": "https://x/", "url_file": "/x"}, "goes without url"),
        ({"url": "x"}, "is no address"),
        ({"url": "ftp://x/"}, "is no address"),
        ({"url": "https://x:99999/"}, "is no address"),
        ({"url": "https://x/\nHost: y"}, "characters"),
        ({"url": "https://ops:pw@x/"}, "user or password"),
        ({"url_file": "x"}, "no absolute path"),
        ({"url": "https://x/", "secret_file": "x"}, "no absolute path"),
        ({"url": "https://x/", "header": "X: y"}, "no name of a header"),
        ({"url": "https://x/", "header": "Content-Length"}, "HTTP itself"),
        ({"url": "https://x/", "secret": "x"}, "Extra inputs"),
        ({"url": "https://x/", "timeout": 0}, "greater than or equal"),
    ],
)
def test_wrong_options_are_refused(wrong, why):
    with pytest.raises(ValidationError, match=why):
        webhook.WebhookOptions.model_validate(wrong)
