"""Dumps that go straight to their targets: real agents over ssh; folders, programs, an SFTP box and Ceph's gateway."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import tree as trees
from botocore.config import Config
from cli_lab import Server

from backupcore.keys import store

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
import s3proxy  # noqa: E402
import s3server  # noqa: E402
import sftpserver  # noqa: E402

MIB = 1 << 20
BUCKET = "direct"
KILLS = 20
PARTS = "16 MiB"
# a place in a folder whose first `put` of a name in $FAIL takes some bytes and fails
PROGRAM = """#!/bin/sh
set -eu
cd "$1"; verb=$2; shift 2
case $verb in
put) mkdir -p "$(dirname "./$1")"
     for name in $(cat fail 2>/dev/null); do
         case $1 in */$name*) head -c 3000000 > /dev/null; echo "the disk is ill" >&2; exit 1 ;; esac
     done
     cat > "./$1" ;;
get) exec cat "./$1" ;;
list) find . -type f -path "./*/*" -printf '%s\\t%T@\\t%P\\n' ;;
delete) rm "./$1"; rmdir -p --ignore-fail-on-non-empty "$(dirname "./$1")" ;;
esac
"""


@pytest.fixture
def lab(tmp_path):
    server = Server(tmp_path)
    make_tree(tmp_path / "tree", 36)
    yield server
    server.close()


def make_tree(path, megabytes):
    """A hostile tree, and so many MiB that do not compress."""
    if not path.exists():
        trees.make_hostile_tree(str(path))
    for number in range(megabytes):
        (path / f"big-{number}").write_bytes(os.urandom(MIB - number))


def nas(lab, name="nas", **more):
    return {"type": "directory", "path": str(lab.base / name), **more}


def ill(lab, *fails, streams=True):
    """A target of a program that fails at these files; its folder."""
    script, place = lab.base / "place.sh", lab.base / "ill"
    place.mkdir(exist_ok=True)
    script.write_text(PROGRAM)
    script.chmod(0o755)
    (place / "fail").write_text(" ".join(fails))
    to = [str(script), str(place)]
    given = {verb: [*to, verb, "{name}"] for verb in ("put", "get", "delete")}
    if not streams:
        given["put"] = [*to, "put", "{name}", "{size}"]
    return {"type": "command", "list": [*to, "list"], **given}


def set_up(lab, targets, holding="never", client=(), **policy):
    lab.write(targets=targets, policies={"standard": {"holding": holding, "part_size": PARTS, **policy}})
    lab.client("web1", {"tree": lab.base / "tree"}, address="127.77.1.1", **dict(client))
    if policy.get("encrypt") == "client":
        path = lab.base / "web1.agent.json"
        config = json.loads(path.read_text())
        keys = [one.public for one in store.active(lab.base / "state" / "keys")]
        config["sources"]["tree"].update(encrypt="client", recipients=keys)
        path.write_text(json.dumps(config))


def half(lab):
    """Whatever of a dump is where no row explains it: parts without a manifest, unfinished files, notes."""
    found = []
    for name, target in lab.config["targets"].items():
        root = lab.base / ("ill" if target["type"] == "command" else name)
        if target["type"] in ("directory", "command"):
            for folder in {path.parent for path in root.glob("*/*/*/*")}:
                if folder.relative_to(root).parts[0] != ".stowage" and not (folder / "manifest.json").exists():
                    found.append(str(folder))
            found += [str(path) for path in (root / ".stowage" / "incoming").rglob("*") if path.is_file()]
    for name in ("direct", "pending"):
        found += [str(path) for path in (lab.base / "state" / name).rglob("*") if path.is_file()]
    found += [str(path) for path in (lab.base / "state" / "targets").glob("*/streams/*.json")]
    return found + [str(path) for path in (lab.base / "holding" / ".incoming").rglob("*") if path.is_file()]


def differences(lab, *more):
    """What a restore of the newest dump does not bring back."""
    to = lab.base / "back"
    shutil.rmtree(to, ignore_errors=True)
    lab.stowage("restore", "web1", "tree", "--to", str(to), *more)
    found = to / str(lab.base / "tree").lstrip("/")
    return trees.differences(trees.snapshot(str(lab.base / "tree")), trees.snapshot(str(found)))


def newest(lab):
    return lab.json("list", "dumps")["dumps"][-1]


# -- without a holding disk


@pytest.mark.parametrize("count", [1, 2])
def test_a_source_without_holding_disk_goes_straight_and_comes_back(lab, count):
    names = ["nas", "disk"][:count]
    set_up(lab, {name: nas(lab, name) for name in names})
    lab.stowage("run")
    assert newest(lab)["holding"] is None
    assert newest(lab)["copies"] == dict.fromkeys(names, "verified")
    assert list((lab.base / "holding").glob("*/*/*")) == [] and half(lab) == []
    for name in names:
        assert len(list((lab.base / name).glob("web1/tree/*/image-*"))) > 2
        assert differences(lab, "--from", name) == []
    trees.change_hostile_tree(str(lab.base / "tree"), 1)
    lab.stowage("run", "--level", "1")
    assert newest(lab)["level"] == 1 and newest(lab)["copies"] == dict.fromkeys(names, "verified")
    assert differences(lab) == [] and half(lab) == []
    lab.stowage("verify", "--full")
    assert "big-1" in lab.stowage("find", "big-1")[0]
    assert lab.json("policy", "explain", "web1", "tree")["holding"].startswith("dumps go straight to their targets")


@pytest.mark.parametrize("holding", ["never", "auto"])
@pytest.mark.parametrize("encrypt", ["server", "client"])
def test_sealed_dumps_go_straight_too(lab, encrypt, holding):
    lab.write(holding=[{"path": str(lab.base / "holding"), "use": "20 MB" if holding == "auto" else "1 GB"}])
    lab.stowage("key", "generate", "--only", "first", "--no-passphrase")
    set_up(lab, {"nas": nas(lab), "disk": nas(lab, "disk")}, holding=holding, encrypt=encrypt)
    for level in (0, 1):
        lab.stowage("run", "--level", level)
        assert newest(lab)["holding"] is None or level == 1 and holding == "auto"
        assert newest(lab)["copies"] == {"nas": "verified", "disk": "verified"}
        trees.change_hostile_tree(str(lab.base / "tree"), level + 1)
    lab.stowage("run", "--level", "1")
    assert differences(lab, "--from", "disk") == [] and half(lab) == []
    assert not list((lab.base / "nas").glob("web1/tree/*/image-*.zst"))
    lab.stowage("verify", "--full")


def test_a_lost_server_is_made_again_from_a_dump_that_went_straight(lab):
    set_up(lab, {"nas": nas(lab)})
    lab.stowage("run")
    shutil.rmtree(lab.base / "state" / "index")
    for path in (lab.base / "state").glob("catalog.sqlite*"):
        path.unlink()
    lab.stowage("rebuild", "--from", "nas")
    assert differences(lab) == []
    trees.change_hostile_tree(str(lab.base / "tree"), 1)
    lab.stowage("run", "--level", "1")
    assert newest(lab)["level"] == 1 and differences(lab) == []


# -- targets that fail


def test_a_target_that_fails_in_the_middle_drops_out_and_gets_its_copy_later(lab):
    set_up(lab, {"nas": nas(lab), "ill": ill(lab, "image-0001")})
    out, err = lab.stowage("run", status=1)  # its copy is tried once more in the same run, and fails again
    assert "the disk is ill" in out + err
    dump = newest(lab)
    assert dump["copies"] == {"nas": "verified", "ill": "failed"}
    first = next((lab.base / "ill").glob("web1/tree/*/image-0000*")).stat()
    ill(lab)
    lab.stowage("stage")
    assert newest(lab)["copies"] == {"nas": "verified", "ill": "verified"}
    again = next((lab.base / "ill").glob("web1/tree/*/image-0000*")).stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns), "what was there is not sent twice"
    assert differences(lab, "--from", "ill") == [] and half(lab) == []


@pytest.mark.parametrize("fails", ["image-0000", "image-0002", "index.tsv", "manifest.json"])
def test_when_the_last_target_fails_the_dump_fails_and_leaves_nothing(lab, fails):
    set_up(lab, {"ill": ill(lab, fails)})
    out, err = lab.stowage("run", status=1)
    assert "the disk is ill" in out + err
    assert lab.json("list", "dumps")["dumps"] == [] and half(lab) == []
    assert not list((lab.base / "ill").glob("web1/tree/*/*"))
    ill(lab)
    lab.stowage("run")
    assert newest(lab)["copies"] == {"ill": "verified"} and differences(lab) == []


def test_a_source_that_can_go_nowhere_is_told_before_the_night_and_in_it(lab):
    set_up(lab, {"ill": ill(lab, streams=False)})
    out, err = lab.stowage("check", status=1)
    assert "web1:tree" in out and "none of ill takes streams" in out
    out, err = lab.stowage("run", status=1)
    assert "target ill takes no streams" in out + err and half(lab) == []


def test_a_target_that_takes_no_streams_gets_its_copy_from_the_other(lab):
    set_up(lab, {"nas": nas(lab), "ill": ill(lab, streams=False)})
    lab.stowage("run")
    assert newest(lab)["copies"] == {"nas": "verified", "ill": "verified"} and half(lab) == []


def test_a_slow_target_does_not_time_the_agent_out(lab):
    lab.write(timeouts={"connect": 5, "silence": 2})
    set_up(lab, {"nas": nas(lab, rate="4 MB/s")})
    begun = time.monotonic()
    lab.stowage("run")
    assert time.monotonic() - begun > 4 and half(lab) == []
    assert differences(lab) == []


# -- more than the holding disk holds


@pytest.fixture
def small_disk(lab):
    """A holding disk of 64 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", lab.base / "holding"], check=True)
    yield lab.base / "holding"
    subprocess.run(["umount", lab.base / "holding"], check=True)


@pytest.mark.parametrize("use", ["1 GB", "50 MB"])
def test_an_image_larger_than_its_disk_spills_and_goes_on_without_a_restart(lab, small_disk, use):
    make_tree(lab.base / "tree", 300)
    lab.write(holding=[{"path": str(small_disk), "use": use}])
    set_up(lab, {"nas": nas(lab), "disk": nas(lab, "disk")}, holding="auto", copies=[{"target": "nas"}])
    lab.stowage("run")
    dump = newest(lab)
    assert dump["holding"] is None and dump["copies"] == {"nas": "verified"} and dump["stored_size"] > 300 * MIB * 0.99
    assert half(lab) == [] and list(small_disk.glob("*/*/*")) == []
    assert differences(lab) == []
    lab.stowage("run", "--level", "0")  # what it takes is known now: it does not even begin there
    assert len(lab.json("list", "dumps")["dumps"]) == 2 and newest(lab)["copies"] == {"nas": "verified"}
    assert differences(lab) == [] and half(lab) == []
    lab.stowage("run", "--level", "1")  # there is room for this one
    assert newest(lab)["level"] == 1 and differences(lab) == []
    lab.stowage("verify", "--full")


def test_when_every_holding_disk_is_away_dumps_go_straight(lab):
    set_up(lab, {"nas": nas(lab)}, holding="auto")
    lab.stowage("run")
    (lab.base / "holding").rename(lab.base / "elsewhere")
    out, err = lab.stowage("run", "--level", "0")
    assert "holding is not there" in out + err
    assert newest(lab)["holding"] is None and newest(lab)["copies"] == {"nas": "verified"}
    assert differences(lab, "--from", "nas") == []
    lab.write(policies={"standard": {"holding": "required"}})
    out, err = lab.stowage("run", status=2)
    assert "holding is not there" in out + err
    assert len(lab.json("list", "dumps")["dumps"]) == 2


def test_where_a_holding_disk_is_required_a_full_one_ends_the_dump(lab, small_disk):
    make_tree(lab.base / "tree", 100)
    set_up(lab, {"nas": nas(lab)}, holding="required")
    out, err = lab.stowage("run", status=1)
    assert "is full" in out + err and half(lab) == []
    assert lab.json("list", "dumps")["dumps"] == [] and not list((lab.base / "nas").glob("web1/*"))


def test_a_spill_whose_targets_fail_leaves_nothing(lab, small_disk):
    make_tree(lab.base / "tree", 100)
    set_up(lab, {"ill": ill(lab, "image-0002")}, holding="auto")
    out, err = lab.stowage("run", status=1)
    assert "the disk is ill" in out + err and half(lab) == []
    assert lab.json("list", "dumps")["dumps"] == [] and not list((lab.base / "ill").glob("web1/tree/*/*"))


# -- over a network


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3")) as answer:
        client = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        yield answer, client


def cloud(lab, gateway, **more):
    answer, _client = gateway
    keys = lab.base / "credentials.json"
    keys.write_text(json.dumps({name: answer[name] for name in ("access_key", "secret_key")}))
    keys.chmod(0o600)
    return {"type": "s3", "bucket": BUCKET, "prefix": lab.base.name, "endpoint": answer["endpoint"],
            "credentials": str(keys), "addressing": "path", "part_size": "5 MiB", **more}  # fmt: skip


def uploads(client):
    return client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])


def keys_below(client, lab):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{lab.base.name}/web1/")
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def test_straight_into_a_bucket_a_box_and_a_folder_at_once(lab, gateway, tmp_path):
    with sftpserver.running(tmp_path / "ssh") as box:
        sftp = {"type": "sftp", "host": "127.0.0.1", "port": box.port, "user": sftpserver.USER, "path": "/home/stowage",
                "known_hosts": str(box.known_hosts), "key": str(box.key)}  # fmt: skip
        set_up(lab, {"cloud": cloud(lab, gateway), "box": sftp, "nas": nas(lab)})
        lab.stowage("run")
        assert newest(lab)["copies"] == {"cloud": "verified", "box": "verified", "nas": "verified"}
        for name in ("cloud", "box", "nas"):
            assert differences(lab, "--from", name) == []
        assert uploads(gateway[1]) == [] and half(lab) == []


def test_the_memory_of_the_server_stays_flat(lab, gateway):
    make_tree(lab.base / "tree", 300)
    set_up(lab, {"cloud": cloud(lab, gateway, parallel=2), "nas": nas(lab)})
    process = lab.start("run")
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    peak = max(peak, int(line.split()[1]) >> 10)
        time.sleep(0.1)
    assert process.returncode == 0, process.communicate()
    assert newest(lab)["copies"] == {"cloud": "verified", "nas": "verified"}
    # the program with boto3 is some 110 MiB; three upload parts of 5 MiB are the bucket's room
    assert peak < 110 + 48 + 3 * 5 + 20, peak


@pytest.mark.timeout(300)
def test_a_bucket_behind_a_bad_line_gets_all_or_nothing(lab, gateway):
    """One request in ten is refused, cut or loses its answer."""
    numbers = random.Random(7)
    faults = ["503", "500", "reset", "torn", "lost", "cut"]

    def fault(_method, _path):
        return numbers.choice(faults) if numbers.random() < 0.1 else None

    with s3proxy.Proxy(gateway[0]["endpoint"]) as proxy:
        set_up(lab, {"cloud": cloud(lab, gateway, endpoint=proxy.url)})
        lab.stowage("check")  # what the place can do is known before the night
        proxy.fault = fault
        lab.stowage("run")
        assert newest(lab)["copies"] == {"cloud": "verified"} and sum(proxy.faults.values()) >= 3
        proxy.fault = lambda method, path: None
        assert differences(lab) == [] and half(lab) == [] and uploads(gateway[1]) == []
        lab.stowage("verify", "--full")


def test_a_bucket_that_dies_for_good_leaves_nothing_once_it_is_back(lab, gateway):
    with s3proxy.Proxy(gateway[0]["endpoint"]) as proxy:
        set_up(lab, {"cloud": cloud(lab, gateway, endpoint=proxy.url)})
        died = []

        def fault(method, path):
            if "partNumber=4" in path or died:
                died.append(path)
                return s3proxy.error(403, "AccessDenied")
            return None

        proxy.fault = fault
        out, err = lab.stowage("run", status=1)
        assert "access denied" in out + err and lab.json("list", "dumps")["dumps"] == []
        assert uploads(gateway[1]), "nothing could be taken away, since the place refused"
        assert len(list((lab.base / "state" / "direct").glob("*.json"))) == 1
        proxy.fault = lambda method, path: None
        lab.stowage("stage")
        assert half(lab) == [] and uploads(gateway[1]) == [] and keys_below(gateway[1], lab) == []
        lab.stowage("run")
        assert newest(lab)["copies"] == {"cloud": "verified"} and differences(lab) == []


def test_a_run_that_is_ended_takes_away_what_it_sent(lab, gateway):
    set_up(lab, {"cloud": cloud(lab, gateway, rate="2 MB/s"), "nas": nas(lab)})
    process = lab.start("run")
    while not list((lab.base / "nas").glob("web1/tree/*/image-0000*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert half(lab) == [] and uploads(gateway[1]) == [] and keys_below(gateway[1], lab) == []
    assert lab.json("list", "dumps")["dumps"] == []


# -- kills


@pytest.mark.timeout(580)
@pytest.mark.parametrize("holding", ["never", pytest.param("auto", marks=pytest.mark.slow)])
def test_a_run_killed_anywhere_leaves_whole_dumps_or_nothing(lab, gateway, holding):
    """20 kills at random moments: nothing half is called a dump, the next run takes up or takes away all of it."""
    numbers = random.Random(int(os.environ.get("STOWAGE_KILL_SEED", "20261123")))
    client = gateway[1]
    lab.write(holding=[{"path": str(lab.base / "holding"), "use": "20 MB" if holding == "auto" else "1 GB"}])
    set_up(lab, {"cloud": cloud(lab, gateway), "nas": nas(lab)}, holding=holding)
    length = 0.0
    for _run in range(2):
        begun = time.monotonic()
        lab.stowage("run", "--level", "0")
        length = time.monotonic() - begun
    cut = left = adopted = 0
    for kill in range(1, KILLS // 2 + 1):
        before = {one["dump"] for one in lab.json("list", "dumps")["dumps"]}
        process = lab.start("run", "--level", "0", start_new_session=True)
        if kill % 4 < 2:  # in the dump: chance alone may only meet the start of the program
            while process.poll() is None and not half(lab):
                time.sleep(0.01)
            time.sleep(numbers.random() * length / 4)
        else:
            time.sleep(0.3 + numbers.random() * (length + 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        hit = process.returncode == -signal.SIGKILL
        cut, length = cut + hit, length if hit else length * 0.8  # it takes less time than it did: kill earlier
        left += bool(half(lab) or uploads(client))
        for one in lab.json("list", "dumps")["dumps"]:
            assert "verified" in one["copies"].values(), one
        if kill % 2:
            lab.stowage("stage")
        else:
            begun = time.monotonic()
            lab.stowage("run", "--level", "0")
            length = time.monotonic() - begun
        rows = {one["dump"]: one for one in lab.json("list", "dumps")["dumps"]}
        adopted += bool(kill % 2 and set(rows) - before)
        assert half(lab) == [] and uploads(client) == [], (kill, half(lab), uploads(client))
        assert all(one["copies"] == {"cloud": "verified", "nas": "verified"} for one in rows.values())
        for names in ({key.split("/")[3] for key in keys_below(client, lab)},
                      {path.name for path in (lab.base / "nas" / "web1" / "tree").iterdir()}):  # fmt: skip
            assert names == set(rows), kill
        assert len({one["dump"] for one in rows.values()}) == len(rows)
    assert cut >= KILLS // 4 and left, (cut, left, adopted)
    assert differences(lab, "--from", "cloud") == [] and differences(lab, "--from", "nas") == []
    lab.stowage("verify", "--full")
