"""What the paper reports, and the settings of its authors' code.

The paper is Shi, Chen, Zhang and Gu, ICML 2025, arXiv 2410.13271. Its figures are taken from a
note on it (`NOTE`; the note's Markdown, zhaoyang97/Paper-Notes-en, has the same), which names no
table numbers; the settings are read from the authors' scripts (`CODE`).

Not found in a public source, and so not here: the shapes' rows of FR and BN; every row of FINER
and of the FINER++ activations; seconds and memory; numbers of the experiments on functions, which
are figures; in the paper's own words, why SIREN has no row of BN (the note says that the two are
incompatible). The authors' models do have a SIREN with BN between ``ω·(Wx + b)`` and the sine; no
script runs it.
"""

NOTE = (
    "https://en.papernotes.org/ICML2025/llm_pretraining/"
    "inductive_gradient_adjustment_for_spectral_bias_in_implicit_neural_representatio/"
)
CODE = "https://github.com/LabShuHangGU/IGA-INR"

Row = tuple[str, str]
"""Kind of network and method."""

IMAGE_MEASURES: dict[Row, dict[str, float]] = {
    ("relu", "plain"): {"psnr": 21.78, "ssim": 0.4833, "ms_ssim": 0.6521, "lpips": 0.6302},
    ("relu", "fr"): {"psnr": 22.14, "ssim": 0.4919, "ms_ssim": 0.6800, "lpips": 0.6315},
    ("relu", "bn"): {"psnr": 22.55, "ssim": 0.5004, "ms_ssim": 0.7090, "lpips": 0.6182},
    ("relu", "iga"): {"psnr": 23.00, "ssim": 0.5126, "ms_ssim": 0.7383, "lpips": 0.5549},
    ("pe", "plain"): {"psnr": 28.64, "ssim": 0.7832, "ms_ssim": 0.9466, "lpips": 0.2223},
    ("pe", "fr"): {"psnr": 31.65, "ssim": 0.8167, "ms_ssim": 0.9564, "lpips": 0.1869},
    ("pe", "bn"): {"psnr": 28.78, "ssim": 0.8030, "ms_ssim": 0.9554, "lpips": 0.2346},
    ("pe", "iga"): {"psnr": 32.46, "ssim": 0.8822, "ms_ssim": 0.9752, "lpips": 0.0938},
    ("siren", "plain"): {"psnr": 32.65, "ssim": 0.8975, "ms_ssim": 0.9818, "lpips": 0.0807},
    ("siren", "fr"): {"psnr": 32.61, "ssim": 0.8991, "ms_ssim": 0.9820, "lpips": 0.0813},
    ("siren", "iga"): {"psnr": 33.48, "ssim": 0.9121, "ms_ssim": 0.9847, "lpips": 0.0668},
}
"""Kodak photographs, means; `NOTE`. The scripts run the first eight, report the greatest PSNR of
the unclipped output over all steps, and take the other measures from 8-bit pictures, LPIPS
without scaling them to the [-1, 1] that its network expects."""
IMAGES: dict[Row, float] = {row: measures["psnr"] for row, measures in IMAGE_MEASURES.items()}

SHAPE_MEASURES: dict[Row, dict[str, float]] = {
    ("relu", "plain"): {"iou": 0.9647, "chamfer": 5.936e-6},
    ("relu", "iga"): {"iou": 0.9733, "chamfer": 5.487e-6},
    ("pe", "plain"): {"iou": 0.9942, "chamfer": 5.123e-6},
    ("pe", "iga"): {"iou": 0.9970, "chamfer": 5.108e-6},
    ("siren", "plain"): {"iou": 0.9889, "chamfer": 5.688e-6},
    ("siren", "iga"): {"iou": 0.9897, "chamfer": 5.157e-6},
}
"""`NOTE`, which says neither over which shapes (the scripts run thai, arma, dragon, bun and lucy)
nor by which definition of the Chamfer distance. The scripts report the greatest IoU over all
passes."""
SHAPES: dict[Row, float] = {row: measures["iou"] for row, measures in SHAPE_MEASURES.items()}

IMAGE_SETTINGS: dict[Row, dict[str, float]] = {
    ("relu", "plain"): {"rate": 1e-3},
    ("relu", "fr"): {"rate": 5e-3, "alpha": 0.001},
    ("relu", "bn"): {"rate": 1e-3},
    ("relu", "iga"): {"rate": 5e-3, "end": 25},
    ("pe", "plain"): {"rate": 1e-3},
    ("pe", "fr"): {"rate": 1e-3, "alpha": 0.05},
    ("pe", "bn"): {"rate": 3e-3},
    ("pe", "iga"): {"rate": 5e-3, "end": 20},
    ("siren", "plain"): {"rate": 1e-3},
    ("siren", "fr"): {"rate": 1e-3, "alpha": 0.004},
    ("siren", "iga"): {"rate": 1e-3, "end": 20},
    ("finer", "plain"): {"rate": 1e-3},
    ("finer", "iga"): {"rate": 1e-3, "end": 15},
    ("finer++gauss", "plain"): {"rate": 1e-3},
    ("finer++gauss", "iga"): {"rate": 1e-3, "end": 20},
    ("finer++wire", "plain"): {"rate": 1e-3},
    ("finer++wire", "iga"): {"rate": 1e-3, "end": 20},
}
"""`CODE`, ``image_fitting/train_*.sh``: Adam, full batch, 10,000 steps, the rate times 0.1 after
3,000; patches of 32 x 32; three hidden layers of 256; `end` equalised to the next eigenvalue. The
alpha of SIREN with FR is said to be tuned for each picture. FR: 128 low and 128 high frequencies,
32 phases."""

SHAPE_SETTINGS: dict[Row, dict[str, float]] = {
    ("relu", "plain"): {"rate": 2e-3},
    ("relu", "fr"): {"rate": 2e-3, "alpha": 0.01},
    ("relu", "bn"): {"rate": 5e-3},
    ("relu", "iga"): {"rate": 5e-3, "end": 7},
    ("pe", "plain"): {"rate": 2e-3},
    ("pe", "fr"): {"rate": 2e-3, "alpha": 0.01},
    ("pe", "bn"): {"rate": 5e-3},
    ("pe", "iga"): {"rate": 2e-3, "end": 6},
    ("siren", "plain"): {"rate": 5e-4},
    ("siren", "fr"): {"rate": 5e-4, "alpha": 0.001},
    ("siren", "iga"): {"rate": 5e-4, "end": 13},
}
"""`CODE`, ``occupance_fitting/train_*.sh``: Adam, 200 passes, the rate falling to its tenth;
512 random groups of 256 consecutive voxels a batch, the middle one representing; three hidden
layers of 256. BN takes batches of 200,000 voxels and, with PE, 2e-3 too. `end` with IGA is that of
the first shape; others have 7 and 13 with PE, 8 to 14 with SIREN. FR: 256 low and 256 high
frequencies, 8 phases."""

FOURIER: dict[str, dict[str, int]] = {
    "image": {"low": 128, "high": 128, "phases": 32},
    "shape": {"low": 256, "high": 256, "phases": 8},
}
"""`CODE`: of FR, by the kind of signal."""
