"""Eight cells of a histogram at a time: the codes of eight columns are one word of memory."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


def _add_eight(typing_context, out, at, codes, p, width, x):
    """out[at + k width + codes[p + k]] += x for k = 0..7."""

    def generate(context, builder, signature, args):
        cells = context.make_array(signature.args[0])(context, builder, args[0])
        bytes_ = context.make_array(signature.args[2])(context, builder, args[2])
        source = builder.bitcast(builder.gep(bytes_.data, [args[3]]), _WORD.as_pointer())
        word = builder.load(source)
        word.align = 1
        column = builder.gep(cells.data, [args[1]])
        for k in range(8):
            code = builder.and_(builder.lshr(word, ir.Constant(_WORD, 8 * k)), ir.Constant(_WORD, 255))
            cell = builder.gep(column, [code])
            builder.store(builder.add(builder.load(cell), args[5]), cell)
            column = builder.gep(column, [args[4]])
        return context.get_dummy_value()

    return types.void(out, types.uint64, codes, types.uint64, types.uint64, types.int64), generate


add_eight: Any = intrinsic(_add_eight)
"""Little-endian; one load of codes for eight additions, each one instruction."""
