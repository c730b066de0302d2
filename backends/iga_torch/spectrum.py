"""The spectrum of a kernel in three numbers, for those who watch a run."""

import torch
from torch import Tensor

from iga_core import Transform
from iga_core.filters import SAFE


def spectrum(transform: Transform | None) -> dict[str, Tensor]:
    """Return what a transform's kernel says of the training, as tensors (): nothing is waited for.

    Parameters
    ----------
    transform : Transform, optional
        As of ``model.transform``.

    Returns
    -------
    dict of str to Tensor
        ``leading``, the largest eigenvalue: how fast the dominating direction is learned, and so
        whether a rate is too large. ``condition``, how often the smallest one that exceeds rounding
        goes into it: how far behind the slowest direction is. ``share``, from 1/n to 1: along how
        many of the n directions plain training moves at once, ``(Σλ)² / (n Σλ²)``. Empty where
        there is no kernel.

    Examples
    --------
    >>> import torch
    >>> from iga_core import Damp
    >>> found = spectrum(Damp()(torch.diag(torch.tensor([4.0, 1.0]))))
    >>> {name: round(float(number), 2) for name, number in found.items()}
    {'leading': 4.0, 'condition': 4.0, 'share': 0.74}
    """
    values = None if transform is None else transform.eigenvalues
    if values is None:
        return {}
    values = values.detach()
    leading = values.amax()
    safe = values > SAFE * torch.finfo(values.dtype).eps * leading
    smallest = torch.where(safe, values, leading).amin()
    total = values.sum()
    return {
        "leading": leading,
        "condition": leading / smallest,
        "share": total * total / (values.square().sum() * len(values)),
    }
