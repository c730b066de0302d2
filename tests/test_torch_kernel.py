"""`iga_torch.empirical_ntk` against explicit Jacobians, one backward pass a sample and output."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import iga_torch
from iga_torch import explicit
from iga_torch.kernel import _KNOWN
from tests.support.oracle import close
from tests.support.selection import slow
from tests.support.torch_networks import (
    NETWORKS,
    Unbatched,
    batch_norm,
    dense_kernel,
    jacobian,
    make,
    mlp,
)


def explicit_in(network):
    return {row.name for row in iga_torch.kernel_report(network).explicit}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (7, 2)) for name in NETWORKS),
        # BatchNorm1d reads the second axis as channels.
        *slow((name, (6, 3, 2)) for name in NETWORKS if name != "batch norm in eval mode"),
    ],
)
def test_the_kernel_of_any_network(name, shape):
    network = make(name)
    x, x2 = torch.randn(*shape).double(), torch.randn(4, *shape[1:]).double()
    left, right = jacobian(network, x), jacobian(network, x2)
    for outputs in ("sum", "trace", "full"):
        got = iga_torch.empirical_ntk(network, x, outputs=outputs)
        close(got, dense_kernel(left, left, outputs), 1e-12)
        got = iga_torch.empirical_ntk(network, x, x2, outputs=outputs)
        close(got, dense_kernel(left, right, outputs), 1e-12)
    assert not got.requires_grad
    assert not explicit_in(network) & NETWORKS[name][1]


@pytest.mark.parametrize("name", ["reparameterised", "fourier", "two bases", "scaled"])
def test_a_trained_matrix_times_a_fixed_one_has_factors(name, monkeypatch):
    rows = []
    of_rows = explicit.ExplicitRows.kernel

    def noting(self, network, leaves, *others):
        rows.extend(leaves)
        return of_rows(self, network, leaves, *others)

    monkeypatch.setattr(explicit.ExplicitRows, "kernel", noting)
    iga_torch.empirical_ntk(make(name), torch.randn(5, 2).double())
    assert rows == (["coefficients"] if name == "scaled" else [])


def test_a_basis_that_changes_is_noticed():
    network, x = make("reparameterised"), torch.randn(5, 2).double()
    for _ in range(2):
        J = jacobian(network, x)
        close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)
        network.basis.mul_(torch.randn(12, 1))


def test_nothing_is_left_behind():
    network = make("weight norm")
    x = torch.randn(5, 2).double()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    versions = [b._version for b in network.buffers()]
    first = iga_torch.empirical_ntk(network, x)
    close(iga_torch.empirical_ntk(network, x), first, 1e-14)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())
    assert len(versions) == len(list(network.buffers()))


@pytest.mark.parametrize("room", [3000, 2**30, *slow([1])])
@pytest.mark.parametrize("name", ["custom", "complex"])
def test_rows_in_pieces(name, room, monkeypatch):
    monkeypatch.setattr(explicit, "ROW_BYTES", room)
    network = make(name)
    x, x2 = torch.randn(7, 2).double(), torch.randn(5, 2).double()
    left, right = jacobian(network, x), jacobian(network, x2)
    for outputs in ("sum", "trace", "full"):
        close(
            iga_torch.empirical_ntk(network, x, outputs=outputs),
            dense_kernel(left, left, outputs),
            1e-12,
        )
        close(
            iga_torch.empirical_ntk(network, x, x2, outputs=outputs),
            dense_kernel(left, right, outputs),
            1e-12,
        )


def test_what_cannot_be_batched_goes_one_by_one():
    network = make("unbatched")
    assert isinstance(network, Unbatched)
    iga_torch.empirical_ntk(network, torch.randn(5, 2).double())
    assert _KNOWN[network]._rows._one_by_one
    network = make("custom")
    iga_torch.empirical_ntk(network, torch.randn(5, 2).double())
    assert not _KNOWN[network]._rows._one_by_one


def test_a_layer_that_lies_about_its_rows_is_found_out():
    """The same numbers in, but the rows of a layer are not the samples in their order."""

    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x):
            order = torch.arange(len(x) - 1, -1, -1)
            return self.last(torch.tanh(self.first(x[order])[order]))

    network = Shuffled().double()
    x = torch.randn(6, 2).double()
    J = jacobian(network, x)
    close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)
    assert not explicit_in(network)  # their owners were found


def test_a_change_of_what_is_trained():
    network = make("mlp")
    x = torch.randn(5, 2).double()
    iga_torch.empirical_ntk(network, x)
    network[2].requires_grad_(False)
    J = jacobian(network, x)
    close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)


def test_float32_and_compiled():
    network = mlp().eval()
    x = torch.randn(6, 2)
    got = iga_torch.empirical_ntk(network, x)
    assert got.dtype == torch.float32
    J = jacobian(network.double(), x.double())
    close(got, dense_kernel(J, J, "sum"), 1e-5)


def test_samples_that_depend_on_each_other():
    x = torch.randn(6, 2)
    network = batch_norm().train()
    with pytest.raises(ValueError, match="BatchNorm into eval mode"):
        iga_torch.empirical_ntk(network, x)
    state = {name: t.clone() for name, t in network.state_dict().items()}
    with pytest.raises(ValueError, match="BatchNorm into eval mode"):
        iga_torch.empirical_ntk(network, x)
    assert all(torch.equal(t, state[name]) for name, t in network.state_dict().items())

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            found = self.inner(x)
            return found - found.mean(dim=0)

    with pytest.raises(ValueError, match="depend on that sample alone"):
        iga_torch.empirical_ntk(Centred(), x)


def test_checkpoints_of_the_reentrant_kind():
    class Reentrant(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x):
            x = x.detach().requires_grad_()
            return self.last(checkpoint(self.first, x, use_reentrant=True))

    with pytest.raises(ValueError, match="pass use_reentrant=False"):
        iga_torch.empirical_ntk(Reentrant(), torch.randn(5, 2))


class Constant(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.weight, self.answer = nn.Parameter(torch.ones(2)), answer

    def forward(self, x):
        return self.answer(x, self.weight)


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (mlp, torch.randn(4, 2), "network: expected a torch.nn.Module"),
        (mlp(), [[1.0, 2.0]], "x1: expected a tensor"),
        (mlp(), torch.randn(2), r"x1: expected shape \(n, ...\)"),
        (mlp(), torch.randn(0, 2), r"x1: expected shape \(n, ...\)"),
        (mlp(), torch.randn(4, 2, device="meta"), "x1: expected device cpu"),
        (mlp().requires_grad_(False), torch.randn(4, 2), "network: expected a trainable parameter"),
        (mlp().half(), torch.randn(4, 2).half(), "parameters of float32 or float64"),
        (Constant(lambda x, w: (x * w, x)), torch.randn(4, 2), "return one tensor, got tuple"),
        (Constant(lambda x, w: (x * w).half()), torch.randn(4, 2), "got torch.float16"),
        (Constant(lambda x, w: (x * w).sum()), torch.randn(4, 2), r"output: expected shape \(4,"),
        (Constant(lambda x, w: (x * w).sum(-1)), torch.randn(4, 2), r"output: expected shape \(4,"),
        (Constant(lambda x, w: x + 0 * w.detach()), torch.randn(4, 2), "depend on a trained parameter"),
    ],
)  # fmt: skip
def test_bad_input(network, x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        iga_torch.empirical_ntk(network, x)


def test_bad_outputs():
    with pytest.raises(ValueError, match="outputs: expected one of sum, trace, full, got 'all'"):
        iga_torch.empirical_ntk(mlp(), torch.randn(4, 2), outputs="all")


def test_an_order_that_the_ends_do_not_show():
    class Sorted(nn.Module):
        """Evaluates its points in another order, the first and the last in place."""

        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))

        def forward(self, x):
            order = torch.arange(len(x))
            order[1:-1] = order[1:-1].flip(0)
            return self.inner(x[order])[order]

    network, x = Sorted().double(), torch.randn(7, 2).double()
    J = jacobian(network, x)
    close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)


def test_a_network_that_begins_to_work_in_another_way():
    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.late = nn.Linear(2, 4), nn.Linear(4, 3), False

        def forward(self, x):
            h = torch.sin(self.first(x))
            if self.late:
                h = h + self.last.weight.sum() * h
            return self.last(h)

    network, x = Later().double(), torch.randn(7, 2).double()
    for late in (False, True):
        network.late = late
        J = jacobian(network, x)
        close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)


def test_a_share_that_the_ends_do_not_show():
    class Hidden(nn.Module):
        """A scripted layer, which no one sees, for the points in the middle."""

        def __init__(self):
            super().__init__()
            self.seen, self.hidden = nn.Linear(2, 3), torch.jit.script(nn.Linear(2, 3))

        def forward(self, x):
            return self.seen(x) + (x[:, :1].abs() < 0.5) * self.hidden(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Hidden().double()
    x = torch.linspace(-1, 1, 14).reshape(7, 2).double()
    J = jacobian(network, x)
    close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)


def test_hooks_on_parameters_are_left_out():
    network, calls = make("custom"), []
    x = torch.randn(5, 2).double()
    J = jacobian(network, x)
    for parameter in network.parameters():
        parameter.register_hook(lambda g: calls.append(1) or 2 * g)
    close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)
    assert not calls
    network(x).sum().backward()
    assert calls


def test_dtypes_together():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.coarse, self.fine = nn.Linear(2, 4), nn.Linear(4, 3).double()
            self.empty = nn.Parameter(torch.empty(0))

        def forward(self, x):
            return self.fine(torch.tanh(self.coarse(x)).double())

    network, x = Both(), torch.randn(5, 2)
    J = jacobian(network, x)
    got = iga_torch.empirical_ntk(network, x)
    assert got.dtype == torch.float64
    close(got, dense_kernel(J, J, "sum"), 1e-6)
    assert not explicit_in(network)


def test_dropout_within_attention():
    torch.manual_seed(0)
    network = make("attention")
    network.attention.dropout = 0.5
    x = torch.randn(5, 2).double()
    got = iga_torch.empirical_ntk(network.train(), x)
    J = jacobian(network.eval(), x)
    close(got, dense_kernel(J, J, "sum"), 1e-12)


def test_reduced_matrix_products_hide_no_mixing():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            found = self.inner(x)
            return found + 0.3 * found.mean(dim=0)

    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ValueError, match="depend on that sample alone"):
            iga_torch.empirical_ntk(Centred(), torch.randn(6, 2))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
