"""Staging to real S3 servers through a proxy that makes faults: every copy ends whole and verified or in one clear
error, nothing half is called done, nothing is left behind. Bytes are compared on the server itself, past the proxy."""

from __future__ import annotations

import random
import re
import time

import botocore.config
import ministack
import pytest
import s3_world
import s3proxy
import s3server
from s3_world import MIB, check_honest, stored, uploads

from backupcore import clock
from backupcore.targets import _s3_client, _s3_probe

ALL_FAULTS = ["500", "503", "gateway", "reset", "torn", "lost", "cut"]
# what each request of a staging is, told by method and path
KINDS = {
    "begin": ("POST", r"\?uploads"),
    "part": ("PUT", r"partNumber="),
    "finish": ("POST", r"\?uploadId="),
    "whole": ("PUT", r"/(index|frames|SHA256SUMS|RESTORE)[^?]*$"),
    "manifest": ("PUT", r"/manifest\.json$"),
    "listing": ("GET", r"list-type"),
}


@pytest.fixture(scope="module", params=["radosgw", "ministack"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with {"radosgw": s3server, "ministack": ministack}[request.param].running(folder) as answer:
        yield {**answer, "kind": request.param}


@pytest.fixture(scope="module")
def plain(server):
    return s3_world.plain_client(server)


@pytest.fixture
def proxy(server):
    with s3proxy.Proxy(server["endpoint"]) as found:
        yield found


@pytest.fixture
def world(proxy, plain, server, tmp_path):
    """A world whose target's facts are known, so that faults meet the staging."""
    world = s3_world.make_world(tmp_path, server, proxy.url)
    world.opened["cloud"].facts()
    yield world
    world.opened["cloud"].close()
    world.catalog.close()


@pytest.fixture
def impatient(monkeypatch):
    """Requests are tried once: what the second try would mend is seen."""
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)


@pytest.fixture
def short(monkeypatch):
    """Silence of a second is too long."""
    real, soon = botocore.config.Config, {"connect_timeout": 1, "read_timeout": 1}
    monkeypatch.setattr(botocore.config, "Config", lambda **given: real(**{**given, **soon}))


def anew(world):
    """The target opened anew, as the next process does."""
    world.opened["cloud"].close()
    world.opened["cloud"] = s3_world.open_cloud(world)


def one_clear_error(result):
    assert result.failed and result.code and "\n" not in result.message and "Traceback" not in result.message
    assert result.message.startswith(("target cloud: ", "the copy of ")) and result.hint
    assert len(result.message) < 400


def clean(world, plain):
    """All that was given up goes; nothing may be left."""
    world.opened["cloud"].clean(clock.now_ns() + clock.NS)
    assert uploads(world, plain) == []


def kind_rule(kind, fault, times=1_000_000):
    method, pattern = KINDS[kind]
    left = [times]

    def rule(found, path):
        if found == method and re.search(pattern, path) and left[0] > 0:
            left[0] -= 1
            return fault
        return None

    return rule


# -- one in ten


def one_in_ten(world, proxy, plain, seed, faults=ALL_FAULTS, share=0.1, dumps=3):
    numbers = random.Random(seed)
    made = [world.dump(parts=(12 * MIB, 3000), level=min(number, 1)) for number in range(dumps)]
    proxy.fault = lambda method, path: numbers.choice(faults) if numbers.random() < share else None
    for _round in range(12):
        results = world.stage()
        for result in results:
            if not result.ok:
                one_clear_error(result)
        verified = check_honest(world, plain)
        assert set(verified) >= {one.dump for one in results if one.ok}
        if len(verified) == len(made):
            break
        anew(world)
    proxy.fault = lambda method, path: None
    assert [one.id for one in made] == verified, (seed, results)
    clean(world, plain)
    assert stored(world, plain) == world.files(world.holding)


def test_one_request_in_ten_fails_and_every_copy_is_whole_in_the_end(world, proxy, plain):
    one_in_ten(world, proxy, plain, 1)
    assert sum(proxy.faults.values()) >= 2, proxy.faults


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 12))
def test_one_request_in_ten_fails_whatever_the_dice_say(world, proxy, plain, seed):
    one_in_ten(world, proxy, plain, seed, share=0.1 if seed % 2 else 0.3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_one_kind_of_fault_a_third_of_the_time(world, proxy, plain, fault):
    one_in_ten(world, proxy, plain, fault, [fault], 0.33, dumps=2)


# -- every request of a kind


def persistent(world, proxy, plain, kind, fault):
    """What stays ill costs this staging; the next one is whole, and nothing is left of the first."""
    dump = world.dump(parts=(11 * MIB, 2000))
    proxy.fault = kind_rule(kind, fault)
    (result,) = world.stage()
    if result.ok:  # nobody had need of that answer, or there was nothing in it to cut
        assert fault == "lost" and kind in ("manifest", "finish") or fault == "cut", result
    else:
        one_clear_error(result)
        assert check_honest(world, plain) == []
        assert world.states(dump) == {"cloud": "failed"}
    proxy.fault = lambda method, path: None
    anew(world)
    assert all(one.ok for one in world.stage())
    assert check_honest(world, plain) == [dump.id]
    clean(world, plain)
    assert stored(world, plain) == world.files(world.holding)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_whose_answer_never_comes(world, proxy, plain, impatient, kind):
    persistent(world, proxy, plain, kind, "lost")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [one for one in ALL_FAULTS if one != "lost"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_always_fails(world, proxy, plain, impatient, kind, fault):
    persistent(world, proxy, plain, kind, fault)


def test_an_upload_whose_beginning_was_never_told_is_not_left_behind(world, proxy, plain):
    """The server began one, its answer was lost, the second try began another: both are ours to end."""
    dump = world.dump(parts=(11 * MIB,))
    proxy.fault = kind_rule("begin", "lost", 1)
    (result,) = world.stage()
    assert result.ok and check_honest(world, plain) == [dump.id]
    assert uploads(world, plain) == []


# -- silence


def test_a_server_that_goes_silent_costs_a_try_not_the_copy(world, proxy, plain, short):
    anew(world)
    dump = world.dump(parts=(11 * MIB,))
    proxy.fault = kind_rule("part", "mute", 1)
    assert [one.ok for one in world.stage()] == [True]
    assert check_honest(world, plain) == [dump.id]
    clean(world, plain)


def test_a_server_that_stays_silent_is_told(world, proxy, plain, short, impatient):
    anew(world)
    world.dump(parts=(11 * MIB,))
    proxy.fault = kind_rule("part", "mute")
    (result,) = world.stage()
    one_clear_error(result)
    assert re.search("silent|the connection was cut", result.message)
    check_honest(world, plain)
    clean(world, plain)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault, kind", [("stall", "part"), ("doze", "finish"), ("stall", "manifest")])
def test_thirty_seconds_of_silence_are_waited_for(world, proxy, plain, fault, kind):
    dump = world.dump(parts=(11 * MIB,))
    proxy.fault = kind_rule(kind, fault, 1)
    begun = time.monotonic()
    assert [one.ok for one in world.stage()] == [True]
    assert time.monotonic() - begun >= 30
    assert check_honest(world, plain) == [dump.id]
    assert proxy.faults == {fault: 1}
    clean(world, plain)


# -- refused in the middle

EXPIRED = s3proxy.error(400, "ExpiredToken", "The provided token has expired.")
SKEWED = s3proxy.error(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("refusal, word", [(EXPIRED, "expired"), (SKEWED, "clocks")], ids=["expired", "skewed"])
def test_refused_from_some_moment_on_it_goes_on_where_it_was_once_that_is_mended(world, proxy, plain, refusal, word):
    dump = world.dump(parts=(22 * MIB, 2000))
    after = [2]

    def rule(method, path):
        if method == "PUT" and "partNumber=" in path:
            after[0] -= 1
        return refusal if after[0] < 0 else None

    proxy.fault = rule
    (result,) = world.stage()
    one_clear_error(result)
    assert word in result.message and world.states(dump) == {"cloud": "failed"}
    assert check_honest(world, plain) == []
    first = parts_taken(proxy)
    assert first
    proxy.fault = lambda method, path: None
    proxy.requests.clear()
    anew(world)
    assert [one.ok for one in world.stage()] == [True]
    assert not first & parts_taken(proxy), "what had come was sent again"
    assert check_honest(world, plain) == [dump.id]
    clean(world, plain)


def parts_taken(proxy):
    """(file, upload part) of all that reached the server."""
    found = set()
    for method, path, _size in proxy.requests:
        number = re.search(r"/([^/?]+)\?.*partNumber=(\d+)", path)
        if method == "PUT" and number:
            found.add(number.groups())
    return found


@pytest.mark.parametrize("status", [301, 307])
def test_a_bucket_in_another_region_is_found_by_what_the_server_tells(world, proxy, plain, status):
    """The endpoint says in which region the bucket is; what is signed for that one is taken."""
    away = s3proxy.error(status, "PermanentRedirect" if status == 301 else "TemporaryRedirect", "elsewhere",
                         {"x-amz-bucket-region": "eu-west-3"})  # fmt: skip
    dump = world.dump(parts=(11 * MIB,))
    proxy.judge = lambda method, path, headers: None if "/eu-west-3/s3/" in headers.get("Authorization", "") else away
    (result,) = world.stage()
    assert result.ok or "another region" in result.message
    if not result.ok:
        one_clear_error(result)
    proxy.judge = None
    anew(world)
    assert all(one.ok for one in world.stage()) and check_honest(world, plain) == [dump.id]
    clean(world, plain)


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_that_does_not_say_where_to_is_told(world, proxy, plain, status):
    code = "PermanentRedirect" if status == 301 else "TemporaryRedirect"
    world.dump(parts=(11 * MIB,))
    proxy.fault = lambda method, path: s3proxy.error(status, code, "elsewhere", {"Location": "http://127.0.0.9:1/"})
    (result,) = world.stage()
    one_clear_error(result)
    assert "region" in result.message + result.hint
    assert check_honest(world, plain) == []


# -- what is found out by trying


REFUSALS = {
    "expired": EXPIRED,
    "slow": s3proxy.error(400, "RequestTimeout", "Your socket connection to the server was not read from in time."),
    "skewed": SKEWED,
    "strange": s3proxy.error(400, "MalformedXML", ""),
}


def refused_while_trying(proxy, server, tmp_path, monkeypatch, refusal, number):
    monkeypatch.setattr(_s3_probe._Prober, "_damage", lambda self, request, **_more: None)
    world = s3_world.make_world(tmp_path, server, proxy.url)
    count = [0]

    def rule(method, path):
        if method in ("PUT", "POST"):
            count[0] += 1
        return REFUSALS[refusal] if count[0] == number and method in ("PUT", "POST") else None

    proxy.fault = rule
    try:
        facts = world.opened["cloud"].facts()
    except s3_world.TargetError as error:
        assert "\n" not in error.message
    else:
        assert not facts.put_checked and not facts.part_checked, facts
    finally:
        world.opened["cloud"].close()
        world.catalog.close()


@pytest.mark.parametrize("refusal, number", [("expired", 5), ("slow", 4), ("strange", 5)])
def test_a_refusal_while_trying_proves_nothing(proxy, plain, server, tmp_path, monkeypatch, refusal, number):
    """A place that checks nothing is not taken for one that does since a request failed for another reason."""
    refused_while_trying(proxy, server, tmp_path, monkeypatch, refusal, number)


@pytest.mark.slow
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("number", range(1, 12))
def test_a_refusal_at_any_step_of_trying_proves_nothing(proxy, plain, server, tmp_path, monkeypatch, refusal, number):
    refused_while_trying(proxy, server, tmp_path, monkeypatch, refusal, number)
