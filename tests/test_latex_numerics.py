r"""What the reader of formulas computes by itself: integrals, expectations, divergences, derivatives, functions that
are told apart by their arguments. The world is linear and Gaussian, so every value is known in closed form.
"""

import latex_numerics
import numpy as np
import printed
import pytest
from latex_arithmetic import normal_density
from latex_reader import Depends
from scipy import stats

W, MEAN, SIGMA, X = 1.3, 0.4, 0.7, 1.1  # x = w z + mu + sigma times noise
EVIDENCE = stats.norm(MEAN, np.hypot(W, SIGMA)).pdf(X)
SPREAD = W**2 + SIGMA**2


def names():
    """Prior, likelihood, posterior, and q that approximates it; a die y with three faces."""
    return {
        "x": X, r"\bar{x}": 2.5, "w": W, r"\mu": MEAN, r"\sigma": SIGMA, "x_i": [2.0, 3.0], "z_i": [0.0],
        "v_j": [0.3, 0.6], "m": 1, "M": 2, "I": 1.0, "a": 0.3, "A": np.array([[5.0, 4.0], [4.0, 5.0]]),
        "u": np.array([[0.5], [2.0]]),
        "dz": latex_numerics.grid(-11, 11, 71), "dx": latex_numerics.grid(-14, 14, 61),
        r"d\varepsilon": latex_numerics.grid(-9, 9), r"\sum_y": [1, 2, 3], r"\sum_t": [1, 2],
        "p(z)": stats.norm.pdf, "p(x)": stats.norm(MEAN, SPREAD**0.5).pdf,
        r"p(x \mid z)": lambda x, z: normal_density(x, W * z + MEAN, SIGMA**2),
        "p(x, z)": lambda x, z: normal_density(z, 0, 1) * normal_density(x, W * z + MEAN, SIGMA**2),
        r"p(z \mid x)": lambda z, x: normal_density(z, W * (x - MEAN) / SPREAD, SIGMA**2 / SPREAD),
        "q(z)": lambda z: normal_density(z, -0.2, 0.5), "r(y)": {1: 0.2, 2: 0.3, 3: 0.5}.get,
        "r_j(t_j)": [{1: 0.25, 2: 0.75}.get, {1: 0.5, 2: 0.5}.get], "s(y)": {1: 0.6, 2: 0.4, 3: 0.0}.get,
        r"\phi": 0.6, r"q_\phi(z)": Depends(lambda names: lambda z: normal_density(z, names[r"\phi"], 0.5)),
        r"q_\phi(z \mid x)": Depends(lambda names: lambda z, x: normal_density(z, names[r"\phi"] * x, 0.5)),
        "f": lambda z: z**2 + z, "H": lambda q: q(-0.2), r"\elbo(q; x)": lambda q, x: q(-0.2) + x,
        r"\elbo_M(x)": lambda x: 10 * x, r"\min_{b}": lambda f: min(f(b=1.0), f(b=-1.0)),
        r"\Lambda": Depends(lambda names: names[r"\phi"] ** 3),
    }  # fmt: skip


Q_MODE = np.pi**-0.5  # of a normal density with variance 1/2
KL_TO_PRIOR = 0.5 * (0.5 + 0.04 - 1 - np.log(0.5))


@pytest.mark.parametrize(
    ("latex", "value"),
    [
        # functions told apart by their arguments
        (r"p(x_1) + p(\bar x)", stats.norm(MEAN, SPREAD**0.5).pdf([2.0, 2.5]).sum()),
        (r"p(x \mid 0) - p(x \mid z_1) + p(x, 0.3) / p(x \mid 0.3)", stats.norm.pdf(0.3)),
        (r"\elbo(q; x_2) - \elbo_M(x) + H(q)", 2 * Q_MODE + 3 - 11),
        (r"\log p(z_1)^2", np.log(stats.norm.pdf(0) ** 2)),
        # integrals
        (r"\int p(x \mid z) p(z) \, dz", EVIDENCE),
        (r"\log \int_{\R^m} p(x, z) \, dz", np.log(EVIDENCE)),
        (r"\int_{\R} \int_{-\infty}^{\infty} p(x, z) \, dx \, dz + 1", 2.0),
        (r"\int_0^1 (z^2 + x) \, dz + \int_{a}^{2} z \, dz", 1 / 3 + 1.1 + 2 - 0.045),
        (r"\int z \Normal(z; \mu, \sigma^2) \, dz", MEAN),
        (r"\int_{-\infty}^{-a} \Normal(u; 0, 1) \, du", stats.norm.cdf(-0.3)),
        (r"\int_{m}^{\infty} u^2 \Normal(u; 0, 1) \, du", stats.norm.pdf(1) + stats.norm.sf(1)),
        # expectations
        (r"\E_{p(z)}[p(x \mid z)]", EVIDENCE),
        (r"\E_{z \sim p}[p(x \mid z)] - \E_{z \sim p(\cdot \mid x)}[1]", EVIDENCE - 1),
        (r"\E_{q}[z]^2 + \Var_{q(z)}[z]", 0.54),
        (r"\E_{q_\phi(z \mid x)}[z] + \E_{z \sim q_\phi(\cdot \mid x)}[z]", 2 * 0.66),
        (r"\E_{z \sim \Normal(\mu, \sigma^2)}[f(z)]", 0.49 + 0.16 + 0.4),
        (r"\E_{\varepsilon \sim \Normal(0, I)}[f(\mu + \sigma \varepsilon)]", 0.49 + 0.16 + 0.4),
        (r"\E_{x \sim p} \E_{z \sim p(\cdot \mid x)} [z x] + \E_{p(x)}[x]^2", 1.3 + 0.16),
        (r"\E_{p(x)}\left[ \Var_{p(z \mid x)}[z] \right] + \Var_{x \sim p}[ \E_{p(z \mid x)}[z] ]", 1.0),
        (r"\E_{y \sim r}[y] + \E_{r(y)}[y^2] - \Var_{r}[y]", 2.3 + 2.3**2),
        (r"\E_{y_1, \dots, y_M \sim r}\left[\sum_{s=1}^{M} y_s^2 \right]", 2 * 5.9),
        (r"\E_{y_1, y_2 \sim r}[y_1 y_2]", 2.3**2),
        (r"\E_{r_1(t_1)}[t_1] + \E_{t_2 \sim r_2(t_2)}[t_2^2]", 1.75 + 2.5),
        # divergences and bounds
        (r"\KL(q(z) \,\|\, p(z)) + \KL(q \,\|\, p)", 2 * KL_TO_PRIOR),
        (r"\KL(q \,\|\, p(\cdot)) - \KL(\Normal(\mu, \sigma^2) \,\|\, p(z))", KL_TO_PRIOR - 0.325 + np.log(0.7) + 0.5),
        (r"\E_{q}\left[\log \frac{p(x, z)}{q(z)}\right] + \KL(q(z) \,\|\, p(z \mid x))", np.log(EVIDENCE)),
        (r"\E_{q}[\log p(x \mid z)] - \KL(q(z) \,\|\, p(z)) + \KL(q \,\|\, p(\cdot \mid x))", np.log(EVIDENCE)),
        (r"\KL(s \,\|\, r)", 0.6 * np.log(3) + 0.4 * np.log(4 / 3)),
        (r"\exp(-\KL(r \,\|\, s))", 0.0),
        # derivatives
        (r"\nabla_\phi \E_{q_\phi(z)}[f(z)] + 1", 3.2),
        (r"\E_{q_\phi}[f(z) \nabla_\phi \log q_\phi(z)] + 1", 3.2),
        (r"\frac{d}{d\phi} \E_{q_\phi}[f(z)] - 1", 1.2),
        (r"\frac{d f(\phi)}{d\phi} + \frac{\partial}{\partial x} x^3", 2.2 + 3 * 1.21),
        (r"\frac{\partial \Lambda}{\partial \phi}", 3 * 0.36),
        (r"\E_{\varepsilon \sim \Normal(0, 1)}[\nabla_\phi f(\phi + \sigma \varepsilon)]", 2.2),
        (r"\frac{\partial}{\partial v_2} \sum_{j=1}^{2} j v_j^2", 2.4),
        (r"\| \nabla_u [u^\T A u] \|^2", 21.0**2 + 24**2),
        (r"\tr(\nabla_A \tr(A A))", 20.0),
        # the rest
        (r"\binom{5}{M} + \det(A) + \det w", 10 + 9 + 1.3),
        (r"(A^{1/2})_{1,2} + (A^{-1/2})_{1,2}", 1 - 1 / 3),
        (r"\tr(\diag(v_1, \dots, v_M)) + \tr(\diag(a, x))", 0.9 + 1.4),
        (r"\tr(\diag(\exp(2 v_1), \dots, \exp(2 v_M)))", np.exp(0.6) + np.exp(1.2)),
        (r"\|\exp(u / 2) \odot u\|_1 :", 0.5 * np.exp(0.25) + 2 * np.e),
        (r"\min_{b} b x", -1.1),
    ],
)
def test_it_computes(latex, value):
    assert printed.reader(latex)(names()) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("latex", "complaint"),
    [
        (r"p(x \mid v_1)", r"no value was given for p\(x \\mid v\)"),
        (r"p(0)", r"could be any of p\(z\), p\(x\)"),
        (r"p + 1", "could be any of"),
        (r"\int p(z) \, dy", "no nodes were given for dy"),
        (r"\int_{\R^M} p(z) \, dz", "the nodes have 1"),
        (r"\int_{a} p(z) \, dz", "is not known"),
        (r"\int p(z)", "dx expected"),
        (r"\E_{p(x \mid z)}[x]", "no value was given for z"),
        (r"\E_{p}[x]", "could be any of"),
        (r"\E_{H}[x]", "not clear which letter H is a law of"),
        (r"\E_{p(x, z)}[x]", "no value was given for z"),
        (r"\E_{2}[x]", "no law"),
        (r"\E[x]", r"no value was given for \\E"),
        (r"\E_{y, t \sim r}[y]", "one letter"),
        (r"\E_{y_1, \dots, y_M, y_3 \sim r}[y_1]", "first and the last"),
        (r"\E_{w(z)}[z]", "sums up to"),
        (r"\KL(q, p)", r"two laws parted by"),
        (r"\int_{\infty}^{a} u \, du", "wrong order"),
        (r"\KL(q(z) \,\|\, p(x))", "different letters"),
        (r"\nabla_b f(a)", "no value was given for"),
        (r"\nabla_{v_3} f(a)", "has no entry 3"),
        (r"\frac{\partial a}{\partial x}", r"no value was given for \\partial"),
        (r"\log \frac{1}{2} a", "not clear how far"),
        (r"\Normal(x; \mu, A)", "a normal density at"),
        (r"(A u)^{1/2}", "symmetric"),
        (r"\diag(v_1, v_2, \dots, v_3)", "the first and the last"),
        (r"\diag(\exp(v_1), \dots, 2 v_M)", "the first and the last"),
        (r"\exp(A)", "a number is wanted"),
        (r"\log(u)", "a number is wanted"),
        (r"\max_{b > 0} b", r"no value was given for \\max"),
        (r"a \approx x", r"no value was given for \\approx"),
        (r"a \propto x", r"no value was given for \\propto"),
    ],
)
def test_it_refuses(latex, complaint):
    with pytest.raises(ValueError, match=complaint):
        printed.reader(latex)(names())


def test_a_given_function_comes_first():
    own = {
        r"\E_{q}": lambda f: f(z=3.0), r"\KL": lambda a, b: a(0.0) + b(0.0), r"\int": lambda f: f(z=2.0),
        r"\nabla_\phi": lambda f: f({r"\phi": 7.0}),
    }  # fmt: skip
    read = printed.reader(r"\E_{q}[z] + \int z \, dz + \nabla_\phi [\phi] + \KL(q(z) \,\|\, p(z))")
    expected = 3.0 + 2.0 + 7.0 + names()["q(z)"](0.0) + stats.norm.pdf(0)
    assert read(names() | own) == pytest.approx(expected)


def test_nodes_of_several_dimensions_are_columns_with_entries():
    cov = np.array([[1.0, 0.6], [0.6, 1.0]])
    situation = {
        "dz": latex_numerics.grid(-8, 8, 33, dimension=2), "m": 2, "C": cov, r"\mu": np.array([[0.3], [-0.2]]),
        "A": np.array([[1.0, 2.0], [3.0, 5.0]]), "dy_j": [latex_numerics.grid(-8, 8, 33)] * 2,
        "q_j(y_j)": [lambda y: normal_density(y, 0, 1), lambda y: normal_density(y, 1, 1)],
    }  # fmt: skip
    for latex, value in [
        (r"\Var_{z \sim \Normal(\mu, C)}[z]", cov),
        (r"\E_{z \sim \Normal(0, C)}[z_1 z_2]", 0.6),
        (r"\E_{\Normal(z; \mu, C)}[z^\T A z]", np.trace([[1.0, 2.0], [3.0, 5.0]] @ cov) - 0.01),
        (r"\int_{\R^m} \Normal(z; \mu, C) \, dz", 1.0),
        (r"\E_{q_1(y_1)} \E_{q_2(y_2)} [(y_1 + y_2)^2]", 3.0),
        (r"\int q_2(y_2) y_2 \, dy_2", 1.0),
    ]:
        assert np.allclose(printed.reader(latex)(situation), value, rtol=0, atol=1e-9), latex
