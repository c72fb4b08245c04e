"""Participants in Node.js, by nothing but docs/wire.md."""
