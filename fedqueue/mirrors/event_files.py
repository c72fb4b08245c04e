"""TensorBoard: a folder of event files for each series, `FOLDER/MODEL/RUN/SENDER`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from fedqueue.messages import ModelView
from fedqueue.messages.feed import MetricsView
from fedqueue.mirrors.series import Point, plain, points_of

# Beside the event files: which points are in them. They can only be added to, and are slow to read.
_SHOWN: Final = "shown.json"


class EventFileMirror:
    """Event files under `folder`, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown: dict[Path, set[tuple[str, int, float]]] = {}

    def show_metrics(self, model: ModelView, metrics: MetricsView) -> None:
        """Write the points that are in no event file yet."""
        waiting: dict[Path, list[Point]] = {}
        for point in points_of(metrics):
            place = self._place(model, point)
            if (point.name, point.step, point.value) not in self._known(place):
                waiting.setdefault(place, []).append(point)
        for place, points in waiting.items():
            self._write(place, points)

    def show_artifact(self, model: ModelView, version: str, data: bytes, details: dict[str, Any]) -> None:
        """Nothing: TensorBoard shows no files."""

    def _place(self, model: ModelView, point: Point) -> Path:
        name = plain(model.name).replace("/", "_")
        title = f"{name} {model.model_id}" if name else str(model.model_id)
        return self._folder / title / (point.run or "run") / (point.sender.replace("/", "_") or "model")

    def _write(self, place: Path, points: list[Point]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        writer = EventFileWriter(str(place))
        try:
            for point in points:
                value = Summary.Value(tag=point.name, simple_value=point.value)
                writer.add_event(Event(wall_time=time.time(), step=point.step, summary=Summary(value=[value])))
        finally:
            writer.close()
        shown = self._known(place) | {(point.name, point.step, point.value) for point in points}
        # Only now: a crash in between shows these points twice, and loses none.
        new = place / f"{_SHOWN}.new"
        new.write_text(json.dumps(sorted(shown)), encoding="utf-8")
        new.replace(place / _SHOWN)
        self._shown[place] = shown

    def _known(self, place: Path) -> set[tuple[str, int, float]]:
        if place not in self._shown:
            try:
                listed = json.loads((place / _SHOWN).read_text(encoding="utf-8"))
            except FileNotFoundError:
                listed = []
            self._shown[place] = {(str(name), int(step), float(value)) for name, step, value in listed}
        return self._shown[place]
