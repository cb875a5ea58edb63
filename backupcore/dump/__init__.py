"""Floor 4: the driver of dumps, the transport to clients, the holding disk."""
