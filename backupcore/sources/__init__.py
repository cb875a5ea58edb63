"""Floor 3: the built-in sources drivers, registered through the hooks of hookspecs/ as a third party's."""
