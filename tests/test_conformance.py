"""The shared suite: every backend passes it, the dense formulas do, and wrong backends do not."""

import fnmatch
import functools
import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from iga_array.conformance import ArrayBackend
from iga_core import Adjuster, Damp
from iga_core.grouping import pieces
from iga_core.testing import ADJUSTED, ILL_POSED, NETWORKS, TOLERANCES, Case, cases
from tests.conftest import missing, strictly
from tests.support.dense import Dense, adjusted
from tests.support.networks import KINDS
from tests.support.selection import slow

PLACES = {
    "numpy": "cpu",
    "array-api-strict": "device1",
    "torch": "cpu",
    "torch-cuda": "cuda:0",
    "cupy": "cuda:0",
}
PER_NETWORK = [
    "forward", "gradient", "kernel/sum/1", "kernel/sum/4", "kernel/trace/1", "kernel/trace/4",
    "transform/equalise/points", "transform/equalise/mean", "transform/equalise/zero",
    "transform/equalise/singular", "transform/raise/points", "transform/raise/mean",
    "transform/damp/points", "transform/damp/mean", "transform/damp/zero",
    "transform/damp/singular", "transform/scale/points", "transform/scale/mean",
    *(f"adjusted/{name}" for name in ADJUSTED),
    "steps/sgd", "steps/adam", "steps/muon", "steps/pieces",
]  # fmt: skip
QUICK = ["siren", "pe+fr", "relu+bn", "pe+fr+bn"]
"""Of each addition one network; a kind's own formulas are checked on every library elsewhere."""
ALL = [*QUICK, *slow(label for label in NETWORKS if label not in QUICK)]
IN_DOUBT = ["adjusted/narrow/damp"]
"""Ill-conditioned by intent: more groups than parameters."""
ADJUSTABLE = [label for label in NETWORKS if not label.endswith("+bn")]
PLAIN = ["forward", "gradient", "steps/sgd", "steps/adam", "steps/muon"]


def asked_of(label):
    return PLAIN if label.endswith("+bn") else PER_NETWORK


@functools.cache
def suite(label):
    return cases(ArrayBackend(), [label])


USABLE = [name for name in PLACES if not missing(name)]


def on(name, dtype):
    """Return the adapter."""
    if name.startswith("torch"):
        from iga_torch.conformance import TorchBackend

        return TorchBackend(PLACES[name], dtype)
    return ArrayBackend(name, PLACES[name], dtype)


def test_the_suite_is_what_was_asked_for():
    found = [(case.network, case.name) for case in cases(ArrayBackend())]
    assert found == [(kind, name) for kind in KINDS for name in PER_NETWORK]
    assert NETWORKS[:6] == KINDS
    found = [(case.network, case.name) for case in cases(ArrayBackend(), NETWORKS[6:])]
    assert found == [(label, name) for label in NETWORKS[6:] for name in asked_of(label)]
    additions = {label.partition("+")[2] for label in NETWORKS}
    assert additions == {"", "fr", "bn"}
    assert TOLERANCES["float64"] == {"values": 1e-10, "adjusted": 1e-12, "trained": 1e-9}
    assert TOLERANCES["float32"] == {"values": 1e-5, "adjusted": 1e-4, "trained": 1e-3}


@pytest.mark.whole
@pytest.mark.parametrize("label", ALL)
@pytest.mark.parametrize("dtype", ["float64", *slow(["float32"])])
@pytest.mark.parametrize("name", USABLE)
def test_every_backend_agrees_with_the_reference(name, dtype, label):
    backend = on(name, dtype)
    rows = [case.check(backend) for case in suite(label)]
    assert [row.case for row in rows] == asked_of(label)
    assert {(row.backend, row.device, row.dtype) for row in rows} == {
        (name.removesuffix("-cuda"), PLACES[name], dtype)
    }
    # In float32 other eigenvalues of these two are safe, see IN_DOUBT.
    allowed = IN_DOUBT if label in ("gabor", "gauss") and dtype == "float32" else []
    assert [row for row in rows if row.status != "pass" and row.case not in allowed] == []
    assert {row.status for row in rows} <= {"pass", "ill-posed"}


@pytest.mark.skipif("array-api-strict" not in USABLE, reason=missing("array-api-strict"))
@pytest.mark.parametrize(
    "label", ["siren", *slow([kind for kind in KINDS if kind != "siren"]), *slow(["pe+fr"])]
)
@pytest.mark.parametrize("device", ["no_x64", *slow(["no_float64"])])
def test_where_there_is_no_float64_and_no_shape_may_depend_on_data(device, label):
    with strictly("array-api-strict"):
        backend = ArrayBackend("array-api-strict", device, "float32")
        rows = [case.check(backend) for case in suite(label)]
    assert [row for row in rows if row.status == "fail"] == []
    assert {row.case for row in rows if row.status != "pass"} <= set(IN_DOUBT)


DENSE = ["relu+fr", "pe+fr+bn"]


@pytest.mark.parametrize(
    "label", [*DENSE, *slow(label for label in NETWORKS if label not in DENSE)]
)
def test_the_reference_agrees_with_the_dense_formulas(label):
    asked = [case for case in suite(label) if label == "relu" or "steps" not in case.name]
    rows = [case.check(Dense()) for case in asked]
    assert [row for row in rows if row.status != "pass"] == []
    assert max(row.bound for row in rows if row.case not in IN_DOUBT) <= 1e-6
    assert max(row.bound for row in rows) < ILL_POSED


class Wrong(ArrayBackend):
    """NumPy in float64, but for one mistake."""


class Perturbed(Wrong):
    def kernel(self, *arguments):
        kernel = super().kernel(*arguments)
        kernel[0, 0] *= 1 + 1e-3
        return kernel


class Shifted(Wrong):
    def evaluate(self, *arguments):
        return super().evaluate(*arguments) + 1e-8


class Plain(Wrong):
    def gradients(self, problem, parameters, *_):
        return super().gradients(problem, parameters)


class OwnPositions(Wrong):
    def gradients(self, problem, parameters, adjustment=None, positions=None):
        positions = None if positions is None else (positions + 1) % problem.grouping.points
        return super().gradients(problem, parameters, adjustment, positions)


class SamePositions(Wrong):
    def train(self, problem, parameters, optimizer, adjustment, positions):
        positions = np.broadcast_to(positions[0], positions.shape)
        return super().train(problem, parameters, optimizer, adjustment, positions)


class RestIsAdjusted(Wrong):
    """Points in no group are taken for a group's."""

    def gradients(self, problem, parameters, adjustment=None, positions=None):
        loss, gradients = super().gradients(problem, parameters, adjustment, positions)
        if adjustment is None:
            return loss, gradients
        rest = problem.grouping.rest
        targets = problem.targets.copy()
        targets[rest] = self.evaluate(problem.network, parameters, problem.coords)[rest]
        quiet = replace(problem, targets=targets)
        return loss, super().gradients(quiet, parameters, adjustment, positions)[1]


class RestStaysPlain(Wrong):
    """Points in no group keep their gradient under "mean", as they once did."""

    def gradients(self, problem, parameters, adjustment=None, positions=None):
        grouping = problem.grouping
        alone = replace(grouping, neighbours=np.full(len(grouping.rest), -1))
        problem = replace(problem, grouping=alone)
        return super().gradients(problem, parameters, adjustment, positions)


class OtherReach(Wrong):
    def transform(self, kernel, adjustment, cotangent):
        other = {"points": "mean", "mean": "points"}[adjustment.reach]
        return super().transform(kernel, replace(adjustment, reach=other), cotangent)


class OtherFilter(Wrong):
    """A third above μ."""

    def transform(self, kernel, adjustment, cotangent):
        if isinstance(adjustment.filter, Damp):
            adjustment = replace(adjustment, filter=Damp(1.3))
        return super().transform(kernel, adjustment, cotangent)


class AllEigenvalues(Wrong):
    """μ of the eigenvalues that are rounding noise, too."""

    def transform(self, kernel, adjustment, cotangent):
        if isinstance(adjustment.filter, Damp) and kernel.any():
            values = np.abs(np.linalg.eigvalsh(kernel)) + 1e-30
            mu = np.exp(np.log(values).mean())
            S = mu * np.linalg.inv(kernel + mu * np.eye(len(kernel)))
            return adjusted(S, adjustment.reach, cotangent)
        return super().transform(kernel, adjustment, cotangent)


class WholeMeans(Wrong):
    """In pieces, the means of whole groups."""

    def gradients(self, problem, parameters, *others):
        return super().gradients(replace(problem, columns=None), parameters, *others)


class Forgets(Wrong):
    def train(self, problem, parameters, optimizer, adjustment, positions):
        adjustment = adjustment and replace(adjustment, average=0)
        return super().train(problem, parameters, optimizer, adjustment, positions)


class RenewsAlways(Wrong):
    def train(self, problem, parameters, optimizer, adjustment, positions):
        adjustment = adjustment and replace(adjustment, refresh=1)
        return super().train(problem, parameters, optimizer, adjustment, positions)


class OtherColumns(Wrong):
    """In pieces, always those of the first step."""

    def train(self, *arguments):
        def same(*sizes, step, **others):  # noqa: ARG001
            return pieces(*sizes, step=0, **others)

        with mock.patch("iga_array.training.pieces", same):
            return super().train(*arguments)


class OfEachPiece(Wrong):
    """A transform for each piece, of representatives among its own columns."""

    class ByFormula(Dense):
        def of_piece(self, _, columns, problem, parameters, adjustment, positions):
            places = np.searchsorted(problem.pieces(0)[0], positions) % len(columns)
            self.average = None
            return self.made(problem, parameters, adjustment, columns[places])

    def gradients(self, problem, parameters, adjustment=None, positions=None):
        if problem.columns and adjustment is not None:
            return self.ByFormula().gradients(problem, parameters, adjustment, positions)
        return super().gradients(problem, parameters, adjustment, positions)


class AveragesFromZero(Wrong):
    """The first average is a share of the first kernel."""

    def train(self, *arguments):
        def averaged(adjuster, new):
            kept, share = adjuster.state.kernel, adjuster.adjustment.average
            return share * (0 if kept is None else kept) + (1 - share) * new

        with mock.patch.object(Adjuster, "_averaged", averaged):
            return super().train(*arguments)


class OneStepLess(Wrong):
    def train(self, problem, parameters, optimizer, adjustment, positions):
        return super().train(problem, parameters, optimizer, adjustment, positions[:-1])


class OtherRate(Wrong):
    def train(self, problem, parameters, optimizer, *others):
        rate = 1.001 * optimizer.learning_rate
        return super().train(problem, parameters, replace(optimizer, learning_rate=rate), *others)


class BiasesStay(Wrong):
    def train(self, problem, parameters, *others):
        trained = super().train(problem, parameters, *others)
        return [new if new.ndim == 2 else old for new, old in zip(trained, parameters, strict=True)]


class NotANumber(Wrong):
    def kernel(self, *arguments):
        return super().kernel(*arguments) * np.nan


class WrongShape(Wrong):
    def evaluate(self, *arguments):
        return super().evaluate(*arguments).T


class Promoting(Wrong):
    def evaluate(self, *arguments):
        return super().evaluate(*arguments).astype(np.longdouble)


class Short(Wrong):
    def gradients(self, *arguments):
        loss, gradients = super().gradients(*arguments)
        return loss, gradients[:-1]


class OfAnotherLibrary(Wrong):
    def evaluate(self, *arguments):
        return super().evaluate(*arguments).tolist()


class Raising(Wrong):
    def train(self, *arguments):
        raise NotImplementedError("no training\nyet")


MEANS = (
    "adjusted/groupwise adjusted/damp adjusted/scale adjusted/pieces/damp adjusted/neighbours/* "
    "adjusted/duplicates/* adjusted/narrow/damp adjusted/dead/damp"
)
"""Where the correction of means reaches points in no group."""
MISTAKES = [
    (Perturbed, "kernel/*", ""),
    (Shifted, "forward", ""),
    (Plain, "adjusted/*", ""),
    (OwnPositions, "adjusted/paper adjusted/groupwise adjusted/damp adjusted/damp/points "
     "adjusted/pieces/* adjusted/neighbours/* adjusted/duplicates/* adjusted/narrow/damp", ""),
    (SamePositions, "steps/*", ""),
    (RestIsAdjusted, "adjusted/*", ""),
    (RestStaysPlain, MEANS, ""),
    (OtherReach, "transform/*/points transform/*/mean transform/*/singular", ""),
    (OtherFilter, "transform/damp/points transform/damp/mean transform/damp/singular", ""),
    (AllEigenvalues, "transform/damp/singular", ""),
    (WholeMeans, "adjusted/pieces/damp", ""),
    (Forgets, "steps/muon steps/pieces", ""),
    (RenewsAlways, "steps/muon steps/pieces", ""),
    (OtherColumns, "steps/pieces", ""),
    (OfEachPiece, "adjusted/pieces/*", ""),
    (AveragesFromZero, "steps/muon steps/pieces", ""),
    (OneStepLess, "steps/*", ""),
    (OtherRate, "steps/*", ""),
    (BiasesStay, "steps/*", ""),
    (NotANumber, "kernel/*", "ValueError: expected finite values, got NaN or infinity"),
    (WrongShape, "forward", "ValueError: expected float64 of shape (182, 3), got float64 of shape (3, 182)"),
    (Promoting, "forward", "ValueError: expected float64 of shape (182, 3), got longdouble"),
    (Short, "gradient adjusted/*", "ValueError: expected "),
    (OfAnotherLibrary, "forward", "TypeError: expected NumPy arrays, got list"),
    (Raising, "steps/*", "NotImplementedError: no training yet"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "caught", "message"), MISTAKES)
@pytest.mark.parametrize("all_steps", [False, *slow([True])])
def test_a_mistake_is_caught_where_it_is_and_nowhere_else(mistake, caught, message, all_steps):
    """Quickly, no 25 steps of a backend that has no `train` of its own to be wrong in."""
    steps = all_steps or "train" in vars(mistake)
    asked = [case for case in suite("siren") if steps or not case.name.startswith("steps")]
    rows = [case.check(mistake()) for case in asked]
    failed = [row for row in rows if row.status == "fail"]
    assert [row.case for row in failed] == [
        name for name in PER_NETWORK if any(fnmatch.fnmatch(name, p) for p in caught.split())
    ]
    assert len(rows) == len(PER_NETWORK) - (0 if steps else 4)
    assert {row.status for row in rows} == {"pass", "fail"}
    for row in failed:
        if message:
            assert row.difference == math.inf
            assert message in row.message.replace(np.dtype(np.longdouble).name, "longdouble")
        else:
            assert row.bound < row.difference < math.inf
            assert row.message == ""


def test_a_backend_that_trains_in_place_disturbs_no_other():
    class InPlace(Wrong):
        def train(self, problem, parameters, *others):
            for old, new in zip(
                parameters, super().train(problem, parameters, *others), strict=True
            ):
                old[...] = new
            return parameters

    (case,) = (case for case in suite("relu") if case.name == "steps/adam")
    for backend in (InPlace(), InPlace(), ArrayBackend()):
        assert case.check(backend).difference == 0


@pytest.mark.parametrize(
    "kind", ["siren", *slow(label for label in ADJUSTABLE if label != "siren")]
)
@pytest.mark.parametrize("mistake", [Plain, OwnPositions, SamePositions, OneStepLess, BiasesStay])
def test_float32_is_held_tightly_enough_to_catch_it(mistake, kind):
    asked = [case for case in suite(kind) if case.name.startswith(("adjusted", "steps"))]
    rows = [case.check(mistake(dtype="float32")) for case in asked]
    assert sum(row.status == "fail" for row in rows) >= 2


class Forgetful(Wrong):
    """Evaluates with the statistics of other points."""

    def evaluate(self, network, parameters, coords):
        return super().evaluate(network, parameters, coords[:-1])[[*range(len(coords) - 1), 0]]


class OfTheWeight(Wrong):
    """Follows the gradient of ``W = Λ B``, not that of Λ, which has another length."""

    def gradients(self, problem, parameters, *others):
        loss, gradients = super().gradients(problem, parameters, *others)
        gradients[2] = gradients[2] / np.linalg.norm(problem.network.basis, 2)
        return loss, gradients


class GainsStay(Wrong):
    def train(self, problem, parameters, *others):
        trained = super().train(problem, parameters, *others)
        kept = problem.network.by_layer(parameters)
        layers = problem.network.by_layer(trained)
        layers[0][-2] = kept[0][-2]
        return [parameter for layer in layers for parameter in layer]


@pytest.mark.parametrize(
    ("mistake", "label", "caught"),
    [
        (Forgetful, "pe+bn", "forward"),
        (OfTheWeight, "pe+fr", "gradient adjusted"),
        (GainsStay, "relu+bn", "steps"),
        (OneStepLess, "siren+bn", "steps"),
        (OtherRate, "pe+bn", "steps"),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", *slow(["float32"])])
def test_mistakes_with_what_training_adds_are_caught(mistake, label, caught, dtype):
    rows = [case.check(mistake(dtype=dtype)) for case in suite(label)]
    failed = {row.case.partition("/")[0] for row in rows if row.status == "fail"}
    assert failed <= set(caught.split())
    if dtype == "float64" or mistake is not OtherRate:
        assert failed == set(caught.split())


def power_case(exponent, quantity="values", reference=None):
    """Its relative sensitivity to the parameters is `exponent`."""
    parameters = [1 - 1e-5 * np.arange(4), np.full((2, 2), 1 - 1e-5)]
    return Case(
        "none",
        "power",
        quantity,
        lambda backend, given: [backend.power(p, exponent) for p in given],
        reference or Power(),
        parameters,
        0,
    )


class Power:
    """A backend that raises to powers, off by a factor."""

    name, device = "power", "cpu"

    def __init__(self, dtype="float64", factor=1.0):
        self.dtype, self.factor = dtype, factor

    def power(self, values, exponent):
        return (self.factor * values**exponent).astype(self.dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("exponent", [1, 50, 1000])
def test_the_sensitivity_is_what_a_perturbation_of_eps_does(dtype, exponent):
    row = power_case(exponent).check(Power(dtype))
    assert row.sensitivity == pytest.approx(exponent * np.finfo(dtype).eps, rel=0.3)
    assert row.bound == max(TOLERANCES[dtype]["values"], 10 * row.sensitivity)


def test_the_bound_is_the_tables_or_ten_sensitivities():
    for quantity, bound in TOLERANCES["float32"].items():
        assert power_case(1, quantity).check(Power("float32")).bound == bound
    row = power_case(2000).check(Power("float32", 1 + 1e-3))
    assert row.status == "pass"
    assert row.bound == pytest.approx(2000 * 10 * np.finfo("float32").eps, rel=0.3)
    assert power_case(20).check(Power("float32", 1 + 1e-3)).status == "fail"


def test_what_rounding_decides_is_reported_and_not_judged():
    case = power_case(20_000)
    for factor in (1.0, 2.0):
        row = case.check(Power("float32", factor))
        assert row.status == "ill-posed"
        assert row.bound > ILL_POSED
        assert row.difference == pytest.approx(factor - 1, abs=1e-2)
        assert row.sensitivity == pytest.approx(20_000 * np.finfo("float32").eps, rel=0.3)
    assert case.check(Power("float64", 2.0)).status == "fail"
    row = case.check(Power("float32", np.nan))
    assert (row.status, row.difference) == ("fail", math.inf)


def test_the_reference_is_asked_once_and_once_a_dtype():
    asked = []

    class Counting(Power):
        def power(self, values, exponent):
            asked.append(values)
            return super().power(values, exponent)

    case = power_case(2, reference=Counting())
    for _ in range(3):
        for dtype in ("float64", "float32"):
            assert case.check(Power(dtype)).status == "pass"
    assert len(asked) == 2 * 3


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match=r"kind: expected one of .* did you mean 'siren'"):
        cases(ArrayBackend(), ["sirn"])
    for label in ("pe+", "pe+bn+fr", "pe+fr+fr", "pe+ga"):
        with pytest.raises(ValueError, match=r"networks: expected a kind, alone or with .fr"):
            cases(ArrayBackend(), [label])
    with pytest.raises(ValueError, match="seed: expected at least 0"):
        cases(ArrayBackend(), seed=-1)
    with pytest.raises(ValueError, match=r"dtype: expected 'float64' or 'float32' of power, got"):
        power_case(2).check(Power(np.float32))
    case = power_case(2, reference=Power(factor=np.nan))
    with pytest.raises(ValueError, match="reference: expected finite answers, got NaN"):
        case.check(Power())
