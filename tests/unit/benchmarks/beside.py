"""The same rounds given to a peer and to the engine: random models, and the peer asked for each round's outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.contestants import Answer, Contestant
from benchmarks.peers.serving import Request
from tasks.aggregation import UpdateArrays

Arrays = dict[str, NDArray[np.float64]]

HALF_ULP: Final = 2.0**-53  # of float64, relative


@dataclass(frozen=True)
class Rounds:
    """A model, and what came of its training in each round."""

    current: Arrays
    updates: Sequence[Sequence[Arrays]]
    num_examples: Sequence[Sequence[int]]

    def given(self, index: int) -> list[UpdateArrays]:
        """One round's updates, as `combine` takes them."""
        pairs = zip(self.updates[index], self.num_examples[index], strict=True)
        return [UpdateArrays(arrays, num_examples=count) for arrays, count in pairs]

    @property
    def largest(self) -> float:
        """The largest absolute value of all."""
        models = [self.current, *(update for updates in self.updates for update in updates)]
        return max(float(np.abs(array).max()) for model in models for array in model.values())

    @property
    def mean_error(self) -> float:
        """How far two float64 means of a round, or deltas of such means, may be apart.

        A sum of n products, divided once, is off by at most (n + 2) half units of the largest value's last place
        (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), a difference by one more: on either side.
        """
        return 2 * (len(self.updates[0]) + 3) * HALF_ULP * self.largest


def random_rounds(
    seed: int, rounds: int = 3, count: int = 6, *, scalar: bool = True, alike: bool = False, spread: float = 0.1
) -> Rounds:
    """Models of 15 or 16 float64 numbers, some lying closer to the current one than others.

    `scalar`: one tensor is without dimensions; `alike`: every update has 7 examples.
    """
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"w": (4, 3), "b": (3,)} | ({"scale": ()} if scalar else {})
    current = {name: np.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    updates = [
        [
            {name: np.asarray(array + way * rng.normal(size=array.shape)) for name, array in current.items()}
            for way in spread * rng.uniform(0.3, 3, count)
        ]
        for _ in range(rounds)
    ]
    num_examples = [[7] * count if alike else rng.integers(1, 50, count).tolist() for _ in range(rounds)]
    return Rounds(current, updates, num_examples)


def one_round(current: float, *updates: float, num_examples: Sequence[int] = ()) -> Rounds:
    """A model of one number, for what one can work out by hand."""
    models = [{"w": np.array([value], np.float64)} for value in updates]
    return Rounds({"w": np.array([current], np.float64)}, [models], [num_examples or [1] * len(models)])


def asked_of(
    peer: Contestant, method: str, rounds: Rounds, params: dict[str, Any], folder: Path, **more: Any
) -> tuple[list[Arrays], Answer]:
    """(the peer's model after each round, its answer). `more`: further fields of the request."""
    files = []
    for index, update in enumerate(update for updates in rounds.updates for update in updates):
        files.append(str(folder / f"{index}.safetensors"))
        save_file(update, files[-1])
    save_file(rounds.current, folder / "current.safetensors")
    counts = [count for counts in rounds.num_examples for count in counts]
    request = Request(method, files, counts, str(folder / "out.safetensors"), params, 1)
    request = replace(request, current=str(folder / "current.safetensors"), rounds=len(rounds.updates), **more)
    answer = peer.ask(request)
    if answer.error:
        return [], answer
    models: list[Arrays] = [{} for _ in rounds.updates]
    for name, array in load_file(request.out).items():
        number, tensor = name.split("/", 1) if request.rounds > 1 else ("1", name)
        models[int(number) - 1][tensor] = array
    return models, answer


def farthest(mine: Arrays, other: Arrays) -> float:
    """The largest difference of any element; shapes and names must be equal."""
    assert {name: array.shape for name, array in mine.items()} == {name: array.shape for name, array in other.items()}
    return max(float(np.abs(mine[name] - other[name]).max()) for name in mine)
