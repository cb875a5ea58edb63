"""Floor 6: the command line: a file per verb; the only place that prints, exits and tells errors."""
