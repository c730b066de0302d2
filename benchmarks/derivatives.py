"""What derivatives by coordinates cost: python -m benchmarks.derivatives [--rounds N] ...

`iga_torch.derivatives` against backward passes of backward passes by `torch.autograd`, and against
`torch.func`: values with gradients, and with Laplacians too; evaluated, and with the backward pass
to the parameters. Then the kernel of a module that returns them, from calls against a graph. All
sides take turns on one thread; a ratio is the median over the rounds of the quotients of processor
time within a round. Their results are compared first. Writes ``results/derivatives.md`` and
``.json``.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacfwd, jacrev, vmap

import iga_torch
from benchmarks._report import RESULTS, alternate, environment, fill, ratio, write_json, write_text
from iga_core import Network
from iga_torch.derivatives import Derivatives, _carried

TOLERANCE = 1e-4
POINTS, REPRESENTATIVES = 2048, 256
Taken = Callable[[nn.Module, Tensor, int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A network, and which of its derivatives are taken.

    Parameters
    ----------
    kind : {"siren", "tanh", "softplus"}
        Of activation.
    width, depth, axes, outputs : int
        Of the network.
    order : {1, 2}
        Gradients, or Laplacians too.
    """

    kind: str
    width: int
    depth: int
    axes: int
    outputs: int
    order: int

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        if self.kind == "siren":
            described = Network("siren", inputs=self.axes, outputs=self.outputs, width=self.width,
                                depth=self.depth)  # fmt: skip
            return iga_torch.from_network(described)
        layers: list[nn.Module] = []
        for k in range(self.depth):
            layers.append(nn.Linear(self.width if k else self.axes, self.width))
            layers.append(nn.Tanh() if self.kind == "tanh" else nn.Softplus())
        return nn.Sequential(*layers, nn.Linear(self.width, self.outputs))

    def points(self, count: int) -> Tensor:
        return 2 * torch.rand(count, self.axes, generator=torch.Generator().manual_seed(0)) - 1


def told(found: Derivatives) -> tuple[Tensor, ...]:
    return tuple(part for part in found if part is not None)


def ours(network: nn.Module, x: Tensor, order: int) -> tuple[Tensor, ...]:
    return told(iga_torch.derivatives(network, x, order))


def carried(network: nn.Module, x: Tensor, order: int) -> tuple[Tensor, ...]:
    """Return ours as the kernel has them, whatever is faster."""
    return told(_carried(network, x, order, False, (), {}))


def by_autograd(network: nn.Module, x: Tensor, order: int) -> tuple[Tensor, ...]:
    """Return them by backward passes, of one channel after another."""
    x = x.detach().requires_grad_()
    value = network(x)
    first, second = [], []
    for channel in value.unbind(-1):
        (slope,) = torch.autograd.grad(channel.sum(), x, create_graph=True)
        first.append(slope)
        if order == 2:
            along = [
                torch.autograd.grad(part.sum(), x, create_graph=True)[0][:, k]
                for k, part in enumerate(slope.unbind(-1))
            ]
            second.append(torch.stack(along).sum(dim=0))
    found = (value, torch.stack(first, dim=1))
    return (*found, torch.stack(second, dim=1)) if second else found


def by_func(network: nn.Module, x: Tensor, order: int) -> tuple[Tensor, ...]:
    """Return them by `torch.func`, point by point under vmap, as many PINNs are written."""
    parameters: dict[str, Tensor] = dict(network.named_parameters())

    def twice(point: Tensor) -> tuple[Tensor, Tensor]:
        value: Tensor = functional_call(network, parameters, (point,))
        return value, value

    slope_of = jacrev(twice, has_aux=True)
    if order == 1:
        slope, value = vmap(slope_of)(x)
        return value, slope

    def slope_with(point: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        slope, value = slope_of(point)
        return slope, (value, slope)

    hessian, (value, slope) = vmap(jacfwd(slope_with, has_aux=True))(x)
    return value, slope, hessian.diagonal(dim1=-2, dim2=-1).sum(dim=-1)


SIDES: dict[str, Taken] = {
    "ours": ours,
    "carried": carried,
    "autograd": by_autograd,
    "torch.func": by_func,
}


def cases(small: bool) -> list[Case]:
    if small:
        return [Case("tanh", 8, 2, 2, 1, order) for order in (1, 2)]
    found = itertools.product(
        ("siren", "tanh", "softplus"), (64, 256), (3, 5), ((2, 1), (3, 1)), (1, 2)
    )
    every = [Case(kind, width, depth, *of, order) for kind, width, depth, of, order in found]
    colours = [Case("siren", width, 3, 2, 3, order) for width in (64, 256) for order in (1, 2)]
    return every + colours


def stepper(
    taken: Taken, network: nn.Module, x: Tensor, order: int, back: bool
) -> Callable[[], Any]:
    def step() -> None:
        found = taken(network, x, order)
        if back:
            loss = torch.stack([part.square().mean() for part in found]).sum()
            network.zero_grad()
            torch.autograd.backward(loss)

    return step


def difference(case: Case, network: nn.Module, x: Tensor, names: list[str]) -> float:
    """Hold all sides against autograd in float64, relative to the largest number."""
    network, x = network.double(), x.double()
    wanted = by_autograd(network, x, case.order)
    found = 0.0
    for name in names:
        for got, want in zip(SIDES[name](network, x, case.order), wanted, strict=True):
            found = max(found, float((got - want).detach().abs().max() / want.detach().abs().max()))
    network.float()
    return found


def times(case: Case, count: int, rounds: int) -> list[dict[str, Any]]:
    """Time all sides of a case in turn: evaluated, and with the backward pass."""
    network, x = case.network(), case.points(count)
    names = [name for name in SIDES if name != "carried" or case.order == 1]
    off = difference(case, network, x[:64], names)
    if off > TOLERANCE:
        raise RuntimeError(f"{case}: sides differ by {off:.1g}")
    rows = []
    for back in (False, True):
        steps = {name: stepper(SIDES[name], network, x, case.order, back) for name in names}
        seconds = alternate(steps, rounds, time.process_time)
        rows.append(
            {
                **asdict(case),
                "back": back,
                "difference": off,
                "seconds": {name: float(np.median(of)) for name, of in seconds.items()},
                "over": {peer: ratio(seconds, "ours", peer) for peer in ("autograd", "torch.func")},
                "carried": ratio(seconds, "carried", "autograd") if case.order == 1 else None,
            }
        )
    return rows


class Returned(nn.Module):
    """Derivatives of a network as channels."""

    def __init__(self, network: nn.Module, order: int, taken: Taken) -> None:
        super().__init__()
        self.network, self.order, self.taken = network, order, taken

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            found = self.taken(self.network, x, self.order)
        return torch.cat([part.flatten(1) for part in found], dim=1)


def kernels(case: Case, count: int, rounds: int) -> dict[str, Any]:
    """Time the kernel of derivatives, ours against what autograd's graph shows."""
    x, network = case.points(count), case.network()
    sides = {name: Returned(network, case.order, SIDES[name]) for name in ("ours", "autograd")}
    found = {name: iga_torch.empirical_ntk(side, x[:32]) for name, side in sides.items()}
    off = float((found["ours"] - found["autograd"]).abs().max() / found["autograd"].abs().max())
    explicit = {name: len(iga_torch.kernel_report(side).explicit) for name, side in sides.items()}

    def kernel(side: nn.Module) -> Callable[[], Any]:
        return lambda: iga_torch.empirical_ntk(side, x)

    seconds = alternate(
        {name: kernel(side) for name, side in sides.items()}, rounds, time.process_time
    )
    return {
        **asdict(case),
        "difference": off,
        "explicit": explicit,
        "seconds": {name: float(np.median(of)) for name, of in seconds.items()},
        **ratio(seconds, "ours", "autograd"),
    }


def about(row: dict[str, Any]) -> str:
    what = "Laplacian" if row["order"] == 2 else "gradient"
    return (
        f"| {row['kind']} | {row['width']} x {row['depth']} | {row['axes']} -> {row['outputs']} "
        f"| {what} "
    )


def quotient(of: dict[str, float] | None) -> str:
    return "" if of is None else f"{of['median']:.2f} ({of['low']:.2f} to {of['high']:.2f})"


def line(row: dict[str, Any]) -> str:
    seconds, over = row["seconds"], row["over"]
    return (
        f"{about(row)}| {'with' if row['back'] else 'without'} | {1e3 * seconds['ours']:.3g} "
        f"| {quotient(over['autograd'])} | {quotient(over['torch.func'])} "
        f"| {quotient(row['carried'])} |"
    )


def kernel_line(row: dict[str, Any]) -> str:
    seconds, explicit = row["seconds"], row["explicit"]
    return (
        f"{about(row)}| {1e3 * seconds['ours']:.3g} / {1e3 * seconds['autograd']:.3g} "
        f"| {row['median']:.3f} ({row['low']:.3f} to {row['high']:.3f}) "
        f"| {explicit['ours']} / {explicit['autograd']} | {row['difference']:.0e} |"
    )


COLUMNS = (
    "network", "width x depth", "axes -> outputs", "value and", "backward", "ours, ms",
    "over autograd (middle half)", "over torch.func", "carried over autograd",
)  # fmt: skip
KERNEL_COLUMNS = (*COLUMNS[:4], "ours / autograd, ms", "ratio (middle half)", "explicit rows",
                  "off by")  # fmt: skip
WORDS = (
    "{points} points, float32. Gradient: values and first derivatives; Laplacian: these and the "
    "sum of second derivatives. Backward: without, or with, the backward pass of a sum of mean "
    "squares to the parameters. Over: the median over the rounds of the quotients of processor "
    "time within a round, and their middle half. autograd: `torch.autograd.grad` with "
    "`create_graph`, channel by channel, and once more for each axis. torch.func: `vmap` of "
    "`jacrev`, and of `jacfwd(jacrev)` for the Laplacian. Carried: gradients taken forward, as "
    "`derivatives` does for a kernel, and where there are as many outputs as axes; with fewer, one "
    "backward pass for each output takes fewer products, so that `derivatives` leaves them to "
    "autograd, and cannot be faster. In float64 all sides agree with autograd to {worst:.0e} of "
    "the largest number."
)
KERNEL_WORDS = (
    "`iga_torch.empirical_ntk` of {points} points, of a module that returns these derivatives as "
    "channels, by `derivatives` or by `torch.autograd.grad`. Explicit rows: how many parameters "
    "have them. Off by: the largest difference of the two kernels of 32 points, relative, in "
    "float32."
)


def table(rows: list[dict[str, Any]], made: list[dict[str, Any]], note: str) -> str:
    where = {**environment(), "torch": torch.__version__}
    named = ", ".join(f"{key} {value}" for key, value in where.items())
    worst = max(row["difference"] for row in rows)
    parts = [
        "# What derivatives by coordinates cost",
        "",
        fill(f"`python -m benchmarks.derivatives`: {named}; one thread. {note}"),
        "",
        *heading(COLUMNS),
        *map(line, rows),
        "",
        fill(WORDS.format(points=POINTS, worst=worst)),
        "",
        "## The kernel of derivatives",
        "",
        *heading(KERNEL_COLUMNS),
        *map(kernel_line, made),
        "",
        fill(KERNEL_WORDS.format(points=REPRESENTATIVES)),
        "",
    ]
    return "\n".join(parts)


def heading(columns: tuple[str, ...]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--note", default="", help="on the machine, for the page")
    parser.add_argument("--smoke", action="store_true", help="so small that it says nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rounds = 2 if given.smoke else given.rounds
    rows = []
    for case in cases(given.smoke):
        rows += times(case, 64 if given.smoke else POINTS, rounds)
        print(*map(line, rows[-2:]), sep="\n")
    made = []
    for case in cases(given.smoke):
        if given.smoke or (case.depth == 3 and case.kind != "softplus" and case.axes == 3):
            made.append(kernels(case, 32 if given.smoke else REPRESENTATIVES, min(rounds, 3)))
            print(kernel_line(made[-1]))
    text = table(rows, made, given.note)
    write_text("derivatives.md", text, given.output)
    write_json("derivatives.json", {"rows": rows, "kernels": made}, given.output)


if __name__ == "__main__":
    main()
