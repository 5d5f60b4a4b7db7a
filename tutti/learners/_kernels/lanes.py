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
_PLAIN = tuple(int(part) for part in llvmlite.__version__.split(".")[:2]) >= (0, 44)
"""Pointers have no types of their own any more, and the name of a gather has none."""
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
            number = ir.Constant(ir.IntType(32), lane)
            value = builder.load(builder.gep(pointer, [builder.extract_element(index, number)]))
            out = builder.insert_element(out, value, number)
        return out
    at = builder.gep(pointer, [index], source_etype=kind)
    at.type = ir.VectorType(ir.PointerType(), LANES)  # which llvmlite has no word for
    form = ir.FunctionType(vector, [at.type, ir.IntType(32), _BIT, vector])
    name = f"llvm.masked.gather.v{LANES}{_NAMES[str(kind)]}.v{LANES}p0"
    call = builder.module.declare_intrinsic(name, (), form)
    every = ir.Constant(_BIT, [1] * LANES)
    return builder.call(call, [at, ir.Constant(ir.IntType(32), size), every, ir.Constant(vector, ir.Undefined)])


def _search(typing_context, table, values, i, out, at):
    """out[at + k] = how many of the numbers of the table are below values[i + k], for k = 0..LANES - 1.

    The table rises and has 256 numbers if ``out`` is of bytes, else 4096, the last one inf; NaN is above no number.
    """

    def generate(context, builder, signature, args):
        numbers, source, target = (
            context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 1, 3)
        )
        kind = ir.VectorType(numbers.type.pointee, LANES)
        value = builder.load(builder.bitcast(builder.gep(source, [args[2]]), kind.as_pointer()))
        size = table.dtype.bitwidth // 8
        value.align = size
        found, step = _all(0), (256 if out.dtype.bitwidth == 8 else 4096) // 2
        while step:
            below = builder.zext(builder.add(found, _all(step - 1)), _WIDE)
            smaller = builder.fcmp_ordered("<", _gather(builder, numbers, below, size), value)
            found = builder.select(smaller, builder.or_(found, _all(step)), found)
            step //= 2
        narrow = ir.VectorType(target.type.pointee, LANES)
        place = builder.bitcast(builder.gep(target, [args[4]]), narrow.as_pointer())
        builder.store(builder.trunc(found, narrow), place).align = out.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(table, values, types.intp, out, types.intp), generate


search: Any = intrinsic(_search)
