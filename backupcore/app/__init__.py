"""Floor 5: wiring: reads the configuration, loads the drivers, hands the parts to each other."""
