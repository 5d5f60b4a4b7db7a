"""How a net is spread: the strategy, each rank's device, the shards of an inexact training, the reason in words."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from tutti.engines.processes import Processes
from tutti.engines.threads import Threads
from tutti.errors import ParameterError, PlanError
from tutti.planner.choose import engine_of
from tutti.protocols import Engine, Strategy
from tutti.types import Plan, Schema

SMALL_FLOPS = 2.5e11  # some 5 s of one core; threads share one interpreter, so a step gains little by them
PRECISIONS = ("float32", "bf16", "fp16")


def strategy_of(strategy: Any) -> Strategy:
    """Return the strategy that was asked for; "auto" sums gradients."""
    from tutti.strategies.all_reduce import AllReduce

    if isinstance(strategy, str):
        if strategy != "auto":
            raise ParameterError("strategy", strategy, 'write "auto" or an object such as tutti.AllReduce()')
        return AllReduce()
    if not isinstance(strategy, Strategy) or isinstance(strategy, type):
        raise ParameterError("strategy", strategy, 'write "auto" or an object such as tutti.AllReduce()')
    if not strategy.wants & {"gradient", "delta"}:
        raise PlanError(
            f"{type(strategy).__name__} cannot train a net; use strategy=tutti.AllReduce() or tutti.LocalSGD()"
        )
    return strategy


def identity_of(strategy: Any) -> tuple[tuple[str, Any], ...]:
    """Return what of a strategy must be the same for a checkpoint to fit; nothing, if it says nothing."""
    own = getattr(strategy, "identity", None)
    return () if own is None else tuple(own().items())


def device_of(device: Any, engine: Any, n_gpus: int) -> str:
    """Return "cpu", "cuda" (all GPUs) or "cuda:1".

    Raises
    ------
    ParameterError, PlanError : no such device, or none here.
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ParameterError("device", device, 'write "auto", "cpu", "cuda" or one GPU such as "cuda:0"')
    if device == "auto":
        return "cuda" if n_gpus and not isinstance(engine, Threads) else "cpu"
    if device != "cpu" and not n_gpus:
        raise PlanError(
            f"device={device!r}, but torch sees no GPU here; write device='cpu' (or \"auto\", which takes a GPU where "
            "there is one), or install a driver and a torch that is built for CUDA"
        )
    if device.startswith("cuda:") and int(device[5:]) >= n_gpus:
        raise PlanError(f"device={device!r}, but torch sees {n_gpus} GPU(s): the last one is cuda:{n_gpus - 1}")
    return device


def check_precision(precision: Any, device: str) -> None:
    """Raise `ParameterError` unless the device can compute like that."""
    if precision not in PRECISIONS:
        raise ParameterError("precision", precision, f"write one of {', '.join(map(repr, PRECISIONS))}")
    if precision == "fp16" and device == "cpu":
        raise ParameterError(
            "precision", precision, "a CPU has no fast fp16 arithmetic, and its range is small; write 'bf16'"
        )


@dataclass(frozen=True)
class Where:
    """Where the ranks of a net compute.

    Parameters
    ----------
    device : "cpu", "cuda" (all GPUs) or "cuda:1".
    n_gpus : how many GPUs torch sees, if it matters.
    compiled : True if torch compiles the forward pass.
    """

    device: str
    n_gpus: int = 0
    compiled: bool = False

    def engine(self, engine: Any, schema: Schema, flops: float) -> Engine:
        """Return the engine that was asked for; "auto": processes, or one thread where they are not worth their start.

        Parameters
        ----------
        flops : of the whole training.
        """
        if self.device == "cpu" and not self.compiled:
            small = isinstance(engine, str) and engine == "auto" and flops < SMALL_FLOPS
            return Threads(1) if small else Processes() if engine == "auto" else engine_of(engine, schema)
        if isinstance(engine, str) and engine == "auto":
            return Processes(None if self.device == "cpu" else self.n_gpus if self.device == "cuda" else 1)
        made = engine_of(engine, schema)
        if isinstance(made, Threads):
            raise PlanError(
                f"{'compile=True' if self.device == 'cpu' else f'device={self.device!r}'} needs settings of a whole "
                "process, made before CUDA or the compiler start, and yours is not ours to change; write "
                "engine=tutti.Processes(n)"
            )
        return made

    def seated(self, plan: Plan) -> Plan:
        """Return the plan with the device of each rank: rank r computes on GPU r modulo their number."""
        seats = []
        for seat in plan.seats:
            device = f"cuda:{seat.rank % self.n_gpus}" if self.device == "cuda" else self.device
            seats.append(dataclasses.replace(seat, place=dataclasses.replace(seat.place, device=device)))
        return dataclasses.replace(plan, seats=tuple(seats))


def where_of(device: Any, engine: Any, precision: Any, compiled: Any) -> Where:
    """Return where a net computes; refuse what cannot be before anything starts."""
    from tutti.learners.module import _device

    n_gpus = 0 if device == "cpu" else _device.n_gpus()
    chosen = device_of(device, engine, n_gpus)
    check_precision(precision, chosen)
    if compiled:
        _device.check_compiler(chosen)
    return Where(chosen, n_gpus, bool(compiled))


def workers_of(engine: Engine, n_shards: int) -> int:
    """Return how many workers will have a shard."""
    wanted = engine.n if engine.n is not None else sum(p.cores for p in engine.places())
    return min(wanted, n_shards)


def reason(exact: bool, n_shards: int, n_workers: int, batch_size: int, strategy: Any = "auto") -> str:
    """Return why the gradient is taken in so many parts, and what that costs."""
    if not getattr(strategy, "repeats", True):
        rows = -(-batch_size // n_workers)
        return f"updates of about {rows} rows, {n_workers} for a global batch, applied as they come"
    if exact:
        price = f"{n_shards} pieces of about {-(-batch_size // n_shards)} rows a step, where {n_workers} would do"
        return f"updates of {n_shards} shards, summed in a fixed order: the same bits for any workers, for {price}"
    return "exact=False: one shard per worker, larger pieces; the bits depend on the number of workers"
