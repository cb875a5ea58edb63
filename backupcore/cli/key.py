"""`stowage key`: make, list, prove, revoke and renew the keys that dumps are sealed for; the key kit."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .. import files, text
from ..errors import ConfigError, RequestError
from . import _keys, _noted, _output

WHAT = ("generate", "list", "add", "prove", "revoke", "rewrap", "kit")
PAIRS = ("operations", "escrow")
MOST_FAILED = 20
# which options and how many words each takes, so that none is silently ignored
_OPTIONS = {
    "generate": ("passphrase_file", "no_passphrase", "only", "type"),
    "list": (),
    "add": (),
    "prove": ("key", "passphrase_file"),
    "revoke": (),
    "rewrap": ("key", "passphrase_file", "target", "client"),
    "kit": ("only", "out", "unprotected"),
}
_WORDS = {"add": ("NAME", "FILE"), "prove": ("NAME",), "revoke": ("NAME",)}
_WHERE = {
    "open": "here, without passphrase", "protected": "here, with passphrase", "passphrase": "in each dump",
    "away": "not here",
}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which key."""
    parser.add_argument("what", choices=WHAT, help="what to do")
    parser.add_argument("words", nargs="*", metavar="NAME", help="add: NAME FILE (a public key); prove, revoke: NAME")
    parser.add_argument("--only", metavar="NAME", action="append", default=[],
                        help="generate: this key instead of operations and escrow; kit: only this private key; "
                             "may be repeated")  # fmt: skip
    parser.add_argument("--type", choices=("rsa", "passphrase"), default=None,
                        help="generate: rsa (default), or passphrase: no key file, only something to know")  # fmt: skip
    parser.add_argument("--no-passphrase", action="store_true",
                        help="generate: private keys that open to whoever reads the file, for restores and drills "
                             "without anybody there")  # fmt: skip
    _keys.add_options(parser)
    parser.add_argument("--target", metavar="T", action="append", default=[],
                        help="rewrap: only at this target, or holding; may be repeated")  # fmt: skip
    parser.add_argument("--client", metavar="C", action="append", default=[],
                        help="rewrap: only dumps of this client; may be repeated")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="kit: into this new file, 0600 (default: standard output)")
    parser.add_argument("--unprotected", action="store_true", help="kit: also a private key without passphrase")


def audited(args: argparse.Namespace) -> Optional[Tuple[str, Dict[str, Any]]]:
    """What the audit log keeps of it: names and files, never what is in them."""
    if args.what == "list":
        return None
    names = ("words", "only", "type", "no_passphrase", "key", "target", "client", "out", "unprotected")
    return f"key {args.what}", _noted.given(args, *names)


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """One of the things that can be done with keys."""
    for option in ("key", "passphrase_file", "no_passphrase", "only", "type", "target", "client", "out", "unprotected"):
        if getattr(args, option) and option not in _OPTIONS[args.what]:
            raise RequestError(f"key {args.what} takes no --{option.replace('_', '-')}", "stowage key --help")
    wanted = _WORDS.get(args.what, ())
    if len(args.words) != len(wanted):
        raise RequestError(f"the command is: stowage key {' '.join((args.what, *wanted))}", "stowage key --help")
    engine = open_engine()
    return {
        "generate": _generate, "list": _list, "add": _add, "prove": _prove, "revoke": _revoke, "rewrap": _rewrap,
        "kit": _kit,
    }[args.what](args, engine)  # fmt: skip


def _generate(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import keys as wiring
    from ..keys import store

    kind = args.type or "rsa"
    if args.no_passphrase and (args.passphrase_file or kind == "passphrase"):
        raise RequestError("--no-passphrase contradicts the other options", "stowage key --help")
    ask = None if args.no_passphrase else _keys.asker(args)
    folder = engine.settings.keys
    made: List[Dict[str, Any]] = []
    kept: List[str] = []
    with store.changing(folder):
        fingerprint, new_signer = wiring.signing_key(engine.settings)
        there = {one.name: one for one in store.recipients(folder)}
        for name in dict.fromkeys(args.only or PAIRS):
            if name in there:
                kept.append(name)
                continue
            if ask is None and not args.no_passphrase:
                raise RequestError(
                    "nobody can be asked for a passphrase: this is no terminal",
                    "--passphrase-file FILE, or --no-passphrase",
                )
            made.append(_plain(engine, store.generate(folder, name, kind, ask)))
    lines = [f"signing key {fingerprint} was made"] if new_signer else []
    for one in made:
        lines.append(f"key {one['name']} ({one['type']}) {one['fingerprint']} was made and proven")
    for name in kept:
        lines.append(f"key {name} is there already{'' if there[name].active else ', but not active'}: left as it is")
    if made:
        lines.append("print the key kit, keep it away from this server; then move the private key of escrow off it"
                     if any(one["name"] == "escrow" and one["type"] == "rsa" for one in made)
                     else "print the key kit anew, and keep it away from this server")  # fmt: skip
    lines += _clients_must_know(engine) if made else []
    data = {"made": made, "kept": kept, "signing": fingerprint, "signing_made": new_signer,
            "changed": bool(made or new_signer)}  # fmt: skip
    after = ["stowage key kit --out key-kit.txt", "stowage key rewrap"] if made else ["stowage key list"]
    idle = [name for name in kept if not there[name].active]
    noted = {"made": [_named(one) for one in made], "signing": fingerprint, "signing_made": new_signer}
    return _output.Answer(data, lines, after, status="WARN" if idle else "OK", warnings=len(idle), audit=noted)


def _list(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import keys as wiring

    found = wiring.overview(engine.settings)
    rows = [
        [one["name"], one["type"], one["fingerprint"][:16], _state(one), (one["proven"] or "")[:10],
         _WHERE[one["private"]]]
        for one in found["keys"]
    ]  # fmt: skip
    lines = _output.table(("key", "type", "fingerprint", "state", "proven", "private key"), rows)
    if found["signing"]:
        lines.append(f"signing key {found['signing']['fingerprint']}")
    waiting = [one["name"] for one in found["keys"] if one["state"] == "active" and not one["proven"]]
    after = [f"stowage key prove {name} --key FILE" for name in waiting]
    missing = _seals_for_nobody(engine, any(one["active"] for one in found["keys"]))
    if missing:
        lines.append("WARN " + missing)
    if not found["keys"]:
        lines.insert(0, "there are no keys: nothing can be sealed")
        after = ["stowage key generate"]
    return _output.Answer(found, lines, after or ["stowage key kit"], status="WARN" if missing else "OK",
                          warnings=bool(missing))  # fmt: skip


def _add(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..keys import store

    name, file = args.words
    pem = _keys.read_named([file])
    with store.changing(engine.settings.keys):
        record = store.add(engine.settings.keys, name, pem)
    line = f"key {name} {record.fingerprint} is known; nothing is sealed for it until its private half was shown"
    return _output.Answer(
        {"key": _plain(engine, record), "changed": True}, [line], [f"stowage key prove {name} --key FILE"],
        audit={"key": _named(_plain(engine, record))},
    )  # fmt: skip


def _prove(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..keys import store

    (name,) = args.words
    with store.changing(engine.settings.keys):
        before = store.find(engine.settings.keys, name)
        ask = _keys.asker(args)
        data = _keys.read_named(args.key) if args.key else None
        record = store.prove(engine.settings.keys, name, data, ask)
    lines = [f"key {name} opens what is sealed for it: it is active"]
    lines += _clients_must_know(engine) if before != record else []
    return _output.Answer({"key": _plain(engine, record), "changed": before != record}, lines,
                          ["stowage key kit", "stowage key rewrap"],
                          audit={"key": _named(_plain(engine, record)), "changed": before != record})  # fmt: skip


def _revoke(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..keys import store

    (name,) = args.words
    with store.changing(engine.settings.keys):
        before = store.find(engine.settings.keys, name)
        record = store.revoke(engine.settings.keys, name)
        left = store.active(engine.settings.keys)
    lines = [f"key {name} is revoked: no new dump is sealed for it; those that are there it still opens"]
    lines += _clients_must_know(engine) if before != record else []
    missing = _seals_for_nobody(engine, bool(left))
    if missing:
        lines.append("WARN " + missing)
    return _output.Answer(
        {"key": _plain(engine, record), "changed": before != record}, lines,
        ["stowage key rewrap" if left else "stowage key generate --only NAME"],
        status="WARN" if missing else "OK", warnings=bool(missing),
        audit={"key": _named(_plain(engine, record)), "changed": before != record},
    )  # fmt: skip


def _rewrap(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import keys as wiring

    ring = _keys.ring(args, engine.settings)
    with _counting(args.json) as progress:
        done = wiring.rewrap(engine, ring, args.target, args.client, progress)
    failed = [{"dump": dump, "place": place, **error.as_dict()} for dump, place, error in done.failed]
    lines = [f"FAIL {dump} at {place}: {text.escape(error.message)}"
             + (f" -> {text.escape(error.hint)}" if error.hint else "")
             for dump, place, error in done.failed[:MOST_FAILED]]  # fmt: skip
    if len(failed) > MOST_FAILED:
        lines.append(f"FAIL and {len(failed) - MOST_FAILED} more; --json names all")
    lines += [f"FAIL {text.escape(one)}" for one in done.unlocked]
    if done.later:
        lines.append(f"WARN {len(done.later)} dumps are being copied now: do it again when they are")
    status = "FAIL" if failed or done.unlocked else "WARN" if done.later else "OK"
    lines.append(f"{status:4s} keys of {len({dump for dump, _place, _name in done.added})} dumps were wrapped for "
                 f"{', '.join(done.recipients)} at {len(done.added)} places; {done.covered} dumps needed nothing, "
                 f"{done.unsealed} are not sealed, {len(failed)} failed")  # fmt: skip
    return _output.Answer(
        {
            "recipients": list(done.recipients), "covered": done.covered, "unsealed": done.unsealed, "failed": failed,
            "added": [{"dump": dump, "place": place, "file": name} for dump, place, name in done.added],
            "later": done.later, "unlocked": list(done.unlocked), "changed": bool(done.added),
        },
        lines, ["stowage key rewrap"] if failed or done.later else ["stowage key list"], status=status,
        warnings=len(done.later),
        audit={"recipients": list(done.recipients), "wrapped": len(done.added), "failed": len(failed)},
    )  # fmt: skip


def _kit(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import keys as wiring

    kit = wiring.make_kit(engine, args.only, args.unprotected)
    if not args.out:
        return _output.Answer({"kit": kit, "changed": False}, [kit.rstrip("\n")])
    path = Path(args.out).absolute()
    try:
        files.write_synced(path, kit.encode("utf-8"))
        files.sync_folder(path.parent)
    except FileExistsError:
        raise RequestError(f"{path} is there already", "give a new name, or remove it") from None
    except OSError as error:
        hint = f"umask 077; stowage key kit > {args.out}" if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{path}: {error.strerror}", hint) from None
    lines = [f"the key kit is in {path}, readable by its owner alone: print it, keep it away from server and bucket"]
    return _output.Answer({"out": str(path), "changed": True}, lines, [f"lp -o cpi=12 -o lpi=8 {path}"])


# -- inside


def _plain(engine: Any, record: Any) -> Dict[str, Any]:
    from ..app import keys as wiring

    return next(one for one in wiring.overview(engine.settings)["keys"] if one["name"] == record.name)


def _named(one: Dict[str, Any]) -> str:
    return f"{one['name']} {one['fingerprint']}"


def _state(one: Dict[str, Any]) -> str:
    return "revoked" if one["state"] == "revoked" else "active" if one["proven"] else "unproven"


def _seals_for_nobody(engine: Any, any_active: bool) -> str:
    from ..app import keys as wiring

    policies = wiring.encrypting(engine.settings)
    if any_active or not policies:
        return ""
    return f"no key is active, and policy {', '.join(policies)} seals: the next run will refuse it"


def _clients_must_know(engine: Any) -> List[str]:
    """What has to be done where clients seal: they do it for the keys that their own file names, and for no others."""
    if not any(one.encrypt == "client" for one in engine.settings.policies.values()):
        return []
    return ["where clients seal, they refuse until their agent.json names the same keys: "
            "ansible-playbook -i inventory.yml stowage.backup.site"]  # fmt: skip


@contextlib.contextmanager
def _counting(as_json: bool) -> Iterator[Any]:
    """Progress of a renewal: a line that is rewritten on a terminal, now and then a line elsewhere."""
    if as_json:
        yield None
        return
    terminal = sys.stderr.isatty()
    step = 1 if terminal else 500

    def tell(event: Dict[str, Any]) -> None:
        if event["done"] % step and event["done"] != event["total"]:
            return
        told = f"{event['done']} of {event['total']} dumps"
        if terminal:
            os.write(sys.stderr.fileno(), f"\r{told}\x1b[K".encode())
        else:
            _output.say(told)

    try:
        yield tell
    finally:
        if terminal:
            os.write(sys.stderr.fileno(), b"\r\x1b[K")
