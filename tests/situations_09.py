r"""Chapter 9 for the mutation test, and for its tests of equations: values of the symbols where each equation holds.

Nothing here uses course_lib or the formulas of the chapter. Likelihoods and densities are SciPy's. The bound of a
network is the log-evidence less the gap, both from a fine grid, so neither of its two terms is used. Where the chapter
gives an optimum, a search finds it: in the linear model over all parameters of both networks, with the expectations
over the code as sums over nodes of Gauss and Hermite, which are exact there.
"""

import itertools
from functools import cache

import numpy as np
import torch
from complex_steps import slopes
from latex_names import key_of
from latex_numerics import grid
from latex_reader import Depends, Indexed
from scipy import optimize, special, stats

ORDER = "the larger or smaller of two numbers does not depend on their order"
STILL_TRUE = {
    "eq-vae-active": (1, ORDER),
    "eq-vae-information": (
        4,
        "the lower bound stays zero, or a sum with fewer terms or a larger bound above is weaker",
    ),
    "eq-vae-support": (1, "the rate is positive, so a minus sign on the right makes the bound weaker"),
    "def-vae-warm-up": (1, ORDER),
    "def-vae-free-bits": (1, ORDER),
}
NOT_MUTATED = {}
READ_BY_SYMPY = {}
CHANGES = [
    (r"\\geq", r"\\leq"),
    (r"\\leq", r"\\geq"),
    (r"q_\\phi\(z \\mid x(?:_i)?\)", "p(z)"),
    (r"(?<!\})p\(z\)", r"q_\\phi(z \\mid x)"),
    (r"(\\KL\()(.*?) \\,\\\|\\, (.*?\))\)", r"\1\3 \\,\\|\\, \2)"),
    (r"p_\\theta\(x \\mid z\)", r"p_\\theta(x)"),
    (r"(?<=x)_i", ""),
    (r"\\sigma\^2", r"\\sigma"),
    (r" / 2\b", ""),
    (r"\\beta ", ""),
    (r"\\beta'", r"\\beta"),
    (r"\\beta(?!['_])", r"\\beta'"),
    (r"\{(\d) M\}", "{M}"),
    (r"\\frac\{1\}\{(?:\d |N )?[Md]\}", ""),
    (r"\\exp\(", "("),
    (r"\\sigmoid\(", "("),
    (r" \\odot \\varepsilon_s| \\varepsilon_\{sk\}", ""),
    (r"\\max(?!_)", r"\\min"),
    (r"\\min", r"\\max"),
    (r"(?<=_)\\mu", r"\\gamma"),
    (r"(?<=_)\\gamma", r"\\mu"),
    (r"(?<=[ (])\\mu\b", r"\\gamma"),
    (r"\\hat(?=\\|\s?w)", ""),
    (r"\\bar\{q\}", r"q_\\phi"),
    (r"(?<=\()\\gamma", r"\\mu"),
    (r"t / T", "T / t"),
    (r"\\exp\((\\gamma_1)\), \\dots, \\exp\((\\gamma_m)\)", r"\1, \\dots, \2"),
    (r"\\exp\((\\gamma_1)\), \\dots, \\exp\((\\gamma_m)\)", r"\\exp(\1 / 2), \\dots, \\exp(\2 / 2)"),
    (r"I_[dm]", "I"),
    (r"\b1\b(?! \})", "2"),
]


def sympy_names(label):
    return {}


def column(values):
    return np.reshape(values, (-1, 1))


@cache
def hermite(m, n=30):
    """Nodes (rows) and weights for expectations under N(0, I_m)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    points = np.array(list(itertools.product(nodes, repeat=m)))
    return points, np.array([np.prod(chosen) for chosen in itertools.product(weights / weights.sum(), repeat=m)])


# --- two small networks, m = 1: everything on a grid ---

LINE = np.linspace(-11, 11, 2201)


class Networks:
    """A decoder and an encoder with tanh layers, and three data; `sigma` is None for a Bernoulli likelihood."""

    def __init__(self, seed, gaussian, blind=False):
        rng = np.random.default_rng([9, seed, gaussian])
        self.d, self.N = 3, 3
        # the first weights are small, or the tanh would be too steep for the nodes
        self.W1, self.W2 = 0.6 * rng.normal(size=(4, 1)), rng.normal(size=(self.d, 4)) * (not blind)
        self.b1, self.b2 = rng.normal(size=4), rng.normal(size=self.d)
        self.heads = rng.normal(size=(2, self.d)) * 0.4
        self.sigma = (0.8, 1.3)[seed] if gaussian else None
        images = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
        self.x = rng.normal(size=(3, 3)) if gaussian else images[:, rng.permutation(3)]

    def output(self, z):
        """The last sums of the decoder, (..., d), of numbers z (...)."""
        z = np.asarray(z)[..., None]
        return np.tanh(z @ self.W1.T + self.b1) @ self.W2.T + self.b2

    def encoder(self, x):
        """Mean and deviation of q."""
        mean, more = np.tanh(self.heads @ np.ravel(x))
        return mean, 0.75 + 0.2 * more

    def conditional(self, x, z):
        x, a = np.ravel(x), self.output(z)
        if self.sigma is None:
            return stats.bernoulli.pmf(x, special.expit(a)).prod(-1)
        return stats.norm.pdf(x, a, self.sigma).prod(-1)

    def evidence(self, x):
        return (self.conditional(x, LINE) * stats.norm.pdf(LINE)).sum() * (LINE[1] - LINE[0])

    def q(self, z, x):
        return stats.norm.pdf(z, *self.encoder(x))

    def gap(self, x):
        """The divergence of q from the exact posterior."""
        mean, sd = self.encoder(x)
        log_q = stats.norm.logpdf(LINE, mean, sd)
        log_posterior = np.log(self.conditional(x, LINE)) + stats.norm.logpdf(LINE) - np.log(self.evidence(x))
        return (np.exp(log_q) * (log_q - log_posterior)).sum() * (LINE[1] - LINE[0])

    def elbo(self, x):
        return np.log(self.evidence(x)) - self.gap(x)

    def divergence(self, x):
        """Of q from the prior, by nodes; the log-ratio is quadratic."""
        mean, sd = self.encoder(x)
        nodes, weights = hermite(1, 4)
        z = mean + sd * nodes[:, 0]
        return weights @ (stats.norm.logpdf(z, mean, sd) - stats.norm.logpdf(z))

    def names(self, i=2):
        elbos = {row.tobytes(): self.elbo(row) for row in self.x}
        return {
            "x": column(self.x[i - 1]), "x_i": [column(row) for row in self.x], "i": i, "N": self.N, "d": self.d,
            r"\theta": "theta", r"\phi": "phi", "dz": grid(-9, 9, 61), r"\pi": np.pi, r"\sigma": self.sigma,
            "p(z)": stats.norm.pdf, r"p_\theta(x \mid z)": self.conditional, r"p_\theta(x)": self.evidence,
            r"q_\phi(z \mid x)": self.q, r"\elbo(\theta, \phi; x)": lambda t, p, x: elbos[np.ravel(x).tobytes()],
            "a": Depends(lambda names: column(self.output(names["z"]))), "I_d": np.eye(self.d),
        }  # fmt: skip


@cache
def networks(seed, gaussian, blind=False):
    return Networks(seed, gaussian, blind)


def without_data(world):
    """x_j is an entry of x then."""
    return {name: value for name, value in world.names().items() if name != "x_i"}


def bernoulli(seed):
    world, z = networks(seed, gaussian=False), (0.6, -1.2)[seed]
    a = list(world.output(z))
    return without_data(world) | {"z": z, "a_j": a, "x_j": list(world.x[1]), r"\sigmoid": special.expit}


def gaussian(seed):
    return networks(seed, gaussian=True).names() | {"z": (0.6, -1.2)[seed]}


def either(seed):
    """One likelihood each."""
    return networks(seed, gaussian=bool(seed)).names(i=1 + seed)


def loss(seed):
    """The loss with its two terms, the first by Gauss and Hermite."""
    world = networks(seed, gaussian=bool(seed))
    nodes, weights = hermite(1, 60)
    distortion, rate = [], []
    for x in world.x:
        mean, sd = world.encoder(x)
        distortion.append(-weights @ np.log(world.conditional(x, mean + sd * nodes[:, 0])))
        rate.append(world.divergence(x))
    return world.names() | {
        r"\hat{R}(\theta, \phi)": lambda *_: np.mean(distortion) + np.mean(rate),
        r"\Delta": np.mean(distortion), r"\rho": np.mean(rate),
    }  # fmt: skip


def weighted(seed):
    """With a beta: the mean of the log-ratio less the part of the divergence that is not counted."""
    world, beta = networks(seed, gaussian=True), (0.4, 2.7)[seed]
    return world.names(i=1 + seed) | {
        r"\beta": beta,
        r"\elbo_\beta(\theta, \phi; x)": lambda t, p, x: world.elbo(x) + (1 - beta) * world.divergence(x),
    }  # fmt: skip


def best_noise(seed):
    """The noise variance with the smallest loss, by a search."""
    world = networks(seed, gaussian=True)
    nodes, weights = hermite(1, 60)
    means = [world.output(mean + sd * nodes[:, 0]) for mean, sd in map(world.encoder, world.x)]

    def minus_reconstruction(sigma):
        pairs = zip(world.x, means, strict=True)
        return -sum(weights @ stats.norm.logpdf(x, a, sigma).sum(1) for x, a in pairs)

    found = optimize.minimize_scalar(minus_reconstruction, bounds=(0.1, 5), method="bounded", options={"xatol": 1e-10})
    return world.names() | {r"\hat{\sigma}": found.x, r"\sigma": 7.0}


def blind(seed):
    """A decoder that does not look at z."""
    world = networks(seed, gaussian=bool(seed), blind=True)
    return world.names(i=1 + seed)


def aggregated(seed):
    world = networks(seed, gaussian=bool(seed))
    means, sds = np.transpose([world.encoder(x) for x in world.x])

    def mixture(z):
        return np.mean(stats.norm.pdf(z, means, sds))

    return world.names() | {"z": (0.7, -0.4)[seed], r"\bar{q}(z)": mixture}


def information(seed):
    """At both ends: all q are equal, so the code tells nothing; or so far apart that it tells all."""
    N, apart = [(3, 0.0), (4, 14.0)][seed]
    x = [apart * (k - (N - 1) / 2) for k in range(N)]
    return {
        "N": N, "x": 0.5, "x_i": x, "p(z)": stats.norm.pdf,
        r"q_\phi(z \mid x)": lambda z, x: stats.norm.pdf(z, x, 1.0), "dz": grid(-30, 30, 121),
        r"\bar{q}(z)": lambda z: np.mean(stats.norm.pdf(z, x, 1.0)),
    }  # fmt: skip


# --- the encoder's law, samples from it, estimates ---


def heads(seed):
    rng, m, width = np.random.default_rng([91, seed]), 2 + seed, 4
    weights = {name: rng.normal(size=(m, width)) for name in (r"\mu", r"\gamma")}
    biases = {name: rng.normal(size=m) for name in weights}
    h = rng.normal(size=width)
    names = {"h": column(h)}
    for name in weights:
        names |= {f"W_{name}": weights[name], f"b_{name}": column(biases[name])}
        names[name] = column([sum(w * x for w, x in zip(row, h, strict=True)) + b
                              for row, b in zip(weights[name], biases[name], strict=True)])  # fmt: skip
    return names


def code(seed):
    """A mean and a log-variance, the law of the code, and some noise."""
    rng, m, M = np.random.default_rng([92, seed]), 2 + seed, 3 - seed
    mu, gamma = rng.normal(size=m), rng.normal(size=m)
    sd = np.sqrt(np.exp(gamma))
    noise, z = rng.normal(size=(M, m)), rng.normal(size=m)
    points, weights = hermite(m, 4)

    def density(z, x):
        return stats.norm.pdf(np.ravel(z), mu, sd).prod()

    def kl(p, q):
        """Of densities whose log-ratio is quadratic, where the first is that of the code."""
        return weights @ [np.log(p(column(z)) / q(column(z))) for z in mu + points * sd]

    samples = stats.norm.ppf(stats.norm.cdf(noise), mu, sd)  # the quantiles that belong to the noise
    return {
        "m": m, "M": M, "s": 2, "k": 2, "x": 0.3, "z": column(z), r"\mu": column(mu), r"\gamma": column(gamma),
        r"\mu_k": list(mu), r"\gamma_k": list(gamma), r"\varepsilon_s": [column(one) for one in noise],
        r"\varepsilon_{sk}": noise, "z_s": [column(one) for one in samples], r"q_\phi(z \mid x)": density,
        "p(z)": lambda z: stats.norm.pdf(np.ravel(z)).prod(), r"\KL": kl,
    }  # fmt: skip


def estimate(seed):
    """Samples of a code of one dimension, and the estimate, added up in a loop."""
    world, z = networks(seed, gaussian=bool(seed)), [0.4, -1.1, 0.9]
    x = world.x[1]
    bar = sum(np.log(world.conditional(x, one)) for one in z) / 3 - world.divergence(x)
    return world.names() | {"M": 3, "z_s": z, r"\bar{\elbo}(x)": lambda x: bar}


def all_samples(seed):
    """A code with four values: laws are tables, and the expectation of the estimate goes over all triples."""
    rng, M, values = np.random.default_rng([90, seed]), 3, np.arange(1, 5)
    prior, q = rng.dirichlet(np.full(4, 3.0)), rng.dirichlet(np.full(4, 3.0))
    conditional = rng.uniform(0.1, 0.9, size=4)
    divergence = special.rel_entr(q, prior).sum()

    def bar(names):
        samples = names[key_of("z_s")]
        return lambda x: sum(np.log(conditional[int(z) - 1]) for z in samples) / M - divergence

    def over_samples(f):
        """The values of f, and their probabilities."""
        triples = list(itertools.product(range(4), repeat=M))
        chances = np.array([q[list(chosen)].prod() for chosen in triples])
        return np.array([f(**{"z_s": list(values[list(chosen)])}) for chosen in triples]), chances

    def variance(f):
        found, chances = over_samples(f)
        return chances @ (found - chances @ found) ** 2

    return {
        "M": M, "z_s": [1, 4, 2], "x": 0.3, r"\theta": "theta", r"\phi": "phi", r"\bar{\elbo}(x)": Depends(bar),
        r"\E": lambda f: np.dot(*over_samples(f)), r"\Var": variance, r"\sum_z": values,
        r"q_\phi(z \mid x)": lambda z, x: q[int(z) - 1], "p(z)": lambda z: prior[int(z) - 1],
        r"p_\theta(x \mid z)": lambda x, z: conditional[int(z) - 1],
        r"\elbo(\theta, \phi; x)": lambda t, p, x: -special.rel_entr(q, prior * conditional).sum(),
    }  # fmt: skip


# --- slopes ---


def slope_bernoulli(seed):
    names = bernoulli(seed)
    x = np.array(names["x_j"])

    def losses(names):
        a = names[key_of("a_j")]
        a = np.array([a[k] for k in sorted(a)] if isinstance(a, dict) else a)
        return {2: -np.log(stats.bernoulli.pmf(x, special.expit(a))).sum(), 3: 4.0}

    j = 1 + int((x.argmax, x.argmin)[seed]())  # a one, and a zero
    return names | {"R_s": Depends(losses), "s": 2, "j": j}


def slope_gaussian(seed):
    """R_s follows the entries of a, and the logarithm nu of the variance."""
    world = networks(seed, gaussian=True)
    a, x = world.output(0.8), world.x[1]

    def losses(names):
        a = names[key_of("a_j")]
        a = np.array([a[k] for k in sorted(a)] if isinstance(a, dict) else a)
        return {2: -stats.norm.logpdf(x, a, np.sqrt(np.exp(names[r"\nu"]))).sum(), 3: 4.0}

    return without_data(world) | {
        "a": column(a), "a_j": list(a), "x_j": list(x), r"\nu": 2 * np.log(world.sigma), "R_s": Depends(losses), "s": 2,
        "j": 1 + seed,
    }  # fmt: skip


def through_the_sample(seed):
    """R as a function of the mean and the log-variance; the slopes of R_s by z_s come from complex steps."""
    rng, names = np.random.default_rng([93, seed]), code(seed)
    m, M, noise, d = names["m"], names["M"], names[r"\varepsilon_{sk}"], 4
    W1, W2, x = rng.normal(size=(5, m)), rng.normal(size=(d, 5)), rng.normal(size=d)

    def part(z):
        return ((x - W2 @ np.tanh(W1 @ z)) ** 2).sum() / 1.6 + 0.5 * d * np.log(1.6 * np.pi)

    def vector(names, letter):
        """What changes is either the column or the family of its entries."""
        family = names[key_of(letter + "_k")]
        entries = [family[k] for k in sorted(family)] if isinstance(family, dict) else family
        return np.array(entries, dtype=float)

    def whole(names):
        mu, gamma = vector(names, r"\mu"), vector(names, r"\gamma")
        sd = np.exp(gamma) ** 0.5
        points, weights = hermite(m, 4)
        z = mu + sd * points
        kl = weights @ (stats.norm.logpdf(z, mu, sd) - stats.norm.logpdf(z)).sum(1)
        return sum(part(mu + sd * one) for one in noise) / M + kl

    z = [np.ravel(one) for one in names["z_s"]]
    by_z = [slopes(part, one) for one in z]
    return names | {
        "R": Depends(whole),
        r"\frac{\partial R_s}{\partial z_s}": Indexed(lambda s, t: column(by_z[s - 1] * (s == t))),
        r"\frac{\partial R_s}{\partial z_{sk}}": Indexed(lambda s, t, k: by_z[s - 1][k - 1] * (s == t)),
    }  # fmt: skip


# --- the linear model ---


class Linear:
    """Linear networks and six data in three dimensions. All parameters are found by a search."""

    def __init__(self, seed):
        rng = np.random.default_rng([94, seed])
        self.d, self.m, self.N = 3, 2, 6
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        self.x = rng.normal(size=(6, 3)) * (1.9, 1.2, 0.6) @ turn + (0.5, -1.0, 0.8)
        self.sigma, self.optima = (0.6, 0.9)[seed], {}
        centred = self.x - self.x.mean(0)
        self.S = centred.T @ centred / self.N
        self.eigenvalues, self.eigenvectors = (found[..., ::-1] for found in np.linalg.eigh(self.S))

    def terms(self, params, x=None):
        """Distortion and rate (means over the data), by nodes. Of the flat tensor, A and c make the mean of q, G and g
        its log-variance."""
        d, m, x = self.d, self.m, torch.from_numpy(self.x if x is None else x)
        W, b, A, c, G, g = torch.split(params, [d * m, d, m * d, m, m * d, m])
        mean, log_var = (x @ P.view(m, d).T + p for P, p in ((A, c), (G, g)))
        nodes, weights = map(torch.from_numpy, hermite(m, 4))
        z = mean + (log_var / 2).exp() * nodes[:, None]
        law = torch.distributions.Normal
        a = z @ W.view(d, m).T + b
        distortion = -weights @ law(a, self.sigma).log_prob(x).sum(-1).mean(1)
        log_ratio = law(mean, (log_var / 2).exp()).log_prob(z) - law(0.0, 1.0).log_prob(z)
        return distortion, weights @ log_ratio.sum(-1).mean(1)

    def optimum(self, beta):
        """The parameters with the smallest distortion + beta rate, found once."""
        if beta not in self.optima:
            self.optima[beta] = self.search(beta)
        return self.optima[beta]

    def search(self, beta):
        """By BFGS, and then by Newton steps to the last digit."""

        def value(params):
            distortion, rate = self.terms(params)
            return distortion + beta * rate

        def with_slope(flat):
            params = torch.tensor(flat, requires_grad=True)
            one = value(params)
            (grad,) = torch.autograd.grad(one, params)
            return one.item(), grad.numpy()

        size = 3 * self.d * self.m + self.d + 2 * self.m
        start = np.random.default_rng([95, self.N]).normal(size=size) * 0.3
        found = optimize.minimize(with_slope, start, jac=True, method="BFGS", options={"maxiter": 2000, "gtol": 1e-9})
        params = torch.tensor(found.x)
        for _ in range(3):
            slope = torch.from_numpy(with_slope(params.numpy())[1])
            params = params - torch.linalg.solve(torch.autograd.functional.hessian(value, params), slope)
        assert np.abs(with_slope(params.numpy())[1]).max() < 1e-10
        return params

    def columns(self, beta):
        """Those of the best W, the longest first."""
        W = self.optimum(beta)[: self.d * self.m].view(self.d, self.m).numpy()
        return sorted((column(w) for w in W.T), key=lambda w: -np.sum(w**2))

    def curve(self, beta):
        return tuple(term.item() for term in self.terms(self.optimum(float(beta))))

    def evidence(self, W, b):
        return stats.multivariate_normal(np.ravel(b), W @ W.T + self.sigma**2 * np.eye(self.d)).pdf

    def best_likelihood(self):
        """The best W and b of the marginal, by a search."""
        d, m = self.d, self.m

        def minus(flat):
            return -np.log(self.evidence(flat[: d * m].reshape(d, m), flat[d * m :])(self.x)).mean()

        start = np.random.default_rng(96).normal(size=d * m + d)
        found = optimize.minimize(minus, start, method="BFGS", options={"gtol": 1e-7}).x
        return found[: d * m].reshape(d, m), column(found[d * m :])


@cache
def line(seed):
    return Linear(seed)


def linear_error(seed):
    rng, d, m = np.random.default_rng([97, seed]), 3, 2
    W, b, x, mu, gamma = (rng.normal(size=size) for size in ((d, m), d, d, m, m))
    points, weights = hermite(m, 4)
    z = mu + points * np.exp(gamma / 2)
    return {
        "W": W, "w_k": [column(w) for w in W.T], "b": column(b), "x": column(x), r"\mu": column(mu), "m": m,
        r"\gamma_k": list(gamma), r"\E_{q_\phi(z \mid x)}": lambda f: weights @ [f(z=column(one)) for one in z],
    }  # fmt: skip


@cache
def linear_max(seed):
    """Both maxima over the one that was found and some others."""
    world = line(seed)
    d, m, N = world.d, world.m, world.N
    rng, best = np.random.default_rng(98), world.optimum(1.0)
    tried = [best, *(best + torch.tensor(rng.normal(size=len(best)) * size) for size in (0.01, 0.1, 1.0))]
    W, b = world.best_likelihood()
    others = [(W, b), *((W + rng.normal(size=(d, m)) * size, b + size) for size in (0.01, 0.1, 1.0))]

    def bound(names):
        """Of one datum."""
        return lambda theta, phi, x: -sum(term.item() for term in world.terms(names[r"\phi"], x.T))

    return {
        "N": N, "x_i": [column(x) for x in world.x], r"\theta": "theta", r"\phi": best, "W": W, "b": b,
        r"\elbo(\theta, \phi; x)": Depends(bound),
        r"p_\theta(x)": Depends(lambda names: lambda x: world.evidence(names["W"], names["b"])(np.ravel(x))),
        r"\max_{W, b, \phi}": lambda f: max(f(**{r"\phi": params}) for params in tried),
        r"\max_{W, b}": lambda f: max(f(W=W, b=b) for W, b in others),
    }  # fmt: skip


def best_variance(seed):
    """The log-variances with the smallest loss of one datum, for a decoder that is held, by a search."""
    names, beta, sigma = linear_error(seed), (0.5, 1.8)[seed], (0.7, 1.2)[seed]
    W, x, mu = names["W"], np.ravel(names["x"]), np.ravel(names[r"\mu"])
    points, weights = hermite(2, 4)

    def minus_bound(gamma):
        sd = np.exp(gamma / 2)
        z = mu + points * sd
        log_conditional = stats.norm.logpdf(x, z @ W.T + np.ravel(names["b"]), sigma).sum(1)
        kl = (stats.norm.logpdf(z, mu, sd) - stats.norm.logpdf(z)).sum(1)
        return weights @ (beta * kl - log_conditional)

    found = optimize.minimize(minus_bound, np.zeros(2), options={"gtol": 1e-8}).x
    return names | {r"\hat{\gamma}_k": list(found), r"\beta": beta, r"\sigma": sigma, "k": 1 + seed}


ACTIVE = [(0, 1.0, 1), (0, 1.6, 2), (1, 0.7, 2), (1, 2.5, 1), (1, 2.5, 2)]  # world, beta, k


def active(case):
    seed, beta, k = ACTIVE[case]
    world = line(seed)
    return {
        r"\hat{w}_k": world.columns(beta), r"\lambda_k": list(world.eigenvalues), r"\beta": beta, "k": k,
        r"\sigma": world.sigma,
    }  # fmt: skip


def frontier(seed):
    """Two points of the curve of the linear model, the first with the smaller or the larger weight."""
    world, (beta, other) = line(0), [(0.8, 1.3), (1.3, 0.8)][seed]
    return {
        r"\beta": beta, r"\beta'": other, r"\Delta(\beta)": lambda beta: world.curve(beta)[0],
        r"\rho(\beta)": lambda beta: world.curve(beta)[1],
    }  # fmt: skip


def tangent(seed):
    world, beta = line(0), (0.8, 1.3)[seed]
    return {
        r"\beta": beta, r"\beta'": 2.0, r"\Delta": Depends(lambda names: world.curve(names[r"\beta"])[0]),
        r"\rho": Depends(lambda names: world.curve(names[r"\beta"])[1]),
    }  # fmt: skip


# --- free bits and warm-up ---


def free_bits(seed):
    """A batch of two among four data, codes of three dimensions, one or two of which are below the floor."""
    rng, N, d, m = np.random.default_rng([99, seed]), 4, 3, 3
    mu, gamma = rng.normal(size=(N, m)) * (0.3, 1.0, 1.8), rng.normal(size=(N, m)) * (0.3, 0.6, 0.9)
    W, x = rng.normal(size=(d, m)), rng.normal(size=(N, d))
    points, weights = hermite(m, 4)
    z = mu[:, None] + points * np.exp(gamma[:, None] / 2)

    def conditional(x, z):
        return stats.norm.pdf(np.ravel(x), W @ np.ravel(z), 0.9).prod()

    log_ratio = stats.norm.logpdf(z, mu[:, None], np.exp(gamma[:, None] / 2)) - stats.norm.logpdf(z)
    rho = np.einsum("p,ipk->ik", weights, log_ratio)
    log_p = stats.norm.logpdf(x[:, None], z @ W.T, 0.9).sum(-1) @ weights
    B, kappa = [({1, 3}, 0.15), ({2, 3}, 0.5)][seed]
    rows = [i - 1 for i in sorted(B)]
    floors = np.maximum(kappa, rho[rows].mean(0))
    return {
        "B": B, "b": 2, "N": N, "m": m, "x_i": [column(row) for row in x], r"\rho_{ik}": rho, r"\kappa": kappa,
        r"\theta": "theta", r"\phi": "phi", r"p_\theta(x \mid z)": conditional,
        r"\E_{q_\phi(z \mid x_i)}": Depends(
            lambda names: lambda f: weights @ [f(z=column(one)) for one in z[names["i"] - 1]]
        ),
        r"\hat{R}_\kappa(\theta, \phi)": lambda *_: floors.sum() - log_p[rows].mean(),
    }  # fmt: skip


def warm_up(seed):
    ramp = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.0, 1.0, 1.0]  # the steps 1 to 11, of which 8 climb
    return {"t": (3, 10)[seed], "T": 8, r"\beta_t": ramp}


WORLDS = {
    bernoulli: ("def-vae-bernoulli", "eq-vae-bernoulli-log"),
    gaussian: ("def-vae-gaussian", "eq-vae-gaussian-log"),
    heads: ("def-vae-heads",),
    code: ("def-vae-encoder", "eq-vae-kl", "def-vae-sample"),
    either: ("def-vae-objective",),
    loss: ("def-vae-loss", "def-vae-rate"),
    estimate: ("def-vae-estimate",),
    all_samples: ("eq-vae-estimate",),
    slope_bernoulli: ("eq-vae-slope-bernoulli",),
    slope_gaussian: ("eq-vae-slope-gaussian", "eq-vae-slope-noise"),
    through_the_sample: ("eq-vae-slope-mean", "eq-vae-slope-log-var"),
    linear_error: ("eq-vae-linear-error",),
    linear_max: ("eq-vae-linear-max",),
    weighted: ("def-vae-beta", "eq-vae-beta-is-noise", "eq-vae-gaussian-bound"),
    best_noise: ("eq-vae-best-noise",),
    best_variance: ("eq-vae-best-variance",),
    active: ("eq-vae-active",),
    aggregated: ("def-vae-aggregated", "eq-vae-split-rate"),
    information: ("eq-vae-information",),
    blind: ("eq-vae-collapsed",),
    free_bits: ("def-vae-free-bits",),
    warm_up: ("def-vae-warm-up",),
    frontier: ("eq-vae-support",),
    tangent: ("eq-vae-tangent",),
}  # fmt: skip


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    several = {active: range(len(ACTIVE))}
    return [world(seed) for world, labels in WORLDS.items() if label in labels for seed in several.get(world, (0, 1))]
