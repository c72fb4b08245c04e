"""q-FedAvg beside Flower's, on updates at random: skipped where Flower's environment has not been made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.contestants import Contestant
from benchmarks.peers.serving import Request
from tasks.aggregation import UpdateArrays, combine


@pytest.mark.parametrize(("q", "lipschitz"), [(0.0, 1.0), (0.1, 1.0), (1.0, 20.0), (5.0, 100.0)])
def test_qfedavg_is_the_message_apis(flower: Contestant, tmp_path: Path, q: float, lipschitz: float) -> None:
    """float64, so all that may differ is rounding, and the 1e-10 that Flower adds to every loss."""
    rng = np.random.default_rng(3)
    shapes = {"w": (4, 3), "b": (3,), "scale": ()}
    current = {name: np.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    updates = [
        {name: np.asarray(array + 0.1 * rng.normal(size=array.shape)) for name, array in current.items()}
        for _ in range(6)
    ]
    losses = rng.uniform(0.05, 4, 6).tolist()
    files = [str(tmp_path / f"{index}.safetensors") for index in range(6)]
    for file, arrays in zip(files, updates, strict=True):
        save_file(arrays, file)
    save_file(current, tmp_path / "current.safetensors")
    params = {"q": q, "lipschitz": lipschitz}
    request = Request("QFedAvg", files, [1] * 6, str(tmp_path / "out.safetensors"), params, 1)
    request.current, request.losses = str(tmp_path / "current.safetensors"), losses
    assert flower.ask(request).error is None
    theirs = load_file(request.out)
    given = [UpdateArrays(arrays, loss=loss) for arrays, loss in zip(updates, losses, strict=True)]
    ours = combine("qfedavg", params, given, current=current).arrays
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert np.abs(array - current[name]).max() > 1e-4, "it moved"
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-9)
