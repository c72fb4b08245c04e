"""Flower on a hub: the app is in `digits_app`, as its users have it; the rest of this folder runs it to the end."""
