"""What the kernel of a function of a network costs: python -m benchmarks.function_rows.

Derivatives taken inside a function, weight-normed distances and rendered rays: the kernel of 256
rows in float32, against the plain pass over the same 256 points, which evaluates the function and
takes the gradient of its sum by the parameters. Processor time on one thread, all sides in turn.
"alone" is what explicit rows cost, a pass for each of 8 points, times 32. Writes
``results/function-rows.md``.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks._report import alternate, environment, fill, ratio, write_text
from iga_core import Network
from iga_torch import empirical_ntk, from_network, kernel_report

COUNT, ALONE = 256, 8
MOST = 3.0
"""Of the plain pass's time, wanted."""


def slope(u: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


class Of(nn.Module):
    """A function of a network, as the module whose parameters are the network's."""

    def __init__(self, network: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's rows."""
        return self.function(self.network, x)


def value(network: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = network(x)
    return found


def gradient(network: nn.Module, x: Tensor) -> Tensor:
    return slope(network(x), x)


def value_and_gradient(network: nn.Module, x: Tensor) -> Tensor:
    u = network(x)
    return torch.cat([u, slope(u, x)], dim=-1)


def laplacian(network: nn.Module, x: Tensor) -> Tensor:
    g = gradient(network, x)
    return torch.stack([slope(g[:, k], x)[:, k] for k in range(x.shape[1])]).sum(dim=0)[:, None]


def hessian(network: nn.Module, x: Tensor) -> Tensor:
    of_one = torch.func.hessian(lambda p: network(p).sum())
    found: Tensor = torch.func.vmap(of_one)(x)
    return found.flatten(1)


def rendered(network: nn.Module, rays: Tensor) -> Tensor:
    """Return colours of rays with 32 samples each."""
    depth = torch.linspace(0, 1, 32)[:, None]
    raw = network(rays[:, None, :3] + depth * rays[:, None, 3:])
    alpha = 1 - torch.exp(-nn.functional.softplus(raw[..., 3]) / 32)
    left = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], dim=1), dim=1)
    colours: Tensor = (alpha * left[:, :-1])[..., None] * raw[..., :3].sigmoid()
    return colours.sum(dim=1)


def distance() -> nn.Module:
    """Return a signed distance as it is mostly built: softplus between weight-normed layers."""
    widths = [3, 256, 256, 256, 1]
    parts: list[nn.Module] = []
    for k in range(4):
        parts += [weight_norm(nn.Linear(widths[k], widths[k + 1])), nn.Softplus(beta=100)]
    return nn.Sequential(*parts[:-1])


def siren(outputs: int = 1, inputs: int = 2) -> nn.Module:
    return from_network(Network("siren", inputs=inputs, outputs=outputs), seed=0)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], int]] = {
    "SIREN, its value": (siren, value, 2),
    "SIREN, gradient": (siren, gradient, 2),
    "SIREN, Laplacian": (siren, laplacian, 2),
    "SIREN, Hessian by torch.func": (siren, hessian, 2),
    "weight-normed distance and normal": (distance, value_and_gradient, 3),
    "rays of 32 samples": (lambda: siren(4, 3), rendered, 6),
}


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Time one case."""
    torch.manual_seed(0)
    make, function, inputs = CASES[name]
    module = Of(make(), function)
    parameters = list(module.parameters())
    x = torch.rand(COUNT, inputs) * 2 - 1

    def passed(x: Tensor) -> None:
        found = module(x.clone().requires_grad_(function is not rendered))
        torch.autograd.grad(found.sum(), parameters, allow_unused=True)

    def alone() -> None:
        for k in range(ALONE):
            passed(x[k : k + 1])

    def kernel() -> None:
        empirical_ntk(module, x)

    steps = {"plain": lambda: passed(x), "kernel": kernel, "alone": alone}
    seconds = alternate(steps, rounds, time.process_time)
    return {
        "milliseconds": {k: 1e3 * sorted(v)[len(v) // 2] for k, v in seconds.items()},
        **ratio(seconds, "kernel", "plain"),
        "explicit": len(kernel_report(module).explicit),
    }


def table(rows: dict[str, dict[str, Any]], rounds: int) -> str:
    found = {**environment(), "torch": torch.__version__}
    where = ", ".join(f"{name} {value}" for name, value in found.items())
    lines = [
        "# What the kernel of a function costs",
        "",
        fill(f"`python -m benchmarks.function_rows`: {where}"),
        "",
        "| function of a network of width 256 | plain pass, ms | kernel / plain | alone / plain |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        ms = row["milliseconds"]
        alone = ms["alone"] * COUNT / ALONE / ms["plain"]
        spread = f"{row['median']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        lines.append(f"| {name} | {ms['plain']:.1f} | {spread} | {alone:.0f} |")
    lines += [
        "",
        fill(
            f"Kernel: of {COUNT} rows, float32, one thread; plain: one evaluation at the same "
            f"points and its gradient by all parameters; processor time, medians of {rounds} "
            "rounds in which all take turns, and the middle half of the quotients. Alone: explicit "
            f"rows, a pass for each point, of {ALONE} points. All parameters have factors. "
            f"Wanted: at most {MOST:.0f}."
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        found = {name: measured(name, given.rounds) for name in CASES}
    assert not any(row["explicit"] for row in found.values()), found
    print(table(found, given.rounds))
    write_text("function-rows.md", table(found, given.rounds))
