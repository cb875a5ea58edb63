"""Keys of a backup server: for whom dumps are sealed, private keys that are here, and renewing what is wrapped."""
