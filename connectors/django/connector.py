"""The metadata connector of an FMA deployment's database."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

from sqlalchemy import inspect

from connectors.django.errors import MigrationFailed, NoDeployment
from connectors.django.tables import METADATA
from connectors.django.takeover import Takeover
from connectors.errors import DatabaseUnsuitable

_LONGEST_SAID: Final = 2000
_LONGEST_MIGRATION_SECONDS: Final = 3600


class DjangoMetadataConnector(Takeover):
    """An FMA deployment's database, SQLite or PostgreSQL, with the hub's tables beside FMA's (docs/decisions/0009).

    `DjangoMetadataConnector(url, media="/srv/fma/media", migrate_command="/srv/fma/bin/python manage.py migrate")`.
    """

    def __init__(
        self,
        url: str,
        *,
        media: str | Path,
        migrate_command: str | None = None,
        pool_size: int = 5,
        pool_timeout: float = 30.0,
    ) -> None:
        """`migrate_command` is split as a shell would, and run without one.

        Raises: DatabaseUnsuitable for a database that Django's FMA does not work on.
        """
        super().__init__(url, media=media, pool_size=pool_size, pool_timeout=pool_timeout)
        if self.engine.dialect.name not in ("sqlite", "postgresql"):
            raise DatabaseUnsuitable(f"FMA works on SQLite or PostgreSQL, not on {self.engine.dialect.name}")
        self._migrate_command = migrate_command

    def migrate_database(self, *, contract: bool) -> str | None:
        """The deployment's own tables first, by its own command where one is configured; then the hub's beside them.

        Raises: MigrationFailed, NoDeployment, DatabaseUnavailable.
        """
        if self._migrate_command is not None:
            if self.engine.dialect.name == "sqlite":
                # Into WAL mode first: a worker that looks meanwhile whether it may begin would otherwise make that
                # switch in the midst of Django's migrations, and these would find the database locked.
                with self._faults_named(), self.engine.connect():
                    pass
            _run(self._migrate_command)
        self._check_deployment()
        return super().migrate_database(contract=contract)

    def check(self) -> None:
        """As the SQL connector. Raises: NoDeployment, too."""
        super().check()
        with self._faults_named():
            self._check_deployment()

    def _check_deployment(self) -> None:
        missing = METADATA.tables.keys() - set(inspect(self._reader).get_table_names())
        if missing:
            raise NoDeployment(sorted(missing))


def _run(command: str) -> None:
    # None of the hub's settings: they may hold passwords, and are none of the deployment's business.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDQUEUE_")}
    try:
        done = subprocess.run(
            shlex.split(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST_MIGRATION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise MigrationFailed(command, -1, str(error)) from error
    if done.returncode != 0:
        raise MigrationFailed(command, done.returncode, done.stdout[-_LONGEST_SAID:].strip())
