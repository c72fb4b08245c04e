"""MLflow: one run for each run of a model, found again by its tags.

A metric's time in MLflow is the hub's: what is logged twice (by two mirrors, or by a request that was repeated) is to
MLflow the same, and is there once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fedqueue.messages import ArtifactView, ModelView, ProgressView
from fedqueue.messages.feed import MetricsView
from fedqueue.mirrors.following import LATE_SECONDS
from fedqueue.mirrors.series import Point, distinct, points_of, shortened

log = logging.getLogger(__name__)

_MODEL: Final = "fedqueue.model_id"
_RUN: Final = "fedqueue.run_id"
_VERSIONS: Final = "fedqueue.versions."
_NAMELESS: Final = "-"  # the run of a model whose runs nobody named
_AT_ONCE: Final = 1000  # metrics that one request takes
_LONGEST_KEY: Final = 250
_STATUSES: Final = {
    "RESULTS_UPLOADED": "FINISHED",
    "RESULTS_UPLOAD_FAILED": "FAILED",
    "ERROR": "FAILED",
    "STOPPED": "KILLED",
}
# By default MLflow's client tries for four minutes, in which nothing else is mirrored. Whoever set it wants it so.
_PATIENCE: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}

# A metric as MLflow has it: milliseconds since 1970, step, value.
_Logged = tuple[int, int, float]


@dataclass
class _Run:
    """What is known of a run there. `logged` by key, as far as it was asked for."""

    id: str
    status: str
    versions: set[str]
    logged: dict[str, set[_Logged]] = field(default_factory=dict)


class MlflowMirror:
    """A tracking server, or what else a tracking URI names. `experiment` is made if it is not there.

    All raise: MlflowException. Connects to nothing before the first call.
    """

    name = "MLflow"

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        for variable, value in _PATIENCE.items():
            os.environ.setdefault(variable, value)
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._experiment_name = experiment
        self._experiment_id = ""
        self._runs: dict[UUID, dict[str, _Run]] = {}

    def recall(self) -> set[UUID]:
        """Those whose runs go on there, or ended a moment ago."""
        lately = int((time.time() - LATE_SECONDS) * 1000)
        found = set()
        for condition in ("attributes.status = 'RUNNING'", f"attributes.end_time > {lately}"):
            for run in self._search(f"tags.`{_MODEL}` LIKE '%-%' and {condition}"):
                with suppress(ValueError):  # anybody may have written a tag
                    found.add(UUID(run.data.tags[_MODEL]))
        return found

    def show(self, model: ModelView, progress: ProgressView, metrics: MetricsView) -> None:
        """Log what MLflow has not yet, and have its runs stand as the model's do."""
        current = str(progress.run_id or _NAMELESS)
        waiting: dict[str, list[Point]] = {}
        for point in points_of(model, metrics):
            waiting.setdefault(point.run or _NAMELESS, []).append(point)
        with self._forgetting(model.model_id):
            self._run(model, current)
            for name, points in waiting.items():
                self._log(self._run(model, name), points)
            for name, run in self._runs[model.model_id].items():
                if name == current:
                    self._set_status(run, _STATUSES.get(progress.status, "RUNNING"))
                elif run.status == "RUNNING":  # another one was begun amid it
                    self._set_status(run, "KILLED")

    def lacks(self, model: ModelView, artifact: ArtifactView) -> bool:
        """Whether no run of the model has the version's tag."""
        return not any(distinct(artifact.version) in run.versions for run in self._runs[model.model_id].values())

    def show_artifact(self, model: ModelView, progress: ProgressView, artifact: ArtifactView, file: Path) -> None:
        """The file as `published/VERSION/model.…` of the present run, and then a tag of its digest."""
        version = distinct(artifact.version)
        with self._forgetting(model.model_id):
            run = self._run(model, str(progress.run_id or _NAMELESS))
            self._client.log_artifact(run.id, str(file), artifact_path=f"published/{version}")
            self._client.set_tag(run.id, _VERSIONS + version, artifact.digest)
            run.versions.add(version)

    def leave(self, model_id: UUID) -> None:
        """What MLflow shows stays."""
        self._runs.pop(model_id, None)

    def end(self, model_id: UUID) -> None:
        """What MLflow shows stays; a run that went on is KILLED."""
        self._runs.pop(model_id, None)
        for run in self._find(model_id).values():
            if run.status == "RUNNING":
                self._set_status(run, "KILLED")

    @contextmanager
    def _forgetting(self, model_id: UUID) -> Iterator[None]:
        """After a failure ask for everything anew: a run may have been deleted, or the server's database be another."""
        try:
            yield
        except Exception:
            self._runs.pop(model_id, None)
            raise

    # --- runs -----------------------------------------------------------------------------------------------------

    def _run(self, model: ModelView, name: str) -> _Run:
        """The run there of a model's run; made if there is none."""
        runs = self._runs.get(model.model_id)
        if runs is None:
            runs = self._runs[model.model_id] = self._find(model.model_id)
        if name not in runs:
            title = model.name or str(model.model_id)
            tags = {_MODEL: str(model.model_id), _RUN: name, "fedqueue.model": title}
            self._client.create_run(self._experiment(), tags=tags, run_name=title)
            # Another mirror may have made one in the same moment: both settle on the same.
            runs[name] = self._find(model.model_id)[name]
        return runs[name]

    def _find(self, model_id: UUID) -> dict[str, _Run]:
        """The model's runs by name. Of several of one name all but the oldest are deleted."""
        found: dict[str, _Run] = {}
        runs = self._search(f"tags.`{_MODEL}` = '{model_id}'")
        for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
            tags = run.data.tags
            if tags.get(_RUN, _NAMELESS) in found:
                self._client.delete_run(run.info.run_id)
                continue
            versions = {name.removeprefix(_VERSIONS) for name in tags if name.startswith(_VERSIONS)}
            found[tags.get(_RUN, _NAMELESS)] = _Run(run.info.run_id, run.info.status, versions)
        return found

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment()], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _experiment(self) -> str:
        if not self._experiment_id:
            found = self._client.get_experiment_by_name(self._experiment_name)
            if found is None:
                self._experiment_id = self._client.create_experiment(self._experiment_name)
            else:
                self._experiment_id = found.experiment_id
        return self._experiment_id

    def _set_status(self, run: _Run, status: str) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status=status)
        run.status = status

    # --- metrics --------------------------------------------------------------------------------------------------

    def _log(self, run: _Run, points: Sequence[Point]) -> None:
        waiting = []
        for point in points:
            key = shortened(f"{point.name}/{point.sender}" if point.sender else point.name, _LONGEST_KEY)
            metric = Metric(key, point.value, int(point.taken_at.timestamp() * 1000), point.step)
            if _logged(metric) not in self._known(run, key):
                self._known(run, key).add(_logged(metric))
                waiting.append(metric)
        for start in range(0, len(waiting), _AT_ONCE):
            self._send(run, waiting[start : start + _AT_ONCE])

    def _known(self, run: _Run, key: str) -> set[_Logged]:
        if key not in run.logged:
            run.logged[key] = {_logged(metric) for metric in self._client.get_metric_history(run.id, key)}
        return run.logged[key]

    def _send(self, run: _Run, metrics: Sequence[Metric]) -> None:
        """Log them; one that MLflow refuses holds up no other, and is told of once."""
        try:
            self._client.log_batch(run.id, metrics=metrics)
        except MlflowException as error:
            is_refused = error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
            if not is_refused or self._client.get_run(run.id).info.lifecycle_stage != "active":
                raise
            if len(metrics) == 1:
                log.error("MLflow refuses a point of %r in run %s: %s", metrics[0].key, run.id, error)
                return
            half = len(metrics) // 2
            self._send(run, metrics[:half])
            self._send(run, metrics[half:])


def _logged(metric: Metric) -> _Logged:
    return metric.timestamp, metric.step, metric.value
