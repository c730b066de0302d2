"""One side of `benchmarks.torch_kernel`, in a process and an environment of its own.

``python _kernel_side.py SIDE PROBLEM ANSWER THREADS`` evaluates the kernel of the problem once,
writes it to ANSWER and prints, as JSON, the resident memory before, its peak, and versions; then
it evaluates it again, and prints seconds, for every line that it is sent. It imports only what its
side needs: most sides live in environments without iga-core.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

OURS = "iga_torch.empirical_ntk"
SINE_SCALE = 30.0
NNGEOMETRY_BATCHES = {"nngeometry": None, "nngeometry 512": 512}
"""One DataLoader's batch, as it documents; or batches of its fastest size, without collation."""
NT_IMPLEMENTATIONS = {
    "nt Jacobian": "JACOBIAN_CONTRACTION",
    "nt products": "NTK_VECTOR_PRODUCTS",
    "nt structured": "STRUCTURED_DERIVATIVES",
}
DISTRIBUTIONS = ("iga-core", "torch", "nngeometry", "neural-tangents", "jax", "jaxlib")

Problem = dict[str, Any]
Kernel = Callable[[], Any]


def layers(problem: Problem) -> list[tuple[Any, Any]]:
    """Weight and bias of each layer."""
    count = sum(name.startswith("weight") for name in problem)
    return [(problem[f"weight{k}"], problem[f"bias{k}"]) for k in range(count)]


def torch_network(problem: Problem, threads: int) -> Any:
    """Linear layers and activations; layer k + 1 stands ``uses[k]`` times."""
    import torch

    class Sine(torch.nn.Module):
        def forward(self, z: Any) -> Any:
            return torch.sin(SINE_SCALE * z)

    torch.set_num_threads(threads)
    modules: list[Any] = []
    found = layers(problem)
    for k, (weight, bias) in enumerate(found):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))
        for _ in range(problem["uses"][k]):
            modules.append(linear)
            if k + 1 < len(found):
                modules.append(Sine() if problem["sine"] else torch.nn.ReLU())
    return torch.nn.Sequential(*modules)


def ours(problem: Problem, threads: int) -> Kernel:
    import torch

    import iga_torch

    network, x = torch_network(problem, threads), torch.from_numpy(problem["x"])
    return lambda: iga_torch.empirical_ntk(network, x).numpy()


def torch_func(problem: Problem, threads: int) -> Kernel:
    """Jacobians of all samples, contracted parameter by parameter."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    network, x = torch_network(problem, threads), torch.from_numpy(problem["x"])
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def summed(values: Any, sample: Any) -> Any:
        outputs = functional_call(network, values, (sample,))
        return outputs.sum(-1, keepdim=True) / outputs.shape[-1] ** 0.5

    def kernel() -> Any:
        jacobian = vmap(jacrev(summed), (None, 0))(parameters, x)
        rows = [part.flatten(2) for part in jacobian.values()]
        shares = [torch.einsum("icq,jdq->ijcd", part, part) for part in rows]
        return sum(shares[1:], start=shares[0])[..., 0, 0].numpy()

    return kernel


def nngeometry(problem: Problem, threads: int, batch: int | None) -> Kernel:
    import torch
    from nngeometry.gram import GramMatrix  # type: ignore[import-not-found]

    network, x = torch_network(problem, threads), torch.from_numpy(problem["x"])

    def summed(sample: Any) -> Any:
        outputs = network(sample)
        return outputs.sum(-1, keepdim=True) / outputs.shape[-1] ** 0.5

    class Batches(torch.utils.data.DataLoader[Any]):
        def __iter__(self) -> Any:
            return zip(torch.split(x, batch)) if batch else super().__iter__()

    data = torch.utils.data.TensorDataset(x)
    loader = Batches(data, batch_size=min(len(x), batch or len(x)))
    return lambda: GramMatrix(network, loader, function=summed).to_torch()[0, :, 0].numpy()


def neural_tangents(problem: Problem, implementation: str) -> Kernel:
    import jax
    import jax.numpy as jnp
    import neural_tangents as nt  # type: ignore[import-not-found]
    import numpy as np

    parameters = [(jnp.asarray(w), jnp.asarray(b)) for w, b in layers(problem)]
    x = jnp.asarray(problem["x"])

    def summed(parameters: Any, values: Any) -> Any:
        for weight, bias in parameters[:-1]:
            values = values @ weight.T + bias
            values = jnp.sin(SINE_SCALE * values) if problem["sine"] else jax.nn.relu(values)
        outputs = values @ parameters[-1][0].T + parameters[-1][1]
        return outputs.sum(-1, keepdims=True) / outputs.shape[-1] ** 0.5

    kernel = jax.jit(
        nt.empirical_ntk_fn(
            summed,
            trace_axes=(-1,),
            vmap_axes=0,
            implementation=nt.NtkImplementation[implementation],
        ),
        static_argnums=1,
    )
    return lambda: np.asarray(kernel(x, None, parameters))


def memory(field: str) -> int:
    """Resident bytes of this process, now (VmRSS) or at the most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", status)[0])


def versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main(side: str, problem_file: str, answer_file: str, threads: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import numpy as np

    problem = dict(np.load(problem_file))
    if side in NT_IMPLEMENTATIONS:
        kernel = neural_tangents(problem, NT_IMPLEMENTATIONS[side])
    elif side in NNGEOMETRY_BATCHES:
        kernel = nngeometry(problem, threads, NNGEOMETRY_BATCHES[side])
    else:
        kernel = {OURS: ours, "torch.func": torch_func}[side](problem, threads)
    before = memory("VmRSS")
    np.save(answer_file, kernel())
    print(
        json.dumps({"before": before, "peak": memory("VmHWM"), "versions": versions()}), flush=True
    )
    for _ in sys.stdin:
        start = time.perf_counter()
        kernel()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
