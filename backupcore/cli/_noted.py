"""Runs a verb whose acts stand in the audit log: an entry before, one after, and a warning where there is none.

Here lives that order. A verb says by audited(args) what is to be noted: (its name in the log, what was asked), or None
for what changes nothing. The first entry is written when the verb opens the engine: a request that is wrong by itself
was no act, and a restore without a server has no log.
"""

from __future__ import annotations

import argparse
from typing import Any, Dict, List

from .. import text
from . import _output


def run(verb: Any, args: argparse.Namespace, opener: Any) -> _output.Answer:
    """What verb.run() answers."""
    asked = verb.audited(args) if hasattr(verb, "audited") else None
    if asked is None:
        return verb.run(args, opener)
    acts: List[Any] = []

    def begin(engine: Any) -> None:
        from ..app import auditing

        act = auditing.Act(engine.settings, *asked)
        acts.append(act)
        act.begin()
        if act.problem:
            _output.say(f"WARN {act.problem}")

    opener.opened = begin
    try:
        answer = verb.run(args, opener)
    except BaseException as error:
        for act in acts:
            act.failed(error)
        raise
    for act in acts:
        told = act.problem
        act.end(_output.word(answer.status), answer.audit)
        if act.problem:
            _warn(answer, act.problem, told)
    return answer


def _warn(answer: _output.Answer, problem: str, told: str) -> None:
    if problem != told:
        _output.say(f"WARN {problem}")
    answer.data["unaudited"] = problem
    if isinstance(answer.data.get("notes"), list):  # which playbooks show
        answer.data["notes"].append(text.escape(problem))
    answer.warnings += 1
    answer.status = "WARN" if answer.status == "OK" else answer.status


def given(args: argparse.Namespace, *names: str) -> Dict[str, Any]:
    """Those of the options that were given."""
    found = {name: getattr(args, name) for name in names}
    return {name: value for name, value in found.items() if value not in (None, False, "", [], ())}
