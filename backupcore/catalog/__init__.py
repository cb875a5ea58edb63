"""Floor 3: runs, dumps, copies: the server's memory, a cache that images can rebuild.

records   the rows, as small frozen records (no import of a database)
store     Catalog: what is asked and written; it is thread-safe and each call is one transaction
database  SQLite by SQLAlchemy Core: connections, transactions that are there for good, schema
places    where the server keeps what belongs to the catalog: index files, state blocks, run records, locks
"""
