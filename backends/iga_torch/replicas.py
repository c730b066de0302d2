"""Evaluating a network that is trained by several devices or processes in this one alone.

It knows PyTorch's wrappers for that, and that their calls wait for each other.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


@contextlib.contextmanager
def alone(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let calls of modules that spread the work over devices or processes be what they wrap.

    A call of `DistributedDataParallel` sends buffers to all processes, and begins a reduction of
    gradients that the next backward pass must end. One that another process does not make would
    have both wait forever; and a kernel is each process's own.
    """
    spread = [m for m in modules if isinstance(m, DataParallel | DistributedDataParallel)]
    # Not by assignment, which would make the wrapped module a submodule of that name.
    held = [(vars(module), vars(module).get("forward")) for module in spread]
    try:
        for module, (own, _) in zip(spread, held, strict=True):
            own["forward"] = module.module
        yield
    finally:
        for own, before in held:
            del own["forward"]
            if before is not None:
                own["forward"] = before


SHARED_OUT = ("full_tensor", "_fsdp_flattened", "ds_id")
"""What marks parameters of FSDP's two versions and of DeepSpeed."""


def require_whole(network: nn.Module) -> None:
    """Raise if processes share the parameters out, so that an evaluation waits for all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return  # there are no others
    held = [parameter for parameter in network.parameters() if parameter.numel()]
    if not held or any(hasattr(parameter, mark) for parameter in held for mark in SHARED_OUT):
        raise ValueError(
            "network: expected parameters that this process has whole, got some that processes "
            "share out, as FSDP and DeepSpeed do; the kernel of one process would wait for the "
            "others: train with DistributedDataParallel"
        )
