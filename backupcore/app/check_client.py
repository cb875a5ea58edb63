"""`check` of one client: its agent, its sources there, the list of both sides, and what no source covers.

Here live the questions to its agent and the findings; nothing here changes a client. The server's own are check.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Set, Tuple

from .. import __version__, text, wire
from ..errors import ClientUnreachable, StowageError, WireError
from ..settings import Client, Source
from . import coverage
from .engine import Engine
from .found import FAIL, OK, SITE, WARN, Finding

BEATS = 720  # of an agent, one in 5 s, before its survey is given up


@dataclass
@dataclass
class Answer:
    """What became of one client's questions. away: it is roaming, and did not answer."""

    client: str
    findings: List[Finding] = field(default_factory=list)
    bare: List[coverage.Bare] = field(default_factory=list)
    away: bool = False


def _surveyed(agent: Any) -> Dict[str, Any]:
    """What the agent says of itself; one that takes its time beats meanwhile. Raises WireError, StowageError."""
    for _beat in range(BEATS):
        kind, survey = agent.channel.expect(wire.DONE, wire.PROGRESS)
        if kind == wire.DONE:
            return survey
    raise WireError(f"{agent.channel.peer} sends no end of its survey")


def look(engine: Engine, client: Client) -> Answer:
    """Asks its agent; what goes wrong is a finding."""
    answer = Answer(client.name)

    def add(status: str, message: str, hint: str = "", code: str = "", source: str = "") -> None:
        answer.findings.append(Finding(status, "client", client.name, message, hint, code, source))

    if not client.sources:
        add(WARN, "no source is declared", f"add one in the inventory, then: {SITE}")
    try:
        with engine.connect(client) as agent:
            hello = agent.request({"request": "survey"})
            try:
                survey = _surveyed(agent)
            except (StowageError, OSError) as error:
                raise agent.failure(error) from None
    except ClientUnreachable as error:
        answer.away = client.presence == "roaming"
        add(WARN if answer.away else FAIL, error.message, error.hint, error.code)
        return answer
    except StowageError as error:
        add(FAIL, error.message, error.hint, error.code)
        return answer
    _versions(hello, add)
    _lists(engine, client, hello, add)
    _codecs(client, hello, add)
    _seals(engine, client, hello, add)
    told = survey.get("sources") if isinstance(survey.get("sources"), dict) else {}
    for name in client.sources:
        one = told.get(name)
        if not isinstance(one, dict):
            continue
        why = f": {one['message']}" if isinstance(one.get("message"), str) and one["message"] else ""
        path = client.sources[name].options.get("path", "")
        if not one.get("exists", True):
            add(FAIL, f"source {name}: {path} does not exist on {client.name}{why}",
                "correct the path in the inventory, or mount what is missing there", "source-gone", name)  # fmt: skip
        elif not one.get("readable", True):
            add(FAIL, f"source {name}: {path} cannot be read on {client.name}{why}", SITE, "source-failed", name)
    answer.bare = coverage.missing(client, survey)
    for one in answer.bare:
        size = f" ({text.size(one.bytes)})" if one.bytes else ""
        words = {"database": f"the database {one.name} at ", "home": "the home ", "mount": "the file system at "}
        what = words[one.kind]
        add(WARN, f"not covered: {what}{one.path}{size}", "add a source, or ignore it with a reason", "not-covered")
    if all(one.status != FAIL for one in answer.findings):
        add(OK, f"agent {hello.get('version')}, {len(client.sources)} sources")
    return answer


def _versions(hello: Mapping[str, Any], add: Callable[..., None]) -> None:
    theirs = str(hello.get("version", ""))
    if theirs != __version__:
        add(WARN, f"the agent is version {theirs[:40] or 'unknown'}, this server {__version__}", SITE, "agent-version")
    if hello.get("root") is not True:
        add(WARN, "the agent does not run as root: what only root can read is missing in the dumps", SITE, "no-root")


def _codecs(client: Client, hello: Mapping[str, Any], add: Callable[..., None]) -> None:
    if hello.get("zstd"):
        return
    need = [one for one in client.sources.values() if one.policy.compress.startswith("zstd")]
    hint = "install libzstd or python3-zstandard there"
    strict = [one.name for one in need if not one.policy.gzip_fallback]
    if strict:
        add(FAIL, f"no zstd library there, and the policy of {', '.join(strict)} forbids gzip", hint, "no-zstd")
    elif need:
        add(OK, "no zstd library there: its dumps use gzip")


def _lists(engine: Engine, client: Client, hello: Mapping[str, Any], add: Callable[..., None]) -> None:
    """The agent's list of sources against the server's: a difference names both files."""
    theirs = hello.get("sources") if isinstance(hello.get("sources"), dict) else {}
    here, there = _server_file(engine, client), f"{client.agent_config} on {client.name}"
    for name in sorted({*theirs, *client.sources}):
        if name not in theirs:
            add(FAIL, f"source {name} stands in {here}, but not in {there}", SITE, "source-list", name)
        elif name not in client.sources:
            told = f"source {text.escape(name)} stands in {there}, but not in {here}: it is not dumped"
            add(FAIL, told, SITE, "source-list", name)
        else:
            for option, ours, other in _differences(engine, client.sources[name], theirs[name]):
                told = f"source {name}: {option} is {ours} in {here}, but {other} in {there}"
                add(FAIL, told, SITE, "source-list", name)


def _active(engine: Engine) -> Set[str]:
    from ..keys import store

    try:
        return {one.fingerprint for one in store.active(engine.settings.keys)}
    except StowageError:
        return set()  # the server's own finding says it


def _seals(engine: Engine, client: Client, hello: Mapping[str, Any], add: Callable[..., None]) -> None:
    """For whom the agent's file says to seal, against the server's keys: the agent refuses any other."""
    theirs = hello.get("seals") if isinstance(hello.get("seals"), dict) else {}
    wanted = [one for one in client.sources.values() if one.policy.encrypt == "client"]
    if not wanted and not theirs:
        return
    active = _active(engine) if wanted else set()
    here, there = _server_file(engine, client), f"{client.agent_config} on {client.name}"
    for source in client.sources.values():
        given = theirs.get(source.name)
        named = {str(one) for one in given} if isinstance(given, list) else set()
        if source.policy.encrypt != "client" and given is not None:
            told = f"source {source.name}: {there} obliges it to seal, policy {source.policy.name} in {here} does not"
            add(FAIL, told, SITE, "source-list", source.name)
        elif source.policy.encrypt == "client" and active and named != active:
            ours, other = (", ".join(sorted(one[:16] for one in some)) or "nobody" for some in (active, named))
            told = f"source {source.name}: it is to be sealed for {ours}, but {there} says {other}"
            add(FAIL, told, SITE, "source-list", source.name)
    if wanted and hello.get("cryptography") is not True:
        told = f"{', '.join(one.name for one in wanted)} must be sealed there, and python3-cryptography is missing"
        add(FAIL, told, f"{SITE}, or install python3-cryptography there", "source-failed")


def _server_file(engine: Engine, client: Client) -> str:
    return engine.configuration.place("clients", client.name).rsplit(":", 1)[0]


def _differences(engine: Engine, source: Source, theirs: Any) -> Iterator[Tuple[str, str, str]]:
    if not isinstance(theirs, dict):
        yield "it", "declared", "unreadable"
        return
    if theirs.get("type") != source.type:
        yield "type", source.type, _short(theirs.get("type"))
        return
    options = theirs.get("options")
    if not isinstance(options, dict):
        options = {name: value for name, value in theirs.items() if name in source.options}
    try:  # what agent.json leaves out has the driver's default
        options = engine.drivers.of("source")[source.type].options.model_validate(options).model_dump()
    except ValueError:
        pass
    for name, value in source.options.items():
        if options.get(name) != value:
            yield name, _short(value), _short(options.get(name))


def _short(value: Any) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 200 else shown[:197] + "..."
