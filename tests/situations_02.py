"""Chapter 2 for the mutation test: values of the symbols in which each equation claims to hold."""

import printed
from gaussian_pairs import Pair, over_noise, rotated, scaled, shifted, whole_line

CENTRED = "x - mu_p has mean zero, so what is added to the other factor does not matter"
STILL_TRUE = {
    "eq-sampling": (2, CENTRED),
    "eq-step-expectation": (4, CENTRED),
    "eq-step-own": (4, CENTRED),
    "eq-step-spread": (4, CENTRED),
    "eq-step-cross": (10, "zero times any matrix and any vector is zero"),
    "eq-scalar-trace": (1, "a number is its own trace"),
    "eq-kl-shift": (1, "equal covariances: both directions of the divergence agree"),
    "eq-log-ratio-variance": (1, "the variance of minus the log-ratio is the same"),
    "eq-kl-rotate": (1, "a rotation: both directions of the divergence agree"),
}

NOT_MUTATED = {
    "def-sampling": "it defines x; eq-sampling is computed with it",
    "eq-log-inequality": "its own test takes 241 values of m; with + for -, it is a weaker inequality, and true",
}

# Labels and sides that SymPy reads at dimension one.
READ_BY_SYMPY = {
    "def-cholesky": (0, 1), "def-sampling": (1,), "eq-kl-univariate": (1,), "eq-log-density": (1,),
    "eq-log-det": (0, 1), "eq-mahalanobis": (0, 1), "eq-whitening": (0,), "eq-trace-cyclic": (0, 1, 2),
    "eq-scalar-trace": (0, 1, 2), "eq-second-moment": (1,), "eq-trace-lemma": (1,), "eq-gaussian-kl": (1,),
    "eq-step-log-ratio": (1,), "eq-step-own": (1,), "eq-step-split": (0, 1), "eq-step-spread": (1,),
    "eq-step-other": (1,), "eq-kl-scale": (1,), "eq-kl-shift": (1,), "eq-kl-rotate": (1,), "eq-kl-diagonal": (1,),
    "eq-kl-standard-normal": (1,), "eq-kl-log-variance": (1,), "eq-kl-eigenvalues": (1,),
    "eq-kl-gradient-mean": (1,), "eq-kl-gradient-cov": (1,), "eq-kl-factors": (1,), "eq-kl-differences": (1,),
}  # fmt: skip


def sympy_names(label):
    """One pair in one dimension, and values for the letters of the distortions."""
    names = Pair(1, 3).names() | {"s": 1.7, "t": 0.4, "a": 3.0, "b": 1.2, r"\alpha": 0.6}
    # SymPy does not know that these are entries of a matrix; it finds them by their very name.
    return {name.replace("ij}", "ii}"): value for name, value in names.items()}


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    if label == "def-kl":
        return [whole_line(Pair(1, 0))]
    if label == "eq-kl-univariate":
        return [Pair(1, 0).names(), Pair(1, 1).names()]
    if label == "eq-kl-scale":
        return [scaled(d, s) for d in (1, 3) for s in (0.3, 2.2)]
    if label == "eq-kl-shift":
        return [shifted(0.7), shifted(-3.0)]
    if label == "eq-kl-rotate":
        return [rotated(0.4), rotated(2.5)]
    pairs = [Pair(d, seed) for d in (1, 2, 3) for seed in (0, 1)]
    if label == "eq-sampling":
        return [over_noise(pair, printed.readers("def-sampling")[-1]) for pair in pairs]
    if label in ("eq-kl-diagonal", "eq-kl-log-variance"):
        pairs = [pair.diagonal() for pair in pairs]
    if label in ("eq-kl-standard-normal", "eq-kl-log-variance"):
        pairs = [pair.to_standard() for pair in pairs]
    return [pair.names() for pair in pairs]
