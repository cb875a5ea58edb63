"""Floor 4: what happened, from the catalog only."""
