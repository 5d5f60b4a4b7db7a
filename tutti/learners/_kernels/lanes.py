"""Sixteen binary searches side by side, in vectors: there is no branch that a compiler could make of a comparison.

Written as a loop over values, compilers make a branch of each step, which goes wrong every other time.
"""

from __future__ import annotations

from typing import Any

import llvmlite
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 16
_PLAIN = tuple(int(part) for part in llvmlite.__version__.split(".")[:2]) >= (0, 45)
"""Pointers have no types of their own any more, and the name of a gather has none."""
_LANE = ir.IntType(32)
_BIT, _INDEX, _WIDE = (ir.VectorType(ir.IntType(bits), LANES) for bits in (1, 32, 64))
_NAMES = {"float": "f32", "double": "f64"}


def _all(number: int) -> ir.Constant:
    return ir.Constant(_INDEX, [number] * LANES)


def _gather(builder: Any, pointer: Any, index: Any, size: int) -> Any:
    """Emit the load of pointer[index[lane]] in each lane; one instruction where the processor has it and is fast."""
    kind = pointer.type.pointee
    vector = ir.VectorType(kind, LANES)
    if not _PLAIN:
        out = ir.Constant(vector, ir.Undefined)
        for lane in range(LANES):
            number = ir.Constant(_LANE, lane)
            value = builder.load(builder.gep(pointer, [builder.extract_element(index, number)]))
            out = builder.insert_element(out, value, number)
        return out
    at = builder.gep(pointer, [index], source_etype=kind)
    at.type = ir.VectorType(ir.PointerType(), LANES)  # which llvmlite has no word for
    form = ir.FunctionType(vector, [at.type, _LANE, _BIT, vector])
    name = f"llvm.masked.gather.v{LANES}{_NAMES[str(kind)]}.v{LANES}p0"
    call = builder.module.declare_intrinsic(name, (), form)
    every = ir.Constant(_BIT, [1] * LANES)
    return builder.call(call, [at, ir.Constant(_LANE, size), every, ir.Constant(vector, ir.Undefined)])


def _search(typing_context, table, values, i, out, at):
    """out[at + k] = how many of the numbers of the table are below values[i + k], for k = 0..LANES - 1.

    The table rises, its length is a power of two, and its last number counts for none; NaN is above no number.
    """

    def generate(context, builder, signature, args):
        numbers, source, target = (context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 1, 3))
        kind, size = ir.VectorType(source.data.type.pointee, LANES), table.dtype.bitwidth // 8
        value = builder.load(builder.bitcast(builder.gep(source.data, [args[2]]), kind.as_pointer()))
        value.align = values.dtype.bitwidth // 8
        wider = source if values.dtype.bitwidth >= table.dtype.bitwidth else numbers
        wide = ir.VectorType(wider.data.type.pointee, LANES)
        value = builder.fpext(value, wide) if kind != wide else value
        half = builder.lshr(builder.trunc(builder.extract_value(numbers.shape, 0), _LANE), _LANE(1))
        before, again, after = builder.block, *(builder.append_basic_block(name) for name in ("search", "searched"))
        builder.branch(again)
        builder.position_at_end(again)
        step, found = builder.phi(_LANE), builder.phi(_INDEX)
        steps = builder.insert_element(ir.Constant(_INDEX, ir.Undefined), step, _LANE(0))
        steps = builder.shuffle_vector(steps, steps, _all(0))
        below = builder.zext(builder.sub(builder.or_(found, steps), _all(1)), _WIDE)
        number = _gather(builder, numbers.data, below, size)
        smaller = builder.fcmp_ordered("<", builder.fpext(number, wide) if number.type != wide else number, value)
        more, next_step = builder.select(smaller, builder.or_(found, steps), found), builder.lshr(step, _LANE(1))
        for phi, first, later in ((step, half, next_step), (found, _all(0), more)):
            phi.add_incoming(first, before)
            phi.add_incoming(later, again)
        builder.cbranch(builder.icmp_unsigned("!=", next_step, _LANE(0)), again, after)
        builder.position_at_end(after)
        narrow = ir.VectorType(target.data.type.pointee, LANES)
        place = builder.bitcast(builder.gep(target.data, [args[4]]), narrow.as_pointer())
        builder.store(builder.trunc(more, narrow), place).align = out.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(table, values, types.intp, out, types.intp), generate


search: Any = intrinsic(_search)
