"""A target in a folder that locks and holds its files as hookspecs says: what a bucket with Object Lock does."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

from backupcore.hookspecs import Lock, TargetError

from backupcore.targets.directory import DirectoryTarget


class LockPlace(DirectoryTarget):
    """now_ns: the clock of the place. forgets: names whose lock it takes and does not keep. calls: what was asked."""

    def __init__(self, options, context, now_ns=lambda: 0):
        super().__init__(options, context)
        self.now_ns, self.forgets, self.calls = now_ns, set(), []
        self.kept = options.path.parent / (options.path.name + ".locks")
        self.mutex = threading.Lock()

    @property
    def capabilities(self):
        return replace(super().capabilities, lock=True)

    def _all(self):
        return json.loads(self.kept.read_text()) if self.kept.exists() else {}

    def _set(self, name, **values):
        with self.mutex:
            if self.stat(name) is None:
                raise TargetError(f"{name} is not there")
            every = self._all()
            every[name] = {**every.get(name, {"until_ns": 0, "mode": "", "held": False}), **values}
            self.kept.write_text(json.dumps(every))

    def lock(self, name, until_ns):
        self.calls.append(("lock", name, until_ns))
        if name not in self.forgets and until_ns > self.locked(name).until_ns:
            self._set(name, until_ns=until_ns, mode="compliance")
        return self.locked(name)

    def legal_hold(self, name, on):
        self.calls.append(("hold", name, on))
        self._set(name, held=on)
        return self.locked(name)

    def locked(self, name):
        self.calls.append(("ask", name))
        with self.mutex:
            found = self._all().get(name)
        return Lock(**found) if found else Lock()

    def delete(self, name):
        kept = self.locked(name)
        if kept.held or kept.until_ns > self.now_ns():
            raise TargetError(f"{name} is locked")
        super().delete(name)
