"""Floor 3: runs, dumps, copies: the server's memory, a cache that images can rebuild.

records   the rows, as small frozen records (no import of a database)
store     Catalog: SQLite by SQLAlchemy Core; what it offers is thread-safe and each call is one transaction
places    where the server keeps what belongs to the catalog: index files, state blocks, run records, locks
"""
