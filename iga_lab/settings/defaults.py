"""What `iga fit` takes where nothing is said, beside the defaults of the core's own classes."""

from iga_core.kinds import KINDS

SIGNAL = "astronaut"
NETWORK = "pe"
FREQUENCIES = 6
WIDTH = 128
DEPTH = 3
METHODS = ("plain", "iga")
STEPS = 500
GROUPING = "patches"
OPTIMIZER = "adam"
SCHEDULE = "cooldown"
LEARNING_RATES = {
    "sgd": dict.fromkeys(KINDS, 1e-1),
    "adam": dict.fromkeys(KINDS, 1e-3) | {"pe": 5e-3, "relu": 2e-3},
    "muon": dict.fromkeys(KINDS, 2e-3) | {"pe": 2e-2, "relu": 2e-2},
}
FILTER = "damp"
END_SHARE = 0.5
"""Of the groups' eigenvalues, as many are equalised."""
SEED = 0
DTYPE = "float32"
BACKEND = "numpy"
