r"""Every equation of chapter 3, both sides computed by routes that share no code.

`agree` reads all sides from the chapter itself and computes each with the values of ``situations_03``: expectations by
enumeration, derivatives by differences, minima by searching, losses and densities by SciPy. Beside it, ``course_lib``
and automatic differentiation are held against the print. ``test_latex_reader.py`` shows that small changes are seen.
"""

import numpy as np
import pytest
import torch
from printed import agree, readers
from scipy import special, stats
from situations_03 import (
    bottleneck,
    class_target,
    column,
    instruments,
    linear_model,
    pairs,
    regression_target,
    softmax_regression,
    table,
    toy,
)

from course_lib import losses

seeds = pytest.mark.parametrize("seed", range(3))


def tensor(values, shape=None):
    return torch.tensor(np.reshape(values, shape) if shape else values)


# --- the three tasks ---


@seeds
@pytest.mark.equation("def-squared-error", r"\loss(y, f) = \| y - f \|^2 = \sum_{j=1}^{c} (y_j - f_j)^2 .")
def test_squared_error(seed):
    names = regression_target(seed)
    agree("def-squared-error", names)
    ours = losses.squared_error(tensor(names["y_j"]), tensor(names["f_j"]))
    assert ours.item() == pytest.approx(readers("def-squared-error")[1](names))


@seeds
@pytest.mark.equation("def-softmax", r"q_k = \frac{\exp(a_k)}{\sum_{j=1}^{K} \exp(a_j)} ,")
def test_softmax(seed):
    names = class_target(seed)
    for k in range(1, 5):
        agree("def-softmax", names | {"k": k})
    total = sum(readers("def-softmax")[1](names | {"k": k}) for k in range(1, 5))
    assert total == pytest.approx(1)


@seeds
@pytest.mark.equation("def-cross-entropy-loss", r"\loss(y, a) = -\log q_y .")
def test_cross_entropy_is_the_surprise_at_the_true_class(seed):
    names = class_target(seed)
    for y in range(1, 5):
        agree("def-cross-entropy-loss", names | {"y": y})
        ours = losses.cross_entropy_loss(torch.tensor(y - 1), tensor(names["a_k"]))
        assert ours.item() == pytest.approx(readers("def-cross-entropy-loss")[1](names | {"y": y}))


@seeds
@pytest.mark.equation("def-reconstruction-error", r"\loss(x, \dec(\enc(x))) = \| x - \dec(\enc(x)) \|^2 .")
def test_reconstruction_error(seed):
    names = bottleneck(seed)
    agree("def-reconstruction-error", names)
    restored = names[r"\dec"](names[r"\enc"](names["x"]))
    ours = losses.squared_error(tensor(names["x"], (1, 4)), tensor(restored, (1, 4)))
    assert ours.item() == pytest.approx(readers("def-reconstruction-error")[1](names))


# --- risk and empirical risk ---


@seeds
@pytest.mark.equation("def-risk", r"R(\theta) = \E[\loss(y, f_\theta(x))] .")
def test_risk(seed):
    agree("def-risk", pairs(seed))


@seeds
@pytest.mark.equation(
    "def-empirical-risk",
    r"\hat R(\theta) = \frac{1}{N} \sum_{i=1}^{N} \loss(y_i, f_\theta(x_i)) .",
)
def test_empirical_risk(seed):
    names = pairs(seed, N=5)
    agree("def-empirical-risk", names)
    f = np.tanh(names[r"\theta"] * names["x_i"])
    y, f = tensor(names["y_i"], (5, 1)), tensor(f, (5, 1))
    ours = losses.empirical_risk(lambda y, f: (f.exp() - y * f).sum(-1), y, f)
    assert ours.item() == pytest.approx(readers("def-empirical-risk")[1](names))


@pytest.mark.parametrize("N", [1, 2, 4])
@seeds
@pytest.mark.equation("eq-unbiased", r"\E[\hat R(\theta)] = R(\theta) ,")
@pytest.mark.equation("eq-risk-variance", r"\Var[\hat R(\theta)] = \frac{1}{N} \Var[\loss(y, f_\theta(x))] ,")
def test_mean_and_variance_of_the_empirical_risk_over_all_data_sets(seed, N):
    agree("eq-unbiased", pairs(seed, N))
    agree("eq-risk-variance", pairs(seed, N))


@pytest.mark.equation("eq-risk-variance", r"\Var[\hat R(\theta)] = \frac{1}{N} \Var[\loss(y, f_\theta(x))] ,")
def test_the_variance_needs_independent_data():
    """With one pair drawn and written down N times, the variance does not fall."""
    names = pairs(0, N=3)
    left, right = readers("eq-risk-variance")

    def copied(g):
        def one(x, y, **_):
            given = {"x": x, "y": y, "x_i": [x] * 3, "y_i": [y] * 3}
            mean = readers("def-empirical-risk")[1]
            return g(**given, **{r"\hat{R}": lambda theta: mean(names | given | {r"\theta": theta})})

        return names[r"\Var"](one)

    assert left(names | {r"\Var": copied}) == pytest.approx(3 * right(names))


@seeds
@pytest.mark.equation("eq-toy-risk", r"R(\theta) = (w - \theta)^2 + \sigma^2 .")
def test_risk_of_the_toy(seed):
    agree("eq-toy-risk", toy(seed))


@pytest.mark.equation("eq-toy-risk", r"R(\theta) = (w - \theta)^2 + \sigma^2 .")
def test_risk_of_the_toy_by_simulation():
    """The risk, and the variance of one loss, within five standard errors."""
    names, n = toy(0), 400_000
    x, noise = np.random.default_rng(0).normal(size=(2, n))
    squares = (names["w"] * x + names[r"\sigma"] * noise - names[r"\theta"] * x) ** 2
    exact = readers("eq-toy-risk")[1](names)
    assert abs(squares.mean() - exact) < 5 * squares.std() / n**0.5
    assert squares.var() == pytest.approx(2 * exact**2, rel=0.02)


# --- least squares ---


@seeds
@pytest.mark.equation("def-least-squares-risk", r"\hat R(w) = \frac{1}{N} \| y - X w \|^2 .")
def test_risk_of_least_squares(seed):
    names = linear_model(seed)
    agree("def-least-squares-risk", names)
    y = torch.tensor(names["y"])
    ours = losses.empirical_risk(losses.squared_error, y, torch.tensor(names["X"] @ names["w"]))
    assert ours.item() == pytest.approx(readers("def-least-squares-risk")[1](names))


@seeds
@pytest.mark.equation(
    "eq-least-squares-gradient",
    r"\frac{\partial \hat R(w)}{\partial w} = \frac{2}{N} X^\T (X w - y) .",
)
def test_gradient_of_least_squares(seed):
    names = linear_model(seed)
    agree("eq-least-squares-gradient", names, rel=1e-6, abs=1e-8)
    w = torch.tensor(names["w"], requires_grad=True)
    losses.empirical_risk(losses.squared_error, torch.tensor(names["y"]), torch.tensor(names["X"]) @ w).backward()
    assert w.grad.numpy() == pytest.approx(readers("eq-least-squares-gradient")[1](names))


@pytest.mark.parametrize(("N", "d"), [(5, 2), (4, 4), (9, 3), (3, 1)])
@seeds
@pytest.mark.equation("eq-least-squares", r"\hat w = (X^\T X)^{-1} X^\T y .")
@pytest.mark.equation(
    "eq-least-squares-minimum",
    r"\hat R(w) = \hat R(\hat w) + \frac{1}{N} \| X (w - \hat w) \|^2 .",
)
def test_least_squares(seed, N, d):
    names = linear_model(seed, N, d)
    agree("eq-least-squares", names)
    agree("eq-least-squares-minimum", names)
    at_minimum = readers("eq-least-squares-gradient")[1](names | {"w": names[r"\hat{w}"]})
    assert np.abs(at_minimum).max() < 1e-10


# --- the optimism of the training risk ---


@seeds
@pytest.mark.equation("def-linear-model", r"y = X w + \varepsilon ,")
def test_linear_model(seed):
    agree("def-linear-model", linear_model(seed))


@pytest.mark.parametrize(("N", "d"), [(4, 1), (4, 2), (4, 3), (3, 3)])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.equation(
    "eq-expected-training-risk",
    r"\E\left[\frac{1}{N} \| y - X \hat w \|^2\right] = \sigma^2 \left(1 - \frac{d}{N}\right) ,",
)
@pytest.mark.equation(
    "eq-expected-test-risk",
    r"\E\left[\frac{1}{N} \| \bar y - X \hat w \|^2\right] = \sigma^2 \left(1 + \frac{d}{N}\right) .",
)
def test_expected_risks_over_all_noise(seed, N, d):
    """Noise of plus and minus sigma has the moments asked for, and is not normal. With d = N nothing is left over."""
    agree("eq-expected-training-risk", linear_model(seed, N, d))
    agree("eq-expected-test-risk", linear_model(seed, N, d))


@pytest.mark.equation(
    "eq-expected-training-risk",
    r"\E\left[\frac{1}{N} \| y - X \hat w \|^2\right] = \sigma^2 \left(1 - \frac{d}{N}\right) ,",
)
@pytest.mark.equation(
    "eq-expected-test-risk",
    r"\E\left[\frac{1}{N} \| \bar y - X \hat w \|^2\right] = \sigma^2 \left(1 + \frac{d}{N}\right) .",
)
def test_expected_risks_by_simulation():
    """Normal noise, 30 data, 7 features, within five standard errors."""
    rng, (N, d, sigma, draws) = np.random.default_rng(0), (30, 7, 1.3, 20_000)
    X, w = rng.normal(size=(N, d)), rng.normal(size=(d, 1))
    y, new = X @ w + sigma * rng.normal(size=(2, N, draws))
    fitted = X @ np.linalg.lstsq(X, y)[0]
    for label, target in (("eq-expected-training-risk", y), ("eq-expected-test-risk", new)):
        risks = np.mean((target - fitted) ** 2, axis=0)
        exact = readers(label)[1]({"N": N, "d": d, r"\sigma": sigma})
        assert abs(risks.mean() - exact) < 5 * risks.std() / draws**0.5


@pytest.mark.parametrize(("N", "d"), [(5, 2), (4, 4), (3, 1)])
@seeds
@pytest.mark.equation("def-projection", r"S = X (X^\T X)^{-1} X^\T .")
@pytest.mark.equation("eq-projection-trace", r"\tr(S) = \tr\left((X^\T X)^{-1} X^\T X\right) = d .")
def test_projection(seed, N, d):
    names = linear_model(seed, N, d)
    agree("def-projection", names)
    agree("eq-projection-trace", names)
    S = names["S"]
    assert pytest.approx(S) == S.T @ S
    assert pytest.approx(names["X"]) == S @ names["X"]


@seeds
@pytest.mark.equation("eq-training-residual", r"y - X \hat w = (I - S) \varepsilon ,")
@pytest.mark.equation("eq-test-residual", r"\bar y - X \hat w = \bar \varepsilon - S \varepsilon .")
def test_residuals(seed):
    agree("eq-training-residual", linear_model(seed))
    agree("eq-test-residual", linear_model(seed))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.equation(
    "eq-training-squares",
    r"\E\left[\| (I - S) \varepsilon \|^2\right] = \sigma^2 \tr(I - S) = \sigma^2 (N - d) .",
)
@pytest.mark.equation(
    "eq-test-squares",
    r"\E\left[\| \bar \varepsilon - S \varepsilon \|^2\right] = \sigma^2 N + \sigma^2 \tr(S) = \sigma^2 (N "
    r"+ d) .",
)
def test_expected_squares(d):
    agree("eq-training-squares", linear_model(0, 4, d))
    agree("eq-test-squares", linear_model(0, 4, d))


# --- losses as negative log-likelihoods ---


@seeds
@pytest.mark.equation(
    "eq-gaussian-nll",
    r"-\log \Normal(y; f, \sigma^2 I) = \frac{1}{2 \sigma^2} \| y - f \|^2 + \frac{c}{2} \log(2 \pi "
    r"\sigma^2) .",
)
def test_gaussian_negative_log_likelihood(seed):
    names = regression_target(seed)
    agree("eq-gaussian-nll", names)
    variance = torch.tensor(names[r"\sigma"] ** 2, dtype=torch.float64)
    ours = losses.gaussian_negative_log_likelihood(tensor(names["y_j"]), tensor(names["f_j"]), variance)
    assert ours.item() == pytest.approx(readers("eq-gaussian-nll")[1](names))


@seeds
@pytest.mark.equation(
    "eq-weighted-mean",
    r"\hat \mu = \frac{\sum_{i=1}^{N} y_i / \sigma_i^2}{\sum_{i=1}^{N} 1 / \sigma_i^2} .",
)
def test_weighted_mean_is_the_most_likely(seed):
    names = instruments(seed)
    agree("eq-weighted-mean", names, rel=1e-6, abs=1e-6)
    mu = torch.tensor(readers("eq-weighted-mean")[1](names), dtype=torch.float64, requires_grad=True)
    y, variance = tensor(names["y_i"], (5, 1)), tensor(names[r"\sigma_i"] ** 2, (5, 1))
    losses.gaussian_negative_log_likelihood(y, mu.expand(5, 1), variance).sum().backward()
    assert abs(mu.grad.item()) < 1e-12


@pytest.mark.equation(
    "eq-weighted-mean",
    r"\hat \mu = \frac{\sum_{i=1}^{N} y_i / \sigma_i^2}{\sum_{i=1}^{N} 1 / \sigma_i^2} .",
)
def test_weighted_mean_at_the_edges():
    """Equal variances give the plain mean; an instrument that is exact decides alone."""
    right = readers("eq-weighted-mean")[1]
    y = [1.0, 2.0, 6.0]
    assert right({"y_i": y, r"\sigma_i": [0.3] * 3, "N": 3}) == pytest.approx(3)
    assert right({"y_i": y, r"\sigma_i": [1.0, 1e-9, 1.0], "N": 3}) == pytest.approx(2)


@seeds
@pytest.mark.equation("eq-best-variance", r"\hat \sigma^2 = \frac{1}{N} \sum_{i=1}^{N} (y_i - f_i)^2 .")
def test_best_variance_is_the_most_likely(seed):
    names = instruments(seed)
    agree("eq-best-variance", names, rel=1e-6, abs=1e-6)
    variance = torch.tensor(readers("eq-best-variance")[1](names), requires_grad=True, dtype=torch.float64)
    y, f = tensor(names["y_i"], (5, 1)), tensor(names["f_i"], (5, 1))
    losses.gaussian_negative_log_likelihood(y, f, variance).sum().backward()
    assert abs(variance.grad.item()) < 1e-12


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@seeds
@pytest.mark.equation("eq-cross-entropy-logits", r"-\log q_y = \log \sum_{k=1}^{K} \exp(a_k) - a_y .")
def test_cross_entropy_from_logits(seed, scale):
    names = class_target(seed, scale=scale)
    agree("eq-cross-entropy-logits", names)
    ours = losses.cross_entropy_loss(torch.tensor(names["y"] - 1), tensor(names["a_k"]))
    assert ours.item() == pytest.approx(readers("eq-cross-entropy-logits")[1](names), rel=1e-12, abs=1e-12)


@seeds
@pytest.mark.equation(
    "eq-cross-entropy-split",
    r"\E_p[-\log q_y] = -\sum_{k=1}^{K} p_k \log q_k = H(p) + \KL(p \,\|\, q) .",
)
def test_cross_entropy_is_entropy_and_divergence(seed):
    names = class_target(seed)
    agree("eq-cross-entropy-split", names)
    every = losses.cross_entropy_loss(torch.arange(4), tensor(names["a_k"]).expand(4, 4))
    ours = (tensor(names["p_k"]) * every).sum()
    assert ours.item() == pytest.approx(readers("eq-cross-entropy-split")[2](names))


@pytest.mark.parametrize("s", [-5.0, 0.0, 3.0])
@seeds
@pytest.mark.equation("eq-log-sum-exp", r"\log \sum_{k=1}^{K} \exp(a_k) = s + \log \sum_{k=1}^{K} \exp(a_k - s) ,")
def test_log_sum_exp(seed, s):
    names = class_target(seed) | {"s": s}
    agree("eq-log-sum-exp", names)
    assert readers("eq-log-sum-exp")[1](names) == pytest.approx(special.logsumexp(names["a_k"]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.equation("eq-log-sum-exp", r"\log \sum_{k=1}^{K} \exp(a_k) = s + \log \sum_{k=1}^{K} \exp(a_k - s) ,")
def test_log_sum_exp_where_the_left_side_overflows():
    names = {"a_k": [1000.0, 1001.0], "K": 2, "s": 1001.0}
    left, right = (side(names) for side in readers("eq-log-sum-exp"))
    assert np.isinf(left)
    assert right == pytest.approx(1001 + np.log1p(np.exp(-1)))


# --- the best predictor ---


@seeds
@pytest.mark.equation(
    "eq-risk-split",
    r"\E\left[\| y - f(x) \|^2\right] = \E\left[\| y - f^*(x) \|^2\right] + \E\left[\| f^*(x) - f(x) "
    r"\|^2\right] .",
)
@pytest.mark.equation("eq-mixed-term", r"\E\left[(y - f^*(x))^\T (f^*(x) - f(x))\right] = 0 ,")
def test_risk_splits_at_the_conditional_mean(seed):
    agree("eq-risk-split", table(seed))
    agree("eq-mixed-term", table(seed))


@seeds
@pytest.mark.equation(
    "eq-cross-entropy-split",
    r"\E_p[-\log q_y] = -\sum_{k=1}^{K} p_k \log q_k = H(p) + \KL(p \,\|\, q) .",
)
def test_cross_entropy_is_smallest_for_the_true_probabilities(seed):
    names = class_target(seed)
    at = readers("eq-cross-entropy-split")[1]
    best = at(names | {"q_k": names["p_k"]})
    assert best == pytest.approx(stats.entropy(names["p_k"]))
    rng = np.random.default_rng(seed)
    assert all(at(names | {"q_k": rng.dirichlet(np.ones(4))}) > best for _ in range(50))


# --- softmax regression ---


@seeds
@pytest.mark.equation("eq-logit-gradient", r"\frac{\partial \loss(y, a)}{\partial a} = \softmax(a) - e_y .")
def test_gradient_with_respect_to_the_logits(seed):
    names = class_target(seed)
    agree("eq-logit-gradient", names, rel=1e-6, abs=1e-8)
    a = tensor(names["a_k"]).requires_grad_()
    losses.cross_entropy_loss(torch.tensor(names["y"] - 1), a).backward()
    assert column(a.grad.numpy()) == pytest.approx(readers("eq-logit-gradient")[1](names))


@pytest.mark.parametrize("K", [2, 3, 5])
@seeds
@pytest.mark.equation(
    "eq-softmax-gradient",
    r"\frac{\partial \hat R(W)}{\partial W} = \frac{1}{N} \sum_{i=1}^{N} (\softmax(a_i) - e_{y_i}) x_i^\T "
    r".",
)
def test_gradient_of_softmax_regression(seed, K):
    names = softmax_regression(seed, K=K)
    agree("eq-softmax-gradient", names, rel=1e-6, abs=1e-8)
    x, labels = torch.tensor(np.stack(names["x_i"])[..., 0]), np.stack(names["e_{y_i}"])[..., 0].argmax(1)
    W = torch.tensor(names["W"], requires_grad=True)
    bias = torch.tensor((names["a_i"][0] - names["W"] @ names["x_i"][0])[:, 0])
    losses.empirical_risk(losses.cross_entropy_loss, torch.tensor(labels), x @ W.T + bias).backward()
    assert W.grad.numpy() == pytest.approx(readers("eq-softmax-gradient")[1](names))


@seeds
@pytest.mark.equation("eq-two-classes", r"q_2 = \frac{\exp(a_2)}{\exp(a_1) + \exp(a_2)} = \sigmoid(a_2 - a_1) ,")
def test_two_classes(seed):
    agree("eq-two-classes", class_target(seed, K=2))


# --- the bottleneck ---


@seeds
@pytest.mark.equation("def-pca-autoencoder", r"\enc(x) = V (x - \mu) , \quad \dec(z) = \mu + V^\T z ,")
def test_encoder_and_decoder_of_pca(seed):
    names = bottleneck(seed)
    agree("def-pca-autoencoder", names)
    code = names["z"]
    assert names[r"\enc"](names[r"\dec"](code)) == pytest.approx(code)  # the rows of V are orthonormal
