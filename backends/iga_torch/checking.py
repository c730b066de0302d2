"""What autograd says of a network, against which its factors and rows are held."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from iga_torch.graph import nodes_behind
from iga_torch.layers import normalising
from iga_torch.recording import COMPLEX, FLOATS, WithoutDropout, evaluating
from iga_torch.samples import Samples

Leaves = Mapping[str, Tensor]


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
        if leaf.is_inference():
            raise ValueError(
                f"network: expected parameters that can be differentiated, got {name} made under "
                "torch.inference_mode; build or load the network outside of it"
            )
        if leaf.dtype not in (*FLOATS, *COMPLEX):
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


def evaluated(
    network: nn.Module, leaves: Leaves, samples: Samples, mode: WithoutDropout | None = None
) -> Tensor:
    """Return a network's outputs as real numbers, (n, points, C); see `evaluating`.

    Of complex ones, real and imaginary parts are two outputs, one behind the other. The mode is
    that of the evaluation, without dropout.
    """
    try:
        with WithoutDropout() if mode is None else mode:
            found = samples.call(network)
    except RuntimeError as error:
        require_dtype(samples, leaves, error)
        raise
    require_output(found, samples)
    flat = found.reshape(samples.count, -1, found.shape[-1])
    return torch.view_as_real(flat.resolve_conj()).flatten(2) if flat.is_complex() else flat


def require_dtype(samples: Samples, leaves: Leaves, error: Exception) -> None:
    """Raise an error in our words if a failed call was of another dtype than the network."""
    wanted = {leaf.dtype for leaf in leaves.values()}
    given = [t.dtype for t in samples.tensors() if t.dtype.is_floating_point or t.dtype.is_complex]
    if given and not wanted & set(given):
        names = ", ".join(sorted(map(str, wanted)))
        raise TypeError(
            f"coordinates: expected {names} as the network has, got {given[0]}; convert them with "
            f".to({names.split(', ')[0]}), or the network with .to({given[0]})"
        ) from error


def require_output(found: Any, samples: Samples) -> None:
    """Raise unless a network gave one tensor of a float dtype, a row of channels a point."""
    require_tensor(found)
    if found.dtype not in (*FLOATS, *COMPLEX):
        raise TypeError(
            f"output: expected float32 or float64, or complex numbers of these, got {found.dtype}; "
            "return output.float(), or use torch.autocast around the call"
        )
    length = samples.count * samples.each
    if found.ndim < samples.axis + 2 or found.shape[samples.axis] != length:
        wanted = ", ".join([*["1"] * samples.axis, str(length), "..."])
        raise ValueError(
            f"output: expected shape ({wanted}, channels), got {tuple(found.shape)}; "
            "return one row of channels a point"
        )


def prepared(tensors: list[Tensor]) -> list[Tensor]:
    """Return copies of sampled arguments, those with derivatives ready to have them taken.

    They are no leaves, so that a network may change them in place; and a network that asks for
    derivatives itself finds them as it wants them.
    """
    copies = [t.detach().clone() for t in tensors]
    return [
        t.requires_grad_().clone() if t.dtype.is_floating_point or t.dtype.is_complex else t
        for t in copies
    ]


def chosen_half(count: int, device: torch.device) -> Tensor:
    """Return which of some samples, () of bool each, are on the one side of a check; not all."""
    generator = numpy.random.default_rng(0)
    half = numpy.arange(count) % 2 == 0
    generator.shuffle(half)
    return torch.from_numpy(half).to(device)


def require_separate_rows(gradient: Tensor, chosen: Tensor, eps: float) -> None:
    """Raise if the chosen samples' outputs have a derivative by the inputs of others.

    Parameters
    ----------
    gradient : Tensor, shape (leading, ...)
        Of the chosen samples' outputs, by the inputs of all.
    chosen : Tensor of bool, shape (leading)
        Which these are.
    eps : float
        Of the dtype. What is zero in exact numbers is zero in floating point too, or nearly.
    """
    # Where a derivative is infinite, zero times it says nothing.
    size = torch.where(torch.isfinite(gradient), gradient.abs(), 0.0)
    own, others = (float(size[side].amax()) if side.any() else 0.0 for side in (chosen, ~chosen))
    if others > 100 * eps * own:
        raise ValueError(
            "network: expected the output of a sample to depend on that sample alone, got a "
            f"derivative by other samples' inputs of {others / own if own else math.inf:.2g} of "
            f"that by its own; {REMEDY}"
        )


REMEDY = "let nothing in the forward pass mix samples: put BatchNorm into eval mode"


def require_separate_points(network: nn.Module, samples: Samples, axes: int) -> None:
    """Raise if outputs at some points have derivatives by the coordinates of others.

    Parameters
    ----------
    network : nn.Module
        At its present parameters; evaluated once.
    samples : Samples
        Some points, those of a group beside each other.
    axes : int
        How many leading axes of the output, and of the inputs, count points.
    """
    with evaluating(network), full_precision():
        inputs = prepared(samples.tensors())
        with WithoutDropout():
            found = samples.with_tensors(inputs).call(network)
        require_tensor(found)
        shape = found.shape[:axes]
        if not found.requires_grad:
            return
        half = chosen_half(shape.numel(), found.device).reshape(shape)
        wanted = [t for t in inputs if t.requires_grad and t.shape[:axes] == shape]
        for chosen in (half, ~half) if wanted else ():
            part = found[chosen]
            part = torch.view_as_real(part.resolve_conj()) if part.is_complex() else part
            with WithoutDropout():
                gradients = torch.autograd.grad(
                    part.sum(), wanted, retain_graph=True, allow_unused=True
                )
            for gradient in gradients:
                if gradient is not None:
                    require_separate_rows(
                        gradient.reshape(*shape, -1), chosen, torch.finfo(part.dtype).eps
                    )


def require_alike(together: Tensor, alone: Tensor, eps: float) -> None:
    """Raise if outputs differ that should depend on one sample each."""
    difference = float((together - alone).abs().max())
    largest = max(float(alone.abs().max()), float(together.abs().max()))
    if difference > 10 * eps**0.5 * largest:
        raise ValueError(
            "network: expected the output of a sample to depend on that sample alone, got one that "
            f"differs by {difference / largest:.2g} of its size among other samples; {REMEDY}"
        )


def alike(got: Tensor, wanted: Tensor, scale: float, eps: float, noise: float = 0) -> bool:
    """Say whether two gradients agree to half of the digits, or but for known noise.

    `scale` is the largest of all parameters' gradients.
    """
    difference, largest = float((got - wanted).abs().max()), float(wanted.abs().max())
    return math.isfinite(difference) and difference <= eps**0.5 * largest + eps * scale + noise


def precision(leaves: Leaves, outputs: Tensor) -> float:
    """Return the eps of the least precise dtype that takes part."""
    return max(float(torch.finfo(tensor.dtype).eps) for tensor in (*leaves.values(), outputs))


def gradients_of(
    scalar: Tensor, leaves: Leaves, inputs: list[Tensor]
) -> tuple[dict[str, Tensor], list[Tensor | None]]:
    """Return the gradients of a scalar by leaves, dense, and by inputs; its graph is kept."""
    with WithoutDropout():
        found = torch.autograd.grad(
            scalar, [*leaves.values(), *inputs], retain_graph=True, allow_unused=True
        )
    dense = {
        name: torch.zeros_like(leaf) if gradient is None else gradient.to_dense()
        for (name, leaf), gradient in zip(leaves.items(), found[: len(leaves)], strict=True)
    }
    return dense, list(found[len(leaves) :])


UNREACHED = (
    "network: expected outputs that depend on a trained parameter, got none that do; unfreeze one, "
    "or train without an adjustment"
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


def require_graph(outputs: list[Tensor], leaves: Leaves, words: str = UNREACHED) -> None:
    """Raise if outputs reach no trained parameter, or one is hidden from `torch.autograd.grad`."""
    ids = set(map(id, leaves.values()))
    reached = False
    for node in nodes_behind(output.grad_fn for output in outputs):
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "network: expected checkpoints whose gradients can be taken, got the reentrant "
                "kind; pass use_reentrant=False to torch.utils.checkpoint.checkpoint"
            )
        reached |= id(getattr(node, "variable", None)) in ids
    if not reached:
        raise ValueError(words)
