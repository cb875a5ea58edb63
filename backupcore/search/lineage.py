"""Which event of a path counts in which dump.

Here lives the family tree of the dumps of a history. Each dump has a reference, an older dump of which it is the
changed copy: an incremental its base, a full the dump that came into the history before it. A path has an event in a
dump only where it differs from the reference. So what a dump says of a path is the nearest event on the way from it
to the root, and dumps that retention removed may stay in the tree, where nobody asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, Sequence


@dataclass(frozen=True)
class Member:
    """A dump in a history. reference: number of an older one in the same history, -1 for none."""

    id: str
    reference: int
    level: int
    counter: int
    begun_ns: int

    def as_list(self) -> list:
        """JSON-ready."""
        return [self.id, self.reference, self.level, self.counter, self.begun_ns]


class Lineage:
    """The dumps of a history, each known by its number: its place in members."""

    def __init__(self, members: Sequence[Member] = ()):
        self.members: list[Member] = []
        self.numbers: dict[str, int] = {}
        for member in members:
            self.add(member)

    @classmethod
    def read(cls, rows: Any) -> Lineage:
        """From what as_lists() gave. Raises ValueError."""
        members = [Member(str(row[0]), int(row[1]), int(row[2]), int(row[3]), int(row[4])) for row in rows]
        if any(not -1 <= member.reference < number for number, member in enumerate(members)):
            raise ValueError("a dump refers to none before it")
        return cls(members)

    def as_lists(self) -> list[list]:
        """JSON-ready."""
        return [member.as_list() for member in self.members]

    def add(self, member: Member) -> int:
        """A dump more; its number."""
        self.numbers[member.id] = len(self.members)
        self.members.append(member)
        return len(self.members) - 1

    def way(self, number: int) -> frozenset[int]:
        """A dump and all it refers to, directly or not."""
        found = []
        while number >= 0:
            found.append(number)
            number = self.members[number].reference
        return frozenset(found)

    def live(self, ids: Collection[str]) -> list[int]:
        """The numbers of those of ids that are in here, in the order of their counters."""
        numbers = [self.numbers[one] for one in ids if one in self.numbers]
        return sorted(numbers, key=lambda number: self.members[number].counter)

    def spread(self, dumps: Sequence[int]) -> list[int]:
        """For each dump of the history which of a path's events (in the dumps with these numbers) counts; -1: none."""
        own = {dump: event for event, dump in enumerate(dumps)}
        counts: list[int] = []
        for number, member in enumerate(self.members):
            event = own.get(number, -1)
            if event < 0 and member.reference >= 0:
                event = counts[member.reference]
            counts.append(event)
        return counts


def there(kind: bytes) -> bool:
    """Whether a row of this kind stands for something that a restore brings back."""
    return kind not in b"-n"
