"""The names below the state folder, and the one thing that is made there: the server's id."""

from __future__ import annotations

import threading

import pytest

from backupcore.catalog import places
from backupcore.errors import CatalogError


def test_the_server_id_is_made_once(tmp_path):
    got = []
    threads = [threading.Thread(target=lambda: got.append(places.server_id(tmp_path / "s"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and len(set(got)) == 1
    assert places.server_id(tmp_path / "s") == got[0]
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["server-id"]


def test_a_server_id_that_is_none_is_never_used_or_replaced(tmp_path):
    (tmp_path / "server-id").write_text("../../etc\n")
    with pytest.raises(CatalogError, match="is no server id"):
        places.server_id(tmp_path)
    assert (tmp_path / "server-id").read_text() == "../../etc\n"


def test_an_index_is_found_whatever_its_codec(tmp_path):
    name = "20261122T120000Z-L0-00000001"
    assert places.find_index(tmp_path, "web1", "etc", name) is None
    folder = places.index_folder(tmp_path, "web1", "etc")
    folder.mkdir(parents=True)
    (folder / (name + ".tsv.gz")).touch()
    assert places.find_index(tmp_path, "web1", "etc", name) == folder / (name + ".tsv.gz")
    assert places.find_index(tmp_path, "web1", "etc", name, "seg") is None
