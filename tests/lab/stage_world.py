"""A little server: settings with two directory targets, a catalog, and whole signed dumps on a holding disk."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from backupcore.hookspecs import TargetContext

from backupcore import clock, files, ids
from backupcore.catalog import places
from backupcore.catalog.records import DumpRow
from backupcore.catalog.store import Catalog
from backupcore.dump.space import Space
from backupcore.image import folder, layout
from backupcore.image.manifest import FileRecord, Link, Manifest, Signer
from backupcore.settings import Client, CopyRule, HoldingDisk, Policy, Settings, Source, TargetSettings
from backupcore.stage import stager
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget

BEGUN = 1_790_000_000 * clock.NS


class World:
    """What a test plays with. opened: name -> target; a test may put another one in."""

    def __init__(self, root: Path):
        self.root = root
        self.holding = root / "holding"
        self.holding.mkdir()
        self.settings = Settings(
            file=root / "stowage.yml", state=root / "state", keys=root / "keys",
            holding=(HoldingDisk(self.holding, -1),), cycle_days=7, policies={}, clients={},
            targets={name: TargetSettings(name, "directory", {}) for name in ("nas", "disk")},
        )  # fmt: skip
        self.policy(CopyRule("nas"), CopyRule("disk"))
        self.catalog = Catalog(places.catalog_file(self.settings.state))
        self.server = places.server_id(self.settings.state)
        (self.holding / ".stowage").write_text(self.server + "\n")
        self.signer = Signer.make(self.settings.keys)
        self.opened = {name: self.directory(name) for name in self.settings.targets}
        self.last = {}

    def directory(self, name: str) -> DirectoryTarget:
        context = TargetContext(name, self.server, self.settings.state / "targets" / name)
        return DirectoryTarget(DirectoryOptions(path=self.root / name), context)

    def policy(self, *rules: CopyRule, keep: int = 1, clients=("web1", "web2")) -> None:
        policy = Policy("standard", copies=rules, keep_on_holding=keep)
        self.settings = replace(
            self.settings,
            clients={
                client: Client(client, {"etc": Source(client, "etc", "tree", policy, {"path": "/etc"})})
                for client in clients
            },
        )

    def dump(self, client="web1", source="etc", level=0, parts=(3000, 2000), counter=None) -> DumpRow:
        """A whole dump on the holding disk and in the catalog."""
        counter = counter or self.catalog.next_counter(client, source)
        begun = BEGUN + counter * 86400 * clock.NS
        name = ids.new_dump_name(clock.stamp(begun), level)
        place = self.holding / layout.dump_prefix(client, source, name)
        place.mkdir(parents=True)
        records = []
        named = [layout.part_name(number, "zstd") for number in range(len(parts))]
        for number, (file, size) in enumerate(zip([*named, "index.tsv.zst", "frames.tsv.zst"], [*parts, 700, 300])):
            content = hashlib.shake_256(f"{name} {number}".encode()).digest(size)
            files.write_synced(place / file, content)
            records.append(FileRecord(file, size, hashlib.sha256(content).hexdigest()))
        before = self.last.get((client, source))
        base = before if level else None
        draft = Manifest(
            server=self.server, client=client, source=source, type="tree", path="/etc", dump=name, level=level,
            counter=counter, begun_ns=begun, ended_ns=begun + 5, codec="zstd", archive_size=9, entries=1,
            parts=tuple(records[:-2]), index=records[-2], frames=records[-1],
            base=Link(base.id, base.manifest_sha256) if base else None,
            previous=Link(before.id, before.manifest_sha256) if before else None,
        )  # fmt: skip
        done = folder.finish(place, draft, self.signer)
        row = DumpRow(
            id=name, client=client, source=source, segment="", type="tree", path="/etc", level=level, counter=counter,
            begun_ns=begun, ended_ns=begun + 5, base=base.id if base else None, previous=None, run="", codec="zstd",
            archive_size=9, stored_size=done.manifest.stored_size, entries=1, files=1, holding=str(place),
            manifest_sha256=done.manifest_sha256,
        )  # fmt: skip
        self.catalog.add_dump(row)
        self.last[client, source] = row
        return row

    def stage(self, **options):
        options.setdefault("rooms", Space(self.settings.holding))
        return stager.stage(self.settings, self.catalog, self.opened.__getitem__, **options)

    def states(self, dump: DumpRow):
        return {row.target: row.state for row in self.catalog.copies(dump=dump.id)}

    def files(self, place: Path):
        """Relative name -> content of all files below place but those of stowage itself."""
        found = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".")}

    def image(self, dump: DumpRow):
        """As files() of a target that has dump."""
        return self.files(self.holding)
