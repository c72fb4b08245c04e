"""fedqueue for those who use a hub: the wire messages and, soon, a client."""
