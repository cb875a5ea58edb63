"""`key rewrap` on holding disk and targets: only adds, can be repeated, goes on where something fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from backupcore.hookspecs import TargetContext, TargetError
from lock_place import LockPlace
from passphrases import PASSPHRASE, Asked
from sealed_dump import copy_by_hand, moved_from_holding, sealed_dump
from stage_world import World

from backupcore.app import keys as wiring
from backupcore.app.pruning import lock
from backupcore.catalog.records import CopyRow
from backupcore.errors import Busy, KeyLocked, KeyMissing, RequestError
from backupcore.image import layout, manifest, recipients
from backupcore.keys import store
from backupcore.settings import CopyRule
from backupcore.stage.origins import prefix_of
from backupcore.targets.directory import DirectoryOptions


@pytest.fixture(scope="module")
def pairs():
    return [recipients.generate(bits=3072) for _ in range(3)]


@pytest.fixture
def world(tmp_path, pairs):
    world = World(tmp_path)
    world.engine = SimpleNamespace(
        settings=world.settings, catalog=world.catalog, target=world.opened.__getitem__,
        target_name=lambda name: name, client=lambda name: (_ for _ in ()).throw(RequestError(f"unknown {name}")),
    )  # fmt: skip
    known(world, "old", pairs[0])
    yield world
    world.catalog.close()


def known(world, name, pair, private=True):
    """An active key of the server."""
    folder = world.settings.keys
    with store.changing(folder):
        store.add(folder, name, pair.recipient.public)
        store.prove(folder, name, pair.to_pem(), None)
    if private:
        path = store.private_file(folder, name)
        path.write_bytes(pair.to_pem())
        path.chmod(0o600)


def rewrap(world, *targets, ask=None, **more):
    ring = store.private_keys(world.settings.keys, (), ask)
    return wiring.rewrap(world.engine, ring, targets, **more)


def opens(world, dump, place, pair):
    """Whether this key alone opens the dump at that place."""
    from backupcore.keys.ring import KeyRing

    root = Path(dump.holding) if place == "holding" else world.root / place / layout.dump_prefix(
        dump.client, dump.source, dump.id)  # fmt: skip
    key = world.root / "alone.pem"
    key.write_bytes(pair.to_pem())
    parsed = manifest.Manifest.from_bytes((root / layout.MANIFEST).read_bytes())

    def read(name, limit):
        try:
            return (root / name).read_bytes()
        except FileNotFoundError:
            raise RequestError(name) from None

    try:
        return set(KeyRing(world.root / "none", [key]).unlock(parsed, read)) == set(parsed.sealed.commitments)
    except (KeyMissing, KeyLocked):
        return False


def state(folder):
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_new_key_opens_every_dump_at_every_place_and_nothing_else_changed(world, pairs):
    dumps = [sealed_dump(world, [pairs[0].recipient]) for _ in range(2)]
    for dump in dumps:
        copy_by_hand(world, dump, "nas", "disk")
    dumps[0] = moved_from_holding(world, dumps[0])
    known(world, "new", pairs[1], private=False)
    before = {**state(world.holding), **state(world.root / "nas"), **state(world.root / "disk")}
    done = rewrap(world)
    after = {**state(world.holding), **state(world.root / "nas"), **state(world.root / "disk")}
    assert {name: after[name] for name in before} == before
    assert sorted(Path(name).name for name in set(after) - set(before)) == ["keys-2.tsv"] * 5
    assert len(done.added) == 5 and not done.failed and done.recipients == ("new", "old")
    for row in world.catalog.copies():  # so that verify misses the file when it is lost
        prefix = layout.dump_prefix("web1", "etc", row.dump)
        data = (world.root / row.target / prefix / "keys-2.tsv").read_bytes()
        assert row.upload["keys"]["keys-2.tsv"] == manifest.digest(data) and row.state == "verified"
    for dump in dumps:
        for place in ("nas", "disk", *(["holding"] if dump.holding else [])):
            assert opens(world, dump, place, pairs[1]) and opens(world, dump, place, pairs[0])


def test_doing_it_twice_changes_nothing_and_needs_no_private_key(world, pairs):
    dump = sealed_dump(world, [pairs[0].recipient])
    copy_by_hand(world, dump, "nas")
    known(world, "new", pairs[1])
    rewrap(world)
    for name in ("old", "new"):
        store.private_file(world.settings.keys, name).unlink()
    before = state(world.root)
    done = rewrap(world)
    assert (done.added, done.failed, done.covered) == ([], [], 1)
    assert {name for name in state(world.root) if "/keys" in name} == {name for name in before if "/keys" in name}


def test_a_place_that_lost_its_keys_gets_them_again(world, pairs):
    dump = sealed_dump(world, [pairs[0].recipient])
    copy_by_hand(world, dump, "nas")
    prefix = layout.dump_prefix(dump.client, dump.source, dump.id)
    (world.root / "nas" / prefix / "keys.tsv").unlink()
    done = rewrap(world)
    assert done.added == [(dump.id, "nas", "keys.tsv")] and opens(world, dump, "nas", pairs[0])


def test_only_the_places_and_clients_that_were_named(world, pairs):
    dumps = [sealed_dump(world, [pairs[0].recipient], client) for client in ("web1", "web2")]
    for dump in dumps:
        copy_by_hand(world, dump, "nas", "disk")
    known(world, "new", pairs[1])
    assert rewrap(world, "holding", clients=["web2"]).added == [(dumps[1].id, "holding", "keys-2.tsv")]
    assert {place for _dump, place, _name in rewrap(world, "nas").added} == {"nas"}
    assert not opens(world, dumps[0], "disk", pairs[1])
    with pytest.raises(RequestError, match="unknown web3"):
        rewrap(world, clients=["web3"])


def test_a_revoked_key_gets_nothing_and_a_passphrase_key_needs_only_its_passphrase(world, pairs):
    dump = sealed_dump(world, [pairs[0].recipient])
    folder = world.settings.keys
    known(world, "gone", pairs[1])
    with store.changing(folder):
        store.revoke(folder, "gone")
        words = store.Record(
            recipients.load_recipient(pairs[2].recipient.public, "words", pairs[2].protect(PASSPHRASE)), "2026", "2026"
        )
        store._save(folder, words)
    rewrap(world)
    assert not opens(world, dump, "holding", pairs[1])
    store.private_file(folder, "old").unlink()
    ring = store.private_keys(world.root / "none", (), Asked(PASSPHRASE))
    parsed = manifest.Manifest.from_bytes((Path(dump.holding) / layout.MANIFEST).read_bytes())
    keys = ring.unlock(parsed, lambda name, _limit: _read(dump, name))
    assert set(keys) == set(parsed.sealed.commitments)


def _read(dump, name):
    try:
        return (Path(dump.holding) / name).read_bytes()
    except FileNotFoundError:
        raise RequestError(name) from None


def test_a_target_that_refuses_costs_only_itself_and_is_named(world, pairs):
    dump = sealed_dump(world, [pairs[0].recipient])
    copy_by_hand(world, dump, "nas", "disk")
    known(world, "new", pairs[1])
    good = world.opened["nas"]

    class Full:
        def __getattr__(self, name):
            return getattr(good, name)

        def put(self, *_args, **_more):
            raise TargetError("no space", "make room")

    world.opened["nas"] = Full()
    done = rewrap(world)
    assert [(place, error.message, error.hint) for _dump, place, error in done.failed] == [
        ("nas", "target nas: no space", "make room")
    ]
    assert {place for _dump, place, _name in done.added} == {"holding", "disk"}
    world.opened["nas"] = good
    assert rewrap(world).added == [(dump.id, "nas", "keys-2.tsv")]
    assert not list((world.settings.state / "rewrap").iterdir())


def test_a_target_that_keeps_other_bytes_is_found_out(world, pairs):
    dump = sealed_dump(world, [pairs[0].recipient])
    copy_by_hand(world, dump, "nas")
    known(world, "new", pairs[1])
    good = world.opened["nas"]

    class Liar:
        def __getattr__(self, name):
            return getattr(good, name)

        def put(self, name, path, **more):
            path.write_bytes(b"x" + path.read_bytes()[1:])
            return good.put(name, path)

    world.opened["nas"] = Liar()
    ((_dump, place, error),) = rewrap(world).failed
    assert place == "nas" and "other bytes" in error.message
    world.opened["nas"] = good
    assert rewrap(world).added == [(dump.id, "nas", "keys-3.tsv")]
    assert opens(world, dump, "nas", pairs[1])


def test_a_damaged_manifest_or_a_dump_that_is_gone_is_no_place_to_write(world, pairs):
    first, second = (sealed_dump(world, [pairs[0].recipient]) for _ in range(2))
    copy_by_hand(world, first, "nas")
    copy_by_hand(world, second, "nas")
    known(world, "new", pairs[1])
    (Path(first.holding) / layout.MANIFEST).write_bytes(b"{}")
    prefix = layout.dump_prefix(second.client, second.source, second.id)
    world.opened["nas"].delete(f"{prefix}/{layout.MANIFEST}")
    done = rewrap(world)
    assert sorted((dump, place) for dump, place, _error in done.failed) == [
        (first.id, "holding"), (second.id, "nas"),
    ]  # fmt: skip
    assert sorted(done.added) == [(first.id, "nas", "keys-2.tsv"), (second.id, "holding", "keys-2.tsv")]


def test_unsealed_dumps_are_left_and_counted(world, pairs):
    world.dump()
    known(world, "new", pairs[1])
    done = rewrap(world)
    assert (done.unsealed, done.added, done.failed) == (1, [], [])


def test_without_a_key_that_opens_the_dump_is_named(world, pairs):
    dump = sealed_dump(world, [pairs[2].recipient])
    ((name, place, error),) = rewrap(world).failed
    assert (name, place, error.code) == (dump.id, "holding", "key-missing")


def test_without_an_active_key_nothing_begins(world):
    with store.changing(world.settings.keys):
        store.revoke(world.settings.keys, "old")
    with pytest.raises(RequestError, match="no active key"):
        rewrap(world)


def test_a_copy_that_is_under_way_is_told(world, pairs):
    dump = sealed_dump(world, [pairs[0].recipient])
    world.catalog.put_copy(CopyRow(dump.id, "nas", "copying"))
    assert rewrap(world).later == [dump.id]


def test_two_do_not_run_at_once(world):
    with wiring._alone(world.settings), pytest.raises(Busy):
        rewrap(world)


def test_a_kill_at_any_moment_leaves_whole_files_only(world, pairs, tmp_path):
    dumps = [sealed_dump(world, [pairs[0].recipient]) for _ in range(6)]
    known(world, "new", pairs[1])
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from backupcore.keys import rewrap, store\n"
        "import backupcore.files as files, os\n"
        "real = os.link\n"
        "left = [0, 0, 60]\n"  # the third one never comes to its end
        "def slow(*words, **more):\n"
        "    print('linking', flush=True); time.sleep(left.pop(0)); real(*words, **more)\n"
        "os.link = slow\n"
        "ring = store.private_keys(Path(sys.argv[1]))\n"
        "active = [one.recipient for one in store.active(Path(sys.argv[1]))]\n"
        "for place, digest in zip(sys.argv[2::2], sys.argv[3::2]):\n"
        "    rewrap.rewrap([rewrap.HoldingFolder(place)], digest, active, ring)\n"
    )
    words = [word for dump in dumps for word in (dump.holding, dump.manifest_sha256)]
    process = subprocess.Popen([sys.executable, "-c", code, str(world.settings.keys), *words],
                               stdout=subprocess.PIPE)  # fmt: skip
    for _ in range(3):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = list(world.holding.rglob(".keys.*"))
    assert left, "the kill came too late to show anything"
    made = len(list(world.holding.rglob("keys-2.tsv")))
    assert made in (1, 2, 3)
    done = rewrap(world)
    assert len(done.added) == 6 - made and done.covered == made and not done.failed
    assert not list(world.holding.rglob(".keys.*"))
    assert all(opens(world, dump, "holding", pairs[1]) for dump in dumps)


def test_the_question_for_a_passphrase_comes_in_the_main_thread_and_once(world, pairs):
    for _ in range(4):
        sealed_dump(world, [pairs[0].recipient])
    known(world, "new", pairs[1])
    path = store.private_file(world.settings.keys, "old")
    path.write_bytes(pairs[0].protect_pem(PASSPHRASE))
    store.private_file(world.settings.keys, "new").unlink()
    asked = []

    def ask(what, wrong):
        asked.append((what, threading.current_thread() is threading.main_thread()))
        return PASSPHRASE

    assert len(rewrap(world, ask=ask).added) == 4
    assert asked == [("key old", True)]


def test_a_copy_that_is_made_later_takes_the_renewed_keys_along(world, pairs):
    dump = sealed_dump(world, [pairs[0].recipient])
    known(world, "new", pairs[1])
    rewrap(world)
    assert all(one.ok for one in world.stage())
    assert opens(world, dump, "nas", pairs[1]) and opens(world, dump, "disk", pairs[1])
    assert rewrap(world).added == []


def test_what_is_added_to_a_locked_copy_is_locked_too(world, pairs):
    context = TargetContext("nas", world.server, world.settings.state / "targets" / "nas")
    nas = world.opened["nas"] = LockPlace(DirectoryOptions(path=world.root / "nas"), context)
    world.policy(CopyRule("nas", lock=1e9), CopyRule("disk"))
    world.engine.settings = world.settings
    dump = sealed_dump(world, [pairs[0].recipient])
    assert all(one.ok for one in world.stage())
    assert lock(world.engine) == ()
    known(world, "new", pairs[1])
    nas.forgets.add(f"{prefix_of(dump)}/keys-2.tsv")
    (told,) = rewrap(world).unlocked
    assert told.startswith("lock: target nas: ") and "keys-2.tsv is locked not at all" in told
    nas.forgets.clear()
    assert lock(world.engine) == ()
    assert len({nas.locked(one.name).until_ns for one in nas.list(prefix_of(dump) + "/")}) == 1
