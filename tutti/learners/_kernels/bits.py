"""The lowest bit of a word."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


def _lowest(typing_context, word):
    """Return the number of the lowest bit that is set; the word is not 0."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64), ir.IntType(1)])
        call = builder.module.declare_intrinsic("llvm.cttz", [ir.IntType(64)], kind)
        return builder.call(call, [args[0], ir.Constant(ir.IntType(1), 1)])

    return types.int64(types.uint64), generate


lowest: Any = intrinsic(_lowest)
