"""Search over all dumps: each path of a source once, with the dumps between which it held each content.

Here live the histories (a file per source and root below <state>/search), their update from the indexes of dumps,
and the scan that answers find and the listing of folders. A history is a cache: it can be removed at any time.
Nothing here knows the catalog or images: dumps come in as records, indexes as chunks of lines.

    lines     the lines of an index as checked columns
    block     some 4096 paths with all their events, packed
    history   the file: blocks, names apart from rows, a directory
    lineage   which event of a path counts in which dump
    merge     an index into a history
    store     the folder of all histories: update, what is missing, what is dead
    query     what is looked for
    scan      the search itself, on all cores
    browse    one folder of one dump
"""
