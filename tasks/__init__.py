"""What the worker does: thin Celery tasks over rules (domain) and numerics (aggregation)."""
