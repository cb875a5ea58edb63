"""Room: stage. Makes the copies that policies ask for, proves them, and frees the holding disk.

    wanted.py    which copies are due
    copy.py      one dump's way to one target
    pace.py      when copies may send, and how fast
    copier.py    copies, each isolated: where from, and what becomes of errors
    place.py     a target made ready: marker, keys, run records; given up while it is down
    service.py   the queue and its threads, beside the dumps of a night or by itself
    stager.py    the ways in
    release.py   holding images that may go, and how they go

app/ calls, while it holds the run lock, with opened targets handed in:

    stager.stage(settings, catalog, open_target, targets=None, sources=None, now=False) -> (CopyResult, …)
    release.release(settings, catalog) -> Released(dumps, problems)

open_target(name) gives an open hookspecs Target, the same for the same name; it is never closed here.
"""
