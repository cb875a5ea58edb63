"""Where the server keeps what belongs to the catalog, below its state folder.

    catalog.sqlite                               the catalog
    server-id                                    who this server is, in every manifest and on every target
    index/<client>/<source>/<dump>.tsv[.zst|.gz] the index of each dump, as it is in the image
    index/<client>/<source>/<dump>.frames        the frame table of a large image, to be searched in its file
    state/<client>/<source>/<dump>.state         state blocks for the next incremental, as the agent made them
    runs/<run>.json, .sig                        signed records of runs
    pending/<client>/<source>/<dump>.state, .index, .row
                                                 what of a sealed dump must not lie on the holding disk while it comes
    direct/                                      dumps on their way straight to targets: notes, and all but their parts
    rebuild/                                     what a rebuild is at work on
    audit.log                                    who did what (audit/log.py)
    support/                                     archives of `stowage support`
    run.lock  status.json                        the run that is at work
    run.waits  waiting/<process>                 runs that wait for its end
    run.due                                      touched by a run of what is due that found another at work
    planner.json                                 what makes nights even: planned nights, presence of clients
    forced/<client>:<source>                     the level that was asked for once
    watch.json  watch.lock                       what was wrong at the last look, and who was told of it

Here live names only (and the server's id, which is made once); nothing here opens the catalog.
"""

from __future__ import annotations

import os
from pathlib import Path

from .. import files, ids
from ..errors import CatalogError


def source_folder(source: str, segment: str = "") -> str:
    """The folder name of a source: `<source>[.<segment>]`."""
    return f"{source}.{segment}" if segment else source


def catalog_file(state: Path) -> Path:
    """The database."""
    return Path(state) / files.CATALOG


def index_folder(state: Path, client: str, source: str, segment: str = "") -> Path:
    """The folder of a source's indexes; a file in it is `<dump>.tsv` and the suffix of the dump's codec."""
    return Path(state) / "index" / client / source_folder(source, segment)


def find_index(state: Path, client: str, source: str, dump: str, segment: str = "") -> Path | None:
    """The index file of a dump on this server, whatever its codec; None when it has to be fetched again."""
    folder = index_folder(state, client, source, segment)
    for suffix in (".tsv.zst", ".tsv.gz", ".tsv"):
        path = folder / (dump + suffix)
        if path.is_file():
            return path
    return None


def frames_copy(state: Path, client: str, source: str, dump: str, segment: str = "") -> Path:
    """The copy of a dump's frame table; there is none of small ones."""
    return index_folder(state, client, source, segment) / (dump + ".frames")


def state_folder(state: Path, client: str, source: str, segment: str = "") -> Path:
    """The folder of a source's state blocks."""
    return Path(state) / "state" / client / source_folder(source, segment)


def run_record(state: Path, run: str) -> Path:
    """The signed record of a run; its signature has .sig instead of .json."""
    return Path(state) / "runs" / (run + ".json")


def pending_folder(state: Path) -> Path:
    """What belongs to sealed dumps on their way into the catalog."""
    return Path(state) / "pending"


def direct_folder(state: Path) -> Path:
    """What belongs to dumps on their way straight to targets."""
    return Path(state) / "direct"


def rebuild_folder(state: Path) -> Path:
    """What a rebuild is at work on; whatever lies there while no run holds the lock is rubbish."""
    return Path(state) / "rebuild"


def lock_file(state: Path) -> Path:
    """Locked by the run that is at work."""
    return Path(state) / "run.lock"


def waits_file(state: Path) -> Path:
    """Touched by a run that waits for the end of a small one."""
    return Path(state) / "run.waits"


def due_file(state: Path) -> Path:
    """Touched by a run of what is due that was refused, since another is at work."""
    return Path(state) / "run.due"


def waiting_folder(state: Path) -> Path:
    """A locked file of each run that waits for the one at work."""
    return Path(state) / "waiting"


def status_file(state: Path) -> Path:
    """What the run at work is doing."""
    return Path(state) / "status.json"


def planner_file(state: Path) -> Path:
    """What one night leaves to the planning of the next."""
    return Path(state) / "planner.json"


def forced_folder(state: Path) -> Path:
    """The levels that were asked for once, a file each."""
    return Path(state) / "forced"


def watch_file(state: Path) -> Path:
    """What was wrong at the last look, and who was told of it when."""
    return Path(state) / "watch.json"


def watch_lock(state: Path) -> Path:
    """Locked by the look that is at work."""
    return Path(state) / "watch.lock"


def server_id(state: Path) -> str:
    """This server's id, made at the first call. It outlives the catalog: images carry it."""
    path = Path(state) / "server-id"
    for _attempt in range(2):
        try:
            text = path.read_text("ascii").strip()
        except FileNotFoundError:
            _make_server_id(path)
            continue
        except (OSError, ValueError) as error:
            raise CatalogError(f"{path} cannot be read: {error}") from None
        if len(text) != 16 or set(text) - set("0123456789abcdef"):
            raise CatalogError(f"{path} is no server id", "put the 16 hex digits back that stand in any manifest.json")
        return text
    raise CatalogError(f"{path} cannot be made")


def known_server_id(state: Path) -> str | None:
    """This server's id, None when it has none yet."""
    return server_id(state) if (Path(state) / "server-id").exists() else None


def take_server_id(state: Path, mine: str) -> None:
    """From now on this server is the one of that id: a server that was lost is made again."""
    files.make_folder(Path(state))
    files.replace(Path(state) / "server-id", (mine + "\n").encode())


def _make_server_id(path: Path) -> None:
    # linked into place: it is there whole or not at all, and the first of two makers wins
    files.make_folder(path.parent)
    mine = ids.new_server_id()
    temporary = files.temporary_of(path)  # what a kill leaves of it goes with the next run
    files.write_synced(temporary, (mine + "\n").encode())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
    files.sync_folder(path.parent)
