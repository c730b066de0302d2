"""The empirical neural tangent kernel of any PyTorch network."""

from collections.abc import Mapping
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from iga_torch.checking import require_module, require_separate, trained
from iga_torch.report import KernelReport
from iga_torch.samples import Samples
from iga_torch.tangents import Tangents

Outputs = Literal["sum", "trace", "full"]

_KNOWN: "WeakKeyDictionary[nn.Module, Tangents]" = WeakKeyDictionary()


def empirical_ntk(
    network: nn.Module, x1: Tensor, x2: Tensor | None = None, outputs: Outputs = "sum"
) -> Tensor:
    """Return the empirical neural tangent kernel of a network (Jacot et al. 2018).

    Parameters
    ----------
    network : nn.Module
        Maps (n, ...) to (n, C), or to (n, s, C): then the tangents of the `s` points of a row are
        averaged. Any module whose output for a sample depends on that sample alone.
    x1 : Tensor, shape (n, ...)
        Samples.
    x2 : Tensor, shape (n', ...), optional
        Those of the columns; by default the same, of which half is computed.
    outputs : {"sum", "trace", "full"}
        Kernel of ``Σ_c f_c / √C``; mean over outputs of their kernels; or all of them.

    Returns
    -------
    Tensor, shape (n, n'), or (n, n', C, C) for "full"
        In the network's dtype, on its device, detached. ``full[i, j, c, d]`` is the product of
        the gradients of ``f_c(x_i)`` and ``f_d(x_j)``.

    Raises
    ------
    TypeError, ValueError
        If the samples are not on the network's device, the network returns something else, has no
        trained parameter, or mixes samples.

    Notes
    -----
    Layers and tables, however they are written (``x @ W.T + b``, `einsum`, a convolution of one
    point, a product of a trained and a fixed matrix), cost ``n n' u u' (d_in + d_out)`` for u uses
    in a sample, see `iga_core.gram` (times C for the outputs' cotangents of "trace", C² for
    "full"). All other parameters cost their per-sample gradients, once each, of which at most
    `iga_torch.explicit.ROW_BYTES` are held; `kernel_report` names them. Real and imaginary parts
    of complex outputs are two outputs, one behind the other; of complex parameters, ``Re(J Jᴴ)``.

    The network is evaluated once a side, and once more where parameters have explicit rows; three
    times more, at one sample, when such a network is first seen with samples of a shape. Then
    everything is compared with autograd. The network and the state of random numbers are left as
    they were; dropout is left out.
    """
    require_module(network)
    if outputs not in get_args(Outputs):
        raise ValueError(
            f"outputs: expected one of {', '.join(get_args(Outputs))}, got {outputs!r}; name one"
        )
    require_separate(network)
    leaves = trained(network)
    sides = [_samples("x1", x1, leaves)]
    if x2 is not None:
        sides.append(_samples("x2", x2, leaves))
    tangents = _KNOWN.setdefault(network, Tangents())
    kernel = tangents.kernel(network, leaves, *sides, outputs=outputs)
    if outputs != "full":
        return kernel
    n, n_right = sides[0].count, sides[-1].count
    return kernel.reshape(n, kernel.shape[0] // n, n_right, -1).movedim(1, 2)


def kernel_report(network: nn.Module) -> KernelReport:
    """Return how the last `empirical_ntk` of a network was made of each of its parameters.

    Parameters
    ----------
    network : nn.Module
        That `empirical_ntk` was given.

    Returns
    -------
    KernelReport
        Which parameters have factors, and which take explicit rows and why; print it. Without
        entries before a kernel was made.

    Examples
    --------
    >>> import torch
    >>> network = nn.Sequential(nn.Linear(2, 8), nn.PReLU(), nn.Linear(8, 1))
    >>> _ = empirical_ntk(network, torch.rand(5, 2))
    >>> print(kernel_report(network))
    0.weight  (8, 2)  factors
    0.bias    (8,)    factors
    1.weight  (1,)    explicit rows  read by torch.nn.functional.prelu
    2.weight  (1, 8)  factors
    2.bias    (1,)    factors
    """
    require_module(network)
    return _KNOWN.get(network, Tangents()).report(trained(network))


def _samples(name: str, x: Any, leaves: Mapping[str, Tensor]) -> Samples:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}: expected a tensor, got {type(x).__name__}; use torch.as_tensor first"
        )
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"{name}: expected shape (n, ...) of two axes or more, got {tuple(x.shape)}; "
            "pass one row a sample"
        )
    require_device(name, x, leaves)
    return Samples.of(x.detach(), x.shape[0])


def require_device(name: str, x: Tensor, leaves: Mapping[str, Tensor]) -> None:
    """Raise unless a tensor is where one of the trained parameters is."""
    places = {leaf.device for leaf in leaves.values()}
    if x.device not in places:
        raise ValueError(
            f"{name}: expected device {', '.join(map(str, places))} of the network, got "
            f"{x.device}; move it with .to()"
        )
