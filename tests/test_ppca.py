"""Probabilistic PCA against SciPy, scikit-learn, block matrices, high-precision arithmetic and a slow EM in NumPy.

None of the oracles shares code with the module: they form the covariance C, or a part of it, and invert that.
"""

import inspect
import math
import re

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal
from tensor_sizes import Largest
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck

from course_lib.data import load_digits, load_iris
from course_lib.ppca import ProbabilisticPCA

unchecked = inspect.unwrap
close = torch.testing.assert_close
NAN = math.nan


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def parameters(generator, d, m, noise_var=0.3):
    return randn(generator, d, m), randn(generator, d), torch.tensor(noise_var, dtype=torch.float64)


def random_model(generator, d, m, noise_var=0.3):
    return ProbabilisticPCA.from_parameters(*parameters(generator, d, m, noise_var))


def struck_out(x, share, generator):
    """A copy of x with this share of its entries missing; in each row at least one is left."""
    missing = torch.rand(x.shape, generator=generator) < share
    kept = torch.randint(x.shape[-1], (*x.shape[:-1], 1), generator=generator)
    return x.masked_fill(missing.scatter(-1, kept, False), NAN)


def covariance(model):
    W = model.W_.numpy()
    return W @ W.T + model.noise_var_.item() * np.eye(len(W))


# The density, against SciPy


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize(("d", "m"), [(1, 1), (2, 1), (5, 2), (4, 4), (3, 6)])
def test_the_log_likelihood_is_that_of_the_gaussian(generator, batch, d, m):
    model = random_model(generator, d, m)
    x = 2 * randn(generator, *batch, d)
    found = model.log_likelihood(x)
    assert found.shape == batch
    expected = np.array([multivariate_normal(model.mean_, covariance(model)).logpdf(row) for row in x.reshape(-1, d)])
    np.testing.assert_allclose(found.numpy().ravel(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.covariance().numpy(), covariance(model), rtol=1e-14)


@pytest.mark.parametrize(("k", "nats"), [(2, 0.0057067), (8, 14.209788), (16, 23.929443)])
def test_the_digits(k, nats):
    """The known maxima; and from scikit-learn, whose covariance is divided by N - 1, not by N."""
    from sklearn.decomposition import PCA

    x = load_digits().x
    N = len(x)
    model = ProbabilisticPCA(k).fit(x)
    assert model.log_likelihood(x).mean().item() == pytest.approx(nats, abs=6e-7)
    assert model.history_.item() == model.log_likelihood(x).mean().item()
    wider = ProbabilisticPCA.from_parameters(
        model.W_ * (N / (N - 1)) ** 0.5, model.mean_, model.noise_var_ * (N / (N - 1))
    )
    of_sklearn = PCA(k, svd_solver="full").fit(x.numpy())
    assert wider.noise_var_.item() == pytest.approx(of_sklearn.noise_variance_, rel=1e-12)
    np.testing.assert_allclose(wider.log_likelihood(x), of_sklearn.score_samples(x.numpy()), rtol=1e-8, atol=1e-8)
    assert wider.log_likelihood(x).mean() < nats


def exact_log_density(x, W, mean, noise_var):
    """With 80 digits, from the covariance itself."""
    with mpmath.workdps(80):
        d = len(W)
        W = mpmath.matrix(W.tolist())
        C = W * W.T + mpmath.mpf(noise_var) * mpmath.eye(d)
        shift = mpmath.matrix([mpmath.mpf(a) - mpmath.mpf(b) for a, b in zip(x, mean, strict=True)])
        square = (shift.T * mpmath.lu_solve(C, shift))[0]
        return -(d * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(C)) + square) / 2


@pytest.mark.parametrize("noise_var", [1e-4, 1e-8, 1e-12, 1e-16])
@pytest.mark.parametrize("observed", [6, 2, 1])
def test_a_small_noise_variance_costs_no_digits(generator, noise_var, observed):
    """For x of the model, an error in the residual of the size of rounding is all that is allowed."""
    d, m = 6, 3
    for _ in range(5):
        model = random_model(generator, d, m, noise_var)
        x = model.sample(1, generator=generator)[0][0]
        x[observed:] = NAN
        expected = exact_log_density(
            x[:observed].tolist(), model.W_[:observed], model.mean_[:observed].tolist(), model.noise_var_.item()
        )
        assert abs(model.log_likelihood(x).item() - float(expected)) < 1e-13 + 4e-15 / noise_var**0.5
    x = model.mean_ + randn(generator, d)  # far from the plane: a relative error
    expected = exact_log_density(x.tolist(), model.W_, model.mean_.tolist(), model.noise_var_.item())
    assert model.log_likelihood(x).item() == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_no_matrix_of_the_size_of_the_data_is_formed(generator, share):
    d, m = 1000, 2
    model = random_model(generator, d, m)
    x = struck_out(model.sample(3, generator=generator)[0], share, generator)
    with Largest() as largest:
        model.log_likelihood(x), model.posterior(x), model.impute(x)
    assert largest.numel <= 3 * (d + m) * m
    entries = (~x.isnan()).sum(1)
    close(model.log_likelihood(x) / entries, torch.full((3,), -1.0).double(), atol=0.3, rtol=0)


# The posterior, against the joint covariance of (z, x)


@pytest.mark.parametrize(("d", "m"), [(1, 1), (5, 2), (4, 4), (2, 3)])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_posterior_and_imputation_are_those_of_the_joint_gaussian(generator, d, m, share):
    model = random_model(generator, d, m)
    x = struck_out(randn(generator, 6, d), share, generator)
    W, mean, C = model.W_.numpy(), model.mean_.numpy(), covariance(model)
    joint = np.block([[np.eye(m), W.T], [W, C]])
    posterior, filled, nats = model.posterior(x), model.impute(x), model.log_likelihood(x)
    covs = posterior.cov.expand(6, m, m)
    assert torch.equal(posterior.mean, model.transform(x))
    assert posterior.tril.ndim == (3 if x.isnan().any() else 2)
    for i, row in enumerate(x.numpy()):
        seen = ~np.isnan(row)
        there = m + np.flatnonzero(seen)
        gain = joint[:, there] @ np.linalg.inv(joint[np.ix_(there, there)])
        expected = np.concatenate((np.zeros(m), mean)) + gain @ (row - mean)[seen]
        np.testing.assert_allclose(posterior.mean[i], expected[:m], atol=1e-12)
        np.testing.assert_allclose(filled[i], np.where(seen, row, expected[m:]), atol=1e-12)
        np.testing.assert_allclose(covs[i], (joint - gain @ joint[there])[:m, :m], atol=1e-12)
        density = multivariate_normal(mean[seen], C[np.ix_(seen, seen)])
        assert nats[i].item() == pytest.approx(density.logpdf(row[seen]), rel=1e-12)
        close(model.log_likelihood(x[i]), nats[i])  # alone, and in one batch with others
        close(model.posterior(x[i]).cov, covs[i])
        close(model.posterior(x[i]).mean, posterior.mean[i])


def test_the_posterior_of_one_latent_dimension_by_quadrature():
    model = random_model(seeded(0), 3, 1)
    x = model.sample(4, generator=seeded(1))[0]
    W, mean, sd = model.W_[:, 0].numpy(), model.mean_.numpy(), model.noise_sd.item()
    for i, row in enumerate(x.numpy()):

        def moment(power, row=row):
            gap = lambda z: ((row - mean - W * z) / sd) ** 2  # noqa: E731
            return integrate.quad(lambda z: z**power * math.exp(-0.5 * (gap(z).sum() + z * z)), -9, 9, epsabs=1e-14)[0]

        first, second = moment(1) / moment(0), moment(2) / moment(0)
        assert model.posterior(x).mean[i].item() == pytest.approx(first, rel=1e-9)
        assert model.posterior(x).cov.item() == pytest.approx(second - first**2, rel=1e-9)
        nats = math.log(moment(0)) - 2 * math.log(2 * math.pi) - 3 * math.log(sd)
        assert model.log_likelihood(x)[i].item() == pytest.approx(nats, rel=1e-9)


@given(
    d=st.integers(1, 6),
    m=st.integers(1, 4),
    log_noise=st.floats(-12, 4),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_bayes_holds_at_every_z(d, m, log_noise, share, seed):
    """log p(z) + log p(x | z) - log p(z | x) is log p(x), at the posterior mean and elsewhere."""
    generator = seeded(seed)
    model = random_model(generator, d, m, math.exp(log_noise))
    x = model.sample(3, generator=generator)[0]
    posterior = model.posterior(x)
    near = posterior.rsample(2, generator=generator)
    for z in (posterior.mean, near[0], near[1]):
        close(model.log_joint(x, z) - posterior.log_prob(z), model.log_likelihood(x), rtol=1e-9, atol=1e-9)
    x = struck_out(x, share, generator)  # and where entries are missing, with the density of those observed
    z = model.posterior(x).rsample(1, generator=generator)[0]
    seen = ~x.isnan()
    terms = -0.5 * ((x - model.decoder(z)).nan_to_num() ** 2 / model.noise_var_ + math.log(2 * math.pi) + log_noise)
    joint = model.log_prior(z) + (terms * seen).sum(-1)
    close(joint - model.posterior(x).log_prob(z), model.log_likelihood(x), rtol=1e-9, atol=1e-9)


def test_of_nothing_observed(generator):
    model = random_model(generator, 4, 2)
    x = torch.full((3, 4), NAN, dtype=torch.float64)
    x[1, 2] = 1.0
    close(model.log_likelihood(x)[[0, 2]], torch.zeros(2).double(), atol=1e-14, rtol=0)
    close(model.posterior(x).mean[0], torch.zeros(2).double())
    close(model.posterior(x).cov[0], torch.eye(2).double())
    close(model.impute(x)[0], model.mean_)


def test_samples_have_the_moments_of_the_model(generator):
    model = random_model(generator, 3, 2)
    n = 200_000
    x, z = model.sample(n, generator=generator)
    assert (x.shape, z.shape) == ((n, 3), (n, 2))
    close(x.T.cov(), model.covariance(), atol=0.05, rtol=0)
    close(x.mean(0), model.mean_, atol=0.03, rtol=0)
    close(torch.cat((z, x), 1).T.cov()[2:, :2], model.W_, atol=0.03, rtol=0)
    close((x - model.decoder(z)).var(0), model.noise_var_.expand(3), atol=0.01, rtol=0)
    # Of the log-density the mean is minus the entropy.
    log_p = model.log_likelihood(x)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * model.covariance())
    assert log_p.mean().item() == pytest.approx(-entropy.item(), abs=4 * log_p.std().item() / n**0.5)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_gradients(generator, share):
    W, mean, noise_var = parameters(generator, 4, 2)
    x = struck_out(randn(generator, 3, 4), share, generator)
    seen = ~x.isnan()

    def values(W, mean, noise_var, observed):
        model = ProbabilisticPCA.from_parameters(W, mean, noise_var)
        x = torch.full(seen.shape, NAN, dtype=torch.float64).masked_scatter(seen, observed)
        return model.log_likelihood(x), model.posterior(x).mean, model.posterior(x).cov

    assert gradcheck(values, [t.clone().requires_grad_() for t in (W, mean, noise_var, x[seen])])


# The maximum of the likelihood


def stationary(model, x):
    """The largest slope of the mean log-likelihood, from densities of torch.distributions for the observed entries."""
    inputs = [t.clone().requires_grad_() for t in (model.W_, model.mean_, model.noise_var_)]
    W, mean, noise_var = inputs
    C = W @ W.T + noise_var * torch.eye(len(W), dtype=W.dtype)
    total = 0
    for row in x:
        seen = (~row.isnan()).nonzero()[:, 0]
        total = total + torch.distributions.MultivariateNormal(mean[seen], C[seen][:, seen]).log_prob(row[seen])
    return max(g.abs().max().item() for g in torch.autograd.grad(total / len(x), inputs))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_closed_form_is_a_maximum(generator, m):
    x = load_iris().x
    model = ProbabilisticPCA(m).fit(x)
    assert stationary(model, x[:40]) > 1e-2  # it is the maximum for all data, not for some
    assert stationary(model, x) < 1e-10
    best = model.log_likelihood(x).mean()
    for scale in (1e-3, 1e-1):
        for _ in range(10):
            moved = ProbabilisticPCA.from_parameters(
                model.W_ + scale * randn(generator, 4, m),
                model.mean_ + scale * randn(generator, 4),
                model.noise_var_ * (scale * randn(generator)).exp(),
            )
            assert moved.log_likelihood(x).mean() < best


def test_the_parameters_are_those_of_the_eigenvalues(generator):
    x = randn(generator, 40, 5) @ randn(generator, 5, 5) + 3
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    model = ProbabilisticPCA(2).fit(x)
    assert model.noise_var_.item() == pytest.approx(values[2:].mean(), rel=1e-12)
    close(model.mean_, x.mean(0))
    expected = vectors[:, :2] * np.sqrt(values[:2] - values[2:].mean())
    largest = np.abs(expected).argmax(0)
    expected = expected * np.sign(expected[largest, [0, 1]])
    np.testing.assert_allclose(model.W_, expected, atol=1e-12)
    nats = -0.5 * (5 * math.log(2 * math.pi) + np.log(values[:2]).sum() + 3 * math.log(values[2:].mean()) + 5)
    assert model.history_.item() == pytest.approx(nats, rel=1e-13)


@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-8, 1.0, 1e8]), offset=st.sampled_from([0.0, 1e3]))
@settings(max_examples=30, deadline=None)
def test_the_fit_follows_its_data(seed, scale, offset):
    """Signs do not depend on the order or sign of the data; scales and offsets pass through."""
    generator = seeded(seed)
    x = randn(generator, 12, 4) * torch.tensor([1.0, 2.0, 4.0, 8.0])
    model = ProbabilisticPCA(2).fit(x)
    assert all(column[column.abs().argmax()] > 0 for column in model.W_.T)
    for other in (x[torch.randperm(12, generator=generator)], -x):
        close(ProbabilisticPCA(2).fit(other).W_, model.W_, rtol=1e-9, atol=1e-9)
    moved = ProbabilisticPCA(2).fit(scale * (x + offset))
    close(moved.W_, scale * model.W_, rtol=1e-9, atol=1e-9 * scale)
    close(moved.noise_var_, scale**2 * model.noise_var_, rtol=1e-9, atol=0)
    close(
        moved.log_likelihood(scale * (x + offset)), model.log_likelihood(x) - 4 * math.log(scale), rtol=1e-9, atol=1e-8
    )


def test_more_dimensions_than_data(generator):
    x = randn(generator, 8, 30)
    model = ProbabilisticPCA(3).fit(x)
    by_em = ProbabilisticPCA(3).fit_em(x, generator=generator, n_iter=20_000, tol=1e-13)
    assert by_em.history_[-1].item() == pytest.approx(model.history_.item(), abs=1e-8)
    with pytest.raises(ValueError, match="n_components is 7, but the 8 centred data have rank 7"):
        ProbabilisticPCA(7).fit(x)


def test_the_digits_have_rank_61():
    x = load_digits().x
    assert ProbabilisticPCA(60).fit(x).noise_var_ > 0
    for k in (61, 64):
        for fit in (ProbabilisticPCA(k).fit, ProbabilisticPCA(k).fit_em):
            with pytest.raises(ValueError, match=f"n_components is {k}, but the 1797 centred data have rank 61"):
                fit(x)


# EM


def same_model(found, expected, atol):
    close(found.covariance(), expected.covariance(), atol=atol, rtol=0)
    close(found.mean_, expected.mean_, atol=atol, rtol=0)
    close(found.noise_var_, expected.noise_var_, atol=atol, rtol=0)


@pytest.mark.parametrize(("load", "m"), [(load_iris, 1), (load_iris, 2), (load_iris, 3), (load_digits, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_em_climbs_to_the_closed_form(load, m, seed):
    x = load().x
    best = ProbabilisticPCA(m).fit(x)
    model = ProbabilisticPCA(m).fit_em(x, n_iter=5000, tol=1e-13, generator=seeded(seed))
    assert model.converged_
    assert model.history_.diff().min() > -1e-12
    assert model.history_[0] < best.history_ - 0.01
    assert model.history_[-1].item() == pytest.approx(best.history_.item(), abs=1e-10)
    assert subspace_angles(model.W_, best.W_).max() < 1e-5
    same_model(model, best, atol=5e-5)
    # W is found up to a rotation of z: here the singular values tell.
    close(torch.linalg.svdvals(model.W_), torch.linalg.svdvals(best.W_), atol=1e-5, rtol=0)
    assert m == 1 or not torch.allclose(model.W_, best.W_, atol=1e-2)


def slow_em_step(x, W, mean, noise_var):
    """One step of EM from its definition: a loop over the data, then one regression for each column."""
    N, d = x.shape
    m = W.shape[1]
    seen = ~np.isnan(x)
    first, second = np.zeros((N, m)), np.zeros((N, m, m))
    for i in range(N):
        Wo = W[seen[i]]
        C = Wo @ Wo.T + noise_var * np.eye(len(Wo))
        gain = Wo.T @ np.linalg.inv(C)
        first[i] = gain @ (x[i] - mean)[seen[i]]
        second[i] = np.eye(m) - gain @ Wo + np.outer(first[i], first[i])
    new_W, new_mean, total = np.zeros((d, m)), np.zeros(d), 0.0
    for j in range(d):
        rows = seen[:, j]
        moments = np.zeros((m + 1, m + 1))
        moments[:m, :m], moments[m, m] = second[rows].sum(0), rows.sum()
        moments[:m, m] = moments[m, :m] = first[rows].sum(0)
        right = np.append(first[rows].T @ x[rows, j], x[rows, j].sum())
        solution = np.linalg.solve(moments, right)
        new_W[j], new_mean[j] = solution[:m], solution[m]
        # E (x - w z - mean)^2, written out
        total += (x[rows, j] ** 2).sum() - 2 * solution @ right + solution @ moments @ solution
    return new_W, new_mean, total / seen.sum()


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("m", [1, 2])
def test_a_step_of_em_is_its_definition(share, m):
    x = struck_out(load_iris().x[::4], share, seeded(0))
    for n in (1, 5):
        before = ProbabilisticPCA(m).fit_em(x, n_iter=n, tol=0.0, generator=seeded(3))
        after = ProbabilisticPCA(m).fit_em(x, n_iter=n + 1, tol=0.0, generator=seeded(3))
        W, mean, noise_var = slow_em_step(x.numpy(), before.W_.numpy(), before.mean_.numpy(), before.noise_var_.item())
        np.testing.assert_allclose(after.W_, W, atol=1e-11)
        np.testing.assert_allclose(after.mean_, mean, atol=1e-11)
        assert after.noise_var_.item() == pytest.approx(noise_var, rel=1e-10)
        assert torch.equal(after.history_[:n], before.history_)
        assert after.history_[n].item() == pytest.approx(after.log_likelihood(x).mean().item(), rel=1e-12)


@pytest.mark.parametrize(("share", "m"), [(0.1, 1), (0.4, 1), (0.2, 2)])
def test_em_with_missing_values_ends_in_a_maximum(generator, share, m):
    x = struck_out(load_iris().x, share, generator)
    model = ProbabilisticPCA(m).fit_em(x, n_iter=20_000, tol=1e-14, generator=generator)
    assert model.history_.diff().min() > -1e-12
    assert stationary(model, x) < 2e-4
    best = model.log_likelihood(x).mean()
    for _ in range(10):
        moved = ProbabilisticPCA.from_parameters(
            model.W_ + 0.01 * randn(generator, 4, m), model.mean_, model.noise_var_ * 1.01
        )
        assert moved.log_likelihood(x).mean() < best


def test_patterns_are_as_good_as_rows(generator):
    """Many rows with few patterns, few with many, and chunks of every size give the same."""
    from course_lib import _linear_gaussian

    x = struck_out(load_digits().x[:80], 0.3, generator)
    x[40:] = torch.where(x[0].isnan(), NAN, load_digits().x[40:80])
    expected = ProbabilisticPCA(3).fit_em(x, n_iter=4, generator=seeded(0))
    slow = slow_em_step(
        x.numpy(),
        *(t.numpy() for t in (expected.W_, expected.mean_, expected.noise_var_)),
    )
    after = ProbabilisticPCA(3).fit_em(x, n_iter=5, generator=seeded(0))
    np.testing.assert_allclose(after.W_, slow[0], atol=1e-10)
    size = _linear_gaussian.CHUNK
    try:
        for _linear_gaussian.CHUNK in (1, 1000):
            found = ProbabilisticPCA(3).fit_em(x, n_iter=4, generator=seeded(0))
            same_model(found, expected, atol=1e-12)
            close(found.posterior(x).cov, expected.posterior(x).cov)
    finally:
        _linear_gaussian.CHUNK = size


def test_imputation_beats_the_mean(generator):
    """Half the pixels of digits struck out; and measurements of iris."""
    for x, m, share, factor in ((load_digits().x[:600], 8, 0.5, 0.7), (load_iris().x, 2, 0.25, 0.6)):
        holes = struck_out(x, share, generator)
        model = ProbabilisticPCA(m).fit_em(holes, n_iter=60, generator=generator)
        filled = model.impute(holes)
        missing = holes.isnan()
        assert torch.equal(filled[~missing], x[~missing])
        error = (filled - x)[missing].square().mean()
        of_mean = (holes.nanmean(0) - x)[missing].square().mean()
        assert error < factor * of_mean


def test_an_offset_costs_em_no_digits(generator):
    x = struck_out(load_iris().x, 0.2, generator)
    model = ProbabilisticPCA(2).fit_em(x, n_iter=50, generator=seeded(0))
    moved = ProbabilisticPCA(2).fit_em(x + 1e6, n_iter=50, generator=seeded(0))
    close(moved.W_, model.W_, atol=1e-7, rtol=0)
    close(moved.history_, model.history_, atol=1e-7, rtol=0)


def test_em_stops_where_it_is_told(generator):
    x = load_iris().x
    short = ProbabilisticPCA(2).fit_em(x, n_iter=3, generator=seeded(0))
    assert (short.converged_, len(short.history_)) == (False, 3)
    long = ProbabilisticPCA(2).fit_em(x, tol=1e-3, generator=seeded(0))
    assert long.converged_
    assert long.history_[-1] - long.history_[-2] < 1e-3 <= long.history_[-2] - long.history_[-3]
    assert torch.equal(short.history_, long.history_[:3])
    assert not torch.equal(ProbabilisticPCA(2).fit_em(x, n_iter=3, generator=seeded(1)).history_, short.history_)


def test_em_refuses_a_likelihood_without_a_maximum(generator):
    """Data on a line, with holes: the noise variance of two components falls to zero."""
    x = randn(generator, 30, 1) @ randn(generator, 1, 4)
    x = struck_out(x, 0.1, generator)
    with pytest.raises(ValueError, match=r"the noise variance fell to .* the observed entries has no maximum"):
        ProbabilisticPCA(2).fit_em(x, generator=generator)


# Types and devices


def test_float32_follows_its_inputs(device, generator):
    x = load_digits().x.float()
    on_device = x.to(device)
    expected = ProbabilisticPCA(8).fit(x.double())
    model = ProbabilisticPCA(8).fit(on_device)
    by_em = ProbabilisticPCA(8).fit_em(on_device, n_iter=3, generator=torch.Generator(device).manual_seed(0))
    posterior = model.posterior(on_device)
    results = (
        model.W_,
        model.mean_,
        model.noise_var_,
        posterior.mean,
        posterior.tril,
        by_em.W_,
        model.impute(on_device),
    )
    results += (model.log_likelihood(on_device), *model.sample(3, generator=torch.Generator(device)), model.noise_sd)
    assert {(t.dtype, t.device.type) for t in results} == {(torch.float32, device.type)}
    close(model.W_.cpu().double(), expected.W_, atol=1e-6, rtol=0)
    close(model.log_likelihood(on_device).cpu().double(), expected.log_likelihood(x.double()), atol=2e-4, rtol=1e-5)


def test_device_mistakes_are_caught_without_a_gpu():
    with FakeTensorMode():
        x = torch.randn(5, 4, device="cuda")
        for model in (
            ProbabilisticPCA(2).fit(x),
            ProbabilisticPCA(2).fit_em(x, n_iter=2),
            ProbabilisticPCA.from_parameters(torch.randn(4, 2, device="cuda"), torch.randn(4, device="cuda"), 0.1),
        ):
            posterior = model.posterior(x)
            results = (model.W_, model.noise_var_, model.log_likelihood(x), posterior.mean, posterior.tril)
            results += (model.transform(x), model.impute(x), *model.sample(3), model.covariance())
            assert {result.device.type for result in results} == {"cuda"}
        with pytest.raises(ValueError, match="x is on cpu but W_ is on cuda"):
            unchecked(ProbabilisticPCA.log_likelihood)(model, torch.randn(5, 4))
        with pytest.raises(ValueError, match="generator is on cpu and x on cuda"):
            ProbabilisticPCA(2).fit_em(x, generator=torch.Generator())


def test_inputs_are_left_alone(generator):
    x = struck_out(load_iris().x, 0.2, generator)
    before = x.clone()
    model = ProbabilisticPCA(2).fit_em(x, n_iter=2, generator=generator)
    for call in (model.log_likelihood, model.posterior, model.transform, model.impute):
        call(x)
    assert torch.equal(x.nan_to_num(7.0), before.nan_to_num(7.0))


# Bad input

x = randn(seeded(0), 6, 4)
W, mean = x[:4, :2], x[0]
model = ProbabilisticPCA.from_parameters(W, mean, 0.5)
BAD = ValueError


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def fit(x, m=2, method="fit", **arguments):
    return lambda: unchecked(getattr(ProbabilisticPCA, method))(ProbabilisticPCA(m), x, **arguments)


def em(x, m=2, **arguments):
    return fit(x, m, "fit_em", **arguments)


def given_parameters(W=W, mean=mean, noise_var=0.5):
    return lambda: unchecked(ProbabilisticPCA.from_parameters.__func__)(ProbabilisticPCA, W, mean, noise_var)


def of(method, x, model=model):
    return lambda: unchecked(getattr(ProbabilisticPCA, method))(model, x)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: unchecked(ProbabilisticPCA.__init__)(object.__new__(ProbabilisticPCA), 2.0), TypeError, "is a float"),
        (lambda: ProbabilisticPCA(0), BAD, "n_components is 0: it must be 1 or more"),
        (lambda: ProbabilisticPCA(True), TypeError, "n_components is a bool"),
        (fit([[0.0]]), TypeError, "x is a list: give a torch.Tensor"),
        (fit(x.long()), TypeError, "x has dtype torch.int64: give float32 or float64"),
        (fit(x[0]), BAD, "x has shape (4,): give at least 2 data in rows, (N, d)"),
        (fit(x[:1]), BAD, "x has shape (1, 4): give at least 2"),
        (fit(x[:, :0]), BAD, "x has shape (6, 0)"),
        (fit(replaced(x, (3, 1), NAN)), BAD, "x[3, 1] is nan: use fit_em, which treats NaN as a missing value"),
        (fit(replaced(x, (3, 1), -math.inf)), BAD, "x[3, 1] is -inf: every entry must be finite"),
        (fit(x, 4), BAD, "n_components is 4 and the data have d = 4 dimensions: that leaves no direction"),
        (fit(x, 9), BAD, "n_components is 9 and the data have d = 4"),
        (fit(x[:3], 2), BAD, "n_components is 2, but the 3 centred data have rank 2 (in 4 dimensions): the likelihood"),
        (fit(x[:1].repeat(5, 1) + 0.1, 1), BAD, "n_components is 1, but the 5 centred data have rank 0"),
        (em(x[:1].repeat(5, 1) + 0.1, 1), BAD, "in each column of x all observed entries are equal: there is nothing"),
        (em(x[:3], 2), BAD, "n_components is 2, but the 3 centred data have rank 2"),
        (em(replaced(x, (0, 0), NAN), 4), BAD, "n_components is 4 and the data have d = 4"),
        (em(replaced(x, (2, 1), math.inf)), BAD, "x[2, 1] is inf"),
        (em(replaced(replaced(x, (0, 0), NAN), (2, 1), math.inf)), BAD, "x[2, 1] is inf"),
        (em(replaced(x, 2, NAN)), BAD, "row 2 of x has no observed entry: leave it out"),
        (em(replaced(x, (slice(None), 3), NAN)), BAD, "column 3 of x has no observed entry: leave it out"),
        (em(x, n_iter=0), BAD, "n_iter is 0: give at least one step"),
        (em(x[:, 0]), BAD, "x has shape (6,)"),
        (given_parameters(W=[1.0]), TypeError, "W is a list"),
        (given_parameters(W=W[:, 0]), BAD, "W has shape (4,) and mean (4,): give W (d, m) and mean (d)"),
        (given_parameters(mean=mean[:3]), BAD, "W has shape (4, 2) and mean (3,)"),
        (given_parameters(mean=mean.float()), TypeError, "mean is torch.float32 but W is torch.float64"),
        (given_parameters(W=W * NAN), BAD, "W[0, 0] is nan"),
        (given_parameters(mean=replaced(mean, 1, math.inf)), BAD, "mean[1] is inf"),
        (given_parameters(noise_var=0.0), BAD, "noise_var is 0.0: it must be positive and finite"),
        (given_parameters(noise_var=-1), BAD, "noise_var is -1.0"),
        (given_parameters(noise_var=torch.tensor(NAN).double()), BAD, "noise_var is nan"),
        (given_parameters(noise_var=torch.ones(2).double()), BAD, "noise_var has shape (2,): give one number"),
        (given_parameters(noise_var=torch.tensor(1.0)), TypeError, "noise_var is torch.float32 but W is torch.float64"),
        (of("log_likelihood", x[:, :3]), BAD, "x has shape (6, 3): its last dimension must be d = 4"),
        (of("posterior", x.float()), TypeError, "x is torch.float32 but W_ is torch.float64: convert"),
        (of("transform", replaced(x, (5, 0), math.inf)), BAD, "x[5, 0] is inf"),
        (of("impute", replaced(replaced(x, (0, 0), NAN), (5, 0), -math.inf)), BAD, "x[5, 0] is -inf"),
        (of("transform", [0.0]), TypeError, "x is a list"),
        (of("log_likelihood", x[0, 0]), BAD, "x has shape ()"),
        (of("log_likelihood", x, ProbabilisticPCA(2)), BAD, "the model has no parameters yet: call fit, fit_em"),
        (of("decoder", x[:, :2], ProbabilisticPCA(2)), BAD, "the model has no parameters yet"),
        (ProbabilisticPCA(2).covariance, BAD, "the model has no parameters yet"),
        (lambda: ProbabilisticPCA(2).sample(1), BAD, "the model has no parameters yet"),
        (fit(1e-30 * x.float()), BAD, "the noise variance"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(call, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)) as refused:
        call()
    assert ": " in str(refused.value)
