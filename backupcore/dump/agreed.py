"""What an agent's START agrees to, held against what was asked.

Here live the codec and the options of a dump: the agent's own file decides what is in it, the server whether that is
what it wants. Whether a base fits to them is base.py's, the conversation source.py's.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping, Optional

from ..errors import AgentRefused, WireError
from ..settings import Policy
from ..text import escape
from .cut import Share

# Options that change how a dump is made, not what is in it.
NOT_CONTENT = ("before", "after")
OPTIONS_LIMIT = 1 << 20


def codec_of(start: Mapping[str, Any], client: str, policy: Policy) -> str:
    """The codec of the dump. Raises AgentRefused when the policy wants another."""
    wanted, codec = policy.compress.partition(":")[0], start.get("codec")
    if codec == wanted:
        return wanted
    if codec == "gzip" and wanted == "zstd" and policy.gzip_fallback:
        return "gzip"  # allowed: remark() names it
    raise AgentRefused(
        f"{client} can compress by {escape(str(codec)[:20])}, policy {policy.name} asks for {wanted}",
        "set gzip_fallback in the policy, or install libzstd1 on the client" if wanted == "zstd" else "",
    )


def options_of(
    start: Mapping[str, Any], client: str, policy: Policy, newer_ns: int, share: Optional[Share]
) -> Dict[str, Any]:  # fmt: skip
    """What decides the content: the agent's own words, and what was asked. Raises WireError."""
    options = start.get("source")
    try:
        if not isinstance(options, dict) or not isinstance(options.get("path", ""), str):
            raise ValueError
        if len(json.dumps(options, ensure_ascii=False).encode("utf-8")) > OPTIONS_LIMIT:
            raise ValueError
    except ValueError:
        raise WireError(f"{client} sent a START that cannot be read") from None
    found = {name: value for name, value in options.items() if name not in NOT_CONTENT}
    for name in ("folders", "newer_ns"):  # not the client's to say
        found.pop(name, None)
    if newer_ns:
        found["newer_ns"] = newer_ns
    if share is not None:
        found["folders"] = share.request()["folders"]
    if policy.encrypt != "none":
        # a chain is opened by one way: who turns sealing on wants no base in the clear, and RESTORE.txt is for both
        found["encrypt"] = policy.encrypt
    return found


def count_of(value: Dict[str, Any], name: str, peer: str) -> int:
    """The number of that name which an agent says. Raises WireError."""
    number = value.get(name, 0)
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise WireError(f"{peer} sent no number as {name}")
    return number
