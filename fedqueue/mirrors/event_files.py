"""TensorBoard: an event file for each series, in the folder `FOLDER/MODEL/RUN/SENDER`.

The file itself says what is shown. A mirror that is killed while it writes leaves at most a torn record at the end,
which the next one cuts off; two mirrors write to it in turn. So each point is in it once, whatever happens.
"""

from __future__ import annotations

import fcntl
import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from fedqueue.messages import ArtifactView, ModelView, ProgressView
from fedqueue.messages.feed import MetricsView
from fedqueue.mirrors.series import Point, plain, points_of

# TensorBoard reads every file that has "tfevents" in its name.
_FILE: Final = "events.out.tfevents.fedqueue"
# A file for each model that is followed, called by its id; TensorBoard passes it by.
_FOLLOWED: Final = ".fedqueue"
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_SINGLE: Final = struct.Struct("<f")

# A point as the file has it: name, step, value in single precision, seconds since 1970.
_Shown = tuple[str, int, float, float]


@dataclass
class _File:
    """What is known of an event file: its points, and how far it was read."""

    shown: set[_Shown] = field(default_factory=set)
    end: int = 0


class EventFileMirror:
    """Event files under `folder`, for `tensorboard --logdir FOLDER`."""

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[UUID, Path] = {}
        self._files: dict[Path, _File] = {}

    def recall(self) -> set[UUID]:
        """Those whose files lie there."""
        found = set()
        for file in (self._folder / _FOLLOWED).glob("*"):
            with suppress(ValueError):
                found.add(UUID(file.name))
        return found

    def show(self, model: ModelView, progress: ProgressView, metrics: MetricsView) -> None:  # noqa: ARG002
        """Write the points that are in no event file yet. Raises: OSError."""
        mark = self._mark(model.model_id)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        waiting: dict[Path, list[Point]] = {}
        for point in points_of(model, metrics):
            waiting.setdefault(self._place(model, point), []).append(point)
        for place, points in waiting.items():
            self._add(place, points)

    def lacks(self, model: ModelView, artifact: ArtifactView) -> bool:  # noqa: ARG002
        """Never: TensorBoard shows no files."""
        return False

    def show_artifact(self, model: ModelView, progress: ProgressView, artifact: ArtifactView, file: Path) -> None:
        """Nothing."""

    def leave(self, model_id: UUID) -> None:
        """Its event files stay."""
        self._mark(model_id).unlink(missing_ok=True)
        place = self._places.pop(model_id, None)
        if place is not None:
            self._files = {file: known for file, known in self._files.items() if place not in file.parents}

    def end(self, model_id: UUID) -> None:
        """The same."""
        self.leave(model_id)

    def _mark(self, model_id: UUID) -> Path:
        return self._folder / _FOLLOWED / str(model_id)

    def _place(self, model: ModelView, point: Point) -> Path:
        if model.model_id not in self._places:
            # A model that was given another name stays where it is: elsewhere its points would be shown once more.
            found = sorted(self._folder.glob(f"*{model.model_id}"))
            name = plain(model.name).replace("/", "_")
            title = f"{name} {model.model_id}" if name else str(model.model_id)
            self._places[model.model_id] = found[0] if found else self._folder / title
        return self._places[model.model_id] / (point.run or "run") / (point.sender or "model")

    def _add(self, place: Path, points: list[Point]) -> None:
        file = self._files.setdefault(place, _File())
        events = {_shown(point): point for point in points}
        if file.end and events.keys() <= file.shown:
            return
        place.mkdir(parents=True, exist_ok=True)
        with (place / _FILE).open("a+b") as opened:
            # Where the file system knows no locks, one mirror alone may write.
            with suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX)
            _catch_up(file, opened)
            waiting = [point for shown, point in events.items() if shown not in file.shown]
            if waiting:
                opened.write(_records(waiting, is_first=file.end == 0))
                opened.flush()
                _catch_up(file, opened)


def _catch_up(file: _File, opened: BinaryIO) -> None:
    """Read what was written since, by whomever; cut off what is torn."""
    size = opened.seek(0, io.SEEK_END)
    if size < file.end:  # another file now
        file.shown.clear()
        file.end = 0
    opened.seek(file.end)
    for data in _whole_records(opened.read()):
        file.end += _HEADER.size + len(data) + _FOOTER.size
        event = Event.FromString(data)
        for value in event.summary.value:
            file.shown.add((value.tag, event.step, value.simple_value, event.wall_time))
    if file.end < size:
        opened.truncate(file.end)


def _whole_records(data: bytes) -> Iterator[bytes]:
    """The records up to the first that is torn."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, start)
        begin = start + _HEADER.size
        start = begin + length + _FOOTER.size
        if checksum != masked_crc32c(data[begin - _HEADER.size : begin - _FOOTER.size]) or start > len(data):
            return
        record = data[begin : begin + length]
        if _FOOTER.unpack_from(data, begin + length)[0] != masked_crc32c(record):
            return
        yield record


def _records(points: list[Point], *, is_first: bool) -> bytes:
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    if is_first:
        started = min(point.taken_at for point in points).timestamp()
        writer.write(Event(wall_time=started, file_version="brain.Event:2").SerializeToString())
    for point in points:
        name, step, single, taken_at = _shown(point)
        value = Summary.Value(tag=name, simple_value=single)
        writer.write(Event(wall_time=taken_at, step=step, summary=Summary(value=[value])).SerializeToString())
    return buffer.getvalue()


def _shown(point: Point) -> _Shown:
    try:
        single: float = _SINGLE.unpack(_SINGLE.pack(point.value))[0]
    except OverflowError:
        single = float("inf") if point.value > 0 else float("-inf")
    return point.name, point.step, single, point.taken_at.timestamp()
