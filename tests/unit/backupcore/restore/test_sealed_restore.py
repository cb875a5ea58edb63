"""Restores of sealed dumps: what opens them, what refuses, and that nothing is given out before its MAC was right."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import sealed
from maker import MEMORY, Maker, Node, expected, folder_node, received

from backupcore import wire
from backupcore.catalog import places
from backupcore.errors import ImageDamaged, KeyLocked, KeyMissing, TargetRefused
from backupcore.image import codec, layout, recipients, seal
from backupcore.keys import store
from backupcore.restore import deliver

TREE = {b".": folder_node(), **{b"f%03d" % n: Node("f", os.urandom(3000)) for n in range(60)}}
TREE[b"big"] = Node("f", os.urandom(30_000))
PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(params=["holding", "nas", "cloud"])
def place(request):
    return request.param


@pytest.fixture
def vault():
    """A server whose dumps are sealed for `operations`; nothing on it opens them."""
    base = Path(tempfile.mkdtemp(prefix="stowage-test-", dir=MEMORY))
    made = Maker(base / "server", part=40_000, sealed_for=(sealed.recipient(),))
    yield made
    made.close()
    shutil.rmtree(base)


def ring(maker, *files, ask=None):
    return store.private_keys(maker.settings.keys, files, ask)


def key_file(maker, private=None, passphrase=None):
    path = maker.base / "operations.pem"
    private = private or sealed.recipient()
    path.write_bytes(private.protect_pem(passphrase) if passphrase else private.to_pem())
    return path


def put(maker, row, where):
    """Leaves the dump at one place only."""
    if where != "holding":
        maker.copy(row, where, "s3" if where == "cloud" else "directory")
        maker.catalog.set_holding(row.id, None)
        shutil.rmtree(row.holding)


def opened(maker, only=None):
    return maker.images(only, ring(maker, key_file(maker)))


def test_a_sealed_dump_comes_back_whole_from_every_place(vault, place):
    row = vault.dump(TREE)
    put(vault, row, place)
    report, peer = vault.restore("web1:/", images=opened(vault))
    assert received(peer) == expected(TREE) and report.notes == [] and report.exit_status == 0
    assert [use.place for use in report.read_from] == [place]


def test_stored_frames_pass_opened_as_they_are(vault):
    vault.dump(TREE)
    _report, peer = vault.restore("web1:/", images=opened(vault))
    (table,) = vault.tables.values()
    assert peer.kinds.count(wire.FRAME) >= len(table) - 1  # the last holds the end of the archive too
    _report, peer = vault.restore("web1:/", images=opened(vault), zstd=False)
    assert received(peer) == expected(TREE) and wire.ARCHIVE in peer.kinds


def test_one_file_costs_its_frames_and_one_key_of_a_part(vault):
    row = vault.dump(TREE)
    put(vault, row, "cloud")
    data = b"".join(deliver.cat(opened(vault), vault.wanted("web1:/srv/data/f030")))
    assert data == TREE[b"f030"].data
    parts = [read for read in vault.targets["cloud"].reads if read[0].startswith("image")]
    assert len(parts) == 1 and parts[0][2] < 3 * vault.frame


def test_an_incremental_of_a_sealed_full_is_restored_over_the_chain(vault):
    vault.dump(TREE)
    later = {**TREE, b"f001": Node("f", b"new"), b"g": Node("f", b"more" * 999)}
    del later[b"f002"]
    vault.dump(later, level=1)
    report, peer = vault.restore("web1:/", images=opened(vault))
    assert received(peer) == expected(later) and report.notes == []


def test_without_a_key_it_is_one_clear_error_and_nothing_is_marked(vault, place):
    row = vault.dump(TREE)
    put(vault, row, place)
    for words in (["web1:/"], ["web1:/srv/data/f030"]):
        with pytest.raises(KeyMissing, match="none of their private keys is at hand") as caught:
            vault.restore(*words)
        assert "--key FILE" in caught.value.hint and caught.value.client == "web1"
    with pytest.raises(KeyMissing):
        deliver.cat(vault.images(), vault.wanted("web1:/srv/data/f030"))
    assert not vault.catalog.dump(row.id).damaged


def test_a_strange_key_opens_nothing(vault):
    vault.dump(TREE)
    strange = key_file(vault, recipients.generate("strange", recipients.LEAST_BITS))
    with pytest.raises(KeyMissing):
        vault.restore("web1:/", images=vault.images(ring=ring(vault, strange)))


def test_a_protected_key_wants_its_passphrase(vault):
    vault.dump(TREE)
    path = key_file(vault, passphrase=PASSPHRASE)
    with pytest.raises(KeyLocked, match="passphrase"):
        vault.restore("web1:/", images=vault.images(ring=ring(vault, path)))
    asked = []

    def ask(what, wrong):
        asked.append((what, wrong))
        return PASSPHRASE

    images = vault.images(ring=ring(vault, path, ask=ask))
    _report, peer = vault.restore("web1:/", images=images)
    assert received(peer) == expected(TREE) and len(asked) == 1
    wrong = ring(vault, path, ask=lambda what, wrong: None if wrong else b"no")
    with pytest.raises(KeyLocked):
        vault.restore("web1:/", images=vault.images(ring=wrong))


def test_an_open_key_on_the_server_is_enough(vault):
    vault.dump(TREE)
    sealed.prove(vault.settings.keys)
    _report, peer = vault.restore("web1:/")
    assert received(peer) == expected(TREE)


def test_a_file_of_an_unsealed_full_needs_no_key_of_the_sealed_incremental(vault):
    privates, vault.sealed_for = vault.sealed_for, ()
    vault.dump(TREE)
    vault.sealed_for = privates
    vault.dump({**TREE, b"g": Node("f", b"new")}, level=1)
    report, peer = vault.restore("web1:/srv/data/f030")
    assert received(peer) == expected(TREE, keep=lambda path: path == b"f030")
    assert any("sealed" in note for note in report.notes)  # whose index could not be checked
    with pytest.raises(KeyMissing):
        vault.restore("web1:/srv/data/g")


# damage: refused before a byte is given out, read from the next place where there is one


def harmed(vault, row, name, where="holding", at=None, flip=0x01):
    """Turns one bit of a file of the dump at a place."""
    if where == "holding":
        path = Path(row.holding) / name
        data = bytearray(path.read_bytes())
    else:
        path = None
        data = bytearray(vault.targets[where].files[f"web1/data/{row.id}/{name}"])
    data[len(data) // 2 if at is None else at] ^= flip
    if path:
        path.write_bytes(data)
    else:
        vault.targets[where].files[f"web1/data/{row.id}/{name}"] = bytes(data)


FILES = ["manifest.json", "manifest.sig", "frames.tsv.zst.enc", "image-0000.tar.zst.enc"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_and_the_next_place_is_read(vault, name):
    row = vault.dump(TREE)
    vault.copy(row, "cloud", "s3")
    harmed(vault, row, name)
    if name.startswith("image"):
        report, peer = vault.restore("web1:/", only="holding", images=opened(vault, "holding"))
        assert report.failed and received(peer).items() <= expected(TREE).items()
    else:
        with pytest.raises(ImageDamaged):
            vault.restore("web1:/", only="holding", images=opened(vault, "holding"))
        with pytest.raises(ImageDamaged):
            deliver.cat(opened(vault, "holding"), vault.wanted("web1:/srv/data/f000"))
    report, peer = vault.restore("web1:/", images=opened(vault))
    assert received(peer) == expected(TREE)
    assert "cloud" in {use.place for use in report.read_from} and report.notes


def test_keys_that_were_spoiled_at_one_place_are_read_at_the_next(vault):
    row = vault.dump(TREE)
    vault.copy(row, "cloud", "s3")
    (Path(row.holding) / "keys.tsv").write_bytes(b"")
    _report, peer = vault.restore("web1:/", images=opened(vault))
    assert received(peer) == expected(TREE)
    vault.targets["cloud"].files[f"web1/data/{row.id}/keys.tsv"] = b"image-0000.tar.zst.enc\trsa\tx\tAAAA\n"
    with pytest.raises(KeyMissing):
        vault.restore("web1:/", images=opened(vault))
    assert not vault.catalog.dump(row.id).damaged


def test_renewed_keys_beside_spoiled_ones_open(vault):
    row = vault.dump(TREE)
    folder = Path(row.holding)
    (folder / "keys-2.tsv").write_bytes((folder / "keys.tsv").read_bytes())
    lines = (folder / "keys.tsv").read_bytes().split(b"\n")
    # the frame table's key is right in the first, the parts' keys are there only in the second
    (folder / "keys.tsv").write_bytes(b"\n".join(line for line in lines if not line.startswith(b"image")) + b"\n")
    _report, peer = vault.restore("web1:/", images=opened(vault))
    assert received(peer) == expected(TREE)


def test_frames_of_equal_length_that_change_places_are_refused(vault):
    vault.compress = "none"
    same = {b".": folder_node(), **{b"f%03d" % n: Node("f", bytes([n]) * 3500) for n in range(9)}}
    row = vault.dump(same)
    table = vault.tables[row.id]
    first, second = [frame for frame in table if frame.stored == table[1].stored and frame.part == table[1].part][:2]
    path = Path(row.holding) / "image-0000.tar.enc"
    data = bytearray(path.read_bytes())
    a, b = (slice(frame.place, frame.place + frame.stored) for frame in (first, second))
    data[a], data[b] = data[b], data[a]
    path.write_bytes(data)
    report, peer = vault.restore("web1:/", images=opened(vault))
    assert {path for path, _why in report.failed} and vault.catalog.dump(row.id).damaged
    whole = expected(same)
    assert all(whole[path] == found for path, found in received(peer).items())


def test_a_part_sealed_by_the_same_key_but_in_another_dump_is_refused(vault):
    """Who has write access and an old sealed dump cannot pass it off as another: the MAC names the dump."""
    key = seal.FileKey.make()
    data = b"stored"
    made = seal.Sealer(key, "web1/data/one", seal.PART)
    text = made.seal(data)
    mac = made.mac(0, text, True)
    assert seal.Opener(key, "web1/data/one", seal.PART).frame(0, 0, text, True, mac) == data
    for other in (("web1/data/two", seal.PART, 0), ("web1/data/one", seal.INDEX, 0), ("web1/data/one", seal.PART, 1)):
        with pytest.raises(ImageDamaged):
            seal.Opener(key, *other).frame(0, 0, text, True, mac)


def test_the_index_is_fetched_in_the_clear_and_checked_sealed(vault):
    row = vault.dump(TREE)
    path = places.find_index(vault.settings.state, "web1", "data", row.id)
    plain = path.read_bytes()
    images = opened(vault)
    assert images.checked_index(row) == path
    path.unlink()
    assert opened(vault).index(row).read_bytes() == plain
    path.write_bytes(plain[:-1] + bytes([plain[-1] ^ 1]))
    images = opened(vault)
    assert images.checked_index(row).read_bytes() == plain and "was damaged" in images.notes[0]
    path.unlink()
    harmed(vault, row, "index.tsv.zst.enc")
    with pytest.raises(ImageDamaged):
        opened(vault).index(row)
    assert not list(path.parent.iterdir())


def test_a_place_without_wrapped_keys_is_told(vault):
    row = vault.dump(TREE)
    (Path(row.holding) / "keys.tsv").unlink()
    with pytest.raises((TargetRefused, ImageDamaged), match="keys.tsv"):
        vault.restore("web1:/", images=opened(vault))


def test_what_lies_at_the_places_says_nothing_of_what_is_in_it(vault):
    tree = {b".": folder_node(), b"very-telling-name": Node("f", b"a secret that stands in the file" * 50)}
    row = vault.dump(tree)
    found = sealed.names_in(row.holding, [b"very-telling-name", b"a secret that stands"])
    digest = hashlib.sha256(tree[b"very-telling-name"].data).hexdigest().encode()
    assert found == [] and sealed.names_in(row.holding, [digest]) == []
    assert all(path.name.endswith(layout.SEALED) for path in Path(row.holding).glob("i*"))


def test_an_index_that_rotted_here_costs_one_file_a_second_try(vault):
    row = vault.dump(TREE)
    path = places.find_index(vault.settings.state, "web1", "data", row.id)
    packer = codec.get("zstd")
    text = b"".join(packer.unpack([path.read_bytes()]))
    lines = text.splitlines(keepends=True)
    (number,) = [number for number, line in enumerate(lines) if line.startswith(b"f030\t")]
    other = lines[number + 1].split(b"\t")
    for column in (10, 11):  # another's digest, another's place
        fields = lines[number].split(b"\t")
        fields[column] = other[column]
        path.write_bytes(packer.compress(b"".join([*lines[:number], b"\t".join(fields), *lines[number + 1 :]])))
        images = opened(vault)
        assert b"".join(deliver.cat(images, vault.wanted("web1:/srv/data/f030"))) == TREE[b"f030"].data
        assert any("was damaged and is fetched again" in note for note in images.notes)


def test_a_small_file_is_given_only_when_all_of_it_is_right(vault):
    row = vault.dump(TREE)
    frame = next(frame for frame in vault.tables[row.id] if frame.number == 5)
    vault.harm(row, frame.number)
    refused = 0
    for path in TREE:
        if path != b".":
            try:
                found = b"".join(deliver.cat(opened(vault), vault.wanted("web1:/srv/data/" + path.decode())))
                assert found == TREE[path].data
            except ImageDamaged:
                refused += 1
    assert 0 < refused < 6
