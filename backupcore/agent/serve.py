"""The agent: one conversation on standard input and output, then the end.

Here live the command line, hello, what is refused, and the order of things around a dump; the dump itself lives in
dump, a restore in extract. Whatever goes wrong becomes one ERROR message; nothing else is ever written to standard
output. Imports that only one request needs stand inside functions: starting takes most of a small dump's time.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any, BinaryIO, Dict, List, Mapping, Optional, Tuple

from .. import __version__
from ..errors import AgentRefused, RequestError, SourceFailed, StowageError, WireError
from ..text import escape
from ..wire import DONE, ERROR, HELLO, NOTE, PROTOCOL, REQUEST, START
from .config import AgentConfig, Source, read_config
from .line import AgentChannel, LineLost, catch_end, ignore_end

USAGE = "usage: agent.pyz --config FILE serve | --config FILE hello | extract --to FOLDER"
MIN_PART, MAX_PART = 1 << 20, 1 << 50


def main(halves: Mapping[str, str], argv: List[str]) -> int:
    """Runs one command line. halves: type of source -> dotted name of its client half. Returns the exit status."""
    options: Dict[str, str] = {}
    words: List[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("--config", "--to") and rest:
            options[word] = rest.pop(0)
        else:
            words.append(word)
    if words == ["extract"] and set(options) == {"--to"}:
        return _converse(None, halves, options["--to"])
    if words == ["serve"] and set(options) == {"--config"}:
        return _converse(options["--config"], halves, None)
    if words == ["hello"] and set(options) == {"--config"}:
        return _say_hello(options["--config"], halves)
    sys.stderr.write(USAGE + "\n")
    return 2


def _say_hello(path: str, halves: Mapping[str, str]) -> int:
    import json

    try:
        config = read_config(path)
        for source in config.sources.values():
            _plan(source, halves)
        sys.stdout.write(json.dumps(hello(config), indent=1, sort_keys=True) + "\n")
    except StowageError as error:
        sys.stderr.write("%s\n%s\n" % (error.message, error.hint))
        return 1
    return 0


def hello(config: Optional[AgentConfig]) -> Dict[str, Any]:
    """The agent's HELLO."""
    from ..image import codec

    found: Dict[str, Any] = {
        "protocol": PROTOCOL, "version": __version__, "python": "%d.%d.%d" % sys.version_info[:3],
        "zstd": codec.available().get("zstd"), "gzip": True, "root": os.geteuid() == 0, "client": None, "schema": 1,
        "sources": {}, "drill": True, "estimate": config is not None,
        "segments": config is not None, "interim": config is not None, "resume": config is not None,
    }  # fmt: skip
    if config is not None:
        found["client"] = config.client
        found["sources"] = {name: {"type": one.type, **one.options} for name, one in config.sources.items()}
        found["seals"] = {name: sorted(one.recipients) for name, one in config.sources.items() if one.recipients}
        if found["seals"]:
            from importlib.util import find_spec

            found["cryptography"] = find_spec("cryptography") is not None
    return found


def _take_streams() -> Tuple[BinaryIO, BinaryIO]:
    """Standard input and output as the wire; from here on neither can be met by a script or a stray write."""
    import fcntl

    pipe_size = getattr(fcntl, "F_SETPIPE_SZ", 1031)
    taken = []
    for number in (0, 1):
        fd = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            fcntl.fcntl(fd, pipe_size, 1 << 20)
        except OSError:
            pass  # no pipe, or more than this user may have
        taken.append(fd)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    if null > 2:
        os.close(null)
    return os.fdopen(taken[0], "rb", 1 << 16), os.fdopen(taken[1], "wb", 1 << 16)


def _converse(path: Optional[str], halves: Mapping[str, str], to: Optional[str]) -> int:
    """One conversation; path: of agent.json, None for `extract --to`."""
    from . import linux

    linux.own_group()
    os.umask(0o077)
    reader, writer = _take_streams()
    channel = AgentChannel(reader, writer)
    status = 1
    try:
        with catch_end():
            status = _answer(channel, path, halves, to)
    except LineLost as lost:
        # somebody ended us: the server is to tell that from what failed, and will go on later
        status = 128 + lost.args[0] if lost.args and not channel.lost else 1
        channel.lost = True  # in either case it is not waited for
    except BaseException as error:
        status = _fail(channel, error)
    if not channel.lost:
        channel.stop_heartbeat()
    if channel.lost or status:
        sys.stderr.flush()
        os._exit(status)  # threads may hang in a write to a line that is gone
    return status


def _fail(channel: AgentChannel, error: BaseException) -> int:
    """Tells the server; what is no expected error is a fault of ours, and its traceback goes to standard error."""
    if isinstance(error, MemoryError):
        error = SourceFailed("the agent has no memory left")
    if not isinstance(error, StowageError):
        import traceback

        sys.stderr.write(traceback.format_exc())
        last = traceback.extract_tb(error.__traceback__)[-1]
        error = SourceFailed(
            "the agent failed: %s: %s (%s:%d)" % (type(error).__name__, error, os.path.basename(last[0]), last[1]),
            "this is a fault of Stowage; please report it with what stands in the client's log",
        )
    try:
        channel.send_json(ERROR, {"code": error.code, "message": error.message, "hint": error.hint})
    except LineLost:
        pass
    return 1


def _answer(channel: AgentChannel, path: Optional[str], halves: Mapping[str, str], to: Optional[str]) -> int:
    config = read_config(path) if path is not None else None
    if config is not None and not select.select([channel.reader], [], [], 0)[0]:
        _load()
    try:
        kind, payload = channel.receive()
    except WireError as error:
        if "was cut" in error.message:
            return 0  # nobody there: `ssh host` for a look
        raise
    if kind != HELLO:
        raise WireError("the first message is no HELLO")
    protocol = channel.json(payload).get("protocol")
    channel.send_json(HELLO, hello(config))
    if protocol != PROTOCOL:
        raise WireError("the server speaks protocol %s, this agent %d" % (escape(str(protocol)[:20]), PROTOCOL))
    request = _next_request(channel)
    while request is not None and request.get("request") == "estimate" and config is not None:
        from .estimate import estimate

        source = _declared(request, config)
        half, plan = _plan(source, halves)
        estimate(channel, request, half, source.options, _tree(plan))
        request = _next_request(channel)  # the conversation goes on: a dump may follow
    if request is None:
        return 0
    what = request.get("request")
    if what == "restore":
        from .extract import extract

        channel.start_heartbeat()
        extract(channel, request, config.values if config is not None else {"to": to})
    elif config is None:
        raise AgentRefused("this agent was started to unpack, not to %s" % escape(str(what)[:40]))
    elif what == "dump":
        _dump(channel, request, config, halves, path or "")
    elif what == "survey":
        from .survey import survey

        channel.start_heartbeat()
        paths = {name: _plan(one, halves)[1]["path"] for name, one in config.sources.items()}
        found = survey(paths)
        channel.stop_heartbeat()
        channel.send_json(DONE, found)
    else:
        raise WireError("the server asks for %r, which this agent cannot do" % escape(str(what)[:40]))
    return 0


def _next_request(channel: AgentChannel) -> Optional[Dict[str, Any]]:
    """The next REQUEST, None when there is none: only hello was wanted, or an estimate."""
    try:
        return channel.expect(REQUEST)[1]
    except WireError as error:
        if "was cut" in error.message:
            return None
        raise


def _load() -> None:
    """Loads what a dump needs: the server, which still loads what it needs, has not spoken yet."""
    import json  # noqa: F401

    from ..image import codec, pax  # noqa: F401
    from . import alone, attempt, patterns, tree  # noqa: F401

    codec.available()


def _plan(source: Source, halves: Mapping[str, str]) -> Tuple[Any, Dict[str, Any]]:
    """(client half, its plan). Raises AgentRefused, SourceFailed."""
    from importlib import import_module

    name = halves.get(source.type)
    if name is None:
        raise AgentRefused(
            "this agent has no source of type %s" % escape(source.type[:40]), "build it into agent.pyz, then run site"
        )
    half = import_module(name)
    try:
        return half, half.plan(source.options)
    except ValueError as error:
        raise AgentRefused("source %s in agent.json: %s" % (source.name, error), "correct it, then run site") from None


def _declared(request: Dict[str, Any], config: AgentConfig) -> Source:
    """The source that a request names. Raises AgentRefused."""
    name = request.get("source")
    source = config.sources.get(name) if isinstance(name, str) else None
    if source is None:
        raise AgentRefused("agent.json declares no source %s" % escape(str(name)[:80]))
    return source


def _number(request: Dict[str, Any], name: str, least: int, most: int) -> int:
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RequestError("the server's request has no right %s" % name)
    return value


def _codec(request: Dict[str, Any]) -> Any:
    """The codec a dump is made with. Raises SourceFailed when this machine has none that the policy allows."""
    from ..image import codec

    word = request.get("compress")
    if not isinstance(word, str):
        raise RequestError("the server's request names no compression")
    if word.split(":")[0] == "zstd" and "zstd" not in codec.available():
        if request.get("gzip_fallback") is not True:
            raise SourceFailed(
                "there is no zstd library on this client, and the policy allows no gzip",
                "install libzstd1 or python3-zstandard on it, or set gzip_fallback in the policy",
            )
        word = "gzip"
    return codec.get(word)


def _dump(
    channel: AgentChannel, request: Dict[str, Any], config: AgentConfig, halves: Mapping[str, str], path: str
) -> None:  # fmt: skip
    import gc
    import time

    from . import alone
    from .attempt import Helpers, attempt

    gc.disable()  # nothing here makes cycles, and with a million names it takes its time

    source = _declared(request, config)
    level = _number(request, "level", 0, 9)
    sealed = _sealing(request, config, source, level)
    part_size = _number(request, "part_size", MIN_PART, MAX_PART)
    with_state = request.get("state") is True
    if with_state != (level > 0):
        raise RequestError("a full needs no state, and an incremental needs it")
    half, plan = _plan(source, halves)
    segment, newer = _share(request, level)
    codec = _codec(request)
    tree = _tree(plan)._replace(segment=segment, newer=newer)
    marks = request.get("marks") is True
    known, resume = _identity(request, half, source, codec) if marks else (None, None)
    lock = alone.take(path, config.client, source.name)
    keeper = _keeper(half, source, lock)  # before there are threads
    helpers = Helpers(channel, [keeper.fd] if keeper is not None else [])
    failed: Optional[BaseException] = None
    try:
        channel.send_json(
            START, {"codec": codec.name, "begun_ns": time.time_ns(), "source": {"type": source.type, **source.options},
                    **({"segment": request["segment"]} if segment is not None else {}),
                    **({"newer": request["newer"]} if newer is not None else {}),
                    **({"marks": True, "identity": known, "resume": resume is not None} if marks else {})}
        )  # fmt: skip
        channel.start_heartbeat()  # nothing may come before START
        try:
            half.before(source.options)
        except RuntimeError as error:
            raise SourceFailed(escape(str(error))) from None
        totals = attempt(channel, tree, codec, part_size, with_state, helpers, sealed, marks, resume)
    except BaseException as error:
        failed = error
        raise
    finally:
        ignore_end()  # from here on no signal cuts short what must run after
        channel.noticed.set()
        if keeper is not None and (channel.lost or isinstance(failed, LineLost)):
            keeper.lost()
        helpers.end()
        try:
            half.after(source.options)
        except RuntimeError as error:
            if not isinstance(failed, LineLost):  # what was dumped is good all the same
                channel.send_json(NOTE, {"level": "error", "path": "", "message": escape(str(error))})
        if keeper is not None and not channel.lost and not isinstance(failed, LineLost):  # else it ends what is left
            keeper.end()
    channel.stop_heartbeat()
    channel.send_rest_of_notes()
    if lock is not None:
        lock.close()
    channel.send_json(DONE, totals)


def _keeper(half: Any, source: Source, lock: Any) -> Any:
    """What sees to the scripts of a source if this process is killed, None when it has none."""
    if not source.options.get("before") and not source.options.get("after"):
        return None
    from .keeper import Keeper

    try:
        return Keeper(lambda: half.after(source.options), lock.fd if lock is not None else -1)
    except OSError:
        return None  # no more processes for this user


def _identity(request: Dict[str, Any], half: Any, source: Source, codec: Any) -> Tuple[Optional[str], Any]:
    """(what must be the same for the dump to go on after a cut, None when it is not to; where it goes on now, None when
    it begins). Raises RequestError."""
    from .resume import identity, of_request

    known, asked = identity(half, source, request, codec.name), of_request(request)
    return known, asked if asked is not None and known is not None and asked.identity == known else None


def _sealing(request: Dict[str, Any], config: AgentConfig, source: Source, level: int) -> Any:
    """What seals the dump, None when it is not to be. Raises AgentRefused, SourceFailed."""
    if request.get("encrypt", "none") == "none" == source.encrypt:
        return None
    from .sealing import sealing  # takes its time, and most dumps do without

    return sealing(request, config, source, level)


def _share(request: Dict[str, Any], level: int) -> Tuple[Any, Optional[int]]:
    """(the segment that is asked for, since when what is taken was changed), None for all. Raises RequestError."""
    if request.get("segment") is None and request.get("newer") is None:
        return None, None
    from .segment import newer_of, of_request

    segment = of_request(request)
    return segment, newer_of(request, level, segment)


def _tree(plan: Dict[str, Any]) -> Any:
    """The walk's plan. Raises AgentRefused."""
    from .patterns import Exclude, Include
    from .walk import Plan

    path = plan["path"].encode("utf-8", "surrogateescape")
    try:
        return Plan(path, Include(plan["include"]), Exclude(plan["exclude"]), plan["one_file_system"])
    except ValueError as error:
        raise AgentRefused("a pattern in agent.json: %s" % error, "correct it, then run site") from None
