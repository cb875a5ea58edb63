"""A thousand attacks on stored dumps, and what each place, key and credential gives to whoever has stolen it.

What somebody with the credential of a place, or root on a holding disk, can do to files, is done here; nothing wrong
may ever come out, and every attack is found by reading the copy. docs/security.md has the table of attacks and answers;
tests/unit/test_docs.py checks that the tests it names exist.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import attack_world as attacks
import boto3
import pytest
import s3server
from botocore.config import Config

from backupcore.app import rebuilding, restoring
from backupcore.app.serverless import Loose, Place
from backupcore.errors import NothingThatOld, RequestError, StowageError
from backupcore.image import layout, manifest, seal, signing
from backupcore.rebuild import judge
from backupcore.restore import fetch, places

cats = importlib.import_module("backupcore.restore.cat")
SEED = 20261122
COUNT = 1000
PLACES = (attacks.HOLDING, attacks.NAS, attacks.CLOUD)
NOISE = random.Random(1).randbytes(2000)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing here is worth a sync


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """A bucket on a real S3 server."""
    place = tmp_path_factory.mktemp("s3")
    with s3server.running(place) as answer:
        credentials = place / "credentials"
        credentials.write_text(json.dumps({name: answer[name] for name in ("access_key", "secret_key")}))
        credentials.chmod(0o600)
        client = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        client.create_bucket(Bucket="attacked")
        options = {"type": "s3", "bucket": "attacked", "endpoint": answer["endpoint"], "addressing": "path",
                   "credentials": str(credentials)}  # fmt: skip
        yield {"client": client, "options": options}


@pytest.fixture(scope="module")
def world(cloud):
    base = Path(tempfile.mkdtemp(prefix="stowage-attacks-", dir=MEMORY))
    made = attacks.World(base, random.Random(SEED), cloud)
    yield made
    made.close()
    shutil.rmtree(base)


def look(world, victim, place, rng, changes):
    """What came of an attack: `refused`, `not met` (what was asked for was not touched, reading all finds it) or
    `harmless` (a key wrapped for somebody else: said when the wrapped keys are known as they were).

    Nothing but the truth may be given out: the whole file, or a beginning of it before the error.
    """
    name = rng.choice(sorted(victim.files))
    truth = victim.files[name]
    world.forget()
    out, error = world.cat(victim, name, place)
    if error is None:
        assert out == truth, "wrong bytes were given out"
    else:
        assert truth.startswith(out), "wrong bytes were given out before the error"
        assert len(out) < len(truth) and error.message and "\n" not in error.message
        assert not out or cats.SMALL < len(truth) > attacks.FRAME, "a small file is given out whole or not at all"
    found = world.verify(victim, place)
    if found.ok:
        assert {path.rpartition("/")[2] for path in changes} == {layout.keys_name()}, "reading all did not find it"
        assert error is None
        assert not world.verify(victim, place, noted=True).ok
        return "harmless"
    return "refused" if error else "not met"


def test_the_truth_comes_out_and_is_found_right_when_nobody_attacks(world):
    for number, victim in enumerate(world.victims):
        for place in PLACES if number % 4 == 1 else PLACES[:2]:
            world.forget()
            for name, truth in victim.files.items():
                assert world.cat(victim, name, place) == (truth, None)
            assert world.verify(victim, place, noted=True).ok, world.verify(victim, place).message()


def test_a_thousand_attacks_give_out_nothing_but_the_truth(world, record_property, monkeypatch):
    rng = random.Random(SEED)
    counts = {}
    for number in range(COUNT):
        victim, attack = rng.choice(world.victims), attacks.ATTACKS[number % len(attacks.ATTACKS)]
        place = PLACES[2] if number % 20 == 0 else rng.choice(PLACES[:2])
        # as a small file, given out when all of it is right, and as a big one, given out frame by frame
        monkeypatch.setattr(cats, "SMALL", 1 << 20 if number % 2 else -1)
        changes = attack(rng, world, victim)
        assert any(data != world.pristine.get(name) for name, data in changes.items()), attack.__name__
        try:
            with world.under(place, changes):
                found = look(world, victim, place, rng, changes)
        except AssertionError as error:
            pytest.fail(f"attack {number}, {attack.__name__} on {victim.prefix} at {place}: {error}")
        counts[found] = counts.get(found, 0) + 1
    record_property("attacks", json.dumps(counts))
    assert sum(counts.values()) == COUNT


@pytest.mark.parametrize("place", PLACES[:2])
def test_links_in_the_place_of_files_are_not_followed(world, place):
    rng = random.Random(SEED)
    for _ in range(30):
        victim = rng.choice(world.victims)
        changes = attacks.link(rng, world, victim)
        with world.under(place, changes):
            assert look(world, victim, place, rng, changes) in ("refused", "not met", "harmless")


@pytest.mark.parametrize("attack", [attacks.line_of_another_recipient, attacks.keys_more, attacks.file_more])
def test_what_is_harmless_is_harmless(world, attack):
    rng = random.Random(SEED)
    for victim in world.victims:
        if not victim.sealed and attack is not attacks.file_more:
            continue
        place, name = rng.choice(PLACES), rng.choice(sorted(victim.files))
        with world.under(place, attack(rng, world, victim)):
            world.forget()
            assert world.cat(victim, name, place) == (victim.files[name], None)
            found = world.verify(victim, place)
            assert found.ok
            planted = {attacks.keys_more: layout.keys_name(2), attacks.file_more: "image-"}.get(attack)
            assert [stray.startswith(planted) for stray in found.strays] == [True] if planted else not found.strays
            if attack is attacks.line_of_another_recipient:
                found = world.verify(victim, place, noted=True)
                assert "keys.tsv is not what it was when this copy was made" in found.message()


def test_a_restore_to_a_folder_puts_down_nothing_but_the_truth(world, tmp_path):
    rng = random.Random(SEED)
    met = 0
    for number in range(24):
        victim, attack = rng.choice(world.victims), rng.choice(attacks.ATTACKS)
        place, to = PLACES[number % 3], tmp_path / f"to{number}"
        to.mkdir()
        world.forget()
        with world.under(place, attack(rng, world, victim)):
            try:
                words = [victim.row.client, victim.row.source]
                report = restoring.restore(world.engine, world.request(words, victim, place, to=str(to)))
                failed = report.failed_count
            except StowageError:
                failed = -1
        there = {path.name: path.read_bytes() for path in to.rglob("*") if path.is_file()}
        for name, data in there.items():
            assert data == victim.files[name], (attack.__name__, victim.prefix, place, name)
        assert failed or len(there) == len(victim.files), (attack.__name__, victim.prefix, place)
        met += bool(failed)
    assert met > 12


def test_without_any_server_nothing_but_the_truth_comes_out(world):
    rng = random.Random(SEED)
    met = 0
    for attack in [*attacks.ATTACKS, attacks.link]:
        if attack is attacks.signed_before:
            continue  # what no catalog contradicts, and is as the server signed it
        victim = rng.choice(world.victims)
        name = rng.choice(sorted(victim.files))
        with world.under(attacks.NAS, attack(rng, world, victim)), world.alone(victim) as engine:
            if isinstance(engine, StowageError):
                met += 1
                continue
            out, error = world.cat(victim, name, engine=engine)
            assert out == victim.files[name] if error is None else victim.files[name].startswith(out), attack.__name__
            met += error is not None
    assert met > 15


def test_two_signers_on_a_place_are_refused_when_nobody_says_which(world):
    rng = random.Random(SEED)
    victim = world.victims[0]
    with world.under(attacks.NAS, attacks.signed_by_another(rng, world, victim)):
        with pytest.raises(RequestError, match="signed by 2 keys"):
            Loose(Place(str(world.base / attacks.NAS)), (victim.row.client,))


# That all this can fail: with a check gone its attack gets through.


def _plain(world):
    return next(one for one in world.victims if not one.sealed)


def _sealed(world):
    return next(one for one in world.victims if one.row.source == "client")


def given_out(world, victim, changes, name="big", alone=False):
    """What comes out of a file, its error."""
    world.forget()
    with world.under(attacks.NAS, changes):
        if not alone:
            return world.cat(victim, name, attacks.NAS)
        with world.alone(victim) as engine:
            return (b"", engine) if isinstance(engine, StowageError) else world.cat(victim, name, engine=engine)


def middle_flipped(world, victim):
    """A bit in the middle of a frame of the first part."""
    first = next(one for one in world.table(victim) if one.part == 0)
    name = victim.manifest.parts[0].name
    data = bytearray(world.of(victim, name))
    data[first.place + first.stored // 2] ^= 1
    return {victim.at(name): bytes(data)}


def frame_of_the_other_dump(world, victim):
    """The source's other dump's second frame, of the same length, in the place of ours."""
    other = next(one for one in world.victims if one.row.source == victim.row.source and one is not victim)
    mine, theirs = world.table(victim)[1], world.table(other)[1]
    assert (mine.place, mine.stored, mine.length) == (theirs.place, theirs.stored, theirs.length)
    name = victim.manifest.parts[0].name
    data, end = world.of(victim, name), mine.place + mine.stored
    return {victim.at(name): data[: mine.place] + world.of(other, name)[mine.place : end] + data[end:]}


def frame_checked(_world, _victim, monkeypatch):
    def _opened(opener, frame, stored):
        if opener is None:
            return bytes(stored)
        return opener._cipher(frame.place).update(bytes(stored))

    monkeypatch.setattr(fetch, "_opened", _opened)


def mac_checked(_world, _victim, monkeypatch):
    monkeypatch.setattr(seal.hmac, "compare_digest", lambda _a, _b: True)


def table_checked(_world, _victim, monkeypatch):
    monkeypatch.setattr(fetch, "_check", lambda *_all: None)
    ranged = places.Place.pieces  # nor is the table read to the signed size only

    def pieces(self, name, offset=0, length=None):
        return ranged(self, name, offset, None if name.startswith("frames.tsv") else length)

    monkeypatch.setattr(places.Place, "pieces", pieces)


def signature_checked(world, _victim, monkeypatch):
    for room in (manifest, signing):
        monkeypatch.setattr(room, "verify", lambda data, _signature, _keys: json.loads(data)["signer"])


@pytest.mark.parametrize(
    ("check", "pick", "attack", "alone"),
    [
        (frame_checked, _plain, frame_of_the_other_dump, False),
        (mac_checked, _sealed, middle_flipped, False),
        (table_checked, _plain, lambda world, victim: attacks.forge(world, victim, NOISE), False),
        (signature_checked, _plain, lambda world, victim: attacks.forged_image(None, world, victim), True),
    ],
)
def test_without_the_check_the_attack_gets_through(world, monkeypatch, check, pick, attack, alone):
    victim = pick(world)
    changes, truth = attack(world, victim), victim.files["big"]
    out, error = given_out(world, victim, changes, alone=alone)
    assert error is not None and truth.startswith(out) and len(out) < len(truth)
    check(world, victim, monkeypatch)
    monkeypatch.setattr(cats, "SMALL", -1)  # the content's own digest would come before the first byte
    out, _error = given_out(world, victim, changes, alone=alone)
    assert out and not truth.startswith(out), _error


# Rollbacks: what somebody else can contradict is refused, what one place alone cannot show is said.


def fresh(world, tmp_path, **more):
    """The command line of a server that has lost everything but its keys: (status, what it printed)."""
    base = tmp_path / "new"
    base.mkdir()
    (base / "keys").mkdir(mode=0o700)
    shutil.copy(world.base / "keys" / "signing.pub", base / "keys" / "signing.pub")
    places = {"nas": "nas", "disk": "holding"}
    targets = {name: {"type": "directory", "path": str(world.base / folder)} for name, folder in places.items()}
    config = base / "stowage.yml"
    config.write_text(json.dumps({
        "state": str(base / "state"), "keys": {"folder": str(base / "keys")}, "targets": targets,
        "holding": [{"path": str(base), "use": "1 GB"}],
    }))  # fmt: skip
    words = [word for name, value in more.items() for word in ("--" + name.replace("_", "-"), value)]
    command = [sys.executable, "-m", "backupcore", "--config", str(config), "rebuild", "--from", "nas", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def newest_gone(world):
    """The changes that take every source's newest dump away."""
    gone = [one for one in world.victims if one.row.counter == 2]
    return {one.at(name): None for one in gone for name in world.names(one)}


def test_a_place_alone_shows_an_older_state_and_says_that_it_may(world, tmp_path):
    with world.under(attacks.NAS, newest_gone(world)):
        status, printed = fresh(world, tmp_path)
    assert status == 0 and "nas alone cannot show that nothing newer was taken away" in printed
    assert "--witness TARGET   or   --last-run RUN" in printed and "6 dumps of 6 sources added" in printed


def test_another_place_contradicts_what_was_taken_away(world, tmp_path):
    with world.under(attacks.NAS, newest_gone(world)):
        status, printed = fresh(world, tmp_path, witness="disk")
    assert status == 1 and "nas has nothing newer than" in printed and "added" not in printed


def test_the_last_run_that_is_remembered_contradicts_what_was_taken_away(world, tmp_path):
    status, printed = fresh(world, tmp_path, last_run="20261223T000000Z-0000")
    assert status == 1 and "you remember 20261223T000000Z-0000" in printed and "added" not in printed


def test_the_catalog_contradicts_what_was_taken_away(world, tmp_path):
    with world.under(attacks.NAS, newest_gone(world)):
        victim = next(one for one in world.victims if one.row.counter == 2)
        assert world.verify(victim, attacks.NAS).message() == "it is gone"
        out, error = world.cat(victim, "tiny", attacks.NAS)
        assert out == b"" and "cannot be read" in error.message
        report = rebuilding.rebuild(world.engine, rebuilding.Request(attacks.NAS), None)
    assert report.status == "FAIL" and report.added == 0
    assert sum("the catalog knows" in one.message for one in report.findings) == 6


def test_without_the_comparison_a_rollback_gets_through(world, monkeypatch):
    monkeypatch.setattr(judge, "contradictions", lambda *_all: {})
    with world.under(attacks.NAS, newest_gone(world)):
        assert rebuilding.rebuild(world.engine, rebuilding.Request(attacks.NAS), None).status != "FAIL"


def test_an_older_dump_is_never_given_for_a_newer_one_in_silence(world):
    victim = next(one for one in world.victims if one.row.counter == 2)
    copies = list(world.engine.catalog.copies(dump=victim.row.id))
    notes = []
    try:
        world.engine.catalog.set_holding(victim.row.id, None)
        for row in copies:
            world.engine.catalog.put_copy(replace(row, state="damaged"))
        words = [victim.row.client, victim.row.source, f"{victim.row.path}/tiny"]
        b"".join(restoring.cat(world.engine, restoring.Request(words, ring=world.ring), notes.append))
        assert len(notes) == 1 and f"the dump {victim.row.id} from" in notes[0] and "an older one is taken" in notes[0]
        with pytest.raises(NothingThatOld, match=victim.row.id):
            list(restoring.cat(world.engine, world.request(words, victim, None)))
    finally:
        world.engine.catalog.set_holding(victim.row.id, victim.row.holding)
        for row in copies:
            world.engine.catalog.put_copy(row)
