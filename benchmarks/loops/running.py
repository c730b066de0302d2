"""What is done with each loop: trained by each method, compared with dense algebra, and timed.

It knows all loops, and how a case of `benchmarks._runs.Runs` is done.
"""

import warnings
from typing import Any

import numpy as np
import torch

from benchmarks._runs import Case, Run
from benchmarks.loops import filters, images, rays, shapes, siren, trainers
from benchmarks.loops.dense import Compared
from benchmarks.loops.training import EVERY, Adjusted, Log, Loop, Plain, Size
from iga_core import Adjustment, Scale

LOOPS: dict[str, Loop] = {
    **siren.LOOPS, **images.LOOPS, **filters.LOOPS, **shapes.LOOPS, **rays.LOOPS, **trainers.LOOPS,
}  # fmt: skip
CASE = ("loop", "method", "rate", "seed")
SEEDS = (0, 1)
FACTORS = (0.1, 0.2, 0.5)
"""Of the control; the best of them is what a table shows."""
CONTROLS = tuple(f"scale {factor}" for factor in FACTORS)
METHODS = ("plain", "iga", *CONTROLS)
DENSE_STEPS = 3
ROUNDS, BLOCK, FIRST, TIMED = 3, 10, 20, 70
"""Of a timing: rounds, steps that are timed together, the first ones left out, steps of a round."""


def given(method: str, seed: int = 0) -> Any:
    """Return what a loop is given as IGA."""
    if method == "plain":
        return Plain()
    if method == "iga":
        return Adjusted(Adjustment(seed=seed))
    return Adjusted(Adjustment(Scale(float(method.split()[1]))))


def done(case: Case) -> Run:
    """Do a case; what is compared or timed has a method of that name."""
    name, method, rate, seed = case
    torch.set_num_threads(1)
    done_by = {"dense": compared, "cost": timed, "balance": balance}.get(method)
    loop = LOOPS[name]
    return trained(loop, method, rate, seed) if done_by is None else done_by(loop)


def trained(
    loop: Loop, method: str, rate: float, seed: int, steps: int | None = None,
    size: Size | None = None,
) -> Run:  # fmt: skip
    """Train once."""
    steps = steps or loop.steps
    log, wrap = Log(min(EVERY, steps)), given(method, seed)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loop.train(wrap, log, rate, seed, steps, size or loop.size)
        wrap.finish()
    ours = sorted({str(w.message).partition(":")[0] for w in said if "iga_torch" in w.filename
                   or "adjusted" in str(w.message)})  # fmt: skip
    return log.result() | wrap.found | {"warnings": ours}


def compared(loop: Loop) -> Run:
    """Compare some steps of a small instance with dense algebra, in float64."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    wrap = Compared()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loop.train(wrap, Log(every=0), loop.rates[0], 0, DENSE_STEPS, loop.small)
    finally:
        wrap.finish()
        torch.set_default_dtype(dtype)
    found = wrap.found["differences"]
    return {"median": float(np.max(found)), "steps": len(found)}


def timed(loop: Loop) -> Run:
    """Time plain and adjusted steps in turn; a renewal of the transform is in its share of them."""
    seconds: dict[str, list[float]] = {"plain": [], "iga": []}
    found: dict[str, Any] = {}
    for turn in range(ROUNDS):
        for method in ("plain", "iga") if turn % 2 == 0 else ("iga", "plain"):
            log, wrap = Log(every=0), given(method)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loop.train(wrap, log, loop.rates[0], 0, TIMED, loop.size)
                wrap.finish()
            steps = log.seconds[FIRST:]
            blocks = [steps[k : k + BLOCK] for k in range(0, len(steps) - BLOCK + 1, BLOCK)]
            seconds[method] += [sum(block) / BLOCK for block in blocks]
            found |= wrap.found
    plain, iga = (float(np.median(seconds[method])) for method in ("plain", "iga"))
    return {"median": iga / plain, "plain_ms": 1e3 * plain, "iga_ms": 1e3 * iga} | found


def balance(_: Loop) -> Run:
    """Return the lengths of the gradients of each term of the SDF loop, plain and adjusted."""
    return {"median": 0.0} | siren.balance()
