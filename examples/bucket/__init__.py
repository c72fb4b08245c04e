"""The hub with a bucket for a store, and participants with and without credentials for it."""
