"""MLflow: one run for each run of a model, found again by its tags."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from fedqueue.messages import ModelView
from fedqueue.messages.feed import MetricsView
from fedqueue.mirrors.series import points_of

_MODEL: Final = "fedqueue.model_id"
_RUN: Final = "fedqueue.run_id"
_VERSIONS: Final = "fedqueue.versions"
_AT_ONCE: Final = 1000  # metrics that one request takes


class MlflowMirror:
    """A tracking server, or what else a tracking URI names. `experiment` is made if it is not there."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self._runs: dict[tuple[str, str], str] = {}
        self._there: dict[tuple[str, str], set[tuple[int, float]]] = {}

    def show_metrics(self, model: ModelView, metrics: MetricsView) -> None:
        """Log what MLflow has not yet; what another process of ours has logged it is asked for once."""
        waiting: dict[str, list[Metric]] = {}
        for point in points_of(metrics):
            run = self._run(model, point.run)
            key = point.name if not point.sender else f"{point.name}/{point.sender}"
            there = self._known(run, key)
            if (point.step, point.value) not in there:
                waiting.setdefault(run, []).append(Metric(key, point.value, int(time.time() * 1000), point.step))
        for run, new in waiting.items():
            for start in range(0, len(new), _AT_ONCE):
                some = new[start : start + _AT_ONCE]
                self._client.log_batch(run, metrics=some)
                for metric in some:
                    self._known(run, metric.key).add((metric.step, metric.value))

    def show_artifact(self, model: ModelView, version: str, data: bytes, details: dict[str, Any]) -> None:
        """A file `published/VERSION/model.…` of the model's newest run, and a tag of its digest."""
        run = self._run(model, self._newest(model))
        suffix = "json" if model.data_format == "json" else "safetensors"
        with tempfile.TemporaryDirectory(prefix="fedqueue-") as folder:
            file = Path(folder) / f"model.{suffix}"
            file.write_bytes(data)
            self._client.log_artifact(run, str(file), artifact_path=f"published/{version}")
        self._client.set_tag(run, f"{_VERSIONS}.{version}", str(details["digest"]))

    def _newest(self, model: ModelView) -> str:
        runs = [run for shown, run in self._runs if shown == str(model.model_id)]
        return runs[-1] if runs else ""

    def _run(self, model: ModelView, run: str) -> str:
        key = (str(model.model_id), run)
        if key not in self._runs:
            wanted = f"tags.`{_MODEL}` = '{key[0]}' and tags.`{_RUN}` = '{run or '-'}'"
            found = self._client.search_runs([self._experiment], wanted, max_results=1)
            if found:
                self._runs[key] = found[0].info.run_id
            else:
                name = model.name or key[0]
                tags = {_MODEL: key[0], _RUN: run or "-", "fedqueue.model": name}
                made = self._client.create_run(self._experiment, tags=tags, run_name=name)
                self._runs[key] = made.info.run_id
        return self._runs[key]

    def _known(self, run: str, key: str) -> set[tuple[int, float]]:
        if (run, key) not in self._there:
            history = self._client.get_metric_history(run, key)
            self._there[run, key] = {(metric.step, metric.value) for metric in history}
        return self._there[run, key]
