"""The engine: same bytes for any chunk size, bounded memory, all or nothing."""

from __future__ import annotations

import threading
import time
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation import UpdateArrays, UpdateStream, UpdateUnusable, combine, combine_streams
from tasks.aggregation.arrays import ArraySink, ArraySource

_DTYPES: list[Any] = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int8, np.uint64]


def _stream(arrays: dict[str, Any], num_examples: float = 1.0, label: str = "") -> UpdateStream:
    return UpdateStream(ArraySource(arrays, 0), num_examples=num_examples, label=label)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(_DTYPES), st.integers(0, 300)), min_size=1, max_size=4),
    st.sampled_from([1, 32, 33, 500, 4096, 1 << 30]),
    st.booleans(),
)
def test_the_same_updates_give_the_same_bytes_for_any_chunk_size(
    seed: int, count: int, tensors: list[tuple[Any, int]], budget_bytes: int, whole_weights: bool
) -> None:
    rng = np.random.default_rng(seed)

    def make() -> UpdateArrays:
        arrays = {
            str(i): (rng.normal(size=size) * 100).clip(0).astype(dtype) for i, (dtype, size) in enumerate(tensors)
        }
        return UpdateArrays(arrays, float(rng.integers(1, 500)) if whole_weights else float(rng.uniform(0.1, 50)))

    updates = [make() for _ in range(count)]
    whole = combine("fedavg", {}, updates)
    pieces = combine("fedavg", {}, updates, budget_bytes=budget_bytes)
    assert whole.report == pieces.report
    for name, array in whole.arrays.items():
        assert pieces.arrays[name].tobytes() == array.tobytes()


def test_another_order_may_give_other_bytes_but_the_same_order_never_does() -> None:
    """Float addition is not associative: that is why a round sorts by id."""
    updates = [UpdateArrays({"w": np.array([value])}) for value in (1e16, 1.0, -1e16)]
    first = combine("fedavg", {}, updates).arrays["w"]
    assert combine("fedavg", {}, updates).arrays["w"].tobytes() == first.tobytes()
    assert (
        combine("fedavg", {}, updates[::-1]).arrays["w"].tobytes()
        != combine("fedavg", {}, [updates[0], updates[2], updates[1]]).arrays["w"].tobytes()
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int64], ids=str)
def test_memory_stays_within_the_budget_however_many_updates(dtype: Any) -> None:
    class Discard:
        def write(self, name: str, start: int, values: Any) -> None:
            pass

    budget = 1 << 20
    shared = ArraySource({"w": np.full(200_000, 2**62 if dtype is np.int64 else 1.5, dtype)}, 0)
    streams = [UpdateStream(shared, num_examples=0.1 + index) for index in range(8)]
    tracemalloc.start()
    try:
        # By numpy, however slow the machine is: loading numba would be counted too, some 36 MiB.
        combine_streams("fedavg", {}, streams, Discard(), budget_bytes=budget, engine="numpy")
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Integers with weights that are not whole take Python's integers: a mebibyte or two of them at a time.
    assert peak < budget + (0 if dtype is np.float32 else 2 << 20)


def test_progress_is_told_after_every_chunk_and_ends_at_all_bytes() -> None:
    told: list[int] = []
    streams = [_stream({"a": np.ones(10), "b": np.ones(5, np.float32)}) for _ in range(2)]
    report = combine_streams(
        "fedavg", {}, streams, ArraySink(), budget_bytes=2 * 4 * 8 * 4, threads=1, on_progress=told.append
    )
    assert told == [2 * 8 * 4, 2 * 8 * 8, 2 * 8 * 10, 160 + 2 * 4 * 4, 160 + 2 * 4 * 5]
    assert report.bytes_read == told[-1]


def test_what_progress_raises_ends_the_work() -> None:
    """So a round stops as soon as its lease is lost."""

    class Lost(Exception):
        pass

    def renew(_bytes_read: int) -> None:
        raise Lost

    sink = ArraySink()
    with pytest.raises(Lost):
        combine_streams("fedavg", {}, [_stream({"w": np.ones(100)})], sink, budget_bytes=32, on_progress=renew)
    assert sum(piece.size for piece in sink._pieces["w"]) == 1


def test_no_thread_reads_on_once_the_work_has_failed() -> None:
    """The caller closes the updates' files next. The error is held here, and its frames with it."""
    reading = threading.Event()

    class Slow(ArraySource):
        def read(self, name: str, start: int, stop: int) -> Any:
            reading.set()
            time.sleep(0.01)
            done = super().read(name, start, stop)
            reading.clear()
            return done

    class Full:
        def write(self, name: str, start: int, values: Any) -> None:
            raise OSError("no space left")

    streams = [UpdateStream(Slow({"w": np.ones(1 << 20, np.float32)}, 0)) for _ in range(2)]
    with pytest.raises(OSError, match="no space") as caught:
        combine_streams("fedavg", {}, streams, Full(), threads=3, budget_bytes=1 << 20)
    assert not reading.is_set()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("aggregation")] == []
    assert caught.value is not None


@pytest.mark.parametrize("bad", [{"w": np.ones(3)}, {"w": np.ones(2, np.float32)}, {"v": np.ones(2)}], ids=str)
def test_an_unfit_update_is_found_before_the_first_write(bad: dict[str, Any]) -> None:
    sink = ArraySink()
    good = _stream({"w": np.ones(2)})
    with pytest.raises(UpdateUnusable):
        combine_streams("fedavg", {}, [good, _stream(bad), good], sink)
    assert sink._pieces == {}


def test_an_update_is_called_by_its_label() -> None:
    with pytest.raises(UpdateUnusable, match=r"^update 17: num_examples") as caught:
        combine_streams("fedavg", {}, [_stream({"w": np.ones(2)}, 0.0, "update 17")], ArraySink())
    assert caught.value.label == "update 17"


def test_what_the_model_must_look_like_may_be_told() -> None:
    with pytest.raises(UpdateUnusable) as caught:
        combine_streams("fedavg", {}, [_stream({"w": np.ones(2)})], ArraySink(), expected=[("w", (3,), "F64")])
    assert (caught.value.index, caught.value.reason_code) == (0, "SHAPE")


def test_a_source_that_gives_one_value_for_many_does_not_broadcast() -> None:
    class Short(ArraySource):
        def read(self, name: str, start: int, stop: int) -> Any:
            return np.ones(1)

    streams = [_stream({"w": np.ones(4)}), UpdateStream(Short({"w": np.ones(4)}, 0))]
    with pytest.raises(UpdateUnusable, match=r"gave \[1\]") as caught:
        combine_streams("fedavg", {}, streams, ArraySink())
    assert caught.value.index == 1


def test_a_name_declared_twice_is_refused() -> None:
    class Twice(ArraySource):
        @property
        def tensors(self) -> Any:
            return super().tensors * 2

    with pytest.raises(UpdateUnusable, match="more than once"):
        combine_streams("fedavg", {}, [UpdateStream(Twice({"w": np.ones(4)}, 0))], ArraySink())
