"""Floor 3: what runs on a client: walk, archive, extract. Standard library only, Python 3.8."""
