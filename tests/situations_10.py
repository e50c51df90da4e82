r"""Chapter 10 for the mutation test, and for its tests of equations: values of the symbols where each equation holds.

Nothing here uses course_lib or the formulas of the chapter. Evidences, posteriors and free energies come from fine
grids, from tables, or from sums over nodes of Gauss and Hermite; optima from searches; slopes from complex steps. The
posterior of the line comes from the joint law of the weights and the targets.
"""

import itertools
import math
from functools import cache, cached_property

import numpy as np
from complex_steps import slopes
from latex_names import key_of
from latex_numerics import grid, slope
from latex_reader import Depends
from scipy import optimize, special, stats

STILL_TRUE = {
    "eq-vb-unbiased": (2, "both estimates have the same expectation, so one may stand for the other"),
}
NOT_MUTATED = {}
READ_BY_SYMPY = {}
CHANGES = [
    (r"\\geq", r"\\leq"),
    (r"\\leq", r"\\geq"),
    (r"-(?=\\elbo)", ""),
    (r"(?<!, )p\(\\theta\)", r"q(\\theta)"),
    (r"p\(\\theta \\mid X, y\)", r"p(\\theta)"),
    (r"p\(y \\mid X, \\theta\)", r"p(\\theta \\mid X, y)"),
    (r"p\(y \\mid X\)", r"p(y \\mid X, \\theta)"),
    (r"q(?:_\\phi)?\(\\theta\)", r"p(\\theta)"),
    (r"(\\KL\()(.*?) \\,\\\|\\, (.*?\)?)\)", r"\1\3 \\,\\|\\, \2)"),
    (r"\\(sigma|tau)\^2", r"\\\1"),
    (r"_j\^2", "_j"),
    (r"\\exp\(", "("),
    (r"\\frac\{\\gamma(?:_j)?\}\{2\}", r"\\gamma_j"),
    (r" / 2\b", ""),
    (r"\\hat(?=\{?\\?[Ftps])", r"\\bar"),
    (r"\\bar(?=\{?[Fp])", r"\\hat"),
    (r"\\hat\{\\sigma\}", r"\\sigma"),
    (r"\{M\}", "{M+1}"),
    (r"\\frac\{1\}\{2? ?M\}", ""),
    (r"(?<=[\w}])_s\b", ""),
    (r" \\odot \\varepsilon_s| \\varepsilon_\{sj\}| \\varepsilon_j", ""),
    (r"\\mu_j(?!m)", r"\\gamma_j"),
    (r"\\gamma_j(?!m)", r"\\mu_j"),
    (r"\\Sigma|\\Lambda(?!_)", "I_d"),
    (r"\\lambda", r"2 \\lambda"),
    (r"(?<=[ (])v\b", "v^2"),
    (r"\\frac\{N\}\{b\}", r"\\frac{b}{N}"),
    (r"w_k ", ""),
    (r"B_k", "B_{k+1}"),
    (r"N_B", "N"),
    (r"h_m\^2", "h_m"),
    (r"\\sqrt\{v_j\}", "v_j"),
    (r"\\delta_j ", ""),
    (r"x'", "x_1"),
    (r"\\bar\{x\}", "0"),
    (r"\bS\b", "1"),
    (r"\bT (?!\})", ""),
    (r"1/T", "T"),
    (r"\\E_q\[H\(p_\\theta\)\]", r"H(\\bar{p})"),
    (r"\\E_\{q\(\\theta\)\}", r"\\E_{p(\\theta)}"),
    (r"z_i\)", "z_1)"),
    (r"\b1\b(?! \}|\})", "2"),
]


def sympy_names(label):
    return {}


def column(values):
    return np.reshape(values, (-1, 1))


@cache
def hermite(m, n=4):
    """Nodes (rows) and weights for expectations under N(0, I_m)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    points = np.array(list(itertools.product(nodes, repeat=m)))
    return points, np.array([np.prod(chosen) for chosen in itertools.product(weights / weights.sum(), repeat=m)])


def entry(names, name):
    """The entries of a column or of a family, as an array, as they are at this moment."""
    value = names[key_of(name)]
    return np.array([value[k] for k in sorted(value)] if isinstance(value, dict) else value, dtype=float)


# --- one weight in a function that is not linear: everything on a grid ---

LINE = np.linspace(-9, 9, 3601)
STEP = LINE[1] - LINE[0]


class OneWeight:
    """f(x) = tanh(theta x) + theta / 2, three data, and a normal q."""

    def __init__(self, seed):
        rng = np.random.default_rng([10, seed])
        self.N, self.sigma, self.tau = 3, (0.7, 1.2)[seed], (1.4, 0.8)[seed]
        self.x, self.y = rng.uniform(-1.5, 1.5, size=self.N), rng.normal(size=self.N)
        self.mean, self.sd = (0.6, -0.4)[seed], (0.8, 0.6)[seed]

    def f(self, theta, x):
        return np.tanh(np.multiply(theta, x)) + np.multiply(0.5, theta)

    def one(self, y, x, theta, sigma=None):
        return stats.norm.pdf(y, self.f(theta, x), self.sigma if sigma is None else sigma)

    def likelihood(self, theta, sigma=None):
        return np.prod([self.one(y, x, theta, sigma) for x, y in zip(self.x, self.y, strict=True)], axis=0)

    def log_likelihood(self, theta, sigma=None):
        sigma, pairs = self.sigma if sigma is None else sigma, zip(self.x, self.y, strict=True)
        return sum(stats.norm.logpdf(y, self.f(theta, x), sigma) for x, y in pairs)

    def prior(self, theta):
        return stats.norm.pdf(theta, 0, self.tau)

    def q(self, theta):
        return stats.norm.pdf(theta, self.mean, self.sd)

    def evidence(self):
        return (self.likelihood(LINE) * self.prior(LINE)).sum() * STEP

    def predictive(self, y, x):
        """A ratio of two evidences, with and without the new datum."""
        return (self.one(y, x, LINE) * self.likelihood(LINE) * self.prior(LINE)).sum() * STEP / self.evidence()

    def free_energy(self):
        """The evidence and the gap, neither of which is a term of the free energy."""
        log_q = stats.norm.logpdf(LINE, self.mean, self.sd)
        log_posterior = np.log(self.likelihood(LINE) * self.prior(LINE) / self.evidence())
        return -np.log(self.evidence()) + (self.q(LINE) * (log_q - log_posterior)).sum() * STEP

    def under_q(self, f):
        nodes, weights = hermite(1, 80)
        return weights @ f(self.mean + self.sd * nodes[:, 0])

    def divergence(self):
        return self.under_q(lambda t: stats.norm.logpdf(t, self.mean, self.sd) - stats.norm.logpdf(t, 0, self.tau))

    def names(self):
        bound = self.free_energy()
        return {
            "N": self.N, "X": column(self.x), "y": column(self.y), "x_i": list(self.x), "y_i": list(self.y),
            "x'": 0.9, "y'": -0.4, r"\theta": 0.35, r"\sigma": self.sigma, r"\pi": np.pi, r"d\theta": grid(-9, 9, 121),
            r"f_\theta(x)": Depends(lambda names: lambda x: self.f(names[r"\theta"], x).item()),
            r"p(y \mid x, \theta)": self.one, r"p(y \mid X, \theta)": lambda y, x, theta: self.likelihood(theta),
            r"p(\theta)": self.prior, r"q(\theta)": self.q, r"q_\phi(\theta)": self.q,
            r"p(y \mid X)": lambda y, x: self.evidence(), r"p(y \mid x, X, y)": lambda y, x, *_: self.predictive(y, x),
            r"p(\theta \mid X, y)": lambda t, *_: self.likelihood(t) * self.prior(t) / self.evidence(),
            "F(q)": lambda q: bound, r"\elbo(q; y)": lambda q, y: -bound,
            "H": lambda q: stats.norm(self.mean, self.sd).entropy(),
        }  # fmt: skip


@cache
def one_weight(seed):
    return OneWeight(seed)


def network(seed):
    return one_weight(seed).names()


def posterior(seed):
    """The posterior as a histogram of weighted nodes, not as a quotient."""
    world = one_weight(seed)
    log_density = world.log_likelihood(LINE) + stats.norm.logpdf(LINE, 0, world.tau)
    density = special.softmax(log_density) / STEP
    return world.names() | {r"p(\theta \mid X, y)": lambda t, *_: np.interp(t, LINE, density)}


def two_variances(seed):
    """Under the posterior on the nodes of a grid, with noise of three values on the target."""
    world, names = one_weight(seed), network(seed)
    nodes = np.linspace(-5, 5, 81)
    weights = special.softmax(np.log(world.likelihood(nodes)) + np.log(world.prior(nodes)))
    noise, chances = hermite(1, 3)

    def drawn(f):
        draws = [(t, e, a * b) for t, a in zip(nodes, weights, strict=True)
                 for e, b in zip(noise[:, 0], chances, strict=True)]  # fmt: skip
        values = [f(**{r"\theta": t, "y'": world.f(t, names["x'"]) + world.sigma * e}) for t, e, _ in draws]
        return np.array(values), np.array([chance for *_, chance in draws])

    def variance(f):
        values, chances = drawn(f)
        return chances @ (values - chances @ values) ** 2

    return names | {r"\E": lambda f: np.dot(*drawn(f)), r"\Var": variance}


def identity(seed):
    """The free energy by its own expectation here, since the display has the evidence and the gap."""
    world = one_weight(seed)
    found = world.divergence() - world.under_q(world.log_likelihood)
    return world.names() | {"F(q)": lambda q: found}


def best_noise(seed):
    """The noise with the smallest free energy, by a search."""
    world = one_weight(seed)

    def free_energy(sigma):
        return world.divergence() - world.under_q(lambda t: world.log_likelihood(t, sigma))

    found = optimize.minimize_scalar(free_energy, bounds=(0.1, 5), method="bounded", options={"xatol": 1e-11}).x
    tried = [0.2, 0.6, found, 1.0, 1.7, 4.0]
    return world.names() | {
        r"\hat{\sigma}": found, r"\sigma": 3.3, "F(q)": Depends(lambda names: lambda q: free_energy(names[r"\sigma"])),
        r"\min_{\sigma}": lambda f: min(f(**{r"\sigma": sigma}) for sigma in tried),
    }  # fmt: skip


def tempered(seed):
    world, T = one_weight(seed), (0.4, 2.5)[seed]
    density = special.softmax(np.log(world.prior(LINE)) + world.log_likelihood(LINE) / T) / STEP
    free_energy = T * world.divergence() - world.under_q(world.log_likelihood)
    return world.names() | {"T": T, "F_T(q)": lambda q: free_energy}, density


def tempered_bound(seed):
    return tempered(seed)[0]


def tempered_law(seed):
    names, density = tempered(seed)
    return names | {r"q(\theta)": lambda t: np.interp(t, LINE, density)}


def unbiased(seed):
    """All pairs of nodes for two draws of the weight."""
    world, M = one_weight(seed), 2
    nodes, weights = hermite(2, 26)
    draws = world.mean + world.sd * nodes

    def closed(names):
        return lambda phi: world.divergence() - np.mean(np.log(world.likelihood(np.array(names[key_of(r"\theta_s")]))))

    def sampled(names):
        def value(phi):
            t = np.array(names[key_of(r"\theta_s")])
            return np.mean(np.log(world.q(t) / world.prior(t) / world.likelihood(t)))

        return value

    return world.names() | {
        "M": M, r"\phi": "phi", r"\theta_s": [0.3, 0.9], r"\hat{F}(\phi)": Depends(closed),
        r"\bar{F}(\phi)": Depends(sampled), r"F(\phi)": lambda phi: world.free_energy(),
        r"\E": lambda f: weights @ [f(**{r"\theta_s": list(pair)}) for pair in draws],
    }  # fmt: skip


def estimates(seed):
    """Three draws of the weight, and both estimates added up in a loop."""
    world, draws = one_weight(seed), [0.4, -1.1, 0.9]
    closed, sampled = world.divergence(), 0.0
    for t in draws:
        log_p = sum(stats.norm.logpdf(y, world.f(t, x), world.sigma) for x, y in zip(world.x, world.y, strict=True))
        closed -= log_p / 3
        sampled += (stats.norm.logpdf(t, world.mean, world.sd) - stats.norm.logpdf(t, 0, world.tau) - log_p) / 3
    return world.names() | {
        "M": 3, r"\phi": "phi", r"\theta_s": draws, r"\hat{F}(\phi)": lambda phi: closed,
        r"\bar{F}(\phi)": lambda phi: sampled,
    }  # fmt: skip


def fixed_noise(seed):
    """The smallest over some parameters of the estimate with one draw, and of the free energy itself."""
    world = one_weight(seed)
    nodes, weights = hermite(1, 9)
    pairs = [(m, s) for m in (-0.8, 0.0, 0.5, 1.0) for s in (0.15, 0.4, 0.9)]
    laws = {pair: OneWeight(seed) for pair in pairs}
    for (mean, sd), law in laws.items():
        law.mean, law.sd = mean, sd
    rate = {pair: law.divergence() for pair, law in laws.items()}
    free = {pair: law.free_energy() for pair, law in laws.items()}

    def estimate(phi, epsilon):
        return rate[phi] - np.log(world.likelihood(phi[0] + phi[1] * epsilon))

    return {
        r"\phi": pairs[2], r"\varepsilon": 0.4, r"\hat{F}(\phi, \varepsilon)": estimate, r"F(\phi)": free.get,
        r"\min_{\phi}": lambda f: min(f(**{r"\phi": pair}) for pair in pairs),
        r"\E_\varepsilon": lambda f: weights @ [f(**{r"\varepsilon": e}) for e in nodes[:, 0]],
    }  # fmt: skip


def parabola(seed):
    """One weight, a log-likelihood that is a parabola, one draw: the noise runs over its nodes."""
    tau, lam, top, mu, v = [(1.3, 0.8, 0.9, -0.4, 0.5), (0.7, 2.3, -1.1, 0.6, 0.2)][seed]
    nodes, weights = hermite(1, 8)

    def both(names):
        mean, sd = names[r"\mu"], names["v"] ** 0.5
        theta = mean + sd * names[r"\varepsilon"]
        divergence = hermite(1)[1] @ [
            stats.norm.logpdf(mean + sd * e, mean, sd) - stats.norm.logpdf(mean + sd * e, 0, tau)
            for e in hermite(1)[0][:, 0]
        ]
        log_p = 0.7 - lam / 2 * (theta - top) ** 2
        ratio = stats.norm.logpdf(theta, mean, sd) - stats.norm.logpdf(theta, 0, tau)
        return divergence - log_p, ratio - log_p

    def variance(f):
        values = np.array([f(**{r"\varepsilon": e}) for e in nodes[:, 0]])
        return weights @ (values - weights @ values) ** 2

    return {
        r"\tau": tau, r"\lambda": lam, r"\hat{\theta}": top, r"\bar{\theta}": 7.0, r"\mu": mu, "v": v, r"\phi": "phi",
        r"\varepsilon": 0.3, r"\Var": variance, r"\hat{F}": Depends(lambda names: both(names)[0]),
        r"\bar{F}": Depends(lambda names: both(names)[1]),
        r"\hat{F}(\phi)": Depends(lambda names: lambda phi: both(names)[0]),
        r"\bar{F}(\phi)": Depends(lambda names: lambda phi: both(names)[1]),
    }  # fmt: skip


# --- the linear model ---


class Linear:
    """Its posterior from the joint law of the weights and the targets, which is normal."""

    def __init__(self, seed):
        rng = np.random.default_rng([11, seed])
        self.d, self.N = 2 + seed, 4 + seed
        self.tau, self.sigma = (0.6, 0.4)[seed], (0.3, 0.5)[seed]  # so small that the densities are large
        self.X, self.y = rng.normal(size=(self.N, self.d)), 0.3 * rng.normal(size=self.N)
        self.new, self.target = rng.normal(size=self.d), 0.8
        self.among = self.tau**2 * self.X @ self.X.T + self.sigma**2 * np.eye(self.N)
        gain = self.tau**2 * np.linalg.solve(self.among, self.X).T
        self.mean, self.cov = gain @ self.y, self.tau**2 * np.eye(self.d) - gain @ self.X * self.tau**2
        self.gamma = rng.normal(size=self.d) * 0.5

    def log_likelihood(self, theta):
        """Of rows of weights."""
        return stats.norm.logpdf(self.y, np.atleast_2d(theta) @ self.X.T, self.sigma).sum(-1)

    def log_prior(self, theta):
        return stats.norm.logpdf(np.atleast_2d(theta), 0, self.tau).sum(-1)

    def in_a_box(self, T=1.0):
        """Evidence, mean and covariance of the weights under the tempered likelihood: sums over nodes."""
        sd = np.sqrt(np.diag(self.cov)) * max(1.0, T**0.5)
        line = np.linspace(-9, 9, 61)
        points = self.mean + sd * np.array(list(itertools.product(line, repeat=self.d)))
        density = np.exp(self.log_prior(points) + self.log_likelihood(points) / T)
        total, cell = density.sum(), np.prod(sd * (line[1] - line[0]))
        mean = density @ points / total
        return total * cell, mean, (points - mean).T @ ((points - mean) * density[:, None]) / total

    def free_energy(self, mean, gamma):
        """The terms are quadratic in the weights, so a few nodes give them."""
        points, weights = hermite(self.d)
        sd = np.exp(np.asarray(gamma) / 2)
        theta = mean + sd * points
        log_q = stats.norm.logpdf(theta, mean, sd).sum(1)
        return weights @ (log_q - self.log_prior(theta) - self.log_likelihood(theta))

    @cached_property
    def best(self):
        """Mean and log-variance with the smallest free energy, by a search."""
        found = optimize.minimize(
            lambda flat: self.free_energy(flat[: self.d], flat[self.d :]), np.zeros(2 * self.d), options={"gtol": 1e-9}
        ).x
        return found[: self.d], found[self.d :]

    def joint(self, y, x):
        """The density of all targets and of a new one."""
        rows = np.vstack([self.X, np.ravel(x)])
        cov = self.tau**2 * rows @ rows.T + self.sigma**2 * np.eye(len(rows))
        return stats.multivariate_normal(cov=cov).pdf([*self.y, np.squeeze(y)])

    def names(self):
        evidence = stats.multivariate_normal(cov=self.among).pdf(self.y)
        law = stats.multivariate_normal(self.mean, self.cov)
        theta = column(self.mean + 0.3)
        return {
            "d": self.d, "N": self.N, "X": self.X, "y": column(self.y), "x'": column(self.new), "y'": self.target,
            "x_1": column(self.X[0]), "x_{ij}": self.X, r"\theta": theta, r"\tau": self.tau, r"\sigma": self.sigma,
            r"\mu": column(self.mean), r"\Sigma": self.cov, r"\Lambda": np.linalg.inv(self.cov),
            r"\Lambda_{jj}": np.linalg.inv(self.cov), r"\pi": np.pi, "I_d": np.eye(self.d), "I_N": np.eye(self.N),
            r"p(y \mid X)": lambda y, x: evidence,
            r"p(y \mid X, \theta)": lambda y, x, t: np.exp(self.log_likelihood(t.T)).item(),
            r"p(y \mid X, \mu)": lambda y, x, t: np.exp(self.log_likelihood(t.T)).item(),
            r"p(\theta)": lambda t: np.exp(self.log_prior(t.T)).item(),
            r"p(\mu)": lambda t: np.exp(self.log_prior(t.T)).item(),
            r"p(\theta \mid X, y)": lambda t, *_: law.pdf(np.ravel(t)),
            r"p(y \mid x, X, y)": lambda y, x, *_: self.joint(y, x) / evidence,
        }  # fmt: skip


@cache
def linear(seed):
    return Linear(seed)


def regression(seed):
    return linear(seed).names()


def ridge(seed):
    world = linear(seed)

    def smallest(f):
        found = optimize.minimize(
            lambda flat: f(**{r"\theta": column(flat)}), np.zeros(world.d), options={"maxiter": 60}
        )
        return column(found.x)

    return world.names() | {r"\argmin_{\theta}": smallest}


def by_nodes(seed):
    """Density of the targets as a sum over the weights."""
    world = linear(seed)
    evidence = world.in_a_box()[0]
    return world.names() | {r"p(y \mid X)": lambda *_: evidence}


def tempered_line(seed):
    world, T = linear(seed), (0.4, 2.5)[seed]
    return world.names() | {"T": T, r"\Sigma_T": world.in_a_box(T)[2]}


def linear_free_energy(seed):
    """Of a q that is not the best one."""
    world = linear(seed)
    mean = world.mean + 0.5
    points, weights = hermite(world.d)
    sd = np.exp(world.gamma / 2)

    def density(t):
        return stats.norm.pdf(np.ravel(t), mean, sd).prod()

    def kl(p, q):
        """Of densities whose log-ratio is quadratic, where the first is that of q."""
        return weights @ [np.log(p(column(t)) / q(column(t))) for t in mean + sd * points]

    return world.names() | {
        r"\mu": column(mean), r"\gamma_j": list(world.gamma), r"\mu_j": list(mean), r"\KL": kl, r"\phi": "phi",
        r"q_\phi(\theta)": density, r"F(\phi)": lambda phi: world.free_energy(mean, world.gamma),
    }  # fmt: skip


def linear_mean_field(seed):
    world = linear(seed)
    mean, gamma = world.best
    return world.names() | {
        r"\gamma_j": list(gamma), r"\mu_j": list(mean), "j": 1 + seed, r"\phi": "phi",
        r"F(\phi)": lambda phi: world.free_energy(mean, gamma),
    }  # fmt: skip


def line(seed):
    """A line through five points: its posterior by least squares, the best product by a search."""
    rng = np.random.default_rng([12, seed])
    N, sigma = 5 + seed, (0.6, 1.3)[seed]
    x = rng.normal((2.0, -1.0)[seed], (0.7, 1.5)[seed], size=N)
    A = np.stack([np.ones(N), x], 1)
    triangle = np.linalg.qr(A)[1]
    root = sigma * np.linalg.inv(triangle)  # the covariance is root root^T
    points, weights = hermite(2)

    def gap(log_sd):
        """The divergence of a product from the posterior, but for a constant."""
        z = np.linalg.solve(root, (np.exp(log_sd) * points).T)
        return 0.5 * weights @ (z**2).sum(0) - np.sum(log_sd)

    sd = np.exp(optimize.minimize(gap, np.zeros(2), options={"gtol": 1e-10}).x)

    def variance(draws):
        def value(f):
            values = np.array([f(**{r"\theta": draw}) for draw in draws])
            return weights @ (values - weights @ values) ** 2

        return value

    centre = np.array([0.4, -0.7])
    return {
        "N": N, r"\sigma": sigma, "x'": (3.1, 0.6)[seed], r"\bar{x}": x.mean(), "S": np.var(x), "x_1": x[0],
        r"f_\theta(x)": Depends(lambda names: lambda x: names[r"\theta"][0] + names[r"\theta"][1] * x),
        r"\Var_p": variance(centre + points @ root.T), r"\Var_q": variance(centre + sd * points),
    }  # fmt: skip


# --- mean field: means, log-variances, noise ---


def mean_field(seed):
    rng, n, M = np.random.default_rng([13, seed]), 2 + seed, 3 - seed
    mu, gamma, tau = rng.normal(size=n), rng.normal(size=n), rng.uniform(0.4, 2.0, size=n)
    sd = np.sqrt(np.exp(gamma))
    noise, theta = rng.normal(size=(M, n)), rng.normal(size=n)
    points, weights = hermite(n)

    def prior(t):
        return stats.norm.pdf(np.ravel(t), 0, tau).prod()

    def density(t):
        return stats.norm.pdf(np.ravel(t), mu, sd).prod()

    def kl(p, q):
        """Of densities whose log-ratio is quadratic, where the first is that of q."""
        return weights @ [np.log(p(column(t)) / q(column(t))) for t in mu + points * sd]

    j = 2

    def probability(event):
        """Of an event of one weight: it is looked up where the event begins and ends."""
        law, t = stats.norm(mu[j - 1], sd[j - 1]), mu[j - 1] + sd[j - 1] * np.linspace(-9, 9, 91)

        def here(t):
            return event(**{r"\theta_j": {j: t}}) - 0.5

        steps = [(a, b) for a, b in itertools.pairwise(t) if here(a) * here(b) < 0]
        ends = law.cdf([-np.inf, *(optimize.bisect(here, a, b) for a, b in steps), np.inf])
        return sum(b - a for k, (a, b) in enumerate(itertools.pairwise(ends)) if (here(t[0]) > 0) == (k % 2 == 0))

    return {
        r"n_\theta": n, "M": M, "s": 2, "j": j, "k": 1, r"\theta": column(theta), r"\theta_j": list(theta),
        r"\mu": column(mu), r"\gamma": column(gamma), r"\mu_j": list(mu), r"\gamma_j": list(gamma),
        r"\varepsilon_s": [column(one) for one in noise], r"\tau_j": list(tau), r"p(\theta)": prior,
        r"q_\phi(\theta)": density, r"\KL": kl, r"\pi": np.pi,
        "r_j": list(np.abs(mu) / sd), "P": probability,
    }  # fmt: skip


def sample(seed):
    """The quantiles that belong to the noise."""
    names = mean_field(seed)
    del names[r"\theta_j"]  # theta_s are columns here
    mu, sd = np.ravel(names[r"\mu"]), np.sqrt(np.exp(np.ravel(names[r"\gamma"])))
    noise = [np.ravel(one) for one in names[r"\varepsilon_s"]]
    return names | {r"\theta_s": [column(stats.norm.ppf(stats.norm.cdf(one), mu, sd)) for one in noise]}


# --- slopes ---


def by_hand(seed):
    """A network with four weights; the slopes of the estimate come from complex steps."""
    rng, n, M, N = np.random.default_rng([14, seed]), 4, 2 + seed, 3
    x, y, sigma = rng.normal(size=N), rng.normal(size=N), (0.7, 1.2)[seed]
    mu, gamma, tau = rng.normal(size=n), rng.normal(size=n) * 0.5, rng.uniform(0.5, 1.5, size=n)
    noise = rng.normal(size=(M, n))
    points, weights = hermite(n)

    def log_p(theta):
        f = theta[0] * np.tanh(theta[1] * x) + theta[2] * np.tanh(theta[3] * x)
        return -0.5 * ((y - f) ** 2).sum() / sigma**2 - N / 2 * np.log(2 * np.pi * sigma**2)

    def estimate(mu, gamma):
        theta = mu + np.exp(gamma / 2) * points
        log_q = -0.5 * (points**2 + gamma + np.log(2 * np.pi)).sum(1)
        log_prior = -0.5 * (theta**2 / tau**2 + np.log(2 * np.pi * tau**2)).sum(1)
        draws = mu + np.exp(gamma / 2) * noise
        return weights @ (log_q - log_prior) - sum(log_p(one) for one in draws) / M

    draws = mu + np.exp(gamma / 2) * noise

    def change(function, head, s, j):
        """The slope of what is printed by one entry of one draw."""

        def moved(value):
            other = draws.copy()
            other[s - 1, j - 1] = value
            return function({r"\theta_s": [column(one) for one in other]})

        assert head == r"\theta"
        return slope(moved, draws[s - 1, j - 1])

    by_mean, by_log_var = slopes(lambda m: estimate(m, gamma), mu), slopes(lambda g: estimate(mu, g), gamma)
    return {
        "M": M, "j": 2 + seed, "X": column(x), "y": column(y), r"\mu_j": list(mu), r"\gamma_j": list(gamma),
        r"\tau_j": list(tau), r"\varepsilon_{sj}": noise, r"\theta_s": [column(one) for one in draws],
        r"\theta": column(mu), r"p(y \mid X, \theta)": lambda y, X, t: np.exp(log_p(np.ravel(t))), r"\partial": change,
        r"\frac{\partial \hat{F}}{\partial \mu_j}": list(by_mean),
        r"\frac{\partial \hat{F}}{\partial \gamma_j}": list(by_log_var),
    }  # fmt: skip


def layer(seed):
    """One layer with its local noise, and a loss behind it; the weights themselves run over nodes."""
    rng, n, width, j = np.random.default_rng([15, seed]), 2, 3, 2 - seed
    mu, gamma = rng.normal(size=(n, width)), rng.normal(size=(n, width)) * 0.7
    h, noise, mix = np.array([*rng.normal(size=width - 1), 1.0]), rng.normal(size=n), rng.normal(size=(2, n))
    points, weights = hermite(width)

    def a(mu, gamma, h):
        """The sums with a normal deviate, from the joint law: a covariance matrix for each unit."""
        cov = np.zeros((n, width, width), dtype=complex)
        cov[:, range(width), range(width)] = np.exp(gamma)
        return np.array([m @ h + np.sqrt(h @ c @ h) * e for m, c, e in zip(mu, cov, noise, strict=True)])

    def loss(a):
        return np.tanh(mix @ a)[0] ** 2 + 0.5 * (mix @ a)[1] ** 2

    def moments(f):
        values = []
        for point in points:
            w = given.copy()
            w[j - 1] = mu[j - 1] + np.exp(gamma[j - 1] / 2) * point
            values.append(f(**{"w_{jm}": w}))
        mean = weights @ np.array(values)
        return mean, weights @ (np.array(values) - mean) ** 2

    given = rng.normal(size=(n, width))
    delta = slopes(loss, np.real(a(mu, gamma, h)))
    return {
        "n": n, "j": j, "m": 2, r"\sum_m": range(1, width + 1), r"\sum_j": range(1, n + 1), "h_m": list(h),
        r"\mu_{jm}": mu, r"\gamma_{jm}": gamma, r"\varepsilon_j": list(noise), r"\delta_j": list(delta),
        "w_{jm}": given,
        "a_j": list(np.real(a(mu, gamma, h))), "v_j": list((np.exp(gamma / 2) ** 2 @ np.diag(h) @ column(h))[:, 0]),
        r"\E_q": lambda f: moments(f)[0], r"\Var_q": lambda f: moments(f)[1],
        r"\frac{\partial R}{\partial \mu_{jm}}": slopes(lambda one: loss(a(one, gamma, h)), mu),
        r"\frac{\partial R}{\partial \gamma_{jm}}": slopes(lambda one: loss(a(mu, one, h)), gamma),
        r"\frac{\partial R}{\partial h_m}": list(slopes(lambda one: loss(a(mu, gamma, one)), h)),
    }  # fmt: skip


# --- batches: a weight with four values, laws are tables ---


class Table:
    def __init__(self, seed):
        rng = np.random.default_rng([16, seed])
        self.N = 6
        self.prior, self.q = rng.dirichlet(np.full(4, 3.0)), rng.dirichlet(np.full(4, 3.0))
        self.likelihood = rng.uniform(0.1, 0.9, size=(self.N, 4))  # of each datum, for each value
        self.y = [0.1 * i for i in range(1, self.N + 1)]

    def free_energy(self):
        """One sum over the table of the joint probabilities."""
        return special.rel_entr(self.q, self.prior * self.likelihood.prod(0)).sum()

    def names(self):
        def one(y, x, theta):
            return self.likelihood[int(x) - 1, int(theta) - 1]

        def bound(names):
            """Of a batch: the data of the batch, each several times, in the table."""
            B = names["B"]
            times = self.N / names["b"]
            repeated = np.prod([self.likelihood[int(i) - 1] ** times for i in B], axis=0)
            return lambda phi: special.rel_entr(self.q, self.prior * repeated).sum()

        subsets = [set(chosen) for chosen in itertools.combinations(range(1, self.N + 1), 2)]
        return {
            "N": self.N, "b": 2, "B": {2, 5}, r"\phi": "phi", "x_i": list(range(1, self.N + 1)), "y_i": self.y,
            r"\sum_\theta": [1, 2, 3, 4], r"q(\theta)": lambda t: self.q[int(t) - 1], "x": 2, "y": 0.2,
            r"q_\phi(\theta)": lambda t: self.q[int(t) - 1], r"p(\theta)": lambda t: self.prior[int(t) - 1],
            r"p(y \mid x, \theta)": one, r"F(\phi)": lambda phi: self.free_energy(), r"\hat{F}_B(\phi)": Depends(bound),
            r"\E_B": lambda f: np.mean([f(B=B) for B in subsets]), "N_B": 3, "B_k": [{1, 4}, {6}, {2, 3, 5}],
            "b_k": [2, 1, 3], "w_k": [0.5, 0.2, 0.3], "k": 2,
        }  # fmt: skip


def batches(seed):
    return Table(seed).names()


def shared_noise(seed):
    """Log-probabilities that change places, and a common term: every pair of them has the same covariance."""
    rng, N = np.random.default_rng([17, seed]), 4
    values, common, coin = rng.normal(size=N), (0.9, 0.0)[seed], (0.3, 0.5)[seed]
    draws = [np.array(one) + up for one in itertools.permutations(values) for up in (0.0, common)]
    chances = np.array([chance for _ in range(math.factorial(N)) for chance in (1 - coin, coin)]) / math.factorial(N)
    cov = np.cov(np.array(draws).T, aweights=chances, ddof=0)

    def variance(f):
        found = np.array([f(**{r"\theta": k}) for k in range(len(draws))])
        return chances @ (found - chances @ found) ** 2

    return {
        "N": N, "b": 2 + seed, "B": [{1, 3}, {1, 2, 4}][seed], "x_i": [1, 2, 3, 4], "y_i": [0.0] * 4, r"\Var": variance,
        r"p(y \mid x, \theta)": lambda y, x, t: np.exp(draws[int(t)][int(x) - 1]), "V": cov[0, 0], "C": cov[0, 1],
        r"\theta": 0,
    }  # fmt: skip


# --- classes, and both kinds of unknowns ---


def classes(seed):
    rng, K, N = np.random.default_rng([18, seed]), 3 + seed, 2
    logits = rng.normal(size=(N, K))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    return {
        "i": 2, "k": 1 + seed, "x_i": [1, 2], r"\theta": 0.0,
        r"p(k \mid x, \theta)": lambda k, x, theta: chances[int(x) - 1, int(k) - 1],
        "a(x)": lambda x: column(logits[int(x) - 1]), r"\softmax": lambda a: special.softmax(a),
    }  # fmt: skip


def entropy_split(seed):
    rng, K = np.random.default_rng([19, seed]), 3 + seed
    q, laws = rng.dirichlet(np.full(3, 4.0)), rng.dirichlet(np.full(K, 2.0), size=3)
    return {
        r"\sum_\theta": [1, 2, 3], r"q(\theta)": lambda t: q[int(t) - 1], r"\bar{p}": column(q @ laws), r"\theta": 1,
        r"p_\theta": Depends(lambda names: column(laws[int(names[r"\theta"]) - 1])),
        "H": lambda p: special.entr(p).sum(), r"\KL": lambda p, q: special.rel_entr(p, q).sum(),
    }  # fmt: skip


def both(seed):
    """Three values of the weights, two of each code, two data: all twelve combinations in one table."""
    rng, N = np.random.default_rng([20, seed]), 2
    prior, q = rng.dirichlet(np.full(3, 3.0)), rng.dirichlet(np.full(3, 3.0))
    codes, q_codes = rng.dirichlet(np.full(2, 3.0)), rng.dirichlet(np.full(2, 3.0), size=N)
    likelihood = rng.uniform(0.1, 0.9, size=(N, 2, 3))  # of a datum, for a code, for a weight
    x = [0.1, 0.2]

    def joint(theta, z, x):
        chance = prior[int(theta) - 1]
        for i in range(N):
            chance *= codes[int(z[i]) - 1] * likelihood[i, int(z[i]) - 1, int(theta) - 1]
        return chance

    def approximate(theta, z):
        return q[int(theta) - 1] * q_codes[0, int(z[0]) - 1] * q_codes[1, int(z[1]) - 1]

    cells = list(itertools.product((1, 2, 3), itertools.product((1, 2), repeat=N)))
    bound = -sum(special.rel_entr(approximate(t, z), joint(t, z, x)) for t, z in cells)
    return {
        "N": N, r"\theta": 2, "z_i": [1, 2], "x_i": x, r"\sum_\theta": [1, 2, 3], r"\sum_z": [1, 2], "x": 0.3, "z": 1,
        r"p(\theta, z, x)": joint, r"q(\theta, z)": approximate, r"\elbo(q; x)": lambda q, x: bound,
        r"p(\theta)": lambda t: prior[int(t) - 1], "p(z)": lambda z: codes[int(z) - 1],
        r"q(\theta)": lambda t: q[int(t) - 1], "q_i(z_i)": [lambda z, one=one: one[int(z) - 1] for one in q_codes],
        r"p(x \mid z, \theta)": lambda x, z, t: likelihood[round(10 * x) - 1, int(z) - 1, int(t) - 1], "q": 0,
    }  # fmt: skip


WORLDS = {
    network: (
        "def-vb-model", "eq-vb-evidence", "def-vb-predictive", "def-vb-free-energy", "eq-vb-three-forms",
        "eq-vb-is-minus-elbo", "eq-vb-squared-error",
    ),
    posterior: ("eq-vb-posterior",),
    two_variances: ("eq-vb-two-variances",),
    identity: ("eq-vb-identity",),
    best_noise: ("eq-vb-best-noise", "eq-vb-profile"),
    tempered_bound: ("def-vb-tempered",),
    tempered_law: ("eq-vb-tempered",),
    unbiased: ("eq-vb-unbiased",),
    estimates: ("def-vb-estimates",),
    fixed_noise: ("eq-vb-fixed-noise",),
    parabola: ("eq-vb-value-variances", "eq-vb-slope-variances"),
    regression: ("eq-blr-posterior", "eq-blr-predictive", "eq-blr-evidence-peak"),
    ridge: ("eq-blr-ridge",),
    by_nodes: ("eq-blr-evidence",),
    tempered_line: ("eq-blr-tempered",),
    linear_free_energy: ("eq-blr-free-energy",),
    linear_mean_field: ("eq-blr-mean-field",),
    line: ("eq-vb-line-exact", "eq-vb-line-mean-field"),
    mean_field: ("def-vb-prior", "def-vb-mean-field", "eq-vb-kl", "def-vb-snr", "eq-vb-sign"),
    sample: ("def-vb-sample",),
    by_hand: ("eq-vb-slope-mean", "eq-vb-slope-log-var"),
    layer: ("def-vb-local", "eq-vb-local", "eq-vb-local-slopes"),
    batches: ("def-vb-batch", "eq-vb-batch", "eq-vb-epoch", "eq-vb-batch-weights", "eq-vb-unweighted"),
    shared_noise: ("eq-vb-shared-noise",),
    classes: ("def-vb-classes",),
    entropy_split: ("eq-vb-entropy-split",),
    both: ("def-vb-both", "eq-vb-both"),
}  # fmt: skip


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    return [world(seed) for world, labels in WORLDS.items() if label in labels for seed in (0, 1)]
