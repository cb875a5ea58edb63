"""What an S3 place bills: every attempt of every request, and the bytes that go there and come back.

Here lives the counting, by botocore's events, so that requests count wherever in the driver they are made, and those
that are tried again count as often as they are tried. Not here: what they cost.
"""

from __future__ import annotations

import threading
from typing import Any, Iterator, Mapping

from backupcore.hookspecs import Spent

from . import _s3_moves as moves

# Reading a list costs as much as a PUT does; what removes something costs nothing.
_FREE = ("Delete", "Abort")


class Meter:
    """Counts for all clients of one target. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Spent.__dataclass_fields__, 0)

    def watch(self, client: Any) -> None:
        """Counts what this boto3 client does from now on."""
        # last: what a handler before it answers in the place's stead is never sent
        client.meta.events.register_last("before-send.s3", self._sends)
        client.meta.events.register("response-received.s3", self._receives)

    def spent(self) -> Spent:
        """What was counted until now."""
        with self._lock:
            return Spent(**self._counts)

    def count(self, **more: int) -> None:
        """Adds to what was counted."""
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number

    def _sends(self, request: Any, event_name: str, **_more: Any) -> None:
        operation = event_name.rsplit(".", 1)[-1]
        try:
            size = int(request.headers.get("Content-Length") or 0)
        except ValueError:
            size = 0
        self.count(**{kind_of(operation, request.method): 1, "sent": size})

    def _receives(self, response_dict: Any, parsed_response: Any, **_more: Any) -> None:
        body = (response_dict or {}).get("body")
        if isinstance(body, (bytes, bytearray)):
            self.count(got=len(body))
        elif isinstance(parsed_response, dict) and hasattr(parsed_response.get("Body"), "read"):
            parsed_response["Body"] = _Counted(parsed_response["Body"], self)


def kind_of(operation: str, method: str) -> str:
    """The field of Spent that a request belongs to."""
    if method == "DELETE" or operation.startswith(_FREE):
        return "delete"
    return "write" if method in ("PUT", "POST") or operation.startswith("List") else "read"


class _Counted:
    """The body of an answer; what is read of it is counted."""

    def __init__(self, body: Any, meter: Meter):
        self._body, self._meter = body, meter

    def read(self, amt: Any = None) -> bytes:
        data = self._body.read(amt)
        self._meter.count(got=len(data))
        return data

    def iter_chunks(self, chunk_size: int = 1024) -> Iterator[bytes]:
        while True:
            data = self.read(chunk_size)
            if not data:
                return
            yield data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


def tariff(options: Mapping[str, Any]) -> str:
    """The line of AWS's list that a bucket is billed by; '' for other servers, and where no region is said. Its last
    word: the classes to which parts move later."""
    region = options.get("region") or ""
    kind, tier = options.get("storage_class") or "STANDARD", options.get("restore_tier") or "Standard"
    later = "/" + "+".join(options["transition"]) if options.get("transition") else ""
    return f"aws/{region}/{kind}/{tier}{later}" if moves.at_aws(options.get("endpoint")) and region else ""
