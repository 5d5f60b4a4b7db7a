"""Shared memory as a backend of torch.distributed, for DDP on one host: import this module, then name it.

Example
-------
::

    import tutti.torch_backend
    torch.distributed.init_process_group("tutti")

Only CPU tensors, and only ranks of one host; nothing of tutti's promise about bits carries over to DDP, but a sum over
ranks has the same bits in every run.
"""

from __future__ import annotations

from tutti.comm.torch import register

register()
