"""One step of variational Bayes on the toy with a gap: the gradient by hand against autograd, torchbnn, blitz and Pyro.

    python -m benchmarks.bayes [--quick] [--output FILE]

The network is 1-50-1 with tanh, the prior deviations 1.5 and 0.3, the noise 0.2; all 60 points in each step, one draw,
Adam at 1e-2, float32. A step is a loss, its gradient, the step of the optimiser and the loss as a number. Ours is
`mean_field_gradients.prepare(model, x, y)` with `course_lib.optimisers.adam`; beside it the same by draws of the
weights, and all that `fit` does for a step.

- Plain autograd: a module with means and log-variances, local reparametrisation, the divergence in closed form,
  zero_grad, backward, torch.optim.Adam with its defaults; also with fused=True, and with draws of the weights.
- torchbnn, where it is installed: BayesLinear layers and BKLLoss (its sum over the weights), torch.optim.Adam; also
  with fused=True.
- blitz, where it is installed: BayesianLinear layers with one Gaussian as prior, sample_elbo, torch.optim.Adam. Its
  divergence is sampled.
- Pyro, where it is installed: SVI with AutoNormal, TraceMeanField_ELBO, whose divergence is in closed form, and
  pyro.optim.Adam; the checks of arguments are off, which is its fast way. Beside it the same with the sampled
  Trace_ELBO, and with torch.optim.Adam in a loop of one's own.
The three draw the weights, one draw for all points, and have no local reparametrisation: their step has less to do.

All take turns in one process on one thread, some steps in each turn; a ratio is the median of the ratios of the single
rounds, with its quartiles. The work is the same: with the same noise the parameters must agree with plain autograd's
after 20 steps; and at the same means and deviations the mean loss of each peer over many draws must be ours.
"""

import importlib.metadata
import importlib.util
import math
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from benchmarks.run import main, time_ratios
from course_lib.bayes import MeanFieldNetwork, mean_field_gradients, mean_field_loss
from course_lib.data import make_gap
from course_lib.optimisers import adam
from course_lib.training import fit

SIZES, PRIOR_SD, NOISE_SD, LR = (1, 50, 1), (1.5, 0.3), 0.2, 1e-2
STEPS = 20  # in a turn
DRAWS = 4000  # of each loss, when they are compared
PEERS = {"torchbnn": "torchbnn", "blitz": "blitz-bayesian-pytorch", "pyro": "pyro-ppl"}
INSTALL = "pip install -e '.[bench]'; pip install --no-deps blitz-bayesian-pytorch"


def data():
    x, y, *_ = make_gap("train")
    return x.float(), y.reshape(-1, 1).float()


def our_model(dtype=torch.float32):
    """The same start in both types."""
    model, same = (
        MeanFieldNetwork(SIZES, PRIOR_SD, NOISE_SD, dtype=t, generator=torch.Generator().manual_seed(0))
        for t in (torch.float32, dtype)
    )
    with torch.no_grad():
        same.means.copy_(model.means)
    return same


def steps_of(step):
    """So many steps in a row, each of which returns its loss."""

    def run(n_steps):
        for _ in range(n_steps):
            value = step()
        return value

    return run


def by_hand(x, y, sampling="local"):
    model, state = our_model(), {}
    params, gradients = list(model.parameters()), mean_field_gradients.prepare(model, x, y)

    def step():
        value, grads = gradients(model, x, y, n_data=len(x), sampling=sampling)
        adam(params, grads, state, LR)
        return value.item()

    return step


def in_fit(x, y):
    """`fit` in pieces of so many steps as a turn has, so that its beginning counts too."""
    model, loss = our_model(), partial(mean_field_loss, n_data=len(x))
    options = {"batch_size": len(x), "lr": LR, "gradients": "analytic", "progress": False}
    return lambda n_steps: fit(model, (x, y), loss, n_epochs=n_steps, **options)


def our_autograd(x, y):
    model, state = our_model(), {}
    params = list(model.parameters())

    def step():
        loss = mean_field_loss(model, x, y, n_data=len(x))
        adam(params, torch.autograd.grad(loss, params), state, LR)
        return loss.item()

    return step


class Reference(nn.Module):
    """What a user of PyTorch writes: a layer with means and log-variances of its weights and biases."""

    def __init__(self, n_in, n_out, prior_sd):
        super().__init__()
        self.prior_sd = prior_sd
        self.W, self.b = nn.Parameter(torch.empty(n_out, n_in)), nn.Parameter(torch.empty(n_out))
        self.W_log_var, self.b_log_var = nn.Parameter(torch.empty(n_out, n_in)), nn.Parameter(torch.empty(n_out))

    def forward(self, x, noise=None):
        """Local reparametrisation."""
        mean = nn.functional.linear(x, self.W, self.b)
        var = nn.functional.linear(x**2, self.W_log_var.exp(), self.b_log_var.exp())
        return mean + var.sqrt() * (torch.randn_like(mean) if noise is None else noise)

    def with_drawn_weights(self, x):
        W = self.W + (0.5 * self.W_log_var).exp() * torch.randn_like(self.W)
        b = self.b + (0.5 * self.b_log_var).exp() * torch.randn_like(self.b)
        return nn.functional.linear(x, W, b)

    def kl(self):
        prior_var = self.prior_sd**2
        return 0.5 * sum(
            ((log_var.exp() + mean**2) / prior_var - 1 - log_var + math.log(prior_var)).sum()
            for mean, log_var in ((self.W, self.W_log_var), (self.b, self.b_log_var))
        )

    @torch.no_grad()
    def copy_(self, layer):
        for mine, values in zip((self.W, self.b, self.W_log_var, self.b_log_var), layer, strict=True):
            mine.copy_(values)


def our_layers(dtype=torch.float32):
    """Means and log-variances of each layer of our model at its start: W, b, log-variances of W, of b."""
    model = our_model(dtype)
    with torch.no_grad():
        pairs = zip(model.layers(model.means), model.layers(model.log_vars), strict=True)
        return [(W, b, W_log_var, b_log_var) for (W, b), (W_log_var, b_log_var) in pairs]


def nll(output, y):
    """Minus the log-likelihood of the noise that is known, the sum over the data."""
    return ((output - y) ** 2).sum() / (2 * NOISE_SD**2) + y.numel() * 0.5 * math.log(2 * math.pi * NOISE_SD**2)


def reference_layers():
    layers = nn.ModuleList(Reference(*args) for args in zip(SIZES[:-1], SIZES[1:], PRIOR_SD, strict=True))
    for mine, values in zip(layers, our_layers(), strict=True):
        mine.copy_(values)
    return layers


def reference_loss(layers, x, y, noise=(None, None), way=Reference.forward):
    first, second = layers
    if way is Reference.forward:
        output = second(torch.tanh(first(x, noise[0])), noise[1])
    else:
        output = way(second, torch.tanh(way(first, x)))
    return (first.kl() + second.kl() + nll(output, y)) / len(x)


def by_optimiser(loss, params, **options):
    """A step of torch.optim.Adam."""
    optimiser = torch.optim.Adam(params, lr=LR, **options)

    def step():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        return value.item()

    step.loss = loss
    return step


def plain_autograd(x, y, way=Reference.forward, **options):
    layers = reference_layers()
    return by_optimiser(lambda: reference_loss(layers, x, y, way=way), layers.parameters(), **options)


def torchbnn_step(x, y, **options):
    import torchbnn as bnn

    first, second = (bnn.BayesLinear(0, sd, *n) for sd, *n in zip(PRIOR_SD, SIZES[:-1], SIZES[1:], strict=True))
    net, kl = nn.Sequential(first, nn.Tanh(), second), bnn.BKLLoss(reduction="sum")
    with torch.no_grad():
        for layer, (W, b, W_log_var, b_log_var) in zip((first, second), our_layers(), strict=True):
            layer.weight_mu.copy_(W), layer.bias_mu.copy_(b)
            layer.weight_log_sigma.copy_(0.5 * W_log_var), layer.bias_log_sigma.copy_(0.5 * b_log_var)
    return by_optimiser(lambda: (kl(net).squeeze() + nll(net(x), y)) / len(x), net.parameters(), **options)


def blitz_step(x, y):
    from blitz.modules import BayesianLinear
    from blitz.utils import variational_estimator

    layers = [
        BayesianLinear(*n, prior_sigma_1=sd, prior_sigma_2=sd, prior_pi=1.0)
        for sd, *n in zip(PRIOR_SD, SIZES[:-1], SIZES[1:], strict=True)
    ]
    net = variational_estimator(nn.Sequential)(layers[0], nn.Tanh(), layers[1])
    with torch.no_grad():
        for layer, (W, b, W_log_var, b_log_var) in zip(layers, our_layers(), strict=True):
            layer.weight_mu.copy_(W), layer.bias_mu.copy_(b)
            layer.weight_rho.copy_(_inverse_softplus(W_log_var)), layer.bias_rho.copy_(_inverse_softplus(b_log_var))
    return by_optimiser(lambda: net.sample_elbo(x, y, nll, sample_nbr=1) / len(x), net.parameters())


def _inverse_softplus(log_var):
    return (0.5 * log_var).exp().expm1().log()


def pyro_step(x, y, bound="TraceMeanField_ELBO", own_optimiser=True):
    import pyro
    import pyro.distributions as dist
    import pyro.infer
    import pyro.optim

    pyro.clear_param_store()
    shapes = [((n_out, n_in), (n_out,)) for n_in, n_out in pairwise(SIZES)]

    def model(x, y):
        h = x
        for k, (of_W, of_b) in enumerate(shapes):
            W = pyro.sample(f"W{k}", dist.Normal(torch.zeros(of_W), PRIOR_SD[k]).to_event(2))
            b = pyro.sample(f"b{k}", dist.Normal(torch.zeros(of_b), PRIOR_SD[k]).to_event(1))
            h = nn.functional.linear(h if k == 0 else torch.tanh(h), W, b)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(h, NOISE_SD).to_event(1), obs=y)

    guide = pyro.infer.autoguide.AutoNormal(model)
    with pyro.validation_enabled(False):
        guide(x, y)
        with torch.no_grad():
            for k, values in enumerate(our_layers()):
                for name, mean, log_var in zip("Wb", values[:2], values[2:], strict=True):
                    getattr(guide.locs, f"{name}{k}").copy_(mean)
                    getattr(guide.scales, f"{name}{k}_unconstrained").copy_(_inverse_softplus(log_var))
    objective = getattr(pyro.infer, bound)()
    if own_optimiser:
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": LR}), objective)
        step = partial(svi.step, x, y)
    else:
        step = by_optimiser(lambda: objective.differentiable_loss(model, guide, x, y), guide.parameters())

    def without_checks():
        with pyro.validation_enabled(False):
            return step()

    # the whole free energy: a factor before the loss changes no step of Adam
    without_checks.loss = lambda: torch.as_tensor(objective.loss(model, guide, x, y) / len(x))
    return without_checks


def contenders():
    """Name, what makes the step, and the least ratio to reach."""
    yield "gradient by hand", by_hand, None
    yield "plain autograd, optim.Adam", plain_autograd, None
    yield "plain autograd, fused=True", partial(plain_autograd, fused=True), None
    yield "plain autograd, drawn weights", partial(plain_autograd, way=Reference.with_drawn_weights), None
    yield "our loss, autograd", our_autograd, None
    if installed("torchbnn"):
        yield "torchbnn, optim.Adam", torchbnn_step, 3
        yield "torchbnn, fused=True", partial(torchbnn_step, fused=True), None
    if installed("blitz"):
        yield "blitz, optim.Adam", blitz_step, None
    if installed("pyro"):
        yield "Pyro, AutoNormal, pyro.optim.Adam", pyro_step, 7
        yield "Pyro, Trace_ELBO", partial(pyro_step, bound="Trace_ELBO"), None
        yield "Pyro's bound, optim.Adam", partial(pyro_step, own_optimiser=False), None
    yield "ours, drawn weights", partial(by_hand, sampling="weights"), None


def installed(name):
    return importlib.util.find_spec(name) is not None


def difference_after_steps(x, y, steps=20, dtype=torch.float32):
    """The largest distance between a parameter of ours and plain autograd's, with the same noise."""
    x, y, model, state = x.to(dtype), y.to(dtype), our_model(dtype), {}
    layers = reference_layers().to(dtype)
    for layer, values in zip(layers, our_layers(dtype), strict=True):
        layer.copy_(values)
    optimiser = torch.optim.Adam(layers.parameters(), lr=LR)
    gradients, params = mean_field_gradients.prepare(model, x, y), list(model.parameters())
    for step in range(steps):
        torch.manual_seed(step)
        adam(params, gradients(model, x, y, n_data=len(x))[1], state, LR)
        torch.manual_seed(step)
        flat = torch.randn(len(x) * sum(SIZES[1:]), dtype=dtype)  # ours has a row for each neuron
        noise = [part.view(-1, len(x)).T for part in flat.split([len(x) * n for n in SIZES[1:]])]
        optimiser.zero_grad()
        reference_loss(layers, x, y, noise).backward()
        optimiser.step()
    pairs = zip(layers, model.layers(model.means), model.layers(model.log_vars), strict=True)
    with torch.no_grad():
        return max(
            (mine - ours).abs().max().item()
            for layer, means, log_vars in pairs
            for mine, ours in zip((layer.W, layer.b, layer.W_log_var, layer.b_log_var), means + log_vars, strict=True)
        )


@torch.no_grad()
def distance_of_losses(make, x, y, draws=DRAWS):
    """How many standard errors a peer's mean loss at our first parameters lies from ours."""
    torch.manual_seed(0)
    loss = make(x, y).loss
    theirs = torch.stack([loss() for _ in range(draws)]).double()
    model = our_model(torch.float64)
    ours = [mean_field_loss(model, x.double(), y.double(), n_data=len(x), sampling="weights") for _ in range(draws)]
    ours = torch.stack(ours)
    return ((theirs.mean() - ours.mean()).abs() / ((theirs.var() + ours.var()) / draws).sqrt()).item()


def rows(quick):
    x, y = data()
    for name, distribution in PEERS.items():
        if not installed(name):
            print(f"{distribution} is not installed, and left out: {INSTALL}")
    entries = list(contenders())
    differences = {
        "parameters after 20 steps, largest difference from plain autograd": (difference_after_steps(x, y), 1e-6)
    }
    for name, make, _ in entries:
        if name.startswith(("plain autograd, optim", "plain autograd, drawn", "torchbnn, optim", "blitz", "Pyro, ")):
            what = f"mean loss at the start, standard errors from ours: {name}"
            differences[what] = distance_of_losses(make, x, y, DRAWS // 10 if quick else DRAWS), 4
    for what, (difference, goal) in differences.items():
        yield {
            "what": what, "value": difference, "quartiles": [difference, difference], "goal": goal,
            "met": difference <= goal, "microseconds": 0.0, "unit": "",
        }  # fmt: skip
    runs = [steps_of(make(x, y)) for _, make, _ in entries] + [in_fit(x, y)]
    mine, ratios = time_ratios([lambda run=run: run(STEPS) for run in runs], 20 if quick else 120)
    for name, goal, (low, middle, high) in zip(
        [name for name, *_ in entries[1:]] + ["ours, in fit"], [goal for *_, goal in entries[1:]] + [None], ratios,
        strict=True,
    ):  # fmt: skip
        yield {
            "what": f"a step, {name}",
            "value": middle, "quartiles": [low, high], "goal": goal, "met": None if goal is None else middle >= goal,
            "microseconds": mine / STEPS * 1e6, "unit": "x",
        }  # fmt: skip


if __name__ == "__main__":
    legend = "ratio: the peer's time over that of the gradient by hand, median and quartiles; us: a step by hand"
    main("bayes", __doc__, legend, rows)
