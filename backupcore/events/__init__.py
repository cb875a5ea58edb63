"""Floor 3: the built-in events drivers, registered through the hooks of hookspecs/ as a third party's."""
