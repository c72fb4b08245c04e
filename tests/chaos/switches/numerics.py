"""Guards of the numbers: what may be added, how precisely, in which order."""

from __future__ import annotations

from typing import Final

from tests.chaos.switches.source_edits import Edit
from tests.chaos.switches.switch import Switch

_KERNELS: Final = "tasks/aggregation/kernels/reference.py"
_WEIGHTS: Final = "tasks/aggregation/weights.py"
_STRUCTURE: Final = "tasks/aggregation/structure.py"
_CHUNKS: Final = "tasks/aggregation/chunks.py"
_ENGINE: Final = "tasks/aggregation/engine.py"

_MEANS: Final = "tests/unit/aggregation/test_weighted_means.py"
_INTEGERS: Final = "tests/unit/aggregation/test_integer_tensors.py"
_STREAMS: Final = "tests/unit/aggregation/test_engine_streams.py"

SWITCHES: Final = (
    Switch(
        "numbers.float64",
        "half precision times examples overflows, small contributions are lost",
        (
            Edit(
                _KERNELS,
                "        total = np.zeros(size, np.float64)\n        buffer = np.empty(size, np.float64)\n",
                "        total = np.zeros(size, np.float16)\n        buffer = np.empty(size, np.float16)\n",
                "Reference.weighted_sum",
            ),
        ),
        (f"{_MEANS}::test_small_contributions_are_not_lost_in_half_precision",),
        raises=("UFuncTypeError", "_UFuncOutputCastingError", "RuntimeWarning"),
    ),
    Switch(
        "numbers.cast_once",
        "a mean is rounded twice, to the wrong neighbour",
        (
            Edit(
                "tasks/aggregation/dtypes.py",
                "return _float32_to_odd(values).astype(dtype)",
                "return values.astype(np.float32).astype(dtype)",
                "cast_once",
            ),
        ),
        (f"{_MEANS}::test_it_is_cast_once_to_the_nearest_bfloat16",),
    ),
    Switch(
        "numbers.order",
        "the same updates give other bytes",
        (
            Edit(
                _KERNELS,
                "for index, coefficient in enumerate(coefficients):",
                "for index, coefficient in reversed(list(enumerate(coefficients))):",
                "Reference.weighted_sum",
            ),
        ),
        (f"{_MEANS}::test_values_are_added_in_the_order_given",),
    ),
    Switch(
        "numbers.divided_once",
        "weights that are divided first round every product",
        (
            Edit(
                _KERNELS,
                "            buffer *= coefficient\n",
                "            buffer *= coefficient / divisor\n",
                "Reference.weighted_sum",
            ),
            Edit(_KERNELS, "        if divisor != 1:\n            total /= divisor\n", "", "Reference.weighted_sum"),
        ),
        (f"{_MEANS}::test_whole_numbers_with_whole_weights_give_their_exact_mean",),
    ),
    Switch(
        "numbers.scaled_weights",
        "a sum of large values overflows",
        (
            Edit(
                _WEIGHTS,
                "    scaled = [ldexp(weight, -exponent) for weight in weights]\n",
                "    scaled = list(weights)\n",
                "scaled_weights",
            ),
        ),
        (f"{_MEANS}::test_values_near_the_largest_float64_do_not_overflow",),
        raises=("ResultNotFinite", "RuntimeWarning"),
    ),
    Switch(
        "numbers.weight",
        "a weight of zero gives NaN, a negative one a mean outside of its values",
        (Edit(_WEIGHTS, "        if not isfinite(weight) or weight <= 0:\n", "        if False:\n", "check_weights"),),
        (f"{_MEANS}::test_a_weight_that_can_not_weigh_is_refused",),
        raises=("ZeroDivisionError", "OverflowError", "ValueError", "RuntimeWarning", "ResultNotFinite"),
    ),
    Switch(
        "numbers.no_broadcast",
        "(3,) broadcasts into (3, 3)",
        (Edit(_STRUCTURE, "        if tuple(shape) != tuple(wanted_shape):\n", "        if False:\n", "_find_fault"),),
        (f"{_MEANS}::test_a_vector_never_broadcasts_into_a_matrix",),
        raises=("ValueError", "UpdateUnusable"),
    ),
    Switch(
        "numbers.no_broadcast_by_a_source",
        "a source that gives one value for many broadcasts its way in",
        (
            Edit(
                _CHUNKS,
                "            if fault := self._fault_of(values):\n",
                "            if fault := '':\n",
                "Chunk.raw",
            ),
        ),
        (f"{_STREAMS}::test_a_source_that_gives_one_value_for_many_does_not_broadcast",),
    ),
    Switch(
        "numbers.same_names",
        "an update that lacks tensors is averaged over those it has",
        (Edit(_STRUCTURE, "    if missing and not partial:\n", "    if False:\n", "_find_fault"),),
        (f"{_MEANS}::test_another_structure_is_refused_not_truncated",),
        raises=("UpdateUnusable", "TensorMissing"),
    ),
    Switch(
        "numbers.finite_outcome",
        "NaN becomes the model",
        (Edit(_ENGINE, "    if not finite.all():\n", "    if False:\n", "_combine_chunk"),),
        (f"{_MEANS}::test_a_value_that_is_not_finite_is_blamed_on_its_update",),
    ),
    Switch(
        "numbers.integers_rounded",
        "integer tensors are cut to zeros",
        (
            Edit(
                _ENGINE,
                "        return combine_integers(params.integers, needs.weights, chunk, target)\n",
                "        return algorithm.combine_chunk(params, needs, chunk).astype(target)\n",
                "_combine_chunk",
            ),
        ),
        (f"{_INTEGERS}::test_integers_are_not_averaged_into_zeros_or_fractions",),
    ),
    Switch(
        "numbers.booleans_equal",
        "a mask that differs is averaged",
        (
            Edit(
                _ENGINE,
                '    if chunk.dtype == "BOOL":\n        return equal_booleans(chunk)\n',
                '    if chunk.dtype == "BOOL":\n        return chunk.raw(0)\n',
                "_combine_chunk",
            ),
        ),
        (f"{_INTEGERS}::test_a_boolean_that_differs_is_refused",),
    ),
    Switch(
        "numbers.fewest",
        "Krum picks among too few to outvote the bad ones",
        (Edit("tasks/aggregation/krum.py", "    if count < fewest:\n", "    if False:\n", "_pick"),),
        ("tests/unit/aggregation/test_fewest_updates.py::test_so_many_are_taken_and_one_fewer_is_refused",),
        raises=("ValueError", "IndexError"),
    ),
    Switch(
        "numbers.a_trim_of_zero",
        "a trimmed mean that trims nothing passes for robust",
        (Edit("tasks/aggregation/ranks.py", "    if trim == 0:\n", "    if False:\n", "trimmed_mean_needs"),),
        ("tests/unit/aggregation/test_ranks.py::test_a_trim_of_zero_is_refused",),
    ),
    Switch(
        "numbers.memory_budget",
        "memory grows with the number and size of updates",
        (
            Edit(
                _ENGINE,
                "return max(1, min(_MAX_CHUNK, max(budget_bytes - _RESERVE, budget_bytes // 2) // at_once))",
                "return 1 << 62",
                "_chunk_size",
            ),
        ),
        (f"{_STREAMS}::test_memory_stays_within_the_budget_however_many_updates",),
    ),
)
