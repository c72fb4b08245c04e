"""The version after this one, as far as migrations go: this one's steps, one that only adds, one that takes away."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Final

from connectors.sql.migrate import newest_revision

EXPANDED: Final = "9001"
CONTRACTED: Final = "9002"


def add_next_version(migrations: Path, *, drops: str | None = None) -> None:
    """Add both steps to a folder of migrations. `drops`: a column of the models' that the second one takes away."""
    newest = newest_revision()
    add_step(
        migrations,
        EXPANDED,
        newest,
        _oldest_of(migrations, newest),
        """
        op.create_table("colour", sa.Column("id", sa.Integer, primary_key=True))
        op.add_column("federated_model", sa.Column("colour", sa.String(20), nullable=True))
        """,
        """
        op.drop_column("federated_model", "colour")
        op.drop_table("colour")
        """,
    )
    if drops is None:
        up, down = 'op.drop_table("colour")', 'op.create_table("colour", sa.Column("id", sa.Integer, primary_key=True))'
    else:
        up = f'op.drop_column("federated_model", "{drops}")'
        down = f'op.add_column("federated_model", sa.Column("{drops}", sa.Text))'
    add_step(migrations, CONTRACTED, EXPANDED, EXPANDED, up, down)


def add_step(migrations: Path, revision: str, after: str, oldest_code: str, up: str, down: str) -> None:
    """Write one migration."""
    body = "\n".join(
        [
            "import sqlalchemy as sa",
            "from alembic import op",
            f'revision, down_revision, branch_labels, depends_on = "{revision}", "{after}", None, None',
            f'oldest_code = "{oldest_code}"',
            "def upgrade():",
            *("    " + line for line in dedent(up).strip().splitlines()),
            "def downgrade():",
            *("    " + line for line in dedent(down).strip().splitlines()),
        ]
    )
    (migrations / "versions" / f"{revision}_next.py").write_text(body + "\n")


def _oldest_of(migrations: Path, revision: str) -> str:
    """The oldest code that the step says may work after it: one that only adds says the same."""
    (script,) = (migrations / "versions").glob(f"{revision}_*.py")
    (line,) = [line for line in script.read_text().splitlines() if line.startswith("oldest_code")]
    return line.partition("=")[2].strip().strip('"')
