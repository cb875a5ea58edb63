"""What killed runs left on the holding disks: whole signed dumps get their rows, the rest goes.

Only while the run lock is held: then nothing in `.incoming` belongs to anyone. In the final places nothing with
a manifest is ever removed here, known or not: what cannot be vouched for is named, and a person decides.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Collection, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from .. import clock, ids
from ..catalog import past, places
from ..catalog.records import DumpRow
from ..catalog.rows import row_of
from ..errors import ImageDamaged, StowageError
from ..image import layout
from ..image.folder import check_folder
from ..image.manifest import Manifest, digest, load_public_keys
from ..settings import Settings
from . import direct, resume, straight
from .accept import accept, read_row
from .holding import INCOMING, Landing, claim, remove_empty

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog


@dataclass(frozen=True)
class Swept:
    """adopted: dumps that got their row. removed: folders and files that are gone.
    strange: (folder, why) of what has a manifest but cannot be taken; left where it is. problems: disks not swept."""

    adopted: List[str] = field(default_factory=list)
    removed: List[str] = field(default_factory=list)
    strange: List[Tuple[str, str]] = field(default_factory=list)
    problems: List[str] = field(default_factory=list)


def sweep(settings: Settings, catalog: Catalog, targets: Optional[direct.Targets] = None) -> Swept:
    """Clears all holding disks, and targets of what direct dumps left there. Call only while runlock.hold() holds. A
    disk or target that is not there is a problem named; without targets what lies there waits for the next sweep."""
    swept = Swept()
    server = places.server_id(settings.state)
    known: Dict[str, DumpRow] = {}
    keys = None
    cut = straight.spared(settings, lambda: {row.id: row for row in catalog.dumps()})
    if targets is not None and direct.notes(settings.state):
        from . import direct_left

        direct_left.take_up(settings, catalog, targets, load_public_keys(settings.keys), server, swept, set(cut))
    noted = places.direct_folder(settings.state)
    for path in noted.glob("*.tmp"):
        path.unlink(missing_ok=True)
    kept: Set[Path] = {path for one in cut.values() for path in (one.cut, one.came, one.index)}
    _clear_rest(noted / INCOMING, swept, kept)
    waiting = _waiting(places.pending_folder(settings.state))
    for disk in settings.holding:
        try:
            claim(disk.path, server, catalog)
        except StowageError as error:
            swept.problems.append(error.message)
            continue
        # a base before what builds on it: names begin with the time
        landings = sorted(_found(disk.path), key=lambda one: str(one.final))
        if landings and keys is None:
            known = {row.id: row for row in catalog.dumps()}
            keys = load_public_keys(settings.keys)
        for one in landings:
            if one.final.name in waiting:
                one = replace(one, private=waiting[one.final.name])
            if _is_kept(settings, one, known):
                kept |= {one.cut, one.came, one.index}
            else:
                _clear(settings, catalog, one, server, keys or {}, known, swept)
        _clear_rest(disk.path / INCOMING, swept, kept)
    if not swept.problems:  # else its dump may be on the disk that is not there
        _clear_rest(places.pending_folder(settings.state), swept, kept)
    try:
        past.forget(catalog, settings.state, clock.now_ns() - int(settings.prune.history * clock.NS))
    except OSError as error:
        swept.problems.append(f"what runs of long ago left cannot be removed: {error.filename} {error.strerror}")
    return swept


def _is_kept(settings: Settings, landing: Landing, known: Mapping[str, DumpRow]) -> bool:
    """Whether it is a dump whose line was cut, or whose server was killed, that the coming night may go on with."""
    if landing.final.name in known or (landing.folder / layout.MANIFEST).exists():
        return False
    came = resume.read(landing)
    try:
        return came is not None and resume.is_kept(came, settings, known) and resume.keep(landing)
    except (StowageError, OSError):
        return False


def _waiting(pending: Path) -> Dict[str, Path]:
    """Names of sealed dumps that were on their way, and the folder of their state, row and index."""
    return {
        entry.name.partition(".")[0]: source for source in _folders(pending, 2) for entry in source.iterdir()
    }  # fmt: skip


def _found(disk: Path) -> Iterator[Landing]:
    """Every folder of a dump, on its way or in its place, and every file beside one."""
    seen = set()
    for top in (disk / INCOMING, disk):
        for source in _folders(top, 2):
            for entry in source.iterdir():
                name = entry.name.partition(".")[0]
                if ids.parse_dump_name(name) is None or (top == disk and entry.name != name):
                    continue
                final = disk / source.relative_to(top) / name
                if final not in seen:
                    seen.add(final)
                    yield Landing(disk, disk / INCOMING / source.relative_to(top) / name, final)


def _folders(top: Path, depth: int) -> Iterator[Path]:
    if not top.is_dir():
        return
    for entry in top.iterdir():
        if ids.is_name(entry.name) and entry.is_dir() and not entry.is_symlink():
            if depth == 1:
                yield entry
            else:
                yield from _folders(entry, depth - 1)


def _clear(
    settings: Settings,
    catalog: Catalog,
    landing: Landing,
    server: str,
    keys: Mapping[str, bytes],
    known: Mapping[str, DumpRow],
    swept: Swept,
) -> None:
    row = known.get(landing.final.name)
    if row is not None and row.holding == str(landing.final):
        # the row is the last step: what is left in .incoming is rubbish
        _remove(landing, swept)
        return
    incoming = landing.folder.is_dir()
    place = landing.folder if incoming else landing.final
    if not (place / layout.MANIFEST).exists():
        if not incoming and place.is_dir():
            # its manifest goes first when an image is removed
            shutil.rmtree(place, ignore_errors=True)
            remove_empty(place.parent, landing.disk)
            swept.removed.append(str(place))
        _remove(landing, swept)
        return
    try:
        manifest = check_folder(place, keys)
        if manifest.prefix != str(landing.final.relative_to(landing.disk)):
            raise ImageDamaged(f"this is the dump {manifest.prefix}")
        if manifest.server != server:
            raise ImageDamaged(f"this is a dump of the server {manifest.server}")
        if row is not None:
            if row.manifest_sha256 != _manifest_digest(place):
                raise ImageDamaged("the catalog knows another dump of this name")
            # a copy that came back by hand, or from another disk
            if row.holding is None or not Path(row.holding).is_dir():
                catalog.set_holding(row.id, landing.final)
            return
        accept(settings, catalog, landing, _row(landing, manifest, place))
        swept.adopted.append(manifest.dump)
    except StowageError as error:
        if incoming:
            _remove(landing, swept)
        else:
            swept.strange.append((str(place), error.message))


def _row(landing: Landing, manifest: Manifest, place: Path) -> DumpRow:
    noted = read_row(landing)
    sha256 = _manifest_digest(place)
    if noted is not None and (noted.id, noted.counter) == (manifest.dump, manifest.counter):
        return replace(noted, manifest_sha256=sha256)
    return row_of(manifest, sha256, ("found on the holding disk, without a row in the catalog",))


def _manifest_digest(place: Path) -> str:
    return digest((place / layout.MANIFEST).read_bytes())


def _remove(landing: Landing, swept: Swept) -> None:
    beside = (landing.state, landing.row, landing.index, landing.table)
    left = [str(path) for path in (landing.folder, *beside) if os.path.lexists(path)]
    if left:
        swept.removed.extend(left)
        landing.remove()


def _clear_rest(incoming: Path, swept: Swept, kept: Collection[Path] = ()) -> None:
    """Whatever else is in .incoming or pending: nobody's, since the lock is held."""
    if not incoming.is_dir():
        return
    for path in [*sorted(incoming.rglob("*"), reverse=True), incoming]:
        if path in kept or path.parent in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            try:
                path.rmdir()
            except OSError:
                continue
        else:
            path.unlink(missing_ok=True)
            swept.removed.append(str(path))
