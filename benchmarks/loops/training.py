"""What a loop is given: a logger and something to call as IGA; and what it is known by.

The loops know these by their calls alone.
"""

import ast
import functools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import iga_torch
from iga_core import Adjustment

LAST, EVERY = 100, 10
"""The metric is the median over the last so many steps, evaluated at every so many."""


@dataclass(frozen=True)
class Size:
    """How large a loop is: points along a side (or as it says), units of a layer."""

    side: int
    width: int


@dataclass
class Log:
    """What a loop calls after each step, with a function that evaluates its metric in dB.

    Parameters
    ----------
    every : int
        Steps from one evaluation to the next; 0 for none.
    """

    every: int = EVERY
    values: list[tuple[int, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _since: float | None = None

    def __call__(self, metric: Callable[[], float]) -> None:
        now = time.process_time()  # which others on the machine do not lengthen
        # Of the first step nobody knows when it began.
        self.seconds.append(math.nan if self._since is None else now - self._since)
        if self.every and len(self.seconds) % self.every == 0:
            with torch.no_grad():
                self.values.append((len(self.seconds), round(metric(), 3)))
        self._since = time.process_time()

    def result(self) -> dict[str, float]:
        """Return the median over the last steps, and the maximum; NaN where a run diverged."""
        found = [value for _, value in self.values]
        last = [value for step, value in self.values if step > len(self.seconds) - LAST]
        return {
            "median": round(float(np.median(last)), 3),
            "maximum": max((v for v in found if not math.isnan(v)), default=math.nan),
        }


@dataclass
class Plain:
    """Leaves a network or a function as it is."""

    found: dict[str, Any] = field(default_factory=dict)

    def __call__(self, network: Any, *_: Any, **__: Any) -> Any:
        return network

    def finish(self) -> None:
        """Do nothing."""


@dataclass
class Adjusted:
    """Wraps a network or a function; what is known of the kernel stands in `found`."""

    adjustment: Adjustment
    found: dict[str, Any] = field(default_factory=dict)

    def __call__(self, network: Any, grouping: Any = None, **named: Any) -> Any:
        model = iga_torch.IGA(network, grouping, self.adjustment, **named)
        # A module would be known to pickle, which has to take what this knows to other processes.
        object.__setattr__(self, "_model", model)
        return model

    def finish(self) -> None:
        """Note what the last kernel was made of, and forget the model."""
        model = self.__dict__.pop("_model", None)
        if model is None:
            return
        report = model.kernel_report()
        self.found |= {
            "groups": _groups(model),
            "parameters": len(report.parameters),
            "explicit": [[row.name, row.why] for row in report.explicit],
        }


def _groups(model: Any) -> int | None:
    """Return how many groups the last transform is of; a control does not know."""
    transform = model.transform
    return None if transform is None or transform.uniform else int(transform.matrix().shape[0])


@dataclass(frozen=True)
class Loop:
    """One loop: the function, its rates, and what its metric is.

    Parameters
    ----------
    train : callable
        Takes ``(IGA, log, rate, seed, steps, size)``.
    manner : str
        Whose.
    metric : str
        In dB, higher is better.
    rates : tuple of two floats
        The customary one, and another.
    steps : int
        Of a run.
    size, small : Size
        Of a run, and of the comparison with dense algebra.
    """

    train: Callable[..., None]
    manner: str
    metric: str
    rates: tuple[float, float]
    steps: int = 400
    size: Size = Size(48, 64)
    small: Size = Size(12, 10)

    def lines(self) -> tuple[int, int]:
        """Return how many lines of the source call IGA, and how many say that they moved."""
        source = Path(sys.modules[self.train.__module__].__file__ or "").read_text()
        return lines_of(source, self.train.__name__)


def lines_of(source: str, name: str) -> tuple[int, int]:
    """Return the lines of statements that call IGA in a function and the classes beside it.

    Of a class or function other than `name` only if `name` mentions it; lines that end in
    ``# moved`` count for themselves.
    """
    lines = source.splitlines()
    own = {node.name: node for node in _parsed(source).body
           if isinstance(node, ast.FunctionDef | ast.ClassDef)}  # fmt: skip
    reached, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += [n.id for n in ast.walk(own[one]) if isinstance(n, ast.Name) and n.id in own]
    changed, moved = set(), 0
    for one in reached:
        node = own[one]
        end = node.end_lineno or node.lineno
        moved += sum(line.rstrip().endswith("# moved") for line in lines[node.lineno - 1 : end])
        if not any("IGA(" in line for line in lines[node.lineno - 1 : end]):
            continue  # to walk a tree takes longer than to look
        for statement in ast.walk(node):
            if isinstance(statement, ast.Assign | ast.Return | ast.Expr) and any(
                isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "IGA"
                for n in ast.walk(statement)
            ):
                changed |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return len(changed), moved


_parsed = functools.lru_cache(ast.parse)


def cooldown(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Return a schedule: a constant rate that falls linearly to zero over the last fifth."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (steps - step) / (0.2 * steps))
    )


def decibel(error: Tensor | float, peak: float = 2.0) -> float:
    """Return the PSNR of a mean square error; NaN of one that is not finite."""
    error = float(error)
    if not math.isfinite(error):
        return math.nan
    return 10 * math.log10(peak**2 / max(error, 1e-30))
