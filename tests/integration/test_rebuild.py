"""A lost server made again from a real S3 server by the real command: pace, kills, sealed dumps, no server at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import s3server
from botocore.config import Config
from cli_lab import Server

from backupcore import clock, ids
from backupcore.image import folder, layout
from backupcore.image.manifest import FileRecord, Link, Manifest, Signer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")

ROOT = Path(__file__).parents[2]
BUCKET = "rebuild"
MANY = 400  # dumps
A_MINUTE = 1000  # of them, at least


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    place = tmp_path_factory.mktemp("s3")
    with s3server.running(place) as answer:
        answer["client"] = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=answer["secret_key"],
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=16),
        )  # fmt: skip
        answer["client"].create_bucket(Bucket=BUCKET)
        yield answer


@pytest.fixture
def server(tmp_path, s3):
    base = tmp_path / "server"
    base.mkdir()
    server = Server(base)
    keys = base / "credentials"
    keys.write_text(json.dumps({name: s3[name] for name in ("access_key", "secret_key")}))
    keys.chmod(0o600)
    server.prefix = tmp_path.name
    server.credentials = keys
    options = {"type": "s3", "bucket": BUCKET, "prefix": server.prefix, "endpoint": s3["endpoint"],
               "addressing": "path", "credentials": str(keys)}  # fmt: skip
    server.write(targets={"cloud": options})
    yield server
    server.close()


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(20):
        (tree / "sub" / f"file{number}").write_text(f"content {number}\n" * 50)
    return tree


def lose(server):
    """The server burns down; what is left is its configuration, from the inventory."""
    for name in ("state", "holding"):
        shutil.rmtree(server.base / name, ignore_errors=True)
    (server.base / "holding").mkdir(mode=0o700)


def content(tree):
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def alone(s3, server, *words, status=0, **more):
    """The command as on any machine: no configuration, no state."""
    where = ["--from", f"s3://{BUCKET}/{server.prefix}", "--endpoint", s3["endpoint"], "--credentials"]
    command = [sys.executable, "-m", "backupcore", *words, *where, str(server.credentials)]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, timeout=120, **more)
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    return done


def many(base, count):
    """So many small dumps of 20 clients, written as on a holding disk; (their signer, the files of all of them)."""
    signer, rng = Signer.make(base / "old-keys"), random.Random(1)
    chains, found = {}, []
    for number in range(count):
        client, source = f"web{number % 20:02d}", ("etc", "www")[number // 20 % 2]
        chain = chains.setdefault((client, source), [])
        begun = clock.now_ns() - (count - number) * 3600 * clock.NS
        name = ids.new_dump_name(clock.stamp(begun), 1 if chain else 0)
        place = base / "dumps" / client / source / name
        place.mkdir(parents=True)
        records = []
        for file, size in (("image-0000.tar.zst", 500), ("index.tsv.zst", 8000), ("frames.tsv.zst", 200)):
            data = rng.randbytes(size)
            (place / file).write_bytes(data)
            records.append(FileRecord(file, size, hashlib.sha256(data).hexdigest()))
        draft = Manifest(
            server="0123456789abcdef", client=client, source=source, type="tree", path="/" + source, dump=name,
            level=1 if chain else 0, counter=len(chain) + 1, begun_ns=begun, ended_ns=begun + 5, codec="zstd",
            archive_size=10240, entries=3, parts=(records[0],), index=records[1], frames=records[2],
            base=chain[0] if chain else None, previous=chain[-1] if chain else None,
        )  # fmt: skip
        done = folder.finish(place, draft, signer)
        chain.append(Link(name, done.manifest_sha256))
        found += place.iterdir()
    return signer, found


@pytest.fixture(scope="module")
def crowd(s3, tmp_path_factory):
    """The prefix of a target with MANY dumps; their signer."""
    base = tmp_path_factory.mktemp("crowd")
    signer, found = many(base, MANY)
    key = base / f"{signer.fingerprint}.pub"
    key.write_bytes(signer.public_pem)
    puts = [(f"crowd/{path.relative_to(base / 'dumps')}", path) for path in found]
    puts.append((f"crowd/{layout.SIGNERS}{key.name}", key))
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda one: s3["client"].put_object(Bucket=BUCKET, Key=one[0], Body=one[1].read_bytes()), puts))
    return signer


def at_crowd(server):
    targets = server.config["targets"]
    targets["cloud"]["prefix"] = "crowd"
    server.write(targets=targets)
    return server


def test_a_thousand_dumps_a_minute(server, crowd, capsys):
    # by the clock of the processor: the machine's other work is none of its own
    begun, busy = time.monotonic(), sum(os.times()[:4])
    told = at_crowd(server).json("rebuild", "--from", "cloud")
    seconds, busy = time.monotonic() - begun, sum(os.times()[:4]) - busy
    assert (told["added"], told["indexes"]["fetched"], told["status"]) == (MANY, MANY, "ok")
    assert told["adopted"] == [crowd.fingerprint]
    assert len(server.json("list", "dumps", "--limit", "0")["dumps"]) == MANY
    with capsys.disabled():
        print(f"\nrebuild from S3: {MANY} dumps with their indexes in {seconds:.1f} s, "
              f"{busy:.1f} s of them at work, {MANY / busy * 60:.0f} a minute")  # fmt: skip
    assert MANY / busy * 60 >= A_MINUTE


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again(server, crowd):
    at_crowd(server)
    rng = random.Random(os.getpid())
    kills = 0
    for number in range(12):
        process = server.start("rebuild", "--from", "cloud")
        time.sleep(0.3 + number * 0.35 + rng.random() * 0.3)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 3
    told = server.json("rebuild", "--from", "cloud")
    assert (told["added"] + told["known"], told["status"]) == (MANY, "ok")
    assert told["indexes"]["fetched"] + told["indexes"]["there"] == MANY
    again = server.json("rebuild", "--from", "cloud")
    assert (again["added"], again["known"], again["indexes"]["there"]) == (0, MANY, MANY)
    assert not (server.base / "state/rebuild").exists()
    assert not list((server.base / "state/index").rglob("*.tmp"))


def test_a_lost_server_is_the_same_again(server, tree, tmp_path):
    server.client("web1", {"etc": tree})
    server.stowage("run")
    (tree / "new").write_text("later")
    server.stowage("run")
    before = {one["id"]: one["counter"] for one in _rows(server)}
    lose(server)
    out, _err = server.stowage("rebuild", "--from", "cloud")
    assert "compare this fingerprint with the key kit" in out
    assert {one["id"]: one["counter"] for one in _rows(server)} == before
    server.stowage("restore", f"web1:{tree}", "--to", tmp_path / "out")
    assert content(tmp_path / "out" / str(tree)[1:]) == content(tree)
    assert "sub/file7" in server.stowage("find", "file7")[0]
    # the next dump: an incremental, its base's state comes out of the indexes; its number goes on
    server.stowage("run", "--level", 1)
    rows = _rows(server)
    assert [row["counter"] for row in rows] == [1, 2, 3]
    assert (rows[-1]["level"], rows[-1]["entries"]) == (1, rows[1]["entries"])
    # the new key signs beside the old one, and both are trusted when it is lost once more
    lose(server)
    _out, err = server.stowage("rebuild", "--from", "cloud", status=2)
    assert "signed by 2 keys" in err
    signers = sorted({name for name in err.split() if len(name) == 64})
    words = [word for name in signers for word in ("--signer", name)]
    assert server.json("rebuild", "--from", "cloud", *words)["added"] == 3


def _rows(server):
    from backupcore.catalog.store import Catalog

    catalog = Catalog(server.base / "state/catalog.sqlite")
    try:
        return sorted((row.as_dict() for row in catalog.dumps()), key=lambda row: row["counter"])
    finally:
        catalog.close()


def test_after_site_and_check_on_the_new_machine(server, tree):
    server.client("web1", {"etc": tree})
    server.stowage("run")
    lose(server)
    server.stowage("check")  # makes an id and a signing key of its own, and claims the holding disk
    _out, err = server.stowage("rebuild", "--from", "cloud", status=2)
    assert "that this server trusts" in err
    signer = err.split("--signer ")[1].split()[0]
    assert server.json("rebuild", "--from", "cloud", "--signer", signer[:16])["taken"]
    server.stowage("run")  # the holding disk is claimed by the old id again
    assert len(_rows(server)) == 2


def test_a_holding_disk_that_lived_on_is_taken_up_again(server, tree):
    server.client("web1", {"etc": tree})
    server.stowage("run")
    shutil.rmtree(server.base / "state")
    server.stowage("rebuild", "--from", "cloud")
    server.stowage("stage")
    (one,) = server.json("list", "dumps")["dumps"]
    assert one["holding"]
    assert one["copies"] == {"cloud": "verified"}


def test_no_server_at_all(server, s3, tree, tmp_path, crowd):
    server.client("web1", {"etc": tree})
    server.stowage("run")
    (tree / "sub/file3").unlink()
    (tree / "new").write_text("later")
    server.stowage("run")
    lose(server)
    home = tmp_path / "home"
    home.mkdir()
    clean = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    done = alone(s3, server, "restore", f"web1:{tree}", "--to", tmp_path / "out", env=clean)
    assert b"compare this fingerprint with the key kit" in done.stderr
    assert content(tmp_path / "out" / str(tree)[1:]) == content(tree)
    one = alone(s3, server, "restore", f"web1:{tree}/new", "--stdout", env=clean)
    assert one.stdout == b"later"
    listed = alone(s3, server, "list", "dumps", env=clean)
    assert listed.stdout.count(b"web1:etc") == 2
    assert not list(home.iterdir())  # nothing is left
    refused = alone(s3, server, "restore", f"web1:{tree}", "--to", tmp_path / "out2", "--signer", "0" * 64, status=2)
    assert b"no dump" in refused.stderr
    assert not (tmp_path / "out2").exists()


def test_only_the_clients_own_manifests_are_read(s3, crowd, tmp_path):
    from backupcore.app.serverless import Loose, Place

    keys = tmp_path / "credentials"
    keys.write_text(json.dumps({name: s3[name] for name in ("access_key", "secret_key")}))
    keys.chmod(0o600)
    place = Place(f"s3://{BUCKET}/crowd", s3["endpoint"], credentials=str(keys))
    with Loose(place, ("web03",)) as engine:
        assert {row.client for row in engine.catalog.dumps()} == {"web03"}
        assert engine.report.seen.files == MANY // 20 * 7
        assert not (engine.settings.state / "index").exists()


@pytest.fixture
def sealing(server, tree, tmp_path):
    """A server whose policy seals, with two dumps at the target; the file of the private key, which is elsewhere."""
    import sealed

    keys = server.base / "state/keys"
    sealed.prove(keys)
    key = tmp_path / "escrow.pem"
    key.write_bytes((keys / "private/operations.pem").read_bytes())
    key.chmod(0o600)
    server.write(policies={"standard": {"encrypt": "server"}})
    server.client("web1", {"etc": tree})
    server.stowage("run")
    (tree / "new").write_text("later")
    server.stowage("run")
    return key


def test_a_lost_server_with_sealed_dumps(server, sealing, tree, tmp_path):
    # how much the second dump has is a matter of time: what had just been written is dumped once more
    was = [one["files"] for one in server.json("list", "dumps")["dumps"]]
    assert was[0] == 20 and 1 <= was[1] <= 21
    lose(server)
    told = server.json("rebuild", "--from", "cloud")
    assert (told["added"], told["sealed"], told["indexes"]["closed"], told["status"]) == (2, 2, 2, "ok")
    assert [one["files"] for one in server.json("list", "dumps")["dumps"]] == [None, None]  # not 0: nobody counted
    assert server.stowage("list", "dumps")[0].count("  -  ") == 2
    assert "--key" in server.stowage("restore", f"web1:{tree}", "--to", tmp_path / "no", status=1)[1]
    _out, err = server.stowage("rebuild", "--from", "cloud", "--key", tmp_path / "nowhere.pem", status=2)
    assert err.startswith(f"stowage: {tmp_path}/nowhere.pem: No such file") and len(err.splitlines()) == 1
    told = server.json("rebuild", "--from", "cloud", "--key", sealing)
    assert (told["added"], told["indexes"]["fetched"]) == (0, 2)
    assert [one["files"] for one in server.json("list", "dumps")["dumps"]] == was
    assert "sub/file7" in server.stowage("find", "file7")[0]
    server.stowage("restore", f"web1:{tree}", "--to", tmp_path / "out", "--key", sealing)
    assert content(tmp_path / "out" / str(tree)[1:]) == content(tree)


def test_after_a_rebuild_without_the_private_key_the_next_night_dumps_everything(server, sealing, tmp_path):
    trees = {}
    for name in "abcde":
        trees[name] = tmp_path / name
        trees[name].mkdir()
        (trees[name] / "file").write_bytes(os.urandom(200_000))
    server.client("web2", {name: str(tree) for name, tree in trees.items()})
    server.stowage("run")
    public = tmp_path / "public"
    shutil.copytree(server.base / "state/keys", public, ignore=shutil.ignore_patterns("private"))
    lose(server)
    told = server.json("rebuild", "--from", "cloud")
    assert told["indexes"]["closed"] == told["sealed"] > 0
    shutil.copytree(public, server.base / "state/keys", dirs_exist_ok=True)
    before = {row["id"] for row in _rows(server)}
    told = "8 dumps of 6 sources are not in find: sealed, and no private key here opens their index"
    out, _err = server.stowage("run")
    key = "-> stowage rebuild --from cloud --key FILE"
    assert out.count("not in find") == 1 and f"WARN {told} {key}\n" in out and "its base" not in out
    # no index, no state: fulls, all of them, since all are small
    made = {(one["client"], one["source"]): one["level"] for one in _rows(server) if one["id"] not in before}
    assert made == {("web1", "etc"): 0, **{("web2", name): 0 for name in trees}}
    answer = server.json("run")
    closed = [one["dump"] for one in answer["unsearched"]]
    assert before <= set(closed) and len(closed) == len(set(closed))
    assert sum("not in find" in note for note in answer["notes"]) == 1
    shutil.rmtree(server.base / "state/search")
    out, _err = server.stowage("find", "nowhere", status=1)
    assert out.count("not searched") == 1 and key in out and "its base" not in out
    answer = server.json("find", "file")
    assert before <= {one["dump"] for one in answer["unsearched"]} and len(answer["notes"]) == 1


def test_no_server_at_all_and_sealed_dumps(server, s3, sealing, tree, tmp_path):
    lose(server)
    refused = alone(s3, server, "restore", f"web1:{tree}", "--to", tmp_path / "out", status=1)
    assert b"sealed" in refused.stderr and b"--key" in refused.stderr
    listed = alone(s3, server, "list", "files", f"web1:{tree}", "--recursive", "--key", sealing)
    assert b"sub/file7" in listed.stdout
    alone(s3, server, "restore", f"web1:{tree}", "--to", tmp_path / "out", "--key", sealing)
    assert content(tmp_path / "out" / str(tree)[1:]) == content(tree)
    one = alone(s3, server, "restore", f"web1:{tree}/new", "--stdout", "--key", sealing)
    assert one.stdout == b"later"
