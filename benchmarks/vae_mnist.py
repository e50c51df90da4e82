"""The variational autoencoder of chapter 9 on MNIST: bounds of the log-likelihood of its 10,000 test images.

    python -m benchmarks.vae_mnist --root data [--latent 50] [--seed 0] [--epochs 100] [--binarisation dynamic]
        [--samples 500] [--hidden 200 200] [--device cuda] [--mirror ADDRESS] [--output FILE]

MNIST comes from the network into the folder that --root names, the first time; see `course_lib.data.load_mnist`. All
60,000 training images are used, and the 10,000 test images choose nothing. Nats for each test image. The bound (ELBO)
has 100 samples and the divergence in closed form; the importance-weighted one (IW) has --samples of them, 5000 in most
papers. An error is the standard error over the images. The network is that of Burda, Grosse and Salakhutdinov (2016)
with one stochastic layer: two hidden layers of 200, tanh, 50 latent dimensions. The training is not theirs: Adam with
a cosine rate, batches of 100, one sample, the ELBO; it begins with the mean image as the output for every z.

What the pixels are decides what a number can be compared with (--binarisation):

- dynamic: a pixel is 1 with the probability of its grey value, drawn anew each time that a training image is used.
- static: the training images are drawn so too, but once. Most published numbers with static binarisation are for one
  file, that of Larochelle and Murray (2011), with other random draws and 50,000 images for training: they are of the
  same kind as ours, and no more.
- none: the grey values. A Bernoulli likelihood gives them no probability, so the likelihood is Gaussian with one
  learned variance. Its bound is one of a log-density, and is comparable with no number of the two others.

In the first two, each test image is drawn once. These draws are the same for every --seed.

On a GPU all is the same: model, noise and draws are there. A run that is interrupted goes on when the same command is
given again. The model is saved with the arguments that it was made with:
VAE(**saved["arguments"]).load_state_dict(saved["state"]).
"""

import argparse
import json
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.run import FOLDER
from course_lib.data import MNIST_MIRRORS, load_mnist
from course_lib.optimisers import learning_rate_schedule
from course_lib.training import fit
from course_lib.vae import VAE, vae_gradients, vae_loss

BINARISATIONS = ("dynamic", "static", "none")
LR, BATCH, ACTIVATION = 1e-3, 100, "tanh"
ELBO_SAMPLES, AT_ONCE = 100, 100  # images at a time, between two steps of the bar
ACTIVE = 0.01  # nats: a dimension with less divergence in the mean is not used


def data(root, binarisation, mirrors=MNIST_MIRRORS):
    """Training and test images in the form in which they are stored: grey where each use draws anew, or none does."""
    grey, test = (load_mnist(root, train=part, mirrors=mirrors).x for part in (True, False))
    draws = torch.Generator().manual_seed(0)  # the test images first, so that they are the same in each protocol
    if binarisation != "none":
        test = torch.bernoulli(test, generator=draws)
    if binarisation == "static":
        grey = torch.bernoulli(grey, generator=draws)
    return grey, test


def untrained(images, binarisation, latent, hidden, seed):
    """The model at its start, on the CPU, so that it is the same on every device, and what it was made with.

    Whatever z is, it begins with the mean image.
    """
    arguments = {"data_dim": 784, "latent_dim": latent, "hidden": tuple(hidden), "activation": ACTIVATION}
    arguments |= {"likelihood": "gaussian", "noise": "learned"} if binarisation == "none" else {}
    model = VAE(**arguments, generator=torch.Generator().manual_seed(seed))
    mean = (images.sum(0) + 1) / (len(images) + 2)  # never 0 or 1
    with torch.no_grad():
        model.decoder.biases[-1].copy_(mean if binarisation == "none" else mean.logit())
    return model, arguments


def redrawn_loss(model, grey):
    """`vae_loss` of binary images that are drawn from the grey ones, on their device, at each call."""
    return vae_loss(model, torch.bernoulli(grey))


def redrawn_gradients(model, grey):
    return vae_gradients(model, torch.bernoulli(grey))


redrawn_loss.gradients = redrawn_gradients


def train(model, images, binarisation, *, epochs, seed, device, checkpoint=None):
    """The same call on each device: `fit` moves model and images there, and seeds the random numbers there."""
    loss = redrawn_loss if binarisation == "dynamic" else vae_loss
    steps = epochs * -(-len(images) // BATCH)
    rate = learning_rate_schedule("cosine", LR, n_steps=steps, warmup=max(1, steps // 100))
    options = {"batch_size": BATCH, "lr": rate, "seed": seed, "device": device, "checkpoint": checkpoint}
    return fit(model, (images,), loss, gradients="analytic", n_epochs=epochs, **options)


@torch.no_grad()
def scores(model, test, n_samples, progress=True):
    """Mean over the test images, and standard error, of both bounds and of the divergence; and the used dimensions."""
    device = model.encoder.weights[0].device
    generator = torch.Generator(device).manual_seed(0)
    rows = []
    with tqdm(desc="test images", total=len(test), unit="image", delay=5, leave=False, disable=not progress) as bar:
        for part in test.split(AT_ONCE):
            part = part.to(device)
            elbo = model.elbo(part, ELBO_SAMPLES, generator=generator)
            weighted = model.log_likelihood(part, n_samples, generator=generator)
            rows.append(torch.cat([torch.stack([elbo, weighted], 1), model.kl_per_dimension(part)], 1).cpu())
            bar.update(len(part))
    values = torch.cat(rows).double()
    divergence = values[:, 2:]
    named = {"elbo": values[:, 0], "iw": values[:, 1], "kl": divergence.sum(1)}
    found = {name: (value.mean().item(), value.std().item() / len(test) ** 0.5) for name, value in named.items()}
    return found | {"iw_samples": n_samples, "active": (divergence.mean(0) > ACTIVE).sum().item()}


def parsed():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vae_mnist",
        description=__doc__.split("\n\n", 2)[0] + "\n\n" + __doc__.split("\n\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--root", type=Path, required=True, help="folder of MNIST's files, made if it is missing")
    parser.add_argument("--latent", type=int, default=50, help="dimension of z (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, batches and noise (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--binarisation", choices=BINARISATIONS, default="dynamic", help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=500, help="importance weights of IW (default: %(default)s)")
    parser.add_argument("--hidden", type=int, nargs="*", default=[200, 200], help="widths (default: 200 200)")
    parser.add_argument("--device", default=default, help="cpu, cuda or cuda:1 (default here: %(default)s)")
    parser.add_argument("--mirror", action="append", help="address of a folder with MNIST's files, instead of ours")
    parser.add_argument("--output", type=Path, help="where the model goes (default: a file in _build/benchmarks)")
    arguments = parser.parse_args()
    if min(arguments.latent, arguments.epochs, arguments.samples, *arguments.hidden) < 1:
        parser.error("--latent, --epochs, --samples and --hidden must be 1 or more")
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device is {arguments.device}, and PyTorch finds no CUDA device here")
    return parser, arguments


def main():
    parser, arguments = parsed()
    kind, latent, seed = arguments.binarisation, arguments.latent, arguments.seed
    try:
        images, test = data(arguments.root, kind, arguments.mirror or MNIST_MIRRORS)
    except ConnectionError as error:
        parser.exit(1, f"{error}\nHere --mirror gives another address, and benchmarks.vae_digits needs no network.\n")
    path = arguments.output or FOLDER / f"vae_mnist_{kind}_{latent}_{seed}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = path.with_suffix(".checkpoint")
    model, made_with = untrained(images, kind, latent, arguments.hidden, seed)
    where = {"device": arguments.device, "checkpoint": checkpoint}
    try:
        history = train(model, images, kind, epochs=arguments.epochs, seed=seed, **where)
    except KeyboardInterrupt as stopped:
        parser.exit(130, f"{stopped}\n")
    row = {"binarisation": kind, "epochs": arguments.epochs, "seconds": sum(history.seconds), "loss": history.loss}
    row |= scores(model, test, arguments.samples)
    (elbo, its_error), (iw, iw_error) = row["elbo"], row["iw"]
    print(
        f"binarisation {kind}, z = {latent}, seed {seed}: ELBO {elbo:.2f} ± {its_error:.2f}, "
        f"IW-{arguments.samples} {iw:.2f} ± {iw_error:.2f}, divergence {row['kl'][0]:.2f} in {row['active']} of "
        f"{latent} dimensions, {row['seconds']:.0f} s on {arguments.device}"
    )
    if kind == "none":
        print("These are bounds of a log-density of grey values: no number for binary pixels is comparable with them.")
    torch.save({"arguments": made_with, "state": model.cpu().state_dict()}, path)
    path.with_suffix(".json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    checkpoint.unlink()
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
