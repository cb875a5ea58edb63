"""Floor 3: snapshot drivers. Empty until the first one is built."""
