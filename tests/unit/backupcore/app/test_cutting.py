"""When a source is cut: after a full far above 4 GiB, once, and anew only when a segment has outgrown its size.

Sizes only: the indexes are made up, and no image is there.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from backupcore.app import cutting, restoring
from backupcore.catalog.records import DumpRow
from backupcore.catalog.store import Catalog
from backupcore.dump import cut
from backupcore.errors import StowageError
from backupcore.image import index
from backupcore.settings import Client, Policy, Settings, Source, Timing

GB = 10**9
TREE = {b"a": 60 * GB, b"b": 50 * GB, b"c": 40 * GB, b"d/e": 30 * GB, b"d/f": 20 * GB}


def lines(tree):
    """The index of folders with one file each, in walk order."""
    yield index.format_entry(b".", "d")
    for folder in sorted({path.split(b"/")[0] for path in tree}):
        yield index.format_entry(folder, "d")
        for path in sorted(path for path in tree if path.split(b"/")[0] == folder):
            if path != folder:
                yield index.format_entry(path, "d")
            yield index.format_entry(path + b"/file", "f", size=tree[path], sha256=b"\1" * 32, length=tree[path])


class World:
    """An engine as far as cutting knows it."""

    def __init__(self, base, timing=None, **options):
        options = {"path": "/data", **options}
        self.source = Source("web1", "data", "tree", Policy("standard"), options, timing or Timing())
        self.settings = Settings(
            file=base / "stowage.yml", state=base / "state", keys=base / "keys", holding=(), cycle_days=7, targets={},
            policies={}, clients={"web1": Client("web1", {"data": self.source})},
        )  # fmt: skip
        (base / "state").mkdir()
        self.catalog = Catalog(base / "state" / "catalog.sqlite")
        self.knows, self.trees, self.count = True, {}, 0

    @contextmanager
    def connect(self, _client):
        yield SimpleNamespace(hello=lambda: {"segments": True} if self.knows else {})

    def chunks(self, row):
        return [b"".join(lines(self.trees[row.id]))]

    def dump(self, tree, segment="", level=0, base=None, folders=None):
        """A dump of so many bytes; what the run tells of it."""
        self.count += 1
        options = {"path": "/data", **({"folders": folders} if folders else {})}
        row = DumpRow(
            id="20261123T000000Z-L%d-%08x" % (level, self.count), client="web1", source="data", segment=segment,
            type="tree", path="/data", level=level, counter=self.count, begun_ns=self.count * 10**12,
            ended_ns=self.count * 10**12 + 1, base=base, previous=None, run="run", codec="zstd",
            archive_size=sum(tree.values()), stored_size=1, entries=9, files=9, holding=None, manifest_sha256="0" * 64,
            options=options,
        )  # fmt: skip
        self.catalog.add_dump(row)
        self.trees[row.id] = tree
        return SimpleNamespace(client="web1", source="data", ok=True, dump=row.id)

    def cut(self):
        return cut.read(self.settings, "web1", "data")


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = []

    def make(**more):
        made.append(World(tmp_path, **more))
        return made[-1]

    monkeypatch.setattr(restoring, "images", lambda engine: engine)
    yield make
    for one in made:
        one.catalog.close()


def test_a_source_of_200_gb_is_cut_after_its_full(world):
    world = world()
    said = cutting.after(world, [world.dump(TREE)])
    made = world.cut()
    assert said == [f"web1:data: it is cut into {len(made.shares)} segments, each with fulls at nights of its own "
                    "from now on"]  # fmt: skip
    assert cut.place(world.settings, "web1", "data").stat().st_mode & 0o777 == 0o600
    folders = sorted(path for one in made.shares[:-1] for path in one.folders)
    assert folders == [b"a", b"b", b"c", b"d/e", b"d/f"] and made.before == ("",)
    assert sum(one.size for one in made.shares) == sum(TREE.values())
    assert cutting.after(world, [world.dump(TREE)]) == [] and world.cut() == made  # once


def test_what_is_not_cut(world):
    world = world()
    assert cutting.after(world, [world.dump({b"a": 2 * GB, b"b": 1 * GB})]) == []  # no burden to any night
    full = world.dump(TREE)
    assert cutting.after(world, [SimpleNamespace(**{**vars(full), "ok": False})]) == []
    assert cutting.after(world, [world.dump({b"a": 90 * GB}, level=1, base=full.dump)]) == []
    world.knows = False  # an older agent
    assert cutting.after(world, [full]) == [] and world.cut() is None
    world.knows = True
    assert cutting.after(world, [full]) and world.cut() is not None


@pytest.mark.parametrize(
    ("timing", "options", "may"),
    [
        ({}, {}, True),
        ({"split": "auto"}, {}, True),
        ({"split": "never"}, {}, False),
        ({"strategy": "full"}, {}, False),
        ({"full": "sun"}, {}, False),
        ({}, {"before": ["/bin/true"]}, False),
        ({}, {"after": ["/bin/true"]}, False),
        ({"split": "auto"}, {"before": ["/bin/true"]}, True),
    ],
)
def test_what_the_settings_allow(world, timing, options, may):
    world = world(timing=Timing(**timing), **options)
    assert cutting.may_be_cut(world.source) is may
    assert bool(cutting.after(world, [world.dump(TREE)])) is may and (world.cut() is not None) is may
    assert not cutting.may_be_cut(replace(world.source, type="postgresql"))


def test_a_failure_is_said_and_the_next_full_tries_again(world, monkeypatch):
    world = world()

    def gone(_row):
        raise StowageError("the index is gone")

    with monkeypatch.context() as patch:
        patch.setattr(world, "chunks", gone)
        said = cutting.after(world, [world.dump(TREE)])
    assert said == ["web1:data: it could not be cut into segments: the index is gone"] and world.cut() is None
    assert len(cutting.after(world, [world.dump(TREE)])) == 1 and world.cut() is not None


def test_it_is_cut_anew_when_a_segment_has_outgrown_twice_its_size(world):
    world = world()
    cutting.after(world, [world.dump(TREE)])
    made = world.cut()

    def fulls(factor):
        for share in made.shares:
            own = {path: size for path, size in TREE.items() if path in share.folders and not share.rest}
            if b"a" in own:
                own.update({b"a": TREE[b"a"] // 2 * factor, b"a/more": TREE[b"a"] // 2 * factor})
            folders = [path.decode() for path in share.folders]
            yield world.dump(own or {b"z": 5}, share.name, folders=folders)

    first = list(fulls(1))
    assert cutting.after(world, first[:1]) == [] and cutting.after(world, first) == [] and world.cut() == made
    again = cutting.after(world, list(fulls(6)))
    assert len(again) == 1 and "it is cut anew into" in again[0]
    new = world.cut()
    assert new.before == made.names and new.leaving == made.shares and set(new.names).isdisjoint(made.names)
    assert cutting.after(world, [world.dump({b"a": GB}, new.names[0], folders=["a"])]) == []  # not complete yet


def test_a_night_has_nothing_of_chains_that_segments_have_followed(world):
    world = world()

    def night():
        return cutting._night(world.settings, world.catalog)

    cutting.after(world, [world.dump(TREE)])
    world.dump({b"a": 7 * GB}, level=1)
    whole = 200 * GB / 7 + 7 * GB
    assert night() == pytest.approx(whole)
    *named, rest = world.cut().shares
    for share in named:
        world.dump({b"a": 10 * GB}, share.name, folders=[path.decode() for path in share.folders])
    assert night() == pytest.approx(whole)  # the whole goes on until all of them have a full
    world.dump({b"z": 3 * GB}, rest.name, folders=[path.decode() for path in rest.folders])
    assert night() == pytest.approx((len(named) * 10 + 3) * GB / 7)
    world.dump({b"a": GB}, named[0].name, level=2, folders=[path.decode() for path in named[0].folders])
    assert night() == pytest.approx((len(named) * 10 + 3) * GB / 7 + GB)
    world.settings = replace(world.settings, clients={})
    assert night() == 0
