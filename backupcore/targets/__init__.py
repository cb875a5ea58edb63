"""Floor 3: the built-in targets drivers, registered through the hooks of hookspecs/ as a third party's."""
