"""What a kernel costs: python -m benchmarks.torch_kernel [--neural-tangents-python PATH] ...

The empirical neural tangent kernel of the outputs' sum, PE and SIREN networks with three hidden
layers of 256, 2 inputs and 3 outputs, float32, on a CPU: `iga_torch.empirical_ntk` against
torch.func, neural-tangents and nngeometry. Every side is a fresh process on the same cores, and is
handed the encoded coordinates; ours and a peer take turns, and a ratio is the median over the
rounds of the quotients within a round. Each kernel is compared with the float64 one first. Writes
``results/torch-kernel.md`` and ``.json``. Installs nothing; neural-tangents and nngeometry need
environments of their own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _kernel_side
from benchmarks._kernel_side import NNGEOMETRY_BATCHES, NT_IMPLEMENTATIONS, OURS
from benchmarks._report import environment, fill, ratio, write_json, write_text
from iga_array import MLP, empirical_ntk
from iga_core import Network

KINDS = ("pe", "siren")
SIDES = {
    "torch.func": 0.05,
    **dict.fromkeys(NT_IMPLEMENTATIONS, 0.05),
    **dict.fromkeys(NNGEOMETRY_BATCHES, 0.5),
}
"""Most of each peer's time that ours may take."""

INSTALL = {
    "neural-tangents": "pip install 'jax==0.4.25' 'jaxlib==0.4.25' 'numpy<2' 'scipy<1.13' "
    "neural-tangents; newer JAX lacks what its structured derivatives need",
    "nngeometry": "pip install torch, then pip install --no-deps nngeometry",
}
TOLERANCE = 1e-5
LEAST_ROUNDS, SECONDS = 3, 20
"""A pair takes turns for so many rounds at least, and begins no other after so many seconds."""
PAUSE = 0.02
"""Seconds before each turn: threads of the other side spin on for a while."""


class Side:
    """A process that evaluates a kernel when it is told to."""

    def __init__(self, name: str, python: str, problem: Path, threads: int) -> None:
        self.answer = problem.with_suffix(".answer.npy")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, _kernel_side.__file__, name, str(problem), str(self.answer), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def first(self) -> dict[str, Any]:
        """Wait for the first evaluation: its memory, and the versions there."""
        found: dict[str, Any] = json.loads(self._line())
        return found

    def seconds(self) -> float:
        """Have the kernel evaluated once more."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = [text for text in self._errors.read().splitlines() if "Error" in text]
            raise RuntimeError(last[-1] if last else f"exit code {self._process.returncode}")
        return line


def problem(network: Network, count: int) -> tuple[dict[str, Any], Any]:
    """Make points and parameters for all sides, and their kernel in float64."""
    coords = np.random.default_rng(0).uniform(-1, 1, (count, network.inputs))
    found = {
        "x": network.encode(coords).astype(np.float32),
        "sine": network.kind == "siren",
        "uses": np.ones(network.depth + 1, int),
    }
    for k, parameter in enumerate(network.initial(0)):
        found[f"{'bias' if k % 2 else 'weight'}{k // 2}"] = parameter.astype(np.float32)
    return found, empirical_ntk(MLP(network, dtype=np.float64), coords)


def difference(got: Any, wanted: Any) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def pair(ours: Side, peer: Side, rounds: int) -> dict[str, list[float]]:
    """Seconds of both, in turns, begun by another each time."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    start = time.perf_counter()
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and time.perf_counter() - start > SECONDS:
            break
        for name, side in (("ours", ours), ("peer", peer))[:: 1 if turn % 2 else -1]:
            time.sleep(PAUSE)
            seconds[name].append(side.seconds())
    return seconds


class Benchmark:
    """All peers, as far as their interpreters are given."""

    def __init__(self, pythons: dict[str, str | None], rounds: int, folder: Path) -> None:
        self.pythons, self.rounds, self.folder = pythons, rounds, folder
        self.versions: dict[str, str] = {}

    def python_of(self, name: str) -> str | None:
        if name in NT_IMPLEMENTATIONS:
            return self.pythons["neural-tangents"]
        return self.pythons["nngeometry"] if name in NNGEOMETRY_BATCHES else sys.executable

    def measure(
        self, kind: str, count: int, threads: int, peers: list[str]
    ) -> list[dict[str, Any]]:
        """Measure one network, number of points and number of threads against some peers."""
        case = {"network": kind, "n": count, "threads": threads}
        content, wanted = problem(Network(kind), count)
        file = self.folder / "problem.npz"
        np.savez(file, **content)
        rows = []
        with Side(OURS, sys.executable, file, threads) as ours:
            mine = self._checked(ours, wanted)
            for name in peers:
                python = self.python_of(name)
                if python is None:
                    continue
                with Side(name, python, file, threads) as peer:
                    try:
                        theirs = self._checked(peer, wanted)
                        seconds = pair(ours, peer, self.rounds)
                    except RuntimeError as error:
                        rows.append({**case, "peer": name, "failed": str(error)})
                        continue
                rows.append(
                    {
                        **case,
                        "peer": name,
                        "most": SIDES[name],
                        "rounds": len(seconds["ours"]),
                        "seconds": {k: float(np.median(v)) for k, v in seconds.items()},
                        **ratio(seconds, "ours", "peer"),
                        "memory": {"ours": mine["memory"], "peer": theirs["memory"]},
                        "difference": {"ours": mine["difference"], "peer": theirs["difference"]},
                    }
                )
                print(line(rows[-1]), file=sys.stderr)
        return rows

    def _checked(self, side: Side, wanted: Any) -> dict[str, Any]:
        first = side.first()
        self.versions |= first["versions"]
        off = difference(np.load(side.answer), wanted)
        if off > TOLERANCE:
            raise RuntimeError(f"its kernel is off by {off:.1g}")
        return {"difference": off, "memory": {k: first[k] / 1e6 for k in ("before", "peak")}}

    def twice(self) -> dict[str, float]:
        """Compare kernels of a network that uses a layer three times with explicit Jacobians."""
        content, _ = problem(Network("siren", width=32, depth=2), 16)
        content["uses"] = np.array([1, 3, 1])
        file = self.folder / "twice.npz"
        np.savez(file, **content)
        answers = {}
        for name in ("torch.func", OURS, "nngeometry"):
            python = self.python_of(name)
            if python is not None:
                with Side(name, python, file, 1) as side:
                    side.first()
                answers[name] = np.load(side.answer)
        explicit = answers.pop("torch.func")
        return {name: difference(answer, explicit) for name, answer in answers.items()}


def fastest(rows: list[dict[str, Any]]) -> str | None:
    """Name the implementation of neural-tangents that took least."""
    known = [r for r in rows if r["peer"] in NT_IMPLEMENTATIONS and "failed" not in r]
    return min(known, key=lambda row: row["seconds"]["peer"])["peer"] if known else None


def line(row: dict[str, Any]) -> str:
    case = f"| {row['network']} {row['n']} {row['threads']} | {row['peer']} "
    if "failed" in row:
        return f"{case}| failed: {row['failed'][:60]} |"
    beyond = {side: memory["peak"] - memory["before"] for side, memory in row["memory"].items()}
    return (
        f"{case}| {both(row['seconds'], '.3g')} "
        f"| {row['median']:.3f} ({row['low']:.3f} to {row['high']:.3f}) "
        f"| {both(beyond, '.0f')} | {both(row['difference'], '.0e').replace('e-0', 'e-')} |"
    )


def both(of: dict[str, float], form: str) -> str:
    return f"{of['ours']:{form}} / {of['peer']:{form}}"


def table(rows: list[dict[str, Any]], twice: dict[str, float], found: Benchmark) -> str:
    where = {k: str(v) for k, v in {**environment(), **found.versions}.items()}
    absent = [name for name, python in found.pythons.items() if python is None]
    lines = [
        "# What a kernel costs",
        "",
        fill(f"`python -m benchmarks.torch_kernel`: {', '.join(map(' '.join, where.items()))}"),
        "",
        "| network n threads | peer | seconds | ours / peer (middle half) | MB | off by |",
        "|---|---|---|---|---|---|",
        *map(line, rows),
        *(f"| | {name} | not measured, see below |" for name in absent),
        "",
        "The empirical neural tangent kernel of the sum of three outputs over √3, three hidden",
        "layers of 256, float32. Pairs are ours / the peer's. Seconds are medians of "
        f"{LEAST_ROUNDS} to {found.rounds} rounds",
        "in which both sides take turns, each in a process of its own on the same cores; ratios",
        "are medians of the rounds' quotients; wanted: at most 0.05 of torch.func and nt, and 0.5",
        "of nngeometry. MB: resident memory at the peak of a process's first evaluation, beyond",
        "what it had before. Off by: largest difference from the float64 kernel, relative to its",
        "largest entry.",
        "",
        "- torch.func: vmap of jacrev over functional_call, contracted parameter by parameter.",
        "- nt: neural-tangents, compiled, Jacobian contraction, NTK-vector products or structured",
        "  derivatives; beyond the smallest n only the one that was fastest there.",
        "- nngeometry: GramMatrix of one batch of a DataLoader, as it documents; with 512, in",
        "  batches of that size, its fastest, handed over whole.",
    ]
    lines += [
        fill(f"- {name}: not measured; give its interpreter. {INSTALL[name]}.", "  ")
        for name in absent
    ]
    of = " and ".join(f"{off:.1g} in {name}" for name, off in twice.items())
    lines += [
        "",
        "Where a layer is used three times, the kernel differs from that of explicit Jacobians by",
        f"{of} (relative to its largest entry, float32).",
        "",
    ]
    return "\n".join(lines)


def main(given: argparse.Namespace) -> None:
    pythons = {
        "neural-tangents": given.neural_tangents_python,
        "nngeometry": given.nngeometry_python,
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        found = Benchmark(pythons, given.rounds, Path(folder))
        twice = found.twice()
        for threads in given.threads:
            for kind in KINDS:
                peers = list(SIDES)
                for count in sorted(given.counts):
                    rows += found.measure(kind, count, threads, peers)
                    slower = set(NT_IMPLEMENTATIONS) - {fastest(rows)}
                    peers = [name for name in SIDES if name not in slower]
    text = table(rows, twice, found)
    print(text)
    write_text("torch-kernel.md", text)
    write_json("torch-kernel.json", {"versions": found.versions, "kernels": rows, "twice": twice})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[384, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    for name, how in INSTALL.items():
        parser.add_argument(f"--{name}-python", metavar="PATH", help=f"its interpreter: {how}")
    given = parser.parse_args()
    for name, path in vars(given).items():
        if name.endswith("_python") and path is not None and not Path(path).is_file():
            parser.error(f"--{name.replace('_', '-')}: expected an interpreter, got {path}")
    main(given)
