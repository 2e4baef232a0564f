"""What options allow, for --help. The library knows it too, but imports torch; a test compares the two."""

DEVICES = "auto, cpu, cuda, cuda:1, mps"
PICTURES = ("figure", "rgba", "map", "overlay", "sheet")
FORMATS = ("png", "svg", "pdf", "npz", "bundle", "html")
EXPLAINERS = (
    *("inherent", "ixg", "grad", "smoothgrad", "intgrad", "guided-backprop", "deeplift"),
    *("gradcam", "layercam", "rise", "lime", "occlusion"),
)
METRICS = (
    *("localisation", "energy", "deletion", "deletion-least", "insertion", "insertion-least"),
    *("sparseness", "stability", "completeness", "constants", "checkerboard"),
)
PREDICTIONS = ("accuracy", "auroc", "sensitivity")
TOLERANCE = 1e-3  # default of `verify`
