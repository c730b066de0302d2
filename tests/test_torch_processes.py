"""`iga_torch.IGA` around `DistributedDataParallel` and inside of it, in two processes.

Every gradient is the mean of what the formulas say of each process's own points. All loops run
in two processes that are begun once; a process that waits for the other fails after some seconds.
"""

import copy
import traceback
from pathlib import Path

import pytest

from iga_core import Adjustment
from tests.support.oracle import close

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.parallel import DataParallel, DistributedDataParallel  # noqa: E402

import iga_torch  # noqa: E402
from iga_torch.neighbours import nearest  # noqa: E402
from tests.support.processes import group, together  # noqa: E402
from tests.support.torch_networks import Dense, clear, gradient, make, steep  # noqa: E402
from tests.test_torch_any_points import found_grouping, points  # noqa: E402

CENTRE = Adjustment(sampling="centre", refresh=1, average=0)
KEPT = Adjustment(sampling="centre")
GROUPS = 6


class Counted(nn.Module):
    """With buffers, which are sent to all processes at each call, one of them changed by it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("scale", torch.tensor(0.9).double())
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return self.inner(self.scale * x)


def outside(network, adjustment=CENTRE, **options):
    return DistributedDataParallel(
        iga_torch.IGA(network, None, adjustment, groups=GROUPS), **options
    )


def inside(network, adjustment=CENTRE, **options):
    return iga_torch.IGA(
        DistributedDataParallel(network, **options), None, adjustment, groups=GROUPS
    )


def weight_normed():
    first = nn.utils.parametrizations.weight_norm(nn.Linear(2, 6))
    return nn.Sequential(first, nn.Tanh(), nn.Linear(6, 3)).double()


ORDERS = {"DDP(IGA)": outside, "IGA(DDP)": inside}


def data(rank, step, count=60):
    return points(count, 2, seed=10 * rank + step), points(count, 3, seed=100 + 10 * rank + step)


class Loop:
    """A loop of one process: the gradients that it gets, and its own part of what they should be.

    Parts are of another network of the same parameters, which no process has a share in.
    """

    def __init__(self, rank, order, network=None, adjustment=CENTRE, **options):
        torch.manual_seed(0)
        self.rank, self.network = rank, Counted(steep()) if network is None else network
        self.alone = copy.deepcopy(self.network)
        self.model = ORDERS[order](self.network, adjustment, **options)
        self.adjustment, self.kept = adjustment, None
        self.got, self.parts = [], []

    def backward(self, x, y):
        (self.model(x) - y).square().sum().div(180).backward()

    def dense(self, x, y, again=False):
        """Of these points; `again` if they are those of the last time."""
        if not again or self.kept is None:
            index = nearest(x, GROUPS)
            self.kept = Dense(self.alone, self.adjustment, found_grouping(index))
        return self.kept.gradient(x, 2 * (self.alone(x) - y).detach() / 180)

    def plain(self, x, y):
        clear(self.alone)
        (self.alone(x) - y).square().sum().div(180).backward()
        return gradient(self.alone)

    def ends(self, part):
        """Note a step, and make it."""
        self.got.append(gradient(self.network).clone())
        self.parts.append(part)
        moved = zip(self.network.parameters(), self.alone.parameters(), strict=True)
        with torch.no_grad():
            for parameter, other in moved:
                if parameter.grad is not None:
                    parameter -= 0.02 * parameter.grad
                other.copy_(parameter)
        clear(self.network)

    def found(self, **others):
        return {"got": self.got, "parts": self.parts, **others}


def new_points(rank, order, network=None, **options):
    loop = Loop(rank, order, network and network(), **options)
    for step in range(3):
        batch = data(rank, step)
        part = loop.dense(*batch)
        loop.backward(*batch)
        loop.ends(part)
    model = getattr(loop.model, "module", None) if order == "DDP(IGA)" else loop.model
    return loop.found(
        calls=int(loop.network.calls) if network is None else None,
        explicit=len(model.kernel_report().explicit),
        names=[row.name.rpartition("module.")[2] for row in model.kernel_report().parameters],
        keys=list(loop.model.state_dict()),
    )


def one_makes_no_kernel(rank, order):
    """The points of the first process stay, and its transform serves; the other's do not."""
    loop = Loop(rank, order, adjustment=KEPT)
    for step in range(4):
        batch = data(rank, step * rank, 60 if rank == 0 else 40 + step)
        part = loop.dense(*batch, again=rank == 0)
        loop.backward(*batch)
        loop.ends(part)
    return loop.found()


def one_has_no_points(rank, order):
    loop = Loop(rank, order)
    for step in range(4):
        x, y = data(rank, step)
        if rank != step % 2:
            loop.backward(x[:0], y[:0])
            loop.ends(torch.zeros(()).double())
        else:
            part = loop.dense(x, y)
            loop.backward(x, y)
            loop.ends(part)
    return loop.found()


def one_is_not_adjusted(rank, order):
    loop = Loop(rank, order)
    model = loop.model.module if order == "DDP(IGA)" else loop.model
    for step in range(4):
        batch = data(rank, step)
        if rank != step % 2:
            part = loop.dense(*batch)
            loop.backward(*batch)
        elif step < 2:
            part = loop.plain(*batch)
            with model.plain():
                loop.backward(*batch)
        else:
            part = loop.plain(*batch)
            loop.model.eval()
            loop.backward(*batch)
            loop.model.train()
        loop.ends(part)
    return loop.found()


def accumulated(rank, order):
    """The first process has three batches for each of the other's."""
    loop = Loop(rank, order)
    for step in range(2):
        batches = [data(rank, 4 * step + k, 60 - k) for k in range(3 if rank == 0 else 1)]
        part = sum(loop.dense(*batch) for batch in batches)
        with loop.model.no_sync():
            for batch in batches[:-1]:
                loop.backward(*batch)
        loop.backward(*batches[-1])
        loop.ends(part)
    return loop.found()


def uneven(rank, order):
    """The second process has one batch, the first three, in DDP's own context for that."""
    loop = Loop(rank, order, broadcast_buffers=False)
    with loop.model.join():
        for step in range(3 if rank == 0 else 1):
            batch = data(rank, step)
            part = loop.dense(*batch)
            loop.backward(*batch)
            loop.ends(part)
    return loop.found()


def a_part_is_shared(rank, _):
    """A renderer of which the field alone is DistributedDataParallel's."""

    class Renderer(nn.Module):
        def __init__(self, field):
            super().__init__()
            self.field = field

        def forward(self, x):
            return torch.sin(self.field(x))

    loop = Loop(rank, "IGA(DDP)")
    loop.alone = Renderer(loop.alone)
    field = DistributedDataParallel(loop.network)
    loop.model = iga_torch.IGA(Renderer(field), None, CENTRE, groups=GROUPS)
    for step in range(2):
        batch = data(rank, step)
        part = loop.dense(*batch)
        loop.backward(*batch)
        loop.ends(part)
    return loop.found()


def reductions(rank, order):
    """How often gradients are reduced, and added up, in a backward pass; and so without us."""
    counts = []
    for adjusted in (True, False):
        loop, reduced, added = Loop(rank, order), [], []

        def reduce(_, bucket, reduced=reduced):
            reduced.append(1)
            work = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
            return work.then(lambda done: done.value()[0])

        shared = loop.model if order == "DDP(IGA)" else loop.model.network
        shared.register_comm_hook(None, reduce)
        for parameter in loop.network.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, added=added: added.append(1))
        (shared.module if order == "DDP(IGA)" else loop.model).train(adjusted)
        for step in range(3):
            loop.backward(*data(rank, step))
        counts.append((len(reduced), len(added)))
    return {"counts": counts}


LOOPS = {
    "new points": (new_points, {}),
    "unused parameters": (
        new_points, {"network": lambda: make("custom"), "find_unused_parameters": True}
    ),
    "a static graph": (new_points, {"static_graph": True}),
    "views of buckets": (new_points, {"gradient_as_bucket_view": True}),
    "buffers of their own": (new_points, {"broadcast_buffers": False}),
    "explicit rows": (new_points, {"network": weight_normed}),
    "one makes no kernel": (one_makes_no_kernel, {}),
    "one has no points": (one_has_no_points, {}),
    "one is not adjusted": (one_is_not_adjusted, {}),
    "accumulated": (accumulated, {}),
    "uneven": (uneven, {}),
    "a part is shared": (a_part_is_shared, {}),
    "reductions": (reductions, {}),
}  # fmt: skip


def every_loop(rank, folder):
    found = {}
    for name, (loop, settings) in LOOPS.items():
        for order in ORDERS:
            with group(rank, 2, Path(folder, f"{name}, {order}")):
                try:
                    found[name, order] = loop(rank, order, **settings)
                except Exception:
                    found[name, order] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def trained():
    return together(every_loop, seconds=300)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", [name for name in LOOPS if name != "reductions"])
def test_gradients_are_the_mean_of_what_each_process_adjusted(trained, name, order):
    pair = [found[name, order] for found in trained]
    assert not any(isinstance(found, str) for found in pair), pair
    longest = max(len(found["got"]) for found in pair)
    for step in range(longest):
        parts = [found["parts"][step] for found in pair if step < len(found["parts"])]
        for found in pair:
            if step < len(found["got"]):
                close(found["got"][step], sum(parts) / 2, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
class TestWhatIsLeftAlone:
    def test_buffers(self, trained, order):
        assert [found["new points", order]["calls"] for found in trained] == [3, 3]

    def test_reductions(self, trained, order):
        for found in trained:
            adjusted, plain = found["reductions", order]["counts"]
            assert adjusted == plain
            assert adjusted[0] == 3

    def test_names(self, trained, order):
        bare = Counted(steep())
        for found in trained:
            got = found["new points", order]
            assert got["keys"] == [f"module.{key}" for key in bare.state_dict()]
            assert got["names"] == [name for name, _ in bare.named_parameters()]
            assert got["explicit"] == 0


@pytest.fixture
def one_process(tmp_path):
    with group(0, 1, tmp_path / "store"):
        yield


@pytest.mark.usefixtures("one_process")
class TestOneProcess:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("options", [{}, {"static_graph": True}], ids=str)
    def test_gradients_are_dense(self, order, options):
        found = new_points(0, order, **options)
        for got, part in zip(found["got"], found["parts"], strict=True):
            close(got, part, 1e-9)

    @pytest.mark.slow  # for its import
    @pytest.mark.filterwarnings("ignore:FSDP is switching")
    def test_parameters_that_processes_share_out_are_refused(self):
        from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

        mesh, device = dist.init_device_mesh("cpu", (1,)), torch.device("cpu")
        for share in (
            lambda net: iga_torch.IGA(fully_shard(net, mesh=mesh)),
            lambda net: iga_torch.IGA(FullyShardedDataParallel(net, device_id=device)),
            lambda net: FullyShardedDataParallel(iga_torch.IGA(net), device_id=device),
        ):
            with pytest.raises(ValueError, match="network: expected parameters that this process"):
                share(nn.Linear(2, 1))(torch.zeros(4, 2))


def test_a_wrapper_of_several_devices_is_left_as_it_was():
    """With the `forward` that another library has put into it."""
    network = DataParallel(nn.Linear(2, 3))
    network.forward = own = lambda x: network.module(x).sin()
    found, seen = iga_torch.empirical_ntk(network, points(5, 2).float()), vars(network)["forward"]
    assert seen is own
    close(found, iga_torch.empirical_ntk(network.module, points(5, 2).float()), 1e-6)
