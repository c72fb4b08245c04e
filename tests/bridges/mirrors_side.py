"""Run by test_mirrors.py where MLflow and TensorBoard are installed, and pytest is not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import TestCase
from uuid import UUID

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedqueue.mirrors.event_files import EventFileMirror
from fedqueue.mirrors.mlflow_runs import MlflowMirror
from tests.bridges.mirrored import MODEL, RUNS, artifact_view, joined, metrics_view, model_view, progress_view

VALUES = [0.5, 0.25, 0.25, 1 / 3]


def scalars(folder: Path, tag: str = "loss") -> list[tuple[int, float]]:
    """As TensorBoard itself reads them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


class EventFiles(TestCase):
    """TensorBoard's."""

    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = Path(place.name) / "events"
        self.series = self.folder / f"digits {MODEL}" / str(RUNS[0]) / "model"
        self.file = self.series / "events.out.tfevents.fedqueue"

    def show(self, values: list[float], **changes: Any) -> EventFileMirror:
        """By a mirror that has just been started."""
        mirror = EventFileMirror(self.folder)
        mirror.show(model_view(**changes), progress_view(), metrics_view(values))
        return mirror

    def test_a_file_that_was_torn_anywhere_is_made_whole(self) -> None:
        """A mirror may be killed after any byte. Equal values at another time are points of their own."""
        self.show(VALUES)
        whole = self.file.read_bytes()
        assert [step for step, _ in scalars(self.series)] == [1, 2, 3, 4]
        for size in range(len(whole)):
            self.file.write_bytes(whole[:size])
            self.show(VALUES)
            assert self.file.read_bytes() == whole, size
            self.file.write_bytes(whole[:size] + bytes(100))  # what a crash of the machine may leave
            self.show(VALUES)
            assert self.file.read_bytes() == whole, size

    def test_two_mirrors_write_to_one_file_in_turn(self) -> None:
        mirrors = EventFileMirror(self.folder), EventFileMirror(self.folder)
        for number in range(1, 11):
            for mirror in mirrors:
                mirror.show(model_view(), progress_view(), metrics_view([float(x) for x in range(number)]))
        assert scalars(self.series) == [(x + 1, float(x)) for x in range(10)]

    def test_a_model_with_another_name_stays_where_it_is(self) -> None:
        self.show(VALUES)
        self.show(VALUES, name="lungs")
        assert [path.name for path in self.folder.iterdir() if path.name != ".fedqueue"] == [f"digits {MODEL}"]

    def test_a_number_too_large_for_it_is_shown_as_infinite(self) -> None:
        self.show([1e300, 1.0])
        self.show([1e300, 1.0])
        assert scalars(self.series) == [(1, float("inf")), (2, 1.0)]

    def test_who_is_followed_is_recalled_until_it_is_left(self) -> None:
        mirror = self.show(VALUES)
        assert EventFileMirror(self.folder).recall() == {MODEL}
        mirror.leave(MODEL)
        assert EventFileMirror(self.folder).recall() == set()
        assert len(scalars(self.series)) == 4


class Runs(TestCase):
    """MLflow's, in a database of its own."""

    place: tempfile.TemporaryDirectory[str]
    uri: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.place = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.place.cleanup)
        cls.uri = f"sqlite:///{cls.place.name}/mlflow.db"

    def setUp(self) -> None:
        self.client = MlflowClient(tracking_uri=self.uri)
        # An experiment of its own for each test.
        name = self.id()
        self.experiment = self.client.create_experiment(name, artifact_location=f"{self.place.name}/{name}")

    def mirror(self) -> MlflowMirror:
        """One that has just been started."""
        return MlflowMirror(self.uri, self.id())

    def runs(self) -> dict[str, Any]:
        """By the name of the model's run; those that were deleted are not among them."""
        found = self.client.search_runs([self.experiment])
        assert len({run.data.tags["fedqueue.run_id"] for run in found}) == len(found)
        return {run.data.tags["fedqueue.run_id"]: run for run in found}

    def history(self, key: str = "loss", run: UUID = RUNS[0]) -> list[tuple[int, float]]:
        metrics = self.client.get_metric_history(self.runs()[str(run)].info.run_id, key)
        return sorted((metric.step, metric.value) for metric in metrics)

    def test_a_point_is_logged_once_by_however_many(self) -> None:
        """Also where both have seen that it is not there yet."""
        wanted = list(enumerate(VALUES, 1))
        first, second = self.mirror(), self.mirror()
        for mirror in (first, second):
            mirror.show(model_view(), progress_view(), metrics_view([]))
            assert mirror._known(mirror._run(model_view(), str(RUNS[0])), "loss") == set()
        for mirror in (first, second, self.mirror(), first):
            mirror.show(model_view(), progress_view(), metrics_view(VALUES))
            assert self.history() == wanted

    def test_a_run_that_was_made_twice_in_one_moment_is_one(self) -> None:
        first = self.mirror()
        first.show(model_view(), progress_view(), metrics_view(VALUES))
        kept = self.runs()[str(RUNS[0])]
        # As another mirror makes it which has looked just before.
        self.client.create_run(self.experiment, tags=kept.data.tags, start_time=kept.info.start_time - 1)
        second = self.mirror()
        second.show(model_view(), progress_view(), metrics_view(VALUES))
        assert self.runs()[str(RUNS[0])].info.run_id != kept.info.run_id, "the oldest stays"
        # The first finds its run gone when it logs, and then turns to the other one.
        with self.assertRaises(MlflowException):  # noqa: PT027  # there is no pytest there
            first.show(model_view(), progress_view(), metrics_view([*VALUES, 7.0]))
        first.show(model_view(), progress_view(), metrics_view([*VALUES, 7.0]))
        assert self.history() == list(enumerate([*VALUES, 7.0], 1))

    def test_a_refused_metric_holds_up_no_other(self) -> None:
        mirror = self.mirror()
        log_batch = mirror._client.log_batch

        def refuse(run: str, metrics: Any) -> None:
            if any(metric.value == 0.25 for metric in metrics):
                raise MlflowException("not this one", error_code=1000)  # INVALID_PARAMETER_VALUE
            log_batch(run, metrics=metrics)

        mirror._client.log_batch = refuse
        with self.assertLogs("fedqueue.mirrors", "ERROR") as said:
            mirror.show(model_view(), progress_view(), metrics_view(VALUES))
        assert self.history() == [(1, 0.5), (4, 1 / 3)]
        assert len(said.output) == 2
        with self.assertNoLogs("fedqueue.mirrors", "ERROR"):
            mirror.show(model_view(), progress_view(), metrics_view(VALUES))

    def test_any_name_is_taken(self) -> None:
        """Of labels, senders and versions; long ones stay apart."""
        labels = ["../x", "a//b", "f1@5 %", "ünï", "x" * 200]
        views = [metrics_view([1.0], label=label, sender="y/" + "z" * 98 + end) for label in labels for end in "ab"]
        self.mirror().show(model_view(), progress_view(), joined(*views))
        keys = self.runs()[str(RUNS[0])].data.metrics
        assert len(keys) == 10, sorted(keys)
        mirror = self.mirror()
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            for version in ("1.0+cpu", "1.0 cpu/../x", "1.0_cpu"):
                mirror.show(model_view(), progress_view(), metrics_view([]))
                assert mirror.lacks(model_view(), artifact_view(version))
                mirror.show_artifact(model_view(), progress_view(), artifact_view(version), Path(file.name))
                assert not mirror.lacks(model_view(), artifact_view(version))
        again = self.mirror()
        again.show(model_view(), progress_view(), metrics_view([]))
        assert not any(again.lacks(model_view(), artifact_view(name)) for name in ("1.0+cpu", "1.0_cpu"))

    def test_a_run_stands_as_the_model_s_does(self) -> None:
        """One that another was begun amid is over; one that was begun anew goes on."""
        mirror = self.mirror()
        late = joined(metrics_view(VALUES), metrics_view(VALUES, run_id=RUNS[1]))
        for status, run, shown in (
            ("INITIATED", RUNS[0], ["RUNNING"]),
            ("STOPPED", RUNS[0], ["KILLED"]),
            ("RUNNING", RUNS[0], ["RUNNING"]),
            ("INITIATED", RUNS[1], ["KILLED", "RUNNING"]),
            ("RESULTS_UPLOADED", RUNS[1], ["KILLED", "FINISHED"]),
        ):
            mirror.show(model_view(), progress_view(status, run), late if run == RUNS[1] else metrics_view(VALUES))
            found = self.runs()
            assert [found[str(run)].info.status for run in RUNS[: len(shown)]] == shown, status
        # Ended a moment ago: its last points may be on their way.
        assert self.mirror().recall() == {MODEL}
        for found_run in self.runs().values():
            self.client.set_terminated(found_run.info.run_id, end_time=1000)
        assert self.mirror().recall() == set()

    def test_a_deleted_model_s_run_is_over(self) -> None:
        self.mirror().show(model_view(), progress_view(), metrics_view(VALUES))
        assert self.mirror().recall() == {MODEL}
        self.mirror().end(MODEL)
        assert self.runs()[str(RUNS[0])].info.status == "KILLED"
