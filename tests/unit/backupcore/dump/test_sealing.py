"""A sealed dump: nothing of it touches the holding disk in the clear, nothing is taken that was not sealed as asked."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
import sealed
from packing import pack

from backupcore import wire
from backupcore.catalog import places
from backupcore.dump import accept
from backupcore.dump.holding import Space, landing
from backupcore.dump.receive import receive
from backupcore.dump.sealing import Sealing
from backupcore.errors import ConfigError, ImageDamaged, KeyMissing, WireError
from backupcore.image import codec as codecs
from backupcore.image import folder, seal
from backupcore.image.manifest import load_public_keys
from backupcore.settings import HoldingDisk, Policy

SERVER = Policy("sealed", encrypt="server", part_size=1 << 20)
DUMP = sealed.FULL


@pytest.fixture
def keyed(server):
    """A server with one recipient."""
    sealed.prove(server.settings.keys)
    return server


@pytest.mark.parametrize("by", ["server", "client"])
@pytest.mark.parametrize("codec", ["zstd", "gzip", "none"])
def test_a_sealed_dump_opens_to_what_went_in(tmp_path, by, codec):
    tree = tmp_path / "tree"
    (tree / "unterhalb").mkdir(parents=True)
    (tree / "zuerst").write_bytes(b"geheim" * 100_000)
    (tree / "unterhalb" / "krach").write_bytes(os.urandom(300_000))
    holding = tmp_path / "holding"
    made = sealed.make(holding, tree, by, codec, part_size=400_000)
    assert len(made.manifest.parts) > (1 if codec == "none" else 0)
    assert made.manifest.sealed.by == by
    archive, index, frames = sealed.open_all(made.path, made.manifest, sealed.unlocked(made))
    assert archive == made.archive == pack(tree)[0]
    assert b"unterhalb/krach\tf" in index and frames[-1].flags & 2
    assert folder.check_folder(made.path, load_public_keys(tmp_path / "keys"), full=True) == made.manifest
    assert not sealed.names_in(holding, (b"zuerst", b"krach", b"unterhalb", b"geheim"))


def test_no_two_files_have_the_same_key(tmp_path):
    made = sealed.make(tmp_path / "holding", {"a": os.urandom(900_000)}, codec="none", part_size=300_000)
    keys = sealed.unlocked(made)
    secrets = {key.secret[:32] for key in keys.values()} | {key.secret[32:] for key in keys.values()}
    assert len(keys) == len(made.manifest.parts) + 2 and len(secrets) == 2 * len(keys)


def test_a_frame_or_file_in_the_place_of_another_is_refused(tmp_path):
    made = sealed.make(tmp_path / "holding", {"a": os.urandom(900_000)}, codec="none", part_size=300_000)
    keys = sealed.unlocked(made)
    first, second = (made.path / record.name for record in made.manifest.parts[:2])
    a, b = first.read_bytes(), second.read_bytes()
    flipped, turned = a[:-1] + bytes([a[-1] ^ 1]), a[100_000:] + a[:100_000]
    for one, data in ((first, b), (second, a), (first, flipped), (first, turned)):
        kept = one.read_bytes()
        one.write_bytes(data)
        with pytest.raises(ImageDamaged, match="not what was sealed"):
            sealed.open_all(made.path, made.manifest, keys)
        one.write_bytes(kept)
    for record in (made.manifest.index, made.manifest.frames):
        kept = (made.path / record.name).read_bytes()
        (made.path / record.name).write_bytes(kept[:-1])
        with pytest.raises(ImageDamaged, match="not what was sealed"):
            sealed.open_all(made.path, made.manifest, keys)
        (made.path / record.name).write_bytes(kept)


def test_a_night_seals_and_keeps_what_the_next_needs_on_its_own_premises(keyed):
    keyed.client("web1", policy=SERVER)
    result = keyed.one()
    assert result.ok and not result.warning, result
    row = keyed.catalog.dump(result.dump)
    archive, index, _frames = sealed.opens(row)
    assert archive == b"x" * 1000 and index == b"f0\tf\n"
    assert sorted(os.listdir(row.holding)) == [
        "RESTORE.txt", "SHA256SUMS", "frames.tsv.zst.enc", "image-0000.tar.zst.enc", "index.tsv.zst.enc", "keys.tsv",
        "manifest.json", "manifest.sig",
    ]  # fmt: skip
    plain = places.find_index(keyed.settings.state, "web1", "data", row.id)
    assert b"".join(codecs.get("zstd").unpack([plain.read_bytes()])) == b"f0\tf\n"
    assert plain.stat().st_mode & 0o777 == 0o600
    assert row.state and (places.state_folder(keyed.settings.state, "web1", "data") / row.state).exists()
    assert keyed.left() == [] and not list((keyed.settings.state / "pending").rglob("*"))
    second = keyed.one(level=1)
    assert second.ok and keyed.catalog.dump(second.dump).level == 1 and sealed.opens(keyed.catalog.dump(second.dump))


def test_nothing_in_the_clear_is_on_the_holding_disk_at_any_time(keyed, monkeypatch):
    plain = Policy("plain", encrypt="server", compress="none", part_size=1 << 20)
    keyed.client("web1", policy=plain, script="""
        request = greet()
        start("none")
        channel.send_json(wire.NOTE, {"level": "warning", "path": "geheim", "message": "changed"})
        index(3000, "none")
        channel.send(wire.STATE, b"geheim state")
        for number in range(8):
            flags = wire.LAST if number == 7 else 0
            frame(number, number * 210_000, b"zuerst geheim" * 10_000 + bytes(80_000), flags, number // 4, "none")
        done(1_680_000, 3000)
    """)  # fmt: skip
    seen = []
    synced = os.fsync

    def look(fd):
        synced(fd)
        seen.append(sealed.names_in(keyed.holding, (b"geheim", b"f2999", b"zuerst")))

    monkeypatch.setattr(os, "fsync", look)
    assert keyed.one().ok
    assert len(seen) > 8 and not any(seen)


def test_without_a_proven_key_nothing_is_dumped_in_the_clear(server):
    server.client("web1", policy=SERVER)
    with pytest.raises(ConfigError, match="no proven, active key") as refused:
        server.one()
    assert refused.value.hint == "stowage key generate" and refused.value.exit_status == 2
    server.client("web2")
    bad, good = server.night()
    assert good.ok and not bad.ok and (bad.code, bad.hint) == ("config", "stowage key generate")
    from backupcore.keys import store

    with store.changing(server.settings.keys):
        store.add(server.settings.keys, "escrow", sealed.recipient("escrow").recipient.public)
    bad, good = server.night()
    assert good.ok and not bad.ok and server.left() == []
    assert {row.client for row in server.catalog.dumps()} == {"web2"}


STEPS = ["write_row", "finish", "rename", "state", "add_dump"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_a_whole_dump_or_none(keyed, monkeypatch, step):
    class Killed(BaseException):
        pass

    def kill(*_args, **_more):
        raise Killed

    keyed.client("web1", policy=SERVER)
    with monkeypatch.context() as patch:
        # nothing is tidied up, as after kill -9
        patch.setattr("backupcore.dump.holding.Landing.remove", lambda self: None)
        if step == "write_row":
            patch.setattr(accept, "write_row", kill)
        elif step == "finish":
            patch.setattr(folder, "finish", kill)
        elif step == "rename":
            patch.setattr(accept, "accept", kill)
        elif step == "state":
            patch.setattr(accept, "_keep", kill)
        else:
            patch.setattr(type(keyed.catalog), "add_dump", kill)
        with pytest.raises(Killed):
            keyed.one()
    whole = step not in STEPS[:2]
    assert not keyed.catalog.dumps()
    result = keyed.one(level=0)
    assert result.ok, result
    rows = keyed.catalog.dumps()
    assert len(rows) == (2 if whole else 1) and bool(keyed.swept.adopted) == whole
    for row in rows:
        assert sealed.opens(row)[0] == b"x" * 1000 and row.state and not row.notes
        assert places.find_index(keyed.settings.state, "web1", "data", row.id)
    assert keyed.left() == [] and not [one for one in (keyed.settings.state / "pending").rglob("*") if one.is_file()]


def test_a_state_disk_that_is_full_costs_no_dump(keyed, monkeypatch):
    keyed.client("web1", policy=SERVER)
    monkeypatch.setattr("backupcore.dump.newfile.SPARE", 1 << 60)
    result = keyed.one()
    assert result.ok
    row = keyed.catalog.dump(result.dump)
    assert row.state is None and sum("No space left" in note for note in row.notes) == 2
    assert sealed.opens(row)[0] == b"x" * 1000
    monkeypatch.undo()
    assert keyed.catalog.dump(keyed.one().dump).level == 0


def test_an_image_whose_keys_are_gone_is_damaged(keyed):
    keyed.client("web1", policy=SERVER)
    row = keyed.catalog.dump(keyed.one().dump)
    path, trusted = Path(row.holding), load_public_keys(keyed.settings.keys)
    text = (path / "keys.tsv").read_bytes()
    (path / "keys-2.tsv").write_bytes(text)
    (path / "keys.tsv").unlink()
    folder.check_folder(path, trusted)
    for spoiled in (b"", text.replace(b"index", b"inbex"), b"\0" * 100):
        (path / "keys-2.tsv").write_bytes(spoiled)
        with pytest.raises(ImageDamaged, match="has no line for"):
            folder.check_folder(path, trusted)
    (path / "keys-2.tsv").write_bytes(text)
    with pytest.raises(KeyMissing):
        sealed.opens(row, sealed.recipient("another"))


# what a hostile or broken agent may send where it is to seal


class Agent:
    """A stream of an agent that seals, with something wrong in it."""

    def __init__(self):
        self.out = io.BytesIO()
        self.channel = wire.Channel(io.BytesIO(), self.out)
        self.key = seal.FileKey.make()
        self.sealer = seal.Sealer(self.key, f"web1/etc/{DUMP}", seal.PART)

    def key_for(self, part=0, named=None, **more):
        named = [sealed.recipient().recipient] if named is None else named
        self.channel.send_json(wire.KEY, {**sealed.key_message(part, self.key, named), **more})
        return self

    def frame(self, number=0, flags=wire.LAST, part=0, mac=True, data=b"x" * 100):
        head = wire.pack_frame_head(wire.FrameHead(part, number, number * 100, 100, flags))
        data = self.sealer.seal(data)
        self.channel.send(wire.FRAME, head, self.sealer.mac(number, data, True) if mac else b"", data)
        return self

    def done(self):
        known = {"archive_size": 100, "entries": 0, "files": 1, "bytes": 1, "suspects": 0}
        self.channel.send_json(wire.DONE, known)
        return self


def take(tmp_path, agent, by="client", part_size=1 << 30):
    place = landing(tmp_path / "holding", "web1", "etc", DUMP, private=tmp_path / "pending")
    place.make()
    channel = wire.Channel(io.BytesIO(agent.out.getvalue()), io.BytesIO(), "web1")
    sealing = Sealing(by, f"web1/etc/{DUMP}", [sealed.recipient().recipient])
    room = Space([HoldingDisk(place.disk, 1 << 30)]).reserve(None)
    try:
        return receive(channel, place, room, "none", part_size, sealing=sealing), place
    finally:
        room.close()


OTHER = [sealed.recipient("another").recipient]
BAD = {
    "no key": lambda: Agent().frame().done(),
    "a key after its frame": lambda: Agent().frame().key_for().done(),
    "the key of another part": lambda: Agent().key_for(1).frame().done(),
    "the key of part true": lambda: Agent().key_for(False).frame().done(),
    "a key twice": lambda: Agent().key_for().key_for().frame().done(),
    "a key after the last frame": lambda: Agent().key_for().frame().key_for(1).done(),
    "a frame of the part before": lambda: Agent().key_for().frame(0, 0).key_for(1).frame(1).done(),
    "another recipient": lambda: Agent().key_for(named=OTHER).frame().done(),
    "one recipient more": lambda: Agent().key_for(named=[*OTHER, sealed.recipient().recipient]).frame().done(),
    "no recipient": lambda: Agent().key_for(named=[]).frame().done(),
    "recipients that are none": lambda: Agent().key_for(wrapped=["x"]).frame().done(),
    "no commitment": lambda: Agent().key_for(commitment="").frame().done(),
    "a commitment with a newline": lambda: Agent().key_for(commitment="0" * 64 + "\n").frame().done(),
    "a wrapped key that is none": lambda: Agent().key_for(
        wrapped={sealed.recipient().recipient.fingerprint: "AAAA"}).frame().done(),
    "a wrapped key of a million bytes": lambda: Agent().key_for(
        wrapped={sealed.recipient().recipient.fingerprint: "A" * 1_000_000}).frame().done(),
    "a wrapped key with a line": lambda: Agent().key_for(
        wrapped={sealed.recipient().recipient.fingerprint: "A" * 512 + "\n"}).frame().done(),
    "no MAC": lambda: Agent().key_for().frame(mac=False).done(),
    "a MAC and nothing else": lambda: Agent().key_for().frame(data=b"").done(),
    "half a MAC": lambda: Agent().key_for().frame(mac=False, data=b"x" * 16).done(),
    "no bytes at all": lambda: Agent().key_for().frame(mac=False, data=b"").done(),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_sealed_as_asked_is_refused(tmp_path, name):
    with pytest.raises(WireError) as refused:
        take(tmp_path, BAD[name]())
    assert "web1" in refused.value.message and "\n" not in refused.value.message and len(refused.value.message) < 300


def test_a_key_where_none_was_asked_for_is_refused(tmp_path):
    with pytest.raises(WireError, match="in the middle of a dump"):
        take(tmp_path, Agent().key_for().frame(mac=False).done(), "server")


def test_an_agents_frames_are_taken_as_they_are(tmp_path):
    agent = Agent().key_for().frame().done()
    got, place = take(tmp_path, agent)
    data = (place.folder / got.parts[0].name).read_bytes()
    opener = seal.Opener(agent.key, f"web1/etc/{DUMP}", seal.PART)
    assert opener.stream().update(data) == b"x" * 100
    assert hashlib.sha256(data).hexdigest() == got.parts[0].sha256


@pytest.mark.parametrize("before, after", [("none", "server"), ("server", "none")])
def test_a_change_of_sealing_begins_a_new_chain(keyed, before, after):
    keyed.client("web1", policy=Policy("before", encrypt=before))
    assert keyed.one().ok
    keyed.client("web1", policy=Policy("after", encrypt=after))
    result = keyed.one(level=1)
    row = keyed.catalog.dump(result.dump)
    assert result.ok and row.level == 0 and row.base is None
    assert "encrypt of the source changed" in " ".join([*row.notes, result.message])
    assert keyed.catalog.dump(keyed.one(level=1).dump).level == 1
