"""Which code may work on which schema: every migration says the oldest that may, and the database remembers it.

So a schema can be changed while workers of the version before run. A step that only adds leaves `oldest_code` as it was
(*expanding*). One that takes away, or asks for more, names the first revision whose code does without (*contracting*):
it may wait, for the code that it belongs to works before it as well, and is applied when no older worker runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, delete, insert, inspect, select

from connectors.errors import SchemaOutdated, SchemaTooNew
from connectors.sql.rows import SchemaStepRow
from connectors.sql.rows.base import now

# What the steps before 0004 would have said: none of them took anything away.
_UNSAID: Final = "0001"


class Chain:
    """The migrations that this code knows, the oldest first."""

    def __init__(self, scripts: ScriptDirectory) -> None:
        self._steps = list(reversed(list(scripts.walk_revisions())))
        self._place = {step.revision: place for place, step in enumerate(self._steps)}

    @property
    def newest(self) -> str:
        """The revision that this code was written for."""
        return self._steps[-1].revision

    def knows(self, revision: str) -> bool:
        """Whether it is one of them."""
        return revision in self._place

    def target(self, found: str | None, *, contract: bool) -> str:
        """How far a database at `found` is to be migrated: to the newest, or to before the first contracting step.

        One that is newer than this code stays where it is.
        """
        if found is None or (contract and found in self._place):
            return self.newest
        if found not in self._place:
            return found
        reached = found
        for step in self._after(found):
            if self._contracts(step):
                break
            reached = step.revision
        return reached

    def waiting(self, found: str | None) -> list[tuple[str, str]]:
        """(revision, its oldest code) of the contracting steps that a database at `found` has before it."""
        if found not in self._place:
            return []
        return [(step.revision, oldest_code(step)) for step in self._after(found) if self._contracts(step)]

    def check(self, found: str | None, allowed: str | None) -> None:
        """Return if this code may work on a database at `found`, which says that code from `allowed` on may.

        Raises: SchemaOutdated, SchemaTooNew.
        """
        if found in self._place:
            # Ahead lie at most steps that take away what this code does without.
            if all(self._contracts(step) for step in self._after(found)):
                return
            raise SchemaOutdated(found, self.newest)
        if found is None:
            raise SchemaOutdated(found, self.newest)
        if allowed not in self._place:
            raise SchemaTooNew(found, allowed, self.newest)

    def _after(self, found: str) -> Sequence[Script]:
        return self._steps[self._place[found] + 1 :]

    def _contracts(self, step: Script) -> bool:
        before = self._steps[self._place[step.revision] - 1]
        return self._place[oldest_code(step)] > self._place[oldest_code(before)]


def oldest_code(step: Script) -> str:
    """The oldest revision whose code may work on the schema after this step."""
    said: str = getattr(step.module, "oldest_code", _UNSAID)
    return said


def remember(
    ctx: MigrationContext,
    step: Any,
    heads: Collection[Any],  # noqa: ARG001  # Alembic's callbacks have these arguments
    run_args: Mapping[str, Any],  # noqa: ARG001
) -> None:
    """Alembic's callback after each step: note, or forget, which code may work after it."""
    connection = ctx.connection
    if connection is None or not inspect(connection).has_table(SchemaStepRow.__tablename__):
        return
    connection.execute(delete(SchemaStepRow).where(SchemaStepRow.revision == step.up_revision_id))
    if step.is_upgrade:
        said = {"revision": step.up_revision_id, "oldest_code": oldest_code(step.up_revision), "applied_at": now()}
        connection.execute(insert(SchemaStepRow).values(said))


def remembered(connection: Connection, revision: str) -> str | None:
    """The oldest code that the database says may work on it at that revision; None if it does not say."""
    if not inspect(connection).has_table(SchemaStepRow.__tablename__):
        return None
    return connection.scalar(select(SchemaStepRow.oldest_code).where(SchemaStepRow.revision == revision))
