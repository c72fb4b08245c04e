"""The promise under everything else: who computes, and in what pieces, changes no byte."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation import UpdateArrays, combine, known_aggregators
from tasks.aggregation.kernels import SEGMENT

BF16: Any = ml_dtypes.bfloat16
DTYPES: list[Any] = [np.float64, np.float32, np.float16, BF16, np.int64]

# Parameters that five to eight updates allow; a new aggregator is missed by the test below until it is here.
PARAMS: dict[str, dict[str, Any]] = {
    "average_layers": {},
    "avg_values_if_data": {},
    "bulyan": {"num_byzantine": 0},
    "centered_clipping": {"tau": 40.0},
    "dp_fedavg": {"clip": 40.0, "noise_multiplier": 1.0, "delta": 1e-5},
    "fedadagrad": {},
    "fedadam": {"bias_correction": "kingma"},
    "fedasync": {"staleness_function": "polynomial"},
    "fedavg": {},
    "fedavgm": {"server_momentum": 0.9},
    "fedbuff": {"buffer_size": 5},
    "feddyn": {"alpha": 0.1, "num_clients": 10},
    "fednova": {},
    "fedyogi": {},
    "fltrust": {},  # and a root update, below
    "geometric_median": {},
    "krum": {"num_byzantine": 1},
    "median": {},
    "multi_krum": {"num_byzantine": 1, "m": 2},
    "norm_clipping": {"tau": 40.0},
    "qfedavg": {},
    "scaffold": {"local_learning_rate": 0.1, "num_clients": 10},
    "trimmed_mean": {"beta": 0.2},
}


def test_every_aggregator_is_held_to_it() -> None:
    assert set(PARAMS) == set(known_aggregators())


def _rounds(aggregator: str, rounds: list[tuple[Any, list[UpdateArrays]]], **how: Any) -> bytes:
    """Everything that two rounds leave, as bytes."""
    left, state = b"", None
    for current, updates in rounds:
        params = PARAMS[aggregator] | ({"root_update": updates[0].arrays} if aggregator == "fltrust" else {})
        combined = combine(aggregator, params, updates, current=current, state=state, noise_seed=b"0" * 32, **how)
        state = combined.state
        for arrays in (combined.arrays, state or {}):
            left += b"".join(name.encode() + array.tobytes() for name, array in sorted(arrays.items()))
        left += repr((combined.report.facts, combined.report.weights)).encode()
    return left


def _make(seed: int, count: int, tensors: list[tuple[Any, int]]) -> list[tuple[Any, list[UpdateArrays]]]:
    rng = np.random.default_rng(seed)

    def arrays() -> dict[str, Any]:
        return {f"t{i}": (rng.normal(size=size) * 9).astype(dtype) for i, (dtype, size) in enumerate(tensors)}

    first, second = arrays(), arrays()
    return [
        (
            current,
            [
                UpdateArrays(
                    arrays(),
                    num_examples=float(rng.uniform(1, 99)),
                    base=first if rng.random() < 0.3 else None,
                    staleness=int(rng.integers(0, 4)),
                    num_steps=int(rng.integers(1, 9)),
                    loss=float(rng.uniform(0.1, 2)),
                )
                for _ in range(count)
            ],
        )
        for current in (first, second)
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(sorted(PARAMS)),
    st.integers(5, 8),
    st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 3000)), min_size=1, max_size=4),
    st.sampled_from([1, 4000, 70_000, 1 << 20, 1 << 28]),
    st.integers(1, 4),
    st.sampled_from(["numpy", "numba"]),
)
def test_the_same_updates_give_the_same_bytes_however_they_are_computed(
    seed: int,
    aggregator: str,
    count: int,
    tensors: list[tuple[Any, int]],
    budget_bytes: int,
    threads: int,
    engine: str,
) -> None:
    rounds = _make(seed, count, tensors)
    expected = _rounds(aggregator, rounds, engine="numpy", threads=1)
    assert _rounds(aggregator, rounds, engine=engine, threads=threads, budget_bytes=budget_bytes) == expected


@pytest.mark.parametrize("aggregator", sorted(PARAMS))
def test_many_segments_on_many_threads_give_the_same_bytes(aggregator: str) -> None:
    """Long enough that threads truly overtake each other."""
    rounds = _make(1, 6, [(np.float32, 3 * SEGMENT + 5), (BF16, SEGMENT + 1), (np.float32, 7)])
    expected = _rounds(aggregator, rounds, engine="numpy", threads=1)
    for engine, threads, budget in (("numba", 4, 1 << 28), ("numba", 2, 1 << 20), ("numpy", 3, 1 << 22)):
        assert _rounds(aggregator, rounds, engine=engine, threads=threads, budget_bytes=budget) == expected
