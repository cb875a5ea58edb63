"""Floor 3: runs, dumps, copies: the server's memory, a cache that images can rebuild."""
