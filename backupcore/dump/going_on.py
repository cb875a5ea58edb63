"""Which cut dump an attempt goes on with, and what it leaves to the one after it.

Here live what makes two attempts ones at the same dump, and when what came is kept. How it lies on a disk is
resume.py's, the attempt source.py's.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence

from ..catalog.records import DumpRow
from ..errors import StowageError, TookTooLong
from ..image.recipients import Recipient
from ..settings import Policy, Settings, Source
from . import resume, straight
from .cut import Share
from .direct import Direct, Targets
from .holding import Landing


def head_of(
    source: Source, segment: str, level: int, base: Optional[DumpRow], newer_ns: int, share: Optional[Share],
    recipients: Sequence[Recipient],
) -> Dict[str, Any]:  # fmt: skip
    """What makes an attempt one at the same dump."""
    policy = source.policy
    sealed = policy.encrypt != "none"
    return {
        "client": source.client, "source": source.name, "segment": segment, "level": level,
        "base": base.id if base else None, "base_manifest": base.manifest_sha256 if base else None,
        "newer_ns": newer_ns, "folders": share.request() if share else None,
        "compress": policy.compress, "encrypt": policy.encrypt,
        "recipients": sorted(one.fingerprint for one in recipients) if sealed else [],
    }  # fmt: skip


class GoingOn:
    """An attempt's view of the cut dumps of its source. head: as of head_of(); run: the id of this run;
    targets: where dumps go straight to."""

    def __init__(
        self, settings: Settings, policy: Policy, head: Mapping[str, Any], run: str, targets: Optional[Targets] = None
    ):  # fmt: skip
        self._settings, self._policy, self._head, self._run = settings, policy, head, run
        self._targets = targets

    def left(self, newest_ns: Optional[int]) -> Optional[resume.Came]:
        """What came of this very dump before its line was cut. newest_ns: when the source's last dump began; what came
        before it is none."""
        for came in self._all():
            fits = resume.is_for(came, self._head, self._run, self._policy.resume)
            if fits and (newest_ns is None or came.head["begun_ns"] > newest_ns):
                # what another process left is read once more
                check = resume.check if came.note is None else straight.check
                checked = came if came.head.get("run") == self._run else check(came)
                if checked is not None:
                    return checked
                self.drop(came)
        return None

    def journal_head(self, start: Mapping[str, Any], codec: str, begun_ns: int) -> Optional[Dict[str, Any]]:
        """The head of the journal; None when none is to be kept."""
        known = start.get("identity")
        if start.get("marks") is not True or not isinstance(known, str) or self._policy.resume == "never":
            return None
        return {**self._head, "run": self._run, "begun_ns": begun_ns, "codec": codec, "identity": known[:1000]}

    def keep(self, place: Landing, error: BaseException, reached: bool, direct: Optional[Direct] = None) -> bool:
        """Whether what came is kept for another attempt, now that this one ended by error: tonight where only the line
        was lost, for the next night also where time was up, or where the agent was not reached: nothing was wrong then
        with what had come before. direct: what may have taken its parts."""
        if not isinstance(error, StowageError) or self._policy.resume == "never":
            return False
        later = self._policy.resume == "next" and (isinstance(error, TookTooLong) or not reached)
        if not error.again and not later:
            return False
        try:
            straightway = direct is not None and direct.ready
            kept = straight.keep(place, direct) if straightway else resume.keep(place)
        except (StowageError, OSError):
            return False
        if kept:
            self.only(place)
            if isinstance(error, TookTooLong):
                error.message += "; what came is kept, and the next night goes on with it"
        return kept

    def only(self, place: Landing) -> None:
        """Removes what was kept of other attempts at this source."""
        for came in self._all():
            if came.place.folder != place.folder:
                self.drop(came)

    def drop(self, came: resume.Came) -> None:
        """Removes what came; of a direct dump also what its targets have of it."""
        came.remove()
        if came.note is not None:
            straight.drop(self._settings, came.note, self._targets)

    def _all(self) -> Sequence[resume.Came]:
        which = (self._head["client"], self._head["source"], self._head["segment"])
        found = [*resume.left(self._settings, *which), *straight.left(self._settings, *which)]
        return sorted(found, key=lambda one: one.place.folder.name, reverse=True)
