"""Which modules quick tests must not import: a slow test runs the examples of these."""

collect_ignore = ["iga_torch/lightning.py", "iga_torch/pytorch_lightning.py"]
