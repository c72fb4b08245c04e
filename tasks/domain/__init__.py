"""The rules of the hub: no Celery, no SQLAlchemy, only records and the connectors' base classes."""
