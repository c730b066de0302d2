"""Loops that fit a photograph in the manner of wire, finer, DINER, COIN, hash grids and KAN."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.loops.signals import grid, picture
from benchmarks.loops.training import Loop, Size, cooldown, decibel
from iga_core import Grouping


class ComplexGabor(nn.Module):
    """A wavelet of a complex linear layer; the first layer is real."""

    def __init__(self, inputs: int, outputs: int, first: bool, omega: float, scale: float) -> None:
        super().__init__()
        dtype = None if first else torch.complex128
        if not first and torch.get_default_dtype() == torch.float32:
            dtype = torch.complex64
        self.linear = nn.Linear(inputs, outputs, dtype=dtype)
        # Both belong to the model, and are not trained.
        self.omega = nn.Parameter(torch.tensor(omega), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        linear = self.linear(x)
        return torch.exp(1j * self.omega * linear - (self.scale * linear).abs().square())


class Wire(nn.Module):
    """Two hidden layers of complex wavelets; the real part is the output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        width = int(width / math.sqrt(2))  # a complex unit is two real ones
        dtype = torch.complex64 if torch.get_default_dtype() == torch.float32 else torch.complex128
        self.net = nn.Sequential(
            ComplexGabor(2, width, True, 10.0, 10.0), ComplexGabor(width, width, False, 10.0, 10.0),
            ComplexGabor(width, width, False, 10.0, 10.0), nn.Linear(width, 3, dtype=dtype),
        )  # fmt: skip

    def forward(self, coords: Tensor) -> Tensor:
        return self.net(coords).real


def wire(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    gt = picture("chelsea", size.side).reshape(1, -1, 3)
    coords = grid(size.side)[None]
    count, maxpoints = coords.shape[1], coords.shape[1] // 2
    model = Wire(size.width)
    model = IGA(model)
    optim = torch.optim.Adam(lr=rate, params=[p for p in model.parameters() if p.requires_grad])
    epochs = steps // 2
    scheduler = torch.optim.lr_scheduler.LambdaLR(optim, lambda x: 0.1 ** min(x / epochs, 1))
    for _ in range(epochs):
        indices = torch.randperm(count)
        for start in range(0, count, maxpoints):
            chosen = indices[start : start + maxpoints]
            pixels = model(coords[:, chosen])
            loss = ((pixels - gt[:, chosen]) ** 2).mean()
            optim.zero_grad()
            loss.backward()
            optim.step()
            log(lambda: decibel(F.mse_loss(model(coords), gt)))
        scheduler.step()


class FinerLayer(nn.Module):
    """A sine of variable period."""

    def __init__(self, inputs: int, outputs: int, first: bool = False, omega: float = 30.0) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(inputs, outputs), omega
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)
        if first:
            nn.init.uniform_(self.linear.bias, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        linear = self.linear(x)
        with torch.no_grad():
            scale = linear.abs() + 1
        return torch.sin(self.omega * scale * linear)


def finer(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    coords, gt = grid(size.side), picture("coffee", size.side).reshape(-1, 3)
    width = size.width
    head = nn.Linear(width, 3)
    nn.init.uniform_(head.weight, -math.sqrt(6 / width) / 30, math.sqrt(6 / width) / 30)
    model = nn.Sequential(
        FinerLayer(2, width, first=True), FinerLayer(width, width), FinerLayer(width, width),
        FinerLayer(width, width), head,
    )  # fmt: skip
    model = IGA(model)
    optimizer = torch.optim.Adam(lr=rate, params=model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda x: 0.1 ** min(x / steps, 1))
    for _ in range(steps):
        pred = model(coords)
        loss = ((pred - gt) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        log(lambda: decibel(F.mse_loss(model(coords), gt)))


class Diner(nn.Module):
    """A sine network whose inputs are trained: a row of a table for each pixel."""

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(pixels, 2)
        nn.init.uniform_(self.table.weight, -1e-4, 1e-4)
        self.first, self.second = nn.Linear(2, width), nn.Linear(width, width)
        self.third, self.head = nn.Linear(width, width), nn.Linear(width, 3)
        nn.init.uniform_(self.first.weight, -0.5, 0.5)
        for layer in (self.second, self.third, self.head):
            bound = math.sqrt(6 / width) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, index: Tensor) -> Tensor:
        x = self.table(index)
        for layer in (self.first, self.second, self.third):
            x = torch.sin(30 * layer(x))
        return self.head(x).clamp(-1, 1)


def diner(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    gt = picture("astronaut", size.side).reshape(-1, 3)
    index = torch.arange(len(gt))
    model = Diner(len(gt), size.width)
    model = IGA(model, Grouping.patches((size.side, size.side), size.side // 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        loss = F.mse_loss(model(index), gt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log(lambda: decibel(F.mse_loss(model(index), gt)))


def coin(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    coordinates, features = grid(size.side), picture("rocket", size.side).reshape(-1, 3)
    width = size.width // 2  # the codec's networks are narrow and deep
    layers: list[nn.Module] = []
    for k in range(6):
        linear = nn.Linear(2 if k == 0 else width, width)
        bound = 0.5 if k == 0 else math.sqrt(6 / width) / 30
        nn.init.uniform_(linear.weight, -bound, bound)
        nn.init.uniform_(linear.bias, -bound, bound)
        layers += [linear, Sine()]
    func_rep: Any = nn.Sequential(*layers, nn.Linear(width, 3))
    func_rep = IGA(func_rep)
    optimizer = torch.optim.Adam(func_rep.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(features), (len(features) // 2,))
        loss = F.mse_loss(func_rep(coordinates[chosen]), features[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log(lambda: decibel(F.mse_loss(func_rep(coordinates), features)))


class Sine(nn.Module):
    """Of 30 times what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


class HashGrid(nn.Module):
    """Features at the corners of grids of several resolutions, found by a hash of the corner."""

    def __init__(self, levels: int = 6, entries: int = 512, features: int = 2) -> None:
        super().__init__()
        self.resolutions = [int(4 * 1.5**level) for level in range(levels)]
        self.entries = entries
        self.tables = nn.ModuleList(nn.Embedding(entries, features) for _ in range(levels))
        for table in self.tables:
            nn.init.uniform_(table.weight, -1e-4, 1e-4)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for resolution, table in zip(self.resolutions, self.tables, strict=True):
            place = (x + 1) / 2 * resolution
            low = place.floor().long()
            part = place - low
            value = torch.zeros(())
            for a in (0, 1):
                for b in (0, 1):
                    i, j = low[:, 0] + a, low[:, 1] + b
                    index = (i ^ (j * 2654435761)) % self.entries
                    weight = (part[:, 0] if a else 1 - part[:, 0]) * (
                        part[:, 1] if b else 1 - part[:, 1]
                    )
                    value = value + weight[:, None] * table(index)
            found.append(value)
        return torch.cat(found, dim=-1)


def hash_grid(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    coords, gt = grid(size.side), picture("astronaut", size.side).reshape(-1, 3)
    encoder = HashGrid()
    sigma = nn.Sequential(nn.Linear(12, size.width), nn.ReLU(), nn.Linear(size.width, size.width),
                          nn.ReLU(), nn.Linear(size.width, 3))  # fmt: skip
    model = nn.Sequential(encoder, sigma)
    model = IGA(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99), eps=1e-15)
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(gt), (len(gt) // 2,))
        loss = F.mse_loss(model(coords[chosen]), gt[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log(lambda: decibel(F.mse_loss(model(coords), gt)))


class KanLinear(nn.Module):
    """A layer whose every edge has a cubic spline of its own beside a SiLU."""

    grid: Tensor

    def __init__(self, inputs: int, outputs: int, cells: int = 8, order: int = 3) -> None:
        super().__init__()
        self.order = order
        knots = torch.arange(-order, cells + order + 1) * (2 / cells) - 1
        self.register_buffer("grid", knots.to(torch.get_default_dtype()).expand(inputs, -1).clone())
        self.base_weight = nn.Parameter(torch.empty(outputs, inputs))
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, cells + order) * 0.1 / cells)
        self.spline_scaler = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))

    def bases(self, x: Tensor) -> Tensor:
        """Return the values of the splines' bases by the recursion of Cox and de Boor."""
        x, knots = x[..., None], self.grid
        found = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - knots[:, : -(k + 1)]) / (knots[:, k:-1] - knots[:, : -(k + 1)])
            right = (knots[:, k + 1 :] - x) / (knots[:, k + 1 :] - knots[:, 1:(-k)])
            found = left * found[..., :-1] + right * found[..., 1:]
        return found

    def forward(self, x: Tensor) -> Tensor:
        weight = self.spline_weight * self.spline_scaler[..., None]
        return F.linear(F.silu(x), self.base_weight) + F.linear(
            self.bases(x).flatten(1), weight.flatten(1)
        )


def kan(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    coords, gt = grid(size.side), picture("camera", size.side, 1).reshape(-1, 1)
    hidden = size.width // 4
    model = nn.Sequential(KanLinear(2, hidden), KanLinear(hidden, hidden), KanLinear(hidden, 1))
    model = IGA(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    # Once an epoch, of which a run has ten.
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, steps // 10), gamma=0.8)
    for _ in range(steps):
        chosen = torch.randperm(len(gt))[: len(gt) // 2]
        optimizer.zero_grad()
        loss = F.mse_loss(model(coords[chosen]), gt[chosen])
        loss.backward()
        optimizer.step()
        scheduler.step()
        log(lambda: decibel(F.mse_loss(model(coords), gt)))


LOOPS = {
    "wire image": Loop(wire, "wire", "PSNR", (5e-3, 2e-3), size=Size(40, 48)),
    "finer image": Loop(finer, "FINER", "PSNR", (5e-4, 2e-4)),
    "DINER": Loop(diner, "DINER", "PSNR", (1e-4, 3e-4)),
    "COIN, random pixels": Loop(coin, "COIN", "PSNR", (2e-4, 6e-4)),
    "hash grid": Loop(hash_grid, "torch-ngp", "PSNR", (1e-2, 4e-3), size=Size(56, 64)),
    "KAN": Loop(kan, "efficient-kan", "PSNR", (1e-3, 3e-3), size=Size(32, 32)),
}
