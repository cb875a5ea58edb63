"""Floor 4: copies from the holding disk to targets, and when a holding image may go."""
