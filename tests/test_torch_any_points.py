"""`iga_torch.IGA` on points in any order and number, nested as loops of others have them.

Every gradient is held against ``Jᵀ (S ⊗ I) g``, formed densely in float64.
"""

import collections
import copy
import dataclasses
import pickle

import pytest

from iga_core import Adjustment, Damp, Equalise, Grouping, Scale
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import iga_torch  # noqa: E402
from iga_torch.neighbours import MOST_REST, nearest  # noqa: E402
from iga_torch.structures import flattened  # noqa: E402
from tests.support.selection import slow  # noqa: E402
from tests.support.torch_networks import Dense, clear, found_grouping, gradient, steep  # noqa: E402

FRESH = {"refresh": 1, "average": 0}
SETTINGS = {
    "default": Adjustment(),
    "paper": Adjustment.paper(end=4),
    "points": Adjustment(Damp(0.3), samples=2, reach="points", **FRESH),
    "half": Adjustment(Equalise(3), samples=2, **FRESH),
    "scale": Adjustment(Scale(0.2)),
}


def points(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


class TestNeighbours:
    @pytest.mark.parametrize("count", [1, 7, 64, 1000, 8192])
    @pytest.mark.parametrize("axes", [1, 2, 3, 6])
    @pytest.mark.parametrize("groups", [1, 5, 64, 190])
    def test_every_point_once_in_equal_groups(self, count, axes, groups):
        x = points(count, axes)
        index = nearest(x, min(groups, count))
        every = torch.cat([index.index.reshape(-1), index.rest])
        assert sorted(every.tolist()) == list(range(count))
        assert len(index.rest) <= MOST_REST * count
        assert len(index.index) <= groups
        assert index.count == count

    @pytest.mark.parametrize("shape", [(1024, 2), (4096, 3)])
    def test_groups_are_tiles(self, shape):
        """As wide along every axis as equal tiles of a uniform cloud, within a third or so."""
        x = points(*shape, seed=1)
        index = nearest(x, 64)
        extent = x[index.index].amax(dim=1) - x[index.index].amin(dim=1)
        wanted = 2 / 64 ** (1 / shape[1])
        assert 0.6 * wanted < float(extent.mean()) < 1.3 * wanted

    def test_points_in_no_group_have_the_nearest_one(self):
        x = points(1003, 2)
        index = nearest(x, 64)
        assert len(index.rest) > 0
        middle = x[index.index].mean(dim=1)
        distance = (x[index.rest][:, None] - middle).norm(dim=-1)
        assert torch.equal(index.neighbours, distance.argmin(dim=1))

    def test_like_coordinates_and_those_that_are_not_finite_make_groups_too(self):
        x = points(100, 2)
        x[:, 1] = 0
        assert nearest(x, 10).index.shape == (10, 10)
        x[3] = torch.nan
        assert sorted(nearest(x, 10).index.reshape(-1).tolist()) == list(range(100))


@pytest.mark.parametrize("name", ["default", "paper", *slow(["points", "half", "scale"])])
def test_new_points_at_every_call(name):
    """Random batches, a smaller last one: each call is of its own points."""
    network, adjustment = steep(), SETTINGS[name]
    model = iga_torch.IGA(network, None, adjustment, groups=9)
    dense = Dense(network, adjustment)
    for step, count in enumerate((100, 100, 64, 100)):
        x = points(count, 2, seed=step)
        clear(network)
        found = model(x)
        found.square().mean().backward()
        dense.grouping = found_grouping(nearest(x, 9))
        dense.afresh()
        close(gradient(network), dense.gradient(x, 2 * found.detach() / found.numel()), 1e-10)


def test_the_same_points_keep_their_transform():
    network, adjustment = steep(), Adjustment(refresh=3, average=0.5)
    model, x = iga_torch.IGA(network, None, adjustment, groups=8), points(96, 2)
    dense = Dense(network, adjustment, found_grouping(nearest(x, 8)))
    made = []
    for _ in range(7):
        clear(network)
        found = model(x.clone())
        found.square().mean().backward()
        made.append(model.transform)
        close(gradient(network), dense.gradient(x, 2 * found.detach() / found.numel()), 1e-10)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad
    assert [k for k in range(7) if k == 0 or made[k] is not made[k - 1]] == [0, 3, 6]


@pytest.mark.parametrize("how", ["copy", "pickle", "state"])
def test_the_same_points_are_known_after_loading(how):
    network = steep()
    model, x = iga_torch.IGA(network, None, Adjustment(refresh=5), groups=8), points(96, 2)
    model(x).square().mean().backward()
    if how == "state":
        other = iga_torch.IGA(copy.deepcopy(network), None, Adjustment(refresh=5), groups=8)
        other.load_adjustment_state(model.adjustment_state())
    else:
        other = copy.deepcopy(model) if how == "copy" else pickle.loads(pickle.dumps(model))
    before = other.transform
    for one in (model, other):
        clear(one.network)
        one(x).square().mean().backward()
    assert other.transform is before
    close(gradient(other.network), gradient(network), 1e-12)


SHAPES = {"flat": (96,), "row": (1, 96), "image": (8, 12), "signals": (3, 32), "deep": (2, 3, 4, 4)}


@pytest.mark.parametrize("channels", [True, False], ids=["channels", "no channels"])
@pytest.mark.parametrize("form", SHAPES)
def test_leading_axes(form, channels):
    network, adjustment = steep(), SETTINGS["paper"]

    class Form(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner(x) if channels else self.inner(x)[..., 0]

    class Flat(Form):
        def forward(self, x):
            return self.inner(x) if channels else self.inner(x)[..., :1]

    x = points(*SHAPES[form], 2)
    flat = x.reshape(-1, 2)
    model = iga_torch.IGA(Form(), None, adjustment, groups=8)
    found = model(x)
    assert found.shape == ((*x.shape[:-1], 3) if channels else x.shape[:-1])
    found.square().mean().backward()
    dense = Dense(Flat(), adjustment, found_grouping(nearest(flat, 8)))
    cotangent = (2 * found.detach() / found.numel()).reshape(len(flat), -1)
    want = dense.gradient(flat, cotangent)
    close(gradient(model.network), want, 1e-10)


@pytest.mark.parametrize("shape", [(77,), (1, 77), (7, 11), (1, 7, 11)], ids=str)
def test_a_grouping_of_points_on_several_axes(shape):
    network, adjustment = steep(), SETTINGS["default"]
    grouping = Grouping.patches((7, 11), 3)
    x = points(*shape, 2)
    model = iga_torch.IGA(network, grouping, adjustment)
    found = model(x)
    found.square().mean().backward()
    dense = Dense(network, adjustment, grouping)
    cotangent = (2 * found.detach() / found.numel()).reshape(77, -1)
    close(gradient(network), dense.gradient(x.reshape(77, 2), cotangent), 1e-10)


def test_rays_of_several_points_each():
    """Rows are what the output has: groups are of rays, by the middle of their points."""

    class Rays(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))

        def forward(self, x):
            found = self.inner(x)
            return (torch.sigmoid(found[..., :1]) * found[..., 1:]).sum(dim=-2)

    torch.manual_seed(0)
    network, adjustment = Rays().double(), SETTINGS["default"]
    x = points(60, 5, 3)
    model = iga_torch.IGA(network, None, adjustment, groups=6)
    found = model(x)
    found.square().mean().backward()
    dense = Dense(network, adjustment, found_grouping(nearest(x.mean(dim=1), 6)))
    close(gradient(network), dense.gradient(x, 2 * found.detach() / found.numel()), 1e-10)


class Signals(nn.Module):
    """A latent for each signal of a batch, (B, L), beside coordinates (B, N, d)."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))

    def forward(self, x, latent):
        latent = latent[..., None, :].expand(*x.shape[:-1], 3)
        return self.inner(torch.cat([x, latent], dim=-1))


@pytest.mark.parametrize("rows", [True, False], ids=["rows", "any"])
def test_a_latent_for_each_signal(rows):
    torch.manual_seed(0)
    network, adjustment = Signals().double(), SETTINGS["default"]
    x, latent = points(8, 12, 2), points(8, 3, seed=1)
    model = iga_torch.IGA(
        network, "rows" if rows else None, adjustment, **({} if rows else {"groups": 8})
    )
    found = model(x, latent)
    found.square().mean().backward()
    both = torch.cat([x, latent[:, None].expand(8, 12, 3)], dim=-1)
    cotangent = 2 * found.detach() / found.numel()
    if rows:
        want = Dense(network.inner, adjustment).gradient(both, cotangent)
    else:
        flat = x.reshape(96, 2)
        dense = Dense(network.inner, adjustment, found_grouping(nearest(flat, 8)))
        want = dense.gradient(both.reshape(96, 5), cotangent.reshape(96, 2))
    close(gradient(network), want, 1e-10)


def test_a_shared_latent_as_long_as_there_are_points():
    """Its shape says nothing of whom it belongs to; that it cannot be cut does."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.read = nn.Linear(2, 3), nn.Linear(40, 3)

        def forward(self, x, latent):
            return torch.tanh(self.inner(x)) * self.read(latent)

    torch.manual_seed(0)
    network, x, latent = Shared().double(), points(40, 2), points(40, seed=3)
    adjustment = SETTINGS["default"]
    model = iga_torch.IGA(network, None, adjustment, groups=5)
    found = model(x, latent)
    found.square().mean().backward()

    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x, latent)

    dense = Dense(Bound(), adjustment, found_grouping(nearest(x, 5)))
    close(gradient(network), dense.gradient(x, 2 * found.detach() / found.numel()), 1e-10)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 5)
        self.last = nn.Parameter(torch.randn(2, 5, dtype=torch.complex128))

    def forward(self, x):
        return torch.tanh(self.first(x)).to(torch.complex128) @ self.last.T


@pytest.mark.parametrize("name", ["default", "points", "paper"])
def test_complex_outputs_are_two_real_ones_each(name):
    torch.manual_seed(0)
    network, adjustment = Complex().double(), SETTINGS[name]

    class Real(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return torch.view_as_real(self.network(x)).flatten(-2)

    x = points(72, 2)
    model = iga_torch.IGA(network, None, adjustment, groups=8)
    found = model(x)
    (found - 1j).abs().square().mean().backward()
    real = torch.view_as_real(found.detach() - 1j).flatten(-2)
    dense = Dense(Real(), adjustment, found_grouping(nearest(x, 8)))
    close(gradient(network), dense.gradient(x, 2 * real / found.numel()), 1e-9)


def alone(_, f):
    return f


Named = collections.namedtuple("Named", ["features", "rgb", "sigma"])


@dataclasses.dataclass(frozen=True)
class Rays:
    """As in codebases with types of their own, whose `__init__` need not take what they hold."""

    origins: torch.Tensor
    bounds: dict
    near: float = dataclasses.field(init=False, default=0.5)


class Nested(nn.Module):
    """What comes in and goes out as public code has it; the parameters are those of `inner`."""

    def __init__(self, inner, take, give):
        super().__init__()
        self.inner, self.take, self.give = inner, take, give
        self.answer = 42

    def forward(self, *args, **kwargs):
        x = self.take(*args, **kwargs)
        return self.give(x, self.inner(x))

    def density(self, x):
        return self.inner(x)[..., :1]


STRUCTURES = {
    "dict in, dict out": (
        lambda given: given["coords"], lambda x, f: {"model_in": x, "model_out": f},
        lambda x: (({"idx": torch.arange(3), "coords": x},), {}),
        {"coords": "coords", "output": "model_out"},
    ),
    "tuple out": (
        lambda x: x, lambda x, f: (f, x), lambda x: ((x,), {}), {"output": 0},
    ),
    "list out, by path": (
        lambda x: x, lambda x, f: {"out": [f * 2, f], "x": x}, lambda x: ((x,), {}),
        {"output": ("out", 1)},
    ),
    "named tuple out": (
        lambda x: x, lambda x, f: Named(x, f, f.sum(-1)), lambda x: ((x,), {}), {"output": "rgb"},
    ),
    "dataclasses": (
        lambda rays: rays.origins, lambda x, f: Rays(x, {"rgb": f}), lambda x: ((Rays(x, {}),), {}),
        {"coords": "origins", "output": "rgb"},
    ),
    "a function": (
        lambda pair: pair[1], lambda x, f: {"a": {"b": (f, x)}}, lambda x: (([None, x],), {}),
        {"output": lambda out: out["a"]["b"][0]},
    ),
    "by keyword": (
        lambda **given: given["x"], alone, lambda x: ((), {"t": torch.ones(1).double(), "x": x}),
        {"coords": "x"},
    ),
    "by the name of a positional argument": (
        lambda *given: given[1], alone, lambda x: ((torch.ones(1).double(), x), {}),
        {"coords": 1},
    ),
    "in a list, alone": (lambda xs: xs[0], alone, lambda x: (([x],), {}), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures(name):
    take, give, call, selectors = STRUCTURES[name]
    inner, adjustment = steep(), SETTINGS["default"]
    network, x = Nested(inner, take, give), points(80, 2)
    model = iga_torch.IGA(network, None, adjustment, groups=8, **selectors)
    args, kwargs = call(x)
    found = model(*args, **kwargs)
    plain = network(*args, **kwargs)
    assert type(found) is type(plain)
    leaves, spec = flattened(found)
    others, as_plain = flattened(plain)
    assert spec == as_plain
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    for a, b in zip(leaves, others, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    adjusted = next(leaf for leaf in tensors if "_Watch" in type(leaf.grad_fn).__name__)
    adjusted.square().mean().backward()
    dense = Dense(inner, adjustment, found_grouping(nearest(x, 8)))
    want = dense.gradient(x, 2 * adjusted.detach() / adjusted.numel())
    close(gradient(inner), want, 1e-10)


def test_names_of_positional_arguments():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = steep()

        def forward(self, time, where):
            return self.inner(where) * time

    network, x = Timed(), points(80, 2)
    model = iga_torch.IGA(network, groups=8, coords="where")
    model(torch.ones(1, dtype=torch.float64), x).square().mean().backward()
    want = Dense(network.inner, Adjustment(), found_grouping(nearest(x, 8)))
    found = network.inner(x)
    close(gradient(network), want.gradient(x, 2 * found.detach() / found.numel()), 1e-10)


@pytest.mark.parametrize(
    ("selectors", "said"),
    [
        ({"output": "model_ot"}, "did you mean 'model_out'"),
        ({}, "one tensor, or to be told which one is meant, got 2 of them among"),
        ({"output": ("out", 3)}, r"one tensor at \('out', 3\), got none"),
        (
            {"output": lambda out: out["model_out"] + 1},
            "returns a tensor of the structure as it is",
        ),
        ({"output": "model_out", "coords": "coord"}, "coords: expected one tensor named 'coord'"),
    ],
)
def test_selectors_that_name_nothing(selectors, said):
    network = Nested(steep(), lambda g: g["coords"], lambda x, f: {"model_in": x, "model_out": f})
    model = iga_torch.IGA(network, groups=4, **selectors)
    with pytest.raises(ValueError, match=said):
        model({"coords": points(20, 2)})


@pytest.mark.parametrize("wrong", [1.5, True, (), ("a", None), [1.5]])
def test_selectors_of_another_kind(wrong):
    with pytest.raises(TypeError, match="output: expected a name, a path"):
        iga_torch.IGA(steep(), output=wrong)


def test_attributes_and_methods_of_the_network_stay_reachable():
    network = Nested(steep(), lambda x: x, alone)
    model, x = iga_torch.IGA(network), points(10, 2)
    assert model.answer == 42
    assert torch.equal(model.density(x), network.density(x))
    assert model.inner is network.inner
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = model.nothing_like_it
    assert not hasattr(model, "nothing_like_it")


def test_how_many_groups_there_are():
    model = iga_torch.IGA(steep())
    model(points(1000, 2)).square().mean().backward()
    assert 60 <= len(model.transform.matrix()) <= 64
    model(points(40, 2)).square().mean().backward()
    assert len(model.transform.matrix()) == 10  # of at least four points
    model(points(3, 2)).square().mean().backward()
    assert len(model.transform.matrix()) == 1
    wide = iga_torch.IGA(nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 256),
                                       nn.ReLU(), nn.Linear(256, 1)))  # fmt: skip
    wide(points(8192, 2).float()).square().mean().backward()
    assert 64 < len(wide.transform.matrix()) < 500


def test_fewer_points_than_groups_are_said_once():
    model = iga_torch.IGA(steep(), groups=50)
    with pytest.warns(
        UserWarning, match="groups: expected at most the 20 points of a call, got 50"
    ):
        model(points(20, 2)).square().mean().backward()
    model(points(20, 2)).square().mean().backward()
    assert len(model.transform.matrix()) == 20


def test_no_points_are_a_plain_call():
    network = steep()
    model = iga_torch.IGA(network)
    found = model(points(0, 2))
    assert found.shape == (0, 3)
    found.sum().backward()
    assert model.transform is None


def test_points_of_another_dtype_are_named():
    model = iga_torch.IGA(steep().float())
    with pytest.raises(
        TypeError, match=r"coordinates: expected torch.float32 .*, got torch.float64"
    ):
        model(points(20, 2))


def test_rows_that_depend_on_others_are_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = steep()

        def forward(self, x):
            return self.inner(x - x.mean(dim=0))

    model = iga_torch.IGA(Mixed(), groups=4)
    with pytest.raises(ValueError, match="depend on that sample alone"):
        model(points(40, 2)).square().mean().backward()


def test_groups_and_a_grouping_are_one_too_many():
    with pytest.raises(ValueError, match="groups: expected no grouping beside it"):
        iga_torch.IGA(steep(), "rows", groups=4)
    with pytest.raises(TypeError, match="groups: expected a whole number"):
        iga_torch.IGA(steep(), groups=2.5)


class TestAround:
    """A backward pass that reaches the parameters around the adjustment warns, once."""

    def test_a_loss_on_a_derivative(self):
        """Case A2."""
        x = points(64, 2).requires_grad_(True)
        model = iga_torch.IGA(steep(), groups=4)
        u = model(x)
        with model.plain(), pytest.warns(UserWarning, match="derivative: taken inside plain"):
            (d,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        ((d.norm(dim=1) - 1) ** 2).mean().backward()
        assert model.transform is None

    def test_a_module_whose_output_is_the_derivative(self):
        """The way to have such a loss adjusted, that the warning names."""

        class Slope(nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, x):
                with torch.enable_grad():
                    x = x if x.requires_grad else x.requires_grad_(True)
                    u = self.network(x).sum()
                    return torch.autograd.grad(u, x, create_graph=True)[0]

        network, adjustment = Slope(steep()), Adjustment.paper(end=3)
        model, x = iga_torch.IGA(network, None, adjustment, groups=4), points(32, 2)
        found = model(x)
        ((found.norm(dim=1) - 1) ** 2).mean().backward()
        dense = Dense(network, adjustment, found_grouping(nearest(x, 4)))
        f = found.detach().requires_grad_(True)
        (g,) = torch.autograd.grad(((f.norm(dim=1) - 1) ** 2).mean(), f)
        close(gradient(network), dense.gradient(x.detach(), g), 1e-10)

    def test_a_method_of_the_network(self):
        model = iga_torch.IGA(Nested(steep(), lambda x: x, alone), groups=4)
        model(points(32, 2)).square().mean().backward()
        with pytest.warns(UserWarning, match="backward: .* around them, and trained plain"):
            model.density(points(32, 2)).square().mean().backward()
        model.density(points(32, 2)).square().mean().backward()  # said once

    def test_two_wrappers_of_one_network_are_both_adjusted(self):
        network = steep()
        one, other = iga_torch.IGA(network, groups=4), iga_torch.IGA(network, groups=6)
        one(points(32, 2)).square().mean().backward()
        other(points(32, 2)).square().mean().backward()
        (one(points(32, 2)).sum() + other(points(32, 2)).sum()).backward()

    def test_parameters_keep_their_hooks(self):
        network = steep()
        model = iga_torch.IGA(network, groups=4)
        model(points(32, 2)).square().mean().backward()
        assert all(not p._backward_hooks for p in network.parameters())
        assert all(not p._post_accumulate_grad_hooks for p in network.parameters())
