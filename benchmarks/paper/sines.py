"""Coordinate networks fitted to a sum of sines on an interval, frequency by frequency."""

import time
from typing import Any

import numpy as np

from benchmarks.paper.store import Description
from benchmarks.paper.twolayer import relative_errors
from iga_array import MLP, Trainer
from iga_core import Adam, Adjustment, Grouping, Network

RECORDS = 100


def fit(case: Description) -> dict[str, Any]:
    """Train once under Adam at a constant rate.

    Parameters
    ----------
    case : dict
        `network`, `width`, `depth`, `seed`; `points` N of the interval, `cycles` of the sines over
        it, `stretch` on the coordinates; `group`, points of one, 0 for plain training; `end`,
        learning `rate` and `steps`.

    Returns
    -------
    dict
        ``recorded``, steps taken; ``errors``, relative, (records, frequencies); ``diverged``,
        the step at which the loss was no longer finite, or None.
    """
    started = time.perf_counter()
    x = np.linspace(-1, 1, case["points"], endpoint=False)[:, None]
    target = np.sum([np.sin(np.pi * k * x) for k in case["cycles"]], axis=0)
    network = Network(
        case["network"], inputs=1, outputs=1, width=case["width"], depth=case["depth"]
    )
    trainer = Trainer(
        MLP(network, seed=case["seed"]),
        (case["stretch"] * x).astype(np.float32),
        target.astype(np.float32),
        grouping=Grouping.blocks(len(x), case["group"] or 1),
        adjustment=Adjustment.paper(case["end"], sampling="centre") if case["group"] else None,
        optimizer=Adam(case["rate"]),
        steps=case["steps"],
        workers=1,
    )
    recorded = np.unique(np.linspace(0, case["steps"], RECORDS + 1).round().astype(int)).tolist()
    outputs, diverged = [], None
    try:
        for step in range(case["steps"] + 1):
            if step in recorded:
                outputs.append(trainer.predict()[:, 0])
            if step < case["steps"]:
                trainer.step()
    except FloatingPointError:
        diverged = trainer.done
    return {
        "recorded": recorded[: len(outputs)],
        "errors": relative_errors(np.stack(outputs), target[:, 0], case["cycles"]),
        "diverged": diverged,
        "seconds": time.perf_counter() - started,
    }
