"""How the kernel of a network is made of each of its parameters, for people to read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import resolve_name


@dataclass(frozen=True)
class ParameterReport:
    """How one parameter's share in the kernel is had.

    Attributes
    ----------
    name : str
        Of the parameter.
    shape : tuple of int
        Its shape.
    how : {"factors", "explicit rows"}
        From what its layer was given and gave back, or from one gradient a sample.
    why : str
        For explicit rows, what stands in the way of factors; empty for factors.
    """

    name: str
    shape: tuple[int, ...]
    how: str
    why: str = ""


@dataclass(frozen=True)
class KernelReport:
    """How the last kernel was made; `str` gives a table.

    Attributes
    ----------
    parameters : tuple of ParameterReport
        One for each trained parameter; none before a kernel was made.
    """

    parameters: tuple[ParameterReport, ...]

    @property
    def explicit(self) -> tuple[ParameterReport, ...]:
        """Those that take explicit rows, which cost a gradient a sample."""
        return tuple(row for row in self.parameters if row.how != "factors")

    def __str__(self) -> str:
        if not self.parameters:
            return "no kernel was made yet"
        cells = [(row.name, str(row.shape), row.how, row.why) for row in self.parameters]
        widths = [max(len(row[k]) for row in cells) for k in range(3)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
            for row in cells
        ]
        return "\n".join(line.rstrip() for line in lines)


Reason = str | Callable[..., Any]
"""Why there are no factors: in words, or the operation that read the parameter."""


def report_of(
    leaves: Mapping[str, Tensor], reasons: Mapping[str, Reason], made: bool
) -> KernelReport:
    """Return the report of leaves of which some have a reason for explicit rows."""
    if not made:
        return KernelReport(())
    return KernelReport(
        tuple(
            ParameterReport(name, tuple(leaf.shape), "explicit rows", _said(reasons[name]))
            if name in reasons
            else ParameterReport(name, tuple(leaf.shape), "factors")
            for name, leaf in leaves.items()
        )
    )


def _said(reason: Reason) -> str:
    if isinstance(reason, str):
        return reason
    # PyTorch's own names of its functions; it suppresses warnings while it looks.
    return f"read by {resolve_name(reason) or getattr(reason, '__qualname__', repr(reason))}"
