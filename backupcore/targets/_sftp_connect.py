"""The way to an SFTP server: options, credentials, the pinned host key, SSH's errors in one clear line.

paramiko is imported when it is first used, since that takes a while. Not here: requests (_sftp_wire.py) and
what a target is (sftp.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any, Callable, List, Optional

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backupcore import text
from backupcore.hookspecs import TargetError

from ._sftp_wire import Broken, Session

AGAIN = "the next run goes on where this one stopped"
BUSY_TRIES = 4  # a server that closes before it speaks has too many logins at once
_SECRET_LIMIT = 100_000


class SftpOptions(BaseModel):
    """Where and as whom. key: a private key file; credentials: a 0600 file with password, or the key's passphrase.

    The server is who known_hosts, or host_key (a line as of a .pub file), says.
    """

    model_config = ConfigDict(extra="forbid")

    host: str = Field(pattern=r"^[A-Za-z0-9.:_%-]{1,255}$")
    port: int = Field(default=22, ge=1, le=65535)
    user: str = Field(pattern=r"^[^\s/:\x00-\x1f]{1,64}$")
    path: str = "."
    known_hosts: Optional[Path] = None
    host_key: Optional[str] = Field(default=None, pattern=r"^[a-z0-9@.-]{3,60} [A-Za-z0-9+/=]{16,5000}( .*)?$")
    key: Optional[Path] = None
    credentials: Optional[Path] = None
    parallel: int = Field(default=4, ge=1, le=64)
    connect_timeout: float = Field(default=20, gt=0, le=600)
    timeout: float = Field(default=60, gt=0, le=3600)
    keepalive: float = Field(default=15, ge=0, le=3600)

    @field_validator("path")
    @classmethod
    def _plain_path(cls, value: str) -> str:
        if not value or len(value) > 500 or ".." in value.split("/") or not value.isprintable():
            raise ValueError("path takes a folder without '..', absolute or from where the login begins")
        return value.rstrip("/") or "/"

    @model_validator(mode="after")
    def _some_way_in(self) -> "SftpOptions":
        if not self.key and not self.credentials:
            raise ValueError("key (a private key file) or credentials (a file with the password) is needed")
        if bool(self.known_hosts) == bool(self.host_key):
            raise ValueError("known_hosts (a file) or host_key (the server's public key) is needed, one of the two")
        return self


def connect(options: SftpOptions, name: str) -> Session:
    """An SFTP session with the server whose key is pinned. Raises TargetError, never Broken."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it tells errors a second time, with a traceback
    secrets = read_secrets(options.credentials, name) if options.credentials else {}
    pause = 0.3
    for attempt in range(BUSY_TRIES):
        try:
            return _connect_once(options, secrets)
        except Broken as error:
            if attempt == BUSY_TRIES - 1 or not error.retry:
                raise TargetError(error.message, error.hint, error.retry) from None
        time.sleep(pause)
        pause *= 2
    raise AssertionError


def _connect_once(options: SftpOptions, secrets: dict) -> Session:
    import paramiko

    where = f"{options.host} port {options.port}"
    pinned = pinned_keys(options)
    key = _private_key(options.key, secrets.get("passphrase")) if options.key else None
    try:
        line = socket.create_connection((options.host, options.port), options.connect_timeout)
    except socket.gaierror:
        hint = "correct host:, or look at DNS"
        raise TargetError(f"the name {options.host} cannot be resolved", hint, True) from None
    except OSError as error:
        reason = "no answer in time" if isinstance(error, socket.timeout) else error.strerror or str(error)
        hint = "look at the network, the firewall, host: and port:"
        raise TargetError(f"no connection to {where}: {reason}", hint, True) from None
    tune(line, options.timeout)
    transport = None
    # the only limit over all of it: some of paramiko's steps wait without one
    watch = threading.Timer(options.connect_timeout * 2, _end, (line,))
    watch.daemon = True
    watch.start()
    try:
        transport = paramiko.Transport(line, default_window_size=4 << 20)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = options.connect_timeout
        wishes = transport.get_security_options()
        wishes.key_types = _kinds(pinned, wishes.key_types, where)
        quick = [cipher for cipher in wishes.ciphers if "gcm" in cipher]
        wishes.ciphers = (*quick, *(cipher for cipher in wishes.ciphers if cipher not in quick))
        transport.start_client(timeout=options.connect_timeout)
        _check_host_key(transport.get_remote_server_key(), pinned, options)
        if key is not None:
            transport.auth_publickey(options.user, key)
        if not transport.is_authenticated() and secrets.get("password"):
            transport.auth_password(options.user, secrets["password"])
        if not transport.is_authenticated():
            raise TargetError(f"{where} wants another way to log in as well", "give credentials: with password, too")
        if options.keepalive:
            transport.set_keepalive(max(1, int(options.keepalive)))
        channel = transport.open_session(timeout=options.connect_timeout)
        channel.settimeout(options.timeout)
        channel.invoke_subsystem("sftp")
        return Session(_receiver(channel), _sender(channel), transport.close)
    except BaseException as error:
        if transport is not None:
            transport.close()
        line.close()
        if isinstance(error, (paramiko.SSHException, EOFError, OSError)):
            raise _explained(error, where, options) from None
        raise
    finally:
        watch.cancel()


def tune(line: socket.socket, timeout: float) -> None:
    """No waiting for more bytes; a line that is dead is told by the kernel, also while nothing but sending is done."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))


def _end(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _receiver(channel: Any) -> Callable[[int], bytes]:
    def receive(count: int) -> bytes:
        try:
            return channel.recv(count)
        except socket.timeout:
            raise Broken("the server went silent", AGAIN, True) from None
        except (OSError, EOFError):
            return b""

    return receive


def _sender(channel: Any) -> Callable[[bytes], None]:
    def send(data: bytes) -> None:
        try:
            channel.sendall(data)
        except socket.timeout:
            raise Broken("the server takes no more bytes", AGAIN, True) from None
        except (OSError, EOFError):
            raise Broken("the connection was cut", AGAIN, True) from None

    return send


# -- who the server is


def pinned_keys(options: SftpOptions) -> List[Any]:
    """The keys that known_hosts or host_key have for this server; at least one."""
    wanted = options.host if options.port == 22 else f"[{options.host}]:{options.port}"
    if options.host_key:
        found = _key_of(f"{wanted} {options.host_key}", wanted)
        if not found:
            raise TargetError(f"the host_key of {wanted} is no public key", "give it as: ssh-ed25519 AAAA...")
    if options.known_hosts:
        found = [key for line in _lines(options) for key in _key_of(line, wanted)]
        if not found:
            raise TargetError(f"{options.known_hosts} has no key of {wanted}", _scan(options))
    return found


def _key_of(line: str, wanted: str) -> List[Any]:
    """The key in a line of known_hosts when it is that of wanted. Markers, such as of revoked keys, are no names."""
    import paramiko
    from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

    line = " ".join(line.split())
    if not line or line.startswith(("#", "@")):
        return []
    try:
        entry = HostKeyEntry.from_line(line)
    except (InvalidHostKey, paramiko.SSHException, ValueError):
        return []
    names = entry.hostnames if entry else []
    hashed = (name for name in names if name.startswith("|1|") and name.count("|") == 3)
    return [entry.key] if wanted in names or any(_hash(HostKeys, wanted, name) == name for name in hashed) else []


def _hash(keys: Any, wanted: str, name: str) -> str:
    try:
        return keys.hash_host(wanted, name)
    except (ValueError, AssertionError):
        return ""


def _lines(options: SftpOptions) -> List[str]:
    try:
        with open(options.known_hosts, encoding="utf-8", errors="replace") as file:
            return file.read(1_000_000).splitlines()
    except OSError as error:
        raise TargetError(f"cannot read {options.known_hosts}: {error.strerror}", _scan(options)) from None


def _scan(options: SftpOptions) -> str:
    port = "" if options.port == 22 else f"-p {options.port} "
    file = options.known_hosts or "known_hosts"
    return f"ssh-keyscan {port}{options.host} >> {file}, and compare with what the server's owner says"


def _kinds(pinned: List[Any], known: Any, where: str) -> tuple:
    """Only kinds of keys that are pinned: else the server shows another one of its own."""
    kinds = {key.get_name() for key in pinned}
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}
    wishes = tuple(kind for kind in known if kind in kinds)
    if not wishes:
        raise TargetError(f"the keys known of {where} are of kinds that are not used any more", "pin its ed25519 key")
    return wishes


def _check_host_key(key: Any, pinned: List[Any], options: SftpOptions) -> None:
    if not any(key.get_name() == known.get_name() and key.asbytes() == known.asbytes() for known in pinned):
        told = f"{options.host} port {options.port} has another host key than {options.known_hosts or 'host_key:'} says"
        hint = f"it shows {key.fingerprint}: ask its owner; if right, put it there; else trust nobody"
        raise TargetError(told, hint)


# -- who we are


def read_secrets(path: Path, name: str) -> dict:
    """{password?, passphrase?} from a file that only its owner can read: JSON, flat or by target's name."""
    content = private_file(path, name)
    try:
        found = json.loads(content)
        found = found.get(name, found)
        secrets = {key: found[key] for key in ("password", "passphrase") if isinstance(found.get(key), str)}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise TargetError(f"{path} is no JSON", 'write {"password": "..."} into it') from None
    if not secrets:
        raise TargetError(f"{path} has no password and no passphrase for target {name}")
    return secrets


def private_file(path: Path, name: str) -> str:
    """The content of a file that only its owner can read."""
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise TargetError(f"{path} can be read by others", f"chmod 600 {path}")
            return file.read(_SECRET_LIMIT)
    except OSError as error:
        raise TargetError(f"cannot read {path} of target {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TargetError(f"{path} of target {name} is no text") from None


def _private_key(path: Path, passphrase: Optional[str]) -> Any:
    import paramiko

    private_file(path, path.name)
    try:
        return paramiko.PKey.from_path(path, passphrase.encode() if passphrase else None)
    except (paramiko.SSHException, ValueError, TypeError, OSError, IndexError) as error:
        if passphrase is None and "password" in str(error).lower():
            hint = 'give credentials: a 0600 file with {"passphrase": "..."}'
            raise TargetError(f"{path} has a passphrase", hint) from None
        why = "the passphrase is wrong, or it is no private key" if passphrase else "it is no private key"
        raise TargetError(f"{path} cannot be used: {why}", "ssh-keygen -y -f " + str(path)) from None


def _explained(error: BaseException, where: str, options: SftpOptions) -> TargetError:
    """paramiko's error as TargetError; Broken when trying again at once may help."""
    import paramiko

    if isinstance(error, paramiko.AuthenticationException):
        if "timeout" in str(error).lower():
            return TargetError(f"{where} went silent during the login", AGAIN, True)
        ways = ", ".join(getattr(error, "allowed_types", ()) or ())
        hint = f"is the right key: or password for {options.user} there?"
        return TargetError(f"{where} does not let {options.user} in", hint + (f" It takes: {ways}" if ways else ""))
    if isinstance(error, paramiko.ChannelException):
        return TargetError(f"{where} opens no channel: {error.text}", "look at MaxSessions and the server's log", True)
    if type(error).__name__ == "IncompatiblePeer":
        hint = f"is the pinned key one that the server uses now? {_scan(options)}"
        return TargetError(f"{where} and stowage have no algorithm or host key in common", hint)
    message = text.escape(" ".join(str(error).split()))[:200]
    if "Channel closed" in message or "subsystem" in message:
        return TargetError(f"{where} offers no SFTP", "turn on the sftp subsystem there")
    if isinstance(error, socket.timeout) or "imeout" in message:
        return TargetError(f"{where} does not answer in time", "look at the network and the server's load", True)
    return Broken(f"the connection to {where} failed: {message or 'it was closed'}", AGAIN, True)
