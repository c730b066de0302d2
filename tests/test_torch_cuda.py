"""What holds on a GPU only."""

import array_api_compat.torch
import pytest
import torch
from oracle import close
from torch.nn.functional import mse_loss

import iga_torch
from iga_core import Fourier, Grouping, Network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device for torch")

GROUPING = Grouping.patches((40, 50), 4)


def data(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(GROUPING.count, 2, generator=generator) * 2 - 1
    return x.to(device), torch.rand(GROUPING.count, 3, generator=generator).to(device)


@pytest.mark.parametrize("settings", [{}, {"sampling": "random", "samples": 2, "reach": "mean"}])
@pytest.mark.parametrize("fourier", [None, Fourier()])
def test_a_running_step_waits_for_its_eigenpairs_only(settings, fourier, monkeypatch):
    eigh = torch.linalg.eigh

    def waiting(matrix):
        torch.cuda.set_sync_debug_mode("default")  # PyTorch reads back whether it converged
        try:
            return eigh(matrix)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    described = Network("siren", width=32, fourier=fourier)
    network = iga_torch.from_network(described, device="cuda")
    model = iga_torch.IGA(network, GROUPING, end=10, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = data("cuda")

    def step():
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    monkeypatch.setattr(array_api_compat.torch.linalg, "eigh", waiting)
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
        model = iga_torch.IGA(network, GROUPING, end=10)
        x, y = (part.double() for part in data(device))
        mse_loss(model(x), y).backward()
        found.append([p.grad.cpu() for p in network.parameters()])
    for a, b in zip(*found, strict=True):
        close(b, a, 1e-9)


def test_a_cotangent_that_is_not_finite_is_reported_later():
    network = iga_torch.from_network(Network("pe", width=32), device="cuda")
    model = iga_torch.IGA(network, GROUPING, end=10)
    x, y = data("cuda")
    y[3] = torch.nan

    def steps():
        for _ in range(3):
            mse_loss(model(x), y).backward()
            torch.cuda.synchronize()

    with pytest.warns(UserWarning, match="the step was left unadjusted"):
        steps()
