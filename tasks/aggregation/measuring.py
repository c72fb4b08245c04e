"""Passes over all updates before they are combined: distances, norms, whatever an aggregator must know first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.kernels import SEGMENT
from tasks.aggregation.registry import Fold, Measuring, Needs
from tasks.aggregation.streams import Array, FloatArray, TensorSpec
from tasks.aggregation.walk import Walk, find_culprit


def measure(measuring: Measuring, walk: Walk, budget_bytes: int) -> Needs:
    """What the aggregator needs, once it has had its passes.

    A segment's length is fixed, not the budget's, and sums are added in order: the bytes are the same on any machine.
    Memory: a fold's sums wait for their turn, as many as the budget has room for.
    Raises: what the aggregator raises; UpdateUnusable (NOT_FINITE).
    """
    try:
        fold = next(measuring)
        while True:
            fold = measuring.send(_sum(fold, walk, budget_bytes))
    except StopIteration as end:
        needs = end.value
        assert isinstance(needs, Needs), "an aggregator's `needs` returns Needs"
        return needs


def _sum(fold: Fold, walk: Walk, budget_bytes: int) -> FloatArray:
    def of_segment(chunk: Chunk) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):
            part = fold(chunk)
        if not np.isfinite(part).all():
            # Infinite distances of finite values (float64 of 1e200) are left to the aggregator.
            find_culprit(chunk)
        return part

    total: FloatArray | None = None
    # The largest sums are those of pairs; numpy's kernels also hold a few segments in float64.
    pair_bytes = 8 * len(walk.updates) ** 2 // 2
    room = budget_bytes // max(pair_bytes, 4 * 8 * SEGMENT) - 1
    threads = walk.threads
    walk.threads = max(1, min(threads, room))
    try:
        for _chunk, part in walk.run(of_segment, walk.float_tensors, SEGMENT, max(1, min(room, 2 * threads))):
            total = part if total is None else total + part
    finally:
        walk.threads = threads
    return of_segment(_empty_chunk(walk)) if total is None else total


class _Nothing:
    """A model without elements: what a fold gives for it has the shape that the aggregator expects."""

    tensors: tuple[TensorSpec, ...] = ()

    def read(self, name: str, start: int, stop: int) -> Array:  # noqa: ARG002  # as a TensorSource is called
        """No elements."""
        return np.empty(0, np.float64)


def _empty_chunk(walk: Walk) -> Chunk:
    nothing = _Nothing()
    return Chunk(
        updates=tuple(replace(update, source=nothing, base=None) for update in walk.updates),
        indices=tuple(range(len(walk.updates))),
        tensor="",
        dtype="F64",
        start=0,
        stop=0,
        kernels=walk.kernels,
        current_source=nothing,
        references=dict.fromkeys(walk.references, nothing),
    )
