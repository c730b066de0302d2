"""Each example runs, with IGA in it, and warns of nothing; what the radiance field's page says."""

import importlib
import math
import warnings

import pytest

torch = pytest.importorskip("torch")

import iga_torch  # noqa: E402
from examples import radiance_field, sdf_eikonal  # noqa: E402
from iga_core import Adjustment, Scale  # noqa: E402

# Of PyTorch's own, when it first loads its rules for forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

SMALL = {
    "hash_grid": {"side": 16, "batch": 256},
    "helmholtz": {"points": 256},
    "latents": {"points": 64},
    "poisson_image": {"side": 16},
    "radiance_field": {},
    "random_pixels": {"side": 16, "batch": 256},
    "sdf_eikonal": {"points": 128},
}


@pytest.mark.parametrize(
    "name",
    [name if name == "random_pixels" else pytest.param(name, marks=pytest.mark.slow)
     for name in SMALL],
)  # fmt: skip
def test_an_example_runs(name, capsys):
    found = importlib.import_module(f"examples.{name}").main(steps=2, **SMALL[name])
    first, control, last = found
    assert (first, control[:5], last) == ("plain", "Scale", "IGA")
    for run in found.values():
        assert math.isfinite(run.loss)
        assert math.isfinite(run.decibels)
        assert run.seconds > 0
    model = found["IGA"].model
    assert model.transform.matrix().ndim == 2
    assert not model.kernel_report().explicit
    assert not isinstance(found["plain"].model, iga_torch.IGA)
    assert "gain" in capsys.readouterr().out


@pytest.mark.slow
def test_the_truth_of_the_distance():
    """Its gradient is of length 1; points of the surface are on it, and normals its gradient."""
    torch.manual_seed(0)
    x, normals = sdf_eikonal.surface(500)
    x = x.double().requires_grad_()
    value = sdf_eikonal.distance(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.abs().max() < 1e-6
    assert (gradient - normals).abs().max() < 1e-5


@pytest.mark.slow
def test_what_stays_plain_in_a_mixed_loss_outweighs_the_rest(capsys):
    norms = sdf_eikonal.balance(256)
    assert norms["the value alone"][0] < 0.7 * norms["plain"][0]
    assert norms["the value alone"][1:] == pytest.approx(norms["plain"][1:], rel=1e-5)
    assert "both as one" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("around", ["raw outputs", "colour"])
def test_raw_outputs_of_a_scene_warn_and_rendered_colours_do_not(around):
    """As soon as the field has learnt where the scene is empty, which takes some 40 steps."""
    torch.manual_seed(0)
    *rays, colours = radiance_field.views(8, 24, 0.0)
    renderer = radiance_field.Renderer()
    optimizer = torch.optim.Adam(renderer.parameters(), lr=1e-2)
    control = Adjustment(filter=Scale(0.1))
    model, output = renderer, ["rgb", "rgb_coarse"]
    if around == "raw outputs":
        renderer.coarse = iga_torch.IGA(renderer.coarse, None, control, groups=16)
        renderer.fine = iga_torch.IGA(renderer.fine, None, control, groups=16)
    else:
        model = iga_torch.IGA(renderer, None, control, coords="directions", output=output)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(90):
            batch = torch.randint(len(colours), (256,))
            found = model(*(part[batch] for part in rays))
            optimizer.zero_grad()
            sum((found[name] - colours[batch]).square().mean() for name in output).backward()
            optimizer.step()
    said = any("nearly zero at more than half" in str(one.message) for one in seen)
    assert said == (around == "raw outputs")
