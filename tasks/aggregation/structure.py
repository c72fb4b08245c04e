"""What the updates of a round must look like: the same names, shapes and dtypes, compared exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tasks.aggregation.dtypes import NUMPY_DTYPES
from tasks.aggregation.errors import CurrentUnusable, UpdateUnusable
from tasks.aggregation.params import KeyPolicy
from tasks.aggregation.streams import TensorSource, TensorSpec, UpdateStream


def agree_on_structure(
    updates: Sequence[UpdateStream],
    expected: Sequence[TensorSpec] | None = None,
    keys: KeyPolicy = KeyPolicy.STRICT,
) -> tuple[TensorSpec, ...]:
    """The tensors of the outcome: `expected`, else what most updates have (of equals, the earlier).

    So one odd update among good ones is blamed, not its neighbours, wherever it stands. With `keys = per_tensor` an
    update may lack some of them, and without `expected` each tensor looks as in most updates that have it.
    Raises: UpdateUnusable (SCHEMA, SHAPE, DTYPE) for the first that differs.
    """
    structures = [update.source.tensors for update in updates]
    partial = keys is KeyPolicy.PER_TENSOR
    if expected is None:
        expected = _by_tensor(structures) if partial else _commonest(structures)
    reference = {name: (shape, dtype) for name, shape, dtype in expected}
    for index, structure in enumerate(structures):
        fault = _find_fault(structure, reference, partial)
        if fault:
            raise UpdateUnusable(index, *fault, label=updates[index].label)
    return tuple(expected)


def senders_of(updates: Sequence[UpdateStream], tensors: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
    """For each tensor the positions of the updates that have it."""
    given = [frozenset(name for name, _shape, _dtype in update.source.tensors) for update in updates]
    everyone = tuple(range(len(updates)))
    if all(len(names) == len(tensors) for names in given):
        return {name: everyone for name, _shape, _dtype in tensors}
    return {name: tuple(index for index in everyone if name in given[index]) for name, _shape, _dtype in tensors}


def check_model(source: TensorSource, tensors: Sequence[TensorSpec], what: str) -> None:
    """Return if a model given beside the updates has exactly the outcome's tensors. Raises: CurrentUnusable."""
    fault = _find_fault(source.tensors, {name: (shape, dtype) for name, shape, dtype in tensors}, partial=False)
    if fault:
        raise CurrentUnusable(fault[1], what)


def _commonest(structures: Sequence[Sequence[TensorSpec]]) -> Sequence[TensorSpec]:
    kinds = Counter(frozenset(structure) for structure in structures)
    commonest = kinds.most_common(1)[0][0]
    return next(structure for structure in structures if frozenset(structure) == commonest)


def _by_tensor(structures: Sequence[Sequence[TensorSpec]]) -> Sequence[TensorSpec]:
    kinds: dict[str, Counter[TensorSpec]] = {}
    for structure in structures:
        for name, shape, dtype in structure:
            kinds.setdefault(name, Counter())[(name, tuple(shape), dtype)] += 1
    return [kind.most_common(1)[0][0] for kind in kinds.values()]


def _find_fault(
    structure: Sequence[TensorSpec], reference: dict[str, tuple[tuple[int, ...], str]], partial: bool
) -> tuple[str, str] | None:
    """(reason code, reason) of the first difference; None if there is none."""
    given = Counter(name for name, _shape, _dtype in structure)
    if not given:
        return "SCHEMA", "it has no tensors"
    if len(given) < len(structure):
        return "SCHEMA", f"tensor {given.most_common(1)[0][0]!r} appears more than once"
    missing = [name for name in reference if name not in given]
    if missing and not partial:
        return "SCHEMA", f"tensor {missing[0]!r} is missing{_and_more(missing)}"
    unknown = [name for name in given if name not in reference]
    if unknown:
        return "SCHEMA", f"tensor {unknown[0]!r} is not part of the model{_and_more(unknown)}"
    for name, shape, dtype in structure:
        if dtype not in NUMPY_DTYPES:
            return "DTYPE", f"tensor {name!r} is of dtype {dtype}; known are {', '.join(NUMPY_DTYPES)}"
        wanted_shape, wanted_dtype = reference[name]
        if tuple(shape) != tuple(wanted_shape):
            return "SHAPE", f"tensor {name!r} has shape {list(shape)} where {list(wanted_shape)} is expected"
        if dtype != wanted_dtype:
            return "DTYPE", f"tensor {name!r} is of dtype {dtype} where {wanted_dtype} is expected"
    return None


def _and_more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""
