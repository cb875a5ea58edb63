"""What goes to the agent while its dump comes in: the state of the base, and what it wants back of a dump that was cut.

Here lives the thread that sends; what is said before it is source.py's, what comes meanwhile receive.py's.
"""

from __future__ import annotations

import threading
from typing import Any, Iterable, Mapping, Optional

from .. import wire
from ..errors import StowageError, WireError
from ..image import codec as codecs
from ..image import state
from . import statefile
from .transport import AgentConnection

SENDER_GRACE = 5.0


class Sender:
    """Streams the base's state to the agent while its dump is received; before it links, what the agent wants back of a
    dump that was cut. done: set when the dump came whole."""

    def __init__(
        self, agent: AgentConnection, path: Any, hello: Mapping[str, Any], links: Optional[Iterable[bytes]] = None
    ):
        self._agent, self._path, self._links = agent, path, links
        self._zstd = bool(hello.get("zstd"))
        self._error: Optional[StowageError] = None
        self._thread = threading.Thread(target=self._send, name=f"state to {agent.client}")
        self.done = False

    def _send(self) -> None:
        channel = self._agent.channel
        try:
            if self._links is not None:
                for payload in self._links:
                    channel.send(wire.LINKS, payload)
                channel.send(wire.END)
                channel.flush()
            for payload in statefile.payloads(self._path) if self._path is not None else ():
                if not self._zstd and payload.startswith(b"\x28\xb5\x2f\xfd"):
                    # the client lost its zstd library since
                    payload = codecs.get("gzip").compress(state.unpack(payload))
                channel.send(wire.STATE, payload)
            if self._path is not None:
                channel.send(wire.END)
                channel.flush()
        except (WireError, OSError) as error:
            if not isinstance(error, WireError) and self._path is not None and not self._path.exists():
                self._error = StowageError(f"{self._path} went away while it was sent")
            # else the receiving side hears it too, and says it better
        except StowageError as error:
            self._error = error
        if self._error is not None:
            self._agent.cut()

    def __enter__(self) -> Sender:
        if self._path is not None or self._links is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        if self._path is None and self._links is None:
            return
        if self.done:
            self._thread.join(SENDER_GRACE)
        if self._thread.is_alive():
            self._agent.writer.close()
            self._thread.join()
        if self._error is not None:
            raise self._error
