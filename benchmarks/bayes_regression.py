"""Bayesian regression: mean field beside exact answers, Hamiltonian Monte Carlo and other libraries, on two data sets.

    python -m benchmarks.bayes_regression [--data toy diabetes] [--methods NAME ...] [--seeds 3] [--steps 5000]
        [--output FILE] [--publish] [--choose]

Protocol. The toy is `course_lib.data.make_gap`: 60 points, none in |x| < 1.5, 400 for the test; the network has 50 tanh
units, the prior deviations 1.5 in the first layer and 0.3 in the second, the noise the deviation 0.2. The patients of
`load_diabetes` are split 353 / 89 by numpy's RandomState(0).permutation; x and y are standardised by the training part.
NLL is the mean negative log density of the test targets in nats, coverage the share of them in their central 90 %
interval, of the mixture of 2,000 draws and with the noise. The gap is |x| < 1.5, outside is the rest of [-4, 4]; there
the deviation of the function is the mean over a grid of 161 points. Times are those of the processor, on one thread
where the library lets one say so; those of NUTS hold its compilation.

Methods, all with the same prior, noise and training data:

    exact       Bayesian linear regression. On the toy: of 50 random features, the first layer drawn once from the prior
                (anew for each seed) and held fixed. On diabetes: of the ten measurements and a one, with the deviations
                of prior and noise that have the largest evidence. Its "ELBO" is the log evidence of its own model.
    map         the weights of the largest posterior density, and no law: course_lib's MLP.
    mean_field  course_lib.bayes.MeanFieldNetwork, local reparametrisation, the gradient by hand.
    weights     the same, with one draw of the weights for all data in each step.
    nuts        NumPyro: two chains, one after the other, 300 steps of warm-up and 400 draws each.
    torchbnn, blitz, pyro   mean field by these libraries as they come: their layers or their guide (AutoNormal), with
                their first values and their estimate of the divergence (Pyro's with TraceMeanField_ELBO).

All that is optimised takes 5,000 steps of Adam with all data in each and one draw; the rate falls from 1e-2 like a
cosine. What a variational method has found, means and deviations, is copied into one MeanFieldNetwork, which judges all
alike: ELBO with the divergence in closed form and 8,000 draws, and the prediction. An optional library that is not
installed is left out, with a line that says so; blitz wants `pip install --no-deps blitz-bayesian-pytorch`.

Choices. Nothing was chosen by test data. Network and prior of the toy are given. For diabetes the noise is that of the
exact method, for all; width and prior deviations of the network are those of the largest ELBO on the training data in a
grid of 27, which --choose goes through.

--publish writes the numbers, and draws of NUTS for the toy, into course_lib (`regression_record`, `posterior_draws`).
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.run import FOLDER
from course_lib import pretrained
from course_lib.bayes import (
    BayesianLinearRegression,
    GaussianPrediction,
    MeanFieldNetwork,
    SampledPrediction,
    mean_field_loss,
)
from course_lib.data import load_diabetes, make_gap, standardise
from course_lib.networks import MLP
from course_lib.optimisers import learning_rate_schedule
from course_lib.training import fit

STEPS, LR = 5000, 1e-2
SEEDS = 3
JUDGED_BY, PARTS, DRAWS = 8000, 8, 2000  # draws of the ELBO, in so many parts; draws of a prediction
CHAINS, WARM_UP, KEPT, THINNED = 2, 300, 400, 2
LEVEL, EDGE = 0.9, 1.5
GRID = torch.arange(-80, 81, dtype=torch.float64)[:, None] / 20
WIDTHS, FIRST, LAST = (5, 10, 20), (0.05, 0.1, 0.2), (0.4, 0.8, 1.6)  # what --choose goes through
CHOSEN = (5, 0.1, 0.8)
LIBRARIES = {"nuts": "numpyro", "torchbnn": "torchbnn", "blitz": "blitz", "pyro": "pyro"}
DISTRIBUTIONS = {"numpyro": "numpyro", "torchbnn": "torchbnn", "blitz": "blitz-bayesian-pytorch", "pyro": "pyro-ppl"}


class Problem(NamedTuple):
    name: str
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    sizes: tuple[int, ...]
    prior_sd: tuple[float, ...]
    noise_sd: float

    def network(self, **options):
        return MeanFieldNetwork(self.sizes, self.prior_sd, self.noise_sd, dtype=torch.float64, **options)


class Found(NamedTuple):
    """What a method found: predict(x) at any inputs; bound(), if there is one; the draws of a sampler."""

    predict: Callable
    bound: Callable | None = None
    weights: torch.Tensor | None = None  # (chains, draws, n_theta)


# Data


def toy():
    train, test = make_gap("train"), make_gap("test")
    return Problem("toy", train[:2], test[:2], (1, 50, 1), (1.5, 0.3), 0.2)


def patients():
    """Training and test part, standardised."""
    x, y, *_ = load_diabetes()
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))
    train, test = order[:353], order[353:]
    (x_train, x_test), (y_train, y_test) = standardise(x[train], x[test]), standardise(y[train], y[test])
    return (x_train, y_train), (x_test, y_test)


def diabetes(width=CHOSEN[0], *prior_sd):
    train, test = patients()
    noise_sd = best_line(*train)[1]
    return Problem("diabetes", train, test, (10, width, 1), prior_sd or CHOSEN[1:], noise_sd)


PROBLEMS = {"toy": toy, "diabetes": diabetes}


def with_one(x):
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def best_line(x, y):
    """Deviations of prior and noise with the largest evidence of the linear model."""
    from scipy.optimize import minimize

    def energy(logs):
        return -BayesianLinearRegression(*np.exp(logs)).fit(with_one(x), y).log_evidence().item()

    found = minimize(energy, np.log([0.3, 0.7]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    return tuple(np.exp(found.x).tolist())


# Methods: a problem, a seed and a number of steps give what was found


def exact(problem, seed, steps):
    if problem.name == "diabetes":
        features, model = with_one, BayesianLinearRegression(*best_line(*problem.train))
    else:
        width, (first, last) = problem.sizes[1], problem.prior_sd
        A, shift = torch.from_numpy(np.random.RandomState(seed).normal(0, first, (2, width)).round(3))
        model = BayesianLinearRegression(last, problem.noise_sd)

        def features(x):
            return with_one(torch.tanh(x * A + shift))

    x, y = problem.train
    model.fit(features(x), y)
    return Found(lambda x: model.predict(features(x)), lambda: model.log_evidence().item())


def rate(steps):
    return learning_rate_schedule("cosine", LR, n_steps=steps)


def maximum(problem, seed, steps):
    (x, y), sds = problem.train, problem.prior_sd
    mlp = MLP(problem.sizes, "tanh", generator=torch.Generator().manual_seed(seed), dtype=x.dtype)

    def loss(mlp, x, y):
        prior = sum(
            p.square().sum() / sd**2 for group in (mlp.weights, mlp.biases) for p, sd in zip(group, sds, strict=True)
        )
        return 0.5 * ((y - mlp(x)).square().sum() / problem.noise_sd**2 + prior) / len(x)

    fit(mlp, (x, y), loss, n_epochs=steps, batch_size=len(x), lr=rate(steps), seed=seed, progress=False)

    def predict(x):
        mean = mlp(x).detach()
        return GaussianPrediction(mean, torch.zeros_like(mean), problem.noise_sd)

    return Found(predict)


def mean_field(problem, seed, steps, sampling="local"):
    model = problem.network(generator=torch.Generator().manual_seed(seed))
    n = len(problem.train[0])
    loss = partial(mean_field_loss, n_data=n, sampling=sampling)
    options = {"gradients": "analytic", "n_epochs": steps, "batch_size": n, "seed": seed, "progress": False}
    fit(model, problem.train, loss, lr=rate(steps), **options)
    return judged(problem, model)


def judged(problem, model):
    """The same for every variational method: its prediction and its bound."""

    def predict(x):
        return model.predict(x, DRAWS, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def bound():
        generator, (x, y) = torch.Generator().manual_seed(0), problem.train
        parts = [model.free_energy(x, y, len(x), JUDGED_BY // PARTS, generator=generator) for _ in range(PARTS)]
        return -torch.stack(parts).mean().item()

    return Found(predict, bound)


@torch.no_grad()
def as_ours(problem, layers):
    """A MeanFieldNetwork with the means and deviations of another library: W, b, W_sd, b_sd of each layer."""
    model = problem.network()
    of_means, of_log_vars = model.layers(model.means), model.layers(model.log_vars)
    for (W, b, W_sd, b_sd), means, log_vars in zip(layers, of_means, of_log_vars, strict=True):
        for value, place in zip((W, b), means, strict=True):
            place.copy_(value)
        for sd, place in zip((W_sd, b_sd), log_vars, strict=True):
            place.copy_(2 * sd.double().log())
    return model


def descend(parameters, energy, steps):
    """Adam on an energy with fresh noise at each call, with our schedule, in a loop of one's own."""
    optimiser = torch.optim.Adam(parameters, lr=LR)
    schedule = rate(steps)
    for t in range(steps):
        optimiser.param_groups[0]["lr"] = schedule(t)
        optimiser.zero_grad()
        energy().backward()
        optimiser.step()


def single(problem, seed):
    """The training data in float32, in which these libraries work, and what the squared error is multiplied by."""
    torch.manual_seed(seed)
    return (*(t.float() for t in problem.train), 0.5 / problem.noise_sd**2)


def torchbnn(problem, seed, steps):
    import torchbnn

    x, y, precision = single(problem, seed)
    first, second = (
        torchbnn.BayesLinear(0.0, sd, n_in, n_out)
        for sd, (n_in, n_out) in zip(problem.prior_sd, itertools.pairwise(problem.sizes), strict=True)
    )
    net = torch.nn.Sequential(first, torch.nn.Tanh(), second)
    divergence = torchbnn.BKLLoss(reduction="sum")
    descend(net.parameters(), lambda: precision * (y - net(x)).square().sum() + divergence(net), steps)
    return judged(problem, as_ours(problem, [by_log_sd(layer) for layer in (first, second)]))


def by_log_sd(layer):
    return layer.weight_mu, layer.bias_mu, layer.weight_log_sigma.exp(), layer.bias_log_sigma.exp()


def blitz(problem, seed, steps):
    from blitz.modules import BayesianLinear
    from blitz.utils import variational_estimator

    x, y, precision = single(problem, seed)
    first, second = (
        BayesianLinear(n_in, n_out, prior_sigma_1=sd, prior_sigma_2=sd, prior_pi=1.0)
        for sd, (n_in, n_out) in zip(problem.prior_sd, itertools.pairwise(problem.sizes), strict=True)
    )

    @variational_estimator
    class Network(torch.nn.Sequential):
        pass

    net = Network(first, torch.nn.Tanh(), second)

    def cost(output, y):
        return precision * (y - output).square().sum()

    descend(net.parameters(), lambda: net.sample_elbo(inputs=x, labels=y, criterion=cost, sample_nbr=1), steps)
    return judged(problem, as_ours(problem, [by_rho(layer) for layer in (first, second)]))


def by_rho(layer):
    samplers = layer.weight_sampler, layer.bias_sampler
    return *(s.mu for s in samplers), *(s.rho.exp().log1p() for s in samplers)


def pyro(problem, seed, steps):
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceMeanField_ELBO
    from pyro.infer.autoguide import AutoNormal

    x, y, _ = single(problem, seed)
    pyro.clear_param_store()
    shapes = [shape for n_in, n_out in itertools.pairwise(problem.sizes) for shape in ((n_out, n_in), (n_out,))]
    names = [f"{name}{i}" for i in range(len(problem.prior_sd)) for name in "Wb"]
    sds = [sd for sd in problem.prior_sd for _ in "Wb"]

    def model(x, y):
        h = x
        values = [
            pyro.sample(name, dist.Normal(x.new_zeros(shape), sd).to_event(len(shape)))
            for name, shape, sd in zip(names, shapes, sds, strict=True)
        ]
        for i, (W, b) in enumerate(zip(values[::2], values[1::2], strict=True)):
            h = torch.nn.functional.linear(torch.tanh(h) if i else h, W, b)
        pyro.sample("y", dist.Normal(h, problem.noise_sd).to_event(2), obs=y)

    guide, bound = AutoNormal(model), TraceMeanField_ELBO()
    guide(x, y)  # which makes its parameters
    descend(guide.parameters(), lambda: bound.differentiable_loss(model, guide, x, y), steps)
    locs, scales = ([getattr(part, name) for name in names] for part in (guide.locs, guide.scales))
    return judged(problem, as_ours(problem, list(zip(locs[::2], locs[1::2], scales[::2], scales[1::2], strict=True))))


def nuts(problem, seed, steps):
    import jax
    import numpyro
    import numpyro.distributions as dist
    from jax import numpy as jnp
    from numpyro.infer import MCMC, NUTS

    x, y = (jnp.asarray(t.numpy(), dtype=jnp.float32) for t in problem.train)
    d, width, _ = problem.sizes
    first, second = problem.prior_sd

    def model(x, y):
        W1 = numpyro.sample("W1", dist.Normal(0, first).expand([d, width]))
        b1 = numpyro.sample("b1", dist.Normal(0, first).expand([width]))
        W2 = numpyro.sample("W2", dist.Normal(0, second).expand([width, 1]))
        b2 = numpyro.sample("b2", dist.Normal(0, second).expand([1]))
        numpyro.sample("y", dist.Normal(jnp.tanh(x @ W1 + b1) @ W2 + b2, problem.noise_sd), obs=y)

    sampler = MCMC(
        NUTS(model),
        num_warmup=WARM_UP,
        num_samples=KEPT,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    sampler.run(jax.random.PRNGKey(seed), x, y)
    draws = sampler.get_samples(group_by_chain=True)
    # (chains, draws, n_theta): W1 row by row, a row for each unit, then b1, W2, b2
    parts = [np.swapaxes(draws["W1"], -1, -2), draws["b1"], draws["W2"], draws["b2"]]
    weights = np.concatenate([np.asarray(part).reshape(CHAINS, KEPT, -1) for part in parts], -1)
    weights = torch.from_numpy(weights.astype(np.float32))
    flat = weights.flatten(0, 1).double()

    def predict(x):
        return SampledPrediction(pretrained._functions(flat, x), problem.noise_sd)

    return Found(predict, weights=weights)


METHODS = {
    "exact": exact,
    "map": maximum,
    "mean_field": mean_field,
    "weights": partial(mean_field, sampling="weights"),
    "nuts": nuts,
    "torchbnn": torchbnn,
    "blitz": blitz,
    "pyro": pyro,
}

# Numbers


def installed(name):
    """Whether the library of a method is there."""
    return name not in LIBRARIES or importlib.util.find_spec(LIBRARIES[name]) is not None


def row(problem, name, seed, steps=STEPS):
    """The columns of one method with one seed, and what it found."""
    start = time.process_time()
    found = METHODS[name](problem, seed, steps)
    seconds = time.process_time() - start
    x, y = problem.test
    prediction = found.predict(x)
    columns = {} if found.bound is None else {"elbo": found.bound()}
    columns |= {"nll": -prediction.log_prob(y).mean().item(), "coverage": prediction.coverage(y, LEVEL).item()}
    if problem.name == "toy":
        columns |= deviations(found.predict(GRID).function_sd)
    if found.weights is not None:
        columns |= mixing(found.weights, GRID if problem.name == "toy" else x)
    return columns | {"seconds": seconds}, found


def deviations(sd):
    """Mean deviation of the function in the gap and outside, on the grid."""
    inside = GRID.abs() < EDGE
    gap, outside = sd[inside].mean().item(), sd[~inside].mean().item()
    return {"gap": gap, "outside": outside} | ({"ratio": gap / outside} if outside > 0 else {})


def mixing(weights, x):
    """The largest split R-hat and the smallest effective sample size, over the values of the function at x."""
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    functions = pretrained._functions(weights.flatten(0, 1).double(), x).unflatten(0, weights.shape[:2])[..., 0].numpy()
    return {"rhat": split_gelman_rubin(functions).max().item(), "ess": effective_sample_size(functions).min().item()}


def choose(steps):
    """Width and prior deviations for diabetes: the ELBO on the training data, for each point of the grid."""
    bounds = {}
    for choice in itertools.product(WIDTHS, FIRST, LAST):
        bounds[choice] = mean_field(diabetes(*choice), 0, steps).bound()
        print(f"diabetes, width {choice[0]}, prior {choice[1:]}: ELBO {bounds[choice]:.2f}", flush=True)
    best = max(bounds, key=bounds.get)
    print(f"the largest ELBO: width {best[0]}, prior {best[1:]}; in use: {CHOSEN}")
    return best


# The command

DIGITS = {"elbo": 1, "nll": 3, "coverage": 3, "gap": 3, "outside": 3, "ratio": 2, "rhat": 4, "ess": 0, "seconds": 1}


def said(columns):
    return ", ".join(f"{column} {value:.{DIGITS[column]}f}" for column, value in columns.items())


def show(name, table):
    """A table of means over the seeds, with half the range between them where there are several."""
    columns = [column for column in DIGITS if any(column in rows for rows in table.values())]
    print(f"\n{name:<12}" + "".join(f"{column:>16}" for column in columns))
    for method, rows in table.items():
        print(f"{method:<12}" + "".join(f"{summary(rows.get(column), DIGITS[column]):>16}" for column in columns))


def summary(values, digits):
    if values is None:
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}" + spread


def parsed():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bayes_regression", description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), help="default: both")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0 on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of Adam (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=FOLDER / "bayes_regression.json",
        help="where the JSON goes (default: %(default)s)",
    )
    parser.add_argument("--publish", action="store_true", help="write the files of course_lib.pretrained, too")
    parser.add_argument("--choose", action="store_true", help="only go through the grid of networks for diabetes")
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.steps) < 1:
        parser.error("--seeds and --steps must be 1 or more")
    if arguments.publish:
        if arguments.steps != STEPS or set(arguments.methods) != set(METHODS) or set(arguments.data) != set(PROBLEMS):
            parser.error("what is published has all data, all methods and the default number of steps")
        if missing := [LIBRARIES[name] for name in LIBRARIES if not installed(name)]:
            parser.error(f"what is published has all methods; not installed: {', '.join(missing)}")
    return arguments


def main():
    arguments = parsed()
    torch.set_num_threads(1)
    if arguments.choose:
        choose(arguments.steps)
        return
    methods = [name for name in arguments.methods if installed(name)]
    for name in arguments.methods:
        if name not in methods:
            print(f"{name}: left out, since {LIBRARIES[name]} is not installed")
    record = {
        "command": f"python -m benchmarks.bayes_regression --seeds {arguments.seeds} --publish",
        "steps": arguments.steps,
        "seeds": list(range(arguments.seeds)),
        "versions": versions(methods),
    }
    for problem in (PROBLEMS[name]() for name in arguments.data):
        record[problem.name] = tabled(problem, methods, arguments)
        show(problem.name, record[problem.name])
    if "nuts" in methods and "toy" in arguments.data:
        rows = record["toy"]["nuts"]
        kind = {"chains": CHAINS, "warm_up": WARM_UP, "draws": KEPT}
        record["nuts"] = kind | {"rhat": max(rows["rhat"]), "ess": min(rows["ess"])}
    for goal, met in goals(record).items():
        print(f"{goal}: {'met' if met else 'NOT MET'}")
    write(record, arguments.output)
    if arguments.publish:
        write(record, pretrained.FOLDER / "bayes_regression.json")
    print(f"wrote {arguments.output}")


def tabled(problem, methods, arguments):
    """Every method with every seed: name -> column -> list."""
    table = {name: {} for name in methods}
    for name, seed in itertools.product(methods, range(arguments.seeds)):
        if problem.name == "diabetes" and name == "exact" and seed > 0:
            continue  # nothing in it is random
        columns, found = row(problem, name, seed, arguments.steps)
        print(f"{problem.name}, {name}, seed {seed}: {said(columns)}", flush=True)
        for column, value in columns.items():
            table[name].setdefault(column, []).append(float(f"{value:.6g}"))
        if arguments.publish and (problem.name, name, seed) == ("toy", "nuts", 0):
            torch.save(found.weights[:, ::THINNED].flatten(0, 1).clone(), pretrained.FOLDER / "bayes_regression.pt")
    return table


def goals(record):
    """What every seed should reach, for the methods that took part."""

    def rows(data, name):
        return record.get(data, {}).get(name)

    found = {}
    if toy := rows("toy", "mean_field"):
        found["toy, mean field: ELBO >= -178"] = min(toy["elbo"]) >= -178
    if toy := rows("toy", "nuts"):
        found["toy, NUTS: ratio >= 5"] = min(toy["ratio"]) >= 5
        found["toy, NUTS: in 30 s"] = max(toy["seconds"]) <= 30
    if patients := rows("diabetes", "mean_field"):
        found["diabetes, mean field: NLL <= 1.06"] = max(patients["nll"]) <= 1.06
        low, high = min(patients["coverage"]), max(patients["coverage"])
        found["diabetes, mean field: coverage from 0.88 to 0.96"] = 0.88 <= low <= high <= 0.96
    return found


def versions(methods):
    libraries = {LIBRARIES[name] for name in methods if name in LIBRARIES}
    return {"torch": torch.__version__} | {
        name: importlib.metadata.version(DISTRIBUTIONS[name]) for name in sorted(libraries)
    }


def write(record, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
