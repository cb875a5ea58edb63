"""One answer of `check`, which its rooms give. What is asked is theirs: check.py, check_targets.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Dict

from .. import text

OK, WARN, FAIL = "OK", "WARN", "FAIL"


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
