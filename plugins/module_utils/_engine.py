# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.

"""The one bridge from Ansible to the engine: runs ``stowage … --json`` and understands its answer (schema 1).

Here live the call, the meaning of its answer, and jobs: an engine that goes on alone when the connection is cut
and leaves its answer in a file. What the answers mean to Ansible (changed, failed) lives in the modules.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time

SCHEMA = 1
# paths that were not restored and are named; failed_count tells how many there are
MOST_FAILED = 20
KEEP_JOBS = 7 * 24 * 3600.0
JOB = re.compile(r"[0-9]{10}-[0-9a-f]{8}\Z")
PIPE = 60000  # bytes that a pipe takes at once
# sh waits for the engine, also when both are asked to end, and puts its exit status down last
SUPERVISOR = 'trap : TERM INT HUP; "$@" >out 2>err; echo $? >rc.new; mv rc.new rc'


class EngineError(Exception):
    """The engine refused or could not answer. code and hint as the engine tells them; answer: all it said."""

    def __init__(self, code, text, hint="", answer=None):
        super().__init__(text)
        self.code = code
        self.text = text
        self.hint = hint
        self.answer = answer or {}

    @property
    def line(self):
        """What a person reads."""
        return self.text + (" -> " + self.hint if self.hint else "")


def argument_spec():
    """The options that every module of the engine has."""
    return {
        "engine": {"type": "path", "default": "/usr/local/bin/stowage"},
        "config": {"type": "path", "default": "/etc/stowage/stowage.yml"},
    }


def fail(module, error, **more):
    """Ends the module with an EngineError."""
    module.fail_json(msg=error.line, code=error.code, hint=error.hint, answer=error.answer, **more)


def command(params, words):
    """The command line of the engine. Raises EngineError when it is not installed."""
    engine = params["engine"]
    if not os.path.exists(engine):
        told = "%s does not exist here" % engine
        raise EngineError("engine-missing", told, "apply the role stowage.backup.backup_server")
    return [engine, "--config", params["config"], "--json"] + words


def understand(rc, out, err):
    """The engine's answer as a dictionary. Raises EngineError for an error or anything that is no answer."""
    try:
        answer = json.loads(out)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = (err.strip() or out.strip()).splitlines()
        told = said[-1][:500] if said else "it said nothing"
        raise EngineError("no-answer", "the engine gave no answer (exit status %s): %s" % (rc, told))
    if answer.get("schema") != SCHEMA:
        raise EngineError(
            "schema",
            "the engine speaks schema %r, this collection %d" % (answer.get("schema"), SCHEMA),
            "let the role stowage.backup.backup_server of this collection install the engine",
        )
    error = answer.get("error")
    if error:
        raise EngineError(error.get("code", "failed"), error.get("message", "failed"), error.get("hint", ""), answer)
    return answer


def call(module, words, secret=None):
    """Asks the engine and waits; returns its answer. secret: bytes for its standard input. Raises EngineError."""
    _tell_caller(module)
    more = {} if secret is None else {"data": secret, "binary_data": True}
    rc, out, err = module.run_command(command(module.params, words), cwd="/", **more)
    return understand(rc, out, err)


def _tell_caller(module):
    """What the engine's audit log shows beside the user: that a module called it, and which."""
    os.environ["STOWAGE_CALLER"] = "ansible " + str(getattr(module, "_name", None) or "module")


# jobs


def jobs_folder():
    """Where jobs keep what they say: root's in /run, anybody else's at home."""
    if os.geteuid() == 0:
        return "/run/stowage/jobs"
    return os.path.join(os.path.expanduser("~"), ".cache", "stowage-jobs")


def started_at(pid):
    """When a process began, in the kernel's ticks: one of the same number is not taken for it. '' when it ended."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            words = stream.read().rpartition(b")")[2].split()
        return "" if words[0] in (b"Z", b"X") else words[19].decode()
    except (OSError, IndexError):
        return ""


def new_job():
    """The id of a job to be started; its time is the one of whoever makes it."""
    return "%010d-%s" % (time.time(), secrets.token_hex(4))


def secret_of(params):
    """(options, standard input or None) that hand over a passphrase and a private key: seen in no process list."""
    words, lines = [], b""
    if params["passphrase"] is not None:
        words += ["--passphrase-file", "-"]
        lines += params["passphrase"].encode("utf-8") + b"\n"
    if params["private"] is not None:
        words += ["--key", "-"]
        lines += params["private"].strip().encode("utf-8") + b"\n"
    return words, lines or None


def start_job(module, words, secret=None):
    """Starts the engine on its own, under the id that the caller may have chosen; returns it. Raises EngineError.

    secret: bytes for its standard input, fewer than a pipe holds (64 KiB).
    """
    job = module.params.get("job") or new_job()
    if not JOB.match(job):
        raise EngineError("job", "%r cannot name a job" % job)
    line = command(module.params, words)
    _tell_caller(module)
    top = jobs_folder()
    try:
        os.makedirs(top, 0o700, exist_ok=True)
        os.chmod(top, 0o700)
        sweep_jobs(top)
        folder = os.path.join(top, job)
        os.mkdir(folder, 0o700)
        with _standard_input(secret) as stdin:
            process = subprocess.Popen(
                ["/bin/sh", "-c", SUPERVISOR, "stowage-job"] + line,
                cwd=folder, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, close_fds=True,
            )  # fmt: skip
        with open(os.path.join(folder, "pid"), "w") as stream:
            stream.write("%d %s" % (process.pid, started_at(process.pid)))
    except OSError as error:
        raise EngineError("job", "the engine cannot be started: %s" % error) from None
    return job


@contextlib.contextmanager
def _standard_input(secret):
    """What a job reads: a pipe that holds the secret already, so that it never lies in a file; else nothing."""
    if secret is None:
        yield subprocess.DEVNULL
        return
    if len(secret) > PIPE:
        raise EngineError("job", "the private key is larger than %d bytes" % PIPE)
    taken, given = os.pipe()
    try:
        os.write(given, secret)
    finally:
        os.close(given)
    try:
        yield taken
    finally:
        os.close(taken)


def sweep_jobs(top):
    """Removes what jobs of long ago left."""
    for name in os.listdir(top):
        path = os.path.join(top, name)
        if JOB.match(name) and time.time() - int(name[:10]) > KEEP_JOBS and not _alive(path):
            shutil.rmtree(path, ignore_errors=True)


def _read(folder, name):
    try:
        with open(os.path.join(folder, name), "rb") as stream:
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _pid(folder):
    words = _read(folder, "pid").split()
    return (int(words[0]), words[1]) if len(words) == 2 else (0, "")


def _alive(folder):
    pid, began = _pid(folder)
    return bool(pid) and started_at(pid) == began


def job_folder(job):
    """The folder of a job. Raises EngineError when there is none."""
    folder = os.path.join(jobs_folder(), job)
    if not JOB.match(job) or not os.path.isdir(folder):
        raise EngineError("no-job", "there is no job %s here" % job)
    return folder


def look_at_job(job):
    """{"id", "running"}; when it ended also "rc" and "answer" or "error" {code, message, hint}. Raises EngineError."""
    folder = job_folder(job)
    alive = _alive(folder)  # asked first: what ends meanwhile has its exit status by then
    rc = _read(folder, "rc").strip()
    if not rc and alive:
        return {"id": job, "running": True}
    found = {"id": job, "running": False, "rc": int(rc) if rc else None}
    try:
        if not rc:
            raise EngineError("killed", "the engine was killed before it ended", "stowage report")
        found["answer"] = understand(found["rc"], _read(folder, "out"), _read(folder, "err"))
    except EngineError as error:
        found["error"] = {"code": error.code, "message": error.text, "hint": error.hint}
        found["answer"] = error.answer
    return found


def cancel_job(job):
    """Asks a job to end. Raises EngineError when there is none, or it is about to begin."""
    folder = job_folder(job)
    if not _read(folder, "pid") and not _read(folder, "rc"):
        raise EngineError("no-job", "job %s has not begun" % job)
    if _alive(folder):
        os.killpg(_pid(folder)[0], signal.SIGTERM)


def wait_for_job(job, step=0.5):
    """Waits until a job ends; returns its answer. Raises EngineError."""
    while True:
        found = look_at_job(job)
        if not found["running"]:
            return job_answer(found)
        time.sleep(step)


def job_answer(found):
    """The answer of a job that ended. Raises EngineError."""
    error = found.get("error")
    if error:
        raise EngineError(error["code"], error["message"], error["hint"], found["answer"])
    return found["answer"]


def told_of_restore(answer):
    """The result of a restore that ended, from the engine's answer."""
    answer = dict(answer, failed=answer.get("failed", [])[:MOST_FAILED])
    result = {"restored": answer, "status": answer["status"], "next": answer["next"], "changed": True}
    if answer["status"] == "fail":
        failed = answer.get("failed") or [{}]
        result["failed"] = True
        result["msg"] = "%s of what was asked for was not restored, first %s: %s" % (
            answer.get("failed_count", len(failed)), failed[0].get("path", "?"), failed[0].get("message", "?"),
        )  # fmt: skip
    return result
