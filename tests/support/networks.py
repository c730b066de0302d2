"""Networks by their labels, and parameters as they are after some training."""

import numpy as np

from iga_core import Fourier, Network

KINDS = ("relu", "pe", "siren", "gabor", "finer", "gauss")
FOURIER = Fourier(low=2, high=3, phases=3, alpha=0.3)
ADDITIONS = {
    "fr": {"fourier": FOURIER},
    "bn": {"normalised": "anyway"},
    "fr+bn": {"fourier": FOURIER, "normalised": "anyway"},
}


def network_of(label, **settings):
    kind, _, addition = label.partition("+")
    return Network(kind, **settings, **ADDITIONS.get(addition, {}))


def moved(network, seed=0):
    """Parameters none of which is 0 or 1, as they are after some training."""
    generator = np.random.default_rng(seed)
    size = 4 * network.scale
    return [p + generator.normal(size=p.shape) / size for p in network.initial(seed)]


LABELS = [f"{kind}+{addition}" for kind in KINDS for addition in ADDITIONS]
