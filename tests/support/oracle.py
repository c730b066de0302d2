"""Networks and their derivatives once more, in float64, by other means than the library's.

The forward pass takes complex parameters, so a derivative is the imaginary part of one evaluation
at a step of 1e-30: exact to rounding, with no difference taken. FINER's ``|z| + 1`` sees the real
part only, and so is held, as its authors train it.
"""

import functools
import math

import numpy as np

from iga_core import Network


def evaluate(network: Network, parameters, coords, held=None, statistics=None):
    """Outputs (n, C); `held`, a list to be filled or used, keeps FINER's factors.

    A normalised network takes its statistics of `coords`, and appends them to `statistics`.
    """
    statistics = [] if statistics is None else statistics
    a = np.asarray(coords, dtype=np.result_type(*parameters))
    if network.kind == "pe":
        parts = [a]
        for k in range(network.frequencies):
            parts.append(np.sin(2**k * math.pi * a))
        for k in range(network.frequencies):
            parts.append(np.cos(2**k * math.pi * a))
        a = np.concatenate(parts, axis=1)
    rest = iter(parameters)
    for layer in range(network.depth):
        W = next(rest)
        if network.fourier and layer > 0:
            W = W @ basis(network)
        if network.normalised and network.kind != "relu":
            z = normalised(a @ W.T, next(rest), next(rest), statistics)
        else:
            z = a @ W.T + next(rest)
        if network.kind in ("relu", "pe"):
            a = np.where(z.real > 0, z, 0)
        elif network.kind == "siren":
            a = np.sin(30 * z)
        elif network.kind == "gabor":
            a = np.cos(20 * z) * np.exp(-((10 * z) ** 2))
        elif network.kind == "gauss":
            a = np.exp(-((10 * z) ** 2))
        else:
            factor = np.abs(z.real) + 1
            if held is not None:
                if len(held) <= layer:
                    held.append(factor)
                factor = held[layer]
            a = np.sin(30 * factor * z)
        if network.normalised and network.kind == "relu":
            a = normalised(a, next(rest), next(rest), statistics)
    return a @ parameters[-2].T + parameters[-1]


def normalised(values, gain, shift, statistics):
    """Batch normalisation; the variance is no absolute square, so that it can be stepped."""
    mean = values.sum(axis=0) / len(values)
    centred = values - mean
    variance = (centred**2).sum(axis=0) / len(values)
    statistics.append((mean, variance))
    return gain * centred / np.sqrt(variance + 1e-5) + shift


@functools.cache
def basis(network: Network):
    """B by its definition, number by number."""
    fourier = network.fourier
    alpha = fourier.alpha or {"relu": 0.001, "pe": 0.05, "siren": 0.004}[network.kind]
    frequencies = [(i + 1) / fourier.low for i in range(fourier.low)]
    frequencies += [i + 1 for i in range(fourier.high)]
    period = 2 * math.pi / min(frequencies)
    rows = []
    for frequency in frequencies:
        for k in range(fourier.phases):
            row = []
            for j in range(network.width):
                z = -period / 2 + (j / (network.width - 1) * period if j else 0)
                row.append(alpha * math.cos(frequency * z + 2 * math.pi * k / fourier.phases))
            rows.append(row)
    return np.array(rows)


def jacobian(network: Network, parameters, coords):
    """Derivatives (n, C, q) with respect to all parameters, in their order."""
    columns = []
    for index, parameter in enumerate(parameters):
        for place in np.ndindex(parameter.shape):
            stepped = [p.astype(complex) for p in parameters]
            stepped[index][place] += 1e-30j
            columns.append(evaluate(network, stepped, coords).imag / 1e-30)
    return np.stack(columns, axis=-1)


def differences(network: Network, parameters, coords, step=1e-6):
    """The same by central differences, FINER's factors held at the unperturbed parameters."""
    held: list = []
    evaluate(network, parameters, coords, held)
    held = held if network.kind == "finer" else None
    columns = []
    for index, parameter in enumerate(parameters):
        for place in np.ndindex(parameter.shape):
            sides = []
            for sign in (1, -1):
                stepped = [p.copy() for p in parameters]
                stepped[index][place] += sign * step
                sides.append(evaluate(network, stepped, coords, held))
            columns.append((sides[0] - sides[1]) / (2 * step))
    return np.stack(columns, axis=-1)


def of_outputs(jacobian_of_all, outputs):
    """The kernel's Jacobian: (n, C, q) -> a list of (n, q) whose Gram matrices are summed."""
    channels = jacobian_of_all.shape[1]
    if outputs == "sum":
        return [jacobian_of_all.sum(axis=1) / math.sqrt(channels)]
    return [jacobian_of_all[:, c] / math.sqrt(channels) for c in range(channels)]


def kernel(left, right, outputs):
    pairs = zip(of_outputs(left, outputs), of_outputs(right, outputs), strict=True)
    return sum(a @ b.T for a, b in pairs)


def dense_transform(kernel_matrix, start, end, level):
    """S by its formula, from all eigenpairs."""
    values, vectors = np.linalg.eigh(kernel_matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    safe = values > 4 * np.finfo(float).eps * values[0]
    S = np.eye(len(values))
    if not safe.any():
        return S
    reference = values[start] if level == "start" else values[: end + 1][safe[: end + 1]][-1]
    for i in range(start, end):
        if safe[i]:
            S -= (1 - reference / values[i]) * np.outer(vectors[:, i], vectors[:, i])
    return S


def damp(kernel_matrix, scale=1.0, eps=2.0**-52):
    """Tikhonov's S by its formula, from all eigenpairs, the quiet groups cut out for μ."""
    diagonal = np.diag(kernel_matrix)
    loud = diagonal >= 1e-2 * diagonal.mean()
    values = np.linalg.eigvalsh(kernel_matrix[np.ix_(loud, loud)])
    safe = values[values > 4 * eps * np.linalg.norm(kernel_matrix[np.ix_(loud, loud)], 2)]
    if len(safe) == 0:
        return np.eye(len(kernel_matrix))
    mu = scale * np.prod(safe ** (1 / len(safe)))
    values, vectors = np.linalg.eigh(kernel_matrix)
    return (vectors * (mu / (values + mu))) @ vectors.T


def close(got, wanted, tolerance):
    """Relative to the largest number wanted."""
    wanted = np.asarray(wanted)
    scale = np.max(np.abs(wanted)) or 1.0
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=0, atol=tolerance * scale)


def by_svd(matrix):
    """The quintic on the singular values themselves."""
    U, values, V = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (U * values) @ V
