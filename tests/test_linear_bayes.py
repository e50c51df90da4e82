"""Bayesian linear regression against other routes: the N x N Gaussian, scikit-learn, quadrature, optimisation."""

import functools
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from sklearn.linear_model import BayesianRidge, Ridge
from torch._subclasses import FakeTensorMode
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from course_lib.latent_models import GaussianPosterior
from course_lib.linear_bayes import BayesianLinearRegression

F64 = torch.float64
close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
unchecked = inspect.unwrap


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(N=12, d=3, seed=0, dtype=F64, device=None):
    x = torch.randn(N, d, generator=seeded(seed), dtype=F64)
    y = x.sum(1) + 0.5 * torch.randn(N, generator=seeded(seed + 1), dtype=F64)
    return x.to(dtype=dtype, device=device), y.to(dtype=dtype, device=device)


def fitted(prior_sd=1.3, noise_sd=0.6, temperature=1.0, **options):
    return BayesianLinearRegression(prior_sd, noise_sd).fit(*data(**options), temperature=temperature)


def by_conditioning(x, y, prior_sd, noise_sd, new):
    """Posterior, evidence and prediction from the joint Gaussian of (theta, y, y'), by the N x N covariance of y."""
    N, d = x.shape
    C = prior_sd**2 * x @ x.T + noise_sd**2 * torch.eye(N, dtype=x.dtype)
    cross = prior_sd**2 * x.T
    mean = cross @ torch.linalg.solve(C, y)
    cov = prior_sd**2 * torch.eye(d, dtype=x.dtype) - cross @ torch.linalg.solve(C, cross.T)
    evidence = MultivariateNormal(torch.zeros_like(y), C).log_prob(y)
    return mean, cov, evidence, new @ mean, ((new @ cov) * new).sum(1) + noise_sd**2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    N=st.integers(1, 15),
    d=st.integers(1, 6),
    prior_sd=st.floats(0.1, 10),
    noise_sd=st.floats(0.1, 10),
    seed=st.integers(0, 10**6),
)
def test_everything_equals_the_conditional_of_the_joint_gaussian(N, d, prior_sd, noise_sd, seed):
    x, y = data(N, d, seed)
    new = torch.randn(4, d, generator=seeded(seed + 2), dtype=F64)
    model = BayesianLinearRegression(prior_sd, noise_sd).fit(x, y)
    mean, cov, evidence, at_new, var = by_conditioning(x, y, prior_sd, noise_sd, new)
    # the other route subtracts: its rounding grows with the prior's variance over the noise's
    tol = {"rtol": 1e-8, "atol": 1e-9 * max(1, prior_sd / noise_sd) ** 2}
    close(model.posterior.mean, mean, **tol)
    close(model.posterior.cov, cov, **tol)
    close(model.log_evidence(), evidence, **tol)
    prediction = model.predict(new)
    close(prediction.mean[:, 0], at_new, **tol)
    close(prediction.sd[:, 0] ** 2, var, **tol)


def test_to_ten_digits_on_well_posed_data():
    x, y = data()
    model = fitted()
    mean, cov, evidence, at_new, var = by_conditioning(x, y, 1.3, 0.6, x)
    close(model.posterior.mean, mean)
    close(model.posterior.cov, cov)
    close(model.log_evidence(), evidence)
    close(model.predict(x).mean[:, 0], at_new)
    close(model.predict(x).sd[:, 0], var.sqrt())
    assert model.posterior.tril.tril().equal(model.posterior.tril)


def test_the_mean_is_that_of_ridge_regression():
    x, y = data()
    ridge = Ridge(alpha=0.6**2 / 1.3**2, fit_intercept=False, solver="svd").fit(x.numpy(), y.numpy())
    close(fitted().posterior.mean, torch.from_numpy(ridge.coef_))


def test_agrees_with_scikit_learn_where_it_ends():
    """BayesianRidge chooses both precisions; with its choice the posterior is ours."""
    x, y = data(40)
    theirs = BayesianRidge(fit_intercept=False, tol=1e-10, max_iter=3000).fit(x.numpy(), y.numpy())
    model = BayesianLinearRegression(float(theirs.lambda_**-0.5), float(theirs.alpha_**-0.5)).fit(x, y)
    close(model.posterior.mean, torch.from_numpy(theirs.coef_), rtol=1e-6, atol=1e-6)
    close(model.posterior.cov, torch.from_numpy(theirs.sigma_), rtol=1e-5, atol=1e-7)


def test_the_evidence_is_the_integral_over_the_weights():
    x, y = data(4, 1)
    prior = Normal(torch.zeros((), dtype=F64), 1.3)

    def joint(theta):
        log_p = Normal(x[:, 0] * theta, 0.6).log_prob(y).sum() + prior.log_prob(torch.tensor(theta, dtype=F64))
        return log_p.exp().item()

    value, _ = integrate.quad(joint, -10, 10, epsabs=0, epsrel=1e-10, points=[1.0], limit=200)
    assert fitted(N=4, d=1).log_evidence().item() == pytest.approx(math.log(value), abs=1e-10)


def test_the_evidence_is_the_product_of_the_predictions_one_by_one():
    x, y = data(6)
    total = Normal(0, (1.3**2 * x[0].square().sum() + 0.6**2).sqrt()).log_prob(y[0])
    for n in range(1, 6):
        total += BayesianLinearRegression(1.3, 0.6).fit(x[:n], y[:n]).predict(x[n : n + 1]).log_prob(y[n : n + 1])[0]
    close(fitted(N=6).log_evidence(), total)


def test_nearly_equal_features_keep_their_digits():
    """The condition of X'X is 1e16 here: the normal equations lose all digits, QR does not."""
    x = torch.linspace(-1, 1, 30, dtype=F64)[:, None].repeat(1, 2)
    x[:, 1] += 1e-8 * torch.linspace(-1, 1, 30, dtype=F64) ** 2
    y = x[:, 0] * 2
    model = BayesianLinearRegression(1e3, 1e-3).fit(x, y)
    close(model.predict(x).mean[:, 0], y, rtol=0, atol=1e-5)
    close(model.posterior.mean.sum(), torch.tensor(2.0, dtype=F64), rtol=1e-6, atol=0)
    close(model.free_energy(model.posterior), -model.log_evidence(), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_tempered_posterior_has_a_likelihood_of_larger_noise(temperature):
    x, y = data()
    model = fitted(temperature=temperature)
    wide = BayesianLinearRegression(1.3, 0.6 * temperature**0.5).fit(x, y)
    close(model.posterior.mean, wide.posterior.mean)
    close(model.posterior.cov, wide.posterior.cov)
    close(model.log_evidence(), fitted().log_evidence())
    close(model.predict(x).sd ** 2 - model.predict(x).function_sd ** 2, torch.full((12, 1), 0.36, dtype=F64))
    # it minimises T KL - E log p
    best = model.free_energy(model.posterior, temperature)
    generator = seeded(5)
    for _ in range(20):
        mean = model.posterior.mean + 0.05 * torch.randn(3, generator=generator, dtype=F64)
        scale = 1 + 0.1 * torch.randn(3, 1, generator=generator, dtype=F64)
        moved = GaussianPosterior(mean, model.posterior.tril * scale)
        assert model.free_energy(moved, temperature) > best


@settings(max_examples=40, deadline=None, derandomize=True)
@given(N=st.integers(1, 10), d=st.integers(1, 4), seed=st.integers(0, 10**6), temperature=st.floats(0.1, 10))
def test_the_free_energy_is_the_evidence_plus_a_divergence(N, d, seed, temperature):
    model = BayesianLinearRegression(1.3, 0.6).fit(*data(N, d, seed))
    factor = torch.randn(d, d, generator=seeded(seed), dtype=F64).tril(-1) + torch.eye(d, dtype=F64)
    q = GaussianPosterior(torch.randn(d, generator=seeded(seed + 3), dtype=F64), factor)
    law = MultivariateNormal(q.mean, scale_tril=q.tril)
    posterior = MultivariateNormal(model.posterior.mean, scale_tril=model.posterior.tril)
    close(model.free_energy(q), -model.log_evidence() + kl_divergence(law, posterior), rtol=1e-9, atol=1e-9)
    prior = MultivariateNormal(torch.zeros(d, dtype=F64), 1.3**2 * torch.eye(d, dtype=F64))
    tempered = model.free_energy(q, temperature)
    close(tempered, model.free_energy(q) + (temperature - 1) * kl_divergence(law, prior), rtol=1e-9, atol=1e-9)
    close(model.free_energy(model.posterior), -model.log_evidence(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_best_mean_field(temperature):
    """Newton's and the formula's optimum: no gradient is left, and the gap is the determinant of the correlations."""
    model = fitted(temperature=temperature)
    best = model.mean_field()
    mean, log_var = best.mean.clone().requires_grad_(), best.cov.diagonal().log().requires_grad_()
    value = model.free_energy(GaussianPosterior.diagonal(mean, log_var), temperature)
    for slope in torch.autograd.grad(value, (mean, log_var)):
        close(slope, torch.zeros(3, dtype=F64), rtol=0, atol=1e-9)
    precision = torch.linalg.inv(model.posterior.cov)
    close(best.cov, (1 / precision.diagonal()).diag(), rtol=1e-9, atol=1e-9)
    if temperature == 1:
        gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
        close(value.detach() + model.log_evidence(), gap, rtol=1e-9, atol=1e-9)
        assert gap > 1e-3
    assert (best.cov.diagonal() <= model.posterior.cov.diagonal() + 1e-12).all()


def test_predictions_under_another_law_of_the_weights():
    model, (x, _) = fitted(), data()
    q = model.mean_field()
    prediction = model.predict(x, q)
    close(prediction.function_sd[:, 0] ** 2, (x**2 * q.cov.diagonal()).sum(1))
    close(prediction.mean, model.predict(x).mean)
    assert (prediction.function_sd != model.predict(x).function_sd).all()


def test_targets_in_a_column_and_batches_of_features():
    x, y = data()
    column = BayesianLinearRegression(1.3, 0.6).fit(x, y[:, None])
    close(column.posterior.mean, fitted().posterior.mean)
    assert column.predict(x.reshape(2, 6, 3)).mean.shape == (2, 6, 1)
    assert column.predict(x[0]).sd.shape == (1,)
    assert repr(column) == "BayesianLinearRegression(prior_sd=1.3, noise_sd=0.6)"


def test_a_fit_that_fails_leaves_no_half_of_it():
    x, y = data()
    model = fitted()
    with pytest.raises(ValueError, match="beyond the range"):
        model.fit(1e300 * x, 1e-300 * y, temperature=1e-300)
    with pytest.raises(ValueError, match="has seen no data"):
        model.log_evidence()
    close(model.fit(x, y).posterior.mean, fitted().posterior.mean)


def test_fewer_data_than_weights():
    x, y = data(2, 5)
    model = BayesianLinearRegression(1.3, 0.6).fit(x, y)
    mean, cov, evidence, *_ = by_conditioning(x, y, 1.3, 0.6, x)
    close(model.posterior.cov, cov)
    close(model.posterior.mean, mean)
    close(model.log_evidence(), evidence)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_device_follow_the_inputs(dtype, device):
    model, (x, _) = fitted(dtype=dtype, device=device), data(dtype=dtype, device=device)
    q = model.mean_field()
    results = [model.posterior.mean, model.posterior.tril, q.mean, q.tril, model.log_evidence(), model.free_energy(q)]
    results += [model.predict(x).mean, model.predict(x).sd, model.predict(x, q).function_sd]
    assert {(t.dtype, t.device.type) for t in results} == {(dtype, device.type)}
    torch.testing.assert_close(model.log_evidence().double().cpu(), fitted().log_evidence(), rtol=1e-5, atol=1e-5)


def test_makes_no_cpu_tensor_for_a_gpu():
    with FakeTensorMode(), torch.no_grad():
        x, y = torch.ones(5, 3, device="cuda"), torch.ones(5, device="cuda")
        for temperature in (1.0, 0.5):
            model = BayesianLinearRegression(1.0, 1.0).fit(x, y, temperature)
            q = model.mean_field()
            results = [model.posterior.mean, model.posterior.tril, q.mean, model.log_evidence(), model.free_energy(q)]
            results += [model.predict(x).mean, model.predict(x, q).sd]
            assert {t.device.type for t in results} == {"cuda"}


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


BLR = BayesianLinearRegression
x, y = data()
MODEL = fitted()
Q = MODEL.posterior


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: BLR(0.0, 1.0), ValueError, "prior_sd is 0.0: it must be positive and finite"),
        (lambda: BLR(1.0, math.inf), ValueError, "noise_sd is inf: it must be positive"),
        (lambda: BLR("1", 1.0), TypeError, "prior_sd is a str: give a number"),
        (lambda: BLR(1.0, True), TypeError, "noise_sd is a bool: give a number"),
        (lambda: BLR(1.0, 1.0).posterior, ValueError, r"has seen no data: call fit\(x, y\) first"),
        (lambda: BLR(1.0, 1.0).predict(x), ValueError, r"has seen no data"),
        (lambda: BLR(1.0, 1.0).log_evidence(), ValueError, r"has seen no data"),
        (lambda: BLR(1.0, 1.0).mean_field(), ValueError, r"has seen no data"),
        (lambda: BLR(1.0, 1.0).free_energy(Q), ValueError, r"has seen no data"),
        (lambda: BLR(1.0, 1.0).fit(x[0], y), ValueError, r"x has shape \(3,\): give \(N, d\)"),
        (lambda: BLR(1.0, 1.0).fit(x[:0], y[:0]), ValueError, r"x has shape \(0, 3\)"),
        (lambda: BLR(1.0, 1.0).fit(x, y[:5]), ValueError, r"y has shape \(5,\): give one target for each of the 12"),
        (lambda: BLR(1.0, 1.0).fit(x, x), ValueError, r"y has shape \(12, 3\): give one target"),
        (lambda: BLR(1.0, 1.0).fit(x, y.float()), TypeError, "y is torch.float32 but x is torch.float64"),
        (lambda: BLR(1.0, 1.0).fit(x.numpy(), y), TypeError, "x is a ndarray: give a torch.Tensor"),
        (lambda: BLR(1.0, 1.0).fit(replaced(x, (3, 1), math.nan), y), ValueError, r"x\[3, 1\] is nan"),
        (lambda: BLR(1.0, 1.0).fit(x, replaced(y, 4, math.inf)), ValueError, r"y\[4\] is inf"),
        (lambda: BLR(1.0, 1.0).fit(x, y, temperature=0.0), ValueError, "temperature is 0.0: it must be positive"),
        (lambda: MODEL.predict(x[:, :2]), ValueError, r"x has shape \(12, 2\): its last dimension must be 3"),
        (lambda: MODEL.predict(x.float()), TypeError, "x is torch.float32 but mean is torch.float64"),
        (lambda: MODEL.predict(replaced(x, (0, 0), math.nan)), ValueError, r"x\[0, 0\] is nan"),
        (lambda: MODEL.predict(x, "posterior"), TypeError, "q is a str: give a GaussianPosterior"),
        (lambda: MODEL.free_energy(GaussianPosterior(Q.mean[:2], Q.tril[:2, :2])), ValueError, "there are 3 weights"),
        (lambda: MODEL.free_energy(Q, temperature=-1.0), ValueError, "temperature is -1.0"),
        (lambda: BLR(1.0, 1e-50).fit(x.float(), y.float()), ValueError, "posterior is beyond the range of"),
        (lambda: BLR(1.0, 1e-320).fit(x, y), ValueError, "the posterior is beyond the range of torch.float64: scale"),
        (lambda: BLR(1.0, 1e-200).fit(x, y).log_evidence(), ValueError, "beyond the range of torch.float64: scale"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, message, monkeypatch):
    for name in ("__init__", "fit", "predict", "log_evidence", "mean_field", "free_energy"):
        monkeypatch.setattr(BLR, name, unchecked(getattr(BLR, name)))
    with pytest.raises(error, match=message):
        call()
