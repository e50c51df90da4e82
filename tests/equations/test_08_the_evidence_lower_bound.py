r"""Every equation of chapter 8, both sides computed by routes that share no code.

`agree` reads all sides from the chapter itself and computes each with the values of ``situations_08``: tables for a
discrete z, Gauss-Hermite rules for a continuous one, searches for optima. Beside it, ``course_lib`` is held against the
same values. ``test_latex_reader.py`` shows that small changes of the print are seen.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from printed import agree, claims, relation
from scipy import stats
from situations_08 import (
    Table,
    Toy,
    amortised,
    baseline,
    batches,
    dimensions,
    divergence,
    em_step,
    linear_mean_field,
    linear_names,
    mean_field,
    moved_gaussian,
    objective,
    pair,
    reparametrised,
    some_weights,
    squares,
    staircase,
    sweep,
    table,
    table_of_samples,
    vem_bound,
    vem_optimum,
    weighted,
    weights,
)

from course_lib.elbo import (
    elbo,
    exact_elbo,
    importance_weighted_bound,
    minibatch_elbo,
    pathwise_gradient,
    score_function_gradient,
)
from course_lib.gaussians import kl_gaussian
from course_lib.latent import GaussianPosterior, ProbabilisticPCA

two = pytest.mark.parametrize("seed", range(2))
three = pytest.mark.parametrize("seed", range(3))


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def ppca_of(names):
    """The model of `linear` in course_lib, with its datum and its q."""
    model = ProbabilisticPCA.from_parameters(
        tensor(names["W"]), tensor(names[r"\mu"][:, 0]), float(names[r"\sigma"] ** 2)
    )
    q = GaussianPosterior(tensor(names[r"\mu_q"][:, 0]), torch.linalg.cholesky(tensor(names[r"\Sigma_q"])))
    return model, tensor(names["x"][:, 0]), q


# --- the bound, derived twice ---


@three
@pytest.mark.equation("def-elbo", r"\elbo(q; x) = \E_q[\log p(x, z) - \log q(z)] .")
@pytest.mark.equation("eq-elbo-start", r"\KL(q(z) \,\|\, p(z \mid x)) = \E_q[\log q(z) - \log p(z \mid x)] .")
@pytest.mark.equation(
    "eq-elbo-from-kl",
    r"\KL(q(z) \,\|\, p(z \mid x)) = \log p(x) - \E_q[\log p(x, z) - \log q(z)] .",
)
@pytest.mark.equation("eq-elbo-identity", r"\log p(x) = \elbo(q; x) + \KL(q(z) \,\|\, p(z \mid x)) .")
def test_from_the_divergence(seed):
    for label in ("def-elbo", "eq-elbo-start", "eq-elbo-from-kl", "eq-elbo-identity"):
        for x in (1, 2, 3):
            agree(label, table(seed) | {"x": x})


@three
@pytest.mark.equation("eq-elbo-bayes", r"\log p(z \mid x) = \log p(x, z) - \log p(x) .")
def test_bayes(seed):
    for z in (1.0, 2.0, 3.0, 4.0):
        agree("eq-elbo-bayes", table(seed) | {"z": z})


@three
@pytest.mark.equation("eq-elbo-importance", r"p(x) = \int p(x, z) \, dz = \E_q\left[\frac{p(x, z)}{q(z)}\right] .")
@pytest.mark.equation(
    "eq-elbo-jensen",
    r"\log p(x) = \log \E_q\left[\frac{p(x, z)}{q(z)}\right] \geq \E_q\left[\log \frac{p(x, "
    r"z)}{q(z)}\right] = \elbo(q; x) .",
)
def test_from_jensen(seed):
    for label in ("eq-elbo-importance", "eq-elbo-jensen"):
        agree(label, table(seed))


@pytest.mark.equation(
    "eq-elbo-jensen",
    r"\log p(x) = \log \E_q\left[\frac{p(x, z)}{q(z)}\right] \geq \E_q\left[\log \frac{p(x, "
    r"z)}{q(z)}\right] = \elbo(q; x) .",
)
@pytest.mark.equation("eq-elbo-identity", r"\log p(x) = \elbo(q; x) + \KL(q(z) \,\|\, p(z \mid x)) .")
def test_at_the_posterior_there_is_no_gap():
    names = table(0)
    names["q(z)"] = lambda z: names[r"p(z \mid x)"](z, names["x"])
    for label in ("eq-elbo-identity", "eq-elbo-jensen"):
        agree(label, names)
    left, middle, *_ = (side(names) for side in relation("eq-elbo-jensen")[0])
    bound = names[r"\elbo(q; x)"](names["q(z)"], names["x"])
    assert (left, middle) == pytest.approx((bound, bound), abs=1e-14)


@pytest.mark.equation("eq-elbo-importance", r"p(x) = \int p(x, z) \, dz = \E_q\left[\frac{p(x, z)}{q(z)}\right] .")
def test_a_q_that_leaves_something_out_has_a_smaller_mean_weight():
    """As the chapter says in brackets: the expectation is below p(x), and the bound holds."""
    world = Table(0)
    world.q = np.array([0.0, 0.3, 0.3, 0.4])
    p = world.joint[world.x - 1]
    assert world.q @ np.divide(p, world.q, where=world.q > 0, out=np.zeros(4)) < p.sum() - 0.01
    assert world.elbo(world.names()["q(z)"], world.x) < np.log(p.sum())


# --- three forms ---


@three
@pytest.mark.equation(
    "eq-elbo-forms",
    r"\begin{aligned} \elbo(q; x) = {}& \E_q[\log p(x, z)] + H(q) \\ = {}& \E_q[\log p(x \mid z)] - "
    r"\KL(q(z) \,\|\, p(z)) \\ = {}& \log p(x) - \KL(q(z) \,\|\, p(z \mid x)) . \end{aligned}",
)
@pytest.mark.equation("eq-elbo-bits", r"\E_q[-\log p(z) - \log p(x \mid z) + \log q(z)] = -\elbo(q; x) .")
def test_three_forms_and_the_code(seed):
    for x in (1, 2, 3):
        agree("eq-elbo-forms", table(seed) | {"x": x})
        agree("eq-elbo-bits", table(seed) | {"x": x})


# --- the linear Gaussian model ---


@two
@pytest.mark.equation(
    "eq-elbo-linear",
    r"\begin{aligned} \elbo(q; x) = {}& -\frac{d}{2} \log(2 \pi \sigma^2) - \frac{\|x - \mu - W \mu_q\|^2 "
    r"+ \tr(W \Sigma_q W^\T)}{2 \sigma^2} \\ & - \KL(q(z) \,\|\, p(z)) . \end{aligned}",
)
def test_linear_gaussian(seed):
    """The print, a product rule, and course_lib; with the gap from chapter 2 they add up to the exact marginal."""
    names = linear_names(seed)
    agree("eq-elbo-linear", names)
    model, x, q = ppca_of(names)
    bound = exact_elbo(model, x, q)
    assert bound.item() == pytest.approx(names[r"\elbo(q; x)"](None, None), rel=1e-12)
    posterior = model.posterior(x)
    gap = kl_gaussian(q.mean, q.cov, posterior.mean, posterior.cov)
    C = names["W"] @ names["W"].T + names[r"\sigma"] ** 2 * np.eye(names["d"])
    log_p = stats.multivariate_normal(names[r"\mu"][:, 0], C).logpdf(names["x"][:, 0])
    assert (bound + gap).item() == pytest.approx(log_p, abs=1e-10)
    assert exact_elbo(model, x, posterior).item() == pytest.approx(log_p, abs=1e-10)


@pytest.mark.equation(
    "eq-elbo-linear",
    r"\begin{aligned} \elbo(q; x) = {}& -\frac{d}{2} \log(2 \pi \sigma^2) - \frac{\|x - \mu - W \mu_q\|^2 "
    r"+ \tr(W \Sigma_q W^\T)}{2 \sigma^2} \\ & - \KL(q(z) \,\|\, p(z)) . \end{aligned}",
)
def test_the_toy_of_the_question():
    """The function toy_elbo of the chapter, at the guesses of its figure."""
    w, var, x = 1.0, 0.75**2, 1.25
    model = ProbabilisticPCA.from_parameters(tensor([[w]]), tensor([0.0]), var)
    for mu, sigma in ((0.0, 1.0), (0.8, 0.6), (-0.5, 0.6)):
        q = GaussianPosterior(tensor([mu]), tensor([[sigma]]))
        misfit = (x - w * mu) ** 2 + (w * sigma) ** 2
        by_hand = -0.5 * math.log(2 * math.pi * var) - misfit / (2 * var)
        by_hand -= 0.5 * (mu**2 + sigma**2 - 1 - math.log(sigma**2))
        assert exact_elbo(model, tensor([x]), q).item() == pytest.approx(by_hand, abs=1e-13)
    posterior = model.posterior(tensor([x]))
    assert (posterior.mean.item(), posterior.tril.item()) == pytest.approx((0.8, 0.6))
    assert model.log_likelihood(tensor([x])).item() == pytest.approx(stats.norm.logpdf(x, 0, math.hypot(w, 0.75)))


# --- mean field ---


@two
@pytest.mark.equation("def-mean-field", r"q(z) = q_1(z_1) \, q_2(z_2) .")
@pytest.mark.equation("def-mf-update", r"\log \bar{q}_1(z_1) = \E_{q_2}[\log p(x, z)] - c .")
@pytest.mark.equation("eq-mf-split", r"\elbo(q; x) = -\KL(q_1(z_1) \,\|\, \bar{q}_1(z_1)) + c + H(q_2) .")
def test_the_best_factor(seed):
    for z_1 in (1.0, 2.0, 3.0):
        for label in ("def-mean-field", "def-mf-update", "eq-mf-split"):
            agree(label, pair(seed, z_1))


@two
@pytest.mark.equation(
    "eq-mf-sweep",
    r"\nu_{1,t+1} = \mu_1 + \rho (\nu_{2,t} - \mu_2) , \quad \nu_{2,t+1} = \mu_2 + \rho (\nu_{1,t+1} - "
    r"\mu_1) .",
)
def test_a_sweep(seed):
    agree("eq-mf-sweep", sweep(seed))


@two
@pytest.mark.equation(
    "eq-mf-optimum",
    r"v = 1 - \rho^2 , \quad \log p(x) - \elbo(q; x) = -\frac{1}{2} \log(1 - \rho^2) .",
)
def test_the_mean_field_optimum(seed):
    agree("eq-mf-optimum", mean_field(seed), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize(("rho", "gap"), [(0.5, 0.143841), (0.9, 0.830366), (0.99, 1.958518)])
@pytest.mark.equation(
    "eq-mf-optimum",
    r"v = 1 - \rho^2 , \quad \log p(x) - \elbo(q; x) = -\frac{1}{2} \log(1 - \rho^2) .",
)
def test_the_gap_at_three_correlations(rho, gap):
    zero, cov = torch.zeros(2, dtype=torch.float64), tensor([[1, rho], [rho, 1]])
    names = {r"\rho": rho, "v": 1 - rho**2, "p(x)": lambda x: 1.0, "x": 0, "q": None}
    right = claims("eq-mf-optimum")[1][0][1](names)
    assert round(right, 6) == gap
    best = kl_gaussian(zero, (1 - rho**2) * torch.eye(2, dtype=torch.float64), zero, cov).item()
    assert best == pytest.approx(right, abs=1e-12)
    for v in (0.98 * (1 - rho**2), 1.02 * (1 - rho**2), 1.0):
        assert kl_gaussian(zero, v * torch.eye(2, dtype=torch.float64), zero, cov).item() > best


@two
@pytest.mark.equation(
    "eq-mf-linear",
    r"\log p(x) - \elbo(q; x) = \frac{1}{2} \sum_{j=1}^{m} \log G_{jj} - \frac{1}{2} \log |G| .",
)
def test_mean_field_in_the_linear_model(seed):
    names = linear_mean_field(seed)
    agree("eq-mf-linear", names, rel=1e-6, abs=1e-6)
    model, x, _ = ppca_of(linear_names(seed))
    log_v = (model.noise_var_ / tensor(np.diag(names["G"]))).log()
    best = GaussianPosterior.diagonal(model.posterior(x).mean, log_v)
    assert exact_elbo(model, x, best).item() == pytest.approx(names[r"\elbo(q; x)"](None, None), abs=1e-8)


# --- EM ---


@two
@pytest.mark.equation(
    "def-em-objective",
    r"\elbo(q, \theta) = \frac{1}{N} \sum_{i=1}^{N} \elbo(q_i; x_i, \theta) , \quad F(\theta) = "
    r"\frac{1}{N} \sum_{i=1}^{N} \log p_\theta(x_i) .",
)
def test_the_mean_over_the_data(seed):
    agree("def-em-objective", objective(seed))


@two
@pytest.mark.equation(
    "eq-em-monotone",
    r"F(\theta_{t+1}) \geq \elbo(q_t, \theta_{t+1}) \geq \elbo(q_t, \theta_t) = F(\theta_t) .",
)
def test_em_climbs(seed):
    names = staircase(seed)
    agree("eq-em-monotone", names)
    agree("eq-em-monotone", names | {"t": 4})


@two
@pytest.mark.equation(
    "eq-toy-em-step",
    r"w_{t+1} = \frac{a_t \tau}{a_t^2 \tau + v_t} , \quad a_t = \frac{w_t}{w_t^2 + \sigma^2} , \quad v_t = "
    r"\frac{\sigma^2}{w_t^2 + \sigma^2} .",
)
def test_a_step_of_em(seed):
    names = em_step(seed)
    agree("eq-toy-em-step", names, rel=1e-7, abs=1e-7)
    x = tensor(Toy(seed).x)[:, None]
    model = ProbabilisticPCA.from_parameters(tensor([[names["w_t"][3]]]), tensor([0.0]), float(names[r"\sigma"] ** 2))
    posterior = model.posterior(x)
    torch.testing.assert_close(posterior.mean[:, 0], names["a_t"][3] * x[:, 0], rtol=1e-9, atol=1e-9)


@two
@pytest.mark.equation(
    "eq-toy-em-step",
    r"w_{t+1} = \frac{a_t \tau}{a_t^2 \tau + v_t} , \quad a_t = \frac{w_t}{w_t^2 + \sigma^2} , \quad v_t = "
    r"\frac{\sigma^2}{w_t^2 + \sigma^2} .",
)
def test_em_rests_at_the_maximum_of_the_likelihood(seed):
    toy = Toy(seed)
    tau = np.mean(toy.x**2)
    w = np.sqrt(tau - toy.sigma**2)
    formulas = [pair[0][1] for pair in claims("eq-toy-em-step")]
    names = {"t": 0, r"\tau": tau, r"\sigma": toy.sigma, "w_t": {0: w}}
    names |= {"a_t": {0: formulas[1](names)}, "v_t": {0: formulas[2](names)}}
    assert formulas[0](names) == pytest.approx(w, rel=1e-12)
    assert toy.F(w) > max(toy.F(w - 0.01), toy.F(w + 0.01))


@two
@pytest.mark.equation(
    "eq-vem-bound",
    r"\elbo(q, w) = \frac{1}{2} + \frac{1}{2} \log \frac{v}{2 \pi \sigma^2} - \frac{\tau}{2 C} - \frac{v "
    r"C}{2 \sigma^2} ,",
)
@pytest.mark.equation("eq-vem-optimum", r"C = \sigma \sqrt{\frac{\tau}{v}} ,")
def test_variational_em(seed):
    agree("eq-vem-bound", vem_bound(seed), rel=1e-8, abs=1e-8)
    agree("eq-vem-optimum", vem_optimum(seed), rel=1e-6, abs=1e-6)


# --- amortisation, batches, samples ---


@two
@pytest.mark.equation(
    "eq-amortisation",
    r"\begin{aligned} \log p(x) - \elbo(q_\phi; x) = {}& \left( \log p(x) - \elbo(q^*; x) \right) \\ & + "
    r"\left( \elbo(q^*; x) - \elbo(q_\phi; x) \right) . \end{aligned}",
)
def test_two_gaps(seed):
    names = amortised(seed)
    agree("eq-amortisation", names)
    bound = names[r"\elbo(q; x)"]
    first = math.log(names["p(x)"](names["x"])) - bound("best", names["x"])
    second = bound("best", names["x"]) - bound("encoder", names["x"])
    assert min(first, second) > 0


@two
@pytest.mark.equation(
    "eq-minibatch",
    r"\begin{aligned} \E_B\left[\frac{N}{b} \sum_{i \in B} \elbo(\phi; x_i)\right] = {}& \sum_{i=1}^{N} "
    r"\elbo(\phi; x_i) , \\ \quad \E_B\left[\frac{1}{b} \sum_{i \in B} \elbo(\phi; x_i)\right] = {}& "
    r"\frac{1}{N} \sum_{i=1}^{N} \elbo(\phi; x_i) . \end{aligned}",
)
@pytest.mark.equation(
    "eq-minibatch-printed",
    r"\E_B\left[\frac{b}{N} \sum_{i \in B} \elbo(\phi; x_i)\right] = \frac{b^2}{N^2} \sum_{i=1}^{N} "
    r"\elbo(\phi; x_i) .",
)
def test_all_batches(seed):
    """The three factors over all batches; course_lib is unbiased for both aims."""
    names = batches(seed)
    agree("eq-minibatch", names)
    agree("eq-minibatch-printed", names)
    terms = [names[r"\elbo(\phi; x)"](names[r"\phi"], x) for x in names["x_i"]]
    factor = names["b"] / names["N"]
    as_printed = names[r"\E_B"](lambda B: factor * sum(terms[i - 1] for i in B))
    assert abs(as_printed - sum(terms)) > 0.1 < abs(as_printed - np.mean(terms))
    for reduction, aim in (("sum", sum(terms)), ("mean", np.mean(terms))):
        found = names[r"\E_B"](
            lambda B, reduction=reduction: minibatch_elbo(
                tensor([terms[i - 1] for i in B]), len(terms), reduction
            ).item()
        )
        assert found == pytest.approx(aim, rel=1e-12)


@pytest.mark.equation(
    "eq-minibatch-printed",
    r"\E_B\left[\frac{b}{N} \sum_{i \in B} \elbo(\phi; x_i)\right] = \frac{b^2}{N^2} \sum_{i=1}^{N} "
    r"\elbo(\phi; x_i) .",
)
def test_when_the_printed_factor_is_right():
    """For four data in batches of two, b / N is 1 / b: the mean. For one batch of all data it gives the sum."""
    for N, b, aim in ((4, 2, np.mean), (4, 4, np.sum), (9, 3, np.mean)):
        terms = np.random.default_rng(N).normal(-3, 1, size=N)
        found = np.mean([b / N * terms[list(B)].sum() for B in itertools.combinations(range(N), b)])
        assert found == pytest.approx(aim(terms), rel=1e-12)


@two
@pytest.mark.equation(
    "def-elbo-samples",
    r"\begin{aligned} \hat{\elbo}(q; x) = {}& \frac{1}{M} \sum_{s=1}^{M} \left( \log p(x, z_s) - \log "
    r"q(z_s) \right) , \\ \quad \bar{\elbo}(q; x) = {}& \frac{1}{M} \sum_{s=1}^{M} \log p(x \mid z_s) - "
    r"\KL(q(z) \,\|\, p(z)) . \end{aligned}",
)
def test_two_estimators(seed):
    agree("def-elbo-samples", table_of_samples(seed))


@two
@pytest.mark.equation(
    "def-elbo-samples",
    r"\begin{aligned} \hat{\elbo}(q; x) = {}& \frac{1}{M} \sum_{s=1}^{M} \left( \log p(x, z_s) - \log "
    r"q(z_s) \right) , \\ \quad \bar{\elbo}(q; x) = {}& \frac{1}{M} \sum_{s=1}^{M} \log p(x \mid z_s) - "
    r"\KL(q(z) \,\|\, p(z)) . \end{aligned}",
)
def test_two_estimators_of_course_lib(seed):
    """Their own samples, put into the print."""
    model, x, q = ppca_of(linear_names(seed))
    z = q.rsample(3, generator=torch.Generator().manual_seed(seed))
    rows = {tuple(one): one for one in z.numpy()}
    names = linear_names(seed)
    names |= {
        "M": 3, "z_s": [one[:, None] for one in rows.values()], "p(x, z)": lambda x, z: density_of(model, x, z)[0],
        r"p(x \mid z)": lambda x, z: density_of(model, x, z)[1],
    }  # fmt: skip
    for (formulas, _), form in zip(claims("def-elbo-samples"), ("joint", "kl"), strict=True):
        ours = elbo(model, x, q, 3, form=form, generator=torch.Generator().manual_seed(seed))
        assert ours.item() == pytest.approx(formulas[1](names), rel=1e-10)


def density_of(model, x, z):
    """p(x, z) and p(x | z) by SciPy."""
    mean = model.W_.numpy() @ z + model.mean_.numpy()[:, None]
    conditional = stats.norm.pdf(x, mean, model.noise_var_.item() ** 0.5).prod()
    return conditional * stats.norm.pdf(z).prod(), conditional


# --- importance weights ---


@two
@pytest.mark.equation(
    "def-elbo-weighted",
    r"r_s = \frac{p(x, z_s)}{q(z_s)} , \quad \elbo_M(x) = \E_q\left[\log \left( \frac{1}{M} \sum_{s=1}^{M} "
    r"r_s \right)\right] ,",
)
@pytest.mark.equation(
    "eq-weighted-order",
    r"\elbo(q; x) = \elbo_1(x) \leq \elbo_M(x) \leq \elbo_{M+1}(x) \leq \log p(x) ,",
)
def test_weighted_bounds(seed):
    names = weights(seed)
    for s in (1, 2, 3):
        agree("def-elbo-weighted", names | {"s": s})
    agree("eq-weighted-order", names)


@two
@pytest.mark.equation(
    "eq-weighted-order",
    r"\elbo(q; x) = \elbo_1(x) \leq \elbo_M(x) \leq \elbo_{M+1}(x) \leq \log p(x) ,",
)
def test_weighted_bounds_of_course_lib(seed):
    """Ordered, within error bars, from the exact ELBO towards the exact marginal."""
    model, x, q = ppca_of(linear_names(seed))
    q = GaussianPosterior(model.posterior(x).mean, 1.3 * model.posterior(x).tril)  # wider: the weights are bounded
    generator, previous = torch.Generator().manual_seed(seed), exact_elbo(model, x, q).item()
    log_p = model.log_likelihood(x).item()
    for M in (1, 5, 50):
        runs = importance_weighted_bound(model, x, q, M, n_repeats=4000, generator=generator)
        mean, error = runs.mean().item(), runs.std().item() / 4000**0.5
        assert previous - 4 * error < mean < log_p + 4 * error
        previous = mean + 4 * error * (M == 1)
    assert log_p - mean < 0.03


@pytest.mark.equation(
    "eq-weighted-order",
    r"\elbo(q; x) = \elbo_1(x) \leq \elbo_M(x) \leq \elbo_{M+1}(x) \leq \log p(x) ,",
)
def test_the_bounds_tend_to_the_evidence():
    world = Table(0, K=2)
    gaps = [np.log(world.joint[world.x - 1].sum()) - weighted(world, M) for M in (1, 2, 4, 8, 12)]
    assert all(a > b > 0 for a, b in itertools.pairwise(gaps))
    p, r = world.joint[world.x - 1].sum(), world.joint[world.x - 1] / world.q
    variance = world.q @ r**2 - p**2
    assert gaps[-1] == pytest.approx(variance / (2 * 12 * p**2), rel=0.1)  # the rate that the chapter states


@pytest.mark.equation(
    "eq-mf-linear",
    r"\log p(x) - \elbo(q; x) = \frac{1}{2} \sum_{j=1}^{m} \log G_{jj} - \frac{1}{2} \log |G| .",
)
def test_the_weights_of_the_chapter_have_an_infinite_variance():
    """The integral of p(x, z)^2 / q(z) needs 2 P - D positive definite, with the precisions P of the posterior and D
    of q; and the posterior of the chapter's W is more than twice as wide as the mean-field q in one direction."""
    W = np.array([[1.0, 0.8], [0.6, 1.0], [1.0, 1.2]])
    P = (W.T @ W + 0.5 * np.eye(2)) / 0.5
    D = np.diag(np.diag(P))
    assert np.linalg.eigvalsh(2 * P - D).min() < 0
    widths = np.linalg.eigvals(np.linalg.solve(P, D)) ** 0.5  # deviations, seen by a whitened q
    assert widths.max() > 2
    wide = np.diag(1 / np.diag(np.linalg.inv(P)))  # the chapter's other q: a finite variance, and its size
    assert np.linalg.eigvalsh(2 * P - wide).min() > 0
    assert np.linalg.eigvals(np.linalg.solve(P, wide)).max() < 2
    second_moment = np.linalg.det(P) / np.sqrt(np.linalg.det(wide) * np.linalg.det(2 * P - wide))
    ppca = ProbabilisticPCA.from_parameters(tensor(W), tensor([1.0, 0.0, -1.0]), 0.5)
    x = tensor([2.0, 0.5, 1.0])
    q = GaussianPosterior.diagonal(ppca.posterior(x).mean, -tensor(np.diag(wide)).log())
    generator = torch.Generator().manual_seed(0)
    runs = importance_weighted_bound(ppca, x, q, 200, n_repeats=10_000, generator=generator)
    gap = (second_moment - 1) / (2 * 200)  # the rate that the chapter states
    error = runs.std().item() / 100
    assert (ppca.log_likelihood(x) - runs.mean()).item() == pytest.approx(gap, abs=0.1 * gap + 4 * error)
    names = {"m": 2, "G": 0.5 * P, "G_{ij}": 0.5 * P, "x": 0, "q": None, "p(x)": lambda x: 1.0}
    gap = divergence(np.zeros(2), np.linalg.inv(D), np.zeros(2), np.linalg.inv(P))
    agree("eq-mf-linear", names | {r"\elbo(q; x)": lambda q, x: -gap})


@two
@pytest.mark.equation(
    "eq-leave-one-out",
    r"\frac{1}{M+1} \sum_{s=1}^{M+1} r_s = \frac{1}{M+1} \sum_{j=1}^{M+1} \left( \frac{1}{M} \sum_{s \ne "
    r"j} r_s \right) .",
)
@pytest.mark.equation(
    "eq-leave-one-out-log",
    r"\log \left( \frac{1}{M+1} \sum_{s=1}^{M+1} r_s \right) \geq \frac{1}{M+1} \sum_{j=1}^{M+1} \log "
    r"\left( \frac{1}{M} \sum_{s \ne j} r_s \right) .",
)
def test_leaving_one_out(seed):
    agree("eq-leave-one-out", some_weights(seed))
    agree("eq-leave-one-out-log", some_weights(seed))


# --- gradients ---


@two
@pytest.mark.equation("eq-log-derivative", r"\nabla_\phi \, q_\phi(z) = q_\phi(z) \, \nabla_\phi \log q_\phi(z) ,")
@pytest.mark.equation(
    "eq-score-gradient",
    r"\nabla_\phi \, \E_{q_\phi}[f(z)] = \E_{q_\phi}[f(z) \, \nabla_\phi \log q_\phi(z)] .",
)
def test_score_function(seed):
    names = moved_gaussian(seed)
    agree("eq-log-derivative", names)
    agree("eq-score-gradient", names)


@pytest.mark.equation(
    "eq-score-gradient",
    r"\nabla_\phi \, \E_{q_\phi}[f(z)] = \E_{q_\phi}[f(z) \, \nabla_\phi \log q_\phi(z)] .",
)
def test_score_function_of_a_jump():
    """f is a step: the derivative of P(z > 1) is the density at 1, and the pathwise formula would say 0."""
    phi, n = 0.3, 200_000
    at = tensor([phi]), tensor([0.0])
    rows = score_function_gradient(
        lambda z: (z[:, 0] > 1).double(), *at, n, generator=torch.Generator().manual_seed(0)
    ).mean
    assert rows.mean().item() == pytest.approx(stats.norm.pdf(1 - phi), abs=4 * rows.std().item() / n**0.5)


@two
@pytest.mark.equation("def-reparametrised", r"z = \mu_q + \sigma_q \varepsilon .")
@pytest.mark.equation(
    "eq-pathwise",
    r"\frac{\partial}{\partial \mu_q} \E_q[f(z)] = \E_{\varepsilon}[f'(\mu_q + \sigma_q \varepsilon)] , "
    r"\quad \frac{\partial}{\partial \sigma_q} \E_q[f(z)] = \E_{\varepsilon}[f'(\mu_q + \sigma_q "
    r"\varepsilon) \, \varepsilon] .",
)
def test_pathwise(seed):
    names = reparametrised(seed)
    agree("def-reparametrised", names)
    agree("eq-pathwise", names, rel=1e-8, abs=1e-8)


@two
@pytest.mark.equation(
    "eq-pathwise",
    r"\frac{\partial}{\partial \mu_q} \E_q[f(z)] = \E_{\varepsilon}[f'(\mu_q + \sigma_q \varepsilon)] , "
    r"\quad \frac{\partial}{\partial \sigma_q} \E_q[f(z)] = \E_{\varepsilon}[f'(\mu_q + \sigma_q "
    r"\varepsilon) \, \varepsilon] .",
)
def test_gradients_of_course_lib(seed):
    """Both are unbiased: the means of many rows against the printed sides, in the mean and in the log-variance."""
    names = reparametrised(seed)
    mu, sigma = names[r"\mu_q"], names[r"\sigma_q"]
    by_mean, by_deviation = (formulas[1](names) for formulas, _ in claims("eq-pathwise"))
    at, n = (tensor([mu]), tensor([2 * math.log(sigma)])), 100_000

    def f(z):
        return (z.sin() + z.square()).sum(-1)

    for estimator in (pathwise_gradient, score_function_gradient):
        rows = estimator(f, *at, n, generator=torch.Generator().manual_seed(seed))
        for found, expected in ((rows.mean, by_mean), (rows.log_var, by_deviation * sigma / 2)):
            assert found.mean().item() == pytest.approx(expected, abs=4.5 * found.std().item() / n**0.5)


@two
@pytest.mark.equation(
    "eq-gradient-variances",
    r"\Var_q[2 z] = 4 , \quad \Var_q[z^2 (z - \phi)] = \phi^4 + 14 \phi^2 + 15 .",
)
def test_the_worked_example(seed):
    agree("eq-gradient-variances", squares(seed))


@pytest.mark.equation(
    "eq-gradient-variances",
    r"\Var_q[2 z] = 4 , \quad \Var_q[z^2 (z - \phi)] = \phi^4 + 14 \phi^2 + 15 .",
)
def test_87_and_4():
    values = [formulas[1](squares(0)) for formulas, _ in claims("eq-gradient-variances")]
    assert values == [4.0, 87.0]
    at, n = (tensor([2.0]), tensor([0.0])), 400_000
    for estimator, variance in ((pathwise_gradient, 4.0), (score_function_gradient, 87.0)):
        generator = torch.Generator().manual_seed(1)
        rows = estimator(lambda z: z.square().sum(-1), *at, n, generator=generator).mean[:, 0]
        spread = (rows - rows.mean()).square()
        assert rows.mean().item() == pytest.approx(4.0, abs=4 * rows.std().item() / n**0.5)
        assert spread.mean().item() == pytest.approx(variance, abs=4 * spread.std().item() / n**0.5)


@two
@pytest.mark.equation(
    "eq-baseline-variance",
    r"\begin{aligned} \Var_q[(f(z) - c) \, u(z)] = {}& \E_q[f(z)^2 u(z)^2] - 2 c \, \E_q[f(z) \, u(z)^2] "
    r"\\ & + c^2 \, \E_q[u(z)^2] - \E_q[f(z) \, u(z)]^2 . \end{aligned}",
)
@pytest.mark.equation("eq-best-baseline", r"c^* = \frac{\E_q[f(z) \, u(z)^2]}{\E_q[u(z)^2]} .")
def test_baseline(seed):
    names = baseline(seed)
    agree("eq-best-baseline", names, rel=1e-6, abs=1e-6)
    agree("eq-baseline-variance", names)


@two
@pytest.mark.equation(
    "eq-gradient-dimension",
    r"\begin{aligned} V = {}& \phi^4 + 14 \phi^2 + 15 + 2 (\phi^2 + 3) A + A^2 + (m - 1)(4 \phi^2 + 2) , "
    r"\\ \quad V^* = {}& 8 \phi^2 + 6 + (m - 1)(4 \phi^2 + 2) . \end{aligned}",
)
def test_variance_against_the_dimension(seed):
    agree("eq-gradient-dimension", dimensions(seed))


@pytest.mark.equation(
    "eq-gradient-dimension",
    r"\begin{aligned} V = {}& \phi^4 + 14 \phi^2 + 15 + 2 (\phi^2 + 3) A + A^2 + (m - 1)(4 \phi^2 + 2) , "
    r"\\ \quad V^* = {}& 8 \phi^2 + 6 + (m - 1)(4 \phi^2 + 2) . \end{aligned}",
)
def test_variances_of_course_lib_against_the_dimension():
    names, n = dimensions(1), 200_000
    m, phi = names["m"], names[r"\phi"]
    at = torch.full((m,), phi, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for c, variance in ((None, names["V"]), (phi**2 + 3 + names["A"], names["V^*"])):
        generator = torch.Generator().manual_seed(0)
        rows = score_function_gradient(lambda z: z.square().sum(-1), *at, n, baseline=c, generator=generator).mean[:, 0]
        spread = (rows - rows.mean()).square()
        assert spread.mean().item() == pytest.approx(variance, abs=4 * spread.std().item() / n**0.5)
