"""Loops that fit a photograph with products of filters, in the manner of BACON and MFN."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.loops.signals import grid, picture
from benchmarks.loops.siren import Signal
from benchmarks.loops.training import Loop, Size, cooldown, decibel


class Filter(nn.Module):
    """Sines of fixed frequencies, whole numbers of cycles up to a bound."""

    def __init__(self, width: int, cycles: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, width)
        frequencies = torch.randint(-cycles, cycles + 1, (width, 2))
        self.linear.weight.data = 2 * math.pi * frequencies.to(torch.get_default_dtype())
        self.linear.weight.requires_grad_(False)
        nn.init.uniform_(self.linear.bias, -math.pi, math.pi)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.linear(x))


class Bacon(nn.Module):
    """Products of filters, with outputs after several of them, each of a wider band."""

    def __init__(self, width: int, resolution: int) -> None:
        super().__init__()
        bands = [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4]
        self.filters = nn.ModuleList(Filter(width, round(b * resolution / 2)) for b in bands)
        self.linear = nn.ModuleList(nn.Linear(width, width) for _ in bands[1:])
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(3))
        bound = math.sqrt(6 / width)
        for layer in (*self.linear, *self.heads):
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, model_input: dict[str, Tensor]) -> dict[str, Any]:
        coords = model_input["coords"]
        out = self.filters[0](coords)
        outputs: list[Tensor] = []
        for k, linear in enumerate(self.linear, start=1):
            out = self.filters[k](coords) * linear(out)
            if k in (1, 2, 4):
                outputs.append(self.heads[len(outputs)](out))
        return {"model_in": model_input, "model_out": {"output": outputs}}


def bacon(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    coords = grid(size.side, 0.5)
    data = Signal(coords, img=picture("camera", size.side, 1).reshape(-1, 1) / 2 + 0.5)
    loader = DataLoader(data, batch_size=1)
    model = Bacon(size.width, size.side)
    model = IGA(model, output=[("model_out", "output", k) for k in range(3)])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        for model_input, gt in loader:
            outputs = model(model_input)["model_out"]["output"]
            loss = sum(((out - gt["img"]) ** 2).mean() for out in outputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        log(lambda: decibel(F.mse_loss(
            model(model_input)["model_out"]["output"][-1], gt["img"]), 1))  # fmt: skip


class GaborFilter(nn.Module):
    """Sines under Gaussians, both trained."""

    def __init__(self, width: int, scale: float, alpha: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2, width)
        self.mu = nn.Parameter(2 * torch.rand(width, 2) - 1)
        self.gamma = nn.Parameter(torch.distributions.Gamma(alpha, 1.0).sample((width,)))
        self.linear.weight.data *= scale * self.gamma.detach().sqrt()[:, None]
        nn.init.uniform_(self.linear.bias, -math.pi, math.pi)

    def forward(self, x: Tensor) -> Tensor:
        square = x.square().sum(-1, keepdim=True) + self.mu.square().sum(-1) - 2 * x @ self.mu.T
        return torch.sin(self.linear(x)) * torch.exp(-0.5 * square * self.gamma)


class GaborNet(nn.Module):
    """Products of such filters and linear layers."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.filters = nn.ModuleList(GaborFilter(width, scale / 2, 6 / 4) for _ in range(4))
        self.linear = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, 1)
        for layer in self.linear:
            nn.init.uniform_(layer.weight, -(width**-0.5), width**-0.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out = self.filters[0](x)
        for k, linear in enumerate(self.linear, start=1):
            out = self.filters[k](x) * linear(out)
        return self.output(out)


def mfn(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    data = TensorDataset(grid(size.side)[None], picture("camera", size.side, 1).reshape(1, -1, 1))
    loader = DataLoader(data, batch_size=1)
    model = GaborNet(size.width, float(size.side))
    model = IGA(model)
    opt = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = cooldown(opt, steps)
    for _ in range(steps):
        for x, y in loader:
            preds = model(x)
            loss = ((preds - y) ** 2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
        log(lambda: decibel(F.mse_loss(model(x), y)))


LOOPS = {
    "BACON": Loop(bacon, "BACON", "PSNR of the last output", (5e-4, 1.5e-3),
                  size=Size(40, 64)),
    "multiplicative filters": Loop(mfn, "MFN", "PSNR", (1e-2, 4e-3), size=Size(40, 48)),
}  # fmt: skip
