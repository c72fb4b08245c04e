"""`logs`, `metrics` and `progress`, on a real SQLite file: for people in 80 columns, for programs whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner, Result

from config.loading import load_settings
from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel, ModelStatus, NewLog, NewMetric, Trust
from tests.hubs import ROOT, environment
from worker.bootstrap import build_metadata
from worker.cli.main import app

RUN = UUID(int=9)


@pytest.fixture(autouse=True)
def _in_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("FEDQUEUE_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def metadata(home: Path) -> Iterator[BaseMetadataConnector]:
    metadata = build_metadata(load_settings(env_file=None, home=home))
    metadata.update_database()
    yield metadata
    metadata.close()


@pytest.fixture
def model(metadata: BaseMetadataConnector) -> FederatedModel:
    """A run of two trusts in its second round."""
    with metadata.transaction():
        model = metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="digits", max_rounds=3))
        kch = metadata.add_trust(Trust(0, uuid4(), "King's College Hospital", "KCH"))
        uclh = metadata.add_trust(Trust(0, uuid4(), "University College London Hospitals"))
        metadata.set_model_trusts(model, [kch, uclh])
        metadata.update_model_status(model, ModelStatus.INITIATED, run_id=RUN)
        metadata.add_logs(
            [
                typed(model, "ROUND_STARTED", 1),
                typed(model, "CLIENT_RESULT_RECEIVED", 1, trust_id=kch.id, details={"size_bytes": 2_300_000}),
                typed(model, "ROUND_AGGREGATED", 1, details={"returned": 1, "expected": 2}),
                typed(model, "ROUND_STARTED", 2),
                typed(model, None, 2, trust_id=uclh.id, success=False, log="out of memory\n" + "at step 7 " * 12),
            ]
        )
        metadata.add_metrics([point(model, 1, 0.5, kch), point(model, 2, 0.75, kch), point(model, 1, 0.25, uclh)])
    return model


def typed(model: FederatedModel, event_type: str | None, number: int, **fields: object) -> NewLog:
    values = {"model_id": model.id, "event_id": uuid4(), "event_type": event_type, "global_round": number}
    return NewLog(**(values | fields))  # type: ignore[arg-type]


def point(model: FederatedModel, number: int, result: float, trust: Trust) -> NewMetric:
    return NewMetric(
        model_id=model.id,
        event_id=uuid4(),
        trust_id=trust.id,
        label="accuracy",
        x_label="Global Rounds",
        x_value=number,
        result=result,
        global_round=number,
    )


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def said(*arguments: str) -> list[str]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def words(lines: Sequence[str]) -> list[str]:
    """The lines of a feed without their times."""
    return [line[16:].rstrip() for line in lines]


def test_a_feed_is_read_in_order_in_80_columns(model: FederatedModel) -> None:
    lines = said("logs", str(model.uuid))
    assert words(lines) == [
        "                Run initiated",
        "                Round 1 started",
        "  KCH           Round 1 weights uploaded · 2.3 MB",
        "                Round 1 aggregated · 1 of 2 trusts returned",
        "                Round 2 started",
        "! University …  out of memory",
        "                at step 7 at step 7 at step 7 at step 7 at step",
        "                7 at step 7 at step 7 at step 7 at step 7 at",
        "                step 7 at step 7 at step 7",
    ]
    assert max(map(len, lines)) <= 80


def test_the_newest_entries_are_kept_where_there_are_more(model: FederatedModel) -> None:
    assert said("logs", str(model.id), "--limit", "2")[0][32:] == "Round 2 started"


def test_a_run_is_read_by_itself(model: FederatedModel) -> None:
    assert len(json.loads("\n".join(said("logs", str(model.id), "--run", str(RUN), "--json")))) == 6
    assert said("logs", str(model.id), "--run", str(uuid4())) == ["logs: none"]
    assert said("metrics", str(model.id), "--run", str(uuid4())) == ["metrics: none"]


def test_programs_get_an_entry_whole(model: FederatedModel) -> None:
    entries = json.loads("\n".join(said("logs", str(model.uuid), "--json")))
    assert entries[-1]["text"].startswith("out of memory\nat step 7")
    assert (entries[2]["trust"], entries[2]["details"]) == ("KCH", {"size_bytes": 2_300_000})


@pytest.mark.parametrize("command", ["logs", "metrics"])
def test_what_is_no_run_s_id_is_said(command: str, model: FederatedModel) -> None:
    result = run(command, str(model.uuid), "--run", "first")
    assert result.exit_code == 2
    assert "'first' is no run's id" in result.output


def test_metrics_are_a_line_a_series(model: FederatedModel) -> None:
    assert said("metrics", str(model.uuid)) == [
        "accuracy over Global Rounds",
        "              points  first  last  lowest  highest",
        "KCH                2    0.5  0.75     0.5     0.75  ▁█",
        "University …       1   0.25  0.25    0.25     0.25",
    ]


def test_progress_says_where_everybody_is(model: FederatedModel) -> None:
    lines = said("progress", str(model.uuid))
    assert lines[:2] == ["digits · INITIATED", f"round 2 of 3, 1 completed · run {RUN}"]
    assert lines[-2:] == [
        f"  {'KCH':<35}  training  last result in round 1",
        "  University College London Hospitals  dropped   no result yet",
    ]
    assert max(map(len, lines)) <= 80
    assert json.loads("\n".join(said("progress", str(model.uuid), "--json")))["current_round"] == 2


def test_progress_calls_those_who_were_not_expected_by_their_names(
    model: FederatedModel, metadata: BaseMetadataConnector
) -> None:
    with metadata.transaction():
        metadata.register_client(model, UUID(int=7), "ward 7")
        left = metadata.add_trust(Trust(0, uuid4(), "Guy's"))
        metadata.add_logs(
            [
                typed(model, "CLIENT_RESULT_RECEIVED", 2, fl_client_name=str(UUID(int=7))),
                typed(model, "CLIENT_RESULT_RECEIVED", 2, trust_id=left.id),
            ]
        )
    shown = [line.split("  ")[1] for line in said("progress", str(model.uuid))[-2:]]
    assert sorted(shown) == ["Guy's", "ward 7"]


def test_progress_of_a_deleted_model_says_that_it_is(model: FederatedModel, metadata: BaseMetadataConnector) -> None:
    assert json.loads("\n".join(said("progress", str(model.uuid), "--json")))["deleted"] is False
    with metadata.transaction():
        metadata.delete_federated_models([model], "u1")
    assert said("progress", str(model.uuid))[0] == "digits · INITIATED · deleted"
    assert json.loads("\n".join(said("progress", str(model.uuid), "--json")))["deleted"] is True


def test_a_feed_is_followed_as_it_grows(model: FederatedModel, metadata: BaseMetadataConnector, home: Path) -> None:
    """Nothing twice, nothing missed, and Ctrl-C is its usual end."""
    command = [sys.executable, "-m", "worker", "logs", str(model.uuid), "--follow", "--json", "--limit", "1"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["text"].startswith("out of memory")
        for number in (2, 3):
            with metadata.transaction():
                metadata.add_logs([typed(model, "ROUND_AGGREGATED", number), typed(model, "ROUND_STARTED", number + 1)])
            read = [json.loads(process.stdout.readline())["text"] for _ in range(2)]
            assert read == [f"Round {number} aggregated", f"Round {number + 1} started"]
    finally:
        process.send_signal(2)
        rest = process.communicate(timeout=20)[0]
    assert (rest, process.returncode) == ("", 0)
