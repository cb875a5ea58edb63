# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is **PRIVATE** to the collection. It can have breaking changes at any time.

"""Follows a job of the engine from the controller: live lines, a heartbeat, patience with a lost connection.

Here live the loop and the lines; the module of the same name starts the job and judges its end.
"""

from __future__ import annotations

import os
import re
import signal
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.stowage.backup.plugins.module_utils import _engine

display = Display()

FIRST_LOOK = 1.0  # short jobs show their end soon
LOOKS = 2.0
SLOWEST = 10.0
HEARTBEAT = 30.0
STOPS = (0.0, 1.0, 3.0)  # seconds before each try to stop it
PATIENCE = 600.0  # seconds without a connection before the follower gives up; the job goes on


class Stop:
    """Remembers ^C and the wish to end, to be asked at a good moment: ansible may hold locks at any other."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, t.Any] = {}

    def __enter__(self) -> Stop:
        for signum in self.SIGNALS:
            self._before[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *_exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, _frame: t.Any) -> None:
        self.signum = signum

    def sleep(self, seconds: float) -> None:
        """Sleeps, or wakes up since it is asked to end."""
        until = time.monotonic() + seconds
        while not self.signum and time.monotonic() < until:
            time.sleep(min(0.2, seconds))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def clean(text: t.Any) -> str:
    """Text that cannot act on a terminal."""
    return re.sub(r"[^ -~\u00a0-\uffff]", "?", str(text))


class Lines:
    """From looks at a job to lines for people: when something begins and ends, at each quarter, and a heartbeat."""

    def __init__(self, now: t.Callable[[], float] = time.monotonic):
        self.now = now
        self.began = self.told = now()
        self.phases: dict[str, str] = {}
        self.quarters: dict[str, int] = {}

    def look(self, status: dict[str, t.Any] | None) -> list[str]:
        """New lines after a look; status is what `stowage status --json` says under running, None for nothing."""
        lines: list[str] = []
        dumps = [one for one in (status or {}).get("dumps") or [] if isinstance(one, dict)]
        for one in dumps:
            lines += self._one(one)
        if not lines and self.now() - self.told >= HEARTBEAT:
            lines.append(self._heartbeat(dumps, status or {}))
        if lines:
            self.told = self.now()
        return lines

    def _one(self, one: dict[str, t.Any]) -> list[str]:
        name = ":".join(clean(one[key]) for key in ("client", "source") if one.get(key))
        if one.get("target"):
            name += f" to {clean(one['target'])}"
        phase = clean(one.get("why") or one.get("phase", ""))
        count, total = int(one.get("bytes") or 0), int(one.get("total") or 0)
        quarter = min(3, 4 * count // total) if total else 0
        if self.phases.get(name) == phase:
            if quarter <= self.quarters.get(name, 0):
                return []
            self.quarters[name] = quarter
            return [f"{name}: {phase}, {25 * quarter} % of {size(total)}"]
        first = name not in self.phases
        self.phases[name], self.quarters[name] = phase, quarter
        if phase in ("waiting", "connecting", "") and first:
            return []
        return [f"{name}: {phase}" + (f", {size(count)}" if count else "")]

    def _heartbeat(self, dumps: list[dict[str, t.Any]], status: dict[str, t.Any]) -> str:
        line = f"at work for {self._took()}"
        dumps = [one for one in dumps if not one.get("target")] or dumps
        if dumps:
            done = sum(1 for one in dumps if one.get("phase") in ("done", "failed", "verified"))
            count = sum(int(one.get("bytes") or 0) for one in dumps)
            line += f": {done} of {len(dumps)} done, {size(count)}"
        rate, ends = status.get("rate"), clean(status.get("ends") or "")
        if isinstance(rate, (int, float)):
            line += f", {size(rate)}/s"
        return line + (f", end about {ends[11:16]} UTC" if len(ends) == 20 else "")

    def _took(self) -> str:
        seconds = int(self.now() - self.began)
        return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


class JobAction(ActionBase):
    """The action plugin of a module that starts a job with wait=false and returns its id."""

    _supports_check_mode = True
    _supports_async = True
    TRANSFERS_FILES = False
    module: str

    def judge(self, answer: dict[str, t.Any], args: dict[str, t.Any]) -> dict[str, t.Any]:
        """The module's result for an answer of the engine."""
        raise NotImplementedError

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        del tmp
        task_vars = task_vars or {}
        self._host = self._task.delegate_to or task_vars.get("inventory_hostname", "?")
        args = self._task.args.copy()
        live = all(boolean(args.get(key, True)) for key in ("wait", "progress"))
        plan_only = self._task.check_mode or boolean(args.get("plan", False))
        if self._task.async_val or plan_only or not live:
            wrapped = self._task.async_val and not self._task.check_mode
            result.update(
                self._execute_module(module_name=self.module, module_args=args, task_vars=task_vars, wrap_async=wrapped)
            )
            return result
        return self._follow(result, args, task_vars)

    def _follow(self, result: dict, args: dict, task_vars: dict) -> dict[str, t.Any]:
        job = _engine.new_job()
        with Stop() as stop:
            started = self._execute_module(
                module_name=self.module, module_args=dict(args, wait=False, job=job), task_vars=task_vars
            )
            if started.get("failed"):
                return started
            ended = self._watch(job, args, task_vars, stop)
            if stop.signum:
                self._cancel(job, args, task_vars)
        if stop.signum:
            os.kill(os.getpid(), stop.signum)
            raise AnsibleError("stopped")
        result.update(changed=True, job=job)
        if "msg" in ended:
            result.update(ended)
            return result
        error = ended.get("error")
        if error:
            hint = f" -> {error['hint']}" if error.get("hint") else ""
            result.update(failed=True, msg=error["message"] + hint, code=error["code"], hint=error.get("hint", ""))
            result["answer"] = ended.get("answer") or {}
            # refused before anything was done
            result["changed"] = error["code"] not in ("busy", "config", "request", "nothing-that-old", "engine-missing")
            return result
        result.update(self.judge(ended["answer"], args))
        return result

    def _watch(self, job: str, args: dict, task_vars: dict, stop: Stop) -> dict[str, t.Any]:
        """Looks at the job until it ends, or the follower is asked to end; returns what M(job) says of it."""
        lines, wait, heard = Lines(), FIRST_LOOK, time.monotonic()
        while True:
            stop.sleep(wait)
            if stop.signum:
                return {}
            wait = LOOKS if wait < LOOKS else min(SLOWEST, wait * 1.2)
            try:
                seen = self._job(job, args, task_vars)
                lost = clean(seen.get("msg", "no reason given")) if seen.get("failed") else ""
            except AnsibleConnectionFailure as error:
                seen, lost = {}, clean(error).splitlines()[0]
            if lost:
                if time.monotonic() - heard > PATIENCE:
                    return {
                        "failed": True,
                        "msg": f"lost sight of job {job}, which goes on by itself: {lost} -> stowage status",
                    }
                self._say(f"cannot look at it now, trying again: {lost}")
                continue
            heard = time.monotonic()
            for line in lines.look(seen.get("now")):
                self._say(line)
            if not seen["job"]["running"]:
                return seen["job"]

    def _job(self, job: str, args: dict, task_vars: dict, **more: t.Any) -> dict[str, t.Any]:
        same = {key: args[key] for key in ("engine", "config") if key in args}
        return self._execute_module(
            module_name="stowage.backup.job", module_args=dict(same, id=job, **more), task_vars=task_vars
        )

    def _cancel(self, job: str, args: dict, task_vars: dict) -> None:
        told = ""
        for wait in STOPS:  # it may be about to start, or the line about to come back
            time.sleep(wait)
            try:
                seen = self._job(job, args, task_vars, cancel=True)
                if not seen.get("failed"):
                    return
                told = clean(seen.get("msg", "no reason given"))
            except Exception as error:
                told = clean(error)
        display.warning(f"job {job} may go on: {told} -> stowage status")

    def _say(self, line: str) -> None:
        display.display(f"[{clean(self._host)}] {line}")
