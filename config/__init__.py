"""What can be configured. Imports nothing of ours, reads nothing at import."""
