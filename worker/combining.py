"""Combining model files into a file: the engine of the rounds, with no database, no broker and no settings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from connectors.errors import BlobMissing, ConnectorError
from connectors.model_data import TensorReader
from connectors.records import TensorSpec
from connectors.storage.model_files import ModelFiles, model_file_writers, put_in_place
from tasks.aggregation import (
    DEFAULT_BUDGET_BYTES,
    AggregationError,
    Engine,
    Report,
    UpdateArrays,
    UpdateStream,
    check_params,
    combine,
    combine_streams,
    find_aggregator,
    state_tensors,
)
from tasks.aggregation.kernels.choice import is_worth_loading
from tasks.aggregation.structure import agree_on_structure
from tasks.aggregation.threads import default_threads
from worker.errors import ProcessError


class CombinationFailed(ProcessError):
    """The files could not be combined: nothing was written, and what was there before is still there."""


@dataclass(frozen=True, slots=True)
class UpdateFile:
    """One update in a file, and what weighs it."""

    path: Path
    num_examples: float = 1.0
    num_steps: int | None = None
    loss: float | None = None
    staleness: int = 0
    base: Path | None = None  # the model it was trained from; None: the current one


@dataclass(frozen=True, slots=True)
class Combination:
    """What is to be combined, and where to."""

    aggregator: str
    updates: Sequence[UpdateFile]
    out: Path
    params: Mapping[str, Any] = field(default_factory=dict)  # one that names a model (`root_update`) gives its file
    current: Path | None = None
    state_in: Path | None = None
    state_out: Path | None = None
    threads: int | None = None
    budget_bytes: int = DEFAULT_BUDGET_BYTES
    engine: Engine = Engine.AUTO


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and how long it took."""

    report: Report
    threads: int
    bytes_written: int
    seconds: float  # from the first byte read to the last written
    seconds_to_disk: float  # from the first byte read until all is durable under its name

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        beside = {name: getattr(self, name) for name in ("threads", "bytes_written", "seconds", "seconds_to_disk")}
        return self.report.as_json() | beside


def combine_files(combination: Combination) -> Outcome:
    """Write the combination of the files into `out`, and the state for the next round into `state_out`.

    The updates are summed in the order given. Files appear whole, durable, and both or none.
    Raises: CombinationFailed naming the file at fault; afterwards everything is as it was before.
    """
    try:
        _load_kernels(combination)
        return _combine(combination)
    except AggregationError as error:
        raise CombinationFailed(_with_file(combination, str(error))) from error
    except ConnectorError as error:
        raise CombinationFailed(str(error)) from error


def _combine(combination: Combination) -> Outcome:
    aggregator = combination.aggregator
    algorithm = find_aggregator(aggregator)
    # A parameter that names a model is its file's name here; the engine gets the model beside the parameters.
    params = check_params(aggregator, combination.params)
    named = {name: combination.params[name] for name in algorithm.references if name in combination.params}
    threads = combination.threads or default_threads()
    began = time.perf_counter()
    with ExitStack() as stack:
        readers = _Readers(stack)
        sources = [
            UpdateStream(
                readers.open(update.path),
                num_examples=update.num_examples,
                label=str(update.path),
                base=readers.open_if(update.base),
                staleness=update.staleness,
                num_steps=update.num_steps,
                loss=update.loss,
            )
            for update in combination.updates
        ]
        current, state = readers.open_if(combination.current), readers.open_if(combination.state_in)
        expected = None if current is None else current.tensors
        tensors = agree_on_structure(sources, expected, params.keys)
        outcomes: dict[Path, Sequence[TensorSpec]] = {combination.out: tensors}
        if combination.state_out is not None:
            outcomes[combination.state_out] = _state_of(combination, tensors)
        writers = stack.enter_context(model_file_writers(outcomes))
        report = combine_streams(
            aggregator,
            params,
            sources,
            writers[0],
            current=current,
            state=state,
            state_sink=writers[1] if len(writers) > 1 else None,
            references={name: readers.open(Path(str(path))) for name, path in named.items()},
            expected=tensors,
            budget_bytes=combination.budget_bytes,
            threads=threads,
            engine=combination.engine,
        )
        bytes_written = sum(writer.finish() for writer in writers)
        seconds = time.perf_counter() - began
        put_in_place(writers)
        return Outcome(report, threads, bytes_written, seconds, time.perf_counter() - began)


class _Readers:
    """Every file opened once, however often it is named, and closed with `stack`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._files = ModelFiles()
        self._open: dict[Path, TensorReader] = {}

    def open(self, path: Path) -> TensorReader:
        if path not in self._open:
            try:
                reader = self._files.open(path)
            except BlobMissing as error:
                raise CombinationFailed(f"{path}: there is no such file") from error
            except ConnectorError as error:
                raise CombinationFailed(f"{path}: {error}") from error
            self._open[path] = reader
            self._stack.callback(reader.close)
        return self._open[path]

    def open_if(self, path: Path | None) -> TensorReader | None:
        return None if path is None else self.open(path)


def _state_of(combination: Combination, tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    specs = state_tensors(combination.aggregator, combination.params, tensors)
    assert combination.state_out is not None
    if not specs:
        raise CombinationFailed(f"{combination.state_out}: {combination.aggregator} keeps no state between rounds")
    if combination.state_out.resolve() == combination.out.resolve():
        raise CombinationFailed(f"{combination.out}: the model and the state can't be one file")
    return specs


def _with_file(combination: Combination, reason: str) -> str:
    """The reason with the file's name before it, where it speaks of a model beside the updates."""
    beside: dict[str, Any] = {"the current model": combination.current}
    beside |= {f"the model {name!r}": path for name, path in combination.params.items()}
    beside |= {f"{combination.aggregator}: its state": combination.state_in}
    file = next((path for what, path in beside.items() if path is not None and reason.startswith(what)), None)
    return reason if file is None else f"{file}: {reason}"


def _load_kernels(combination: Combination) -> None:
    """Have the compiled kernels in the process before the clock starts, where so many bytes will be computed by them.

    They load when first called, which takes longer than many a combination: so a rehearsal, one number an update.
    """
    total = 0
    for update in combination.updates:
        with suppress(OSError):  # it is said of the file when it is opened
            total += update.path.stat().st_size
    if not is_worth_loading(combination.engine, total):
        return
    tiny = {"w": np.ones(1, np.float32)}
    rehearsed = [
        UpdateArrays(tiny, update.num_examples, tiny, update.staleness, update.num_steps, update.loss)
        for update in combination.updates
    ]
    references = dict.fromkeys(find_aggregator(combination.aggregator).references, tiny)
    with suppress(AggregationError):  # what is wrong is said of the files
        combine(
            combination.aggregator, {**combination.params, **references}, rehearsed, current=tiny, engine=Engine.NUMBA
        )
