"""Alembic's entry: runs on the connection that `connectors.sql.migrate` hands it."""

from __future__ import annotations

from alembic import context

from connectors.sql.rows import Base
from connectors.sql.steps import remember

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    render_as_batch=True,
    # SQLite's DDL is transactional under our own BEGIN IMMEDIATE; Alembic assumes otherwise.
    transactional_ddl=True,
    on_version_apply=remember,
)
with context.begin_transaction():
    context.run_migrations()
