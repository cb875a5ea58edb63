"""Files that sleep in an archive of a target: which a restore needs, asked for all at once, waited for.

Here live finding and asking. A restore that found some asleep half way through would leave half a tree, so all that it
needs is looked at first: a byte of each file that would be read from a place that archives. Not here: what a restore
reads (choose.py), the order of a command (app/restoring.py). Nothing is kept here: the place knows what was asked for.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Callable, Iterable, NamedTuple, Sequence

from .. import text
from ..catalog import places as state_places
from ..errors import KeyLocked, KeyMissing, StillAsleep, StowageError
from ..hookspecs import Target, TargetError
from ..image import layout
from ..image.copies import asleep_told
from ..settings import Settings
from .choose import Selection
from .fetch import ImageReader
from .images import Images
from .request import Wanted

DAYS = 7  # so long what was asked for stays awake
AT_ONCE = 16


class Sleeper(NamedTuple):
    """A file that sleeps at every place that has it. name: at the target; usual: how long it takes to wake."""

    target: str
    name: str
    size: int
    usual: str = ""


class _File(NamedTuple):
    """A file of a dump that is about to be read. part: its number, -1 for the small ones before them."""

    reader: ImageReader
    name: str
    size: int
    part: int = -1


def find(images: Images, wanted: Sequence[Wanted], exact: bool = False) -> list[Sleeper]:
    """What sleeps and has to be awake for a restore of wanted; nothing when all can be read.

    First what tells where the frames lie, where somebody archived that too; then the parts with frames that are wanted.
    """
    with ExitStack() as stack:
        selections: list[tuple[Wanted, Selection | None]] = []
        readers: dict[int, ImageReader] = {}
        for row in wanted:
            if not any(_is_far(images.reader(dump)) for dump in row.chain):
                continue
            try:
                selection = stack.enter_context(closing(Selection(images, row, exact)))
            except StillAsleep:  # an index that this server lost
                selection = None
            selections.append((row, selection))
            levels = range(len(row.chain)) if selection is None else sorted(selection.levels)
            readers.update((id(one), one) for one in (images.reader(row.chain[level]) for level in levels))
        far = [reader for reader in readers.values() if _is_far(reader)]
        found = _asleep(_all(lambda reader: _unread(images, reader), far))
        if found:
            return [one for _file, one in found]
        found = _asleep(_all(_parts, far))
        if not found:
            return []
        needed: set[tuple[int, int]] = set()
        for row, selection in selections:
            for job in selection.jobs(lambda _codec: False) if selection is not None else ():
                if job.frame is not None:
                    needed.add((id(images.reader(row.chain[job.level])), job.frame.part))
        return [one for file, one in found if (id(file.reader), file.part) in needed]


def any_of(images: Images, wanted: Wanted) -> bool:
    """Whether any file of these dumps sleeps, needed or not."""
    far = [reader for reader in map(images.reader, wanted.chain) if _is_far(reader)]
    return bool(_asleep(_all(lambda reader: _unread(images, reader), far)) or _asleep(_all(_parts, far)))


def _is_far(reader: ImageReader) -> bool:
    """Whether it may be read from a place that archives: unless a nearer one has it, which is looked at quickly."""
    if not any(place.archives for place in reader.places):
        return False
    return reader.places[0].archives or reader.places[0].asleep(layout.MANIFEST) is None


def _all(files: Callable[[ImageReader], list[_File]], readers: Sequence[ImageReader]) -> list[_File]:
    """The files of all readers, asked side by side: a bucket answers slowly. The first one alone: a passphrase is asked
    for once, and who gives none is not asked again."""
    if not readers:
        return []
    first = files(readers[0])
    with ThreadPoolExecutor(AT_ONCE, "asleep") as pool:
        return first + [file for found in pool.map(files, readers[1:]) for file in found]


def _unread(images: Images, reader: ImageReader) -> list[_File]:
    """The small files of a dump whose manifest or frame table sleeps, and its index where this server has none."""
    dump, names = reader.dump, []
    frames, index = layout.frames_name(dump.codec), layout.index_name(dump.codec)
    try:
        reader.table()
    except StillAsleep:
        names = [layout.MANIFEST, layout.SIGNATURE, frames, frames + layout.SEALED, layout.keys_name()]
    except (KeyMissing, KeyLocked):
        raise
    except StowageError:
        return []  # told by the restore itself
    here = state_places.find_index(images.settings.state, dump.client, dump.source, dump.id, dump.segment)
    if here is None:
        names += [index, index + layout.SEALED]
    return [_File(reader, name, 0) for name in names]


def _parts(reader: ImageReader) -> list[_File]:
    try:
        found = reader.manifest()
    except StowageError:
        return []
    return [_File(reader, part.name, part.size, number) for number, part in enumerate(found.parts)]


def _asleep(files: Sequence[_File]) -> list[tuple[_File, Sleeper]]:
    """Those of the files that sleep wherever they are, each as what is to be woken where."""
    if not files:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(files)), "asleep") as pool:
        looked = list(pool.map(_look, files))
    return [(file, one) for file, one in zip(files, looked) if one is not None]


def _look(file: _File) -> Sleeper | None:
    found: Sleeper | None = None
    for place in file.reader.places:
        state = place.asleep(file.name)
        if state is None:
            continue  # not there, or not to be reached
        if not state.sleeps:
            return None
        found = found or Sleeper(place.name, state.name, file.size, state.usual)
    return found


def wake(open_target: Callable[[str], Target], sleepers: Iterable[Sleeper]) -> list[Sleeper]:
    """Asks for all of them; those that cannot be read yet. Raises StillAsleep when a place refuses to wake one."""

    def ask(one: Sleeper) -> bool:
        try:
            return bool(open_target(one.target).wake(one.name, DAYS))
        except TargetError as error:
            told = f"{one.name} sleeps in an archive of target {one.target} and cannot be asked for"
            raise StillAsleep(f"{text.escape(told)}: {text.escape(error.message)}", error.hint) from None

    sleepers = list(sleepers)
    with ThreadPoolExecutor(AT_ONCE, "wake") as pool:
        return [one for one, awake in zip(sleepers, pool.map(ask, sleepers)) if not awake]


def told(sleepers: Sequence[Sleeper], settings: Settings) -> StillAsleep:
    """What a person has to know: how much of where, how long it usually takes, what it costs if a price is known."""
    lines = []
    for target in dict.fromkeys(one.target for one in sleepers):
        mine = [one for one in sleepers if one.target == target]
        usual = next((one.usual for one in mine if one.usual), "")
        price = settings.targets[target].price if target in settings.targets else None
        lines.append(asleep_told(target, len(mine), sum(one.size for one in mine), usual, price))
    return StillAsleep("asleep in an archive, asked for now: " + "; ".join(lines), "the same command again, later")
