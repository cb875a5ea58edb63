"""`stowage verify`: read copies and holding images again, and make anew what is damaged."""

from __future__ import annotations

import argparse
from typing import Any, List

from .. import text
from ..report.night import count
from . import _keys, _output, _progress

SHOWN = 20  # strangers in the folders of dumps; --json has more


def add(parser: argparse.ArgumentParser) -> None:
    """What, how deep, with which keys."""
    for option, word, what in (
        ("--client", "C", "only dumps of this client"), ("--source", "S", "only of this source"),
        ("--dump", "D", "only this dump"), ("--target", "T", "only copies there; holding is the holding disk"),
    ):  # fmt: skip
        parser.add_argument(option, metavar=word, action="append", default=[], help=what + "; may be repeated")
    deep = parser.add_mutually_exclusive_group()
    deep.add_argument("--quick", action="store_true", help="sizes, signature, small files, the place's own checksums "
                      "(default)")  # fmt: skip
    deep.add_argument("--full", action="store_true", help="every byte: all digests, every frame, the archive against "
                      "its index")  # fmt: skip
    deep.add_argument("--sample", metavar="N%", help="so much of all bytes, those first that were read longest ago")
    parser.add_argument("--last-run", metavar="FILE", help="the signed record RUN.json of a run, kept elsewhere with "
                        "RUN.sig: a target or catalog that has fewer or other dumps is a rollback")  # fmt: skip
    _keys.add_options(parser)
    parser.add_argument("--repair", action=argparse.BooleanOptionalAction, default=True,
                        help="make damaged copies anew from good ones (default: yes)")  # fmt: skip


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Reads, marks, repairs."""
    from ..app import verifying

    kind = "full" if args.full else "sample" if args.sample else "quick"
    share = verifying.share_of(args.sample) if args.sample else 0.0
    engine = open_engine()
    asked = verifying.Asked(
        args.client, args.source, args.dump, args.target, kind, share, args.repair, args.last_run
    )  # fmt: skip
    ring = None if kind == "quick" else _keys.ring(args, engine.settings)
    with _progress.progress(args.json) as progress:
        answer = verifying.verify(engine, asked, ring, progress)
    made = {(one.dump, one.target): one for one in answer.repaired}
    lines: List[str] = [f"FAIL {text.escape(one.line)}" for one in answer.rollbacks]
    for one in answer.bad:
        anew = made.get((one.dump, one.place))
        then = "" if anew is None else "; made anew" if anew.ok else f"; not made anew: {text.escape(anew.message)}"
        lines.append(f"FAIL {one.client}:{one.source} {one.dump} on {one.place}: {_WORDS[one.status]}: "
                     f"{text.escape(one.message)}{then}" + (f" -> {one.hint}" if one.hint else ""))  # fmt: skip
    lines += [f"FAIL {text.escape(problem)}" for problem in answer.problems]
    lines += [f"WARN {text.escape(stray)}" for stray in answer.strays[:SHOWN]]
    if len(answer.strays) > SHOWN:
        lines.append(f"WARN and {len(answer.strays) - SHOWN} more that are no part of a dump (--json lists them)")
    notes = list(answer.notes) + sorted({note for one in answer.results for note in one.notes})
    lines += [f"note {text.escape(note)}" for note in notes[:10]]
    lines.append(verifying.headline_of(answer))
    if answer.days is not None:
        lines.append(f"at this pace, once a day, all of everything is read within {count(round(answer.days), 'day')}")
    after = {"quick": ["stowage verify --full"], "full": ["stowage list copies"], "sample": ["stowage list copies"]}
    return _output.Answer(
        data={
            "kind": kind, "results": [one.as_dict() for one in answer.results],
            "repaired": [one.as_dict() for one in answer.repaired], "bytes": answer.bytes,
            "problems": list(answer.problems), "notes": notes, "days": answer.days, "strays": answer.strays,
            "rollbacks": [one.as_dict() for one in answer.rollbacks],
        },
        lines=lines,
        next=after[kind] if not answer.bad else _next(answer),
        status=answer.status,
    )  # fmt: skip


_WORDS = {"damaged": "damaged", "wrong": "as it was signed, but wrong in itself", "error": "could not be read"}


def _next(answer: Any) -> List[str]:
    hints = [one.hint for one in answer.bad if one.hint.startswith("stowage ")]
    return list(dict.fromkeys([*hints, "stowage list copies"]))[:3]
