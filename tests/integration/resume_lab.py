"""A server whose line to a real agent is cut after given bytes, and its nights attempt by attempt. For tests only."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from dump_lab import Lab

from backupcore.catalog import places
from backupcore.dump import history, runlock, sweep, transport
from backupcore.dump.source import Run, Unreached, dump_source
from backupcore.dump.space import Space
from backupcore.errors import StowageError
from backupcore.image.manifest import Signer
from backupcore.keys import store
from backupcore.restore import deliver, request
from backupcore.restore.images import Images
from backupcore.restore.report import Options
from backupcore.schedule import bases

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from cutline import Line  # noqa: E402


class CutLab(Lab):
    """One client, `here`, with one source, `data`."""

    def __init__(self, base: Path, **values):
        super().__init__(base, **values)
        self.line = Line(base / "line")

    def here(self, tree, policy=None, **values):
        return self.client("here", {"data": tree}, policy, agent_python=str(self.line.program), **values)

    def begin(self, level=None):
        """A run begins: locked, swept, planned."""
        self.swept = sweep.sweep(self.settings, self.catalog)
        past = history.gather(self.settings, self.catalog)
        self.plan = bases.Planned("here", "data", *bases.choose(past.get(("here", "data"), ()), level))
        row = self.catalog.begin_run("run")
        recipients = tuple(one.recipient for one in store.active(self.settings.keys))
        self.shared = Run(
            self.settings, self.catalog, row.id, places.server_id(self.settings.state),
            Signer.load_or_make(self.settings.keys), Space(self.settings.holding), transport.connect,
            self.events.append, recipients=recipients,
        )  # fmt: skip

    def attempt(self):
        """(row, None), or (None, why it failed)."""
        try:
            return dump_source(self.shared, self.plan)[0], None
        except Unreached as error:
            return None, error.error
        except StowageError as error:
            return None, error

    def cut_night(self, limits, level=None, between=None, **planned):
        """A run whose line is cut after each of limits and tried again; the row. between(number) after each cut."""
        with runlock.hold(self.settings):
            self.begin(level)
            self.plan = replace(self.plan, **planned)
            self.line.cut_after(limits)
            for number in range(len(limits)):
                row, error = self.attempt()
                assert row is None and error.again, error
                if between is not None:
                    between(number)
            row, error = self.attempt()
            assert error is None, error
            return row

    def restore(self, dest, at=None):
        """Stowage's own restore of the newest dump; where the tree is then."""
        connect = lambda: transport.connect_extract(self.settings, str(dest), self.agent)  # noqa: E731
        wanted = request.resolve(self.settings, self.catalog, ("here", "data"), at)
        report = deliver.restore(Images(self.settings, self.catalog, {}.__getitem__), wanted, Options(), connect)
        assert report.failed_count == 0, report.failed
        return dest / self.settings.clients["here"].sources["data"].options["path"][1:]

    def left(self):
        """What lies in .incoming and pending."""
        places_ = [self.base / "holding/.incoming", places.pending_folder(self.settings.state)]
        return sorted(str(path.relative_to(self.base)) for top in places_ for path in top.rglob("*") if path.is_file())

    def set_policy(self, **values):
        client = self.settings.clients["here"]
        source = client.sources["data"]
        source = replace(source, policy=replace(source.policy, **values))
        self.settings = replace(self.settings, clients={"here": replace(client, sources={"data": source})})
