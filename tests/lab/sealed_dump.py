"""A small sealed dump in the world of stage_world: real seals over random bytes. For tests only."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from backupcore import clock, files, ids
from backupcore.catalog.records import DumpRow
from backupcore.dump.sealing import Sealing
from backupcore.image import folder, layout, seal
from backupcore.image.manifest import FileRecord, Manifest


def sealed_dump(world, recipients, client="web1", source="etc", parts=(3000, 2000)) -> DumpRow:
    """A whole dump, sealed for these recipients, on the holding disk and in the catalog."""
    counter = world.catalog.next_counter(client, source)
    begun = 1_790_000_000 * clock.NS + counter * 86400 * clock.NS
    name = ids.new_dump_name(clock.stamp(begun), 0)
    prefix = layout.dump_prefix(client, source, name)
    place = world.holding / prefix
    place.mkdir(parents=True)
    sealing = Sealing("server", prefix, recipients)
    records = []
    plain = [(layout.part_name(n, "zstd"), seal.PART, n, size) for n, size in enumerate(parts)]
    plain += [("index.tsv.zst", seal.INDEX, 0, 700), ("frames.tsv.zst", seal.FRAMES, 0, 300)]
    for file, kind, number, size in plain:
        sealer = sealing.sealer(file + layout.SEALED, kind, number)
        content = sealer.seal(hashlib.shake_256(f"{name} {file}".encode()).digest(size))
        files.write_synced(place / (file + layout.SEALED), content)
        records.append(FileRecord(file + layout.SEALED, size, hashlib.sha256(content).hexdigest()))
        if kind != seal.PART:
            sealing.table(sealer, records[-1])
    draft = Manifest(
        server=world.server, client=client, source=source, type="tree", path="/etc", dump=name, level=0,
        counter=counter, begun_ns=begun, ended_ns=begun + 5, codec="zstd", archive_size=9, entries=1,
        parts=tuple(records[:-2]), index=records[-2], frames=records[-1], seal=sealing.record(),
    )  # fmt: skip
    done = folder.finish(place, draft, world.signer, keys=sealing.keys())
    row = DumpRow(
        id=name, client=client, source=source, segment="", type="tree", path="/etc", level=0, counter=counter,
        begun_ns=begun, ended_ns=begun + 5, base=None, previous=None, run="", codec="zstd", archive_size=9,
        stored_size=done.manifest.stored_size, entries=1, files=1, holding=str(place),
        manifest_sha256=done.manifest_sha256,
    )  # fmt: skip
    world.catalog.add_dump(row)
    return row


def copy_by_hand(world, dump, *targets) -> None:
    """Copies of the dump at targets of the world, as a stager leaves them, whatever it takes along."""
    from backupcore.catalog.records import CopyRow

    for name in targets:
        prefix = layout.dump_prefix(dump.client, dump.source, dump.id)
        for path in sorted(Path(dump.holding).iterdir()):
            world.opened[name].put(f"{prefix}/{path.name}", path)
        world.catalog.put_copy(CopyRow(dump.id, name, "verified", bytes=1, verified_ns=1, updated_ns=1))


def moved_from_holding(world, dump) -> DumpRow:
    """The dump as it is once it left the holding disk."""
    import shutil

    world.catalog.set_holding(dump.id, None)
    shutil.rmtree(dump.holding)
    return replace(dump, holding=None)
