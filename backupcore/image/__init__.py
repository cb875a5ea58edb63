"""Floor 2: what a dump is on disk: archive, frames, parts, index, frame table, manifest."""
