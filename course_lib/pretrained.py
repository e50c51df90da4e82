"""Trained models of chapter 9, with the record of how they came to be.

The files beside this module were written by `python -m benchmarks.vae_digits --publish`, which also says what the
models saw: the digits, binarised, by the protocol in its first lines. The same command makes them again.
"""

import json
from pathlib import Path

import torch

from course_lib.training import _check_device
from course_lib.vae import VAE

__all__ = ["pretrained_vae", "training_record"]

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
    device = _check_device("cpu" if device is None else device)
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


def _path(latent_dim, suffix):
    if isinstance(latent_dim, bool) or not isinstance(latent_dim, int) or latent_dim not in LATENT_DIMS:
        raise ValueError(
            f"latent_dim is {latent_dim!r}: the trained models have latent_dim {' and '.join(map(str, LATENT_DIMS))}"
        )
    path = FOLDER / f"vae_digits_{latent_dim}{suffix}"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}: install course_lib again, or write the files with "
            f"python -m benchmarks.vae_digits --latent {latent_dim} --publish"
        )
    return path
