"""The way to a client's agent: the ssh program, or a process on this machine.

Here live starting and ending that process, and what ssh's and sudo's own words mean. Its streams with their
timeouts are streams.py; what is said over them is wire and the callers' affair. Everything the other side sends,
its words on stderr too, is hostile: bounded, and escaped before anyone sees it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Type

from .. import __version__, wire
from ..errors import (
    AccessDenied,
    AgentMissing,
    AgentRefused,
    ClientUnreachable,
    HostKeyChanged,
    LineLost,
    StowageError,
    TookTooLong,
    WireError,
)
from ..settings import Client, Settings
from ..text import duration, escape
from .streams import Reader, Writer

PIPE_SIZE = 1 << 20
STDERR_KEPT = 8192
SITE = "ansible-playbook stowage.backup.site"
# A local agent that is cut off notices within its 10 s of PROGRESS, and then runs the script after the dump.
LOCAL_GRACE = 15.0
SSH_GRACE = 2.0
HERE = Path(__file__).resolve().parents[1] / "agent" / "here.py"


def connect(settings: Settings, client: Client) -> AgentConnection:
    """Starts the client's agent. Use as a context manager: it ends the process on every way out."""
    serve = [client.agent_python, "-I", client.agent, "--config", client.agent_config, "serve"]
    if client.transport == "local":
        return _local(settings, client.name, _with_sudo(serve))
    return AgentConnection(
        _ssh_command(settings, client, serve),
        client.name,
        hello_timeout=settings.connect_timeout * 2,
        silence_timeout=settings.silence_timeout,
        dump_timeout=settings.dump_timeout,
        ssh=client.address or client.name,
        known_hosts=settings.known_hosts / client.name,
    )


def connect_extract(settings: Settings, to_dir: Path | str, agent: Path | str = HERE) -> AgentConnection:
    """Starts the agent of this package here, by the caller's own right, to unpack into to_dir. agent: another file."""
    argv = [sys.executable, "-I", os.fspath(agent), "extract", "--to", os.path.abspath(to_dir)]
    return _local(settings, "this machine", argv)


def _local(settings: Settings, name: str, argv: List[str]) -> AgentConnection:
    return AgentConnection(
        argv, name, hello_timeout=settings.connect_timeout * 2, silence_timeout=settings.silence_timeout,
        dump_timeout=settings.dump_timeout,
    )  # fmt: skip


def _with_sudo(argv: List[str]) -> List[str]:
    # without root and without a sudo rule the agent runs as the caller and says what it could not keep
    if os.geteuid() == 0 or shutil.which("sudo") is None:
        return argv
    try:
        asked = subprocess.run(
            ["sudo", "-n", "-l", *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return argv
    return argv if asked.returncode else ["sudo", "-n", *argv]


def _ssh_command(settings: Settings, client: Client, serve: List[str]) -> List[str]:
    known = settings.known_hosts / client.name
    if not known.is_file():
        raise HostKeyChanged(f"no host key of {client.name} is pinned: {known} is missing", SITE, client=client.name)
    if not os.access(settings.ssh_key, os.R_OK):
        raise AccessDenied(
            f"the key that opens {client.name}, {settings.ssh_key}, is missing or not readable",
            SITE,
            client=client.name,
        )
    alive = max(1, min(30, int(settings.silence_timeout / 4)))
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": '"%s"' % str(known).replace("%", "%%"),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": client.name,
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "Ciphers": "^aes128-gcm@openssh.com,aes256-gcm@openssh.com",
        "Compression": "no",
        "ServerAliveInterval": str(alive),
        "ServerAliveCountMax": "3",
        "TCPKeepAlive": "yes",
        "ConnectTimeout": str(max(1, int(settings.connect_timeout))),
        "ConnectionAttempts": "1",
        "PreferredAuthentications": "publickey",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "ClearAllForwardings": "yes",
        "ControlPath": "none",
        "PermitLocalCommand": "no",
        "EscapeChar": "none",
        "LogLevel": "ERROR",
    }
    argv = [settings.ssh_program, "-F", "none", "-a", "-x", "-T"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    argv += ["-i", os.fspath(settings.ssh_key), "-p", str(client.port), "-l", client.user]
    # authorized_keys forces this very command; where it does not, the same is asked for
    remote = serve if client.user == "root" else ["sudo", "-n", *serve]
    return [*argv, "--", client.address or client.name, shlex.join(remote)]


class AgentConnection:
    """A running agent. channel: the messages. Errors of the channel go through failure() before a person sees them."""

    def __init__(
        self,
        argv: List[str],
        client: str,
        hello_timeout: float = 60.0,
        silence_timeout: float = 300.0,
        dump_timeout: float = math.inf,
        ssh: str = "",
        known_hosts: Optional[Path] = None,
    ):
        self.client = client
        self.ssh = ssh
        self.known_hosts = known_hosts
        self.grace = SSH_GRACE if ssh else LOCAL_GRACE
        self.hello_timeout, self.silence_timeout, self.dump_timeout = hello_timeout, silence_timeout, dump_timeout
        self._held = 0.0  # since when nobody takes what the agent sends
        self._hello: Optional[Dict[str, Any]] = None
        self._ending = threading.Lock()
        environment = {
            name: os.environ[name] for name in ("PATH", "HOME", "TZ", "LD_LIBRARY_PATH") if name in os.environ
        }
        environment["LC_ALL"] = "C"  # so that ssh's words can be read
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                cwd="/",
                start_new_session=True,  # a group of its own: ended as a whole, and no Ctrl-C reaches it
            )
        except OSError as error:
            message = f"{argv[0]} cannot be started: {error.strerror}"
            if ssh:
                missing = ClientUnreachable(message, "install the OpenSSH client", client=client)
                missing.again = False
                raise missing from None
            raise AgentMissing(f"{client} has no usable Python: {message}", SITE, client=client) from None
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # a user's limit; smaller works too
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            os.set_blocking(pipe.fileno(), False)
        self._stderr = b""
        self._drain = threading.Thread(target=self._read_stderr, name=f"stderr of {client}", daemon=True)
        self._drain.start()
        self.reader = Reader(self._process.stdout, client, hello_timeout)
        self.writer = Writer(self._process.stdin, client, silence_timeout)
        self.channel = wire.Channel(self.reader, self.writer, peer=client)

    def hello(self) -> Dict[str, Any]:
        """The agent's HELLO; ours is sent first. Raises the mapped error."""
        if self._hello is None:
            self.request(None)
        return self._hello

    def request(self, request: Optional[Dict[str, Any]]) -> Dict[str, Any]:
        """Sends REQUEST, with HELLO before it when none went yet, both at once; returns the agent's HELLO."""
        try:
            if self._hello is None:
                self.channel.send(wire.HELLO, _json({"protocol": wire.PROTOCOL, "version": __version__}))
            if request is not None:
                self.channel.send(wire.REQUEST, _json(request))
            self.channel.flush()
            if self._hello is None:
                self._over_after(self.hello_timeout * 2, WireError, "has not said who it is after")
                _kind, hello = self.channel.expect(wire.HELLO)
                self._check(hello)
                self._hello = hello
                self.reader.timeout = self.silence_timeout
            # a client that is never silent and never through must not keep a run, and all nights after it, for ever
            limit = self.dump_timeout if request is not None and request.get("request") == "dump" else math.inf
            hint = "raise timeouts: dump, if it is only slow"
            self._over_after(limit, TookTooLong, "is at its dump for longer than", hint)
        except (OSError, StowageError) as error:
            raise self.failure(error) from None
        return self._hello

    def _over_after(self, seconds: float, kind: Type[StowageError], what: str, hint: str = "") -> None:
        self.reader.until = time.monotonic() + seconds
        if seconds < math.inf:
            self.reader.late = kind(f"{self.client} {what} {duration(seconds)}", hint)

    def _check(self, hello: Dict[str, Any]) -> None:
        if hello.get("protocol") != wire.PROTOCOL:
            raise AgentMissing(
                f"the agent of {self.client} speaks protocol {escape(str(hello.get('protocol'))[:20])}, "
                f"this server {wire.PROTOCOL}",
                SITE,
            )
        if not isinstance(hello.get("sources", {}), dict) or not isinstance(hello.get("version", ""), str):
            raise WireError(f"the agent of {self.client} sent a HELLO that cannot be read")
        named = hello.get("client")
        if named is not None and named != self.client:
            # an address that moved, a cloned machine: its files are not this client's, and nothing is restored there
            raise AgentRefused(
                f"what answers for {self.client} is {escape(str(named)[:130])} by its agent.json",
                f"correct the address of {self.client}, or: {SITE}",
            )

    def failure(self, error: Exception) -> StowageError:
        """What an error on the channel means, by what ssh, sudo or Python said; names the client."""
        if isinstance(error, TookTooLong):  # whatever it says now, it is ended for that
            self.end()
        if isinstance(error, TookTooLong) or isinstance(error, StowageError) and not isinstance(error, WireError):
            error.client = error.client or self.client
            return error
        lost = isinstance(error, (LineLost, OSError))
        self.writer.close()
        by_itself = self._ended_within(1.0)
        self.end()
        status, said = self._process.returncode if by_itself else None, self._words()
        mapped = self._meaning(status, said, self.reader.begin)
        if mapped is None:
            told = error.message if isinstance(error, StowageError) else f"the line to {self.client} was cut"
            last = said.strip().splitlines()[-1:] if said.strip() else []
            message = told + (f" ({last[0][:300]})" if last else "")
            # an agent that ended by itself with a status of its own, no signal's, would do so again
            own = status is not None and 0 < status < 128
            mapped = (LineLost if lost and not own else WireError)(message, getattr(error, "hint", ""))
        elif not lost:  # ssh passes on the status of an agent that talked nonsense
            mapped.again = False
        mapped.client = self.client
        return mapped

    def _meaning(self, status: Optional[int], said: str, begin: bytes) -> Optional[StowageError]:
        client, lines = self.client, [line.strip() for line in said.splitlines() if line.strip()]

        def line_with(*patterns: str) -> str:
            return next((line for line in lines if any(re.search(one, line, re.I) for one in patterns)), "")

        spoke = begin[:1] == wire.HELLO
        if self.ssh:
            if line_with("REMOTE HOST IDENTIFICATION HAS CHANGED"):
                return HostKeyChanged(
                    f"{client} shows another host key than the one pinned in {self.known_hosts}",
                    f"if it was set up anew: {SITE}; else find out who answers at {self.ssh}",
                )
            if line_with("host key is known for", "host key verification failed"):
                return HostKeyChanged(f"no host key that {client} shows is pinned in {self.known_hosts}", SITE)
            if line_with(r"sudo: .*command not found"):
                pass  # below: no Python
            elif line_with(r"^(.*@.*: )?permission denied \(", "too many authentication failures", "load key .*"):
                line = line_with("permission denied", "authentication failures", "load key")
                return AccessDenied(f"{client} refuses the server's key: {line[:300]}", SITE)
        if not spoke and (
            status in (126, 127) or line_with(r"sudo: .*command not found", r"can't open file", "zipimport")
        ):
            line = (lines or [f"exit status {status}"])[-1]
            return AgentMissing(f"{client} has no agent or no usable Python: {line[:300]}", SITE)
        if not spoke and line_with("^sudo:", "is not in the sudoers", "not allowed to execute"):
            line = line_with("^sudo:", "is not in the sudoers", "not allowed to execute")
            return AccessDenied(f"sudo on {client} refuses the agent: {line[:300]}", SITE)
        if self.ssh and status == 255:
            line = (lines or ["ssh gave no reason"])[-1]
            route = "" if client in line or self.ssh in line else f" at {self.ssh}"
            if spoke:
                return ClientUnreachable(
                    f"the line to {client} was cut: {line[:300]}", "stowage run --client " + client
                )
            return ClientUnreachable(f"{client} cannot be reached{route}: {line[:300]}", f"ssh {self.ssh}")
        if not spoke and begin:
            return WireError(
                f"{client} said {escape(begin[:80])!r} where its agent should speak",
                f"look at the forced command and the shell start files of the account there, or: {SITE}",
            )
        if not spoke and status not in (None, 0) and lines:
            return AgentMissing(f"the agent of {client} ended with status {status}: {lines[-1][:300]}", SITE)
        return None

    def _words(self) -> str:
        # line by line: escaped as a whole, the ends of its lines would be escaped too
        return "\n".join(escape(line) for line in self._stderr.decode("utf-8", "surrogateescape").splitlines())

    def _read_stderr(self) -> None:
        # always drained, so that a talkative client cannot block itself; the begin and the end are kept
        stream = self._process.stderr
        with contextlib.suppress(OSError, ValueError):
            while True:
                data = stream.read(1 << 16)
                if not data:
                    return
                kept = self._stderr + data
                if len(kept) > STDERR_KEPT:
                    kept = kept[: STDERR_KEPT // 2] + kept[-STDERR_KEPT // 2 :]
                self._stderr = kept

    def over(self) -> bool:
        """Whether the process has ended."""
        return self._ended_within(0)

    def check_not_cut(self) -> None:
        """Raises WireError when somebody ended the conversation while nothing is read or written."""
        self.reader.check_open()

    def hold_up(self, on: bool) -> None:
        """Nobody takes what the agent sends now, so that it may take nothing: that is no silence of its own."""
        self.writer.held_up = on
        now = time.monotonic()
        if not on and self._held:
            self.reader.until += now - self._held
        self._held = (self._held or now) if on else 0.0

    def cut(self) -> None:
        """Ends the conversation from any thread; the one that reads or writes gets a WireError within a second."""
        self.reader.close()
        self.writer.close()
        if self.ssh:
            self._signal(signal.SIGTERM)

    def end(self, wait: float = 0.0) -> None:
        """Ends the process and all it started. wait: seconds it may take to end by itself first."""
        with self._ending:
            if self._process.returncode is not None:
                return
            self.writer.close()
            if not self._ended_within(wait):
                # closed, so that an agent on this machine that still writes is told by EPIPE
                self.reader.close()
                if not self._ended_within(0 if self.ssh else self.grace):
                    self._signal(signal.SIGTERM)
                    if not self._ended_within(SSH_GRACE):
                        self._signal(signal.SIGKILL)
            self._signal(signal.SIGKILL)  # whatever of its group is left
            self._ended_within(5.0)
            self._process.poll()
            self._drain.join(1.0)

    def _ended_within(self, seconds: float) -> bool:
        """Waits for the process to end, without taking its status: until then its number is no one else's."""
        deadline, pause = time.monotonic() + seconds, 0.005
        while self._process.returncode is None:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.1)
        return True

    def _signal(self, number: int) -> None:
        # under sudo the group's members are root's: they end by their closed streams
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def close(self, clean: bool = False) -> None:
        """Ends the process, closes the streams. clean: the conversation is over, the process may end by itself."""
        self.end(wait=self.grace if clean else 0.0)
        self.reader.close()
        if not self._drain.is_alive():
            self._process.stderr.close()

    def __enter__(self) -> AgentConnection:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        self.close(clean=kind is None)


def _json(value: Dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
