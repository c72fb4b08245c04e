"""Who computes: numpy for what is small, numba for what is not, and neither for want of a cache."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tasks.aggregation import Engine, UpdateArrays, combine
from tasks.aggregation.kernels.choice import Impatient
from tasks.aggregation.kernels.compiled import Compiled
from tasks.aggregation.kernels.reference import REFERENCE


def test_a_small_model_never_loads_numba() -> None:
    """In a process of its own: a quarter of a second for 64 parameters would be most of a round's latency."""
    program = """
import sys
from types import SimpleNamespace
import numpy as np
from tasks.aggregation import UpdateArrays, combine
from tasks.aggregation.kernels import choice
choice.time = SimpleNamespace(monotonic=lambda: 0.0)  # however slow the machine is at this moment
updates = [UpdateArrays({"w": np.full(64, v, np.float32)}) for v in (1, 2, 6)]
for aggregator, params in (("fedavg", {}), ("median", {}), ("krum", {"num_byzantine": 0}), ("fedadam", {})):
    combine(aggregator, params, updates, current=updates[0].arrays)
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_numpy_hands_over_once_it_has_taken_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a combination: the bytes are the same, so nobody sees it."""
    asked: list[str] = []

    class Watched(Compiled):
        def sorted_mean(self, values: Any, low: int, high: int) -> Any:
            asked.append("numba")
            return super().sorted_mean(values, low, high)

    monkeypatch.setattr("tasks.aggregation.kernels.choice._compiled", Watched())
    values = [np.full(1000, value, np.float32) for value in (1.0, 2.0, 6.0)]
    impatient = Impatient(patience_seconds=1e-9)
    first = impatient.sorted_mean(values, 1, 2)
    assert asked == []
    assert impatient.sorted_mean(values, 1, 2).tobytes() == first.tobytes()
    assert asked == ["numba"]
    patient = Impatient(patience_seconds=60)
    for _ in range(3):
        patient.sorted_mean(values, 1, 2)
    assert asked == ["numba"]


def test_every_kernel_hands_over_with_its_arguments_in_their_places() -> None:
    rng = np.random.default_rng(0)
    values = list(rng.normal(size=(5, 100)))
    centre, along = rng.normal(size=(2, 100))
    for patience in (60.0, 0.0):
        impatient = Impatient(patience)
        for name, arguments in {
            "weighted_sum": (values, values[::-1], [1.0, 2.0, 3.0, 4.0, 5.0], 100, 3.0),
            "narrow_weighted_sum": (values, [1.0, 2.0, 3.0, 4.0, 5.0], 100, 3.0),
            "sorted_mean": (values, 1, 3),
            "mean_near_median": (values, 3),
            "squared_distances": (values,),
            "moments": (values, values[::-1], centre, along),
        }.items():
            assert getattr(impatient, name)(*arguments).tobytes() == getattr(REFERENCE, name)(*arguments).tobytes()


def test_without_a_place_for_its_cache_numba_still_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only image: it costs the time to compile, not the round."""
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with caplog.at_level(logging.WARNING):
        result = Compiled().moments([np.ones(3)])
    assert result.tolist() == [[3.0, 0.0]]
    assert "NUMBA_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("engine", list(Engine))
def test_an_engine_may_be_named(engine: Engine) -> None:
    updates = [UpdateArrays({"w": np.array([value])}) for value in (1.0, 3.0)]
    assert combine("fedavg", {}, updates, engine=engine).arrays["w"].tolist() == [2.0]
    assert combine("fedavg", {}, updates, engine=str(engine)).arrays["w"].tolist() == [2.0]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda"):
        combine("fedavg", {}, [UpdateArrays({"w": np.ones(1)})], engine="cuda")
