"""Second copies inside one S3 service: made by the service, by upload parts, gone on with after a kill, and by way of
this machine where the service would not."""

from __future__ import annotations

import base64
import hashlib
import random
import re
from dataclasses import replace

import ministack
import pytest
import s3_world
import s3proxy
import s3server
from s3_world import MIB, check_honest, uploads
from zygote import Zygote

from backupcore import clock
from backupcore.settings import CopyRule, TargetSettings
from backupcore.stage import release, second
from backupcore.targets import _s3_copy

SMALL = {"COPY_PART": 5 * MIB, "LARGEST_ONE": 5 * MIB}


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
    """Targets cloud and other in one bucket; the policy wants cloud alone."""
    world = s3_world.make_world(tmp_path, server, proxy.url)
    options = {**world.settings.targets["cloud"].options, "prefix": tmp_path.name + "-other"}
    both = {**world.settings.targets, "other": TargetSettings("other", "s3", options)}
    world.settings = replace(world.settings, targets=both)
    world.policy(CopyRule("cloud"))
    world.opened["other"] = s3_world.open_cloud(world, "other")
    for target in world.opened.values():
        target.facts()
    yield world
    for target in world.opened.values():
        target.close()
    world.catalog.close()


def staged(world, **parts):
    """Dumps that are on cloud; what they are made of is forgotten by the holding disk where it may be."""
    made = [world.dump(**parts), world.dump(level=1)]
    assert all(one.ok for one in world.stage())
    return made


def copied(world, **how):
    chosen = second.choose(world.catalog, "cloud", "other")
    return world.stage(jobs=chosen.jobs, origin="cloud", now=True, **how)


def through_us(proxy, since):
    """Bytes of images that went out from here."""
    return sum(one.got for one in proxy.exchanges[since:] if one.method == "PUT" and "/image-" in one.path)


@pytest.mark.parametrize("parts", [False, True], ids=["one request", "upload parts"])
def test_the_service_copies_by_itself_and_what_it_made_is_whole(world, proxy, plain, server, monkeypatch, parts):
    if parts:
        for name, value in SMALL.items():
            monkeypatch.setattr(_s3_copy, name, value)
    dumps = staged(world, parts=(13 * MIB, 7000))
    since = len(proxy.exchanges)
    assert all(one.ok for one in copied(world))
    assert through_us(proxy, since) == 0
    ranges = [one for one in proxy.exchanges[since:] if one.method == "PUT" and "partNumber=" in one.path]
    assert len(ranges) == (3 if parts else 0)
    read = [one for one in proxy.exchanges[since:] if one.method == "GET" and "/image-" in one.path]
    assert read, "neither of the two says the SHA-256 of what it copied"
    assert set(check_honest(world, plain, "other")) == {one.id for one in dumps}
    assert uploads(world, plain, "other") == []


@pytest.mark.parametrize("right", [True, False])
def test_a_copy_whose_sha256_the_service_says_is_proven_by_it(world, proxy, plain, server, monkeypatch, right):
    """As AWS does: it hashes while it copies. (Here the answer is given these words: no server at hand says them.)"""
    target = world.opened["other"]
    if not target.facts().sha256:
        monkeypatch.setattr(target, "_known", replace(target.facts(), sha256=True))
    dumps = staged(world, parts=(3 * MIB,))
    real = target.client().copy_object

    def copy_object(**given):
        name = given["CopySource"]["Key"].partition("/")[2]
        content = world.files(world.holding)[name] if right else b"other"
        answer = real(**given)
        told = base64.b64encode(hashlib.sha256(content).digest()).decode()
        return {**answer, "CopyObjectResult": {**answer["CopyObjectResult"], "ChecksumSHA256": told}}

    monkeypatch.setattr(target.client(), "copy_object", copy_object)
    since = len(proxy.exchanges)
    assert all(one.ok for one in copied(world))
    read = [one for one in proxy.exchanges[since:]
            if one.method == "GET" and "/image-" in one.path and "-other/" in one.path]  # fmt: skip
    assert bool(read) != right
    assert set(check_honest(world, plain, "other")) == {one.id for one in dumps}


def test_holding_images_that_are_gone_are_not_needed(world, proxy, plain):
    full, top = staged(world, parts=(6 * MIB,))
    image = world.files(world.holding)
    assert release.release(world.settings, world.catalog).dumps == (full.id,)
    since = len(proxy.exchanges)
    world.policy(CopyRule("cloud"), CopyRule("other"))
    assert all(one.ok for one in world.stage())  # a policy that gains a target: the same way
    assert through_us(proxy, since) < 6 * MIB
    assert s3_world.stored(world, plain, "other") == image
    assert top.id


def test_a_service_that_refuses_to_copy_gets_the_bytes(world, proxy, plain):
    dumps = staged(world, parts=(6 * MIB,))
    denied = s3proxy.error(403, "AccessDenied")
    proxy.judge = lambda method, path, headers: denied if headers.get("x-amz-copy-source") else None
    since = len(proxy.exchanges)
    assert all(one.ok for one in copied(world))
    proxy.judge = None
    assert through_us(proxy, since) >= 6 * MIB
    assert set(check_honest(world, plain, "other")) == {one.id for one in dumps}


def test_another_key_is_another_service(world, proxy, plain, tmp_path):
    dumps = staged(world)
    other = s3_world.write_keys(tmp_path / "other-keys", {"access_key": "AKOTHER", "secret_key": "x"})
    options = {**world.settings.targets["other"].options, "credentials": str(other)}
    assert _s3_copy.identity(s3_world.S3Options(**options), "other") != world.opened["cloud"]._identity()
    assert world.opened["other"]._identity() == world.opened["cloud"]._identity() and dumps


def test_a_copy_that_rotted_at_the_service_is_found_out_before_it_is_copied_on(world, proxy, plain, server):
    dump = staged(world, parts=(6 * MIB,))[0]
    prefix = world.settings.targets["cloud"].options["prefix"]
    key = f"{prefix}/web1/etc/{dump.id}/image-0000.tar.zst"
    plain.put_object(Bucket=s3_world.BUCKET, Key=key, Body=bytes(6 * MIB))
    results = {one.dump: one for one in copied(world)}
    assert results[dump.id].failed and "damaged" in results[dump.id].message
    assert world.states(dump)["cloud"] == "damaged" and world.states(dump).get("other") in (None, "failed")
    assert dump.id not in check_honest(world, plain, "other")


@pytest.mark.parametrize("fault", ["503", "lost", "reset"])
def test_faults_while_the_service_copies(world, proxy, plain, monkeypatch, fault):
    for name, value in SMALL.items():
        monkeypatch.setattr(_s3_copy, name, value)
    dumps = staged(world, parts=(13 * MIB,))
    left = [2]

    def judge(method, path, headers):
        if headers.get("x-amz-copy-source") and left[0]:
            left[0] -= 1
            return fault
        return None

    proxy.judge = judge
    assert all(one.ok for one in copied(world))
    assert set(check_honest(world, plain, "other")) == {one.id for one in dumps}
    world.opened["other"].clean(clock.now_ns() + clock.NS)
    assert uploads(world, plain, "other") == []


def test_an_answer_that_was_lost_at_the_end_of_a_copy(world, proxy, plain, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(_s3_copy, name, value)
    dumps = staged(world, parts=(13 * MIB,))
    left = [1]

    def fault(method, path):
        if method == "POST" and "?uploadId=" in path and left[0]:
            left[0] -= 1
            return "lost"
        return None

    proxy.fault, since = fault, len(proxy.exchanges)
    assert all(one.ok for one in copied(world)) and not left[0]
    assert through_us(proxy, since) == 0
    assert set(check_honest(world, plain, "other")) == {one.id for one in dumps}
    assert uploads(world, plain, "other") == []


def test_killed_while_the_service_copies_it_goes_on_at_the_upload_part(world, proxy, plain):
    patched = {("backupcore.targets._s3_copy", name): value for name, value in SMALL.items()}
    dump = staged(world, parts=(41 * MIB,))[0]
    numbers, done, cut = random.Random(20261123), set(), 0

    def number_of(one):
        found = re.search(r"image-0000.*partNumber=(\d+)", one.path)
        return int(found.group(1)) if found and one.method == "PUT" and "-other/" in one.path else 0

    with Zygote(world) as zygote:
        for _kill in range(6):
            stop, since = numbers.randrange(1, 4), len(proxy.exchanges)
            seen = []
            child = zygote.begin(second=("cloud", "other"), patched=patched)

            def answered(one, seen=seen, stop=stop, child=child):
                if number_of(one):
                    seen.append(one)
                    if len(seen) == stop:
                        child.kill()

            proxy.answered = answered
            cut += child.wait() != 0
            proxy.answered = None
            again = {number_of(one) for one in proxy.exchanges[since:]} & done - {0}
            assert not again, again
            done |= {number_of(one) for one in proxy.exchanges if one.status == 200}
        child = zygote.run(second=("cloud", "other"), patched=patched)
    assert cut >= 2 and done >= {1, 2, 3}
    assert dump.id in check_honest(world, plain, "other")
    world.opened["other"].clean(clock.now_ns() + clock.NS)
    assert uploads(world, plain, "other") == [] and through_us(proxy, 0) < 42 * MIB + 10 * MIB
