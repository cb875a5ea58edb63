"""One HTTP request that tells something: within a time, tried again where that may help, never led elsewhere.

Here live the line, the retries and the words for what went wrong; what is said lives in webhook.py and ping.py. An
address may be a secret (of a chat room, of a ping), so messages name its host and nothing else of it. A redirect is an
error: what follows one turns a POST into a GET, or carries a secret to somebody else. Of an answer only the status is
told: its text may repeat what it was sent.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from typing import Dict, Mapping

from .. import __version__
from ..hookspecs import EventError
from ..text import escape
from ._address import Address

TRIES = 3
PAUSES = (1.0, 4.0)  # seconds before the second try and the third
_AGAIN = (408, 425, 429, 500, 502, 503, 504)


def send(
    method: str, address: Address, body: bytes, headers: Mapping[str, str], timeout: float, ca: str = ""
) -> None:
    """Sends body (none with GET) until somebody takes it, TRIES times at most, each within timeout seconds. Raises
    EventError."""
    sent = {"Host": address.named, "User-Agent": f"stowage/{__version__}", "Connection": "close"}
    if method == "GET":
        body = b""
    else:
        sent.update(headers)
        sent["Content-Length"] = str(len(body))
    for number in range(TRIES):
        try:
            status = _once(method, address, body, sent, timeout, ca)
        except ssl.SSLCertVerificationError as error:
            told = escape(str(error.verify_message))
            message = f"the certificate of {address.where} is not trusted: {told}"
            raise EventError(message, "see ca of the event") from None
        except (OSError, http.client.HTTPException) as error:
            failure = f"{address.where} does not answer: {_reason(error, timeout)}"
        else:
            if 200 <= status < 300:
                return
            if 300 <= status < 400:
                hint = "write the address it leads to; nothing is sent after a redirect"
                raise EventError(f"{address.where} leads elsewhere (status {status})", hint)
            word = http.client.responses.get(status, "")
            failure = f"{address.where} refuses it: status {status} {word}".rstrip()
            if status not in _AGAIN:
                raise EventError(failure, "see address and secret of the event")
        if number < TRIES - 1:
            time.sleep(PAUSES[number])
    raise EventError(f"{failure} ({TRIES} tries)", "see the address of the event, and the service there")


def _once(
    method: str, address: Address, body: bytes, headers: Dict[str, str], timeout: float, ca: str
) -> int:
    """The status of the answer. timeout holds for all of it: an answer that drips is cut, too."""
    context = None
    if address.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=ca or None)
        except OSError as error:
            raise EventError(f"{ca}: {error.strerror or 'holds no certificate'}", "see ca of the event") from None
    deadline = time.monotonic() + timeout
    raw = socket.create_connection((address.host, address.port), timeout)
    guard = _Guard(raw, max(0.001, deadline - time.monotonic()))
    connection = http.client.HTTPConnection(address.host, address.port)
    try:
        with guard:
            connection.sock = context.wrap_socket(raw, server_hostname=address.host) if context else raw
            connection.request(method, address.path, body or None, headers)
            return connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError):
        if guard.struck:  # what is closed under a reader fails in many ways
            raise TimeoutError from None
        raise
    finally:
        connection.close()
        raw.close()


class _Guard:
    """Ends a connection at its time, whoever reads or writes then: a socket's own timeout begins anew at each byte."""

    def __init__(self, raw: socket.socket, seconds: float):
        self.struck = False
        self._line = raw.dup()  # wrap_socket takes raw's own descriptor
        self._timer = threading.Timer(seconds, self._strike)
        self._timer.daemon = True

    def _strike(self) -> None:
        self.struck = True
        try:
            self._line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_exc: object) -> None:
        self._timer.cancel()
        self._timer.join()
        self._line.close()


def _reason(error: BaseException, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"not within {timeout:g} s"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {escape(error.reason or type(error).__name__)}"
    if isinstance(error, http.client.HTTPException):
        return f"no HTTP ({type(error).__name__})"
    return escape(getattr(error, "strerror", None) or type(error).__name__)
