"""`stowage target`: what is known of the places of copies, prove one, add one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from .. import text
from ..errors import ConfigError, RequestError
from . import _output, _progress, _prompt

LIMIT = 1 << 20
SMALLEST, LARGEST = 1 << 20, 4 << 30
# which options belong to which action, so that none is silently ignored
_TEST = ("size",)
_CREATE = ("lock", "versions", "encryption", "abort_days", "old_days")
_ADD = ("type", "option", "file", "secrets", "ask", "create", *_CREATE, "no_test", "replace", "dry_run")


def add(parser: argparse.ArgumentParser) -> None:
    """What to do, with which target."""
    parser.add_argument("action", choices=("list", "test", "add"), help="what to do")
    parser.add_argument("name", metavar="NAME", nargs="?", help="of the target; list needs none")
    parser.add_argument("--size", metavar="SIZE", help="test: send and read so much (default: 32 MiB)")
    parser.add_argument("--type", metavar="TYPE", help="add: its kind, as `stowage drivers` lists them")
    parser.add_argument("--option", metavar="K=V", action="append", default=[],
                        help="add: an option of its kind; may be repeated; never a secret")  # fmt: skip
    parser.add_argument("--from", metavar="FILE", dest="file",
                        help="add: type, options and secrets, as YAML; - is standard input")  # fmt: skip
    parser.add_argument("--secrets", metavar="FILE", help="add: its secrets, as YAML (access_key: ...); - is standard "
                        "input")  # fmt: skip
    parser.add_argument("--ask", action="store_true", help="add: ask for its secrets on the terminal")
    parser.add_argument("--create", action="store_true", help="add: make the place, or what it lacks; closed to the "
                        "public")  # fmt: skip
    parser.add_argument("--lock", action="store_true", help="with --create: objects can be locked there")
    parser.add_argument("--versions", action="store_true", help="with --create: what is overwritten stays as a version")
    parser.add_argument("--encryption", metavar="KEY", help="with --create: the place encrypts by itself: AES256, "
                        "aws:kms, or the id of a key")  # fmt: skip
    parser.add_argument("--abort-days", metavar="N", type=int, help="with --create: unfinished uploads go after N days "
                        "(default: 7; 0: never)")  # fmt: skip
    parser.add_argument("--old-days", metavar="N", type=int, help="with --create: older versions go after N days")
    parser.add_argument("--no-test", action="store_true", help="add: write it down untested")
    parser.add_argument("--replace", action="store_true", help="add: over one that this command added before")
    parser.add_argument("--dry-run", action="store_true", help="add: only say what would be made and written")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """One of the three."""
    allowed = {"list": (), "test": _TEST, "add": _ADD}[args.action]
    for option in (*_TEST, *_ADD):
        given = getattr(args, option)
        if given not in (None, False, []) and option not in allowed:
            shown = {"file": "from"}.get(option, option.replace("_", "-"))
            raise RequestError(f"target {args.action} takes no --{shown}", "stowage target --help")
    if args.action == "list":
        return _list(open_engine())
    if not args.name:
        raise RequestError(f"target {args.action} needs the NAME of a target", "stowage target list")
    return _test(args, open_engine()) if args.action == "test" else _add(args, Path(args.config))


# list


def _list(engine: Any) -> _output.Answer:
    from ..app import targeting

    found = targeting.overview(engine)
    rows = [
        [one["name"], one["type"], text.escape(one["place"]), _when(one), one["free"] or "", one["copies"],
         text.size(one["bytes"]), one["open"] or "", (one["verified"] or "")[:10], _yes(one["lock"]),
         _yes(one["versions"])]
        for one in found
    ]  # fmt: skip
    head = ("target", "type", "place", "tested", "free", "copies", "bytes", "open", "verified", "lock", "versions")
    lines = _output.table(head, rows) or ["no target is configured: all images stay on the holding disk"]
    untested = [f"stowage target test {one['name']}" for one in found if one["state"] != "ok"]
    return _output.Answer({"targets": found}, lines, untested[:2] or ["stowage target add NAME --type s3"
                          if not found else "stowage list copies"])  # fmt: skip


def _when(one: Dict[str, Any]) -> str:
    return one["state"] + (f" {one['tested'][:10]}" if one["tested"] else "")


def _yes(value: Optional[bool]) -> str:
    return "" if value is None else "yes" if value else "no"


# test


def _test(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import targeting

    size = targeting.SIZE
    if args.size is not None:
        try:
            size = text.parse_size(args.size)
        except ValueError as error:
            raise RequestError(f"--size: {error}") from None
        if not SMALLEST <= size <= LARGEST:
            raise RequestError("--size is 1 MiB to 4 GiB", f"stowage target test {args.name}")
    engine.target_name(args.name)
    with _progress.progress(args.json) as progress:
        found = targeting.test(engine, args.name, size, progress)
    lines = _findings(found["findings"])
    status = found["status"].upper()
    lines.append(_verdict(found))
    after = ["stowage stage", "stowage target list"] if status != "FAIL" else [f"stowage target test {args.name}"]
    return _output.Answer(_bare(found), lines, after, status, warnings=sum(one["warning"] for one in found["findings"]))


def _bare(found: Dict[str, Any]) -> Dict[str, Any]:
    """Without what every answer has in a form of its own."""
    return {key: value for key, value in found.items() if key != "status"}


def _findings(found: List[Dict[str, Any]]) -> List[str]:
    rank = {"FAIL": 0, "WARN": 1, "OK": 2}
    rows = [("WARN" if one["warning"] else "OK" if one["ok"] else "FAIL", one) for one in found]
    return [
        f"{word:4s} {one['name']}: {text.escape(one['message'])}"
        + (f" -> {text.escape(one['hint'])}" if one["hint"] and word != "OK" else "")
        for word, one in sorted(rows, key=lambda row: rank[row[0]])
    ]


def _verdict(found: Dict[str, Any]) -> str:
    good = sum(one["ok"] and not one["warning"] for one in found["findings"])
    word = found["status"].upper()
    says = {"OK": "does what a night needs", "WARN": "can be used", "FAIL": "cannot be used as it is"}[word]
    return f"{word:4s} target {found['name']} {says}: {good} of {len(found['findings'])} checks passed"


# add


def _add(args: argparse.Namespace, file: Path) -> _output.Answer:
    from ..app import adding, drivers
    from ..hookspecs import Making

    if not args.create and any(getattr(args, key) not in (None, False) for key in _CREATE):
        raise RequestError("this goes with --create", "stowage target --help")
    for key in ("abort_days", "old_days"):
        if getattr(args, key) is not None and not 0 <= getattr(args, key) <= 36500:
            raise RequestError(f"--{key.replace('_', '-')} is a number of days")
    making = None
    if args.create:
        days = 7 if args.abort_days is None else args.abort_days
        making = Making(args.dry_run, args.lock, args.versions, True, args.encryption or "", days, args.old_days or 0)
    given = _given(args, drivers.load())
    asked = adding.Adding(args.name, given, making, not args.no_test, args.replace, args.dry_run)
    # root's test runs in another process, which must find no thread of bars when it is forked
    with _progress.progress(args.json or os.geteuid() == 0) as progress:
        done = adding.add(file, asked, progress)
    tested = done["tested"]
    lines = _findings(done["steps"]) + (_findings(tested["findings"]) if tested else [])
    warned = sum(one["warning"] for one in [*done["steps"], *(tested["findings"] if tested else [])])
    if "unaudited" in done:
        lines.append(f"WARN {text.escape(done['unaudited'])}")
        warned += 1
    if done["failed"]:
        lines.append(f"FAIL target {args.name} was not added: see above; {done['file']} is as it was")
        return _output.Answer(done, lines, [f"stowage target add {args.name}"], "FAIL")
    status = "WARN" if warned else "OK"
    state = "is there, as before"
    if done["changed"]:
        state = "would be added" if args.dry_run else "was added" if done["written"] else "was changed at its place"
    speed = "".join(f", {text.size(round(tested[way]))}/s {way}" for way in ("up", "down")) if tested else ""
    lines.append(f"{status:4s} target {args.name} {state}: {done['file']}{speed}")
    return _output.Answer(done, lines, ["stowage check", "stowage stage"], status, warnings=warned)


def _given(args: argparse.Namespace, known: Any) -> Dict[str, Any]:
    """Type, options and secrets, from wherever they were given."""
    if [args.file, args.secrets].count("-") > 1:
        raise RequestError("standard input can be read once only", "put options and secrets into one file for --from")
    found = _yaml(args.file, "--from") if args.file else {}
    if args.type:
        found["type"] = args.type
    driver = known.of("target").get(str(found.get("type")))
    names = tuple(getattr(driver, "secrets", ()))
    for word in args.option:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise RequestError(f"--option {key}: write K=V", "stowage target add cloud --option bucket=acme-backup")
        if key in names:
            hint = "--secrets FILE, or --ask: the command line is seen by all users of this machine"
            raise RequestError(f"--option {key}: this is a secret", hint)
        found[key] = _value(value)
    secrets = _yaml(args.secrets, "--secrets") if args.secrets else {}
    for name in names if args.ask else ():
        typed = _prompt.ask(f"{name} of target {args.name} (Enter: none): ")
        if typed is None:
            raise RequestError("nobody answered", "--secrets FILE")
        if typed:
            secrets[name] = typed.decode("utf-8", "surrogateescape")
    for key in secrets:
        if key not in names:
            raise RequestError(f"--secrets: {text.escape(str(key))} is no secret of a target of type {args.type}",
                               "secrets are: " + (", ".join(names) or "none"))  # fmt: skip
    given = {**found, **secrets}
    for name in names:
        if given.get(name) is not None and not isinstance(given[name], str):  # 0123 would be 83, and no one the wiser
            raise ConfigError(f"the {name} of target {args.name} is no text", "put it into quotes")
    return given


def _value(word: str) -> Any:
    """As it would be read in stowage.yml."""
    import yaml

    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _yaml(name: str, option: str) -> Dict[str, Any]:
    """A mapping from a file or standard input; what stands in it is in no message, it may be a secret."""
    import yaml

    try:
        if name == "-":
            content = sys.stdin.buffer.read(LIMIT)
        else:
            with open(name, "rb") as file:
                content = file.read(LIMIT)
        found = yaml.safe_load(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{option}: {name} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{option}: {name} is no YAML") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{option}: {name} is no mapping of names to values")
    return found
