"""What holds on a GPU only; not collected where there is none, see conftest."""

import array_api_compat.torch
import pytest
import torch
from torch.nn.functional import mse_loss

import iga_torch
from iga_core import Adjustment, Fourier, Grouping, Network, Scale
from tests.support.oracle import close

GROUPING = Grouping.patches((40, 50), 4)


def data(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(GROUPING.count, 2, generator=generator) * 2 - 1
    return x.to(device), torch.rand(GROUPING.count, 3, generator=generator).to(device)


WAITING = ("eigh", "eigvalsh", "solve")
"""PyTorch reads back whether they succeeded."""


@pytest.mark.parametrize(
    "adjustment", [Adjustment.paper(end=10), Adjustment(), Adjustment(Scale(0.1))], ids=str
)
@pytest.mark.parametrize("fourier", [None, Fourier()])
def test_a_running_step_waits_for_its_filter_only(adjustment, fourier, monkeypatch):
    def waiting(function):
        def call(*arguments):
            torch.cuda.set_sync_debug_mode("default")
            try:
                return function(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("error")

        return call

    described = Network("siren", width=32, fourier=fourier)
    network = iga_torch.from_network(described, device="cuda")
    model = iga_torch.IGA(network, GROUPING, adjustment)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = data("cuda")

    def step():
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    for name in WAITING:
        function = getattr(array_api_compat.torch.linalg, name)
        monkeypatch.setattr(array_api_compat.torch.linalg, name, waiting(function))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


def test_the_first_step_is_the_cpus():
    found = []
    for device in ("cpu", "cuda"):
        network = iga_torch.from_network(
            Network("pe", width=32), dtype=torch.float64, device=device
        )
        model = iga_torch.IGA(network, GROUPING)
        x, y = (part.double() for part in data(device))
        mse_loss(model(x), y).backward()
        found.append([p.grad.cpu() for p in network.parameters()])
    for a, b in zip(*found, strict=True):
        close(b, a, 1e-9)


def test_a_cotangent_that_is_not_finite_is_reported_later():
    network = iga_torch.from_network(Network("pe", width=32), device="cuda")
    model = iga_torch.IGA(network, GROUPING)
    x, y = data("cuda")
    y[3] = torch.nan

    def steps():
        for _ in range(3):
            mse_loss(model(x), y).backward()
            torch.cuda.synchronize()

    with pytest.warns(UserWarning, match="the step was left unadjusted"):
        steps()
