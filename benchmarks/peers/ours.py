"""fedqueue's engine on files, exactly as `python -m worker combine` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.serving import Method, Request, serve
from tasks.aggregation import Engine, known_aggregators
from worker.combining import Combination, CombinationFailed, UpdateFile, combine_files


def _aggregator(name: str) -> Method:
    def method(request: Request) -> None:
        nothing = [None] * len(request.files)
        losses: Sequence[float | None] = request.losses or nothing
        steps: Sequence[int | None] = request.num_steps or nothing
        updates = [
            UpdateFile(Path(file), count, num_steps=taken, loss=loss)
            for file, count, taken, loss in zip(request.files, request.num_examples, steps, losses, strict=True)
        ]
        combination = Combination(
            name,
            updates,
            Path(request.out),
            request.params,
            current=Path(request.current) if request.current else None,
            threads=request.threads,
            engine=Engine(request.engine),
        )
        try:
            outcome = combine_files(combination)
        except CombinationFailed as error:
            raise ValueError(str(error)) from error
        # Like the others': until the last byte is written. That it is on disk, too, comes on top.
        request.seconds = outcome.seconds
        request.facts = {"seconds_to_disk": outcome.seconds_to_disk, **outcome.report.facts}

    return method


if __name__ == "__main__":
    serve({name: _aggregator(name) for name in known_aggregators()})
