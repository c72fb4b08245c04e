"""MLflow's server, asked as its own programs ask it."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Tracking:
    """A tracking server. All raise: OSError where it does not answer."""

    url: str

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            with self._open(f"{self.url}/health", 2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, what: str, **body: Any) -> dict[str, Any]:
        """What it answers to a question of its REST interface."""
        with self._open(f"{self.url}/api/2.0/mlflow/{what}", 30, json.dumps(body).encode()) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def runs_of(self, model: object, experiment: str = "fedqueue") -> list[dict[str, Any]]:
        """The runs that show the model, the oldest first."""
        named = self.ask("experiments/search", max_results=10, filter=f"name = '{experiment}'")
        ids = [each["experiment_id"] for each in named.get("experiments", [])]
        wanted = f"tags.`fedqueue.model_id` = '{model}'"
        order = ["attributes.start_time ASC"]
        found: list[dict[str, Any]] = []
        if ids:
            found = self.ask("runs/search", experiment_ids=ids, filter=wanted, order_by=order).get("runs", [])
        return found

    def tags(self, run: dict[str, Any]) -> dict[str, str]:
        """The run's tags."""
        return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}

    def keys(self, run: dict[str, Any]) -> list[str]:
        """What the run has metrics of."""
        return [metric["key"] for metric in run["data"].get("metrics", [])]

    def history(self, run: dict[str, Any], key: str) -> list[tuple[int, float]]:
        """(step, value) of every point of the metric, ascending; one that is there twice comes twice."""
        found: list[tuple[int, float]] = []
        token = ""
        while True:
            asked = {"run_id": run["info"]["run_id"], "metric_key": key, "max_results": 1000}
            page = self._get("api/2.0/mlflow/metrics/get-history", **asked, **({"page_token": token} if token else {}))
            found += [(int(metric["step"]), float(metric["value"])) for metric in page.get("metrics", [])]
            token = page.get("next_page_token", "")
            if not token:
                return sorted(found)

    def files(self, run: dict[str, Any], path: str) -> list[str]:
        """The paths of the run's files in that folder."""
        page = self._get("api/2.0/mlflow/artifacts/list", run_id=run["info"]["run_id"], path=path)
        return [file["path"] for file in page.get("files", [])]

    def digest(self, run: dict[str, Any], path: str) -> str:
        """The sha256 of a file's bytes."""
        place = f"{self.url}/get-artifact?{urlencode({'run_uuid': run['info']['run_id'], 'path': path})}"
        with self._open(place, 60) as answer:
            return hashlib.file_digest(answer, "sha256").hexdigest()

    def _get(self, what: str, **asked: object) -> dict[str, Any]:
        with self._open(f"{self.url}/{what}?{urlencode(asked)}", 30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _open(self, place: str, seconds: float, body: bytes | None = None) -> Any:
        request = urllib.request.Request(place, body, {"Content-Type": "application/json"})  # noqa: S310
        return urllib.request.urlopen(request, timeout=seconds)  # noqa: S310  # a server of our own
