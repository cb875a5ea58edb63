"""What a killed run leaves: whole signed dumps get their row, the rest goes, and nobody else's is touched."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backupcore.catalog.store import Catalog
from backupcore.dump import accept, holding, runlock, sweep


def swept(server):
    with runlock.hold(server.settings):
        return sweep.sweep(server.settings, server.catalog)


def test_a_dump_that_is_adopted_is_a_base_as_if_nothing_had_happened(server):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    before = row
    with server.catalog._write() as connection:
        connection.exec_driver_sql("DELETE FROM dumps")
    # as a kill before the row leaves it: the row noted, the state already in its place
    place = holding.landing(server.holding, "web1", "data", row.id)
    place.folder.parent.mkdir(parents=True)
    accept.write_row(place, replace(row, holding=None, state=None, manifest_sha256=""))
    assert swept(server).adopted == [row.id]
    assert server.catalog.dumps() == [before]
    assert server.one().level == 1


def test_a_catalog_that_was_lost_finds_the_images_on_the_holding_disk(server):
    server.client("web1")
    server.one()
    server.one()
    old = server.catalog.dumps()
    server.catalog.close()
    for path in server.settings.state.glob("catalog.sqlite*"):
        path.unlink()
    server.catalog = Catalog(server.settings.state / "catalog.sqlite")
    assert swept(server).adopted == [row.id for row in old]
    rows = server.catalog.dumps()
    for row, was in zip(rows, old):
        assert (row.counter, row.base, row.manifest_sha256, row.stored_size) == (
            was.counter, was.base, was.manifest_sha256, was.stored_size,
        )  # fmt: skip
    result = server.one()  # images tell the root and how they are sealed; what else was asked for, state bears
    assert (result.ok, result.level) == (True, 1)
    assert server.catalog.latest("web1", "data").counter == 3


@pytest.mark.parametrize("harm", ["part", "signature", "sums", "missing", "index"])
def test_what_is_not_whole_in_incoming_goes(server, harm):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    place = holding.landing(server.holding, "web1", "data", row.id)
    with server.catalog._write() as connection:
        connection.exec_driver_sql("DELETE FROM dumps")
    place.folder.parent.mkdir(parents=True)
    os.rename(row.holding, place.folder)
    if harm == "part":
        (place.folder / "image-0000.tar.zst").write_bytes(b"torn")
    elif harm == "signature":
        (place.folder / "manifest.sig").write_bytes(b"\0" * 64)
    elif harm == "sums":
        (place.folder / "SHA256SUMS").write_bytes(b"")
    else:
        (place.folder / ("manifest.sig" if harm == "missing" else "index.tsv.zst")).unlink()
    found = swept(server)
    assert found.adopted == [] and str(place.folder) in found.removed
    assert server.catalog.dumps() == [] and server.left() == []


def test_a_signed_image_in_its_place_is_never_removed(server):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    with server.catalog._write() as connection:
        connection.exec_driver_sql("DELETE FROM dumps")
    (Path(row.holding) / "image-0000.tar.zst").write_bytes(b"torn")
    found = swept(server)
    assert found.removed == [] and [folder for folder, _why in found.strange] == [row.holding]
    assert Path(row.holding).is_dir()
    shutil.copytree(row.holding, Path(row.holding).with_name("20261122T120000Z-L0-00000001"))
    assert len(swept(server).strange) == 2


def test_what_a_release_was_killed_over_goes(server):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    server.catalog.set_holding(row.id, None)
    (Path(row.holding) / "manifest.json").unlink()
    assert swept(server).removed == [row.holding]
    assert not (server.holding / "web1").exists() and server.catalog.dump(row.id).holding is None


def test_an_image_that_came_back_is_known_again(server):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    server.catalog.set_holding(row.id, None)
    swept(server)
    assert server.catalog.dump(row.id).holding == row.holding


def test_files_that_are_no_dumps_stay(server):
    server.client("web1")
    server.one()
    for path in ("README", "web1/notes", "lost+found/x", "other/data/not-a-dump/file"):
        (server.holding / path).parent.mkdir(parents=True, exist_ok=True)
        (server.holding / path).write_text("mine")
    (server.holding / "link").symlink_to(server.base)
    found = swept(server)
    assert (found.removed, found.strange) == ([], [])
    assert (server.holding / "web1" / "notes").read_text() == "mine"


def test_a_link_in_incoming_is_removed_and_not_followed(server):
    server.client("web1")
    server.one()
    precious = server.base / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    folder = server.holding / ".incoming" / "web1" / "data"
    folder.mkdir(parents=True)
    (folder / "20261122T120000Z-L0-00000001").symlink_to(precious)
    (folder / "20261122T120000Z-L0-00000002.state").write_text("x")
    (server.holding / ".incoming" / "web1" / "stray").symlink_to(precious)
    swept(server)
    assert (precious / "file").read_text() == "mine"
    assert not (server.holding / ".incoming" / "web1").exists()


def test_a_dump_of_another_server_is_not_taken(server):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    with server.catalog._write() as connection:
        connection.exec_driver_sql("DELETE FROM dumps")
    (server.settings.state / "server-id").write_text("00000000000000aa\n")
    (server.holding / ".stowage").write_text("00000000000000aa\n")
    found = swept(server)
    assert found.adopted == [] and "of the server" in found.strange[0][1]
    assert Path(row.holding).is_dir()
