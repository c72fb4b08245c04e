"""The SQL metadata connector, put together from its parts, and the door to its migrations."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from connectors.errors import DatabaseUnavailable, SchemaOutdated
from connectors.sql.aggregates import Aggregates
from connectors.sql.feed import Feed
from connectors.sql.migrate import downgrade, newest_revision, revision_of, upgrade
from connectors.sql.models import Models
from connectors.sql.overview import Overviews
from connectors.sql.progress import Progress
from connectors.sql.service import Service


class SqlAlchemyMetadataConnector(Models, Aggregates, Service, Feed, Progress, Overviews):
    """Everything the hub remembers, in SQLite, PostgreSQL or MariaDB.

    `SqlAlchemyMetadataConnector(url)`; the schema is made by `update_database()`.
    """

    def update_database(self) -> None:
        """Migrate the schema to this version's; concurrent callers wait for one another."""
        with self._faults_named():
            upgrade(self.engine)

    def downgrade_database(self, revision: str) -> None:
        """Take the schema back to `revision` ("base": nothing). Data that the older schema has no place for is lost."""
        with self._faults_named():
            downgrade(self.engine, revision)

    def schema_revision(self) -> str | None:
        """The schema's revision; None for an empty database."""
        with self._faults_named():
            return revision_of(self.engine)

    def check(self) -> None:
        """Return if the database answers and its schema is this version's.

        Raises: DatabaseUnavailable, SchemaOutdated.
        """
        try:
            with self._reading() as session:
                session.execute(text("SELECT 1"))
            found = self.schema_revision()
        except DBAPIError as error:
            raise DatabaseUnavailable(f"the database does not answer: {error.orig}") from error
        if found != newest_revision():
            raise SchemaOutdated(found, newest_revision())
