r"""Chapter 3 for the mutation test, and for its tests of equations: values of the symbols where each equation holds.

Nothing here uses course_lib. Expectations are finite sums: over a small world of pairs (x, y), over all data sets that
can be drawn from it, or over noise of plus and minus sigma, which has the moments that the theorem asks for.
"""

import itertools

import numpy as np
import printed
from scipy import optimize, special, stats
from scipy.spatial import distance

STILL_TRUE = {
    "def-squared-error": (1, "the distance is the same from either side"),
    "eq-test-squares": (1, "the two noises are independent, so the sign between them does not matter"),
    "eq-mixed-term": (2, "the first factor has mean zero, so any function of x may follow"),
    "eq-unbiased": (1, "the risk is a number, and its own expectation"),
}
NOT_MUTATED = {}
CHANGES = [(r"\\bar ", ""), (r"\\hat ", ""), (r"\^\*", ""), (r"\\softmax", ""), (r"(?<=\{)c\b", "3")]
READ_BY_SYMPY = {
    "eq-toy-risk": (1,), "eq-expected-training-risk": (1,), "eq-expected-test-risk": (1,), "eq-log-sum-exp": (0, 1),
}  # fmt: skip


def sympy_names(label):
    return {"w": 2.3, r"\theta": 1.4, r"\sigma": 0.7, "d": 3.0, "N": 7.0, "a_k": [0.3, -1.2, 2.0], "s": 0.6, "K": 3}


def column(values):
    return np.reshape(values, (-1, 1))


def slope(names, h=1e-5):
    r"""What ``\partial`` stands for: central differences, entry by entry."""

    def of(function, name):
        start = np.asarray(names[name], dtype=float)
        slopes = np.zeros(start.shape)
        for where in np.ndindex(*start.shape):
            step = np.zeros(start.shape)
            step[where] = h
            slopes[where] = (function({name: start + step}) - function({name: start - step})) / (2 * h)
        return slopes

    return of


# --- losses of one datum ---


def squared_error(y, f):
    return distance.sqeuclidean(np.ravel(y), np.ravel(f))


def cross_entropy(y, a):
    """Of a class that is counted from 1."""
    return -special.log_softmax(np.ravel(a))[y - 1]


def regression_target(seed):
    rng, c = np.random.default_rng([3, seed]), 2 + seed
    y, f = rng.normal(size=(2, c, 1))
    return {
        "y": y, "f": f, "y_j": y[:, 0], "f_j": f[:, 0], "c": c, "I": np.eye(c), r"\sigma": rng.uniform(0.5, 2),
        r"\pi": np.pi, r"\loss": squared_error,
        r"\Normal(;,)": lambda x, mean, cov: stats.multivariate_normal(np.ravel(mean), cov).pdf(np.ravel(x)),
    }  # fmt: skip


def class_target(seed, K=4, scale=1.0):
    rng = np.random.default_rng([4, seed])
    a, y = scale * rng.normal(size=K), int(rng.integers(1, K + 1))
    p, q = rng.dirichlet(np.ones(K)), special.softmax(a)
    names = {
        "y": y, "K": K, "k": 1 + y % K, "s": 0.4 * scale, "a": column(a), "a_k": a, "q": column(q), "q_k": q,
        "p": column(p), "p_k": p, "e_y": column(np.eye(K)[y - 1]), r"\loss": cross_entropy,
        r"\softmax": lambda a: column(special.softmax(np.ravel(a))), r"\sigmoid": special.expit,
        "H": lambda p: stats.entropy(np.ravel(p)), r"\KL": lambda p, q: stats.entropy(np.ravel(p), np.ravel(q)),
        r"\E_p": lambda f: sum(p[k] * f(y=k + 1) for k in range(K)),
    }  # fmt: skip
    return names | {r"\partial": slope(names)}


def bottleneck(seed, d=4, m=2):
    rng = np.random.default_rng([5, seed])
    x, z, mu = rng.normal(size=(d, 1)), rng.normal(size=(m, 1)), rng.normal(size=(d, 1))
    V = np.linalg.qr(rng.normal(size=(d, m)))[0].T

    def enc(x):
        return column([sum(V[k, j] * (x[j, 0] - mu[j, 0]) for j in range(d)) for k in range(m)])

    def dec(z):
        return column([mu[j, 0] + sum(V[k, j] * z[k, 0] for k in range(m)) for j in range(d)])

    return {"x": x, "z": z, r"\mu": mu, "V": V, r"\enc": enc, r"\dec": dec, r"\loss": squared_error}


# --- risks ---


def poisson(y, f):
    """A loss that tells its arguments apart."""
    return np.exp(f) - y * f


def pairs(seed, N=3):
    """Four pairs (x, y) with their probabilities; expectations are over all data sets of N, the first is (x, y)."""
    rng = np.random.default_rng([6, seed])
    points, chance = rng.normal(size=(4, 2)), rng.dirichlet(np.ones(4))
    drawn = [0, 3, 1, 2, 2][:N]

    def f(x):
        return np.tanh(names[r"\theta"] * x)

    def risk(theta):
        return sum(w * poisson(y, np.tanh(theta * x)) for w, (x, y) in zip(chance, points, strict=True))

    def data(rows):
        x, y = points[list(rows)].T
        given = {"x": x[0], "y": y[0], "x_i": x, "y_i": y}
        mean = printed.readers("def-empirical-risk")[1]
        return given | {r"\hat{R}": lambda theta: mean(names | given | {r"\theta": theta})}

    def expectation(g):
        every = itertools.product(range(4), repeat=N)
        return sum(np.prod(chance[list(rows)]) * g(**data(rows)) for rows in every)

    def variance(g):
        mean = expectation(g)
        return expectation(lambda **given: (g(**given) - mean) ** 2)

    names = {
        r"\theta": rng.uniform(0.5, 1.5), "N": N, r"\loss": poisson, r"f_\theta": f, "R": risk,
        r"\E": expectation, r"\Var": variance,
    }  # fmt: skip
    return names | {
        "x_i": points[drawn, 0], "y_i": points[drawn, 1],
        r"\hat{R}": lambda theta: np.mean([poisson(y, np.tanh(theta * x)) for x, y in points[drawn]]),
    }  # fmt: skip


def toy(seed):
    rng = np.random.default_rng([7, seed])
    w, theta, sigma = rng.uniform(0.5, 2, size=3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    x, noise = np.meshgrid(nodes, sigma * nodes)
    weight = np.outer(weights, weights) / weights.sum() ** 2
    return {
        "w": w, r"\theta": theta, r"\sigma": sigma,
        "R": lambda theta: np.sum(weight * (w * x + noise - theta * x) ** 2),
    }  # fmt: skip


def table(seed):
    """A joint distribution of x, three values, and y, four vectors of the plane; f is any function, f^* the mean."""
    rng = np.random.default_rng([8, seed])
    joint = rng.dirichlet(np.ones(12)).reshape(3, 4)
    y, guesses = rng.normal(size=(4, 2, 1)), rng.normal(size=(3, 2, 1))
    means = [np.average(y, axis=0, weights=row) for row in joint]

    def expectation(g):
        return sum(joint[i, j] * g(x=float(i), y=y[j]) for i, j in np.ndindex(3, 4))

    return {"f": lambda x: guesses[int(x)], "f^*": lambda x: means[int(x)], r"\E": expectation}


# --- least squares ---


def linear_model(seed, N=5, d=2):
    rng = np.random.default_rng([9, seed])
    X, true_w, sigma = rng.normal(size=(N, d)), rng.normal(size=(d, 1)), rng.uniform(0.5, 2)
    Q = np.linalg.qr(X)[0]

    def data(noise, new_noise):
        y = np.array([[sum(X[i, j] * true_w[j, 0] for j in range(d))] for i in range(N)])
        given = {r"\varepsilon": noise, r"\bar{\varepsilon}": new_noise, "y": y + noise, r"\bar{y}": y + new_noise}
        return given | {r"\hat{w}": np.linalg.lstsq(X, given["y"])[0]}

    def expectation(g):
        signs = sigma * np.array(list(itertools.product((-1, 1), repeat=2 * N)))
        return np.mean([g(**data(column(s[:N]), column(s[N:]))) for s in signs])

    now = data(*rng.normal(size=(2, N, 1)))

    def risk(w):
        w = np.ravel(w)
        return np.mean([(now["y"][i, 0] - sum(X[i, j] * w[j] for j in range(d))) ** 2 for i in range(N)])

    names = now | {
        "X": X, "w": true_w, "N": N, "d": d, "S": Q @ Q.T, "I": np.eye(N), r"\sigma": sigma, r"\E": expectation,
        r"\hat{R}": risk,
    }  # fmt: skip
    return names | {r"\partial": slope(names)}


# --- weighted means and variances ---


def instruments(seed, N=5):
    """Measurements with deviations of their own, predictions, and the most likely mean and variance, by searching."""
    rng = np.random.default_rng([10, seed])
    y, f, sigma = rng.normal(size=N), rng.normal(size=N), rng.uniform(0.5, 3, size=N)
    exact = {"method": "bounded", "options": {"xatol": 1e-11}}
    mu = optimize.minimize_scalar(lambda mu: -stats.norm.logpdf(y, mu, sigma).sum(), bounds=(-9, 9), **exact)
    deviation = optimize.minimize_scalar(lambda s: -stats.norm.logpdf(y, f, s).sum(), bounds=(0.05, 9), **exact)
    return {"y_i": y, "f_i": f, r"\sigma_i": sigma, "N": N, r"\hat{\mu}": mu.x, r"\hat{\sigma}": deviation.x}


# --- softmax regression ---


def softmax_regression(seed, N=4, d=3, K=3):
    rng = np.random.default_rng([11, seed])
    W, b, x = rng.normal(size=(K, d)), rng.normal(size=(K, 1)), rng.normal(size=(N, d, 1))
    y = rng.integers(1, K + 1, size=N)
    names = {
        "W": W, "N": N, "x_i": list(x), "a_i": [W @ one + b for one in x],
        "e_{y_i}": [column(np.eye(K)[k - 1]) for k in y],
        r"\softmax": lambda a: column(special.softmax(np.ravel(a))),
        r"\hat{R}": lambda W: np.mean([cross_entropy(k, W @ one + b) for k, one in zip(y, x, strict=True)]),
    }  # fmt: skip
    return names | {r"\partial": slope(names)}


WORLDS = {
    regression_target: ("def-squared-error", "eq-gaussian-nll"),
    class_target: (
        "def-softmax", "def-cross-entropy-loss", "eq-cross-entropy-logits", "eq-cross-entropy-split",
        "eq-log-sum-exp", "eq-logit-gradient",
    ),
    bottleneck: ("def-reconstruction-error", "def-pca-autoencoder"),
    pairs: ("def-risk", "def-empirical-risk", "eq-unbiased", "eq-risk-variance"),
    toy: ("eq-toy-risk",),
    table: ("eq-risk-split", "eq-mixed-term"),
    linear_model: (
        "def-least-squares-risk", "eq-least-squares-gradient", "eq-least-squares", "eq-least-squares-minimum",
        "def-linear-model", "eq-expected-training-risk", "eq-expected-test-risk", "def-projection",
        "eq-projection-trace", "eq-training-residual", "eq-test-residual", "eq-training-squares", "eq-test-squares",
    ),
    instruments: ("eq-weighted-mean", "eq-best-variance"),
    softmax_regression: ("eq-softmax-gradient",),
}  # fmt: skip


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    if label == "eq-two-classes":
        return [class_target(seed, K=2) for seed in (0, 1)]
    if label.startswith("eq-expected") or label in ("eq-training-squares", "eq-test-squares"):
        return [linear_model(seed, N=4) for seed in (0, 1)]
    return [world(seed) for world, labels in WORLDS.items() if label in labels for seed in (0, 1)]
