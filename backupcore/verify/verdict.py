"""What reading one copy came to.

Here lives the record that the readers fill. Three kinds of bad news are kept apart: *damage* (the bytes are not those
that were signed: another copy may be right), *wrong* (they are, but they are not what Stowage writes: all copies are
alike), and an error (the place could not be asked: nothing is known).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, List, Tuple

from ..catalog.records import DumpRow

# report(bytes): so many more were read; may raise to stop.
Report = Callable[[int], None]


@dataclass
class Verdict:
    """Of one dump at one place. damage: file -> what is wrong. good: file -> `size sha256` of what was read whole and
    is right. proven: (start, length) of pieces that a sample read. bytes: read. notes: what could not be looked at.
    strays: name of what lies in the dump's folder and is no part of it -> why; harmless to a restore, and no damage."""

    dump: DumpRow
    place: str
    kind: str
    damage: Dict[str, str] = field(default_factory=dict)
    wrong: List[str] = field(default_factory=list)
    good: Dict[str, str] = field(default_factory=dict)
    proven: List[Tuple[int, int]] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    strays: Dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether all that was read is right."""
        return not self.damage and not self.wrong

    def damaged(self, file: str, message: str) -> None:
        """A file's bytes are not what they were; the first finding of a file is kept."""
        self.damage.setdefault(file, message)

    def is_good(self, file: str, size: int, sha256: str) -> None:
        """A file was read whole, and it is right."""
        if file not in self.damage:
            self.good[file] = f"{size} {sha256}"  # as staging notes what is at a target

    def is_wrong(self, message: str) -> None:
        """The image is as it was signed, and not what it must be."""
        if len(self.wrong) < 20 and message not in self.wrong:
            self.wrong.append(message)

    def message(self) -> str:
        """All findings in one line."""
        found = list(self.damage.values()) + self.wrong
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        return "; ".join(found[:3]) + more
