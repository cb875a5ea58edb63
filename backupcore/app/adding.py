"""A new target: its options checked, its place made, tested, and only then written into targets.d.

Here live the order and the files. stowage.yml is the administrator's, and often Ansible's: it is never written to; a
target that stands there is changed there. targets.d/<name>.yml is this command's, one file a target, as clients.d.
Secrets go into targets.d/<name>.json, 0600, of the engine's user. What a place needs is its driver's make().
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import yaml

from .. import files
from ..errors import ConfigError, RequestError, StowageError, TargetRefused
from ..hookspecs import Making, TargetContext, TargetError
from ..ids import is_name
from ..settings import Settings
from . import auditing, config, config_files, drivers, targeting
from .engine import Progress
from .yaml_lines import Place

PRIVATE = "adding-"  # folders below <state> with the secrets of a target that is being tried
LEFT_AFTER = 3600.0  # seconds after which nobody tries it any more
HEAD = "# Written by `stowage target add`; changed by `stowage target add --replace` or by hand, removed by hand.\n"


@dataclass(frozen=True)
class Adding:
    """What is to be added. given: type and options, secrets among them. making: what the place is to be, None: it is
    there. look: change nothing, say what would be."""

    name: str
    given: Mapping[str, Any]
    making: Optional[Making] = None
    test: bool = True
    replace: bool = False
    look: bool = False


def add(file: Path, asked: Adding, progress: Progress = None) -> Dict[str, Any]:
    """Adds a target; what was done, JSON-ready. Raises RequestError, ConfigError; what the place refused stands in the
    answer, and then nothing was written."""
    if not is_name(asked.name):
        raise RequestError(f'"{asked.name}" cannot name a target', "letters, digits, '.', '_' and '-' make a name")
    found = drivers.load()
    written = config_files.read(file)
    folder = written.file.parent / "targets.d"
    path, keys = folder / f"{asked.name}.yml", folder / f"{asked.name}.json"
    before = _before(written, asked.name, path)
    options, secrets = _split(asked.given, found, before, keys)
    loaded = _checked(written, found, asked.name, path, options)
    text = HEAD + yaml.safe_dump({"targets": {asked.name: options}}, sort_keys=False, allow_unicode=True)
    secret = json.dumps(secrets, indent=1, sort_keys=True) + "\n" if secrets else None
    new = _content(path) != text or secret is not None and _content(keys) != secret
    if before is not None and new and not asked.replace:
        raise RequestError(f"target {asked.name} is there already, with other options: {path}", "--replace")
    if not asked.look:
        _writable(folder)
    driver = found.of("target")[options["type"]]
    making = asked.making
    if driver.make is None and making is not None and (making.lock or making.versions or making.encryption):
        message = f"nothing can be made of a target of type {options['type']}"
        raise RequestError(message, "leave away --lock, --versions and --encryption")
    plain = {key: value for key, value in loaded.targets[asked.name].options.items() if value is not None}

    def work(secret_file: Optional[Path]) -> Dict[str, Any]:
        # bars of this process cannot be painted by another
        return _try(driver, loaded, asked, plain, secret_file, None if _owner(loaded) else progress)

    act = auditing.Act(loaded, "target add", _noted(asked, options, secrets))
    if not asked.look:
        act.begin()
    try:
        done = _with_secrets(loaded, secrets, work)
        failed = any(not one["ok"] for one in done["steps"]) or (done["tested"] or {}).get("status") == "fail"
        changed = new or any(one["changed"] for one in done["steps"])
        if not failed and not asked.look and new:
            _write(folder, path, text, keys, secret, loaded)
    except BaseException as error:
        act.failed(error)
        raise
    act.end("fail" if failed else "ok", {"written": new and not failed})
    unaudited = {"unaudited": act.problem} if act.problem else {}
    return {"name": asked.name, "file": str(path), "changed": changed and not (failed and asked.look), **done,
            **unaudited, "written": new and not failed and not asked.look, "failed": failed}  # fmt: skip


def _noted(asked: Adding, options: Mapping[str, Any], secrets: Mapping[str, str]) -> Dict[str, Any]:
    """What the audit log keeps of it: the options that anybody may see who reads targets.d, and names of secrets."""
    making = {"create": True} if asked.making is not None else {}
    return {"name": asked.name, "options": dict(options), "secrets": sorted(secrets), **making}


def _before(written: Any, name: str, path: Path) -> Optional[Mapping[str, Any]]:
    """What stands of it, None for nothing. Raises RequestError when it stands elsewhere."""
    targets = written.content.get("targets")
    if not isinstance(targets, dict) or name not in targets:
        return None
    place = written.places[("targets", name)]
    if place.file != path:
        raise RequestError(f"target {name} stands in {place}", "change it there: that file is not this command's")
    return targets[name] if isinstance(targets[name], dict) else {}


def _split(given: Mapping[str, Any], found: Any, before: Any, keys: Path) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """(options, secrets); the secrets of before stay when none are given."""
    driver = found.of("target").get(str(given.get("type")))
    names = tuple(getattr(driver, "secrets", ()))
    options = {key: value for key, value in given.items() if key not in names}
    secrets = {key: str(value) for key, value in given.items() if key in names and value not in (None, "")}
    if secrets and options.get("credentials"):
        raise RequestError("credentials: names a file, and secrets were given too", "give one of the two")
    if secrets or before and not options.get("credentials") and before.get("credentials") == str(keys):
        options["credentials"] = str(keys)
    return {"type": options.pop("type", None), **options}, secrets


def _checked(written: Any, found: Any, name: str, path: Path, options: Dict[str, Any]) -> Settings:
    """The whole configuration with it. Raises ConfigError."""
    if not options.get("type"):
        raise RequestError(f"target {name} has no type", "--type s3, or another that `stowage drivers` lists")
    for loc in [loc for loc in written.places if loc[:2] == ("targets", name)]:
        del written.places[loc]
    written.places[("targets", name)] = Place(path, 1)
    if not isinstance(written.content.get("targets"), dict):
        written.content["targets"] = {}
    written.content["targets"][name] = options
    return config.load(written.file, found, written).settings


def _content(path: Path) -> Optional[str]:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None


def _writable(folder: Path) -> None:
    """Raises ConfigError now, not when the bucket is made."""
    there = folder if folder.is_dir() else folder.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be written", "run it as root")


def _try(driver: Any, settings: Settings, asked: Adding, plain: Dict[str, Any], secret_file: Optional[Path],
         progress: Progress) -> Dict[str, Any]:  # fmt: skip
    """Makes and tests the place, as the engine's user."""
    from ..catalog import places

    given = {**plain, **({"credentials": secret_file} if secret_file else {})}
    options = driver.options.model_validate(given)
    folder = settings.state / "targets" / asked.name
    if asked.look:
        context = TargetContext(asked.name, "0" * 16, folder)
    else:
        context = TargetContext(asked.name, places.server_id(settings.state), folder)
    steps: List[Dict[str, Any]] = []
    if asked.making is not None and driver.make is not None:
        steps = [asdict(one) for one in driver.make(options, context, asked.making)]
    tested = None
    if asked.test and not asked.look and all(one["ok"] for one in steps):
        opened = ExitStack()

        def open_(pruning: bool = False) -> Any:
            try:
                return opened.enter_context(closing(driver.open(options, replace(context, pruning=pruning))))
            except TargetError as error:
                raise TargetRefused(f"target {asked.name}: {error.message}", error.hint) from None

        with opened:
            tested = targeting.prove(open_(), lambda: open_(True), asked.name, folder, progress=progress)
    return {"steps": steps, "tested": tested}


def _owner(settings: Settings) -> Optional[pwd.struct_passwd]:
    """The user whose images these are, when that is another than the one who types; None: nobody else."""
    if os.geteuid() != 0:
        return None
    for path in [*(disk.path for disk in settings.holding), settings.state]:
        try:
            uid = os.stat(path).st_uid
            return pwd.getpwuid(uid) if uid else None
        except (OSError, KeyError):
            continue
    return None


def _with_secrets(settings: Settings, secrets: Dict[str, str], work: Callable[[Optional[Path]], Any]) -> Any:
    """work() with the secrets in a file of the user's that is gone after; by that user, in a process of its own."""
    owner = _owner(settings)
    below = _private_place(settings, owner)
    with tempfile.TemporaryDirectory(prefix=PRIVATE, dir=below) as top:
        path = None
        if owner:
            os.chown(top, owner.pw_uid, owner.pw_gid)
        if secrets:
            path = Path(top) / "credentials.json"
            files.write_synced(path, json.dumps(secrets).encode())
            if owner:
                os.chown(path, owner.pw_uid, owner.pw_gid)
        return work(path) if owner is None else _as(owner, lambda: work(path))


def _private_place(settings: Settings, owner: Optional[pwd.struct_passwd]) -> Optional[Path]:
    """Where secrets may lie for a moment: the state folder, in which what a kill left is found; None: where there is
    room for such files. Removes what was left."""
    try:
        if settings.state.stat().st_uid != (owner.pw_uid if owner else os.geteuid()):
            return None
        for left in settings.state.glob(PRIVATE + "*"):
            if time.time() - left.stat().st_mtime > LEFT_AFTER:
                shutil.rmtree(left)
    except OSError:
        return None
    return settings.state


def _as(owner: pwd.struct_passwd, work: Callable[[], Any]) -> Any:
    """What work() gives, done by that user: what it makes in the state folder must be the user's, and root runs no
    driver. No thread of ours runs yet."""
    taken, given = os.pipe()
    pid = os.fork()
    if pid == 0:
        told: Dict[str, Any] = {"bug": "it said nothing"}
        try:
            os.close(taken)
            os.initgroups(owner.pw_name, owner.pw_gid)
            os.setgid(owner.pw_gid)
            os.setuid(owner.pw_uid)
            os.environ["HOME"] = owner.pw_dir
            told = {"done": work()}
        except StowageError as error:
            told = {"error": [error.message, error.hint]}
        except BaseException as error:  # told by the parent
            told = {"bug": f"{type(error).__name__}: {error}"}
        finally:
            with os.fdopen(given, "wb") as pipe:
                pipe.write(json.dumps(told).encode())
            os._exit(0)
    os.close(given)
    with os.fdopen(taken, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    told = json.loads(said or b'{"bug": "it was killed"}')
    if "error" in told:
        raise TargetRefused(*told["error"])
    if "bug" in told:
        raise TargetRefused(f"the test did not come to its end: {told['bug']}", "stowage drivers")
    return told["done"]


def _write(folder: Path, path: Path, text: str, keys: Path, secret: Optional[str], settings: Settings) -> None:
    """The files, secrets first, each at once or not at all. Root's files have the group of stowage.yml."""
    owner = _owner(settings)
    try:
        main = os.stat(settings.file)
        if not folder.is_dir():
            os.mkdir(folder, 0o750)
            if os.geteuid() == 0:
                os.chown(folder, main.st_uid, main.st_gid)
        if secret is not None:
            files.replace(keys, secret.encode())
            if owner:
                os.chown(keys, owner.pw_uid, owner.pw_gid)
        files.replace(path, text.encode(), 0o640)
        if os.geteuid() == 0:
            os.chown(path, main.st_uid, main.st_gid)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}", "run it as root") from None
