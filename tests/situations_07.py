r"""Chapter 7 for the mutation test, and for its tests of equations: values of the symbols where each equation holds.

Nothing here uses course_lib or the formulas of the chapter. Marginals are integrals over fine grids or by Gauss and
Hermite, posteriors are joint densities divided by them; expectations over samples are sums over all samples of a
discrete z; maxima are found by a search, regressions on a distribution by points with the same moments.
"""

import itertools
from functools import cache

import numpy as np
from latex_names import key_of
from latex_numerics import grid
from latex_reader import Depends
from scipy import optimize, stats

WEAKER = "the changed right side is smaller, so the inequality is weaker and still true"
STILL_TRUE = {
    "eq-lv-empty": (2, "a larger left side, or a bound below zero that says nothing"),
    "eq-lv-log-bias": (2, "the right side is larger than the logarithm of p(x), and positive"),
    "eq-lv-chain-variance": (1, "the term that is added has the factor zero"),
    "eq-ppca-trace": (1, WEAKER),
    "eq-ppca-em-sums": (1, "the posterior means sum to zero, so a constant beside x_i does not matter"),
    "eq-em-climb": (5, WEAKER),
}
NOT_MUTATED = {}
READ_BY_SYMPY = {}
CHANGES = [
    (r"3 z", "2 z"),
    (r"h\^d", "h"),
    (r"Q z", "2 z"),
    (r" z_s", " z"),
    (r"M-1", "M"),
    (r"\\hat(?=\\sigma|\s?W|\s?z)", ""),
    (r"(?<=_)o", "u"),
    (r"(?<=_)u", "o"),
    (r"I_d", "I_m"),
    (r"\bG\b", "C"),
    (r"w\^2", "w"),
    (r"\\sqrt\{([^{}]*)\}", r"(\1)"),
]


def sympy_names(label):
    return {}


def column(values):
    return np.reshape(values, (-1, 1))


def normal(value, mean, sd):
    """The density of independent normal entries, as one number."""
    scaled = (np.ravel(value) - np.ravel(mean)) / sd
    return float(np.prod(np.exp(-(scaled**2) / 2) / (np.sqrt(2 * np.pi) * sd)))


@cache
def hermite(m, n=60):
    """Nodes and weights for expectations under N(0, I_m)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    weights = weights / weights.sum()
    points = np.array(list(itertools.product(nodes, repeat=m)))
    return points, np.array([np.prod(chosen) for chosen in itertools.product(weights, repeat=m)])


class Model:
    """A latent variable model with any decoder, a function from columns (or a number, for m = 1) to columns."""

    def __init__(self, decoder, m, sigma, n=60):
        self.decoder, self.m, self.sigma, self.n = decoder, m, sigma, n

    def conditional(self, x, z):
        return normal(x, self.decoder(z if self.m == 1 else column(z)), self.sigma)

    def prior(self, z):
        return normal(z, 0, 1)

    def joint(self, x, z):
        residual = np.ravel(x) - np.ravel(self.decoder(z if self.m == 1 else column(z)))
        exponent = np.sum(residual**2) / self.sigma**2 + np.sum(np.square(z))
        return np.exp(-exponent / 2) / ((2 * np.pi) ** ((len(residual) + self.m) / 2) * self.sigma ** len(residual))

    def marginal(self, x):
        if self.m == 1:
            points = np.linspace(-12, 12, 1201)
            return sum(self.joint(x, z) for z in points) * (points[1] - points[0])
        points, weights = hermite(self.m, self.n)
        return sum(w * self.conditional(x, z) for z, w in zip(points, weights, strict=True) if w > 1e-18)

    def names(self, x, z):
        """The five densities; the evidence of this one x is computed once."""
        known = {np.ravel(x).tobytes(): self.marginal(x)}

        def marginal(x):
            return known.setdefault(np.ravel(x).tobytes(), None) or self.marginal(x)

        d = np.size(x)
        return {
            "x": x, "z": z, "m": self.m, "d": d, r"\sigma": self.sigma, r"\dec": self.decoder,
            "I_m": {self.m: np.eye(self.m)}, "I_d": np.eye(d),
            "p(z)": self.prior, r"p(x \mid z)": self.conditional, "p(x, z)": self.joint, "p(x)": marginal,
            r"p(z \mid x)": lambda z, x: self.joint(x, z) / marginal(x),
        }  # fmt: skip


def bent(seed):
    """A number z makes a point of the plane, by a curve that is not a line."""
    a, b, c = np.random.default_rng([7, seed]).uniform(0.4, 0.9, size=3)
    return Model(lambda z: np.array([[a * z], [b * z**2 - c]]), 1, (0.7, 0.9)[seed])


def plane_to_space(seed, n=30):
    a, b, c, e = np.random.default_rng([71, seed]).uniform(0.3, 0.8, size=4)

    def decoder(z):
        u, v = np.ravel(z)
        return np.array([[a * u], [b * v + c * u], [e * u * v - 0.4]])

    return Model(decoder, 2, (1.1, 0.9)[seed], n)


# --- the curve, histogram and kernel ---


def curve(seed):
    z = (0.7, -1.3)[seed]
    return {
        "z": z, "e_k": [column([1.0, 0.0]), column([0.0, 1.0])],
        r"\dec": lambda z: column([z, 3 * np.sin(z) - 4 * np.sin(z) ** 3]),
    }  # fmt: skip


def histogram(seed):
    """Random data in 2 or 3 dimensions; the density is numpy's."""
    rng, d = np.random.default_rng([72, seed]), 2 + seed
    data = rng.normal(size=(60, d))
    edges = [np.linspace(-4, 4, 6)] * d
    density = np.histogramdd(data, edges, density=True)[0]
    counts = np.histogramdd(data, edges)[0].astype(int)
    where = np.unravel_index(counts.argmax(), counts.shape)
    x = column([(edges[j][k] + edges[j][k + 1]) / 2 for j, k in enumerate(where)])
    k = int(np.ravel_multi_index(where, counts.shape)) + 1
    return {
        "x": x, "k": k, "n_k": [int(n) for n in counts.ravel()], "N": 60, "d": d, "h": 8 / 5,
        r"\hat p(x)": lambda x: density[tuple(np.floor((np.ravel(x) + 4) / 1.6).astype(int))],
    }  # fmt: skip


def kernel(seed):
    rng, d, N, h = np.random.default_rng([73, seed]), 1 + 2 * seed, 5, (0.6, 1.4)[seed]
    data = rng.normal(size=(N, d))

    def estimate(x):
        return np.mean([normal(x, one, h) for one in data])

    return {
        "x": column(rng.normal(size=d)) if d > 1 else 0.3, "x_i": [column(one) if d > 1 else one[0] for one in data],
        "N": N, "h": h, "d": d, "I": np.eye(d), r"\hat p(x)": estimate,
    }  # fmt: skip


def cells(seed):
    """Once every datum has a cell of its own, so that the bound is reached; once two data share one."""
    counts = [[0, 1, 1, 0, 1], [0, 2, 0, 1, 0, 0, 3]][seed]
    return {"n_k": counts, "K": len(counts), "N": sum(counts)}


# --- the model, its marginal, its posterior ---


def plane_curve(seed):
    """The marginal by Gauss and Hermite against the grid that the reader uses."""
    x, z = [(column([0.6, -0.2]), 0.4), (column([-0.9, 0.5]), -1.1)][seed]
    return bent(seed).names(x, z) | {"dz": grid(-8, 8, 129)}


def several_data(seed):
    """The likelihood of two data as one integral over both of their z."""
    model = bent(seed)
    data = [column([0.6, -0.2]), column([-0.4, 0.7])]
    line = np.linspace(-10, 10, 401)
    first, second = ([model.joint(x, z) for z in line] for x in data)
    together = sum(a * b for a, b in itertools.product(first, second)) * (line[1] - line[0]) ** 2
    names = model.names(data[0], 0.3) | {"dz": grid(-8, 8, 129), "N": 2, "x_i": data}
    return names | {"X": np.hstack(data).T, "p(X)": lambda X: together}


def rotated(seed):
    """A rotation, and a reflection with a rotation."""
    angle = (0.7, 2.1)[seed]
    Q = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, (1, -1)[seed]])
    x = column([(0.5, 0.3, -0.6), (-0.4, 0.9, 0.2)][seed])
    return plane_to_space(seed).names(x, column([0.4, -0.8])) | {"Q": Q, "dz": grid(-8, 8, 31, dimension=2)}


def toy(seed):
    w, sigma, x, z = [(1.3, 0.8, 0.9, 0.2), (-0.7, 1.2, -1.6, 0.6)][seed]
    names = Model(lambda z: np.array([[w * z]]), 1, sigma).names(x, z)
    return names | {"w": w}


# --- Monte Carlo ---


def discrete(seed, M=3):
    """z takes three values; expectations are sums over all samples of M of them."""
    sigma, x = (0.6, 0.9)[seed], (0.8, -0.5)[seed]
    values, chances = [(-0.9, 0.4, 1.7), (-0.3, 0.8, 2.0)][seed], [(0.2, 0.5, 0.3), (0.6, 0.1, 0.3)][seed]

    def conditional(x, z):
        return normal(x, np.sin(z), sigma)

    def pairs(f):
        for chosen in itertools.product(range(3), repeat=M):
            z_s = [values[k] for k in chosen]
            yield f(z=z_s[0], z_s=z_s), np.prod([chances[k] for k in chosen])

    def mean(f):
        return sum(value * chance for value, chance in pairs(f))

    def variance(f):
        centre = mean(f)
        return sum((value - centre) ** 2 * chance for value, chance in pairs(f))

    def estimate(names):
        z_s = names[key_of("z_s")]
        return lambda x: np.mean([conditional(x, z) for z in z_s])

    evidence = sum(chance * conditional(x, z) for z, chance in zip(values, chances, strict=True))
    return {
        "x": x, "M": M, "z": values[1], "z_s": [values[0], values[2], values[0]][:M],
        r"p(x \mid z)": conditional, "p(x)": lambda x: evidence,
        r"\hat p_M(x)": Depends(estimate), r"\E": mean, r"\Var": variance,
    }  # fmt: skip


def square(seed):
    x, z, sigma = [(0.9, 0.2, 0.8), (-1.6, 0.6, 1.3)][seed]
    law = {r"\Normal(;,)": lambda x, mean, var: stats.norm.pdf(x, mean, np.sqrt(var))}
    return law | {"x": x, "z": z, r"\sigma": sigma, r"\pi": np.pi}


def copies(seed):
    """dec(z) = z in one and two dimensions; the second moment is a sum over a grid."""
    m, sigma, x = [(1, 0.8, 0.9), (2, 1.1, column([0.4, -1.2]))][seed]
    nodes, weights = grid(-8, 8, 41, dimension=m)
    names = Model(lambda z: z, m, sigma).names(x, x)

    def mean(f):
        return sum(
            w * normal(z, 0, 1) * f(z=z[0] if m == 1 else column(z)) for z, w in zip(nodes, weights, strict=True)
        )

    return names | {r"\E": mean}


def proposal(seed):
    """A Gaussian that is neither the prior nor the posterior."""
    names = plane_curve(seed)
    mean, sd = (0.5, 1.1) if seed == 0 else (-0.4, 1.3)
    joint, x = names["p(x, z)"], names["x"]
    return names | {
        "q(z)": lambda z: normal(z, mean, sd),
        "r(z)": lambda z: joint(x, z) / stats.norm.pdf(z, mean, sd),
    }  # fmt: skip


def wide(seed):
    """The posterior of the toy, with c times its variance."""
    m, sigma, c = [(1, 0.8, 2.3), (2, 1.1, 0.9)][seed]
    x = [0.9, column([0.4, -1.2])][seed]
    model = Model(lambda z: z, m, sigma)
    mean, var = x / (1 + sigma**2), sigma**2 / (1 + sigma**2)

    def q(z):
        return normal(z, mean, np.sqrt(c * var))

    names = model.names(x, x) | {"c": c, "q(z)": q, "r(z)": lambda z: model.joint(x, z) / q(z)}
    return names | {"dz": grid(-9, 9, 61) if m == 1 else grid(-8, 8, 41, dimension=2)}


def weights(seed):
    """Some samples and weights; the effective number from the normalised weights."""
    z_s, M = [(0.3, -1.0, 0.8, 2.0), (1.0, 0.1, 0.5)][seed], (4, 3)[seed]
    r = {z: np.exp(1.3 * z) for z in z_s}
    share = np.array([r[z] for z in z_s]) / sum(r.values())
    return {"M": M, "z_s": list(z_s), "r(z)": lambda z: r[z], r"\hat M": 1 / np.sum(share**2), "z": z_s[0]}


# --- Metropolis ---


def walk(seed):
    """A few states with a symmetric law of proposals; what is accepted is counted over a fine grid of u."""
    n, rng = (5, 4)[seed], np.random.default_rng([74, seed])
    joint = rng.uniform(0.2, 1, size=n)
    places = int(joint.argmax()) + 1, int(joint.argmin()) + 1
    z, z_new = places if seed == 0 else places[::-1]  # down, and up
    posterior = joint / joint.sum()
    q = rng.uniform(0.2, 1, size=(n, n))
    q = q + q.T
    q /= q.sum(1).max() * 1.2
    q += np.diag(1 - q.sum(1))  # rows sum to one, still symmetric

    def accept(old, new):
        return 1.0 if joint[new - 1] >= joint[old - 1] else joint[new - 1] / joint[old - 1]

    def follows(new, old):
        if new != old:
            return q[new - 1, old - 1] * accept(old, new)
        return 1 - sum(follows(other, old) for other in range(1, n + 1) if other != old)

    return {
        "x": 0.7, "z": z, "z'": z_new, r"\sum_z": list(range(1, n + 1)),
        "p(x, z)": lambda x, z: joint[z - 1], r"p(z \mid x)": lambda z, x: posterior[z - 1],
        r"q(z' \mid z)": lambda new, old: q[new - 1, old - 1], "a(z, z')": accept, r"T(z' \mid z)": follows,
    }  # fmt: skip


def chain(seed):
    """A moving average of white noise: the variance of the mean from the whole covariance matrix."""
    M, taps = (5, 4)[seed], [(1.0, 0.6, -0.3), (0.5, 0.9, 0.7)][seed]
    filters = np.array([[taps[s - t] if 0 <= s - t < 3 else 0.0 for s in range(M + 3)] for t in range(M + 1)])
    cov = filters @ filters.T
    variance = np.ones(M) @ cov[:M, :M] @ np.ones(M) / M**2
    return {
        "M": M, r"\tau": np.sqrt(cov[0, 0]), r"\rho_t": list(cov[0, 1:] / cov[0, 0]),
        r"\bar f": 0.0, r"\Var": lambda f: variance,
    }  # fmt: skip


# --- probabilistic PCA ---


def linear(seed):
    """W, mu, sigma; the conditional mean of z as the solution of a least-squares problem with extra rows."""
    d, m = [(3, 2), (4, 1)][seed]
    rng = np.random.default_rng([75, seed])
    W, mu, sigma = rng.normal(size=(d, m)), rng.normal(size=d), (1.2, 0.8)[seed]
    C = np.array([[W[j] @ W[k] + sigma**2 * (j == k) for k in range(d)] for j in range(d)])
    G = np.array([[W[:, j] @ W[:, k] + sigma**2 * (j == k) for k in range(m)] for j in range(m)])
    return {"W": W, r"\mu": column(mu), r"\sigma": sigma, "C": C, "G": G, "d": d, "m": m,
            "I_m": {m: np.eye(m), d: np.eye(d)}, "I_d": np.eye(d)}  # fmt: skip


def ridge(names, x):
    """The most probable z."""
    W, sigma = names["W"], names[r"\sigma"]
    rows = np.vstack([W, sigma * np.eye(W.shape[1])])
    target = np.concatenate([np.ravel(x - names[r"\mu"]), np.zeros(W.shape[1])])
    return column(np.linalg.lstsq(rows, target, rcond=None)[0])


def ppca(seed):
    names = linear(seed)
    W, mu, m = names["W"], names[r"\mu"], names["m"]
    model = Model(lambda z: mu + (W @ z if m > 1 else W * z), m, names[r"\sigma"], n=(60, 80)[seed])
    rng = np.random.default_rng([76, seed])
    x, z = column(rng.normal(size=names["d"])), column(rng.normal(size=m))
    return names | model.names(x, z if m > 1 else z.item()) | {
        r"\hat z": ridge(names, x), "I_m": {m: np.eye(m)},
    }  # fmt: skip


def data(seed):
    """Few data, and a model that does not fit them; the density of each datum is scipy's."""
    names, N = linear(seed), 6
    rng = np.random.default_rng([77, seed])
    x = rng.normal(size=(N, names["d"])) @ rng.normal(size=(names["d"], names["d"]))
    law = stats.multivariate_normal(np.ravel(names[r"\mu"]), names["C"])
    return names | {
        "N": N, r"\pi": np.pi, "x_i": [column(one) for one in x], r"\bar x": column(x.mean(0)),
        "S": np.cov(x.T, ddof=0),
        "p(x)": lambda x: law.pdf(np.ravel(x)),
    }  # fmt: skip


@cache
def best_model(seed):
    """The largest likelihood, found by a search from two starts."""
    d, m = [(3, 1), (4, 2)][seed]
    rng = np.random.default_rng([78, seed])
    x = rng.normal(size=(9, d)) * np.array([2.0, 1.4, 0.8, 0.5])[:d]
    x = x @ stats.ortho_group.rvs(d, random_state=rng)
    centred = x - x.mean(0)

    def loss(parameters):
        W, log_sd = parameters[:-1].reshape(d, m), parameters[-1]
        C = W @ W.T + np.exp(2 * log_sd) * np.eye(d)
        return np.linalg.slogdet(C)[1] + np.mean(np.sum(centred * np.linalg.solve(C, centred.T).T, 1))

    found = [
        optimize.minimize(loss, np.append(rng.normal(size=d * m), 0.0), method="BFGS", options={"gtol": 1e-7})
        for _ in range(3)
    ]
    best = min(found, key=lambda one: one.fun).x
    return x, best[:-1].reshape(d, m), float(np.exp(best[-1]))


def maximum(seed):
    x, W, sigma = best_model(seed)
    d, m = W.shape
    S = np.cov(x.T, ddof=0)
    values, vectors = np.linalg.eigh(S)
    law = stats.multivariate_normal(x.mean(0), W @ W.T + sigma**2 * np.eye(d))
    return {
        "d": d, "m": m, "N": len(x), r"\pi": np.pi, r"\lambda_j": list(values[::-1]), r"\hat\sigma": sigma,
        r"\hat W": W,
        "U_m": {m: vectors[:, ::-1][:, :m]}, r"\Lambda": np.diag(values[::-1][:m]), "I_m": {m: np.eye(m)},
        "x_i": [column(one) for one in x], r"\hat p(x)": lambda x: law.pdf(np.ravel(x)),
        "G": W.T @ W + sigma**2 * np.eye(m),
    }  # fmt: skip


def spread(seed):
    """A covariance of the model and one of data: with the same eigenvectors, and with others."""
    d, m, sigma = [(3, 1, 0.3), (4, 2, 1.2)][seed]
    rng = np.random.default_rng([79, seed])
    axes = stats.ortho_group.rvs(d, random_state=rng)
    gamma = np.append(sigma**2 + np.array([0.5, 0.3])[:m], np.full(d - m, sigma**2))
    lam = np.array([4.0, 1.9, 1.1, 0.3])[:d]
    own = axes if seed == 0 else stats.ortho_group.rvs(d, random_state=rng)
    return {
        "d": d, "m": m, r"\sigma": sigma, "C": axes @ np.diag(gamma) @ axes.T, "S": own @ np.diag(lam) @ own.T,
        r"\gamma_j": list(gamma), r"\lambda_j": list(lam), "v_j": [column(axes[:, j]) for j in range(d)],
    }  # fmt: skip


def stationary(seed):
    """The maximum, or another set of eigenvectors: there the likelihood has no slope either, by differences."""
    d, m = 4, 2
    rng = np.random.default_rng([80, seed])
    S = np.cov(rng.normal(size=(9, d)).T * np.array([[2.0], [1.5], [1.0], [0.6]]))
    values, vectors = np.linalg.eigh(S)
    kept = [(3, 2), (3, 1)][seed]
    left = [j for j in range(d) if j not in kept]
    sigma = np.sqrt(values[left].mean())
    W = vectors[:, kept] * np.sqrt(values[list(kept)] - sigma**2) @ stats.ortho_group.rvs(m, random_state=rng)

    def value(W):
        C = W @ W.T + sigma**2 * np.eye(d)
        return np.linalg.slogdet(C)[1] + np.trace(np.linalg.solve(C, S))

    for j, k in itertools.product(range(d), range(m)):
        step = np.zeros((d, m))
        step[j, k] = 1e-5
        assert abs(value(W + step) - value(W - step)) < 1e-9
    return {"S": S, "C": W @ W.T + sigma**2 * np.eye(d), "W": W, "d": d, "m": m, r"\sigma": sigma}


# --- EM ---


def two_models(seed):
    """Old and new parameters of a curve; q is the posterior under the old ones."""
    old, x = bent(seed), column([(0.6, -0.2), (-0.9, 0.5)][seed])
    # The new density falls faster than the old: nothing is lost at the ends of the grid. The second is the better one.
    if seed == 0:
        new = Model(lambda z: np.array([[0.9 * z], [0.95 * z**2 - 0.1]]), 1, 0.6)
    else:
        new = Model(lambda z: old.decoder(z) + column([-0.3, 0.2]), 1, 0.7)
    evidence = old.marginal(x)
    return {
        "x": x, "z": 0.4, "dz": grid(-8, 8, 129), "p(x)": lambda x: evidence, "p(x, z)": old.joint,
        "p'(x)": new.marginal, "p'(x, z)": new.joint, "q(z)": lambda z: old.joint(x, z) / evidence,
    }  # fmt: skip


def moments(seed):
    """The second moments of a posterior by a sum over a grid, which is not the reader's."""
    names, i = data(0), (2, 5)[seed]
    names["m"] = 2
    x, W, mu = names["x_i"], names["W"], names[r"\mu"]
    model = Model(lambda z: mu + W @ z, 2, names[r"\sigma"])
    nodes = np.linspace(-10, 10, 121)
    points = np.array(list(itertools.product(nodes, nodes)))

    def law(points, one):
        residual = np.ravel(one - mu) - points @ W.T
        values = np.exp(-np.sum(residual**2, 1) / (2 * model.sigma**2) - np.sum(points**2, 1) / 2)
        return values / (values.sum() * (nodes[1] - nodes[0]) ** 2)

    second = []
    for one in x:
        p = law(points, one)
        second.append((points * p[:, None]).T @ points / p.sum())
    total = np.sum(np.exp(-np.sum((np.ravel(x[i - 1] - mu) - points @ W.T) ** 2, 1) / (2 * model.sigma**2)
                          - np.sum(points**2, 1) / 2)) * (nodes[1] - nodes[0]) ** 2  # fmt: skip

    def q(z):
        z = np.reshape(z, (1, 2))
        residual = np.ravel(x[i - 1] - mu) - z @ W.T
        return float(np.exp(-np.sum(residual**2) / (2 * model.sigma**2) - np.sum(z**2) / 2) / total)

    return names | {
        "i": i, "q(z)": q, "dz": grid(-6.5, 6.5, 31, dimension=2), "V_i": second,
        r"\hat z_i": [ridge(names, one) for one in x],
    }  # fmt: skip


def one_step(seed):
    """A step of EM as a regression on points that have the moments of each posterior."""
    names = data(seed)
    names = names | {r"\mu": names[r"\bar x"]}
    x, m, d, W = names["x_i"], names["m"], names["d"], names["W"]
    means = [ridge(names, one) for one in x]
    # the curvature of the exponent, from the rows of the regression
    rows = np.vstack([W / names[r"\sigma"], np.eye(m)])
    tril = np.linalg.cholesky(np.linalg.inv(rows.T @ rows))
    points, targets = [], []
    for one, mean in zip(x, means, strict=True):
        for j, sign in itertools.product(range(m), (-1, 1)):
            points.append(np.ravel(mean) + sign * np.sqrt(m) * tril[:, j])
            targets.append(np.ravel(one - names[r"\bar x"]))
    points, targets = np.array(points), np.array(targets)
    new_W = np.linalg.lstsq(points, targets, rcond=None)[0].T
    residual = np.sum((targets - points @ new_W.T) ** 2, 1).mean()
    return names | {
        r"\hat z_i": means, "V_i": [tril @ tril.T + mean @ mean.T for mean in means], "W'": new_W,
        r"\sigma'": np.sqrt(residual / d), "I_m": {m: np.eye(m)},
    }  # fmt: skip


def gaps(seed):
    """Some entries observed, others not: the conditional mean from the blocks of the covariance."""
    names = linear(seed)
    o, u = [([0], [1, 2]), ([0, 2, 3], [1])][seed]
    W, mu, C, m = names["W"], names[r"\mu"], names["C"], names["m"]
    x = column(np.random.default_rng([81, seed]).normal(size=names["d"]))
    filled = mu[u] + C[np.ix_(u, o)] @ np.linalg.solve(C[np.ix_(o, o)], x[o] - mu[o])
    return {
        r"\hat x_u": filled, r"\mu_u": mu[u], r"\mu_o": mu[o], "W_u": W[u], "W_o": W[o], "x_o": x[o],
        "G_o": W[o].T @ W[o] + names[r"\sigma"] ** 2 * np.eye(m),
    }  # fmt: skip


WORLDS = {
    curve: ("def-latent-curve",),
    histogram: ("def-lv-histogram",),
    kernel: ("def-lv-kernel",),
    cells: ("eq-lv-empty",),
    plane_curve: (
        "def-latent-model", "eq-lv-joint", "eq-lv-marginal", "eq-lv-posterior", "eq-lv-candidate",
    ),
    several_data: ("eq-lv-factorises",),
    rotated: ("eq-lv-rotation",),
    toy: ("eq-lv-toy",),
    discrete: ("def-lv-monte-carlo", "eq-lv-mc-mean", "eq-lv-mc-variance", "eq-lv-log-bias"),
    square: ("eq-lv-square",),
    copies: ("eq-lv-mc-explodes",),
    proposal: ("def-lv-weights", "eq-lv-is-mean", "eq-lv-is-variance"),
    wide: ("eq-lv-is-wide",),
    weights: ("eq-lv-ess-weights",),
    walk: ("def-lv-accept", "eq-lv-balance", "eq-lv-balance-min", "eq-lv-stationary"),
    chain: ("eq-lv-chain-variance",),
    ppca: (
        "def-ppca", "def-ppca-matrices", "def-ppca-mean", "eq-ppca-marginal", "eq-ppca-inverse", "eq-ppca-square",
        "eq-ppca-det",
    ),
    data: ("eq-ppca-log-likelihood",),
    maximum: ("eq-ppca-ml", "eq-ppca-maximum", "eq-ppca-shrink"),
    spread: ("eq-ppca-trace-split", "eq-ppca-trace"),
    stationary: ("eq-ppca-stationary",),
    two_models: ("eq-em-ratio", "eq-em-climb"),
    moments: ("eq-ppca-em-moments",),
    one_step: ("eq-ppca-em-sums", "eq-ppca-em-step"),
    gaps: ("eq-ppca-impute",),
}  # fmt: skip


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    return [world(seed) for world, labels in WORLDS.items() if label in labels for seed in (0, 1)]
