"""From the words of the command line to an answer: finds the verb, loads its file and nothing else.

A run with one small source must not pay for the parts it does not use. What comes out becomes text or JSON and
an exit status:

    0  every source is within its rpo; absences and retries are warnings
    1  something was not done: a source failed, is past its rpo, or was not restored
    2  the request or the configuration is wrong
    130, 143, 141  stopped by ^C, by a signal, or since nobody reads the output any more
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional

from .. import __version__
from ..errors import RequestError, StowageError
from . import _noted, _output, _prompt

VERBS = {
    "check": "everything a night needs, before the night; and what no source covers",
    "plan": "tonight's levels and why",
    "policy": "what holds for a source, where it is written, and what becomes of its next dumps",
    "simulate": "replay a scenario of many nights through the planner",
    "run": "dump what is due to the holding disk, then copy it to the targets",
    "status": "what runs now, else how the last run ended",
    "report": "the last night: the worst first",
    "watch": "what is wrong between two nights; tells who listens what begins, lasts and ends",
    "stage": "make the copies that the policies ask for",
    "prune": "remove what is past its keep; what stays, and why",
    "usage": "what targets take, are asked for and cost, by the month",
    "hold": "keep a dump, or all of a client, whatever keep says",
    "release": "take a hold away",
    "verify": "read copies and images again, make anew what is damaged",
    "restore": "bring back files, folders, sources or a whole client",
    "list": "runs, dumps, copies, or the files at a moment",
    "find": "where a file is, over all dumps",
    "drill": "restore something of every client from the farthest copy, and take it away again",
    "rebuild": "make the catalog again, from the images of one target",
    "key": "the keys that dumps are sealed for, and the key kit",
    "target": "the places of copies: what is known of them, prove one, add one",
    "audit": "who restored, pruned, changed keys; whether that log is as it was written",
    "support": "one archive for whoever helps: versions, configuration without secrets, last runs",
    "drivers": "the kinds of sources, targets and events at hand",
}
CONFIG = "/etc/stowage/stowage.yml"
OWN_JSON = ("simulate",)  # verbs whose --json may also take a file


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(message, f"{self.prog} --help")


class _Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def main(argv: Optional[List[str]] = None) -> int:
    """The command `stowage`. Returns the exit status; raises nothing but SystemExit of --help and --version."""
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in argv[: argv.index("--")] if "--" in argv else "--json" in argv
    opener = _Opener()
    hook = threading.excepthook
    before = _take_signals()
    try:
        _keep_libraries_quiet()
        _catch_threads(argv, opener)
        args = parser(_verb(argv)).parse_args(argv)
        as_json = args.json
        opener.file, opener.command = args.config, shlex.join(["stowage", *argv])
        verb = importlib.import_module(f"{__package__}.{args.command}")
        with opener:
            return _output.give(_noted.run(verb, args, opener), args.json, args.strict)
    except StowageError as error:
        if opener.place:
            from . import _place

            error.hint = _place.hint(error.hint, opener.place)
        return _quietly(_output.tell_error, error, as_json)
    except BrokenPipeError:
        return _nobody_reads()
    except KeyboardInterrupt:
        _output.say("stopped; what was whole stays, what was not is removed by the next run -> stowage status")
        return 130
    except _Stopped as stopped:
        _output.say("stopped by a signal; what was not whole is removed by the next run -> stowage status")
        return 128 + stopped.number
    except SystemExit:
        raise
    except BaseException as error:  # the last line of defence: a bug is told in one line, never as a traceback
        return _quietly(_output.tell_bug, error, argv, opener.bugs(), as_json)
    finally:
        threading.excepthook = hook
        for number, handler in before.items():  # whoever called us in its own process goes on with its own
            signal.signal(number, handler)


def parser(verb: Optional[str] = None) -> argparse.ArgumentParser:
    """The parser with the options of one verb (None: of all of them, for the test of the documentation)."""
    top = _Parser(
        prog="stowage", parents=[_common()], allow_abbrev=False, description="Fleet backup for Ansible.",
        epilog="Exit status: 0 every source within its rpo, 1 something was not done, 2 the request is wrong.",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"stowage {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, summary in VERBS.items():
        one = commands.add_parser(name, help=summary, description=summary, parents=[_common(name)], allow_abbrev=False)
        if verb in (None, name):
            importlib.import_module(f"{__package__}.{name}").add(one)
    config = os.environ.get("STOWAGE_CONFIG") or CONFIG
    top.set_defaults(config=config, json=False, strict=False)
    return top


def _common(verb: str = "") -> argparse.ArgumentParser:
    """The options that may stand before and after the verb: what was not said is left out, so neither overwrites."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--config", metavar="F", help=f"the configuration (default: {CONFIG})")
    if verb not in OWN_JSON:
        common.add_argument("--json", action="store_true", help="one JSON object on standard output")
    common.add_argument("--strict", action="store_true", help="exit status 1 for a warning too")
    return common


def _verb(argv: List[str]) -> str:
    """The first word that is no global option; '' when there is none."""
    words = iter(argv)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


class _Opener:
    """Opens the engine when a verb asks for it, once, and closes it at the end."""

    def __init__(self) -> None:
        self.file = CONFIG
        self.command = ""  # as it was typed: no secret ever stands in it
        self.engine: Any = None
        self.lasting = True
        self.place = ""  # options of a place without a server, as a next command needs them
        self.opened: Any = None  # called with the engine when it was opened
        self._written: Any = None

    @property
    def written(self) -> Any:
        """What stands in the files of the configuration, unchecked: app.config_files.Written."""
        if self._written is None:
            from ..app import config_files

            self._written = config_files.read(self.file)
        return self._written

    def __call__(self) -> Any:
        if self.engine is None:
            from ..app.engine import Engine

            self.engine = Engine(self.file, self.written)
            self.engine.command = self.command
            if self.opened is not None:
                self.opened(self.engine)
        return self.engine

    def take(self, engine: Any) -> Any:
        """An engine that a verb made otherwise, with a state that is thrown away; closed at the end."""
        self.engine, self.lasting = engine, False
        return engine

    def bugs(self) -> Optional[Path]:
        """Where tracebacks are kept."""
        return self.engine.settings.state / "bugs" if self.engine and self.lasting else None

    def __enter__(self) -> "_Opener":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.engine is not None:
            self.engine.close()


def _take_signals() -> Dict[int, Any]:
    """From here on signals end the program by an exception; what handled them before."""

    def stop(number: int, _frame: Any) -> NoReturn:
        _prompt.stop()
        raise KeyboardInterrupt if number == signal.SIGINT else _Stopped(number)

    before: Dict[int, Any] = {}
    _prompt.begin()
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else in the background, or a caller's
            before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, stop)
    except ValueError:
        pass  # not the main thread: a test or another program calls main()
    return before


def _keep_libraries_quiet() -> None:
    """Warnings and log lines of libraries are no answer to what was asked."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.lastResort = None
    logging.raiseExceptions = False


def _catch_threads(argv: List[str], opener: _Opener) -> None:
    """A bug in a thread is told as one in main(): Python would print its traceback."""

    def tell(args: Any) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            _output.tell_bug(args.exc_value, argv, opener.bugs(), False)

    threading.excepthook = tell


def _quietly(tell: Any, *args: Any) -> int:
    try:
        return tell(*args)
    except BrokenPipeError:
        return _nobody_reads()


def _nobody_reads() -> int:
    # Python flushes standard output once more at its end: let that go nowhere
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass
    return 141
