"""Points that no patch covers: corrected with their nearest group, or left plain.

    python -m benchmarks.rest

`astronaut` at 67 x 67 in patches of 8, which leave 9 % of the points in no group; width 64, 600
steps of Adam, cosine; PSNR in dB, median of the last 100 steps. Under reach "mean" such points take
the correction of their nearest group's mean; beside that, they keep their plain gradient.
"""

import math
import statistics
from dataclasses import replace

import numpy as np

from benchmarks._report import environment, write_text
from iga_array import MLP, Trainer
from iga_core import Adam, Adjustment, Damp, Grouping, Network, Scale
from iga_core.filters import Filter
from iga_lab.signals import coordinates, load

SIDE, PATCH, WIDTH, STEPS = 67, 8, 64, 600
RATES = {"pe": 1e-2, "siren": 2e-3, "relu": 5e-3}
SEEDS = (0, 1)
CORRECTED = Grouping.patches((SIDE, SIDE), PATCH)
PLAIN = replace(CORRECTED, neighbours=np.full(len(CORRECTED.rest), -1))
COLUMNS: dict[str, tuple[Grouping, Filter | None]] = {
    "plain training": (CORRECTED, None),
    "Damp, corrected": (CORRECTED, Damp()),
    "Damp, left plain": (PLAIN, Damp()),
    "Scale, corrected": (CORRECTED, Scale(0.1)),
    "Scale, left plain": (PLAIN, Scale(0.1)),
}


def psnr(kind: str, seed: int, grouping: Grouping, spectral: Filter | None) -> float:
    """Train once."""
    trainer = Trainer(
        MLP(Network(kind, width=WIDTH), seed=seed),
        coordinates((SIDE, SIDE)).astype(np.float32),
        load("astronaut", (SIDE, None)).values.reshape(-1, 3).astype(np.float32),
        grouping=grouping,
        adjustment=None if spectral is None else Adjustment(spectral, seed=seed),
        optimizer=Adam(RATES[kind], "cosine"),
        steps=STEPS,
    )
    found = [-10 * math.log10(float(trainer.step())) for _ in range(STEPS)]
    return statistics.median(found[-100:])


def main() -> None:
    """Run all and write the table."""
    lines = [f"| network, seed | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    print(*lines, sep="\n")
    for kind in RATES:
        for seed in SEEDS:
            row = " | ".join(f"{psnr(kind, seed, *column):.1f}" for column in COLUMNS.values())
            lines.append(f"| {kind}, {seed} | {row} |")
            print(lines[-1], flush=True)
    measured = ", ".join(f"{name} {value}" for name, value in environment().items())
    what = (__doc__ or "").strip()
    write_text("rest.md", "\n".join([f"# {what}", "", measured, "", *lines, ""]))


if __name__ == "__main__":
    main()
