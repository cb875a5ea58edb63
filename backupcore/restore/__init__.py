"""Floor 4: the chain of a moment, the ranges to read, the delivery; list and find.

request   what was asked for, as Wanted records: client, source, patterns, the chain of dumps
indexes   index files as chunks of whole lines; only the lines that matter are parsed
view      the tree at a moment: the merge of a chain's indexes in walk order
seek      the few pieces of a large index that can hold some paths
places    where one dump lies: holding disk or target, read by ranges
filekeys  the keys of a sealed dump's files, unwrapped when they are needed
images    which dump is where, and where its index is
fetch     ImageReader: checked (and opened) frames of one dump from the nearest good copy
rewrite   headers of archive members with another name, link or further records
stream    frames in the order they are needed, read ahead
choose    which members are sent: hard links, names for --exact
sender    what goes over the wire, and what a damaged frame costs
deliver   a restore: the conversation with an agent, the report; cat for one file
plan      what a restore would read, without a client
find      find over all dumps; list files at a moment
histories the search brought up to date, from indexes
report    RestorePlan, RestoreReport, Version, Listed: plain records with as_dict()

What app/ calls; opened targets and connections are handed in:

    images = images.Images(settings, catalog, open_target, only=None, ring=None)
        open_target(name) -> an open hookspecs Target; asked once per name, never closed here
        only: None, "holding", or a target's name (--from); ring: a keys.ring.KeyRing, for sealed dumps
    wanted = request.resolve(settings, catalog, words, at_ns=None, only=None) -> list[Wanted], all of one client
        words: ["web1:/etc/nginx", …] or ["web1", "etc", "nginx", …]; str with surrogateescape, as in argv
    plan.plan(images, wanted, options) -> RestorePlan
    deliver.restore(images, wanted, options, connect, progress=None) -> RestoreReport
        options: report.Options(destination, existing, exact, permit, name)
            destination None: the client's scratch folder; "/abs": there on the client (with a permit), or, with
            the connection of `extract --to DIR`, anything: it goes to the agent as it is
        connect() -> context manager of an AgentConnection (`.channel`, `.hello()`); called once per source
        progress(dict): {"client", "source", "phase": "restore", "entries", "bytes", "total"}
    deliver.cat(images, wanted) -> Iterator[bytes]: the content of the one file asked for; checked to its end
    find.find(settings, catalog, images, find.Asked(pattern, …)) -> Iterator[report.Version]
    histories.bring(state, images, rows) -> search.store.Updated: the search is up to date with the catalog
    find.list_files(images, wanted, recursive=False) -> Iterator[report.Listed]

Errors: RequestError (2) for what is unknown, also a path that was not there at that moment; NothingThatOld (1);
ImageDamaged or TargetRefused only when nothing could be read. What failed in part stands in the report.
"""
