"""Floor 4: the catalog made again from the images of a target, and what a server that was lost goes on with.

scan     what a target holds: dumps by their manifests, public keys, records of runs; a stream
spool    what was found, on disk while it is judged
judge    whom to believe, whose dumps they are, what contradicts what
merge    rebuild(): the order of it all, the catalog, the report
indexes  the indexes of the dumps, beside the catalog

What app/ calls: merge.rebuild(settings, catalog, target, trusted, merge.Request(...)) -> merge.Report. It reads the
target and never writes to it.
"""
