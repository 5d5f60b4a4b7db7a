"""Nets whose memory is not the host's, half precision with its loss scale, and operations that can be repeated.

A `Staged` net keeps weights, gradients and the optimizer's state on its device.  Updates are arrays of the host, so
each shard's gradient is copied into its place there, and the merged one is copied back.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tutti.errors import InputError, ParameterError
from tutti.learners.module._blueprint import Blueprint
from tutti.learners.module._grouped import Job
from tutti.learners.module._net import Clip, Net
from tutti.learners.module.fields import Field
from tutti.types import Array

SCALE, GROWN, SKIPPED = range(3)
"""Places in "scaling": factor of the loss; steps since it last changed; steps that were left out."""
_FIRST_SCALE, _GROWTH, _BACKOFF, _GROW_AFTER = 2.0**16, 2.0, 0.5, 2000  # as in torch.amp.GradScaler
_REPEATABLE_WORKSPACES = (":4096:8", ":16:8")
_MANY = 1 << 16
_SET_BY_IMPORT = "TORCHINDUCTOR_CACHE_DIR"
_NO_FORM = re.compile(r"^(\S+) does not have a deterministic implementation")


def n_gpus() -> int:
    """Return how many GPUs torch sees; asks NVML where it can, so that no CUDA starts in this process."""
    found: int = torch.cuda.device_count()
    return found


def make_net(blueprint: Blueprint, precision: str, device: str, compiled: bool, exact: bool, job: Job) -> Net:
    """Return a net of a rank, ready on its device.

    Parameters
    ----------
    precision : "float32" (as the module is), "bf16" or "fp16": autocast in the forward pass.
    device : "cpu", or "cuda:1".
    compiled : True lets torch compile the forward pass.
    exact : True refuses operations of the device that give other bits each time.
    job : what the gradients are computed for.
    """
    where = torch.device(device)
    if where.type == "cuda":
        _start_cuda(where)
    _repeatable(where, exact, compiled, told=blueprint.unrepeatable)
    if compiled:
        _compile(blueprint.module)
    if shares_memory(where):
        return Net(blueprint, precision, job=None if compiled else job)
    return Staged(blueprint, precision, where)


def make_plain_net(blueprint: Blueprint, precision: str, device: str, compiled: bool, exact: bool, job: Job) -> Net:
    """Return a net of the host that works on batches, not on the shards of a job."""
    if compiled:
        _compile(blueprint.module)
    return Net(blueprint, precision)


def shares_memory(device: torch.device) -> bool:
    """Tell whether numpy sees what lies on the device."""
    return bool(device.type == "cpu")


class Staged(Net):
    """A net on a device with memory of its own; see the module."""

    _staged = True

    def __init__(self, blueprint: Blueprint, precision: str, device: torch.device) -> None:
        self.scaling = np.array([_FIRST_SCALE, 0.0, 0.0]) if precision == "fp16" else None
        blueprint.loss.to(device)
        super().__init__(blueprint, precision, device)  # shards go one by one: together they would write to the host
        self._grad, self._moved = torch.zeros_like(self._flat), torch.zeros_like(self._flat_stats)
        grads = [self._grad[s.start : s.stop].view(s.shape) for s in self.spots]
        self._views = grads, self._cut_stats(self._moved)
        self.fetch()

    def arrays(self) -> dict[str, Array]:
        """Return the host's copies of what all ranks share."""
        return super().arrays() | ({} if self.scaling is None else {"scaling": self.scaling})

    def place(self) -> None:
        """Bring weights and buffers from the host."""
        self._flat.copy_(torch.from_numpy(self.weights))
        self.place_stats()

    def fetch(self) -> None:
        """Bring the weights to the host."""
        torch.from_numpy(self.weights).copy_(self._flat)

    def keep_stats(self) -> None:
        super().keep_stats()
        torch.from_numpy(self.stats).copy_(self._flat_stats)

    def place_stats(self) -> None:
        self._flat_stats.copy_(torch.from_numpy(self.stats))
        super().place_stats()

    def tensors(
        self, x: Array, fields: Sequence[Field], y: Array | None = None, weight: Array | None = None
    ) -> dict[str, torch.Tensor]:
        return {name: self._there(tensor) for name, tensor in super().tensors(x, fields, y, weight).items()}

    def gradient(self, *args: Any, **options: Any) -> None:
        try:
            super().gradient(*args, **options)
        except RuntimeError as error:
            found = _NO_FORM.match(str(error))
            if found is None:
                raise
            raise InputError(
                f"torch has no form of {found[1]} that gives the same bits each time on {self.device.type}: put "
                "another operation in its place, write device='cpu', or exact=False to train without that promise"
            ) from error

    def views_of(self, out: Mapping[str, Array]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return self._views

    def move(self, factor: float, had: Sequence[bool] | None, clip: Clip) -> None:
        """Move the weights along the gradient; leave the step out if half precision overflowed in any shard."""
        scale = self._loss_scale()
        if self.scaling is None or next_scale(self.scaling, fine=bool(np.isfinite(self.stepper.gradient).all())):
            super().move(factor / scale, had, clip)
        else:
            self.stepper.skip(1)  # the schedule counts global steps

    def _home(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, copy=True)

    def _land(self, out: Mapping[str, Array]) -> None:
        torch.from_numpy(out["grad"]).copy_(self._grad)
        torch.from_numpy(out["stats"]).copy_(self._moved)

    def _loss_scale(self) -> float:
        return 1.0 if self.scaling is None else float(self.scaling[SCALE])

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the device; torch keeps the pinned pages until the copy is done, so nobody needs to wait for it."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def next_scale(scaling: Array, *, fine: bool) -> bool:
    """Set the loss scale of the next step by the rule of torch's GradScaler; return ``fine``.

    Raises
    ------
    InputError : the gradient overflows even where the loss is not enlarged.
    """
    if not fine:
        scaling[:] = scaling[SCALE] * _BACKOFF, 0.0, scaling[SKIPPED] + 1
        if scaling[SCALE] < 1:
            raise InputError(
                "the gradient is not finite in fp16, whatever its scale: lower lr, or write precision='bf16'"
            )
    else:
        scaling[GROWN] += 1
        if scaling[GROWN] == _GROW_AFTER:
            scaling[SCALE], scaling[GROWN] = scaling[SCALE] * _GROWTH, 0.0
    return fine


# operations that can be repeated


def _start_cuda(device: torch.device) -> None:
    """Start CUDA in this process, with a workspace of cuBLAS that makes its sums repeatable."""
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _REPEATABLE_WORKSPACES:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = _REPEATABLE_WORKSPACES[0]  # read when CUDA starts
    torch.cuda.set_device(device)


def _repeatable(device: torch.device, exact: bool, compiled: bool, told: Sequence[str] = ()) -> None:
    """Ask torch for operations that give the same bits each time; what has no such form warns, or raises.

    On a CPU and one thread they do so in practice, so it is a warning there; ``told`` names those that were warned of.
    """
    import torch.utils.deterministic

    torch.utils.deterministic.fill_uninitialized_memory = False  # it finds bugs of others, for a second write
    raises = exact and not shares_memory(device)
    if compiled:
        torch.use_deterministic_algorithms(True, warn_only=not raises)
    else:  # without the setting for the compiler, whose import takes longer than many a training
        torch._C._set_deterministic_algorithms(raises or not told, warn_only=not raises)


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Give torch's choice of operations back as it was found, and the environment, which its compiler changes."""
    import torch.utils.deterministic as own

    mode, filled = torch.get_deterministic_debug_mode(), own.fill_uninitialized_memory
    known = _SET_BY_IMPORT in os.environ
    try:
        yield
    finally:
        if not known:
            os.environ.pop(_SET_BY_IMPORT, None)
        own.fill_uninitialized_memory = filled
        torch._C._set_deterministic_algorithms(mode > 0, warn_only=mode == 1)


@contextlib.contextmanager
def unrepeatable() -> Iterator[list[str]]:
    """Collect the names of operations inside of which torch has no repeatable form; other warnings pass."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _repeatable(torch.device("cpu"), False, False)
        yield found
    for warning in seen:
        name = _NO_FORM.match(str(warning.message))
        if name is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif name[1] not in found:
            found.append(name[1])


# compiled


def load_compiler() -> None:
    """Import torch's compiler, as optimizers do on first use; it sets a variable for others, which is taken back."""
    known = _SET_BY_IMPORT in os.environ
    importlib.import_module("torch._dynamo")
    if not known:
        os.environ.pop(_SET_BY_IMPORT, None)


def check_compiler(device: str) -> None:
    """Raise `ParameterError` where torch cannot compile."""
    if device != "cpu":
        return  # its compiler comes with torch
    load_compiler()
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise ParameterError(
            "compile", True, f"torch found no C++ compiler ({error}); install one (g++), or write compile=False"
        ) from error


def _compile(module: torch.nn.Module) -> None:
    """Compile the forward pass, once for each shape: code for any shape would depend on which one came first."""
    load_compiler()
    from torch._inductor import config as backend

    backend.compile_threads = 1  # no processes of its own
    config = torch._dynamo.config
    config.recompile_limit = config.accumulated_recompile_limit = _MANY
    config.fail_on_recompile_limit_hit = True  # going on uncompiled would be other bits
    module.compile(dynamic=False, options={"cpp.threads": 1})
