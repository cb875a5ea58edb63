"""A server that has lost everything, beside the world of stage_world whose target it is rebuilt from."""

from __future__ import annotations

import shutil
from dataclasses import replace

from backupcore.hookspecs import TargetContext

from backupcore.catalog import places
from backupcore.catalog.store import Catalog
from backupcore.image.manifest import load_public_keys
from backupcore.rebuild import merge
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget


class Lost:
    """A server of which nothing is left but the configuration; the target is a folder of the old world."""

    def __init__(self, world, name="new"):
        self.world, self.root = world, world.root / name
        self.settings = replace(
            world.settings, state=self.root / "state", keys=self.root / "keys", holding=()
        )  # fmt: skip
        self.catalog = Catalog(places.catalog_file(self.settings.state))

    def target(self, name="nas"):
        context = TargetContext(name, "0" * 16, self.settings.state / "targets" / name)
        return DirectoryTarget(DirectoryOptions(path=self.world.root / name), context)

    def rebuild(
        self, place="nas", target=None, witness=None, keys=None, take_over=lambda old, new: None, keys_given=(), **asked
    ):  # fmt: skip
        request = merge.Request(place, f"stowage rebuild --from {place}", keys=dict(keys_given), **asked)
        witness = (witness, self.target(witness)) if witness else None
        trusted = load_public_keys(self.settings.keys) if self.settings.keys.is_dir() else {}
        return merge.rebuild(
            self.settings, self.catalog, target or self.target(place), trusted, request, keys=keys, witness=witness,
            take_over=take_over,
        )  # fmt: skip

    def known(self):
        """What the catalog knows of dumps, without what no image says."""
        return [
            replace(row, holding=None, notes=(), state=None, run="", files=0, options={})
            for row in self.catalog.dumps()
        ]

    def everything(self):
        """All that a rebuild may change."""
        files = {str(path.relative_to(self.root)): path.read_bytes() for path in sorted(self.root.rglob("*"))
                 if path.is_file() and "catalog.sqlite" not in path.name}  # fmt: skip
        counters = {(one.client, one.source) for one in self.catalog.dumps()}
        return files, self.catalog.dumps(), self.catalog.copies(), counters

    def close(self):
        self.catalog.close()


def forget(world, dump, place="nas"):
    """Takes a dump away from a target, as somebody with the bucket's key can."""
    shutil.rmtree(world.root / place / dump.client / dump.source / dump.id)
