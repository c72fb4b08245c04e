"""What numba can't be told in Python: read memory by address, and add up in a fixed number of lanes.

A compiler may not reorder float additions, so a plain sum runs one addition after another; told to reorder freely, it
would add differently on every kind of processor. Here the order is spelt out in LLVM's vectors of LANES doubles: each
processor runs them in whatever width it has, and the bytes are the same.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from tasks.aggregation.kernels import LANES

_DOUBLE = ir.DoubleType()
_INDEX = ir.IntType(64)
_LANE = ir.IntType(32)
_VECTOR = ir.VectorType(_DOUBLE, LANES)


def _pointer_to(kind: Any) -> Any:
    def pointer(typingctx: Any, address: Any) -> Any:  # noqa: ARG001  # numba looks for these names
        signature: Any = types.CPointer(kind)(types.uint64)  # type: ignore[no-untyped-call]

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return intrinsic(pointer)


# The memory at an address (uint64): for numba's `carray`.
float64_at = _pointer_to(types.float64)
float32_at = _pointer_to(types.float32)
uint16_at = _pointer_to(types.uint16)


def _sum_in_lanes(term: Any) -> Any:
    """(address, address, count) -> the sum of `term` over float64 elements; `count` is a multiple of LANES."""

    def summing(typingctx: Any, first: Any, second: Any, count: Any) -> Any:  # noqa: ARG001
        signature: Any = types.float64(types.uint64, types.uint64, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            addresses, count = arguments[:2], arguments[2]
            pointers = [builder.inttoptr(address, _DOUBLE.as_pointer()) for address in addresses]
            before = builder.block
            head, body, end = (builder.append_basic_block(name) for name in ("lanes", "lanes.add", "lanes.end"))
            builder.branch(head)

            builder.position_at_end(head)
            at, lanes = builder.phi(_INDEX), builder.phi(_VECTOR)
            at.add_incoming(_INDEX(0), before)
            lanes.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), before)
            builder.cbranch(builder.icmp_signed("<", at, count), body, end)

            builder.position_at_end(body)
            values = [
                builder.load(builder.bitcast(builder.gep(pointer, [at]), _VECTOR.as_pointer()), align=8)
                for pointer in pointers
            ]
            lanes.add_incoming(builder.fadd(lanes, term(builder, *values)), body)
            at.add_incoming(builder.add(at, _INDEX(LANES)), body)
            builder.branch(head)

            builder.position_at_end(end)
            return _by_halves(builder, lanes)

        return signature, generate

    return intrinsic(summing)


def _by_halves(builder: Any, lanes: Any) -> Any:
    """The sum of the lanes: the upper half onto the lower one, until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        lower, upper = (
            builder.shuffle_vector(
                lanes, lanes, ir.Constant(ir.VectorType(_LANE, width), list(range(start, start + width)))
            )
            for start in (0, width)
        )
        lanes = builder.fadd(lower, upper)
    return builder.extract_element(lanes, _LANE(0))


def _squared_difference(builder: Any, a: Any, b: Any) -> Any:
    difference = builder.fsub(a, b)
    return builder.fmul(difference, difference)


def _product(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b)


sum_squared_differences = _sum_in_lanes(_squared_difference)
sum_products = _sum_in_lanes(_product)
