"""Samples: the oldest proof first, until all of everything came round; and sealed dumps, with and without keys."""

from __future__ import annotations

import os

import pytest
import sealed

from backupcore.catalog.records import ProofRow
from backupcore.catalog.rows import row_of
from backupcore.errors import KeyMissing
from backupcore.image import recipients
from backupcore.image.copies import FolderCopy
from backupcore.image.manifest import load_public_keys
from backupcore.verify import full, sample
from backupcore.verify.verdict import Verdict


class Ring:
    """As keys.ring.KeyRing, with one private key or none."""

    def __init__(self, *private):
        self.private = private

    def unlock(self, manifest, read_small, files=None):
        if not self.private:
            raise KeyMissing("nobody has a key")
        lines = recipients.read_keys([read_small("keys.tsv", 1 << 20)])
        return recipients.unlock(manifest.prefix, manifest.sealed, lines, self.private, files)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sample, "SLICE", 100_000)


@pytest.fixture(params=["server", "client", None])
def made(request, tmp_path):
    tree = {"a": os.urandom(250_000), "b": b"b", "c": os.urandom(400_000)}
    found = sealed.make(tmp_path / "holding", tree, request.param, part_size=300_000, frame_size=50_000)
    return found, row_of(found.manifest, found.manifest_sha256)


def look(made, ring, starts=None, place="holding"):
    found, row = made
    verdict = Verdict(row, place, "full" if starts is None else "sample")
    copy = FolderCopy(found.path, place)
    keys = load_public_keys(found.path.parents[3] / "keys")
    state = found.path.parents[3]
    if starts is None:
        full.check(copy, verdict, keys, {}, ring, state, lambda _count: None)
    else:
        sample.check(copy, verdict, keys, {}, ring, state, lambda _count: None, starts)
    return verdict


def all_starts(made):
    return [one.start for one in sample.pieces([(made[1], "holding", 0)], [])]


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_whole_dump_with_its_key_and_without(made):
    found, _row = made
    opened = look(made, Ring(sealed.recipient()))
    assert opened.ok and opened.notes == [], opened.message()
    closed = look(made, Ring())
    assert closed.ok and bool(closed.notes) == bool(found.manifest.seal)
    assert set(opened.good) >= {record.name for record in found.manifest.all_files()}
    assert set(closed.good) == set(opened.good)
    flip(found.path / found.manifest.parts[1].name, 1000)
    for ring in (Ring(sealed.recipient()), Ring()):
        assert set(look(made, ring).damage) == {found.manifest.parts[1].name}


def test_wrapped_keys_that_were_spoiled_are_damage_when_the_key_is_at_hand(made):
    found, _row = made
    if found.manifest.seal is None:
        return
    path = found.path / "keys.tsv"
    lines = path.read_bytes().split(b"\n")
    fields = lines[0].split(b"\t")
    fields[3] = b"AAAA" + fields[3][4:]
    path.write_bytes(b"\n".join([b"\t".join(fields), *lines[1:]]))
    assert set(look(made, Ring(sealed.recipient())).damage) == {"keys.tsv"}


def test_all_pieces_together_are_every_byte_of_the_image(small, made):
    found, row = made
    starts = all_starts(made)
    assert len(starts) >= 7
    for ring in (Ring(sealed.recipient()), Ring()):
        verdict = look(made, ring, starts)
        assert verdict.ok, verdict.message()
        assert sorted(dict(verdict.proven)) == starts
        assert sum(dict(verdict.proven).values()) == row.stored_size
        assert verdict.bytes >= row.stored_size


def test_a_bit_anywhere_is_found_by_the_piece_that_it_lies_in_and_no_other_is_blamed(small, made):
    found, row = made
    begins, at = {}, 0
    for record in found.manifest.all_files():
        begins[record.name] = at
        at += record.size
    for record in found.manifest.parts:
        for place in (0, record.size // 2, record.size - 1):
            flip(found.path / record.name, place)
            ring = Ring(sealed.recipient())
            hit = [start for start in all_starts(made) if not look(made, ring, [start]).ok]
            flip(found.path / record.name, place)
            assert len(hit) == 1  # frames belong to the piece that they begin in
            assert -100_000 < begins[record.name] + place - hit[0] < 200_000


def test_a_piece_reads_little_more_than_itself(small, made):
    verdict = look(made, Ring(sealed.recipient()), [100_000])
    assert verdict.ok and [start for start, _length in verdict.proven] == [100_000]
    assert verdict.bytes < 100_000 + 60_000 + 30_000


def test_the_oldest_proof_comes_first_and_all_come_round(small, made):
    row = made[1]
    proofs, seen, now = [], [], 1000
    for _night in range(40):
        now += 1
        found = sample.pieces([(row, "nas", 10), (row, "cloud", 20)], proofs)
        chosen = sample.choose(found, 200_000, {})
        assert 0 < sum(one.length for one in chosen) <= 200_000
        seen += [(one.place, one.start) for one in chosen]
        proofs += [ProofRow(row.id, one.place, "sample", True, now, 0, one.start, one.length) for one in chosen]
    total = {(one.place, one.start) for one in found}
    assert set(seen[: len(total)]) == total  # nothing twice before all came once
    counts = [seen.count(one) for one in total]
    assert max(counts) - min(counts) <= 1
    assert seen[0][0] == "nas"


def test_a_full_proof_counts_for_every_piece_and_a_failed_one_for_none(small, made):
    row = made[1]
    copies = [(row, "nas", 5)]
    proven = [ProofRow(row.id, "nas", "full", True, 99), ProofRow(row.id, "nas", "sample", False, 500)]
    assert {one.last_ns for one in sample.pieces(copies, proven)} == {99}


def test_a_metered_place_gets_no_more_than_its_limit(small, made):
    row = made[1]
    found = sample.pieces([(row, "cloud", 1), (row, "nas", 2)], [])
    chosen = sample.choose(found, 10**9, {"cloud": 150_000})
    assert sum(one.length for one in chosen if one.place == "cloud") <= 150_000
    assert sum(one.length for one in chosen if one.place == "nas") == row.stored_size
    assert not [one for one in sample.choose(found, 10**9, {"cloud": 0}) if one.place == "cloud"]
