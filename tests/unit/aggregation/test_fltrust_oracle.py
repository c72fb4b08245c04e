"""FLTrust beside the paper's own steps, written down plainly: Cao et al., NDSS 2021, Algorithm 2.

No other server has it to compare with. All vectors are of small whole numbers, so products are exact in any order and
nobody's trust hangs on a last bit: it would decide between the root's whole length and nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.aggregation import Combined, UpdateArrays, combine

Vector = NDArray[np.float64]

_SIZE = 6
_vectors = st.lists(st.integers(-9, 9), min_size=_SIZE, max_size=_SIZE).map(lambda values: np.array(values, np.float64))
_kinds = st.sampled_from(["any", "any", "same way", "opposite", "nowhere", "across"])


@st.composite
def _rounds(draw: st.DrawFn) -> tuple[Vector, Vector, list[tuple[Vector, Vector]]]:
    """(the current model, the root's delta, each update's base and delta), the awkward kinds as often as others."""
    root = draw(_vectors)
    updates = []
    for kind in draw(st.lists(_kinds, min_size=1, max_size=6)):
        factor = 2.0 ** draw(st.integers(-20, 20))  # exact: whoever shouts has no more say
        match kind:
            case "any":
                delta = draw(_vectors)
            case "same way":
                delta = root
            case "opposite":
                delta = -root
            case "nowhere":
                delta = np.zeros(_SIZE)
            case _:
                delta = np.array([-root[1], root[0], -root[3], root[2], -root[5], root[4]])
        updates.append((draw(_vectors), delta * factor))
    return draw(_vectors), root, updates


def _by_the_paper(current: Vector, root: Vector, deltas: list[Vector]) -> tuple[list[float], Vector]:
    """(trust scores, the next model), with a global learning rate of 1. A zero vector has no direction: no trust."""
    root_norm = np.sqrt(np.sum(root**2))
    scores, rescaled = [], []
    for delta in deltas:
        norm = np.sqrt(np.sum(delta**2))
        cosine = 0.0 if norm == 0 or root_norm == 0 else np.sum(delta * root) / (norm * root_norm)
        scores.append(max(float(cosine), 0.0))  # ReLU
        rescaled.append(delta * 0 if norm == 0 else delta * (root_norm / norm))
    if sum(scores) == 0:
        return scores, current
    weighted = sum((score * delta for score, delta in zip(scores, rescaled, strict=True)), np.zeros(_SIZE))
    return scores, current + weighted / sum(scores)


def _tensors(vector: Vector) -> dict[str, Any]:
    """In two tensors: directions and lengths are the whole model's."""
    return {"a": vector[:2].copy(), "b": vector[2:].reshape(2, 2).copy()}


def _by_the_engine(current: Vector, root: Vector, updates: list[tuple[Vector, Vector]]) -> tuple[Combined, Vector]:
    given = [UpdateArrays(_tensors(base + delta), base=_tensors(base)) for base, delta in updates]
    params = {"root_update": _tensors(current + root)}
    combined = combine("fltrust", params, given, current=_tensors(current))
    return combined, np.concatenate([combined.arrays["a"], combined.arrays["b"].reshape(-1)])


_ZERO, _ONE, _RIGHT = np.zeros(_SIZE), np.eye(_SIZE)[0], np.eye(_SIZE)[1]


@settings(max_examples=300, deadline=None)
@given(_rounds())
@example((_ZERO, _ONE, [(_ZERO, -_ONE), (_ZERO, _ZERO), (_ONE, _RIGHT)]))  # nobody is trusted
@example((_ONE, _ZERO, [(_ZERO, _ONE)]))  # the root did not move
@example((_ONE, _ONE, [(_RIGHT, 1024 * (_ONE + _RIGHT)), (_ZERO, -1024 * _ONE)]))
def test_it_is_what_the_paper_says(found: tuple[Vector, Vector, list[tuple[Vector, Vector]]]) -> None:
    current, root, updates = found
    scores, expected = _by_the_paper(current, root, [delta for _base, delta in updates])
    event(("nobody", "one", "several")[min(2, sum(score > 0 for score in scores))] + " trusted")
    combined, result = _by_the_engine(current, root, updates)
    np.testing.assert_allclose(combined.report.facts["trust_scores"], scores, rtol=1e-14, atol=0)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-13 * (1 + np.abs(expected).max()))


@settings(max_examples=100, deadline=None)
@given(_rounds())
def test_the_model_never_moves_farther_than_the_root(
    found: tuple[Vector, Vector, list[tuple[Vector, Vector]]],
) -> None:
    """What bounds an attacker whom the root happens to trust."""
    current, root, updates = found
    _combined, result = _by_the_engine(current, root, updates)
    assert np.linalg.norm(result - current) <= np.linalg.norm(root) * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(_rounds(), st.integers(-30, 30))
def test_nobody_gains_by_sending_more_of_the_same(
    found: tuple[Vector, Vector, list[tuple[Vector, Vector]]], power: int
) -> None:
    """Only the way that a delta points counts."""
    current, root, updates = found
    (_base, first), *others = updates
    _combined, plain = _by_the_engine(current, root, [(_ZERO, first), *others])
    _combined, louder = _by_the_engine(current, root, [(_ZERO, first * 2.0**power), *others])
    np.testing.assert_allclose(louder, plain, rtol=0, atol=1e-12)
