"""What a transaction sees of those beside it: READ COMMITTED, which the guarded updates are enough for."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from connectors.sql.engine import open_engine
from tests.contract.conftest import database_url


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that has servers."""
    return database_url(request, tmp_path)


def test_a_transaction_sees_what_others_commit_meanwhile(url: str) -> None:
    """By its own default MariaDB goes on reading what stood when the transaction began, and decides by that."""
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE seen (x INTEGER)"))
    with engine.connect() as first, engine.connect() as second:
        assert first.execute(text("SELECT COUNT(*) FROM seen")).scalar() == 0
        second.execute(text("INSERT INTO seen VALUES (1)"))
        assert first.execute(text("SELECT COUNT(*) FROM seen")).scalar() == 0, "not committed yet"
        second.commit()
        assert first.execute(text("SELECT COUNT(*) FROM seen")).scalar() == 1
    engine.dispose()
