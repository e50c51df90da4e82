r"""Every equation of chapter 1, both sides computed by routes that share no code.

``printed.agree`` reads all sides of an equation from the chapter itself and computes each with the values that
``situations_01.py`` gives: shares of equally likely balls, averages over all outcomes, SciPy's entropies, integrals on
a grid. Beside it, ``course_lib`` is held against the same sides. ``test_latex_reader.py`` shows that small changes of
each print are seen.
"""

import itertools
import math

import numpy as np
import printed
import pytest
import situations_01 as given
import torch
from scipy import integrate, stats

from course_lib import probability

CLOSE = {"rel": 1e-10, "abs": 1e-12}


def agree(label, **tolerance):
    """What the chapter claims under this label is so, in each of its situations."""
    for names in given.situations(label):
        printed.agree(label, names, **tolerance)


def sides(label, names):
    """The values of all sides of an equation."""
    ((formulas, _),) = printed.claims(label)
    return [formula(names) for formula in formulas]


def course(function, *distributions):
    """A function of course_lib on distributions."""
    return function(*(torch.tensor(getattr(p, "vector", p), dtype=torch.float64) for p in distributions)).item()


def edge_pair():
    """Both lack an outcome; p lacks another one that q has."""
    return given.Finite("abcd", [0.5, 0.5, 0.0, 0.0]), given.Finite("abcd", [0.2, 0.5, 0.3, 0.0])


# --- probability ---


@pytest.mark.equation("def-conditional", r"P(A \mid C) = \frac{P(A \cap C)}{P(C)}")
@pytest.mark.equation("eq-conditional-inside", r"P(A \mid C) = \frac{P(A)}{P(C)} \geq P(A)")
def test_conditional_probability():
    agree("def-conditional")
    agree("eq-conditional-inside")


@pytest.mark.equation("eq-conditional-inside", r"P(A \mid C) = \frac{P(A)}{P(C)} \geq P(A)")
def test_three_given_odd():
    """The die of the sources: from 1/6 to 1/3; and the bound is reached when the condition is certain."""
    faces = given.BALLS  # each face is four balls
    three, odd = {x for x in faces if x % 6 == 3}, {x for x in faces if x % 2}
    names = given.event_names(three, odd)
    assert sides("eq-conditional-inside", names) == pytest.approx([1 / 3, 1 / 3, 1 / 6])
    assert sides("eq-conditional-inside", given.event_names(three, faces)) == pytest.approx([1 / 6] * 3)


@pytest.mark.equation("eq-total-probability", r"P(C) = \sum_{k=1}^{K} P(C \mid A_k) P(A_k) ,")
def test_total_probability():
    agree("eq-total-probability")
    for names in given.situations("eq-total-probability"):
        prior = [given.share(A) for A in names["A_k"]]
        likelihood = [given.share(names["C"], A) for A in names["A_k"]]
        ours = course(probability.total_probability, prior, likelihood)
        assert ours == pytest.approx(sides("eq-total-probability", names)[0], **CLOSE)


@pytest.mark.equation("eq-total-probability", r"P(C) = \sum_{k=1}^{K} P(C \mid A_k) P(A_k) ,")
def test_total_probability_needs_a_partition():
    """Without one of the parts the two sides differ; with two parts that overlap, too."""
    (names, _) = given.situations("eq-total-probability")
    for parts in (names["A_k"][1:], [*names["A_k"][1:], names["A_k"][0] | names["A_k"][1]]):
        left, right = sides("eq-total-probability", names | {"A_k": parts, "K": len(parts)})
        assert abs(left - right) > 0.01


@pytest.mark.equation("eq-bayes", r"P(A_k \mid C) = \frac{P(C \mid A_k) P(A_k)}{P(C)} .")
def test_bayes():
    agree("eq-bayes")
    for names in given.situations("eq-bayes"):
        prior = torch.tensor([given.share(A) for A in names["A_k"]], dtype=torch.float64)
        likelihood = torch.tensor([given.share(names["C"], A) for A in names["A_k"]], dtype=torch.float64)
        posterior = probability.bayes_rule(prior, likelihood)
        for k in range(1, names["K"] + 1):
            expected = sides("eq-bayes", names | {"k": k})
            assert posterior[k - 1].item() == pytest.approx(expected[0], **CLOSE)
            assert expected[1] == pytest.approx(expected[0], **CLOSE)


@pytest.mark.equation(
    "eq-log-odds",
    r"\log \frac{P(A_1 \mid x)}{P(A_2 \mid x)} = \log \frac{P(A_1)}{P(A_2)} + \sum_{i=1}^{N} \log "
    r"\frac{p(x_i)}{q(x_i)} .",
)
def test_log_odds():
    agree("eq-log-odds")
    for names in given.situations("eq-log-odds"):
        prior = torch.tensor([names["P"](0), names["P"](1)], dtype=torch.float64)
        for x in names["x"]:
            prior = probability.bayes_rule(prior, torch.tensor([names["p"](x), names["q"](x)]))
        assert (prior[0] / prior[1]).log().item() == pytest.approx(sides("eq-log-odds", names)[1], **CLOSE)


@pytest.mark.equation("def-expectation", r"\E_p[f(x)] = \sum_x p(x) f(x) .")
def test_expectation():
    agree("def-expectation")
    die = given.Finite(range(1, 7), [1 / 6] * 6)
    assert sides("def-expectation", given.finite_names(die, die) | {"f": lambda x: x}) == pytest.approx([3.5, 3.5])


# --- entropy and codes ---


@pytest.mark.equation("def-entropy", r"H(p) = -\sum_x p(x) \log p(x) ,")
@pytest.mark.equation("def-cross-entropy", r"H(p, q) = -\sum_x p(x) \log q(x) .")
@pytest.mark.equation(
    "def-kl-discrete",
    r"\KL(p \,\|\, q) = \E_p\left[\log \frac{p(x)}{q(x)}\right] = \sum_x p(x) \log \frac{p(x)}{q(x)} .",
)
@pytest.mark.equation("eq-kl-difference", r"\KL(p \,\|\, q) = H(p, q) - H(p) .")
def test_entropies_and_their_difference():
    for label in ("def-entropy", "def-cross-entropy", "def-kl-discrete", "eq-kl-difference"):
        agree(label)
    for names in given.situations("eq-kl-difference"):
        p, q = names["p"], names["q"]
        assert course(probability.entropy, p) == pytest.approx(sides("def-entropy", names)[1], **CLOSE)
        assert course(probability.cross_entropy, p, q) == pytest.approx(sides("def-cross-entropy", names)[1], **CLOSE)
        for value in sides("def-kl-discrete", names) + sides("eq-kl-difference", names):
            assert course(probability.kl_categorical, p, q) == pytest.approx(value, **CLOSE)


@pytest.mark.equation(
    "def-kl-discrete",
    r"\KL(p \,\|\, q) = \E_p\left[\log \frac{p(x)}{q(x)}\right] = \sum_x p(x) \log \frac{p(x)}{q(x)} .",
)
@pytest.mark.equation("eq-kl-difference", r"\KL(p \,\|\, q) = H(p, q) - H(p) .")
def test_outcomes_that_do_not_happen():
    """Sums over the outcomes with p > 0 only, as the conventions say; and infinity where q lacks what p has."""
    p, q = edge_pair()
    happens = given.finite_names(p, q) | {r"\sum_x": "ab"}
    for label in ("def-kl-discrete", "def-entropy", "def-cross-entropy", "eq-kl-difference"):
        printed.agree(label, happens)
    assert course(probability.kl_categorical, p, q) == pytest.approx(sides("def-kl-discrete", happens)[-1], **CLOSE)
    assert course(probability.cross_entropy, p, q) == pytest.approx(sides("def-cross-entropy", happens)[-1], **CLOSE)
    assert course(probability.kl_categorical, q, p) == given.divergence(q, p) == math.inf


@pytest.mark.parametrize(("swap", "exact"), [(False, 0.0852996), (True, 0.0974550)])
@pytest.mark.equation(
    "def-kl-discrete",
    r"\KL(p \,\|\, q) = \E_p\left[\log \frac{p(x)}{q(x)}\right] = \sum_x p(x) \log \frac{p(x)}{q(x)} .",
)
def test_the_standard_example(swap, exact):
    pair = given.Finite(range(3), stats.binom(2, 0.4).pmf(range(3))), given.Finite(range(3), [1 / 3] * 3)
    p, q = pair[::-1] if swap else pair
    assert sides("def-kl-discrete", given.finite_names(p, q)) == pytest.approx([exact] * 3, abs=5e-8)
    assert course(probability.kl_categorical, p, q) == pytest.approx(exact, abs=5e-8)


@pytest.mark.equation("def-code-belief", r"q(x) = 2^{-n(x)} .")
@pytest.mark.equation(
    "eq-code-length",
    r"\sum_x p(x) n(x) = \frac{1}{\log(2)} \left( H(p) + \KL(p \,\|\, q) \right) .",
)
def test_code_length():
    agree("def-code-belief")
    agree("eq-code-length")
    for names in given.situations("eq-code-length"):
        in_nats = course(probability.cross_entropy, names["p"], names["q"])
        assert in_nats / math.log(2) == pytest.approx(sides("eq-code-length", names)[0], **CLOSE)


# --- not negative ---


@pytest.mark.equation("eq-tangent", r"\log(u) \leq u - 1")
def test_the_logarithm_lies_below_its_tangent():
    left, right = np.array(
        [sides("eq-tangent", {"u": u}) for u in np.geomspace(1e-6, 1e6, 241)]
    ).T  # u = 1 in the middle
    gap = right - left
    assert np.argmin(gap) == 120
    assert abs(gap[120]) < 1e-12
    assert np.all(np.delete(gap, 120) > 0)


@pytest.mark.equation("eq-jensen", r"\E_p[\log f(x)] \leq \log \E_p[f(x)] ,")
@pytest.mark.equation("eq-gibbs-flip", r"-\KL(p \,\|\, q) = \E_p\left[\log \frac{q(x)}{p(x)}\right] .")
@pytest.mark.equation(
    "eq-gibbs-jensen",
    r"\E_p\left[\log \frac{q(x)}{p(x)}\right] \leq \log \E_p\left[\frac{q(x)}{p(x)}\right] .",
)
@pytest.mark.equation("eq-gibbs-mass", r"\E_p\left[\frac{q(x)}{p(x)}\right] = \sum_{x \in S} q(x) \leq 1 .")
def test_steps_of_the_proof():
    for label in ("eq-jensen", "eq-gibbs-flip", "eq-gibbs-jensen", "eq-gibbs-mass"):
        agree(label)


@pytest.mark.equation("eq-jensen", r"\E_p[\log f(x)] \leq \log \E_p[f(x)] ,")
@pytest.mark.equation(
    "eq-gibbs-jensen",
    r"\E_p\left[\log \frac{q(x)}{p(x)}\right] \leq \log \E_p\left[\frac{q(x)}{p(x)}\right] .",
)
@pytest.mark.equation("eq-gibbs-mass", r"\E_p\left[\frac{q(x)}{p(x)}\right] = \sum_{x \in S} q(x) \leq 1 .")
def test_where_the_inequalities_of_the_proof_are_equalities():
    """One value on the outcomes that happen, another elsewhere; mass of q outside makes the last one strict."""
    p, q = given.Finite("abc", [0.2, 0.8, 0.0]), given.Finite("abc", [0.1, 0.4, 0.5])
    names = given.finite_names(p, q) | {"f": {"a": 3.0, "b": 3.0, "c": 7.0}.get}
    assert np.ptp(sides("eq-jensen", names)) == pytest.approx(0, abs=1e-12)
    assert np.ptp(sides("eq-gibbs-jensen", names)) == pytest.approx(0, abs=1e-12)
    assert sides("eq-gibbs-mass", names) == pytest.approx([0.5, 0.5, 1])
    assert given.divergence(p, q) == pytest.approx(math.log(2))
    left, right = sides("eq-jensen", names | {"f": {"a": 3.0, "b": 3.1, "c": 7.0}.get})
    assert left < right


@pytest.mark.equation("eq-gibbs-mass", r"\E_p\left[\frac{q(x)}{p(x)}\right] = \sum_{x \in S} q(x) \leq 1 .")
def test_the_mass_of_q_on_a_density():
    """p uniform on [0, 1], q exponential: the expectation of the ratio is the mass of q on [0, 1]."""
    mean = sides("eq-gibbs-mass", {
        r"\E_p": lambda f: integrate.quad(lambda x: f(x=x), 0, 1)[0], "p": lambda x: 1.0, "q": stats.expon.pdf,
        "S": [0], "x": 0,
    })[0]  # fmt: skip
    assert mean == pytest.approx(stats.expon.cdf(1))


# --- evidence adds up ---


@pytest.mark.equation(
    "eq-chain-rule",
    r"\KL(p \,\|\, q) = \KL(p_X \,\|\, q_X) + \sum_x p_X(x) \KL(p_{Y \mid x} \,\|\, q_{Y \mid x}) .",
)
@pytest.mark.equation("eq-kl-additive", r"\KL(p \,\|\, q) = \KL(p_X \,\|\, q_X) + \KL(p_Y \,\|\, q_Y) .")
def test_chain_rule_and_independent_parts():
    agree("eq-chain-rule")
    agree("eq-kl-additive")
    for names in given.situations("eq-chain-rule"):
        whole = course(probability.kl_categorical, names["p"], names["q"])
        assert whole == pytest.approx(sides("eq-chain-rule", names)[1], **CLOSE)
        assert whole >= course(probability.kl_categorical, names["p_X"], names["q_X"])


@pytest.mark.equation("eq-kl-additive", r"\KL(p \,\|\, q) = \KL(p_X \,\|\, q_X) + \KL(p_Y \,\|\, q_Y) .")
def test_dependent_parts_do_not_add_up():
    """The condition is needed."""
    for names in given.situations("eq-chain-rule"):
        left, right = sides("eq-kl-additive", names)
        assert abs(left - right) > 1e-3


@pytest.mark.equation("eq-kl-additive", r"\KL(p \,\|\, q) = \KL(p_X \,\|\, q_X) + \KL(p_Y \,\|\, q_Y) .")
def test_many_rolls():
    """The divergence of three independent rolls, over all their outcomes, is three times that of one."""
    p, q = given.finite_pair(4, 3)
    three = [np.array([math.prod(rolls) for rolls in itertools.product(die.vector, repeat=3)]) for die in (p, q)]
    assert course(probability.kl_categorical, *three) == pytest.approx(3 * given.divergence(p, q), **CLOSE)


# --- fitting ---


@pytest.mark.equation(
    "eq-maximum-likelihood",
    r"\frac{1}{N} \sum_{i=1}^{N} \log q_\theta(x_i) = -H(\hat p) - \KL(\hat p \,\|\, q_\theta) .",
)
def test_maximum_likelihood():
    agree("eq-maximum-likelihood")


@pytest.mark.equation(
    "eq-maximum-likelihood",
    r"\frac{1}{N} \sum_{i=1}^{N} \log q_\theta(x_i) = -H(\hat p) - \KL(\hat p \,\|\, q_\theta) .",
)
def test_both_are_best_at_the_same_parameter():
    """A binomial model: the closed form, the largest likelihood, the smallest divergence."""
    data = np.repeat([0, 1, 2], [10, 10, 5])
    theta = np.linspace(0.01, 0.99, 99)
    log_likelihood = [stats.binom(2, t).logpmf(data).mean() for t in theta]
    p_hat = torch.tensor([10 / 25, 10 / 25, 5 / 25], dtype=torch.float64)
    models = torch.tensor(np.array([stats.binom(2, t).pmf(range(3)) for t in theta]))
    divergence = probability.kl_categorical(p_hat, models)
    assert theta[np.argmax(log_likelihood)] == theta[divergence.argmin()] == pytest.approx(data.mean() / 2)


@pytest.mark.equation(
    "eq-forward-fit",
    r"\KL(p \,\|\, q) = \KL(p \,\|\, \Normal(\mu_p, \sigma_p^2)) + \KL(\Normal(\mu_p, \sigma_p^2) \,\|\, "
    r"q) .",
)
def test_forward_fit():
    agree("eq-forward-fit")
    for names in given.situations("eq-forward-fit"):
        best = sides("eq-forward-fit", names | {"q": given.normal(names[r"\mu_p"], names[r"\sigma_p"] ** 2)})[0]
        for mean, factor in itertools.product((-0.1, 0, 0.1), (0.9, 1, 1.1)):
            q = given.normal(names[r"\mu_p"] + mean, factor * names[r"\sigma_p"] ** 2)
            left = sides("eq-forward-fit", names | {"q": q})[0]
            assert left > best + 1e-4 or (mean, factor) == (0, 1)


# --- estimators ---


@pytest.mark.equation("def-ratio", r"r(x) = \frac{q(x)}{p(x)} .")
@pytest.mark.equation("eq-estimator-mean", r"\E_p[r(x) - 1 - \log r(x)] = \KL(p \,\|\, q) + \E_p[r(x)] - 1 .")
@pytest.mark.equation(
    "eq-corrected-variance",
    r"\begin{aligned} \Var_p[r(x) - 1 - \log r(x)] = {}& \Var_p[r(x)] + \Var_p[\log r(x)] \\ & - 2 \, "
    r"\KL(p \,\|\, q) - 2 \, \KL(q \,\|\, p) , \end{aligned}",
)
def test_mean_and_variance_of_the_corrected_estimator():
    for label in ("def-ratio", "eq-estimator-mean", "eq-corrected-variance"):
        agree(label)


@pytest.mark.equation("eq-estimator-mean", r"\E_p[r(x) - 1 - \log r(x)] = \KL(p \,\|\, q) + \E_p[r(x)] - 1 .")
@pytest.mark.parametrize("q", [[0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], ids=["q1", "q2"])
@pytest.mark.parametrize("estimator", ["log_ratio", "r_minus_one"])
def test_estimators_of_course_lib(estimator, q):
    """On a list in which every outcome of p stands as often as p says, the estimate is the expectation, exactly."""
    names = given.finite_names(given.Finite([0, 1, 2], [0.25, 0.5, 0.25]), given.Finite([0, 1, 2], q))
    x = torch.tensor([0, 1, 1, 2] * 50)
    log_p, log_q = (torch.tensor(names[die].vector).log() for die in "pq")
    value, error = probability.monte_carlo_kl(lambda x: log_p[x], lambda x: log_q[x], x, estimator)
    assert value.item() == pytest.approx(sides("eq-estimator-mean", names)[0], **CLOSE)
    assert value.item() == pytest.approx(sides("eq-estimator-mean", names)[1], **CLOSE)
    terms = {
        "log_ratio": lambda x: -np.log(names["r"](x)),
        "r_minus_one": lambda x: names["r"](x) - 1 - np.log(names["r"](x)),
    }
    variance = names["p"].variance(terms[estimator])
    assert error.item() == pytest.approx((variance / 199) ** 0.5, rel=1e-9)  # the sample variance divides by n - 1


@pytest.mark.equation("eq-estimator-mean", r"\E_p[r(x) - 1 - \log r(x)] = \KL(p \,\|\, q) + \E_p[r(x)] - 1 .")
def test_bias_where_q_has_mass_and_p_none():
    (names,) = given.outside()
    assert sides("eq-estimator-mean", names) == pytest.approx([given.divergence(names["p"], names["q"]) - 0.5] * 2)


@pytest.mark.equation(
    "eq-shift-variances",
    r"\Var_p[\log r(x)] = s^2 , \quad \Var_p[r(x) - 1 - \log r(x)] = \exp(s^2) - 1 - s^2 .",
)
def test_variances_for_a_shift():
    agree("eq-shift-variances")


@pytest.mark.equation(
    "eq-shift-variances",
    r"\Var_p[\log r(x)] = s^2 , \quad \Var_p[r(x) - 1 - \log r(x)] = \exp(s^2) - 1 - s^2 .",
)
@pytest.mark.parametrize("s", [0.3, 0.8])
def test_variances_measured(s):
    """On 400,000 samples, in a generous band."""
    x = np.random.default_rng(0).normal(size=400_000)
    log_r = stats.norm(s, 1).logpdf(x) - stats.norm(0, 1).logpdf(x)
    names = given.against_standard_normal(given.normal(s, 1)) | {"s": s}
    (plain, _), (corrected, _) = printed.claims("eq-shift-variances")
    assert log_r.var() == pytest.approx(plain[1](names), rel=0.02)
    assert (np.expm1(log_r) - log_r).var() == pytest.approx(corrected[1](names), rel=0.05)


@pytest.mark.equation("eq-ratio-second-moment", r"\E_p\left[r(x)^2\right] = \frac{1}{\sigma \sqrt{2 - \sigma^2}}")
def test_second_moment_of_the_ratio():
    agree("eq-ratio-second-moment")


@pytest.mark.equation("eq-ratio-second-moment", r"\E_p\left[r(x)^2\right] = \frac{1}{\sigma \sqrt{2 - \sigma^2}}")
def test_the_second_moment_is_infinite_from_variance_two_on():
    """Each longer interval holds more, without end; below two the integral settles."""

    def up_to(reach, variance):
        log_p, log_q = stats.norm(0, 1).logpdf, given.normal(0, variance)
        return integrate.quad(lambda x: math.exp(2 * log_q(x) - log_p(x)), -reach, reach, limit=200)[0]

    assert up_to(40, 1.9) == pytest.approx(up_to(30, 1.9), rel=1e-5)
    assert up_to(20, 2.0) == pytest.approx(2 * up_to(10, 2.0))
    assert up_to(12, 2.2) > 10 * up_to(6, 2.2)
