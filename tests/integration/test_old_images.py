"""Images and catalogs that an earlier release wrote are read by this one: tests/data has them as they were."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
import yaml
from cli_lab import Server

from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys

DATA = Path(__file__).parents[1] / "data" / "format-1"
WAS = "/srv/stowage-old"
SOURCES = ("zst", "gz", "plain")


@pytest.fixture
def old(tmp_path):
    """A server that found itself with the old one's disks, keys but the private one, and catalog."""
    server = Server(tmp_path)
    shutil.rmtree(tmp_path / "holding")
    for name in ("holding", "state"):
        shutil.copytree(DATA / name, tmp_path / name)
        for folder, _folders, files in os.walk(tmp_path / name):
            os.chmod(folder, 0o700)
            for file in files:
                os.chmod(os.path.join(folder, file), 0o600)
    with sqlite3.connect(tmp_path / "state" / "catalog.sqlite") as catalog:
        catalog.execute("UPDATE dumps SET holding = replace(holding, ?, ?)", (WAS, str(tmp_path)))
    sources = {name: {"path": "%s/tree-%s" % (WAS, name)} for name in SOURCES}
    (tmp_path / "clients.d" / "old1.yml").write_text(
        yaml.safe_dump({"clients": {"old1": {"transport": "local", "sources": sources}}})
    )
    yield server
    server.close()


def dumps(source: str) -> list[Path]:
    return sorted((DATA / "holding" / "old1" / source).iterdir())


@pytest.mark.parametrize("source", SOURCES)
def test_an_old_image_is_whole_by_its_own_signature(source):
    public = load_public_keys(DATA / "state" / "keys")
    levels = [check_folder(folder, public, full=True).level for folder in dumps(source)]
    assert levels == [0, 1]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("level", [0, 1])
def test_every_file_of_every_moment_of_an_old_image_comes_back(old, source, level, tmp_path):
    begun = dumps(source)[level].name[:16]
    moment = "%s-%s-%sT%s:%s:%sZ" % (begun[:4], begun[4:6], begun[6:8], begun[9:11], begun[11:13], begun[13:15])
    if level == 0:
        moment = moment[:-1] + ".999999999Z"
    else:
        moment = "2026-12-01"
    place = tmp_path / "back"
    old.stowage("restore", "old1", source, "--at", moment, "--to", place)
    (top,) = [Path(folder) for folder, folders, files in os.walk(place) if "hard" in files]
    passwd = "root:x:0:0\n" + "added\n" * level
    assert (top / "etc" / "passwd").read_text() == passwd
    assert (top / "hard").stat().st_ino == (top / "etc" / "passwd").stat().st_ino
    assert os.readlink(top / "link") == "etc/passwd"
    assert (top / os.fsdecode(b"odd \n\xff name")).read_bytes() == b"odd"
    assert stat.S_ISFIFO((top / "fifo").stat().st_mode)
    sparse = (bytes(1 << 19) + b"middle").ljust(1 << 20, b"\0")
    assert (top / "sparse").read_bytes() == sparse
    assert (top / "gone").exists() == (level == 0) and (top / "new").exists() == (level == 1)
    assert os.getxattr(top / "etc", "user.note") == b"kept"
    assert stat.S_IMODE((top / "etc").stat().st_mode) == 0o750
    if level == 0:
        assert (top / "etc" / "passwd").stat().st_mtime_ns == 10**18 + 123456789


def test_an_old_catalog_is_listed_and_searched(old):
    assert len(old.json("list", "dumps")["dumps"]) == 6
    assert old.json("find", "passwd")["found"]
