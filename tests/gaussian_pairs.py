"""Random pairs of Gaussians, and expectations under them, for the tests of equations.

Nothing here uses course_lib. Densities are SciPy's, and expectations come from a product rule that is exact for the
polynomials at hand.
"""

import itertools

import numpy as np
from scipy import integrate, stats


class Gaussian:
    """A normal distribution: called, it is its density; means are columns."""

    def __init__(self, mean, cov):
        self.cov = np.atleast_2d(cov)
        self.mean = np.zeros((len(self.cov), 1)) + mean
        self._density = stats.multivariate_normal(self.mean[:, 0], self.cov)

    def __call__(self, x):
        return np.exp(self.log_density(x))

    def log_density(self, x):
        return self._density.logpdf(np.ravel(x))

    def expectation(self, f):
        """E[f(x, z)] with x from this Gaussian and z the same draw seen in standard coordinates.

        A Gauss-Hermite rule, exact for polynomials of degree 9 in each coordinate. Its nodes are placed along the
        eigenvectors of the covariance.
        """
        d = len(self.cov)
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        grid = np.array(list(itertools.product(nodes, repeat=d)))[..., None]
        weight = np.prod(list(itertools.product(weights, repeat=d)), axis=1)
        values, vectors = np.linalg.eigh(self.cov)
        points = self.mean + vectors * np.sqrt(values) @ grid
        drawn = [f(x=x, z=z) for x, z in zip(points, grid, strict=True)]
        return np.tensordot(weight / weight.sum(), np.array(drawn), axes=1)


def divergence(p, q):
    """KL(p || q) as its definition says. The log-ratio is a polynomial of degree 2, so the rule is exact."""
    return p.expectation(lambda x, z: p.log_density(x) - q.log_density(x))


class Pair:
    """Two random Gaussians in d dimensions."""

    def __init__(self, d, seed, condition=10.0):
        self.d = d
        self.rng = np.random.default_rng([d, seed])
        self.mu_p, self.mu_q, self.x = self.rng.normal(size=(3, d, 1))
        self.S_p, self.S_q = self.covariance(condition), self.covariance(condition)

    def covariance(self, condition):
        axes = np.linalg.qr(self.rng.normal(size=(self.d, self.d)))[0]
        return axes * np.geomspace(1.0, condition, self.d) * self.rng.uniform(0.5, 2) @ axes.T

    def diagonal(self):
        """The same pair with the covariances cut down to their diagonals."""
        self.S_p, self.S_q = np.diag(np.diag(self.S_p)), np.diag(np.diag(self.S_q))
        return self

    def to_standard(self):
        """The same first member, beside the standard normal."""
        self.mu_q, self.S_q = np.zeros((self.d, 1)), np.eye(self.d)
        return self

    @property
    def p(self):
        return Gaussian(self.mu_p, self.S_p)

    @property
    def q(self):
        return Gaussian(self.mu_q, self.S_q)

    def kl(self):
        return divergence(self.p, self.q)

    def variance(self, f):
        mean = self.p.expectation(f)
        return self.p.expectation(lambda **drawn: (f(**drawn) - mean) ** 2)

    def derivative(self, function, name, h=1e-5):
        """Central differences of a function of p, when its mean or its covariance moves entry by entry.

        A covariance moves symmetrically: half of a step in each of the two mirrored entries.
        """
        start = {r"\mu_p": self.mu_p, r"\Sigma_p": self.S_p}[name]
        slopes = np.zeros(start.shape)
        for i, j in np.ndindex(*start.shape):
            step = np.zeros(start.shape)
            step[i, j] += h
            if name == r"\Sigma_p":
                step = (step + step.T) / 2
                ends = [Gaussian(self.mu_p, start + sign * step) for sign in (1, -1)]
            else:
                ends = [Gaussian(start + sign * step, self.S_p) for sign in (1, -1)]
            slopes[i, j] = (function({"p": ends[0]}) - function({"p": ends[1]})) / (2 * h)
        return slopes

    def names(self):
        r"""A value for each symbol of the chapter, by its LaTeX. Without an index, \mu, \Sigma and \E belong to p."""
        L_p, L_q = np.linalg.cholesky(self.S_p), np.linalg.cholesky(self.S_q)
        whiten = np.linalg.inv(L_q)
        M, W = whiten @ self.S_p @ whiten.T, whiten @ (L_p - L_q)
        A, B, C = np.random.default_rng([self.d, 1]).normal(size=(3, self.d, self.d))  # not symmetric
        return {
            "d": self.d, "I": np.eye(self.d), r"\pi": np.pi, "A": A, "B": B, "C": C, "b": 2 + self.x, "m": 0.3,
            "p": self.p, "q": self.q, "x": self.x, "z": -self.x,
            r"\mu": self.mu_p, r"\mu_p": self.mu_p, r"\mu_q": self.mu_q,
            r"\Sigma": self.S_p, r"\Sigma_p": self.S_p, r"\Sigma_q": self.S_q,
            "L": L_p, "L_p": L_p, "L_q": L_q,
            "L_{ij}": L_p, "L_{p,ij}": L_p, "L_{q,ij}": L_q,
            r"\sigma_p": self.S_p[0, 0] ** 0.5, r"\sigma_q": self.S_q[0, 0] ** 0.5,
            r"\sigma_{p,j}": list(np.diag(self.S_p) ** 0.5), r"\sigma_{q,j}": list(np.diag(self.S_q) ** 0.5),
            r"\mu_{p,j}": list(self.mu_p[:, 0]), r"\mu_{q,j}": list(self.mu_q[:, 0]), r"\mu_j": list(self.mu_p[:, 0]),
            r"\gamma_j": list(np.log(np.diag(self.S_p))),
            "M": M, r"\delta": whiten @ (self.mu_p - self.mu_q), "m_i": list(np.linalg.eigvalsh(M)),
            "W": W, "w_i": list(np.diag(W)),
            r"\E": self.p.expectation, r"\E_p": self.p.expectation, r"\Var_p": self.variance,
            r"\KL": divergence, r"\Normal": Gaussian, r"\Normal(;,)": lambda x, *moments: Gaussian(*moments)(x),
            r"\partial": self.derivative,
        }  # fmt: skip


def distorted(d, mu_p=None, S_p=None):
    """A pair whose first member is a distortion of the second, which is N(0, diag(4, 1, 2.5))."""
    pair = Pair(d, 5)
    pair.mu_q = np.zeros((d, 1))
    pair.S_q = np.diag(np.array([4.0, 1.0, 2.5])[:d])
    pair.mu_p = pair.mu_q if mu_p is None else mu_p
    pair.S_p = pair.S_q if S_p is None else S_p(pair.S_q)
    return pair


def scaled(d, s):
    return distorted(d, S_p=lambda S_q: s**2 * S_q).names() | {"s": s}


def shifted(t):
    return distorted(2, mu_p=np.array([[t], [0.0]])).names() | {"t": t, "a": 4.0}


def rotated(angle):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    names = distorted(2, S_p=lambda S_q: turn @ S_q @ turn.T).names()
    return names | {r"\alpha": angle, "a": 4.0, "b": 1.0}


def whole_line(pair):
    """The names of a pair in one dimension, with an integral over the line."""
    middle, reach = pair.mu_p.item(), 12 * pair.S_p.item() ** 0.5

    def integral(f):
        return integrate.quad(lambda x: f(x=x), middle - reach, middle + reach, epsabs=1e-12)[0]

    return pair.names() | {r"\int": integral}


def over_noise(pair, sample):
    """The names of a pair where x is the given function of z, and expectations are over z alone."""
    names, standard = pair.names(), Gaussian(0, np.eye(pair.d))

    def expectation(f):
        return standard.expectation(lambda x, z: f(x=sample(names | {"z": z}), z=z))

    return names | {r"\E": expectation}
