"""What the sources print on PCA and autoencoders, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import numpy as np
import pytest
import torch

from course_lib.autoencoders import DenoisingAutoencoder, LinearAutoencoder, StackedAutoencoder, denoising_loss
from course_lib.training import fit

n, m = 5, 2


@pytest.fixture
def X():
    """Forty centred data with the standard deviations 3, 2, 1, 0.5, 0.2 along axes at random."""
    rng = np.random.default_rng(0)
    raw = np.linalg.qr(rng.normal(size=(40, n)))[0]
    raw = np.linalg.qr(raw - raw.mean(0))[0] * 40**0.5
    return raw * [3, 2, 1, 0.5, 0.2] @ np.linalg.qr(rng.normal(size=(n, n)))[0]


def directions(X):
    """All unit eigenvectors of X'X, as columns, the largest eigenvalue first."""
    return np.linalg.eigh(X.T @ X)[1][:, ::-1]


def kept(X, P):
    return np.sum((X @ P) ** 2)


def residual(X, P):
    return np.sum((X - X @ P @ P.T) ** 2)


def test_the_constraint_has_the_size_of_the_code(X):
    P = directions(X)[:, :m]
    np.testing.assert_allclose(P.T @ P, np.eye(m), atol=1e-12)
    assert (P.T @ P).shape != np.eye(n).shape
    assert np.linalg.norm(P @ P.T - np.eye(n)) == pytest.approx((n - m) ** 0.5)  # of rank m: never the identity


def test_coordinates_are_no_projection(X):
    P = directions(X)[:, :m]
    coordinates, projection = P.T @ X[0], P @ P.T @ X[0]
    assert coordinates.shape == (m,)
    assert projection.shape == X[0].shape
    np.testing.assert_allclose(P.T @ (X[0] - projection), 0, atol=1e-12)
    projector = P @ P.T
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-12)


def test_the_inertia_is_maximised(X):
    first, last = directions(X)[:, :m], directions(X)[:, -m:]
    assert kept(X, first) > kept(X, last)
    assert residual(X, first) < residual(X, last)
    rng = np.random.default_rng(1)
    for _ in range(50):
        P = np.linalg.qr(rng.normal(size=(n, m)))[0]
        assert kept(X, last) <= kept(X, P) <= kept(X, first)


def test_what_centring_is_for():
    rng = np.random.default_rng(2)
    cloud = np.array([10.0, 0.0]) + rng.normal(size=(500, 2)) * [0.5, 2.0]
    P = np.linalg.qr(rng.normal(size=(2, 1)))[0]
    assert kept(cloud, P) + residual(cloud, P) == pytest.approx(np.sum(cloud**2))  # not centred, and one problem
    raw, centred = directions(cloud)[:, 0], directions(cloud - cloud.mean(0))[:, 0]
    assert abs(raw @ [1, 0]) > 0.99  # the mean
    assert abs(centred @ [0, 1]) > 0.99  # the largest variance


def test_the_best_matrix_is_not_unique(X):
    P = directions(X)[:, :m]
    V = np.linalg.qr(np.random.default_rng(3).normal(size=(m, m)))[0]
    assert kept(X, P @ V) == pytest.approx(kept(X, P))
    assert np.abs(P @ V - P).max() > 0.1
    np.testing.assert_allclose(P @ V @ V.T @ P.T, P @ P.T, atol=1e-12)  # the projection is the same


def test_encoder_and_decoder_are_functions(X):
    """As matrices P' and P do not have the shapes of e(x) and d(z); as functions they do what is meant."""
    P = directions(X)[:, :m]

    def e(x):
        return P.T @ x

    def d(z):
        return P @ z

    assert e(X[0]).shape == (m,) != P.T.shape
    np.testing.assert_allclose(d(e(X[0])), P @ P.T @ X[0])


def test_encoder_and_decoder_are_no_transposes(X):
    P, x = directions(X)[:, :m], torch.tensor(X / 3)
    model = LinearAutoencoder(n, m, bias=False, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(model, x):
        return (x - model(x)).square().sum(1).mean()

    fit(model, (x,), loss, n_epochs=500, batch_size=40, lr=0.1, optimiser="momentum", progress=False)
    W_e, W_d = (W.detach().numpy() for W in (model.W_e, model.W_d))
    assert np.sum((X - X @ (W_d @ W_e).T) ** 2) == pytest.approx(residual(X, P), rel=1e-3)  # as good as PCA ...
    assert np.abs(W_d.T @ W_d - np.eye(m)).max() > 0.1  # ... and not orthogonal
    assert np.abs(W_e - W_d.T).max() > 0.1  # ... and not transposes
    np.testing.assert_allclose(W_e @ W_d, np.eye(m), atol=1e-3)
    # without biases, data with a mean that is not in the subspace are restored worse than by PCA
    shifted = X + 5 * directions(X)[:, -1]
    assert residual(shifted, P) > 2 * residual(X, P)


def test_the_codes_are_those_of_the_data(X):
    """One code for each datum; a Gaussian of the same mean and covariance is another distribution."""
    two_groups = np.where(np.arange(40)[:, None] < 20, 1.0, -1.0) * directions(X)[:, 0] * 3 + 0.01 * X
    codes = two_groups @ directions(two_groups)[:, :1]
    assert len(codes) == len(X)
    drawn = codes.mean() + codes.std() * np.random.default_rng(4).normal(size=1000)
    assert np.abs(codes).min() > 2.5
    assert np.mean(np.abs(drawn) < 2.5) > 0.5  # where there is no code at all


def test_a_stack_has_a_cost_for_each_level(X):
    """The cost of the whole is another number than the costs of the levels, and trains other weights."""
    x = torch.tensor(X)
    whole, by_level = (
        StackedAutoencoder((n, 3, m), generator=torch.Generator().manual_seed(0), dtype=torch.float64) for _ in "ab"
    )

    def cost(model, x):
        return (x - model(x)).square().sum(1).mean()

    options = {"batch_size": 40, "lr": 0.01}
    start = cost(whole, x).item()
    histories = by_level.pretrain(x, 1, **options)
    together = fit(whole, (x,), cost, n_epochs=1, progress=False, **options)
    assert together.loss[0] == pytest.approx(start)
    assert all(abs(history.loss[0] - start) > 0.1 for history in histories)
    assert not torch.allclose(whole.encoder.weights[1], by_level.encoder.weights[1])


def test_fresh_noise_is_an_expectation():
    """Two data: with one noisy copy of each, a linear map restores them without error; on average over the noise the
    best one does not."""
    model = DenoisingAutoencoder(2, 2, (), level=1.0, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.tensor([[1.0, 0.2], [-0.5, 1.0]], dtype=torch.float64)
    once = model.corrupt(x, torch.Generator().manual_seed(1))
    W = torch.linalg.solve(once, x).T  # maps each noisy copy to its datum
    with torch.no_grad():
        for layer, value in ((model.encoder, W), (model.decoder, torch.eye(2))):
            layer.weights[0].copy_(value)
    assert (x - model(once)).abs().max() < 1e-12
    draws = [denoising_loss(model, x, torch.Generator().manual_seed(seed)).item() for seed in range(200)]
    second = x.T @ x / 2
    best = torch.trace(second @ torch.linalg.inv(second + torch.eye(2)))
    assert np.mean(draws) > 1.1 * best
