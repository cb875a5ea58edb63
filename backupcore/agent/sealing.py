"""Sealing on the client: a key for each part, wrapped for the recipients that agent.json names.

Here live the check of what the server asks for and the sealing of frames in their order, each part from its first
byte; the ciphers are image.seal. Keys leave this machine only wrapped, and are gone when the part is.
"""

from __future__ import annotations

import base64
import warnings
from typing import Any, Dict, List, Optional, Tuple

from .. import ids
from ..errors import AgentRefused, ConfigError, RequestError, SourceFailed
from ..image import recipients, seal
from ..text import escape
from .config import SITE, AgentConfig, Source

MISSING = "install python3-cryptography on this client (stowage.backup.site does when a policy says encrypt: client)"


class Sealing:
    """What seals the parts of one dump. prefix: of the dump, for the MACs."""

    def __init__(self, prefix: str, named: List[recipients.Recipient]):
        self._prefix, self._named = prefix, named
        self._sealer: Optional[seal.Sealer] = None

    def begin(self, part: int) -> Dict[str, Any]:
        """Takes a new key, for a part from its begin; the KEY message."""
        key = seal.FileKey.make()
        self._sealer = seal.Sealer(key, self._prefix, seal.PART, part)
        wrapped = {one.fingerprint: base64.b64encode(recipients.wrap(one, key)).decode("ascii") for one in self._named}
        return {"part": part, "commitment": key.commitment, "wrapped": wrapped}

    def frame(self, number: int, stored: Any, last: bool) -> Tuple[bytes, bytes]:
        """(MAC, sealed bytes) of the next frame of the part."""
        sealer = self._sealer
        if sealer is None:
            raise SourceFailed("a frame came before its part had a key")  # never in the clear
        sealed = sealer.seal(stored)
        return sealer.mac(number, sealed, last), sealed


def sealing(request: Dict[str, Any], config: AgentConfig, source: Source, level: int) -> Optional[Sealing]:
    """What the server asks for, when agent.json says the same; None when neither wants a seal.

    Raises AgentRefused for anything else, SourceFailed when this machine cannot seal.
    """
    asked = request.get("encrypt", "none")
    if asked != source.encrypt:
        raise AgentRefused(
            "source %s: agent.json says encrypt: %s, the server asks for %s"
            % (source.name, source.encrypt, escape(str(asked)[:40])), SITE,
        )  # fmt: skip
    if asked == "none":
        return None
    theirs = request.get("recipients")
    if not isinstance(theirs, list) or sorted(map(str, theirs)) != sorted(source.recipients):
        raise AgentRefused(
            "source %s: the server asks to seal for others than agent.json names" % source.name,
            SITE + ", when a key was made or revoked",
        )
    prefix = request.get("prefix")
    if not isinstance(prefix, str) or not _is_ours(prefix, config.client, source.name, level):
        raise RequestError("the server's request has no right prefix")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this Python is old is said elsewhere
        there = seal.available()
    if there is None:
        raise SourceFailed("source %s must be sealed, and Python's cryptography is not on this client" % source.name,
                           MISSING)  # fmt: skip
    try:
        named = [recipients.load_recipient(pem) for pem in source.recipients.values()]
    except ConfigError as error:
        raise AgentRefused("source %s in agent.json: %s" % (source.name, error.message), SITE) from None
    if {one.fingerprint for one in named} != set(source.recipients):
        raise AgentRefused("source %s in agent.json: a recipient's key is oddly written" % source.name, SITE)
    return Sealing(prefix, named)


def _is_ours(prefix: str, client: str, source: str, level: int) -> bool:
    words = prefix.split("/")
    if len(words) != 3 or words[0] != client:
        return False
    name = ids.parse_dump_name(words[2])
    segment = words[1][len(source) + 1 :]
    here = words[1] == source or (words[1].startswith(source + ".") and ids.is_name(segment))
    return here and name is not None and name.level == level
