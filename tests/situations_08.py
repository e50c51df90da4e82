r"""Chapter 8 for the mutation test, and for its tests of equations: values of the symbols where each equation holds.

Nothing here uses course_lib. Laws of a discrete z are tables, and their divergences and entropies are SciPy's. Laws of
a continuous z are densities of SciPy, integrated by Gauss-Hermite rules. Where the chapter gives an optimum, SciPy
searches for it. What the formulas say about expectations the reader computes from the print.
"""

import itertools
from functools import cache

import numpy as np
from latex_arithmetic import resolved
from latex_numerics import grid
from latex_reader import Depends, key_of
from scipy import optimize, special, stats

WEAKER = "the changed bound is weaker than the printed one, and true"
STILL_TRUE = {
    "eq-em-monotone": (2, "the bound climbs in every half step, so steps of it may be left out"),
    "eq-weighted-order": (4, "a step may be left out, and p(x) and exp p(x) are larger than log p(x)"),
    "eq-leave-one-out-log": (5, WEAKER),
    "eq-pathwise": (1, "the noise is symmetric, so its sign does not matter for the mean"),
}
NOT_MUTATED = {}
READ_BY_SYMPY = {}
CHANGES = [
    (r"\\geq", r"\\leq"),
    (r"\\leq", r"\\geq"),
    (r"p\(z\)", r"p(z \\mid x)"),
    (r"p\(z \\mid x\)", "p(z)"),
    (r"p\(x, z\)", r"p(x \\mid z)"),
    (r"p\(x \\mid z\)", "p(x, z)"),
    (r"\\bar\{q\}_1\(z_1\)\)", "q_2(z_1))"),
    (r"\\sigma\^2", r"\\sigma"),
    (r"M\+1", "M"),
    (r"(?<=_)M", "{M+1}"),
    (r"\{M\}", "{M+1}"),
    (r"\\frac\{N\}\{b\}", r"\\frac{b}{N}"),
    (r"c \+ H", "H"),
    (r"\\hat\{", r"\\bar{"),
    (r"\\bar\{\\elbo", r"\\hat{\\elbo"),
    (r"\^\*", ""),
    (r"\\phi\^4", r"\\phi^2"),
    (r"(?<=\d )\\phi\^2", r"\\phi"),
    (r"\b(?:14|15|8|6|3)\b", "5"),
    (r"\\varepsilon\]", r"\\varepsilon^2]"),
]


def sympy_names(label):
    return {}


def column(values):
    return np.reshape(values, (-1, 1))


def hermite(n=40):
    """Nodes and probabilities of a rule for N(0, 1), exact for polynomials of degree 2 n - 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


# --- a discrete latent variable: everything is a table ---


class Table:
    """A joint law of x in {1, 2, 3} and z in {1, ..., K}, and a q for z."""

    def __init__(self, seed, K=4):
        rng = np.random.default_rng([8, seed])
        joint = rng.uniform(0.2, 1, size=(3, K))
        self.joint, self.K = joint / joint.sum(), K
        q = rng.uniform(0.2, 1, size=K)
        self.q, self.x = q / q.sum(), 2

    def elbo(self, q, x):
        """Minus the relative entropy of q to the joint table, which is no law of z."""
        return -special.rel_entr(self.vector(q), self.joint[x - 1]).sum()

    def vector(self, law):
        return np.array([law(z) for z in self.values()])

    def values(self):
        return np.arange(1.0, self.K + 1)

    def names(self):
        joint, x = self.joint, self.x

        def at(array):
            return lambda z: array[int(z) - 1]

        return {
            "x": x, "z": 3.0, "q(z)": at(self.q), r"\sum_z": self.values(), "dz": (self.values(), np.ones(self.K)),
            "p(x, z)": lambda x, z: joint[x - 1, int(z) - 1], "p(x)": lambda x: joint[x - 1].sum(),
            "p(z)": at(joint.sum(0)),
            r"p(x \mid z)": lambda x, z: joint[x - 1, int(z) - 1] / joint[:, int(z) - 1].sum(),
            r"p(z \mid x)": lambda z, x: joint[x - 1, int(z) - 1] / joint[x - 1].sum(),
            r"\elbo(q; x)": self.elbo, "H": lambda q: stats.entropy(self.vector(q)),
            r"\KL": lambda p, q: stats.entropy(self.vector(p), self.vector(q)),
        }  # fmt: skip


def table(seed):
    return Table(seed).names()


def table_of_samples(seed):
    """Three samples and their estimates, added up in loops."""
    world, z = Table(seed), [[2.0, 4.0, 1.0], [3.0, 3.0, 2.0]][seed]
    p, q, M = world.joint[world.x - 1], world.q, 3
    prior = world.joint.sum(0)
    hat = bar = 0.0
    for one in z:
        k = int(one) - 1
        hat += np.log(p[k] / q[k]) / M
        bar += np.log(p[k] / prior[k]) / M
    divergence = stats.entropy(q, prior)
    return world.names() | {
        "M": M, "z_s": z, r"\hat{\elbo}(q; x)": lambda q, x: hat, r"\bar{\elbo}(q; x)": lambda q, x: bar - divergence,
    }  # fmt: skip


def weighted(world, M):
    """The importance-weighted bound, over all tuples of samples."""
    r = world.joint[world.x - 1] / world.q
    tuples = itertools.product(range(world.K), repeat=M)
    return sum(np.prod(world.q[list(k)]) * np.log(r[list(k)].mean()) for k in tuples)


def weights(seed):
    world, M = Table(seed, K=3), 3
    names = world.names()

    def over_samples(f):
        total = 0.0
        for z in itertools.product(world.values(), repeat=M):
            total += np.prod([names["q(z)"](one) for one in z]) * f(**{"z_s": list(z)})
        return total

    def ratios(names):
        samples = resolved(names[key_of("z_s")], names)
        return [world.joint[world.x - 1, int(z) - 1] / world.q[int(z) - 1] for z in samples]

    bounds = {k: (lambda x, k=k: weighted(world, k)) for k in range(1, M + 3)}
    return names | {
        "M": M, "s": 2, "z_s": [2.0, 3.0, 1.0], "r_s": Depends(ratios), r"\E_q": over_samples, r"\elbo_t(x)": bounds,
        r"\sum_s": range(1, M + 2),
    }  # fmt: skip


def some_weights(seed):
    r = np.random.default_rng([81, seed]).uniform(0.5, 0.7, size=5) * (1, 4)[seed]  # logarithms of both signs
    return {"M": 4, "r_s": list(r), r"\sum_s": range(1, 6), "j": 2}


# --- a discrete z with two coordinates, for the mean field ---


def pair(seed, z_1=3.0):
    rng = np.random.default_rng([82, seed])
    joint = rng.uniform(0.1, 1, size=(3, 2))
    q = [(v := rng.uniform(0.3, 1, size=n)) / v.sum() for n in (3, 2)]
    energies = np.log(joint) @ q[1]  # the expectation over q_2, for each z_1
    c = special.logsumexp(energies)
    best = np.exp(energies - c)

    def at(array):
        return lambda z: array[int(np.ravel(z)[0]) - 1]

    def whole(z):
        one, two = np.ravel(z).astype(int)
        return q[0][one - 1] * q[1][two - 1]

    def vector(law):
        return np.array([law(z) for z in (1.0, 2.0, 3.0)])

    def entropy(law):
        return stats.entropy([law(z) for z in (1.0, 2.0)])

    product = np.outer(*q)
    return {
        "x": 1, "z": column([z_1, 2.0]), "z_j": [z_1, 2.0], "q_j(z_j)": [at(q[0]), at(q[1])], "q(z)": whole,
        r"\bar{q}_j(z_j)": [at(best)],
        r"\E_{q_2}": lambda f: sum(q[1][k - 1] * f(z=column([z_1, k])) for k in (1, 2)), "c": c,
        "p(x, z)": lambda x, z: joint[tuple(np.ravel(z).astype(int) - 1)],
        r"\elbo(q; x)": lambda q, x: -special.rel_entr(product, joint).sum(), "H": entropy,
        r"\KL": lambda p, q: stats.entropy(vector(p), vector(q)),
    }  # fmt: skip


# --- Gaussians ---


def divergence(mean_p, cov_p, mean_q, cov_q):
    """Of two Gaussians, as an expectation by a rule of Gauss and Hermite (the log-ratio is quadratic)."""
    nodes, weights = hermite(4)
    m = len(mean_p)
    points = np.array(list(itertools.product(nodes, repeat=m)))
    probabilities = np.prod(np.array(list(itertools.product(weights, repeat=m))), axis=1)
    z = mean_p + points @ np.linalg.cholesky(cov_p).T
    p, q = stats.multivariate_normal(mean_p, cov_p), stats.multivariate_normal(mean_q, cov_q)
    return probabilities @ (p.logpdf(z) - q.logpdf(z))


def sweep(seed):
    """The means that a fine grid gives for the best factors."""
    rho, mu, start = [(0.7, [0.4, -0.3], 1.3), (-0.5, [1.2, 0.5], -0.8)][seed]
    target = stats.multivariate_normal(mu, [[1, rho], [rho, 1]])
    line = np.linspace(-9, 9, 1801)
    nodes, weights = hermite(4)

    def best(j, nu):
        """The mean of the best factor of coordinate j, if the other one has the mean nu."""
        other = nu + nodes * np.sqrt(1 - rho**2)
        points = np.stack(np.broadcast_arrays(line[:, None], other), -1)
        if j == 1:
            points = points[..., ::-1]
        log_density = target.logpdf(points) @ weights
        density = np.exp(log_density - log_density.max())
        return (density @ line) / density.sum()

    nu_1 = best(0, start)
    nu_2 = best(1, nu_1)
    return {"t": 4, r"\rho": rho, r"\mu_j": mu, r"\nu_{jt}": {1: {4: 17.0, 5: nu_1}, 2: {4: start, 5: nu_2}}}


def mean_field(seed):
    rho = (0.6, -0.85)[seed]
    cov = np.array([[1, rho], [rho, 1]])

    def gap(log_v):
        return divergence(np.zeros(2), np.diag(np.exp(log_v)), np.zeros(2), cov)

    found = optimize.minimize(gap, [0.0, 0.0], options={"gtol": 1e-9})
    p = 0.37
    return {
        r"\rho": rho, "v": np.exp(found.x[1]), "x": 1.0, "q": None, "p(x)": lambda x: p,
        r"\elbo(q; x)": lambda q, x: np.log(p) - found.fun,
    }  # fmt: skip


def linear(seed, d=4, m=2):
    """Probabilistic PCA: the bound of a random Gaussian q by a product rule; densities by SciPy."""
    rng = np.random.default_rng([83, seed])
    W, mu, x, mu_q = rng.normal(size=(d, m)), rng.normal(size=d), rng.normal(size=d), rng.normal(size=m)
    tril = np.tril(rng.normal(size=(m, m)), -1) + np.diag(rng.uniform(0.7, 1.3, size=m))
    Sigma_q, sigma = tril @ tril.T, 0.8
    nodes, probabilities = hermite(4)
    points = np.array(list(itertools.product(nodes, repeat=m)))
    weight = np.prod(np.array(list(itertools.product(probabilities, repeat=m))), axis=1)
    prior, q = stats.multivariate_normal(np.zeros(m), np.eye(m)), stats.multivariate_normal(mu_q, Sigma_q)

    def bound(q, mean, L):
        z = mean + points @ L.T
        log_conditional = stats.norm(z @ W.T + mu, sigma).logpdf(x).sum(1)
        return weight @ (log_conditional + prior.logpdf(z) - q.logpdf(z))

    G = W.T @ W + sigma**2 * np.eye(m)
    posterior = stats.multivariate_normal(np.linalg.solve(G, W.T @ (x - mu)), sigma**2 * np.linalg.inv(G))

    def kl(p, q):
        """Of densities whose log-ratio is quadratic, if p is the q above."""
        return weight @ [np.log(p(column(z)) / q(column(z))) for z in mu_q + points @ tril.T]

    names = {
        "d": d, "m": m, "W": W, r"\mu": column(mu), "x": column(x), r"\mu_q": column(mu_q), r"\Sigma_q": Sigma_q,
        r"\sigma": sigma, r"\pi": np.pi, "q(z)": lambda z: q.pdf(np.ravel(z)), "p(z)": lambda z: prior.pdf(np.ravel(z)),
        r"p(z \mid x)": lambda z, x: posterior.pdf(np.ravel(z)), r"\elbo(q; x)": lambda *_: bound(q, mu_q, tril),
        "G": G, "G_{ij}": G, r"\KL": kl,
    }  # fmt: skip
    return names, bound


def linear_names(seed):
    return linear(seed, m=(2, 3)[seed])[0]


@cache
def linear_mean_field(seed):
    """The best q with independent coordinates, by a search; the marginal by SciPy."""
    names, bound = linear(seed, m=(2, 3)[seed])
    W, sigma, m = names["W"], names[r"\sigma"], names["m"]
    mu, x = names[r"\mu"][:, 0], names["x"][:, 0]
    evidence = stats.multivariate_normal(mu, W @ W.T + sigma**2 * np.eye(len(x))).pdf(x)

    def minus_bound(params):
        mean, sd = params[:m], np.exp(params[m:])
        return -bound(stats.multivariate_normal(mean, np.diag(sd**2)), mean, np.diag(sd))

    found = optimize.minimize(minus_bound, np.zeros(2 * m), method="BFGS", options={"gtol": 1e-7})
    return {
        "m": m, "x": column(x), "q": None, "p(x)": lambda x: evidence, r"\elbo(q; x)": lambda q, x: -found.fun,
        "G": names["G"], "G_{ij}": names["G"],
    }  # fmt: skip


# --- EM on the toy ---


class Toy:
    """z ~ N(0, 1), x | z ~ N(w z, sigma^2) for a few data; every q_i is a Gaussian (mean, variance)."""

    def __init__(self, seed):
        self.sigma = (0.7, 1.1)[seed]
        self.x = [np.array([1.2, -0.4, 2.1]), np.array([-1.7, 0.6, 2.5, 0.9])][seed]

    def elbo(self, q, x, w):
        mean, var = q
        nodes, weights = hermite(4)
        z = mean + np.sqrt(var) * nodes
        log_ratio = (
            stats.norm.logpdf(x, w * z, self.sigma) + stats.norm.logpdf(z) - stats.norm.logpdf(z, mean, var**0.5)
        )
        return weights @ log_ratio

    def mean_elbo(self, qs, w):
        return np.mean([self.elbo(q, x, w) for q, x in zip(qs, self.x, strict=True)])

    def F(self, w):
        return np.mean(stats.norm.logpdf(self.x, 0, np.hypot(w, self.sigma)))

    def posterior(self, x, w):
        """Mean and variance from a fine grid."""
        z = np.linspace(-9, 9, 1801)
        density = stats.norm.pdf(z) * stats.norm.pdf(x, w * z, self.sigma)
        mean = (density @ z) / density.sum()
        return mean, (density @ (z - mean) ** 2) / density.sum()

    def posteriors(self, w):
        return [self.posterior(x, w) for x in self.x]

    def best(self, qs):
        """The M step, by a search."""
        found = optimize.minimize_scalar(lambda w: -self.mean_elbo(qs, w), bracket=(0, 1), tol=1e-12)
        return found.x


def objective(seed):
    toy, w = Toy(seed), 0.9
    rng = np.random.default_rng([84, seed])
    qs = list(zip(rng.normal(size=len(toy.x)), rng.uniform(0.3, 2, size=len(toy.x)), strict=True))
    return {
        "N": len(toy.x), "i": 2, "x_i": list(toy.x), "q_i": qs, "q": qs, r"\theta": w,
        r"\elbo(q; x, \theta)": toy.elbo, r"\elbo(q, \theta)": toy.mean_elbo, "F": toy.F,
        r"p_\theta(x)": lambda x: stats.norm.pdf(x, 0, np.hypot(w, toy.sigma)),
    }  # fmt: skip


def staircase(seed):
    """Two steps of EM, numbered 3, 4 and 5."""
    toy, w = Toy(seed), {3: 0.4}
    q = {}
    for t in (3, 4):
        q[t] = toy.posteriors(w[t])
        w[t + 1] = toy.best(q[t])
    q[5] = toy.posteriors(w[5])
    return {"t": 3, r"\theta_t": w, "q_t": q, "F": toy.F, r"\elbo(q, \theta)": toy.mean_elbo}


def em_step(seed):
    toy, w = Toy(seed), 0.4
    posteriors = toy.posteriors(w)
    a = posteriors[0][0] / toy.x[0]
    v = posteriors[0][1]
    return {
        "t": 3, r"\tau": np.mean(toy.x**2), r"\sigma": toy.sigma,
        "w_t": {2: 9.0, 3: w, 4: toy.best(posteriors), 5: 8.0},
        "a_t": {3: a, 4: 7.0}, "v_t": {3: v, 4: 6.0},
    }  # fmt: skip


def held_variance(seed):
    """The best means for a variance that is held, and the best w with them, by searching."""
    toy, v = Toy(seed), (0.3, 0.12)[seed]

    def best_mean(x, w):
        return optimize.minimize_scalar(lambda m: -toy.elbo((m, v), x, w), bracket=(-1, 1), tol=1e-12).x

    def bound(w):
        return toy.mean_elbo([(best_mean(x, w), v) for x in toy.x], w)

    return toy, v, bound


@cache
def vem_bound(seed):
    toy, v, bound = held_variance(seed)
    w = 0.8
    return {
        "v": v, r"\sigma": toy.sigma, r"\tau": np.mean(toy.x**2), "w": w, "C": w**2 + toy.sigma**2, "q": None,
        r"\pi": np.pi, r"\elbo(q, w)": lambda q, w: bound(w),
    }  # fmt: skip


@cache
def vem_optimum(seed):
    toy, v, bound = held_variance(seed)
    w = optimize.minimize_scalar(lambda w: -bound(w), bounds=(0.1, 5), method="bounded", options={"xatol": 1e-10}).x
    return {"v": v, r"\sigma": toy.sigma, r"\tau": np.mean(toy.x**2), "C": w**2 + toy.sigma**2}


def amortised(seed):
    """An encoder's q and the best q for one datum of the toy."""
    toy, w, x = Toy(seed), 0.9, 1.4
    laws = {"best": toy.posterior(x, w), "encoder": (0.2, 0.5 + seed)}
    return {
        "x": x, r"q_\phi": "encoder", "q^*": "best", "q": "encoder",
        "p(x)": lambda x: stats.norm.pdf(x, 0, np.hypot(w, toy.sigma)) + 0.01,  # as if the best had a gap
        r"\elbo(q; x)": lambda q, x: toy.elbo(laws[q], x, w),
    }  # fmt: skip


# --- batches ---


def batches(seed):
    N, b = [(5, 2), (4, 3)][seed]
    rng = np.random.default_rng([85, seed])
    x = list(rng.normal(size=N))
    sets = [set(chosen) for chosen in itertools.combinations(range(1, N + 1), b)]
    return {
        "N": N, "b": b, "x_i": x, r"\phi": 0.7, r"\elbo(\phi; x)": lambda phi, x: -((x - phi) ** 2) - 1,
        r"\E_B": lambda f: np.mean([f(B=one) for one in sets]),
    }  # fmt: skip


# --- gradients ---

NODES = grid(-8, 12, 71)


def moved_gaussian(seed):
    """q_phi = N(phi, s^2) and an f that is no polynomial."""
    phi, s = [(0.8, 1.1), (2.0, 0.9)][seed]
    return {
        r"\phi": phi, "z": 1.7, "dz": NODES, "f": lambda z: np.sin(z) + z**2,
        r"q_\phi(z)": Depends(lambda names: lambda z: stats.norm.pdf(z, names[r"\phi"], s)),
    }  # fmt: skip


def reparametrised(seed):
    mu, sigma = [(0.8, 1.1), (2.0, 0.9)][seed]
    nodes, weights = hermite()

    def q(names):
        mean, deviation = (names[key_of(name)] for name in (r"\mu_q", r"\sigma_q"))
        return lambda z: stats.norm.pdf(z, mean, deviation)

    return {
        r"\mu_q": mu, r"\sigma_q": sigma, r"\varepsilon": 1.3, "z": mu + 1.3 * sigma, "dz": NODES, "q(z)": Depends(q),
        "f": lambda z: np.sin(z) + z**2, "f'": lambda z: np.cos(z) + 2 * z,
        r"\E_\varepsilon": lambda f: weights @ [f(**{r"\varepsilon": e}) for e in nodes],
    }  # fmt: skip


def squares(seed):
    phi = (2.0, -0.7)[seed]
    return {r"\phi": phi, "dz": NODES, "q(z)": lambda z: stats.norm.pdf(z, phi, 1)}


def baseline(seed):
    """f, the score u of a Gaussian mean, and the constant with the smallest variance, by a search."""
    phi, s = [(0.8, 1.1), (2.0, 0.9)][seed]
    nodes, weights = hermite()
    z = phi + s * nodes

    def f(z):
        return np.sin(z) + z**2

    def u(z):
        return (z - phi) / s**2

    def variance(c):
        sample = (f(z) - c) * u(z)
        return weights @ sample**2 - (weights @ sample) ** 2

    best = optimize.minimize_scalar(variance, bracket=(0, 1), tol=1e-14).x
    return {"q(z)": lambda z: stats.norm.pdf(z, phi, s), "dz": NODES, "f": f, "u": u, "c": 0.6, "c^*": best}


def dimensions(seed):
    """The variances of the score-function samples in m dimensions, by a product rule."""
    m, phi = [(2, 2.0), (3, 1.3)][seed]
    nodes, weights = hermite(5)
    z = phi + np.array(list(itertools.product(nodes, repeat=m)))
    p = np.prod(np.array(list(itertools.product(weights, repeat=m))), axis=1)
    f, u = (z**2).sum(1), z[:, 0] - phi

    def variance(c):
        sample = (f - c) * u
        return p @ sample**2 - (p @ sample) ** 2

    best = optimize.minimize_scalar(variance, bracket=(0, 10), tol=1e-14).fun
    return {"m": m, r"\phi": phi, "A": p @ (z[:, 1:] ** 2).sum(1), "V": variance(0.0), "V^*": best}


WORLDS = {
    table: (
        "def-elbo", "eq-elbo-start", "eq-elbo-bayes", "eq-elbo-from-kl", "eq-elbo-identity", "eq-elbo-importance",
        "eq-elbo-jensen", "eq-elbo-forms", "eq-elbo-bits",
    ),
    linear_names: ("eq-elbo-linear",),
    pair: ("def-mean-field", "def-mf-update", "eq-mf-split"),
    sweep: ("eq-mf-sweep",),
    mean_field: ("eq-mf-optimum",),
    linear_mean_field: ("eq-mf-linear",),
    objective: ("def-em-objective",),
    staircase: ("eq-em-monotone",),
    em_step: ("eq-toy-em-step",),
    vem_bound: ("eq-vem-bound",),
    vem_optimum: ("eq-vem-optimum",),
    amortised: ("eq-amortisation",),
    batches: ("eq-minibatch", "eq-minibatch-printed"),
    table_of_samples: ("def-elbo-samples",),
    weights: ("def-elbo-weighted", "eq-weighted-order"),
    some_weights: ("eq-leave-one-out", "eq-leave-one-out-log"),
    moved_gaussian: ("eq-log-derivative", "eq-score-gradient"),
    reparametrised: ("def-reparametrised", "eq-pathwise"),
    squares: ("eq-gradient-variances",),
    baseline: ("eq-baseline-variance", "eq-best-baseline"),
    dimensions: ("eq-gradient-dimension",),
}  # fmt: skip


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    return [world(seed) for world, labels in WORLDS.items() if label in labels for seed in (0, 1)]
