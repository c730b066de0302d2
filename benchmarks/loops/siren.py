"""Loops in the manner of siren: dicts in and out, a data set of one item, derivatives."""

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import iga_torch
from benchmarks.loops.signals import grid, on_the_torus, picture, sound, torus
from benchmarks.loops.training import Loop, Size, cooldown, decibel

OMEGA = 30.0


class Sine(nn.Module):
    """Of ω times what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(OMEGA * x)


def init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        bound = (6 / module.in_features) ** 0.5 / OMEGA
        module.weight.data.uniform_(-bound, bound)


class Siren(nn.Module):
    """Three hidden layers of sines, from a dict to a dict."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inputs, width), Sine()]
        for _ in range(3):
            layers += [nn.Linear(width, width), Sine()]
        self.net = nn.Sequential(*layers, nn.Linear(width, outputs))
        self.net.apply(init)
        nn.init.uniform_(layers[0].weight, -1 / inputs, 1 / inputs)  # type: ignore[arg-type]

    def forward(self, model_input: dict[str, Tensor]) -> dict[str, Tensor]:
        # Autograd may be asked for derivatives by these.
        coords = model_input["coords"].clone().detach().requires_grad_(True)
        return {"model_in": coords, "model_out": self.net(coords)}


class Signal(Dataset[Any], Sized):
    """One item: all points and all that is known there."""

    def __init__(self, coords: Tensor, **known: Tensor) -> None:
        self.coords, self.known = coords, known

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return {"idx": index, "coords": self.coords}, self.known


def gradient(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y, [x], grad_outputs=torch.ones_like(y), create_graph=True)[0]


def image(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    data = Signal(grid(size.side), img=picture("camera", size.side, 1).reshape(-1, 1))
    loader = DataLoader(data, batch_size=1)
    model = Siren(2, 1, size.width)
    model = IGA(model, output="model_out")
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        for model_input, gt in loader:
            output = model(model_input)
            loss = ((output["model_out"] - gt["img"]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        log(lambda: decibel(F.mse_loss(model(model_input)["model_out"], gt["img"])))


def audio(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    samples = size.side**2
    # The line is stretched, which makes the first layer that much steeper.
    data = Signal(torch.linspace(-100, 100, samples)[:, None], func=sound(samples))
    loader = DataLoader(data, batch_size=1)
    model = Siren(1, 1, size.width)
    model = IGA(model, output="model_out")
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        for model_input, gt in loader:
            loss = F.mse_loss(model(model_input)["model_out"], gt["func"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        log(lambda: snr(model(model_input)["model_out"], gt["func"]))


def snr(found: Tensor, wanted: Tensor) -> float:
    return decibel(F.mse_loss(found, wanted) / wanted.square().mean(), 1)


class Cloud(Dataset[Any], Sized):
    """Random points, half of them on a surface, with normals; the others have a distance of -1."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> Any:
        on, normals = on_the_torus(self.count)
        off = torch.rand(self.count, 3) * 2 - 1
        sdf = torch.cat([torch.zeros(self.count, 1), -torch.ones(self.count, 1)])
        normals = torch.cat([normals, -torch.ones_like(normals)])
        return {"coords": torch.cat([on, off])}, {"sdf": sdf, "normals": normals}


def sdf_losses(output: dict[str, Tensor], gt: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms: distance and normals on the surface, and beside it, the length of ∇f."""
    known, value, slope = gt["sdf"] != -1, output["model_out"], output["gradient"]
    zero = torch.zeros_like(value)
    cosine = F.cosine_similarity(slope, gt["normals"], dim=-1)[..., None]
    return {
        "sdf": torch.where(known, value, zero).abs().mean() * 3e3,
        "inter": torch.where(known, zero, torch.exp(-1e2 * value.abs())).mean() * 1e2,
        "normal": torch.where(known, 1 - cosine, zero).mean() * 1e2,
        "eikonal": (slope.norm(dim=-1) - 1).abs().mean() * 5e1,
    }


def sdf(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    loader = DataLoader(Cloud(size.side**2 // 2), batch_size=1)
    network = Siren(3, 1, size.width)

    def fields(model_input: dict[str, Tensor]) -> dict[str, Tensor]:  # moved
        output = network(model_input)  # moved
        return {**output, "gradient": gradient(output["model_out"], output["model_in"])}  # moved

    model = IGA(fields, parameters=network.parameters(), output=["model_out", "gradient"])
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    probes = near_the_torus()
    for _ in range(steps):
        for model_input, gt in loader:
            losses = sdf_losses(model(model_input), gt)
            optimizer.zero_grad()
            sum(losses.values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            schedule.step()
        log(lambda: distance_in_decibel(network, probes))


def near_the_torus() -> Tensor:
    """Return points within 0.15 of the surface, the same ones always."""
    points = torch.as_tensor(np.random.default_rng(0).uniform(-1, 1, (4000, 3)))
    points = points.to(torch.get_default_dtype())
    return points[(torus(points).abs() < 0.15)[:, 0]]


def distance_in_decibel(network: nn.Module, probes: Tensor) -> float:
    wanted = torus(probes)
    return snr(network({"coords": probes})["model_out"], wanted)


def poisson(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    img = picture("camera", size.side, 1)
    slopes = torch.gradient(img[..., 0], spacing=2 / (size.side - 1))
    data = Signal(grid(size.side), img=img.reshape(-1, 1),
                  gradients=torch.stack(slopes, dim=-1).reshape(-1, 2))  # fmt: skip
    loader = DataLoader(data, batch_size=1)
    network = Siren(2, 1, size.width)

    def fields(model_input: dict[str, Tensor]) -> dict[str, Tensor]:  # moved
        output = network(model_input)  # moved
        return {**output, "gradient": gradient(output["model_out"], output["model_in"])}  # moved

    model = IGA(fields, parameters=network.parameters(), output="gradient")
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        for model_input, gt in loader:
            loss = (model(model_input)["gradient"] - gt["gradients"]).square().sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        log(lambda: decibel((network(model_input)["model_out"] - gt["img"]).var()))


def balance(steps: int = 100, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the lengths of the gradients of each term of a loss on a distance.

    After some plain steps: plain, adjusted as one function of value and gradient, and with the
    value alone adjusted, the gradient being taken beside it.
    """
    torch.manual_seed(seed)
    network, cloud = Siren(3, 1, 64), Cloud(800)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def fields(model_input: dict[str, Tensor]) -> dict[str, Tensor]:
        output = network(model_input)
        return {**output, "gradient": gradient(output["model_out"], output["model_in"])}

    for _ in range(steps):
        model_input, gt = cloud[0]
        losses = sdf_losses(fields(model_input), gt)
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    model_input, gt = cloud[0]
    as_one = iga_torch.IGA(fields, parameters=network.parameters(),
                           output=["model_out", "gradient"])  # fmt: skip
    value = iga_torch.IGA(network, output="model_out")

    def value_alone(model_input: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**fields(model_input), "model_out": value(model_input)["model_out"]}

    found: dict[str, dict[str, float]] = {}
    for words, function in (("plain", fields), ("one function", as_one), ("value", value_alone)):
        losses = sdf_losses(function(model_input), gt)
        lengths: dict[str, float] = {}
        # One call for all terms; the transform of their sum, as in training, serves each.
        for term, loss in {"all": torch.stack(list(losses.values())).sum(), **losses}.items():
            parts = torch.autograd.grad(
                loss, list(network.parameters()), retain_graph=True, allow_unused=True
            )
            lengths[term] = length(parts)
        found[words] = lengths
    return found


def length(parts: Any) -> float:
    return float(torch.cat([part.flatten() for part in parts if part is not None]).norm())


LOOPS = {
    "siren image": Loop(image, "siren", "PSNR", (1e-4, 3e-4)),
    "siren audio": Loop(audio, "siren", "SNR", (5e-5, 1.5e-4)),
    "siren SDF": Loop(sdf, "siren", "SNR of the distance near the surface, held out", (1e-4, 3e-4),
                      size=Size(32, 64)),
    "siren Poisson": Loop(poisson, "siren", "PSNR of the image, up to a constant", (1e-4, 3e-4),
                          size=Size(40, 64)),
}  # fmt: skip
