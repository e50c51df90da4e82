"""Trained models of chapter 9 and draws of the weights for chapter 10, with the record of how they came to be.

The files beside this module were written by two commands, which make them again and say in their first lines what
they do: `python -m benchmarks.vae_digits --publish` (the digits, binarised) and `python -m benchmarks.bayes_regression
--publish` (the points with a gap, and the patients).
"""

import json
from pathlib import Path

import torch

from course_lib._validation import check_device
from course_lib.data import make_gap
from course_lib.vae import VAE

__all__ = ["posterior_draws", "pretrained_vae", "regression_record", "training_record"]

FOLDER = Path(__file__).parent / "_pretrained"
LATENT_DIMS = (2, 10)


def pretrained_vae(
    latent_dim: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> VAE:
    """The VAE of the digits with a latent space of 2 or 10 dimensions, in evaluation mode.

    Its images have 64 pixels, row by row, 0 or 1; its likelihood is Bernoulli. It is the model of seed 0, whatever the
    other seeds gave. Each call makes a new model; nothing is drawn from PyTorch's global generator.
    dtype: float32, as it was trained, or float64. device: the CPU by default.
    Raises ValueError for a latent_dim without a model, and for a device that is not there; TypeError for another dtype;
    FileNotFoundError where course_lib was installed without its files.
    Chapter 9.

    Examples:
        >>> model = pretrained_vae(2)
        >>> model.decode(torch.zeros(1, 2)).shape
        torch.Size([1, 64])
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise TypeError(f"dtype is {dtype}: give torch.float32 or torch.float64")
    device = check_device("cpu" if device is None else device)
    path = _path(latent_dim, ".pt")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = VAE(**saved["arguments"], generator=torch.Generator(), dtype=torch.float32, device="cpu")
    model.load_state_dict(saved["state"])
    return model.to(device=device, dtype=dtype).eval()


def training_record(latent_dim: int) -> dict:
    """What training gave: bounds of the log-likelihood of the test images, for each seed, and times.

    Keys: "seeds", a list; for each seed "elbo" and "iw", the mean over the test images of the ELBO with 100 samples and
    of the importance-weighted bound with 500, in nats; "elbo_error" and "iw_error", their standard errors over the
    images; "seconds", the time of the training on one thread. "classic" holds the same for the classic example,
    trained in the same run. "curve" is the loss after each of the first epochs of seed 0, and "command" what to type
    to have the files again.
    Raises ValueError and FileNotFoundError as `pretrained_vae` does.
    Chapter 9.

    Examples:
        >>> record = training_record(10)
        >>> record["elbo"][0] > record["classic"]["elbo"][0]
        True
    """
    return json.loads(_path(latent_dim, ".json").read_text(encoding="utf-8"))


def posterior_draws() -> dict[str, torch.Tensor]:
    """Draws from the posterior of a network's weights, given the points with a gap: the truth of chapter 10.

    The network has 50 tanh units, its weights and biases the prior deviations 1.5 (first layer) and 0.3 (second), the
    noise the deviation 0.2. The draws are those of a Hamiltonian Monte Carlo sampler (NUTS), thinned: 200 of each of
    two chains, one chain after the other. `regression_record()["nuts"]` says how well they had mixed.
    Returns "weights" (S, 151): of each draw W1, b1, W2, b2; "grid" (161, 1), from -4 to 4, and "functions"
    (S, 161, 1), what the networks say there; "test_functions" (S, 400, 1), what they say at the inputs of
    `make_gap("test")`. Without the noise, all float64, on the CPU.
    Raises FileNotFoundError where course_lib was installed without its files.
    Chapter 10.

    Examples:
        >>> draws = posterior_draws()
        >>> deviation = draws["functions"].std(0)
        >>> bool(deviation[80] > 5 * deviation[0])  # in the middle of the gap, and at the end
        True
    """
    weights = torch.load(_file("bayes_regression.pt", "bayes_regression"), weights_only=True).double()
    grid = torch.arange(-80, 81, dtype=torch.float64)[:, None] / 20  # with a zero that is no rounding error
    functions = {"functions": grid, "test_functions": make_gap("test").x}
    return {"weights": weights, "grid": grid} | {name: _functions(weights, x) for name, x in functions.items()}


def _functions(weights, x):
    """What networks with one hidden layer of tanh units and one output say at x (N, d), (S, N, 1)."""
    d = x.shape[1]
    width = weights.shape[1] // (d + 2)
    W1, b1, W2, b2 = weights.split([width * d, width, width, 1], 1)
    h = torch.tanh(x @ W1.unflatten(1, (width, d)).mT + b1[:, None])
    return h @ W2[..., None] + b2[:, None]


def regression_record() -> dict:
    """What `python -m benchmarks.bayes_regression` found: every method beside the others, on two data sets.

    Keys: "toy" and "diabetes", for each the name of a method and its columns, a list with a number for each of its
    seeds. Columns: "nll", the mean negative log density of the test targets in nats; "coverage", the share of them in
    their central 90 % interval; "elbo", in nats for all training data (for "exact" the log evidence of its own model);
    "gap", "outside", the mean deviation of the function where |x| < 1.5, and on the rest of [-4, 4]; "ratio" of these;
    "seconds". Methods: "exact" (random features on the toy, the features on diabetes), "map", "mean_field" (of
    course_lib.bayes), "weights" (the same without local reparametrisation), "nuts", "torchbnn", "blitz", "pyro";
    without a bound "elbo" is not there. "nuts": "chains", "warm_up", "draws" of each, and over all values of the
    function on the grid of the toy the largest "rhat" and the smallest "ess" (effective sample size).
    "versions": of the libraries. "command": what to type to have the file again.
    Raises FileNotFoundError where course_lib was installed without its files.
    Chapter 10.

    Examples:
        >>> toy = regression_record()["toy"]
        >>> min(toy["nuts"]["ratio"]) > max(toy["mean_field"]["ratio"])
        True
    """
    return json.loads(_file("bayes_regression.json", "bayes_regression").read_text(encoding="utf-8"))


def _path(latent_dim, suffix):
    if isinstance(latent_dim, bool) or not isinstance(latent_dim, int) or latent_dim not in LATENT_DIMS:
        raise ValueError(
            f"latent_dim is {latent_dim!r}: the trained models have latent_dim {' and '.join(map(str, LATENT_DIMS))}"
        )
    return _file(f"vae_digits_{latent_dim}{suffix}", f"vae_digits --latent {latent_dim}")


def _file(name, command):
    path = FOLDER / name
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}: install course_lib again, or write the files with "
            f"python -m benchmarks.{command} --publish"
        )
    return path
