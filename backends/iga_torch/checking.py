"""What autograd says of a network, against which its factors and rows are held."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iga_torch.layers import normalising
from iga_torch.recording import FLOATS, WithoutDropout, evaluating
from iga_torch.samples import Samples

Leaves = Mapping[str, Tensor]
REDUCED_EPS = 2.0**-8
"""Of bfloat16, and more than that of any other reduced precision."""


def require_module(network: Any) -> None:
    """Raise unless this is a module."""
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"network: expected a torch.nn.Module, got {type(network).__name__}; "
            "put the function into a module, so that its parameters are known"
        )


def require_separate(network: nn.Module) -> None:
    """Raise if a batch normalisation makes every output depend on all samples of a call."""
    name = normalising(network)
    if name is not None:
        kind = type(network.get_submodule(name)).__name__
        raise ValueError(
            f"network: expected no batch normalisation in training mode, got {kind} {name!r}; "
            "with it each output depends on all samples of a call, so that the kernel of a few is "
            "not defined: put BatchNorm into eval mode, or train without an adjustment"
        )


def trained(network: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters by name, or raise where there is none."""
    leaves: dict[str, Tensor] = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and parameter.numel()
    }
    if not leaves:
        raise ValueError(
            "network: expected a trainable parameter, got none; unfreeze one with requires_grad_()"
        )
    for name, leaf in leaves.items():
        if leaf.dtype not in (*FLOATS, torch.complex64, torch.complex128):
            raise TypeError(
                f"network: expected parameters of float32 or float64, got {leaf.dtype} for {name}; "
                "keep them in float32 and use torch.autocast for speed"
            )
    return leaves


def require_tensor(output: Any) -> None:
    """Raise unless a network returned a tensor."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"network: expected it to return one tensor, got {type(output).__name__}; "
            "wrap it in a module that returns the outputs alone"
        )


def require_output(found: Any, samples: Samples) -> None:
    """Raise unless a network gave one tensor of a real float dtype, a row of channels a point."""
    require_tensor(found)
    if found.dtype not in FLOATS:
        raise TypeError(
            f"output: expected float32 or float64, got {found.dtype}; "
            "return output.float(), or use torch.autocast around the call"
        )
    length = samples.count * samples.each
    if found.ndim < samples.axis + 2 or found.shape[samples.axis] != length:
        wanted = ", ".join([*["1"] * samples.axis, str(length), "..."])
        raise ValueError(
            f"output: expected shape ({wanted}, channels), got {tuple(found.shape)}; "
            "return one row of channels a point"
        )


def require_alike(together: Tensor, alone: Tensor, eps: float) -> None:
    """Raise if outputs differ that should depend on one sample each."""
    difference = float((together.to(alone.dtype) - alone).abs().max())
    largest = max(float(alone.abs().max()), float(together.abs().max()))
    if difference > 10 * eps**0.5 * largest:
        raise ValueError(
            "network: expected the output of a sample to depend on that sample alone, got one that "
            f"differs by {difference / largest:.2g} of its size among other samples; let nothing "
            "mix samples or draw at random in the forward pass (but dropout, which is left out): "
            "put BatchNorm into eval mode"
        )


def alike(got: Tensor, wanted: Tensor, scale: float, eps: float) -> bool:
    """Say whether two gradients agree to half of the digits; `scale` is the largest of all."""
    difference, largest = float((got - wanted).abs().max()), float(wanted.abs().max())
    return math.isfinite(difference) and difference <= eps**0.5 * largest + eps * scale


def precision(leaves: Leaves, outputs: Tensor) -> float:
    """Return the eps of the least precise dtype that takes part."""
    return max(float(torch.finfo(tensor.dtype).eps) for tensor in (*leaves.values(), outputs))


def gradients(
    network: nn.Module, leaves: Leaves, samples: Samples, head: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate samples: their outputs (n, points, C), and the gradients of ``sum(head * f)``."""
    with evaluating(network):
        try:
            with WithoutDropout():
                found = samples.call(network)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "network: expected one that evaluates a sample by itself, got "
                f"{type(error).__name__} ({error}); put BatchNorm into eval mode"
            ) from error
        require_output(found, samples)
        if not found.requires_grad:
            raise unreached()
        _require_graph(found)
        flat = found.reshape(samples.count, -1, found.shape[-1])
        sparse = torch.autograd.grad((flat * head).sum(), list(leaves.values()), allow_unused=True)
    dense = {
        name: torch.zeros_like(leaf) if gradient is None else gradient.to_dense()
        for (name, leaf), gradient in zip(leaves.items(), sparse, strict=True)
    }
    return flat.detach(), dense


def unreached() -> ValueError:
    """Return the error of outputs that no trained parameter has a part in."""
    return ValueError(
        "network: expected outputs that depend on a trained parameter, got none that do; "
        "unfreeze one, or train without an adjustment"
    )


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Have matrix products in float32 computed in float32."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RuntimeError):  # newer settings, that this one cannot express
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, before)
        yield


def reduced_precision() -> bool:
    """Say whether matrix products in float32 may be computed in less."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        return True


def _require_graph(found: Tensor) -> None:
    """Raise if a part of the network is hidden from `torch.autograd.grad`."""
    seen, waiting = set(), [found.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "network: expected checkpoints whose gradients can be taken, got the reentrant "
                "kind; pass use_reentrant=False to torch.utils.checkpoint.checkpoint"
            )
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
