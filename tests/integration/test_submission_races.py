"""A submission and what moves its model at the same moment, on databases whose locks are real."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.records import ModelStatus
from connectors.sql.connector import SqlAlchemyMetadataConnector
from tasks.domain.errors import ModelIsOver, Refused
from tasks.domain.submission import submit_update
from tests.chaos.domain_hub import add_model, domain_hub, submission
from tests.contract.conftest import database_url
from tests.waiting import run_until_it_waits


@pytest.fixture(params=["sqlite", "postgresql"])
def metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlAlchemyMetadataConnector]:
    made = SqlAlchemyMetadataConnector(database_url(request, tmp_path))
    made.update_database()
    yield made
    made.close()


def test_a_submission_waits_for_who_moves_its_model_and_is_judged_by_the_outcome(
    metadata: SqlAlchemyMetadataConnector, tmp_path: Path
) -> None:
    """The run was open when its data were read; it is being stopped while the row is to be written."""
    hub = domain_hub(metadata, tmp_path)
    model, (one,) = add_model(hub, 1)
    message = submission(hub, model, one, 1.0)
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(submit_update(hub, message))
        except Refused as refused:
            answers.append(refused)

    asking = threading.Thread(target=ask)
    with metadata.transaction():
        metadata.update_model_status(model, ModelStatus.STOPPED)
        run_until_it_waits(asking, metadata)
        assert asking.is_alive(), "it does not wait for the model's row: this shows nothing"
    asking.join(30)
    assert [type(answer) for answer in answers] == [ModelIsOver]
    assert metadata.pull_model_updates(model) == []
