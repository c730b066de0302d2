"""`iga_torch.IGA` in loops of accelerate: the numbers of a loop by hand, states, two processes.

accelerate takes seconds to import, which these slow tests alone do.
"""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest

from iga_core import Adjustment
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import iga_torch  # noqa: E402
from tests.support.processes import group, together  # noqa: E402
from tests.support.torch_networks import gradient, steep  # noqa: E402
from tests.test_torch_any_points import points  # noqa: E402
from tests.test_torch_processes import CENTRE, GROUPS, Loop, data  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # theirs, and not ours
    pytest.mark.filterwarnings("error:(backward|coords|output|groups|kernel|cotangent)."),
]

SETTINGS = Adjustment(refresh=3)
X, Y = points(120, 2), points(120, 3, seed=1)


def in_float32():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))


def wrapped(net):
    return iga_torch.IGA(net, None, SETTINGS, groups=GROUPS)


def loader(like, size):
    dtype = next(like.parameters()).dtype
    return DataLoader(TensorDataset(X.to(dtype), Y.to(dtype)), batch_size=size)


def by_hand(net, steps, size, every=1, autocast=False):
    """The loop that one of accelerate should be."""
    model, optimizer = wrapped(net), torch.optim.Adam(net.parameters(), lr=0.02)
    given = list(loader(net, size))
    for step in range(steps):
        x, y = given[step % len(given)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = model(x)
        ((found.to(y.dtype) - y).square().mean() / every).backward()
        if (step + 1) % every == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    return model


class Run:
    """What a script has after `prepare`, and its loop."""

    def __init__(self, net, size, order="prepare(IGA)", every=1, precision="no", folder=None):
        accelerate = pytest.importorskip("accelerate")
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = accelerate.Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=every,
            project_dir=folder,
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        inner, last = (wrapped, lambda m: m) if order == "prepare(IGA)" else (lambda m: m, wrapped)
        prepared = self.accelerator.prepare(inner(net), optimizer, loader(net, size))
        self.model, (self.optimizer, self.loader) = last(prepared[0]), prepared[1:]

    def train(self, epochs):
        for _ in range(epochs):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward((self.model(x) - y).square().mean())
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), 0.1)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
        return self


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


class TestNumbers:
    @pytest.mark.parametrize("order", ["prepare(IGA)", "IGA(prepare)"])
    @pytest.mark.parametrize(("size", "every"), [(120, 1), (30, 2)])
    def test_are_those_of_a_loop_by_hand(self, order, size, every):
        epochs = 6 if size == 120 else 2
        run = Run(steep(), size, order, every).train(epochs)
        model = by_hand(steep(), epochs * 120 // size, size, every)
        close(weights(run.model), weights(model), 1e-12)
        close(run.model.transform.matrix(), model.transform.matrix(), 1e-12)
        assert not torch.equal(weights(run.model), weights(steep()))

    def test_in_mixed_precision(self):
        run = Run(in_float32(), 120, precision="bf16").train(6)
        model = by_hand(in_float32(), 6, 120, autocast=True)
        close(weights(run.model), weights(model), 1e-6)
        assert run.model.transform.matrix().dtype == torch.float32
        assert not run.model.kernel_report().explicit


class TestStates:
    def test_what_is_unwrapped_has_the_keys_of_the_network(self):
        run = Run(in_float32(), 60, precision="bf16").train(1)
        model = run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
        assert isinstance(model, iga_torch.IGA)
        bare = in_float32()
        bare.load_state_dict(run.accelerator.get_state_dict(run.model))
        x = X.float()
        assert torch.equal(model.eval()(x), bare(x))

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_run_goes_on_as_if_it_had_not_ended(self, tmp_path, kept):
        """It does not without what the adjustment carries."""

        def begun():
            run = Run(steep(), 120, folder=tmp_path)
            if kept:
                run.accelerator.register_for_checkpointing(
                    SimpleNamespace(
                        state_dict=run.model.adjustment_state,
                        load_state_dict=run.model.load_adjustment_state,
                    )
                )
            return run

        whole = weights(begun().train(8).model)
        begun().train(4).accelerator.save_state(tmp_path / "state")
        again = begun()
        again.accelerator.load_state(tmp_path / "state")
        assert torch.equal(weights(again.train(4).model), whole) is kept


def accumulated(rank, accelerator):
    loop, batches = Loop(rank, "DDP(IGA)"), [data(rank, step) for step in range(2)]
    part = sum(loop.dense(*batch) for batch in batches) / 2
    net = copy.deepcopy(loop.alone)
    model = accelerator.prepare(iga_torch.IGA(net, None, CENTRE, groups=GROUPS))
    for x, y in batches:
        with accelerator.accumulate(model):
            accelerator.backward((model(x) - y).square().mean())
    kinds = [type(model).__name__, type(accelerator.unwrap_model(model)).__name__]
    keys = list(accelerator.unwrap_model(model).state_dict())
    accelerator.free_memory()
    return gradient(net), part, keys, kinds


def in_two_processes(rank, folder):
    import accelerate  # before the other one waits for it

    with group(rank, 2, Path(folder, "store")):
        options = {"cpu": True, "gradient_accumulation_steps": 2}
        return accumulated(rank, accelerate.Accelerator(**options))


def test_two_processes():
    (found, part, keys, kinds), (other, other_part, *_) = together(in_two_processes)
    close(found, (part + other_part) / 2, 1e-9)
    close(other, found, 1e-15)
    assert keys[0] == "scale"
    assert kinds == ["DistributedDataParallel", "IGA"]
