"""One epoch of a VAE on the digits: `fit` with the gradient by hand against autograd, Pyro and pythae.

    python -m benchmarks.vae [--quick] [--output FILE]

The network is 64-33-10 and back with relu, the likelihood Bernoulli; 1437 binary digits, batches of 128, one sample,
Adam at 1e-3, float32. Ours is `fit(..., gradients="analytic")` with all that it does beside the steps. Each peer takes
its batches from one tensor by an index and asks for the loss of each batch, as ours does; no data loader takes part,
except where it is said.

- Plain autograd: nn.Linear in nn.Sequential, two heads, binary_cross_entropy_with_logits, the divergence in closed
  form, zero_grad, backward, torch.optim.Adam with its defaults. Beside it the same with fused=True on data permuted
  once an epoch, of which the batches are slices, and our own VAE under autograd in `fit`.
- Pyro, where it is installed: SVI with TraceMeanField_ELBO, whose divergence is in closed form, and pyro.optim.Adam.
  Its checks of arguments are off, for the process and in each distribution, which is its fast way. Beside it the same
  with the checks, with the sampled Trace_ELBO, and with torch.optim.Adam in a loop of one's own.
- pythae, where it is installed: its VAE, with these layers for encoder and decoder, trained by BaseTrainer.train() with
  its data loader and its progress bar (into nothing), as its manual shows. Beside it BaseTrainer's steps alone on our
  batches, and its model in a loop of one's own: there it is plain autograd with a few dictionaries.

All take turns in one process on one thread, some epochs in each turn; a ratio is the median of the ratios of the single
rounds, with its quartiles. The work is the same: from the same weights, with the same batches and noise, the parameters
must agree with plain autograd's after 20 steps, and after 20 epochs the ELBO of the 360 test images with each peer's.
"""

import contextlib
import importlib.metadata
import io
import itertools
import logging
import math
import tempfile
import time

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.run import main, time_ratios
from benchmarks.vae_digits import data
from course_lib.optimisers import adam
from course_lib.training import fit
from course_lib.vae import VAE, vae_gradients, vae_loss

D, HIDDEN, LATENT, BATCH, LR = 64, 33, 10, 128, 1e-3
EPOCHS = 25  # in a turn


def our_model():
    return VAE(D, LATENT, (HIDDEN,), activation="relu", generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def by_hand(x, gradients="analytic"):
    model = our_model()
    options = {"batch_size": BATCH, "lr": LR, "gradients": gradients, "progress": False}
    return model, lambda n_epochs: fit(model, (x,), vae_loss, n_epochs=n_epochs, **options)


class Reference(nn.Module):
    """What a user of PyTorch writes."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, HIDDEN), nn.ReLU())
        self.mean, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, D))

    def heads(self, x):
        h = self.encoder(x)
        return self.mean(h), self.log_var(h)

    def forward(self, x):
        mean, log_var = self.heads(x)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return self.decoder(z), mean, log_var

    def copy_(self, ours):
        """The weights of our model."""
        with torch.no_grad():
            for theirs, values in zip(self.parameters(), as_theirs(ours.parameters()), strict=True):
                theirs.copy_(values)
        return self


def as_theirs(params):
    """Our weights or gradients in the order and the shapes of Reference, whose heads are two layers."""
    W1, W_heads, b1, b_heads, W3, W4, b3, b4 = params
    (W_mean, W_log_var), (b_mean, b_log_var) = W_heads.chunk(2), b_heads.chunk(2)
    return [W1, b1, W_mean, b_mean, W_log_var, b_log_var, W3, b3, W4, b4]


def as_ours(reference):
    """A VAE of ours with the weights of Reference, to be judged by."""
    W1, b1, W_mean, b_mean, W_log_var, b_log_var, W3, b3, W4, b4 = (p.detach() for p in reference.parameters())
    heads = torch.cat((W_mean, W_log_var)), torch.cat((b_mean, b_log_var))
    model = our_model()
    with torch.no_grad():
        for ours, values in zip(model.parameters(), (W1, heads[0], b1, heads[1], W3, W4, b3, b4), strict=True):
            ours.copy_(values)
    return model


def bound_of(logits, mean, log_var, x):
    """Minus the ELBO, the mean over the data."""
    reconstruction = binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
    return (reconstruction + divergence) / len(x)


def epochs_of(step, x, in_one_piece=False):
    """Epochs of a step that takes a batch and returns its mean loss, in the permutations of `fit` with seed 0."""
    generator = torch.Generator().manual_seed(0)

    def run(n_epochs):
        for _ in range(n_epochs):
            order, total = torch.randperm(len(x), generator=generator), 0.0
            batches = x[order].split(BATCH) if in_one_piece else (x[index] for index in order.split(BATCH))
            for batch in batches:
                total += step(batch) * len(batch)
        return total / len(x)

    return run


def plain_autograd(x, in_one_piece=False, **options):
    net = Reference().copy_(our_model())
    optimiser = torch.optim.Adam(net.parameters(), lr=LR, **options)

    def step(batch):
        optimiser.zero_grad()
        loss = bound_of(*net(batch), batch)
        loss.backward()
        optimiser.step()
        return loss.item()

    return net, epochs_of(step, x, in_one_piece)


def pyro_svi(x, bound="TraceMeanField_ELBO", validate=False, own_optimiser=True):
    import pyro
    import pyro.distributions as dist
    import pyro.infer
    import pyro.optim

    pyro.clear_param_store()
    net = Reference().copy_(our_model())

    def model(batch):
        pyro.module("decoder", net.decoder)
        with pyro.plate("data", len(batch)), pyro.poutine.scale(scale=1 / len(batch)):  # the mean over the batch
            zero = batch.new_zeros(len(batch), LATENT)
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero), validate_args=validate).to_event(1))
            pixels = dist.Bernoulli(logits=net.decoder(z), validate_args=validate).to_event(1)
            pyro.sample("x", pixels, obs=batch)

    def guide(batch):
        pyro.module("encoder", net.encoder)
        pyro.module("mean", net.mean)
        pyro.module("log_var", net.log_var)
        with pyro.plate("data", len(batch)), pyro.poutine.scale(scale=1 / len(batch)):
            mean, log_var = net.heads(batch)
            pyro.sample("z", dist.Normal(mean, torch.exp(0.5 * log_var), validate_args=validate).to_event(1))

    objective = getattr(pyro.infer, bound)()
    if own_optimiser:
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": LR}), objective)

        step = svi.step
    else:
        optimiser = torch.optim.Adam(net.parameters(), lr=LR)

        def step(batch):
            optimiser.zero_grad()
            loss = objective.differentiable_loss(model, guide, batch)
            loss.backward()
            optimiser.step()
            return loss.item()

    epochs = epochs_of(step, x)

    def run(n_epochs):
        with pyro.validation_enabled(validate):
            return epochs(n_epochs)

    return net, run


class Batches:
    """What pythae's trainer asks of a data loader, without the work of one."""

    def __init__(self, x):
        self.x = self.dataset = x
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self):
        return math.ceil(len(self.x) / BATCH)

    def __iter__(self):
        order = torch.randperm(len(self.x), generator=self.generator)
        return ({"data": self.x[index]} for index in order.split(BATCH))


def pythae_vae(x, way="train"):
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as TheirVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    net = Reference().copy_(our_model())

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers, self.mean, self.log_var = net.encoder, net.mean, net.log_var

        def forward(self, x):
            h = self.layers(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(net.decoder, nn.Sigmoid())  # its loss takes probabilities

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    config = VAEConfig(input_dim=(D,), latent_dim=LATENT, reconstruction_loss="bce")
    model = TheirVAE(config, encoder=Encoder(), decoder=Decoder())
    if way == "loop":
        optimiser = torch.optim.Adam(model.parameters(), lr=LR)

        def step(batch):
            optimiser.zero_grad()
            loss = model({"data": batch}).loss
            loss.backward()
            optimiser.step()
            return loss.item()

        return net, epochs_of(step, x)

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("pythae")]:
        logging.getLogger(name).setLevel(logging.ERROR)
    options = {"per_device_train_batch_size": BATCH, "learning_rate": LR, "optimizer_cls": "Adam", "no_cuda": True}

    def trainer(folder, n_epochs=1):
        settings = BaseTrainerConfig(output_dir=folder, num_epochs=n_epochs, **options)
        return BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=settings)

    if way == "train":

        def run(n_epochs):
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                trainer(folder, n_epochs).train()

        return net, run

    by_steps = trainer(None)
    by_steps.set_optimizer()
    by_steps._setup_callbacks()
    by_steps.callback_handler.callbacks = []  # its bar
    by_steps.train_loader = Batches(x)

    def run(n_epochs):
        for epoch in range(n_epochs):
            by_steps.train_step(epoch)

    return net, run


def contenders(x):
    """Name, what makes the model and its training, the least ratio to reach, and whether it sees ours' batches."""
    yield "fit, gradient by hand", lambda: by_hand(x), None, False
    yield "plain autograd, optim.Adam", lambda: plain_autograd(x), 3.5, True
    yield "plain autograd, slices, fused=True", lambda: plain_autograd(x, in_one_piece=True, fused=True), None, True
    yield "our VAE, autograd, fit", lambda: by_hand(x, gradients="autograd"), None, True
    if installed("pyro-ppl"):
        yield "Pyro, SVI, pyro.optim.Adam", lambda: pyro_svi(x), 8, True
        yield "Pyro, SVI, with its checks", lambda: pyro_svi(x, validate=True), None, True
        yield "Pyro, Trace_ELBO", lambda: pyro_svi(x, "Trace_ELBO"), None, False
        yield "Pyro's bound, optim.Adam", lambda: pyro_svi(x, own_optimiser=False), None, True
    if installed("pythae"):
        yield "pythae, BaseTrainer.train()", lambda: pythae_vae(x), 8, False
        yield "pythae, its steps on our batches", lambda: pythae_vae(x, "steps"), None, True
        yield "pythae, its model, optim.Adam", lambda: pythae_vae(x, "loop"), None, True


def installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def elbo(model, test):
    model = as_ours(model) if isinstance(model, Reference) else model
    with torch.no_grad():
        return model.elbo(test, 100, generator=torch.Generator().manual_seed(0)).mean().item()


def difference_after_steps(x, steps=20):
    """The largest distance between a parameter of ours and plain autograd's, with the same noise."""
    results = []
    for gradients in ("analytic", "plain"):
        net = Reference().copy_(our_model())
        torch.manual_seed(0)
        batches = itertools.islice(itertools.cycle(x.split(BATCH)), steps)
        if gradients == "analytic":
            model, state = our_model(), {}
            value_and_gradients, params = vae_gradients.prepare(model), list(model.parameters())
            for batch in batches:
                adam(params, value_and_gradients(model, batch)[1], state, LR)
            results.append(as_theirs(params))
        else:
            optimiser = torch.optim.Adam(net.parameters(), lr=LR)
            for batch in batches:
                optimiser.zero_grad()
                bound_of(*net(batch), batch).backward()
                optimiser.step()
            results.append(net.parameters())
    return max((a - b).abs().max().item() for a, b in zip(*results, strict=True))


def rows(quick):
    _, x, test = data()
    for name in ("pyro-ppl", "pythae"):
        if not installed(name):
            print(f"{name} is not installed, and left out: pip install -e '.[bench]'")
    entries, bounds, times = list(contenders(x)), {}, {}
    for name, make, _, same_batches in entries:
        if name.startswith("fit") or same_batches:
            model, run = make()
            torch.manual_seed(0)  # as fit does
            start = time.perf_counter()
            run(20)
            times[name] = (time.perf_counter() - start) / 20 * 1e6
            bounds[name] = elbo(model, test)
    ours, microseconds = bounds.pop("fit, gradient by hand"), times["fit, gradient by hand"]
    differences = {"parameters after 20 steps, largest difference from plain autograd": difference_after_steps(x)}
    for name, bound in bounds.items():
        differences[f"ELBO after 20 epochs ({ours:.3f} nats), {name}"] = abs(bound - ours)
    for what, difference in differences.items():
        goal = 0.01 if what.startswith("ELBO") else 1e-6
        yield {
            "what": what, "value": difference, "quartiles": [difference, difference], "goal": goal,
            "met": difference <= goal, "microseconds": microseconds, "unit": "",
        }  # fmt: skip
    runs = [make()[1] for _, make, _, _ in entries]
    mine, ratios = time_ratios([lambda run=run: run(EPOCHS) for run in runs], 30 if quick else 240)
    for (name, _, goal, _), (low, middle, high) in zip(entries[1:], ratios, strict=True):
        yield {
            "what": f"an epoch, {name}",
            "value": middle, "quartiles": [low, high], "goal": goal, "met": None if goal is None else middle >= goal,
            "microseconds": mine / EPOCHS * 1e6, "unit": "x",
        }  # fmt: skip


if __name__ == "__main__":
    legend = "ratio: the peer's time over that of fit by hand, median and quartiles; us: an epoch of fit by hand"
    main("vae", __doc__, legend, rows)
