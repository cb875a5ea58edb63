"""One answer of `check`, which its rooms give. What is asked is theirs: check.py and those beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Dict

from .. import text

OK, WARN, FAIL = "OK", "WARN", "FAIL"
SITE = "ansible-playbook stowage.backup.site"  # the next step of many


@dataclass(frozen=True)
class Finding:
    """One answer. area: server, client or target; name: which one."""

    status: str
    area: str
    name: str
    message: str
    hint: str = ""
    code: str = ""
    source: str = ""

    def as_dict(self) -> Dict[str, str]:
        """JSON-ready, escaped."""
        return {key: text.escape(value) for key, value in asdict(self).items()}
