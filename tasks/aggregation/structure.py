"""What the updates of a round must look like: the same names, shapes and dtypes, compared exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tasks.aggregation.dtypes import NUMPY_DTYPES
from tasks.aggregation.errors import UpdateUnusable
from tasks.aggregation.streams import TensorSpec, UpdateStream


def agree_on_structure(
    updates: Sequence[UpdateStream], expected: Sequence[TensorSpec] | None = None
) -> tuple[TensorSpec, ...]:
    """The tensors that all updates have: `expected`, else what most of them have (of equals, the earlier).

    So one odd update among good ones is blamed, not its neighbours, wherever it stands.
    Raises: UpdateUnusable (SCHEMA, SHAPE, DTYPE) for the first that differs.
    """
    structures = [update.source.tensors for update in updates]
    if expected is None:
        kinds = Counter(frozenset(structure) for structure in structures)
        commonest = kinds.most_common(1)[0][0]
        expected = next(structure for structure in structures if frozenset(structure) == commonest)
    reference = {name: (shape, dtype) for name, shape, dtype in expected}
    for index, structure in enumerate(structures):
        fault = _find_fault(structure, reference)
        if fault:
            raise UpdateUnusable(index, *fault, label=updates[index].label)
    return tuple(expected)


def _find_fault(
    structure: Sequence[TensorSpec], reference: dict[str, tuple[tuple[int, ...], str]]
) -> tuple[str, str] | None:
    """(reason code, reason) of the first difference; None if there is none."""
    given = Counter(name for name, _shape, _dtype in structure)
    if not given:
        return "SCHEMA", "it has no tensors"
    if len(given) < len(structure):
        return "SCHEMA", f"tensor {given.most_common(1)[0][0]!r} appears more than once"
    missing = [name for name in reference if name not in given]
    if missing:
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
