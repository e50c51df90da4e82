r"""Chapter 6 for the mutation test, and for its tests of equations: values of the symbols where each equation holds.

Nothing here uses course_lib, autograd or an eigenvalue routine. Losses are loops over the data, derivatives complex
steps (exact, because nothing is subtracted). Eigenvectors come from the singular values of the data. Minima and
critical points are found by scipy from random starts, not put in.
"""

import functools
import itertools

import numpy as np
from complex_steps import slopes
from scipy import linalg, optimize

STILL_TRUE = {
    "eq-pca-max-trace": (1, "a bound with more eigenvalues is a bound as well"),
    "eq-pca-gap": (1, "the term with j = m, which is added, is zero"),
    "eq-pca-eckart-young": (1, "minus A has the rank of A, so it is no closer either"),
    "eq-ae-decay-symmetric": (2, "at a critical point W turns out to be symmetric"),
}
NOT_MUTATED = {}
READ_BY_SYMPY = {}
CHANGES = [
    (r"I_d", "I_m"),
    (r"_m(?![a-z])", "_{m+1}"),
    (r"\{m\}", "{d}"),
    (r"\{d\}", "{m}"),
    (r"m\+1", "m"),
    (r"\\bar\{x\}", "c"),
    (r"\\tilde\{x\}_i", "x_i"),
    (r"\\tilde(?=\{R\})", r"\\hat"),
    (r"W_d", "W_e"),
    (r"W_e", "W_d"),
    (r"(?<=\\lambda)_k", "_j"),
    (r"(?<=\\lambda)_j", "_k"),
    (r"\\kappa", r"2 \\kappa"),
    (r"\\sigma\^2", r"2 \\sigma^2"),
    (r"\^\*", ""),
    (r"\\sin", r"\\cos"),
    (r"\\sqrt", ""),
    (r"\\frac\{1\}\{4\}", r"\\frac{1}{2}"),
    (r"(?<![A-Za-z])F", r"\\Delta"),
    (r"\\Delta", "F"),
]

def sympy_names(label):
    return {}


def column(values):
    return np.reshape(values, (-1, 1))


def orthonormal(rng, d, m):
    """m orthonormal columns, by Gram and Schmidt."""
    columns = []
    for v in rng.normal(size=(m, d)):
        for u in columns:
            v = v - (u @ v) * u
        columns.append(v / np.sqrt(v @ v))
    return np.array(columns).T


# --- data ---


class Cloud:
    """Data in d dimensions whose covariance has well separated eigenvalues, and a mean that is not zero."""

    def __init__(self, seed, d=4, m=2, N=7, scale=1.3):
        rng = np.random.default_rng([6, seed])
        self.rng, self.d, self.m, self.N = rng, d, m, N
        raw = rng.normal(size=(N, d))
        raw -= np.mean(raw, 0)
        left, _, right = linalg.svd(raw, full_matrices=False)
        sizes = scale * 1.6 ** -np.arange(d)
        self.x = np.sqrt(N) * left * sizes @ right  # centred
        self.mean = rng.normal(size=d)
        self.raw = self.x + self.mean
        self.lam, self.u = sizes**2, right  # a row of u is an eigenvector
        self.S = np.array([[sum(x[j] * x[k] for x in self.x) / N for k in range(d)] for j in range(d)])

    def risk(self, W_e, W_d, noise=((0.0,),)):
        """Mean over the data (and over the noise, each row as likely as another) of the squared error."""
        total = 0
        for x, e in itertools.product(self.x, noise):
            total = total + sum((x - W_d @ (W_e @ (x + e))) ** 2)
        return total / (self.N * len(noise))

    def decayed(self, W_e, W_d, kappa):
        return self.risk(W_e, W_d) + kappa * (sum(np.ravel(W_e) ** 2) + sum(np.ravel(W_d) ** 2))

    def names(self, **more):
        """What all equations of the theory use."""
        d, m = self.d, self.m
        return {
            "N": self.N, "d": d, "m": m, "X": self.x, "x_i": self.x, r"\bar{x}": column(self.mean), "S": self.S,
            "I_d": np.eye(d), "I_m": {k: np.eye(k) for k in range(1, d + 1)}, "u_j": self.u, r"\lambda_j": self.lam,
            "U_m": {k: self.u[:k].T for k in range(1, d + 1)}, "U": orthonormal(self.rng, d, m),
            "x": column(self.rng.normal(size=d)), "c": column(self.rng.normal(size=d)),
            r"\hat{R}": lambda W_e, W_d: self.risk(W_e, W_d), **more,
        }  # fmt: skip


def pca(seed):
    """A random U, and data around a mean."""
    cloud = Cloud(seed, *[(4, 2), (5, 3), (3, 1)][seed % 3])
    return cloud.names()


def around_a_mean(seed):
    cloud = Cloud(seed, *[(4, 2), (5, 3)][seed])
    W = cloud.rng.normal(size=(cloud.d, cloud.m)) @ cloud.rng.normal(size=(cloud.m, cloud.d))
    return cloud.names() | {"x_i": cloud.raw, "W": W}


def toy(seed):
    x = np.array([[5.0, 10.0], [11.0, 2.0], [-5.0, -10.0], [-11.0, -2.0]])
    alpha = (0.4, -1.1, 2.5)[seed]
    u = np.cos(alpha) * np.array([0.8, 0.6]) + np.sin(alpha) * np.array([-0.6, 0.8])
    S = np.array([[sum(x[:, j] * x[:, k]) / 4 for k in range(2)] for j in range(2)])
    return {"X": x, "x_i": x, "N": 4, "S": S, "u": column(u), r"\alpha": alpha, "j": 1}


def weights(seed):
    cloud = Cloud(seed, *[(4, 2), (5, 3), (3, 1)][seed])
    names = cloud.names(j=2)
    U = names["U"]
    w = [sum(sum(U[j, k] * u[j] for j in range(cloud.d)) ** 2 for k in range(cloud.m)) for u in cloud.u]
    return names | {"w_j": w}


def no_weight(seed):
    """Eigenvectors themselves: weights of 0 and of 1, in the right order and in a wrong one."""
    cloud = Cloud(seed, 4, 2)
    chosen = ([0, 1], [1, 3])[seed]
    w = [float(k in chosen) for k in range(4)]
    return cloud.names(j=(1, 3)[seed]) | {"U": cloud.u[chosen].T, "w_j": w}


def largest_trace(seed):
    """U spans the principal subspace, as a minimiser of the error finds it: the inequality is an equality."""
    cloud = Cloud(seed, *[(4, 2), (5, 3)][seed], scale=4.0)  # the determinant is then above the trace

    def error(flat):
        W = np.reshape(flat, (cloud.d, cloud.m))
        return np.trace(cloud.S) - np.trace(linalg.pinv(W) @ cloud.S @ W)

    found = optimize.minimize(error, cloud.rng.normal(size=cloud.d * cloud.m), method="BFGS", options={"gtol": 1e-9})
    return cloud.names() | {"U": linalg.orth(np.reshape(found.x, (cloud.d, cloud.m)))}


def low_rank(seed):
    """Seed 0: the best A, seed 1: another one, close to it."""
    cloud = Cloud(seed, *[(4, 2), (5, 3)][seed])
    left, sizes, right = linalg.svd(cloud.x, full_matrices=False)
    m = cloud.m
    A = left[:, :m] * sizes[:m] @ right[:m]
    if seed:
        A = A @ (np.eye(cloud.d) + 1e-3 * cloud.rng.normal(size=(cloud.d, cloud.d)))
    return cloud.names() | {"A": A}


# --- linear autoencoders ---


def two_matrices(flat, d, m):
    return np.reshape(flat[: m * d], (m, d)), np.reshape(flat[m * d :], (d, m))


def gradient(cloud, W_e, W_d, kappa=0.0):
    """By complex steps."""
    by_e = slopes(lambda W: cloud.decayed(W, W_d, kappa), W_e)
    by_d = slopes(lambda W: cloud.decayed(W_e, W, kappa), W_d)
    return by_e, by_d


@functools.cache
def minimum(seed, kappa=0.0):
    """The minimum that a descent finds from a random start."""
    cloud = Cloud(30 + seed, *[(4, 2), (3, 2)][seed], N=5)
    d, m = cloud.d, cloud.m

    def value_and_slopes(flat):
        W_e, W_d = two_matrices(flat, d, m)
        by_e, by_d = gradient(cloud, W_e, W_d, kappa)
        return cloud.decayed(W_e, W_d, kappa), np.concatenate([by_e.ravel(), by_d.ravel()])

    start = cloud.rng.normal(size=2 * d * m)
    found = optimize.minimize(value_and_slopes, start, jac=True, method="BFGS", options={"gtol": 1e-10})
    return cloud, *two_matrices(found.x, d, m)


@functools.cache
def critical(seed, kappa=0.0):
    """A critical point: where least squares brings the gradient to zero from a random start. J is what it keeps."""
    cloud = Cloud(40 + seed, 4, 2, N=5)
    scale = (1.0, 0.3, 2.0, 0.6)[seed % 4]

    def all_slopes(flat):
        by_e, by_d = gradient(cloud, *two_matrices(flat, 4, 2), kappa)
        return np.concatenate([by_e.ravel(), by_d.ravel()])

    start = scale * cloud.rng.normal(size=16)
    found = optimize.least_squares(all_slopes, start, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=2000)
    assert np.abs(found.fun).max() < 1e-9
    W_e, W_d = two_matrices(found.x, 4, 2)
    kept = [u @ W_d @ W_e @ u for u in cloud.u]
    return cloud, W_e, W_d, {j for j, share in enumerate(kept, 1) if share > 1e-3}


def autoencoder(seed):
    """A nonlinear one, and a linear one with biases; the indices of the data are counted by the sum."""
    cloud, rng = Cloud(50 + seed, *[(4, 2), (5, 3)][seed]), np.random.default_rng([7, seed])
    d, m = cloud.d, cloud.m
    A, B = rng.normal(size=(m, d)), rng.normal(size=(d, m))
    b_e, b_d, z = rng.normal(size=(m, 1)), rng.normal(size=(d, 1)), rng.normal(size=(m, 1))

    def enc(x):
        return np.tanh(A @ x)

    def dec(z):
        return np.sin(B @ z) + b_d

    def risk(theta):
        return np.mean([np.sum((x - dec(enc(x))) ** 2) for x in cloud.raw[:, :, None]])

    names = cloud.names() | {"x_i": cloud.raw, r"\enc": enc, r"\dec": dec, r"\theta": None, r"\hat{R}": risk}
    noise = rng.normal(size=(3, d, 1))

    def expectation(f):
        return np.mean([f(**{r"\tilde{x}_i": [x + e for x in cloud.raw[:, :, None]]}) for e in noise])

    def noisy_risk(theta):
        pairs = itertools.product(cloud.raw[:, :, None], noise)
        return np.mean([np.sum((x - dec(enc(x + e))) ** 2) for x, e in pairs])

    return names | {
        "z": z, "W_e": A, "W_d": B, "b_e": b_e, "b_d": b_d, r"\E": expectation, r"\tilde{R}": noisy_risk,
    }  # fmt: skip


def linear_layers(seed):
    """The same names with encoder and decoder affine, as loops."""
    names = autoencoder(seed)
    W_e, W_d, b_e, b_d = (names[name] for name in ("W_e", "W_d", "b_e", "b_d"))

    def enc(x):
        return column([sum(W_e[k, j] * x[j, 0] for j in range(len(x))) + b_e[k, 0] for k in range(len(b_e))])

    def dec(z):
        return column([sum(W_d[j, k] * z[k, 0] for k in range(len(z))) + b_d[j, 0] for j in range(len(b_d))])

    return names | {r"\enc": enc, r"\dec": dec}


def linear(seed):
    """Random matrices, the loss and its derivatives."""
    cloud = Cloud(60 + seed, *[(4, 2), (5, 3)][seed], N=6)
    W_e, W_d = cloud.rng.normal(size=(cloud.m, cloud.d)), cloud.rng.normal(size=(cloud.d, cloud.m))
    by_e, by_d = gradient(cloud, W_e, W_d)
    kappa = 0.3 + seed
    return cloud.names() | {
        "W_e": W_e, "W_d": W_d, r"\kappa": kappa, r"\hat{R}_\kappa": lambda e, d: cloud.decayed(e, d, kappa),
        r"\frac{\partial \hat{R}}{\partial W_e}": by_e, r"\frac{\partial \hat{R}}{\partial W_d}": by_d,
    }  # fmt: skip


def at_the_minimum(seed):
    cloud, W_e, W_d = minimum(seed)
    C = np.array([[u @ W_d[:, k] for k in range(cloud.m)] for u in cloud.u[: cloud.m]])
    return cloud.names() | {"W_e": W_e, "W_d": W_d, "C": C}


def at_a_critical_point(seed):
    cloud, W_e, W_d, J = critical(seed)
    return cloud.names() | {"W_e": W_e, "W_d": W_d, "J": J, "Q": linalg.orth(W_d, rcond=1e-6)}


def way_down(seed):
    """From a saddle with J = {1, 4} or {2, 3} of m = 2: u_j is turned into u_k."""
    cloud = Cloud(70 + seed, 4, 2)
    keep, j, k = [([0, 3], 4, 2), ([1, 2], 3, 1)][seed]
    C = cloud.rng.normal(size=(2, 2))

    def phi(t):
        u = cloud.u.copy()
        u[j - 1] = np.cos(t) * cloud.u[j - 1] + np.sin(t) * cloud.u[k - 1]
        return cloud.risk(linalg.inv(C) @ u[keep], u[keep].T @ C)

    return cloud.names(j=j, k=k, t=0.7) | {r"\phi": phi}


def way_down_of_lower_rank(seed):
    """From a saddle of rank 1 (m = 2), and from the origin."""
    cloud = Cloud(80 + seed, 4, 2)
    rng, k = cloud.rng, (2, 1)[seed]
    a = rng.normal(size=2)
    W_d = np.outer(cloud.u[0], a) * (seed == 0)
    W_e = np.outer(a, cloud.u[0]) / (a @ a) * (seed == 0)
    v = np.array([-a[1], a[0]]) / np.sqrt(a @ a)
    w = v - W_e @ W_d @ v

    def phi(t):
        up = cloud.u[k - 1]
        return cloud.risk(W_e + t * np.outer(w, up), W_d + t * np.outer(up, v))

    return cloud.names(k=k, j=4, t=0.6) | {r"\phi": phi}


# --- weight decay ---


def decay_minimum(seed):
    kappa = (0.1, 0.2)[seed]
    cloud, W_e, W_d = minimum(seed, kappa)
    v = [W_d.T @ u for u in cloud.u[: cloud.m]]
    v = [column(one / np.sqrt(one @ one)) for one in v]
    return cloud.names() | {"W_e": W_e, "W_d": W_d, r"\kappa": kappa, "v_j": v}


def decay_critical(seed):
    kappa = (0.1, 0.05, 0.2)[seed]
    cloud, W_e, W_d, J = critical(seed, kappa)
    return cloud.names() | decay_names(cloud.S, W_e, W_d, kappa) | {
        "J": J, r"\hat{R}_\kappa": lambda e, d: cloud.decayed(e, d, kappa),
    }  # fmt: skip


def decay_names(S, W_e, W_d, kappa):
    W = W_d @ W_e
    return {
        "W_e": W_e, "W_d": W_d, "W": W, r"\kappa": kappa, "G": S - W @ S, "F": W_d + W_e.T, r"\Delta": W_d - W_e.T,
    }  # fmt: skip


def decay_algebra(seed):
    """The steps of the proof hold for every symmetric S. With an eigenvalue below zero they do not hold trivially:
    there are critical points where the encoder is minus the transpose of the decoder in one direction.
    """
    rng, kappa = np.random.default_rng([8, seed]), (0.3, 0.7)[seed]
    u, v = orthonormal(rng, 4, 4), orthonormal(rng, 3, 3)
    s = np.array([0.8, 0.5, 1.3])
    lam = np.array([kappa / (1 - 0.8**2), kappa / (1 - 0.5**2), -kappa / (1 + 1.3**2), 0.9])
    S = u * lam @ u.T
    W_d = u[:, :3] * s @ v.T
    W_e = v * (s * [1, 1, -1]) @ u[:, :3].T
    return {"S": S, "I_d": np.eye(4), "I_m": {3: np.eye(3)}, "d": 4, "m": 3} | decay_names(S, W_e, W_d, kappa)


# --- levels and noise ---


def levels(seed):
    rng, (n, level) = np.random.default_rng([9, seed]), [((4, 3, 2), 2), ((3, 5, 2), 1)][seed]
    maps = {k: (rng.normal(size=(n[k], n[k - 1])), rng.normal(size=(n[k - 1], n[k]))) for k in (1, 2)}
    enc = {k: lambda x, A=A: np.tanh(A @ x) for k, (A, _) in maps.items()}
    dec = {k: lambda z, B=B: np.sin(B @ z) for k, (_, B) in maps.items()}
    h = {0: rng.normal(size=(5, n[0], 1))}
    for k in (1, 2):
        h[k] = np.array([enc[k](x) for x in h[k - 1]])

    def risk(k):
        return lambda theta: np.mean([np.sum((x - dec[k](enc[k](x))) ** 2) for x in h[k - 1]])

    return {
        "N": 5, r"\ell": level, r"\theta": None, r"\hat{R}_\ell": {1: risk(1), 2: risk(2)},
        r"\enc_\ell": enc, r"\dec_\ell": dec, r"h_i^{(\ell)}": {k: list(rows) for k, rows in h.items()},
    }  # fmt: skip


def denoising(seed):
    """Noise of 2 d vectors, all as likely, whose covariance is sigma^2 I; the best map by least squares."""
    cloud = Cloud(90 + seed, *[(4, 2), (3, 1)][seed], N=6)
    d, sigma = cloud.d, (0.6, 0.9)[seed]
    noise = sigma * np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])
    clean = np.repeat(cloud.x, 2 * d, axis=0)
    noisy = np.concatenate([x + noise for x in cloud.x])
    best = linalg.lstsq(noisy, clean)[0].T

    def risk(W):
        return cloud.risk(np.eye(d), W, noise)

    W = best + 0.4 * cloud.rng.normal(size=(d, d))
    return cloud.names() | {"W": W, "W^*": best, r"\sigma": sigma, r"\tilde{R}": risk}


def situations(label):
    """The values of the symbols in a few situations where the display claims to hold."""
    makers = {
        "def-pca-covariance": pca, "eq-pca-toy": toy, "def-pca-orthonormal": pca, "eq-pca-pythagoras": pca,
        "eq-pca-two-problems": pca, "eq-pca-offset": around_a_mean, "eq-pca-max-trace": largest_trace,
        "eq-pca-weights": weights, "eq-pca-weight-sum": weights, "eq-pca-gap": weights, "eq-pca-floor": pca,
        "eq-pca-eckart-young": low_rank, "eq-pca-affine": around_a_mean, "def-ae-risk": autoencoder,
        "def-ae-linear": linear_layers, "eq-ae-linear-risk": linear, "eq-ae-minimisers": at_the_minimum,
        "eq-ae-left-inverse": at_the_minimum, "eq-ae-gradients": linear, "eq-ae-critical": at_a_critical_point,
        "eq-ae-projector": at_a_critical_point, "eq-ae-escape": way_down,
        "eq-ae-escape-rank": way_down_of_lower_rank, "def-ae-decay-risk": linear,
        "eq-ae-decay-minimisers": decay_minimum, "eq-ae-decay-critical": decay_algebra,
        "eq-ae-decay-symmetric": decay_algebra, "eq-ae-decay-difference": decay_algebra,
        "eq-ae-decay-zero": decay_algebra, "eq-ae-decay-risk": decay_critical, "def-ae-level": levels,
        "def-ae-denoising-risk": autoencoder, "eq-ae-noise-decay": denoising, "eq-ae-wiener": denoising,
        "eq-ae-wiener-risk": denoising,
    }  # fmt: skip
    if label == "def-pca-eigenvectors":
        return [pca(seed) | {"j": j} for seed, j in ((0, 1), (1, 3))]
    if label == "eq-pca-weight-sum":
        return [weights(0), weights(1), no_weight(0), no_weight(1)]
    return [makers[label](seed) for seed in range(2)]
