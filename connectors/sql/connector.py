"""The SQL metadata connector, put together from its parts, and the door to its migrations."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from connectors.errors import DatabaseUnavailable, SchemaOutdated, SchemaTooNew
from connectors.sql.aggregates import Aggregates
from connectors.sql.feed import Feed
from connectors.sql.letters import Letters
from connectors.sql.limits import SubmissionLoads
from connectors.sql.migrate import check_schema, downgrade, known_steps, revision_of, upgrade
from connectors.sql.models import Models
from connectors.sql.overview import Overviews
from connectors.sql.progress import Progress
from connectors.sql.service import Service


class SqlAlchemyMetadataConnector(Models, Aggregates, Service, Feed, Letters, Progress, Overviews, SubmissionLoads):
    """Everything the hub remembers, in SQLite, PostgreSQL or MariaDB.

    `SqlAlchemyMetadataConnector(url)`; the schema is made by `update_database()`.
    """

    def update_database(self) -> None:
        """Migrate the schema to this version's; concurrent callers wait for one another.

        Steps that shut out older workers are left alone.
        """
        self.migrate_database(contract=False)

    def migrate_database(self, *, contract: bool) -> str | None:
        """The same, and those steps too if `contract` says that no older worker runs; the revision found."""
        with self._faults_named():
            return upgrade(self.engine, contract=contract)

    def downgrade_database(self, revision: str) -> None:
        """Take the schema back to `revision` ("base": nothing). Data that the older schema has no place for is lost."""
        with self._faults_named():
            downgrade(self.engine, revision)

    def schema_revision(self) -> str | None:
        """The schema's revision; None for an empty database."""
        with self._faults_named():
            return revision_of(self._reader)

    def contracting_steps(self) -> list[tuple[str, str]]:
        """(revision, oldest code that it leaves) of the steps that `update_database()` leaves alone."""
        with self._faults_named():
            return known_steps().waiting(revision_of(self._reader))

    def check(self) -> None:
        """Return if the database answers and this version's code may work on its schema.

        Raises: DatabaseUnavailable, SchemaOutdated, SchemaTooNew.
        """
        try:
            with self._reading() as session:
                session.execute(text("SELECT 1"))
            with self._faults_named():
                check_schema(self._reader)
        except DBAPIError as error:
            raise DatabaseUnavailable(f"the database does not answer: {error.orig}") from error

    def _is_left_behind(self) -> bool:
        try:
            check_schema(self._reader)
        except SchemaTooNew:
            return True
        except (DBAPIError, SchemaOutdated):
            pass  # of another kind, as the fault that is asked about
        return False
