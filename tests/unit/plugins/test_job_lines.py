"""What people see while a job runs."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.stowage.backup.plugins.plugin_utils import _job


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def status(phase, count=0, total=None, **more):
    return {"dumps": [{"client": "web1", "source": "etc", "phase": phase, "bytes": count, "total": total, **more}]}


def test_a_line_for_each_change_of_phase_and_quarter_and_none_between():
    lines = _job.Lines(Clock())
    assert lines.look(status("waiting")) == []
    assert lines.look(status("dumping", 0, 1000)) == ["web1:etc: dumping"]
    assert lines.look(status("dumping", 200, 1000)) == []
    assert lines.look(status("dumping", 600, 1000)) == ["web1:etc: dumping, 50 % of 1.0 KB"]
    assert lines.look(status("dumping", 700, 1000)) == []
    assert lines.look(status("done", 1200, 1000)) == ["web1:etc: done, 1.2 KB"]


def test_what_a_dump_waits_for_is_told_once_and_copies_beside_it_by_their_target():
    lines = _job.Lines(Clock())
    waits = status("waiting", 5, None, why="waits for room on the holding disk: copying web2:etc to nas")
    waits["dumps"] += status("copying", 5, 100, target="nas")["dumps"]
    assert lines.look(waits) == [
        "web1:etc: waits for room on the holding disk: copying web2:etc to nas, 5 B", "web1:etc to nas: copying, 5 B",
    ]  # fmt: skip
    assert lines.look(waits) == []
    assert lines.look(status("dumping", 6)) == ["web1:etc: dumping, 6 B"]


def test_a_heartbeat_when_nothing_changes():
    clock = Clock()
    lines = _job.Lines(clock)
    lines.look(status("dumping", 5))
    clock.time = _job.HEARTBEAT - 1
    assert lines.look(status("dumping", 6)) == []
    clock.time = _job.HEARTBEAT
    assert lines.look(status("dumping", 7)) == ["at work for 30 s: 0 of 1 done, 7 B"]
    assert lines.look(None) == []
    clock.time += 2 * _job.HEARTBEAT
    assert lines.look(None) == ["at work for 90 s"]


def test_a_name_from_a_client_cannot_act_on_the_terminal():
    (line,) = _job.Lines(Clock()).look(status("dumping\x1b]0;x\x07"))
    assert "\x1b" not in line and "\x07" not in line


def test_sizes_are_for_people():
    assert [_job.size(n) for n in (0, 999, 1000, 12_345_678, 5e12)] == ["0 B", "999 B", "1.0 KB", "12 MB", "5000 GB"]


def test_the_heartbeat_tells_speed_and_end_where_they_are_known():
    clock = Clock()
    lines = _job.Lines(clock)
    seen = {**status("dumping", 7_000_000), "rate": 2_000_000, "ends": "2026-11-23T22:10:00Z"}
    lines.look(seen)
    clock.time = _job.HEARTBEAT
    assert lines.look(seen) == ["at work for 30 s: 0 of 1 done, 7.0 MB, 2.0 MB/s, end about 22:10 UTC"]
    clock.time = 2 * _job.HEARTBEAT
    unknown = {**seen, "rate": None, "ends": None}
    assert lines.look(unknown) == ["at work for 60 s: 0 of 1 done, 7.0 MB"]
