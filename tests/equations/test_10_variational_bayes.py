r"""Every equation of chapter 10, both sides computed by routes that share no code.

`agree` reads all sides from the chapter itself and computes each with the values of ``situations_10``: evidences from
fine grids, posteriors from joint laws, optima from searches, slopes from complex steps. Beside it, ``course_lib.bayes``
is held against the same print, with the noise that it draws. ``test_latex_reader.py`` shows that small changes of the
print are seen.
"""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from printed import agree, claims, relation
from scipy import optimize, stats
from situations_10 import (
    batches,
    best_noise,
    both,
    by_hand,
    by_nodes,
    classes,
    column,
    entropy_split,
    estimates,
    fixed_noise,
    identity,
    layer,
    line,
    linear,
    linear_free_energy,
    linear_mean_field,
    mean_field,
    network,
    one_weight,
    parabola,
    posterior,
    regression,
    ridge,
    sample,
    shared_noise,
    tempered,
    tempered_bound,
    tempered_law,
    tempered_line,
    two_variances,
    unbiased,
)

from course_lib.bayes import (
    BayesianLinearRegression,
    ClassPrediction,
    MeanFieldNetwork,
    SampledPrediction,
    batch_weights,
    mean_field_gradients,
    mean_field_loss,
)
from course_lib.elbo import exact_elbo
from course_lib.latent import GaussianPosterior, ProbabilisticPCA

two = pytest.mark.parametrize("seed", range(2))
F64 = torch.float64
M, N = 3, 7  # draws, data


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=F64)


def numpy(t):
    return t.detach().numpy()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def right(label, names, claim=0):
    """The last side of a claim."""
    return claims(label)[claim][0][-1](names)


def bayes(seed, sizes=(2, 3, 1), noise_sd=0.7, **options):
    """A network whose q is nothing special, and seven data."""
    model = MeanFieldNetwork(sizes, (0.8, 1.7)[: len(sizes) - 1], noise_sd, dtype=F64, **options)
    with torch.no_grad():
        for k, parameter in enumerate((model.means, model.log_vars)):
            parameter.copy_(torch.randn(parameter.shape, dtype=F64, generator=generator(10 * seed + k)))
        model.log_vars.sub_(1.0)
    x = torch.randn(N, sizes[0], dtype=F64, generator=generator(seed + 50))
    return model, x, torch.randn(N, sizes[-1], dtype=F64, generator=generator(seed + 60))


def sharp(model):
    """The same with deviations of 1e-14: its likelihood is that of the means."""
    with torch.no_grad():
        model.log_vars.fill_(2 * math.log(1e-14))
    return model


def printed_noise(model, seed, n=M):
    """The noise that this seed draws."""
    return numpy(torch.randn(n, len(model.means), dtype=F64, generator=generator(seed)))


def printed_terms(model, x, y, seed, n=M):
    """What the print says of each draw: log p(y_i | x_i, theta_s), and log q - log p of the weights."""
    mean, log_var, tau = (numpy(part) for part in (model.means, model.log_vars, model.prior_sd))
    noise = printed_noise(model, seed, n)
    theta, log_p, ratio = np.zeros(noise.shape), np.zeros((n, len(x))), np.zeros(n)
    for s in range(n):
        names = {r"\mu": column(mean), r"\gamma": column(log_var), r"\varepsilon_s": [column(noise[s])], "s": 1}
        theta[s] = np.ravel(right("def-vb-sample", names))
        f = numpy(model(x, tensor(theta[s])))
        for i in range(len(x)):
            names = {"N": 1, "y_i": [y[i].item()], "x_i": [0.0], r"\sigma": model.noise_sd.item(), r"\pi": np.pi}
            log_p[s, i] = -right("eq-vb-squared-error", names | {r"f_\theta(x)": lambda x, i=i, f=f: f[i, 0]})
        log_q = stats.norm.logpdf(theta[s], mean, np.exp(log_var / 2)).sum()
        ratio[s] = log_q - stats.norm.logpdf(theta[s], 0, tau).sum()
    return theta, log_p, ratio


def kl_names(model):
    mean, log_var, tau = (list(numpy(part)) for part in (model.means, model.log_vars, model.prior_sd))
    return {r"n_\theta": len(mean), r"\mu_j": mean, r"\gamma_j": log_var, r"\tau_j": tau}


def as_numbers(rate, log_p, ratio=None):
    """Names for the estimates, where the divergence and the likelihoods are given as numbers: theta_s is s."""
    n = len(log_p)
    return {
        "M": n, r"\theta_s": list(range(1, n + 1)), "y": 0.0, "X": 0.0, r"\KL": lambda p, q: rate, "s": 1,
        r"q_\phi(\theta)": lambda s: math.exp(ratio[round(s) - 1]), r"p(\theta)": lambda s: 1.0, r"\phi": "phi",
        r"p(y \mid X, \theta)": lambda y, x, s: math.exp(log_p[round(s) - 1]),
    }  # fmt: skip


# --- a law for the weights ---


@two
@pytest.mark.equation(
    "def-vb-model",
    r"p(y \mid X, \theta) = \prod_{i=1}^{N} \Normal(y_i; f_\theta(x_i), \sigma^2) .",
)
@pytest.mark.equation(
    "eq-vb-squared-error",
    r"-\log p(y \mid X, \theta) = \sum_{i=1}^{N} \frac{(y_i - f_\theta(x_i))^2}{2 \sigma^2} + \frac{N}{2} "
    r"\log(2 \pi \sigma^2) .",
)
def test_the_model(seed):
    for theta in (-2.0, 0.0, 0.35, 4.0):
        agree("def-vb-model", network(seed) | {r"\theta": theta})
        agree("eq-vb-squared-error", network(seed) | {r"\theta": theta})


@two
@pytest.mark.equation("def-vb-prior", r"p(\theta) = \prod_{j=1}^{n_\theta} \Normal(\theta_j; 0, \tau_j^2) .")
@pytest.mark.equation(
    "def-vb-mean-field",
    r"q_\phi(\theta) = \prod_{j=1}^{n_\theta} \Normal(\theta_j; \mu_j, \exp(\gamma_j)) .",
)
@pytest.mark.equation("def-vb-sample", r"\theta_s = \mu + \exp\left(\frac{\gamma}{2}\right) \odot \varepsilon_s .")
def test_prior_and_mean_field(seed):
    agree("def-vb-prior", mean_field(seed))
    agree("def-vb-mean-field", mean_field(seed))
    for s in (1, 2):
        agree("def-vb-sample", sample(seed) | {"s": s})


@two
@pytest.mark.equation("def-vb-sample", r"\theta_s = \mu + \exp\left(\frac{\gamma}{2}\right) \odot \varepsilon_s .")
def test_the_draws_of_course_lib(seed):
    model, x, y = bayes(seed)
    theta, _, _ = printed_terms(model, x, y, seed)
    np.testing.assert_allclose(numpy(model.draw(M, generator(seed))), theta, rtol=1e-13)
    np.testing.assert_allclose(
        numpy(model.functions(x, M, generator(seed))), numpy(model(x, tensor(theta))), rtol=1e-12
    )


@two
@pytest.mark.equation(
    "eq-vb-posterior",
    r"p(\theta \mid X, y) = \frac{p(y \mid X, \theta) \, p(\theta)}{p(y \mid X)} .",
)
@pytest.mark.equation("eq-vb-evidence", r"p(y \mid X) = \int p(y \mid X, \theta) \, p(\theta) \, d\theta .")
@pytest.mark.equation(
    "def-vb-predictive",
    r"p(y' \mid x', X, y) = \int p(y' \mid x', \theta) \, p(\theta \mid X, y) \, d\theta .",
)
@pytest.mark.equation(
    "eq-vb-two-variances",
    r"\E[y'] = \E[f_\theta(x')] , \quad \Var[y'] = \Var[f_\theta(x')] + \sigma^2 .",
)
def test_bayes_for_weights(seed):
    for theta in (-1.0, 0.0, 0.35, 2.5):
        agree("eq-vb-posterior", posterior(seed) | {r"\theta": theta}, rel=1e-5, abs=1e-6)
    agree("eq-vb-evidence", network(seed))
    for new, target in ((0.9, -0.4), (0.0, 0.0), (-1.5, 2.0)):
        agree("def-vb-predictive", network(seed) | {"x'": new, "y'": target})
    agree("eq-vb-two-variances", two_variances(seed))


@two
@pytest.mark.equation(
    "def-vb-predictive",
    r"p(y' \mid x', X, y) = \int p(y' \mid x', \theta) \, p(\theta \mid X, y) \, d\theta .",
)
@pytest.mark.equation(
    "eq-vb-two-variances",
    r"\E[y'] = \E[f_\theta(x')] , \quad \Var[y'] = \Var[f_\theta(x')] + \sigma^2 .",
)
def test_the_prediction_of_draws(seed):
    """Of equally probable draws of the function: the law of a target, its mean and its two variances."""
    functions = torch.randn(4, 1, 1, dtype=F64, generator=generator(seed))
    found = SampledPrediction(functions, 0.6)
    for target in (-1.0, 0.3, 40.0):
        values = {"y'": target, "x'": 0.0, "X": 0.0, "y": 0.0, r"\theta": 0, r"p(\theta \mid X, y)": lambda *_: 0.25}
        values[r"\int"] = lambda f: sum(f(**{r"\theta": s}) for s in range(4))
        values[r"p(y \mid x, \theta)"] = lambda y, x, s: stats.norm.pdf(y, functions[s].item(), 0.6)
        density = right("def-vb-predictive", values)
        if density > 0:
            assert found.log_prob(tensor([[target]])).item() == pytest.approx(math.log(density), rel=1e-10)
    f = numpy(functions)[:, 0, 0]
    values = {"x'": 0.0, r"\theta": 0, r"\sigma": 0.6, r"f_\theta(x)": lambda x: 0.0, "y'": 0.0}
    values |= {r"\E": lambda _: f.mean(), r"\Var": lambda _: f.var()}
    assert found.mean.item() == pytest.approx(right("eq-vb-two-variances", values), rel=1e-12)
    variance = claims("eq-vb-two-variances")[1][0][1](values)
    assert found.sd.item() ** 2 == pytest.approx(variance, rel=1e-12)
    assert found.function_sd.item() ** 2 == pytest.approx(variance - 0.36, rel=1e-11)


# --- the line ---


@two
@pytest.mark.equation(
    "eq-blr-posterior",
    r"\begin{aligned} p(\theta \mid X, y) = {}& \Normal(\theta; \mu, \Sigma) , \\ \quad \Sigma = {}& "
    r"\left( \frac{1}{\sigma^2} X^\T X + \frac{1}{\tau^2} I_d \right)^{-1} , \quad \mu = "
    r"\frac{1}{\sigma^2} \Sigma X^\T y . \end{aligned}",
)
@pytest.mark.equation(
    "eq-blr-ridge",
    r"\mu = \argmin_\theta \left( \|y - X \theta\|^2 + \frac{\sigma^2}{\tau^2} \|\theta\|^2 \right) .",
)
@pytest.mark.equation(
    "eq-blr-predictive",
    r"p(y' \mid x', X, y) = \Normal(y'; \mu^\T x', x'^\T \Sigma x' + \sigma^2) .",
)
@pytest.mark.equation("eq-blr-evidence", r"p(y \mid X) = \Normal(y; 0, \tau^2 X X^\T + \sigma^2 I_N) .")
@pytest.mark.equation(
    "eq-blr-evidence-peak",
    r"\log p(y \mid X) = \log p(y \mid X, \mu) + \log p(\mu) + \frac{1}{2} \log |2 \pi \Sigma| .",
)
@pytest.mark.equation(
    "eq-blr-tempered",
    r"\Sigma_T = \left( \frac{1}{T \sigma^2} X^\T X + \frac{1}{\tau^2} I_d \right)^{-1} .",
)
def test_exact_regression(seed):
    for shift in (0.0, 0.4, -1.0):
        agree("eq-blr-posterior", regression(seed) | {r"\theta": column(linear(seed).mean + shift)})
        agree("eq-blr-predictive", regression(seed) | {"y'": shift})
    agree("eq-blr-ridge", ridge(seed), rel=1e-5, abs=1e-6)
    agree("eq-blr-evidence", by_nodes(seed), rel=1e-7)
    agree("eq-blr-evidence-peak", regression(seed))
    agree("eq-blr-tempered", tempered_line(seed), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("n", "d", "prior_sd", "noise_sd"), [(4, 2, 0.6, 0.3), (1, 3, 1.0, 1.0), (3, 5, 2.0, 0.01), (6, 1, 1e-3, 4.0)]
)
@pytest.mark.equation(
    "eq-blr-posterior",
    r"\begin{aligned} p(\theta \mid X, y) = {}& \Normal(\theta; \mu, \Sigma) , \\ \quad \Sigma = {}& "
    r"\left( \frac{1}{\sigma^2} X^\T X + \frac{1}{\tau^2} I_d \right)^{-1} , \quad \mu = "
    r"\frac{1}{\sigma^2} \Sigma X^\T y . \end{aligned}",
)
@pytest.mark.equation(
    "eq-blr-ridge",
    r"\mu = \argmin_\theta \left( \|y - X \theta\|^2 + \frac{\sigma^2}{\tau^2} \|\theta\|^2 \right) .",
)
@pytest.mark.equation(
    "eq-blr-predictive",
    r"p(y' \mid x', X, y) = \Normal(y'; \mu^\T x', x'^\T \Sigma x' + \sigma^2) .",
)
@pytest.mark.equation("eq-blr-evidence", r"p(y \mid X) = \Normal(y; 0, \tau^2 X X^\T + \sigma^2 I_N) .")
@pytest.mark.equation(
    "eq-blr-evidence-peak",
    r"\log p(y \mid X) = \log p(y \mid X, \mu) + \log p(\mu) + \frac{1}{2} \log |2 \pi \Sigma| .",
)
def test_the_regression_of_course_lib(n, d, prior_sd, noise_sd):
    """With more data than weights, with fewer, with one; with a tight prior, and with little noise."""
    rng = np.random.default_rng([n, d])
    X, y, new = rng.normal(size=(n, d)), rng.normal(size=n), rng.normal(size=d)
    model = BayesianLinearRegression(prior_sd, noise_sd).fit(tensor(X), tensor(y))
    names = {"X": X, "y": column(y), r"\sigma": noise_sd, r"\tau": prior_sd, "I_d": np.eye(d), "I_N": np.eye(n)}
    names |= {r"\pi": np.pi, "x'": column(new), "y'": 0.3, "N": n, "d": d}
    cov = np.atleast_2d(right("eq-blr-posterior", names, 1))
    mean = np.reshape(right("eq-blr-posterior", names | {r"\Sigma": cov}, 2), (d, 1))
    np.testing.assert_allclose(numpy(model.posterior.cov), cov, rtol=1e-8, atol=1e-12 * np.abs(cov).max())
    np.testing.assert_allclose(numpy(model.posterior.mean), mean[:, 0], rtol=1e-8)
    names |= {r"\mu": mean, r"\Sigma": cov}
    density = right("eq-blr-predictive", names)
    assert model.predict(tensor(new)).log_prob(tensor([0.3])).item() == pytest.approx(math.log(density), rel=1e-8)
    evidence = stats.multivariate_normal(cov=prior_sd**2 * X @ X.T + noise_sd**2 * np.eye(n)).logpdf(y)
    assert model.log_evidence().item() == pytest.approx(evidence, rel=1e-9)
    if evidence > -600:
        assert math.log(right("eq-blr-evidence", names)) == pytest.approx(evidence, rel=1e-9)

    def likelihood(*theta):
        return math.exp(stats.norm.logpdf(y, X @ np.ravel(theta[-1]), noise_sd).sum())

    names[r"p(y \mid X, \mu)"] = likelihood
    names[r"p(\mu)"] = lambda t: math.exp(stats.norm.logpdf(np.ravel(t), 0, prior_sd).sum())
    assert right("eq-blr-evidence-peak", names) == pytest.approx(evidence, rel=1e-8)

    def no_lower(f):
        """The posterior's mean, if the printed function rises from there in twenty directions."""
        least = f(**{r"\theta": mean})
        for k in range(20):
            step = np.random.default_rng(k).normal(size=(d, 1)) * (prior_sd, 1e-3 * prior_sd)[k % 2]
            assert f(**{r"\theta": mean + step}) >= least
        return mean

    right("eq-blr-ridge", names | {r"\argmin_{\theta}": no_lower})


@two
@pytest.mark.equation(
    "eq-blr-free-energy",
    r"\begin{aligned} F(\phi) = {}& \KL(q_\phi(\theta) \,\|\, p(\theta)) + \frac{N}{2} \log(2 \pi "
    r"\sigma^2) \\ & + \frac{1}{2 \sigma^2} \left( \|y - X \mu\|^2 + \sum_{i=1}^{N} \sum_{j=1}^{d} "
    r"\exp(\gamma_j) \, x_{ij}^2 \right) . \end{aligned}",
)
@pytest.mark.equation(
    "eq-blr-mean-field",
    r"\exp(\gamma_j) = \frac{1}{\Lambda_{jj}} , \quad F(\phi) + \log p(y \mid X) = \frac{1}{2} \left( "
    r"\sum_{j=1}^{d} \log \Lambda_{jj} - \log |\Lambda| \right) .",
)
def test_mean_field_of_the_regression(seed):
    agree("eq-blr-free-energy", linear_free_energy(seed))
    for j in range(1, linear(seed).d + 1):
        agree("eq-blr-mean-field", linear_mean_field(seed) | {"j": j}, rel=1e-6, abs=1e-8)
    np.testing.assert_allclose(linear(seed).best[0], linear(seed).mean, atol=1e-6)  # the mean is the posterior's


@two
@pytest.mark.equation(
    "eq-blr-free-energy",
    r"\begin{aligned} F(\phi) = {}& \KL(q_\phi(\theta) \,\|\, p(\theta)) + \frac{N}{2} \log(2 \pi "
    r"\sigma^2) \\ & + \frac{1}{2 \sigma^2} \left( \|y - X \mu\|^2 + \sum_{i=1}^{N} \sum_{j=1}^{d} "
    r"\exp(\gamma_j) \, x_{ij}^2 \right) . \end{aligned}",
)
@pytest.mark.equation(
    "eq-blr-mean-field",
    r"\exp(\gamma_j) = \frac{1}{\Lambda_{jj}} , \quad F(\phi) + \log p(y \mid X) = \frac{1}{2} \left( "
    r"\sum_{j=1}^{d} \log \Lambda_{jj} - \log |\Lambda| \right) .",
)
@pytest.mark.equation(
    "eq-blr-tempered",
    r"\Sigma_T = \left( \frac{1}{T \sigma^2} X^\T X + \frac{1}{\tau^2} I_d \right)^{-1} .",
)
@pytest.mark.equation(
    "def-vb-tempered",
    r"F_T(q) = T \KL(q(\theta) \,\|\, p(\theta)) - \E_q[\log p(y \mid X, \theta)] .",
)
def test_free_energy_and_mean_field_of_course_lib(seed):
    world = linear(seed)
    model = BayesianLinearRegression(world.tau, world.sigma).fit(tensor(world.X), tensor(world.y))
    names = linear_free_energy(seed)
    mean, gamma = names[r"\mu_j"], names[r"\gamma_j"]
    q = GaussianPosterior.diagonal(tensor(mean), tensor(gamma))
    assert model.free_energy(q).item() == pytest.approx(right("eq-blr-free-energy", names), rel=1e-12)
    best = model.mean_field()
    for j in range(1, world.d + 1):
        found = right("eq-blr-mean-field", names | {"j": j})
        assert best.cov[j - 1, j - 1].item() == pytest.approx(found, rel=1e-11)
    gap = (model.free_energy(best) + model.log_evidence()).item()
    assert gap == pytest.approx(right("eq-blr-mean-field", names, 1), rel=1e-9)
    T = 0.4
    tempered_model = BayesianLinearRegression(world.tau, world.sigma).fit(tensor(world.X), tensor(world.y), T)
    cov = right("eq-blr-tempered", names | {"T": T})
    np.testing.assert_allclose(numpy(tempered_model.posterior.cov), cov, rtol=1e-11)
    rate = names[r"\KL"](names[r"q_\phi(\theta)"], names[r"p(\theta)"])
    values = {"T": T, r"q(\theta)": None, r"p(\theta)": None, r"\KL": lambda p, q: rate, "y": 0.0, "X": 0.0}
    values[r"\E_q"] = lambda f: rate - model.free_energy(q).item()
    assert model.free_energy(q, T).item() == pytest.approx(right("def-vb-tempered", values | {r"\theta": 0}), rel=1e-10)


@two
@pytest.mark.equation(
    "eq-vb-line-exact",
    r"\Var_p[f_\theta(x')] = \frac{\sigma^2}{N} \left( 1 + \frac{(x' - \bar{x})^2}{S} \right) ,",
)
@pytest.mark.equation(
    "eq-vb-line-mean-field",
    r"\Var_q[f_\theta(x')] = \frac{\sigma^2}{N} \left( 1 + \frac{x'^2}{S + \bar{x}^2} \right) .",
)
def test_the_band_of_a_line(seed):
    """For inputs on both sides of the data; and course_lib with a prior so wide that it is flat."""
    names = line(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 0.5, size=6)
    features = torch.stack((torch.ones(6, dtype=F64), tensor(x)), 1)
    model = BayesianLinearRegression(1e5, 0.8).fit(features, tensor(rng.normal(size=6)))
    own = {"N": 6, r"\sigma": 0.8, r"\bar{x}": x.mean(), "S": np.var(x)}
    for new in (-3.0, 0.0, float(names[r"\bar{x}"]), 0.6, 7.0):
        agree("eq-vb-line-exact", names | {"x'": new}, rel=1e-8)
        agree("eq-vb-line-mean-field", names | {"x'": new}, rel=1e-6)
        row = tensor([[1.0, new]])
        exact, product = model.predict(row).function_sd.item() ** 2, model.predict(row, model.mean_field())
        assert exact == pytest.approx(right("eq-vb-line-exact", own | {"x'": new}), rel=1e-6)
        assert product.function_sd.item() ** 2 == pytest.approx(
            right("eq-vb-line-mean-field", own | {"x'": new}), rel=1e-6
        )


# --- the free energy ---


@two
@pytest.mark.equation(
    "def-vb-free-energy",
    r"F(q) = \E_q[\log q(\theta) - \log (p(y \mid X, \theta) \, p(\theta))] .",
)
@pytest.mark.equation(
    "eq-vb-three-forms",
    r"\begin{aligned} F(q) = {}& -\E_q[\log (p(y \mid X, \theta) \, p(\theta))] - H(q) \\ = {}& "
    r"\E_q\left[\log \frac{q(\theta)}{p(\theta)}\right] - \E_q[\log p(y \mid X, \theta)] \\ = {}& "
    r"\KL(q(\theta) \,\|\, p(\theta)) - \E_q[\log p(y \mid X, \theta)] . \end{aligned}",
)
@pytest.mark.equation("eq-vb-identity", r"F(q) = -\log p(y \mid X) + \KL(q(\theta) \,\|\, p(\theta \mid X, y)) .")
@pytest.mark.equation("eq-vb-is-minus-elbo", r"F(q) = -\elbo(q; y) .")
def test_the_free_energy(seed):
    agree("def-vb-free-energy", network(seed), rel=1e-7)
    agree("eq-vb-three-forms", network(seed), rel=1e-7)
    agree("eq-vb-identity", identity(seed), rel=1e-7)
    agree("eq-vb-is-minus-elbo", network(seed))


@two
@pytest.mark.equation("eq-vb-identity", r"F(q) = -\log p(y \mid X) + \KL(q(\theta) \,\|\, p(\theta \mid X, y)) .")
@pytest.mark.equation("eq-vb-is-minus-elbo", r"F(q) = -\elbo(q; y) .")
def test_the_free_energy_is_minus_the_elbo_of_course_lib(seed):
    """Weights for a latent variable, targets for a datum: probabilistic PCA has the same bound, in closed form."""
    world = linear(seed)
    X, y = tensor(world.X), tensor(world.y)
    model = BayesianLinearRegression(1.0, world.sigma).fit(X, y)
    ppca = ProbabilisticPCA.from_parameters(X, torch.zeros(world.N, dtype=F64), world.sigma**2)
    q = GaussianPosterior.diagonal(tensor(world.mean + 0.3), tensor(world.gamma))
    bound = exact_elbo(ppca, y, q).item()
    names = {"q": 0, "y": 0, r"\elbo(q; y)": lambda q, y: bound, "F(q)": lambda q: 0}
    assert model.free_energy(q).item() == pytest.approx(right("eq-vb-is-minus-elbo", names), rel=1e-10)
    exact = model.posterior
    assert model.free_energy(exact).item() == pytest.approx(-model.log_evidence().item(), rel=1e-10)
    laws = (torch.distributions.MultivariateNormal(one.mean, scale_tril=one.tril) for one in (q, exact))
    names = {
        r"p(y \mid X)": lambda *_: model.log_evidence().exp().item(), "X": 0, "y": 0, "q": 0,
        r"q(\theta)": None, r"p(\theta \mid X, y)": lambda *_: 0,
    }  # fmt: skip
    gap = torch.distributions.kl_divergence(*laws).item()
    assert right("eq-vb-identity", names | {r"\KL": lambda p, q: gap, r"\theta": 0}) == pytest.approx(
        model.free_energy(q).item(), rel=1e-9
    )


# --- mean field ---


@two
@pytest.mark.equation(
    "eq-vb-kl",
    r"\KL(q_\phi(\theta) \,\|\, p(\theta)) = \frac{1}{2} \sum_{j=1}^{n_\theta} \left( \frac{\exp(\gamma_j) "
    r"+ \mu_j^2}{\tau_j^2} - 1 - \gamma_j + \log \tau_j^2 \right) .",
)
def test_the_divergence(seed):
    agree("eq-vb-kl", mean_field(seed))


@pytest.mark.parametrize(
    ("mu", "gamma", "tau"),
    [
        ([0.0, 0.0], [0.0, 0.0], 1.0), ([3.0, -1e-3], [-30.0, 1e-9], 1.0), ([0.0, 5.0], [-700.0, 20.0], 0.3),
        ([1e4, -0.5], [0.3, -2.0], 1e-3), ([0.0, 1e-9], [2 * math.log(5.0)] * 2, 5.0),
    ],
)  # fmt: skip
@pytest.mark.equation(
    "eq-vb-kl",
    r"\KL(q_\phi(\theta) \,\|\, p(\theta)) = \frac{1}{2} \sum_{j=1}^{n_\theta} \left( \frac{\exp(\gamma_j) "
    r"+ \mu_j^2}{\tau_j^2} - 1 - \gamma_j + \log \tau_j^2 \right) .",
)
def test_the_divergence_at_the_edges(mu, gamma, tau):
    """The print, `kl` and torch.distributions. The prior deviation is a deviation."""
    model = MeanFieldNetwork((1, 1), tau, 1.0, dtype=F64)
    with torch.no_grad():
        model.means.copy_(tensor(mu))
        model.log_vars.copy_(tensor(gamma))
    found = model.kl().item()
    assert found == pytest.approx(right("eq-vb-kl", kl_names(model)), rel=1e-11, abs=1e-11)
    law = torch.distributions.Normal(tensor(mu), (tensor(gamma) / 2).exp())
    by_torch = torch.distributions.kl_divergence(law, torch.distributions.Normal(tensor(0.0), tensor(tau)))
    assert found == pytest.approx(by_torch.sum().item(), rel=1e-10, abs=1e-9)


# --- estimates ---


@two
@pytest.mark.equation(
    "def-vb-estimates",
    r"\begin{aligned} \hat{F}(\phi) = {}& \KL(q_\phi(\theta) \,\|\, p(\theta)) - \frac{1}{M} "
    r"\sum_{s=1}^{M} \log p(y \mid X, \theta_s) , \\ \quad \bar{F}(\phi) = {}& \frac{1}{M} \sum_{s=1}^{M} "
    r"\left( \log q_\phi(\theta_s) - \log p(\theta_s) - \log p(y \mid X, \theta_s) \right) . \end{aligned}",
)
@pytest.mark.equation("eq-vb-unbiased", r"\E[\hat{F}(\phi)] = \E[\bar{F}(\phi)] = F(\phi) .")
def test_both_estimates(seed):
    agree("def-vb-estimates", estimates(seed))
    agree("eq-vb-unbiased", unbiased(seed), rel=1e-4)


@two
@pytest.mark.equation(
    "def-vb-estimates",
    r"\begin{aligned} \hat{F}(\phi) = {}& \KL(q_\phi(\theta) \,\|\, p(\theta)) - \frac{1}{M} "
    r"\sum_{s=1}^{M} \log p(y \mid X, \theta_s) , \\ \quad \bar{F}(\phi) = {}& \frac{1}{M} \sum_{s=1}^{M} "
    r"\left( \log q_\phi(\theta_s) - \log p(\theta_s) - \log p(y \mid X, \theta_s) \right) . \end{aligned}",
)
@pytest.mark.equation(
    "eq-vb-squared-error",
    r"-\log p(y \mid X, \theta) = \sum_{i=1}^{N} \frac{(y_i - f_\theta(x_i))^2}{2 \sigma^2} + \frac{N}{2} "
    r"\log(2 \pi \sigma^2) .",
)
@pytest.mark.equation(
    "eq-vb-kl",
    r"\KL(q_\phi(\theta) \,\|\, p(\theta)) = \frac{1}{2} \sum_{j=1}^{n_\theta} \left( \frac{\exp(\gamma_j) "
    r"+ \mu_j^2}{\tau_j^2} - 1 - \gamma_j + \log \tau_j^2 \right) .",
)
@pytest.mark.equation(
    "def-vb-batch",
    r"\hat{F}_B(\phi) = \KL(q_\phi(\theta) \,\|\, p(\theta)) - \frac{N}{b} \sum_{i \in B} \E_q[\log p(y_i "
    r"\mid x_i, \theta)] .",
)
@pytest.mark.equation(
    "def-vb-tempered",
    r"F_T(q) = T \KL(q(\theta) \,\|\, p(\theta)) - \E_q[\log p(y \mid X, \theta)] .",
)
def test_the_estimates_of_course_lib(seed):
    """Both, at the draws that they make; of all data, and of a batch; with a temperature."""
    model, x, y = bayes(seed)
    _, log_p, ratio = printed_terms(model, x, y, seed)
    rate = right("eq-vb-kl", kl_names(model))
    names = as_numbers(rate, log_p.sum(1), ratio)
    for claim, estimate in enumerate(("kl", "sampled")):
        options = {"n_samples": M, "estimate": estimate, "sampling": "weights"}
        found = model.free_energy(x, y, N, generator=generator(seed), **options).item()
        assert found == pytest.approx(right("def-vb-estimates", names, claim), rel=1e-11)
        value, _ = mean_field_gradients(model, x, y, n_data=N, generator=generator(seed), **options)
        assert value.item() == pytest.approx(found / N, rel=1e-12)
    batch = {"N": 40, "b": N, "B": list(range(1, N + 1)), "x_i": list(range(1, N + 1)), "y_i": [0.0] * N, r"\theta": 0}
    batch |= {r"\KL": lambda p, q: rate, r"q_\phi(\theta)": None, r"p(\theta)": None, r"\phi": "phi"}
    batch[r"\E_q"] = lambda f: np.mean([f(**{r"\theta": s}) for s in range(M)])
    batch[r"p(y \mid x, \theta)"] = lambda y, x, s: math.exp(log_p[s, x - 1])
    found = model.free_energy(x, y, 40, M, sampling="weights", generator=generator(seed)).item()
    assert found == pytest.approx(right("def-vb-batch", batch), rel=1e-11)
    for T in (0.1, 3.0):
        loss = mean_field_loss(
            model, x, y, n_data=N, n_samples=M, sampling="weights", temperature=T, generator=generator(seed)
        )
        tempered_names = {"T": T, r"\KL": lambda p, q: rate, r"q(\theta)": None, r"p(\theta)": None, "X": 0.0, "y": 0.0}
        tempered_names |= {r"\E_q": lambda f: log_p.sum(1).mean(), r"\theta": 0}
        assert N * loss.item() == pytest.approx(right("def-vb-tempered", tempered_names), rel=1e-11)


def one_layer(seed):
    """A linear network, and the same model as a regression with a column of ones, whose free energy is exact."""
    model, x, y = bayes(seed, (2, 1))
    with torch.no_grad():
        model.prior_sd.fill_(0.8)
    exact = BayesianLinearRegression(0.8, 0.7).fit(torch.cat((x, torch.ones(N, 1, dtype=F64)), 1), y)
    return model, x, y, exact, GaussianPosterior.diagonal(model.means.detach(), model.log_vars.detach())


@two
@pytest.mark.equation("eq-vb-unbiased", r"\E[\hat{F}(\phi)] = \E[\bar{F}(\phi)] = F(\phi) .")
@pytest.mark.equation(
    "eq-blr-free-energy",
    r"\begin{aligned} F(\phi) = {}& \KL(q_\phi(\theta) \,\|\, p(\theta)) + \frac{N}{2} \log(2 \pi "
    r"\sigma^2) \\ & + \frac{1}{2 \sigma^2} \left( \|y - X \mu\|^2 + \sum_{i=1}^{N} \sum_{j=1}^{d} "
    r"\exp(\gamma_j) \, x_{ij}^2 \right) . \end{aligned}",
)
def test_the_estimates_of_course_lib_have_the_right_mean(seed):
    """A network without a hidden layer is a regression: its free energy is known, the mean of many draws is near."""
    model, x, y, exact, q = one_layer(seed)
    expected = exact.free_energy(q).item()
    kinds = (("kl", "local"), ("kl", "weights"), ("sampled", "weights"))
    for estimate, sampling in kinds:
        options = {"estimate": estimate, "sampling": sampling, "generator": generator(seed)}
        with torch.no_grad():
            found = torch.stack([model.free_energy(x, y, N, 20, **options) for _ in range(300)])
        assert found.mean().item() == pytest.approx(expected, abs=5 * found.std().item() / 300**0.5)


@two
@pytest.mark.equation(
    "eq-vb-value-variances",
    r"\begin{aligned} \Var[\hat{F}(\phi)] = {}& \lambda^2 v \, (\mu - \hat{\theta})^2 + \frac{1}{2} "
    r"\lambda^2 v^2 , \\ \quad \Var[\bar{F}(\phi)] = {}& v \left( \frac{\mu}{\tau^2} + \lambda (\mu - "
    r"\hat{\theta}) \right)^2 + \frac{1}{2} \left( v \left( \lambda + \frac{1}{\tau^2} \right) - 1 "
    r"\right)^2 . \end{aligned}",
)
@pytest.mark.equation(
    "eq-vb-slope-variances",
    r"\Var\left[\frac{\partial \hat{F}}{\partial \mu}\right] = \lambda^2 v , \quad "
    r"\Var\left[\frac{\partial \bar{F}}{\partial \mu}\right] = \left( \lambda + \frac{1}{\tau^2} \right)^2 "
    r"v .",
)
def test_the_variances_of_both_estimates(seed):
    agree("eq-vb-value-variances", parabola(seed))
    agree("eq-vb-slope-variances", parabola(seed))


@pytest.mark.equation(
    "eq-vb-value-variances",
    r"\begin{aligned} \Var[\hat{F}(\phi)] = {}& \lambda^2 v \, (\mu - \hat{\theta})^2 + \frac{1}{2} "
    r"\lambda^2 v^2 , \\ \quad \Var[\bar{F}(\phi)] = {}& v \left( \frac{\mu}{\tau^2} + \lambda (\mu - "
    r"\hat{\theta}) \right)^2 + \frac{1}{2} \left( v \left( \lambda + \frac{1}{\tau^2} \right) - 1 "
    r"\right)^2 . \end{aligned}",
)
@pytest.mark.equation(
    "eq-vb-slope-variances",
    r"\Var\left[\frac{\partial \hat{F}}{\partial \mu}\right] = \lambda^2 v , \quad "
    r"\Var\left[\frac{\partial \bar{F}}{\partial \mu}\right] = \left( \lambda + \frac{1}{\tau^2} \right)^2 "
    r"v .",
)
def test_which_estimate_is_better():
    """At the posterior the sampled estimate has no variance, its slope has more; far away the other way round."""
    names = parabola(0)
    lam, top, tau = names[r"\lambda"], names[r"\hat{\theta}"], names[r"\tau"]
    at_best = names | {"v": 1 / (lam + tau**-2), r"\mu": lam * top / (lam + tau**-2)}
    far = names | {"v": 0.01, r"\mu": 5.0}
    value = [[right("eq-vb-value-variances", where, claim) for claim in (0, 1)] for where in (at_best, far)]
    slope = [[right("eq-vb-slope-variances", where, claim) for claim in (0, 1)] for where in (at_best, far)]
    assert value[0][1] == pytest.approx(0, abs=1e-12)
    assert value[0][0] > 0.1
    assert value[1][0] < value[1][1]
    assert all(closed < sampled for closed, sampled in slope)


@two
@pytest.mark.equation(
    "eq-vb-value-variances",
    r"\begin{aligned} \Var[\hat{F}(\phi)] = {}& \lambda^2 v \, (\mu - \hat{\theta})^2 + \frac{1}{2} "
    r"\lambda^2 v^2 , \\ \quad \Var[\bar{F}(\phi)] = {}& v \left( \frac{\mu}{\tau^2} + \lambda (\mu - "
    r"\hat{\theta}) \right)^2 + \frac{1}{2} \left( v \left( \lambda + \frac{1}{\tau^2} \right) - 1 "
    r"\right)^2 . \end{aligned}",
)
@pytest.mark.equation(
    "eq-vb-slope-variances",
    r"\Var\left[\frac{\partial \hat{F}}{\partial \mu}\right] = \lambda^2 v , \quad "
    r"\Var\left[\frac{\partial \bar{F}}{\partial \mu}\right] = \left( \lambda + \frac{1}{\tau^2} \right)^2 "
    r"v .",
)
def test_the_variances_of_course_lib(seed):
    """All inputs are 0, so the bias is the one weight; the other one has its prior for q, and no variance."""
    model, _, y = bayes(seed, (1, 1))
    x = torch.zeros(N, 1, dtype=F64)
    tau, sigma = model.prior_sd[0].item(), model.noise_sd.item()
    with torch.no_grad():
        model.means[0], model.log_vars[0] = 0.0, 2 * math.log(tau)
    mu, v = model.means[1].item(), model.log_vars[1].exp().item()
    names = {r"\lambda": N / sigma**2, r"\hat{\theta}": y.mean().item(), r"\mu": mu, "v": v, r"\tau": tau}
    for claim, estimate in enumerate(("kl", "sampled")):
        values, by_mean, noise = [], [], generator(seed)
        for _ in range(800):
            value, grads = mean_field_gradients(
                model, x, y, n_data=N, estimate=estimate, sampling="weights", generator=noise
            )
            values.append(N * value.item())
            by_mean.append(N * grads[0][1].item())
        # the deviation of a variance from 800 draws is 5 to 12 parts in 100
        assert np.var(values) == pytest.approx(right("eq-vb-value-variances", names, claim), rel=0.3)
        assert np.var(by_mean) == pytest.approx(right("eq-vb-slope-variances", names, claim), rel=0.2)


@two
@pytest.mark.equation(
    "eq-vb-fixed-noise",
    r"\E_\varepsilon\left[\min_\phi \hat{F}(\phi, \varepsilon)\right] \leq \min_\phi F(\phi) .",
)
def test_noise_that_is_held(seed):
    names = fixed_noise(seed)
    agree("eq-vb-fixed-noise", names)
    left, bound = (side(names) for side in relation("eq-vb-fixed-noise")[0])
    assert left < bound - 0.1


@pytest.mark.equation(
    "eq-vb-fixed-noise",
    r"\E_\varepsilon\left[\min_\phi \hat{F}(\phi, \varepsilon)\right] \leq \min_\phi F(\phi) .",
)
def test_noise_that_is_held_in_course_lib():
    """The smallest estimate with one noise is below the smallest free energy, and minus it above the evidence."""
    x = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    y = 0.8 * x + 0.1
    model = MeanFieldNetwork((1, 1), 1.0, 0.3, dtype=F64, generator=generator())
    exact = BayesianLinearRegression(1.0, 0.3).fit(torch.cat((x, torch.ones_like(x)), 1), y)

    def objective(flat, seed):
        with torch.no_grad():
            model.means.copy_(tensor(flat[:2]))
            model.log_vars.copy_(tensor(flat[2:]))
        value, grads = mean_field_gradients(model, x, y, n_data=5, sampling="weights", generator=generator(seed))
        return 5 * value.item(), 5 * np.concatenate([numpy(one) for one in grads])

    start = np.array([0.0, 0.0, -2.0, -2.0])
    least = [optimize.minimize(objective, start, args=(seed,), jac=True).fun for seed in range(12)]
    names = {r"\E_\varepsilon": lambda f: np.mean(least), r"\varepsilon": 0, r"\phi": 0}
    smallest = exact.free_energy(exact.mean_field()).item()
    names |= {r"\min_{\phi}": lambda f: smallest, "F": 0}
    left, bound = (side(names) for side in relation("eq-vb-fixed-noise")[0])
    assert left < bound - 0.3
    assert min(least) < -exact.log_evidence().item() - 0.3


# --- batches ---


@two
@pytest.mark.equation(
    "def-vb-batch",
    r"\hat{F}_B(\phi) = \KL(q_\phi(\theta) \,\|\, p(\theta)) - \frac{N}{b} \sum_{i \in B} \E_q[\log p(y_i "
    r"\mid x_i, \theta)] .",
)
@pytest.mark.equation("eq-vb-batch", r"\E_B[\hat{F}_B(\phi)] = F(\phi) .")
@pytest.mark.equation(
    "eq-vb-epoch",
    r"\sum_{k=1}^{N_B} \left( w_k \KL(q_\phi(\theta) \,\|\, p(\theta)) - \sum_{i \in B_k} \E_q[\log p(y_i "
    r"\mid x_i, \theta)] \right) = F(\phi) .",
)
@pytest.mark.equation(
    "eq-vb-batch-weights",
    r"\sum_{k=1}^{N_B} \frac{b_k}{N} = 1 , \quad \sum_{k=1}^{N_B} \frac{2^{N_B - k}}{2^{N_B} - 1} = 1 .",
)
@pytest.mark.equation(
    "eq-vb-unweighted",
    r"\begin{aligned} & \sum_{k=1}^{N_B} \left( \KL(q_\phi(\theta) \,\|\, p(\theta)) - \sum_{i \in B_k} "
    r"\E_q[\log p(y_i \mid x_i, \theta)] \right) \\ & = F(\phi) + (N_B - 1) \KL(q_\phi(\theta) \,\|\, "
    r"p(\theta)) . \end{aligned}",
)
def test_batches(seed):
    for label in ("def-vb-batch", "eq-vb-batch", "eq-vb-epoch", "eq-vb-unweighted"):
        agree(label, batches(seed))
    for sizes in ([2, 1, 3], [6], [1] * 6):
        names = {"N_B": len(sizes), "b_k": sizes, "N": 6}
        agree("eq-vb-batch-weights", names)
        for claim, kind in enumerate(("size", "halving")):
            total = claims("eq-vb-batch-weights")[claim][0][0](names)
            assert total == pytest.approx(batch_weights(sizes, kind).sum().item(), rel=1e-12)


@pytest.mark.equation(
    "eq-vb-batch-weights",
    r"\sum_{k=1}^{N_B} \frac{b_k}{N} = 1 , \quad \sum_{k=1}^{N_B} \frac{2^{N_B - k}}{2^{N_B} - 1} = 1 .",
)
def test_the_weights_of_course_lib():
    """Each weight is its term of the printed sum; and of 2000 batches the powers of 2 do not overflow."""
    sizes = [4, 1, 3, 2]
    by_size, by_halving = (claims("eq-vb-batch-weights")[claim][0][0] for claim in (0, 1))
    of_size, halving = (batch_weights(sizes, kind).tolist() for kind in ("size", "halving"))
    for k in range(1, 5):
        # alone in the sum: all other batches are empty
        alone = {"N_B": 4, "N": 10, "b_k": [b * (j == k) for j, b in enumerate(sizes, 1)]}
        assert of_size[k - 1] == pytest.approx(by_size(alone), rel=1e-12)
        assert halving[k - 1] == pytest.approx(2 ** (4 - k) / (2**4 - 1), rel=1e-12)
    assert sum(halving) == pytest.approx(by_halving({"N_B": 4}), rel=1e-12)
    assert batch_weights([1] * 2000, "halving").sum().item() == pytest.approx(1)


@two
@pytest.mark.equation("eq-vb-batch", r"\E_B[\hat{F}_B(\phi)] = F(\phi) .")
@pytest.mark.equation(
    "eq-vb-epoch",
    r"\sum_{k=1}^{N_B} \left( w_k \KL(q_\phi(\theta) \,\|\, p(\theta)) - \sum_{i \in B_k} \E_q[\log p(y_i "
    r"\mid x_i, \theta)] \right) = F(\phi) .",
)
@pytest.mark.equation(
    "eq-vb-unweighted",
    r"\begin{aligned} & \sum_{k=1}^{N_B} \left( \KL(q_\phi(\theta) \,\|\, p(\theta)) - \sum_{i \in B_k} "
    r"\E_q[\log p(y_i \mid x_i, \theta)] \right) \\ & = F(\phi) + (N_B - 1) \KL(q_\phi(\theta) \,\|\, "
    r"p(\theta)) . \end{aligned}",
)
@pytest.mark.equation(
    "def-vb-tempered",
    r"F_T(q) = T \KL(q(\theta) \,\|\, p(\theta)) - \E_q[\log p(y \mid X, \theta)] .",
)
def test_the_batches_of_course_lib(seed):
    """Without noise in the weights: the mean over all batches, and the sum over an epoch with either weights."""
    model, x, y = bayes(seed)
    sharp(model)
    whole, rate = model.free_energy(x, y, N).item(), model.kl().item()
    subsets = [list(chosen) for chosen in itertools.combinations(range(N), 3)]
    names = {r"\E_B": lambda f: np.mean([model.free_energy(x[B], y[B], N).item() for B in subsets]), r"\phi": 0}
    names |= {r"\hat{F}_B(\phi)": lambda phi: 0.0, r"F(\phi)": lambda phi: whole}
    agree("eq-vb-batch", names, rel=1e-10)
    epoch = [[0, 3], [1, 2, 6], [4], [5]]
    costs = [model.expected_nll(x[B], y[B]).item() for B in epoch]
    names = {
        "N_B": 4, r"\KL": lambda p, q: rate, r"q_\phi(\theta)": None, r"p(\theta)": None, r"\phi": 0, r"\theta": 0,
        "B_k": [[1], [2], [3], [4]], "x_i": [1, 2, 3, 4], "y_i": [0.0] * 4, r"F(\phi)": lambda phi: whole,
        r"p(y \mid x, \theta)": lambda y, x, t: math.exp(-costs[x - 1]), r"\E_q": lambda f: f(),
    }  # fmt: skip
    for kind in ("size", "halving"):
        weights = batch_weights([len(B) for B in epoch], kind).tolist()
        agree("eq-vb-epoch", names | {"w_k": weights}, rel=1e-10)
    agree("eq-vb-unweighted", names, rel=1e-10)
    by_temperature = model.free_energy(x, y, N, temperature=4.0).item()
    assert by_temperature == pytest.approx(right("eq-vb-unweighted", names), rel=1e-12)


# --- slopes ---


@two
@pytest.mark.equation(
    "eq-vb-slope-mean",
    r"\frac{\partial \hat{F}}{\partial \mu_j} = \frac{\mu_j}{\tau_j^2} - \frac{1}{M} \sum_{s=1}^{M} "
    r"\frac{\partial \log p(y \mid X, \theta_s)}{\partial \theta_{sj}} .",
)
@pytest.mark.equation(
    "eq-vb-slope-log-var",
    r"\frac{\partial \hat{F}}{\partial \gamma_j} = \frac{1}{2} \left( \frac{\exp(\gamma_j)}{\tau_j^2} - 1 "
    r"\right) - \frac{1}{2 M} \sum_{s=1}^{M} \exp\left(\frac{\gamma_j}{2}\right) \varepsilon_{sj} "
    r"\frac{\partial \log p(y \mid X, \theta_s)}{\partial \theta_{sj}} .",
)
def test_slopes_by_hand(seed):
    for j in range(1, 5):
        agree("eq-vb-slope-mean", by_hand(seed) | {"j": j}, rel=1e-8)
        agree("eq-vb-slope-log-var", by_hand(seed) | {"j": j}, rel=1e-8)


@two
@pytest.mark.equation(
    "eq-vb-slope-mean",
    r"\frac{\partial \hat{F}}{\partial \mu_j} = \frac{\mu_j}{\tau_j^2} - \frac{1}{M} \sum_{s=1}^{M} "
    r"\frac{\partial \log p(y \mid X, \theta_s)}{\partial \theta_{sj}} .",
)
@pytest.mark.equation(
    "eq-vb-slope-log-var",
    r"\frac{\partial \hat{F}}{\partial \gamma_j} = \frac{1}{2} \left( \frac{\exp(\gamma_j)}{\tau_j^2} - 1 "
    r"\right) - \frac{1}{2 M} \sum_{s=1}^{M} \exp\left(\frac{\gamma_j}{2}\right) \varepsilon_{sj} "
    r"\frac{\partial \log p(y \mid X, \theta_s)}{\partial \theta_{sj}} .",
)
def test_the_gradient_of_course_lib(seed):
    """At the draws that it makes, with the slopes of the likelihood by autograd."""
    model, x, y = bayes(seed)
    _, (by_mean, by_log_var) = mean_field_gradients(
        model, x, y, n_data=N, n_samples=M, sampling="weights", generator=generator(seed)
    )
    theta, _, _ = printed_terms(model, x, y, seed)
    slopes = []
    for one in theta:
        start = tensor(one).requires_grad_()
        log_p = torch.distributions.Normal(model(x, start), model.noise_sd).log_prob(y).sum()
        slopes.append(numpy(torch.autograd.grad(log_p, start)[0]))
    names = kl_names(model) | {"M": M, r"\varepsilon_{sj}": printed_noise(model, seed), r"\theta_s": [0.0] * M}
    names |= {r"\partial": lambda f, head, s, j: slopes[s - 1][j - 1], "X": 0.0, "y": 0.0}
    for j in range(1, len(model.means) + 1):
        found = right("eq-vb-slope-mean", names | {"j": j}), right("eq-vb-slope-log-var", names | {"j": j})
        assert (N * by_mean[j - 1].item(), N * by_log_var[j - 1].item()) == pytest.approx(found, rel=1e-9, abs=1e-10)


@two
@pytest.mark.equation(
    "def-vb-local",
    r"a_j = \sum_m \mu_{jm} h_m + \sqrt{v_j} \, \varepsilon_j , \quad v_j = \sum_m \exp(\gamma_{jm}) \, "
    r"h_m^2 .",
)
@pytest.mark.equation(
    "eq-vb-local",
    r"\begin{aligned} \E_q\left[\sum_m w_{jm} h_m\right] = {}& \sum_m \mu_{jm} h_m , \\ \quad "
    r"\Var_q\left[\sum_m w_{jm} h_m\right] = {}& \sum_m \exp(\gamma_{jm}) \, h_m^2 . \end{aligned}",
)
@pytest.mark.equation(
    "eq-vb-local-slopes",
    r"\begin{aligned} \frac{\partial R}{\partial \mu_{jm}} = {}& \delta_j h_m , \\ \quad \frac{\partial "
    r"R}{\partial \gamma_{jm}} = {}& \delta_j \varepsilon_j \frac{\exp(\gamma_{jm}) \, h_m^2}{2 "
    r"\sqrt{v_j}} , \\ \quad \frac{\partial R}{\partial h_m} = {}& \sum_j \delta_j \left( \mu_{jm} + "
    r"\varepsilon_j \frac{\exp(\gamma_{jm}) \, h_m}{\sqrt{v_j}} \right) . \end{aligned}",
)
def test_one_layer_with_local_noise(seed):
    for j in (1, 2):
        agree("def-vb-local", layer(seed) | {"j": j})
        for m in (1, 2, 3):
            agree("eq-vb-local-slopes", layer(seed) | {"j": j, "m": m})
    agree("eq-vb-local", layer(seed))


@two
@pytest.mark.equation(
    "def-vb-local",
    r"a_j = \sum_m \mu_{jm} h_m + \sqrt{v_j} \, \varepsilon_j , \quad v_j = \sum_m \exp(\gamma_{jm}) \, "
    r"h_m^2 .",
)
@pytest.mark.equation(
    "eq-vb-local-slopes",
    r"\begin{aligned} \frac{\partial R}{\partial \mu_{jm}} = {}& \delta_j h_m , \\ \quad \frac{\partial "
    r"R}{\partial \gamma_{jm}} = {}& \delta_j \varepsilon_j \frac{\exp(\gamma_{jm}) \, h_m^2}{2 "
    r"\sqrt{v_j}} , \\ \quad \frac{\partial R}{\partial h_m} = {}& \sum_j \delta_j \left( \mu_{jm} + "
    r"\varepsilon_j \frac{\exp(\gamma_{jm}) \, h_m}{\sqrt{v_j}} \right) . \end{aligned}",
)
def test_the_local_gradient_of_course_lib(seed):
    """One datum, one layer with two outputs. The slopes by the biases tell the noise; the others follow in print."""
    model, x, y = bayes(seed, (3, 2))
    x, y, sigma = x[:1], y[:1], model.noise_sd.item()
    value, (by_mean, by_log_var) = mean_field_gradients(model, x, y, n_data=1, generator=generator(seed))
    rate = model.kl()
    kl_mean, kl_log_var = torch.autograd.grad(rate, [model.means, model.log_vars])

    def rows(vector):
        """A row for each neuron, its bias at the end."""
        ((W, b),) = model.layers(vector)
        return numpy(torch.cat((W, b[:, None]), 1))

    delta = rows(by_mean - kl_mean)[:, -1]
    h, mu, gamma = [*numpy(x[0]), 1.0], rows(model.means), rows(model.log_vars)
    a = numpy(y[0]) + sigma**2 * delta  # of the squared error
    names = {"h_m": h, r"\mu_{jm}": mu, r"\gamma_{jm}": gamma, r"\delta_j": list(delta), r"\sum_m": range(1, 5)}
    variances = [right("def-vb-local", names | {"j": j}, 1) for j in (1, 2)]
    noise = [(a[j] - mu[j] @ h) / variances[j] ** 0.5 for j in range(2)]
    names |= {"v_j": variances, r"\varepsilon_j": noise}
    assert [right("def-vb-local", names | {"j": j}) for j in (1, 2)] == pytest.approx(list(a), rel=1e-12)
    by_hand_mean, by_hand_log_var = rows(by_mean - kl_mean), rows(by_log_var - kl_log_var)
    for j, m in itertools.product((1, 2), (1, 2, 3, 4)):
        where = names | {"j": j, "m": m}
        assert by_hand_mean[j - 1, m - 1] == pytest.approx(right("eq-vb-local-slopes", where), rel=1e-9)
        assert by_hand_log_var[j - 1, m - 1] == pytest.approx(
            right("eq-vb-local-slopes", where, 1), rel=1e-8, abs=1e-12
        )
    log_p = stats.norm.logpdf(numpy(y[0]), a, sigma).sum()
    assert value.item() == pytest.approx(rate.item() - log_p, rel=1e-11)
    assert np.abs(noise).max() < 5


@two
@pytest.mark.equation(
    "eq-vb-local-slopes",
    r"\begin{aligned} \frac{\partial R}{\partial \mu_{jm}} = {}& \delta_j h_m , \\ \quad \frac{\partial "
    r"R}{\partial \gamma_{jm}} = {}& \delta_j \varepsilon_j \frac{\exp(\gamma_{jm}) \, h_m^2}{2 "
    r"\sqrt{v_j}} , \\ \quad \frac{\partial R}{\partial h_m} = {}& \sum_j \delta_j \left( \mu_{jm} + "
    r"\varepsilon_j \frac{\exp(\gamma_{jm}) \, h_m}{\sqrt{v_j}} \right) . \end{aligned}",
)
def test_the_local_gradient_passes_through_the_layer(seed):
    """A first layer without noise: its biases have the slopes by the input of the second layer, times 1 - tanh^2."""
    model, x, y = bayes(seed, (3, 2, 2))
    x, y, sigma = x[:1], y[:1], model.noise_sd.item()
    with torch.no_grad():
        for part in model.layers(model.log_vars)[0]:
            part.fill_(2 * math.log(1e-14))
    _, (by_mean, _) = mean_field_gradients(model, x, y, n_data=1, generator=generator(seed))
    (by_kl,) = torch.autograd.grad(model.kl(), model.means)
    (_, by_first), (_, delta) = [(numpy(W), numpy(b)) for W, b in model.layers(by_mean - by_kl)]
    (W_1, b_1), (W_2, b_2) = model.layers(model.means)
    (_, _), (var_2, var_b) = model.layers(model.log_vars.exp())
    hidden = numpy(torch.tanh(x[0] @ W_1.mT + b_1))
    mu, var = (numpy(torch.cat((W, b[:, None]), 1)) for W, b in ((W_2, b_2), (var_2, var_b)))
    h = np.append(hidden, 1.0)
    root = np.sqrt(var @ h**2)
    noise = (numpy(y[0]) + sigma**2 * delta - mu @ h) / root
    names = {
        "h_m": list(h), r"\mu_{jm}": mu, r"\gamma_{jm}": np.log(var), r"\delta_j": list(delta), "v_j": list(root**2),
        r"\varepsilon_j": list(noise), r"\sum_j": (1, 2), "j": 1,
    }  # fmt: skip
    slopes = [right("eq-vb-local-slopes", names | {"m": m}, 2) for m in (1, 2)]
    np.testing.assert_allclose(by_first, slopes * (1 - hidden**2), rtol=1e-9)


@two
@pytest.mark.equation(
    "eq-vb-local",
    r"\begin{aligned} \E_q\left[\sum_m w_{jm} h_m\right] = {}& \sum_m \mu_{jm} h_m , \\ \quad "
    r"\Var_q\left[\sum_m w_{jm} h_m\right] = {}& \sum_m \exp(\gamma_{jm}) \, h_m^2 . \end{aligned}",
)
def test_the_local_law_of_course_lib(seed):
    """Outputs of one layer by draws of all weights have the printed mean and variance."""
    model, x, _ = bayes(seed, (3, 2))
    f = model.functions(x[:1], 40_000, generator(seed))[:, 0]
    (W, b), (W_var, b_var) = model.layers(model.means)[0], model.layers(model.log_vars.exp())[0]
    h = [*numpy(x[0]), 1.0]
    for j in (1, 2):
        mu, var = (numpy(torch.cat((w[j - 1], c[j - 1 : j]))) for w, c in ((W, b), (W_var, b_var)))
        names = {"h_m": h, r"\mu_{jm}": [mu, mu], r"\gamma_{jm}": [np.log(var)] * 2, r"\sum_m": range(1, 5), "j": j}
        mean, variance = (right("eq-vb-local", names, claim) for claim in (0, 1))
        assert f[:, j - 1].mean().item() == pytest.approx(mean, abs=5 * (variance / 40_000) ** 0.5)
        assert f[:, j - 1].var().item() == pytest.approx(variance, rel=0.04)


@two
@pytest.mark.equation(
    "eq-vb-shared-noise",
    r"\Var\left[\frac{N}{b} \sum_{i \in B} \log p(y_i \mid x_i, \theta)\right] = N^2 \left( \frac{V}{b} + "
    r"\frac{b - 1}{b} C \right) .",
)
def test_one_draw_for_a_batch(seed):
    agree("eq-vb-shared-noise", shared_noise(seed))


@pytest.mark.equation(
    "eq-vb-shared-noise",
    r"\Var\left[\frac{N}{b} \sum_{i \in B} \log p(y_i \mid x_i, \theta)\right] = N^2 \left( \frac{V}{b} + "
    r"\frac{b - 1}{b} C \right) .",
)
def test_local_noise_is_not_shared_in_course_lib():
    """Five equal data: with one draw of the weights all terms are equal, with local noise they are independent."""
    model, _, _ = bayes(0, (1, 1))
    x, y = torch.full((5, 1), 0.4, dtype=F64), torch.full((5, 1), 2.0, dtype=F64)
    variances = {}
    for sampling in ("weights", "local"):
        noise = generator(3)
        with torch.no_grad():
            found = torch.stack([model.expected_nll(x, y, sampling=sampling, generator=noise) for _ in range(2500)])
        variances[sampling] = found.var().item() * 8**2  # N / b = 40 / 5
    log_p = torch.distributions.Normal(model.functions(x[:1], 60_000, generator()), model.noise_sd).log_prob(y[:1])
    names = {"N": 40, "b": 5, "V": log_p.var().item()}
    assert variances["weights"] == pytest.approx(right("eq-vb-shared-noise", names | {"C": names["V"]}), rel=0.15)
    assert variances["local"] == pytest.approx(right("eq-vb-shared-noise", names | {"C": 0.0}), rel=0.15)


# --- noise and temperature ---


@two
@pytest.mark.equation(
    "eq-vb-best-noise",
    r"\hat{\sigma}^2 = \frac{1}{N} \sum_{i=1}^{N} \E_q[(y_i - f_\theta(x_i))^2] ,",
)
@pytest.mark.equation(
    "eq-vb-profile",
    r"\min_{\sigma} F(q) = \KL(q(\theta) \,\|\, p(\theta)) + \frac{N}{2} \left( \log(2 \pi \hat{\sigma}^2) "
    r"+ 1 \right) .",
)
def test_the_best_noise(seed):
    agree("eq-vb-best-noise", best_noise(seed), rel=1e-6)
    agree("eq-vb-profile", best_noise(seed), rel=1e-8)


@two
@pytest.mark.equation(
    "eq-vb-best-noise",
    r"\hat{\sigma}^2 = \frac{1}{N} \sum_{i=1}^{N} \E_q[(y_i - f_\theta(x_i))^2] ,",
)
@pytest.mark.equation(
    "eq-vb-profile",
    r"\min_{\sigma} F(q) = \KL(q(\theta) \,\|\, p(\theta)) + \frac{N}{2} \left( \log(2 \pi \hat{\sigma}^2) "
    r"+ 1 \right) .",
)
def test_the_best_noise_of_course_lib(seed):
    """At the printed value the gradient by the learned log-variance is zero, and the loss is the printed one."""
    model, x, y = bayes(seed, noise="learned")
    theta, _, _ = printed_terms(model, x, y, seed)
    squares = numpy((y - model(x, tensor(theta))).square()[..., 0])  # (M, N)
    names = {"N": N, "x_i": list(range(N)), "y_i": [0.0] * N, r"f_\theta(x)": lambda x: 0.0, r"\theta": 0, "i": 1}
    best = right("eq-vb-best-noise", names | {r"\E_q": lambda f: squares.mean()})
    with torch.no_grad():
        model.log_noise_var.fill_(math.log(best))
    options = {"n_data": N, "n_samples": M, "sampling": "weights"}
    value, grads = mean_field_gradients(model, x, y, generator=generator(seed), **options)
    assert abs(grads[2].item()) < 1e-12
    rate = model.kl().item()
    names |= {r"\hat{\sigma}": best**0.5, r"\KL": lambda p, q: rate, r"q(\theta)": None, r"p(\theta)": None}
    assert N * value.item() == pytest.approx(right("eq-vb-profile", names | {r"\pi": np.pi}), rel=1e-11)


@two
@pytest.mark.equation(
    "def-vb-tempered",
    r"F_T(q) = T \KL(q(\theta) \,\|\, p(\theta)) - \E_q[\log p(y \mid X, \theta)] .",
)
@pytest.mark.equation(
    "eq-vb-tempered",
    r"q(\theta) = \frac{p(\theta) \, p(y \mid X, \theta)^{1/T}}{\int p(\theta) \, p(y \mid X, "
    r"\theta)^{1/T} \, d\theta} .",
)
def test_the_tempered_posterior(seed):
    """What is printed, and that no normal law has a smaller tempered free energy."""
    agree("def-vb-tempered", tempered_bound(seed), rel=1e-7)
    for theta in (-1.0, 0.0, 0.35, 1.5):
        agree("eq-vb-tempered", tempered_law(seed) | {r"\theta": theta}, rel=1e-5, abs=1e-6)
    names, _ = tempered(seed)
    law = tempered_law(seed)[r"q(\theta)"]
    least = right("def-vb-tempered", names | {r"q(\theta)": lambda t: max(law(t), 1e-300)})
    for mean, sd in ((0.6, 0.8), (0.0, 0.5), (-0.3, 0.7), (0.3, 1.1)):
        assert right("def-vb-tempered", names | {r"q(\theta)": partial(stats.norm.pdf, loc=mean, scale=sd)}) > least


@pytest.mark.equation(
    "def-vb-tempered",
    r"F_T(q) = T \KL(q(\theta) \,\|\, p(\theta)) - \E_q[\log p(y \mid X, \theta)] .",
)
def test_a_low_temperature_gives_no_bound():
    """Below T = 1 it may be smaller than minus the log evidence; above it never is."""
    world, names = one_weight(0), network(0)
    sharp_q = {r"q(\theta)": partial(stats.norm.pdf, loc=0.4, scale=0.5)}
    values = [right("def-vb-tempered", names | sharp_q | {"T": T}) for T in (0.01, 1.0, 4.0)]
    assert values[0] < -math.log(world.evidence()) <= values[1] < values[2]


# --- classes, pruning, both roles ---


@two
@pytest.mark.equation("def-vb-classes", r"p(k \mid x_i, \theta) = \softmax(a(x_i))_k .")
def test_classes(seed):
    for i, k in itertools.product((1, 2), (1, 2, 3)):
        agree("def-vb-classes", classes(seed) | {"i": i, "k": k})


@two
@pytest.mark.equation("def-vb-classes", r"p(k \mid x_i, \theta) = \softmax(a(x_i))_k .")
@pytest.mark.equation("eq-vb-entropy-split", r"H(\bar{p}) = \E_q[H(p_\theta)] + \E_q[\KL(p_\theta \,\|\, \bar{p})] .")
def test_the_classes_of_course_lib(seed):
    """The likelihood of a network without noise in its weights; and the parts of the entropy of a prediction."""
    model = sharp(MeanFieldNetwork((2, 3, 4), dtype=F64, likelihood="categorical", generator=generator(seed)))
    x, y = torch.randn(5, 2, dtype=F64, generator=generator(1)), torch.tensor([0, 3, 2, 2, 1])
    logits = numpy(model(x))
    softmax = {r"\softmax": lambda a: np.exp(a) / np.exp(a).sum(), "i": 1, "x_i": [0.0]}
    log_p = [
        math.log(right("def-vb-classes", softmax | {"a(x)": lambda x, a=a: column(a), "k": k + 1}))
        for a, k in zip(logits, y.tolist(), strict=True)
    ]
    assert model.expected_nll(x, y).item() == pytest.approx(-sum(log_p), rel=1e-10)
    draws = torch.randn(6, 1, 4, dtype=F64, generator=generator(seed)) * 2
    found = ClassPrediction(draws)
    laws = numpy(draws.softmax(-1))[:, 0]
    split = entropy_split(0) | {r"\sum_\theta": range(1, 7), r"q(\theta)": lambda t: 1 / 6}
    split |= {r"p_\theta": None, r"\bar{p}": column(laws.mean(0)), r"\E_q": None}
    split[r"\E_q"] = lambda f: np.mean([f(**{r"p_\theta": column(one)}) for one in laws])
    np.testing.assert_allclose(numpy(found.probabilities)[0], laws.mean(0), rtol=1e-12)
    assert found.entropy.item() == pytest.approx(right("eq-vb-entropy-split", split), rel=1e-11)
    assert found.expected_entropy.item() + found.information.item() == pytest.approx(found.entropy.item(), rel=1e-11)
    assert found.expected_entropy.item() == pytest.approx(np.mean([stats.entropy(one) for one in laws]), rel=1e-11)


@two
@pytest.mark.equation("eq-vb-entropy-split", r"H(\bar{p}) = \E_q[H(p_\theta)] + \E_q[\KL(p_\theta \,\|\, \bar{p})] .")
def test_two_kinds_of_not_knowing(seed):
    agree("eq-vb-entropy-split", entropy_split(seed))


@pytest.mark.equation("eq-vb-entropy-split", r"H(\bar{p}) = \E_q[H(p_\theta)] + \E_q[\KL(p_\theta \,\|\, \bar{p})] .")
def test_the_ends_of_the_split():
    """Equal draws: all is noise. Draws that are each certain, of different classes: all is in the weights."""
    for logits, share in ((torch.zeros(2, 1, 3, dtype=F64), 0.0), (tensor([[[900.0, 0]], [[0, 900.0]]]), 1.0)):
        found = ClassPrediction(logits)
        assert found.information.item() == pytest.approx(share * found.entropy.item(), abs=1e-12)
        assert found.entropy.item() == pytest.approx(math.log(3 if share == 0 else 2), rel=1e-12)


@two
@pytest.mark.equation("def-vb-snr", r"r_j = \frac{|\mu_j|}{\exp(\gamma_j / 2)} .")
@pytest.mark.equation("eq-vb-sign", r"P(\theta_j \mu_j < 0) = \int_{-\infty}^{-r_j} \Normal(u; 0, 1) \, du .")
def test_signal_to_noise(seed):
    names = mean_field(seed)
    for j in range(1, names[r"n_\theta"] + 1):
        agree("def-vb-snr", names | {"j": j})
    agree("eq-vb-sign", names)
    for r in (0.0, 0.5, 3.0, 8.0):
        found = right("eq-vb-sign", {"r_j": [r], "j": 1})
        assert found == pytest.approx(stats.norm.cdf(-r), rel=1e-8)


@pytest.mark.equation("def-vb-snr", r"r_j = \frac{|\mu_j|}{\exp(\gamma_j / 2)} .")
@pytest.mark.equation("eq-vb-sign", r"P(\theta_j \mu_j < 0) = \int_{-\infty}^{-r_j} \Normal(u; 0, 1) \, du .")
def test_the_signal_to_noise_of_course_lib():
    model, _, _ = bayes(1)
    names = kl_names(model)
    found = model.signal_to_noise().tolist()
    expected = [right("def-vb-snr", names | {"j": j}) for j in range(1, len(found) + 1)]
    assert found == pytest.approx(expected, rel=1e-12)
    flips = (model.draw(40_000, generator()) * model.means < 0).double().mean(0).tolist()
    for j, share in enumerate(flips, 1):
        chance = right("eq-vb-sign", {"r_j": found, "j": j})
        assert share == pytest.approx(chance, abs=5 * (chance * (1 - chance) / 40_000) ** 0.5 + 1e-4)


@two
@pytest.mark.equation(
    "def-vb-both",
    r"p(\theta, z_1, \dots, z_N, x_1, \dots, x_N) = p(\theta) \prod_{i=1}^{N} p(z_i) \, p(x_i \mid z_i, "
    r"\theta) .",
)
@pytest.mark.equation(
    "eq-vb-both",
    r"\begin{aligned} \elbo(q; x_1, \dots, x_N) = {}& \sum_{i=1}^{N} \E_{q(\theta)} \E_{q_i(z_i)} [\log "
    r"p(x_i \mid z_i, \theta)] \\ & - \sum_{i=1}^{N} \KL(q_i(z_i) \,\|\, p(z_i)) - \KL(q(\theta) \,\|\, "
    r"p(\theta)) . \end{aligned}",
)
def test_one_bound_two_roles(seed):
    for theta in (1, 2, 3):
        agree("def-vb-both", both(seed) | {r"\theta": theta})
    agree("eq-vb-both", both(seed))
