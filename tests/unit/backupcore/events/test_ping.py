"""Pings, against a real server on loopback: each end of a run is another word, and none is said too much."""

from __future__ import annotations

import os

import pytest
from backupcore.hookspecs import Event, EventError
from listener import Listener
from pydantic import ValidationError

from backupcore.events import _http, ping

BEGUN = Event("run-begun", "OK", "stowage run 1 has begun", "stowage run 1 has begun")
GOOD = Event("run-finished", "WARN", "stowage WARN 3 clients", "WARN 3 clients\nbad \x1b[31mname")
BAD = Event("run-finished", "FAIL", "stowage FAIL web1:etc", "FAIL web1:etc")


def options(**more):
    return ping.PingOptions.model_validate(more)


def test_begin_success_and_failure_have_their_own_addresses_and_tell_nothing_else():
    with Listener() as there:
        for event in (BEGUN, GOOD, BAD):
            ping.send(options(url=there.url + "/1b2c"), event)
    assert there.paths == ["/1b2c/start", "/1b2c", "/1b2c/fail"]
    assert [(one.method, one.body) for one in there.got] == [("POST", b"")] * 3


def test_what_is_put_behind_may_be_a_query():
    with Listener() as there:
        how = {"start": "?state=run", "success": "?state=complete", "fail": "?state=fail", "method": "GET"}
        for event in (BEGUN, GOOD, BAD):
            ping.send(options(url=there.url + "/p/key?env=prod", **how), event)
        ping.send(options(url=there.url + "/p/key?env=prod"), BAD)
        ping.send(options(url=there.url + "/p/", **how), GOOD)
    states = [f"/p/key?env=prod&state={word}" for word in ("run", "complete", "fail")]
    assert there.paths == [*states, "/p/key/fail?env=prod", "/p/?state=complete"]
    assert there.got[0].method == "GET" and "content-length" not in there.got[0].headers


def test_null_says_nothing():
    with Listener() as there:
        for event in (BEGUN, GOOD, BAD):
            ping.send(options(url=there.url, start=None, fail=None), event)
    assert there.paths == ["/"]


def test_the_report_is_sent_only_to_who_asks_for_it():
    with Listener() as there:
        ping.send(options(url=there.url, body="subject"), GOOD)
        ping.send(options(url=there.url, body="full"), GOOD)
        ping.send(options(url=there.url, body="full"), Event("run-finished", "OK", "x", "y" * 50_000))
    assert [one.body for one in there.got[:2]] == [b"stowage WARN 3 clients", b"WARN 3 clients\nbad \\x1b[31mname"]
    assert len(there.got[2].body) == ping.MOST


def test_the_address_is_a_secret_that_no_message_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(_http.time, "sleep", lambda _seconds: None)
    file = tmp_path / "alive.url"
    with Listener((500,)) as there:
        file.write_text(there.url + "/S3CR3T\n")
        os.chmod(file, 0o600)
        ping.check(options(url_file=str(file)))
        with pytest.raises(EventError) as caught:
            ping.send(options(url_file=str(file)), GOOD)
    assert there.paths == ["/S3CR3T"] * 3
    assert "S3CR3T" not in caught.value.message + caught.value.hint
    os.chmod(file, 0o604)
    with pytest.raises(EventError, match="can be read by others"):
        ping.check(options(url_file=str(file)))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "one of the two is needed"),
        ({"url": "https://x/", "fail": "fail"}, "nothing to put behind"),
        ({"url": "https://x/", "start": "/a b"}, "nothing to put behind"),
        ({"url": "hc-ping.com/x"}, "is no address"),
    ],
)
def test_wrong_options_are_refused(wrong, why):
    with pytest.raises(ValidationError, match=why):
        options(**wrong)
