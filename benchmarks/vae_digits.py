"""The variational autoencoder on the digits: bounds of the log-likelihood of images that it has not seen.

    python -m benchmarks.vae_digits [--latent 10] [--seed 0] [--epochs 1000] [--output FILE]

Protocol: load_digits, a pixel is 1 where x / 16 >= 0.5; the first 1437 images of numpy's RandomState(0).permutation
are for training, the other 360 for the test. Bernoulli likelihood, nats for each test image, one thread. The bound
(ELBO) has 100 samples and the divergence in closed form, the importance-weighted one (IW) 500 samples; an error is the
standard error over the images. The test images choose nothing: the numbers of the recipe are constants below.

The recipe: two hidden layers, Adam with decoupled weight decay, a cosine rate with warm-up, a warm-up of the
divergence, training pixels binarised at a threshold drawn anew for each image of each batch, output biases that start
at the pixels' frequencies, and the running average of the parameters. The classic example stands beside it: one hidden
layer, Adam at a constant rate, fixed binary pixels. Both are trained by hand-written gradients. The model is saved with
the arguments that it was made with: VAE(**saved["arguments"]).load_state_dict(saved["state"]).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.run import FOLDER
from course_lib.data import load_digits
from course_lib.optimisers import adam, learning_rate_schedule
from course_lib.training import fit
from course_lib.vae import VAE, vae_gradients, vae_loss

HIDDEN, ACTIVATION, LR, BATCH = (128, 128), "silu", 3e-3, 128
DECAY, AVERAGE, WARMUP, THRESHOLDS = 0.01, 0.995, 0.1, (0.3, 0.7)
CLASSIC = {"hidden": (33,), "activation": "relu"}
N_TRAIN = 1437


def data():
    """Grey training images, binary training images, binary test images."""
    x = load_digits(dtype=torch.float32).x
    x = x[torch.from_numpy(np.random.RandomState(0).permutation(len(x)))]
    binary = (x >= 0.5).to(x.dtype)
    return x[:N_TRAIN], binary[:N_TRAIN], binary[N_TRAIN:]


class AveragedAdamW:
    """Adam with decoupled weight decay on all parameters in one vector, and the running average of the parameters."""

    def __init__(self, params):
        self.params, self.vector = params, parameters_to_vector(params).detach()
        vector_to_parameters(self.vector, params)  # from here on they are views of the vector
        self.steps = 0

    def __call__(self, params, grads, state, lr):
        self.vector.mul_(1 - lr * DECAY)
        adam([self.vector], [torch.cat([grad.reshape(-1) for grad in grads])], state, lr)
        average = state.setdefault("average", self.vector.clone())
        self.steps += 1  # at the start it is the mean of few, not of the first parameters
        average.lerp_(self.vector, max(1 - AVERAGE, 1 / self.steps))
        self.average = average


def binarised(x):
    """Each image at a threshold of its own."""
    low, high = THRESHOLDS
    return (x >= low + (high - low) * torch.rand(len(x), 1, dtype=x.dtype)).to(x.dtype)


def train(latent, seed, grey, epochs):
    model = VAE(64, latent, HIDDEN, activation=ACTIVATION, generator=torch.Generator().manual_seed(seed))
    frequency = ((grey >= 0.5).sum(0) + 1) / (len(grey) + 2)
    with torch.no_grad():
        model.decoder.biases[-1].copy_(frequency.logit())
    steps = epochs * -(-len(grey) // BATCH)
    warmup = max(1, round(WARMUP * steps))
    optimiser = AveragedAdamW(list(model.parameters()))
    fit(
        model,
        (grey,),
        lambda model, x: vae_loss(model, binarised(x), warmup=warmup),
        gradients=lambda model, x: vae_gradients(model, binarised(x), warmup=warmup),
        n_epochs=epochs,
        batch_size=BATCH,
        optimiser=optimiser,
        lr=learning_rate_schedule("cosine", LR, n_steps=steps, warmup=max(1, steps // 50)),
        seed=seed,
    )
    vector_to_parameters(optimiser.average, list(model.parameters()))
    return model


def train_classic(latent, seed, binary, epochs):
    model = VAE(64, latent, **CLASSIC, generator=torch.Generator().manual_seed(seed))
    common = {"n_epochs": epochs, "batch_size": BATCH, "lr": 1e-3, "seed": seed}
    fit(model, (binary,), vae_loss, gradients=vae_gradients, **common)
    return model


@torch.no_grad()
def scores(model, test):
    """ELBO and IW: mean over the images and standard error."""
    generator = torch.Generator().manual_seed(0)
    bounds = {
        "elbo": model.elbo(test, 100, generator=generator),
        "iw": model.log_likelihood(test, 500, generator=generator),
    }
    return {name: (value.mean().item(), value.std().item() / len(test) ** 0.5) for name, value in bounds.items()}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vae_digits", description=__doc__.splitlines()[0])
    parser.add_argument("--latent", type=int, default=10, help="dimension of z (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, batches and noise (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=1000, help="of the recipe (default: %(default)s)")
    parser.add_argument("--classic-epochs", type=int, default=200, help="of the example (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="where the model goes (default: a file in _build/benchmarks)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grey, binary, test = data()
    rows = {}
    for name, trained in {
        "recipe": lambda: train(arguments.latent, arguments.seed, grey, arguments.epochs),
        "classic example": lambda: train_classic(arguments.latent, arguments.seed, binary, arguments.classic_epochs),
    }.items():
        start = time.perf_counter()
        model = trained()
        seconds = time.perf_counter() - start
        rows[name] = {**scores(model, test), "seconds": seconds}
        (elbo, its_error), (iw, iw_error) = rows[name]["elbo"], rows[name]["iw"]
        print(
            f"{name:<16} z = {arguments.latent}, seed {arguments.seed}: ELBO {elbo:.3f} ± {its_error:.3f}, "
            f"IW-500 {iw:.3f} ± {iw_error:.3f}, {seconds:.0f} s",
            flush=True,
        )
        if name == "recipe":
            path = arguments.output or FOLDER / f"vae_digits_{arguments.latent}_{arguments.seed}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            made_with = {"data_dim": 64, "latent_dim": arguments.latent, "hidden": HIDDEN, "activation": ACTIVATION}
            torch.save({"arguments": made_with, "state": model.state_dict()}, path)
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
