"""The callback of Lightning: the numbers of a loop by hand, checkpoints, and what is logged.

Lightning takes seconds to import, which these slow tests alone do.
"""

import copy
import csv
import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

from iga_core import Adjustment, Scale
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import iga_torch  # noqa: E402
from iga_torch.spectrum import spectrum  # noqa: E402
from tests.support.lightning_runs import QUIET, batches, lightning_of  # noqa: E402
from tests.support.processes import group, together  # noqa: E402
from tests.support.torch_networks import steep  # noqa: E402
from tests.test_torch_any_points import points  # noqa: E402
from tests.test_torch_processes import CENTRE, GROUPS, Loop, data  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # theirs, and not ours
    pytest.mark.filterwarnings("error:(backward|coords|output|groups|kernel|cotangent)."),
]

SETTINGS = Adjustment(refresh=3)


def in_float32():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))


def pairs(count, same=True, dtype=torch.float64):
    """Of the same points for three steps at a time, or of others at every step."""
    return [
        (
            points(60, 2, seed=step // 3 if same else step).to(dtype),
            points(60, 3, seed=100 + step).to(dtype),
        )
        for step in range(count)
    ]


def by_hand(make, given, every=1, autocast=False):
    """The loop that a Trainer should be."""
    net = make()
    model = iga_torch.IGA(net, None, SETTINGS, groups=GROUPS)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for step, (x, y) in enumerate(given):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (model(x) - y).square().mean()
        (loss / every).backward()
        if (step + 1) % every == 0:
            optimizer.step()
            optimizer.zero_grad()
    return net, model


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


class Run:
    """A LightningModule, our callback and a Trainer, and the training."""

    def __init__(
        self,
        package="lightning",
        make=steep,
        late=False,
        name="net",
        adjusted=(SETTINGS,),
        **options,
    ):
        fitted, trainer, callback = lightning_of(package)
        self.module = fitted(make, late)
        groups = {"groups": GROUPS} if adjusted else {}
        self.callback = callback(name, *(None, *adjusted) if adjusted else (), **groups)
        options = QUIET | {"callbacks": [self.callback], "max_epochs": 1} | options
        self.trainer = trainer(**options)

    def fit(self, given, after=None, **options):
        after = None if after is None else batches(after)
        self.trainer.fit(self.module, batches(given), after, **options)
        return self

    @property
    def weights(self):
        return weights(self.module.net)


class TestNumbers:
    @pytest.mark.parametrize("package", ["lightning", "pytorch_lightning"])
    @pytest.mark.parametrize("late", [False, True])
    def test_are_those_of_a_loop_by_hand(self, package, late):
        run = Run(package, late=late).fit(pairs(8))
        net, model = by_hand(steep, pairs(8))
        close(run.weights, weights(net), 1e-12)
        close(run.callback.model.transform.matrix(), model.transform.matrix(), 1e-12)
        assert not torch.equal(weights(net), weights(steep()))

    @pytest.mark.parametrize("same", [True, False])
    def test_with_accumulated_gradients(self, same):
        run = Run(accumulate_grad_batches=2).fit(pairs(8, same))
        close(run.weights, weights(by_hand(steep, pairs(8, same), every=2)[0]), 1e-12)

    def test_in_mixed_precision(self):
        given = pairs(8, dtype=torch.float32)
        run = Run(make=in_float32, precision="bf16-mixed").fit(given)
        close(run.weights, weights(by_hand(in_float32, given, autocast=True)[0]), 1e-6)
        assert run.callback.model.transform.matrix().dtype == torch.float32

    def test_parameters_in_half_precision_are_refused(self):
        with pytest.raises(TypeError, match="expected parameters of float32 or float64"):
            Run(make=in_float32, precision="bf16-true").fit(pairs(1, dtype=torch.float32))

    def test_validation_is_of_the_network_alone(self):
        run = Run(num_sanity_val_steps=1).fit(pairs(4), after=pairs(2))
        x, y = pairs(1)[0]
        assert run.module.validated[0] == float((steep()(x) - y).square().mean())
        close(run.weights, weights(by_hand(steep, pairs(4))[0]), 1e-12)
        run.module.validated.clear()
        run.trainer.validate(run.module, batches(pairs(1)), verbose=False)
        assert run.module.validated == [float((run.module.net(x) - y).square().mean())]


class TestTheModule:
    def test_is_itself_again(self):
        run = Run(max_epochs=2)
        net = run.module.net
        for _ in range(2):
            run.fit(pairs(2))
            assert run.module.net is net
        assert run.callback.model.network is net

    def test_is_itself_again_after_an_error(self):
        run = Run()
        net, x = run.module.net, points(60, 4)
        with pytest.raises(RuntimeError):
            run.fit([(x, x)])
        assert run.module.net is net

    def test_is_replaced_wherever_it_is_held(self):
        run = Run(name="others.1")
        run.module.others = nn.ModuleList([nn.Tanh(), run.module.net])
        run.module.net, net = nn.Sequential(run.module.others[1]), run.module.net
        run.fit(pairs(8))
        assert run.module.others[1] is run.module.net[0] is net
        close(weights(net), weights(by_hand(steep, pairs(8))[0]), 1e-12)

    def test_that_is_adjusted_already_stays_so(self):
        def make():
            return iga_torch.IGA(steep(), None, SETTINGS, groups=GROUPS)

        with pytest.raises(ValueError, match="module: expected one that is not adjusted yet"):
            Run(make=make).fit(pairs(1))
        run = Run(make=make, adjusted=())
        model = run.module.net
        run.fit(pairs(8))
        assert run.module.net is run.callback.model is model
        close(run.weights, weights(by_hand(steep, pairs(8))[0]), 1e-12)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nett", "module: expected a module of Fitted, got 'nett' .* did you mean 'net'"),
            ("net.first.weight", "module: expected a module of Fitted, got 'net.first.weight'"),
            ("", "module: expected the name of a part of the LightningModule, got ''"),
            (None, "module: expected the name of a part of the LightningModule, got None"),
        ],
    )
    def test_that_is_not_there(self, name, message):
        with pytest.raises(ValueError, match=message):
            Run(name=name).fit(pairs(1))


class TestCheckpoints:
    def test_have_the_keys_of_a_plain_run(self, tmp_path):
        plain, run = Run(callbacks=[]).fit(pairs(2)), Run().fit(pairs(2))
        assert run.module.keys == plain.module.keys
        for one, other in ((plain, run), (run, plain)):
            one.trainer.save_checkpoint(tmp_path / "a.ckpt")
            loaded = Run(callbacks=other.trainer.callbacks, max_epochs=2)
            loaded.fit(pairs(0), ckpt_path=tmp_path / "a.ckpt")
            assert torch.equal(loaded.weights, one.weights)

    def test_a_run_goes_on_as_if_it_had_not_ended(self, tmp_path):
        """It does not without what the adjustment carries."""
        given = [(pairs(1)[0][0], y) for _, y in pairs(2)]
        whole = Run(max_epochs=4).fit(given)
        Run(max_epochs=2).fit(given).trainer.save_checkpoint(tmp_path / "a.ckpt")
        found = torch.load(tmp_path / "a.ckpt", weights_only=True)
        assert list(found["callbacks"]) == ["IGACallback[net]"]
        again = Run(max_epochs=4).fit(given, ckpt_path=tmp_path / "a.ckpt")
        assert torch.equal(again.weights, whole.weights)
        found["callbacks"].clear()
        torch.save(found, tmp_path / "b.ckpt")
        without = Run(max_epochs=4).fit(given, ckpt_path=tmp_path / "b.ckpt")
        assert not torch.equal(without.weights, whole.weights)

    def test_of_other_settings_are_refused(self, tmp_path):
        Run().fit(pairs(2)).trainer.save_checkpoint(tmp_path / "a.ckpt")
        run = Run(max_epochs=2, adjusted=(Adjustment(refresh=5),))
        with pytest.raises(ValueError, match=r"state: expected that of .*refresh=5"):
            run.fit(pairs(2), ckpt_path=tmp_path / "a.ckpt")


class TestTheLog:
    def test_has_the_spectrum(self, tmp_path):
        loggers = importlib.import_module("lightning.pytorch.loggers")
        seen = []

        class Noting(importlib.import_module("lightning.pytorch").Callback):
            def on_train_batch_end(self, *_):
                seen.append(run.callback.model.transform.eigenvalues.numpy())

        run = Run(logger=loggers.CSVLogger(tmp_path), log_every_n_steps=2)
        run.trainer.callbacks.append(Noting())
        run.fit(pairs(6, same=False))
        with Path(run.trainer.logger.log_dir, "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 3
        for row, values in zip(rows, seen[1::2], strict=True):
            condition = values[0] / values[values > 4 * np.finfo(float).eps * values[0]][-1]
            share = values.sum() ** 2 / (len(values) * (values**2).sum())
            got = [float(row[f"iga/{name}"]) for name in ("leading", "condition", "share")]
            np.testing.assert_allclose(got, [values[0], condition, share], rtol=1e-5)

    @pytest.mark.parametrize(
        "options",
        [
            {"log_every_n_steps": 0},
            dict.fromkeys(QUIET) | {"accelerator": "cpu", "barebones": True},
        ],
        ids=["never", "barebones"],
    )
    def test_has_nothing_where_nothing_is_logged(self, options):
        assert not Run(**options).fit(pairs(2)).trainer.callback_metrics

    def test_has_nothing_without_a_kernel(self):
        run = Run(log_every_n_steps=1, adjusted=(Adjustment(Scale()),))
        assert not run.fit(pairs(2)).trainer.callback_metrics


def test_a_spectrum_of_nothing_and_of_zeros():
    assert spectrum(None) == {}
    found = spectrum(Adjustment().filter(torch.zeros(3, 3)))
    assert float(found["leading"]) == 0


def a_step(rank, folder, fitted, trainer, callback):
    loop = Loop(rank, "DDP(IGA)")
    batch = data(rank, 0)
    part = loop.dense(*batch)
    module = fitted(lambda: copy.deepcopy(loop.alone), descends=True)
    ours = callback("net", None, CENTRE, groups=GROUPS)
    options = QUIET | {"max_epochs": 1, "strategy": "ddp", "devices": 2}
    runs = trainer(callbacks=[ours], log_every_n_steps=1, **options)
    before = weights(module.net)
    runs.fit(module, batches([batch]))
    runs.save_checkpoint(Path(folder, "a.ckpt"))
    step = (before - weights(module.net)) / 0.02
    return step, part, module.keys, sorted(runs.callback_metrics)


def in_two_processes(rank, folder):
    given = lightning_of()  # before the other one waits for it
    with group(rank, 2, Path(folder, "store")):
        return a_step(rank, folder, *given)


def test_two_processes():
    """Each adjusts its own points, and a step goes along the mean."""
    (step, part, keys, logged), (other, other_part, *_) = together(in_two_processes)
    close(step, (part + other_part) / 2, 1e-9)
    close(other, step, 1e-15)
    assert keys[0] == "net.scale"
    assert logged == ["iga/condition", "iga/leading", "iga/share"]


def test_the_example_runs():
    module = importlib.import_module("iga_torch.lightning")
    assert doctest.testmod(module) == (0, 9)
