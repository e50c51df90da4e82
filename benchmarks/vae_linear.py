"""The linear variational autoencoder beside the exact likelihood of probabilistic PCA, on the digits.

    python -m benchmarks.vae_linear [--latent 2 10] [--seeds 3] [--output FILE]

With a linear decoder and one learned variance of the noise, the model of the VAE is probabilistic PCA, whose largest
likelihood is known in closed form. So what training leaves can be measured: the exact log-likelihood of the best model
minus the bound that the trained one gives, in nats for each image. It has two parts: what the trained model's own
likelihood is short of the best one (on the test images it may be ahead by chance, on the training images never), and
the divergence of its encoder's q(z | x) from its posterior. The bound is computed in closed form, too.

Data: load_digits in [0, 1], the images of `benchmarks.vae_digits`, the 53 pixels whose deviation over the training
images exceeds 0.02. They are centred and divided by one number, the deviation over all pixels, for the training; the
log-densities are those of the pixels as they are.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch

from benchmarks.run import FOLDER
from benchmarks.vae_digits import N_TRAIN, in_order
from course_lib.elbo import exact_elbo
from course_lib.optimisers import learning_rate_schedule
from course_lib.ppca import ProbabilisticPCA
from course_lib.training import fit
from course_lib.vae import VAE, vae_loss

EPOCHS, BATCH, LR, WARMUP = 400, 128, 3e-2, 0.05
GOAL = 0.03  # nats


def data():
    """Training and test images, scaled, and the logarithm of what a density gains by the scale."""
    x = in_order(torch.float64)
    train, test = x[:N_TRAIN], x[N_TRAIN:]
    kept = train.std(0) > 0.02
    train, test = train[:, kept], test[:, kept]
    mean = train.mean(0)
    scale = (train - mean).square().mean().sqrt().item()
    return (train - mean) / scale, (test - mean) / scale, train.shape[1] * math.log(scale)


def train(x, latent, seed):
    generator = torch.Generator().manual_seed(seed)
    options = {"noise": "learned", "dtype": x.dtype, "generator": generator}
    model = VAE(x.shape[1], latent, (), "gaussian", **options)
    steps = EPOCHS * -(-len(x) // BATCH)
    lr = learning_rate_schedule("cosine", LR, n_steps=steps, warmup=round(WARMUP * steps))
    fit(model, (x,), vae_loss, gradients="analytic", n_epochs=EPOCHS, batch_size=BATCH, lr=lr, seed=seed)
    return model


@torch.no_grad()
def gap(model, best, x):
    """Nats that the bound is short of the best likelihood, and the two parts of that."""
    W, mean = model.decoder.weights[0], model.decoder.biases[0]
    own = ProbabilisticPCA.from_parameters(W, mean, model.log_noise_var.exp())
    values = best.log_likelihood(x), own.log_likelihood(x), exact_elbo(own, x, model.encode(x))
    exact, likelihood, bound = (value.mean().item() for value in values)
    return {"exact": exact, "elbo": bound, "gap": exact - bound, "model": exact - likelihood, "q": likelihood - bound}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vae_linear", description=__doc__.splitlines()[0])
    parser.add_argument("--latent", type=int, nargs="+", default=[2, 10], help="dimensions of z (default: 2 10)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=FOLDER / "vae_linear.json", help="where the JSON goes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, test, log_scale = data()
    rows = []
    for latent in arguments.latent:
        best = ProbabilisticPCA(latent).fit(x)
        for seed in range(arguments.seeds):
            start = time.process_time()
            model = train(x, latent, seed)
            row = {"latent": latent, "seed": seed, "seconds": time.process_time() - start}
            for name, images in {"train": x, "test": test}.items():
                row[name] = gap(model, best, images)
                for key in ("exact", "elbo"):
                    row[name][key] -= log_scale
            print(
                f"z = {latent}, seed {seed}: exact {row['test']['exact']:.3f}, short of it on the test images by "
                f"{row['test']['gap']:.4f} (model {row['test']['model']:.4f}, q {row['test']['q']:.4f}), on the "
                f"training images by {row['train']['gap']:.4f}, {row['seconds']:.1f} s",
                flush=True,
            )
            rows.append(row)
    met = sum(row["test"]["gap"] <= GOAL for row in rows)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"within {GOAL} nats: {met} of {len(rows)}; wrote {arguments.output}")


if __name__ == "__main__":
    main()
