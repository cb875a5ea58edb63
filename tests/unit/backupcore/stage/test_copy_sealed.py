"""The wrapped keys of a sealed dump go with it, before the manifest makes it a dump."""

from __future__ import annotations

from pathlib import Path

import sealed

from backupcore.image import folder, layout
from backupcore.settings import CopyRule


def in_world(world):
    """A sealed dump in the catalog of a world."""
    from dataclasses import replace

    plain = world.dump()
    place = Path(plain.holding)
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    made = sealed.make(
        world.holding, {"wichtig": b"geheim" * 1000}, signer=world.signer, dump=plain.id, server=world.server
    )
    assert made.path == place
    row = replace(plain, manifest_sha256=made.manifest_sha256, stored_size=made.manifest.stored_size)
    with world.catalog._engine.begin() as connection:
        connection.exec_driver_sql("update dumps set manifest_sha256 = ?", (made.manifest_sha256,))
    return row, made


def test_a_sealed_dump_is_copied_with_its_keys_and_opens_there(world):
    world.policy(CopyRule("nas"))
    row, made = in_world(world)
    (made.path / layout.keys_name(2)).write_bytes((made.path / layout.keys_name()).read_bytes())
    order = []
    inner = world.opened["nas"].put
    world.opened["nas"].put = lambda name, *args, **more: order.append(Path(name).name) or inner(name, *args, **more)
    assert [one.ok for one in world.stage()] == [True]
    assert {"keys.tsv", "keys-2.tsv"} < set(order) and order[-1] == "manifest.json"
    assert world.files(world.root / "nas") == world.files(world.holding)
    assert not sealed.names_in(world.root / "nas", (b"wichtig", b"geheim"))
    there = made._replace(path=world.root / "nas" / made.manifest.prefix)
    assert folder.key_files(there.path) == ("keys.tsv", "keys-2.tsv")
    assert sealed.open_all(there.path, made.manifest, sealed.unlocked(there))[0] == made.archive
    assert row.id == made.manifest.dump
