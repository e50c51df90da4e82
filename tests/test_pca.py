"""PCA against scikit-learn, and on data whose principal axes are known; principal angles against SciPy.

Tests of wrong shapes call the function without its shape annotations (`unchecked`): conftest.py has jaxtyping check
them, so it would speak first, whereas a user, who runs without that hook, sees the function's own sentence.
"""

import inspect
import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import decomposition
from torch._subclasses import FakeTensorMode

from benchmarks import pca as benchmark
from course_lib import pca as module
from course_lib.data import load_digits, load_iris
from course_lib.pca import PCA, principal_angles

unchecked = inspect.unwrap
close = torch.testing.assert_close
ATTRIBUTES = ("mean_", "components_", "explained_variance_", "explained_variance_ratio_", "singular_values_")
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


# Some tests make their generator themselves: the planted faults run them without the fixtures of conftest.py.


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def orthonormal(generator, d, k):
    return torch.linalg.qr(randn(generator, d, k)).Q


def with_singular_values(generator, n, d, values, mean=0.0):
    """Centred data with these singular values, its principal axes in rows, then shifted."""
    values = torch.as_tensor(values, dtype=torch.float64)
    k = len(values)
    left = randn(generator, n, k)
    left = torch.linalg.qr(left - left.mean(0)).Q  # orthogonal to the ones, so that the data are centred
    axes = orthonormal(generator, d, k).T
    return (left * values) @ axes + mean, axes


def oracle(x, m):
    """scikit-learn by the singular value decomposition of the centred data, in float64."""
    return decomposition.PCA(m, svd_solver="full").fit(x.detach().cpu().double().numpy())


def largest_angle(pca, axes):
    """Between the span of the components and that of the given rows."""
    return principal_angles(pca.components_.double().T, axes.double().T)[-1].item()


def agree(pca, expected, **tolerance):
    for name in ATTRIBUTES:
        theirs = torch.from_numpy(np.ascontiguousarray(getattr(expected, name)))
        close(getattr(pca, name).cpu().double(), theirs, **tolerance, msg=lambda text: f"{name}: {text}")  # noqa: B023
    assert pca.n_components_ == expected.n_components_


# --- PCA against scikit-learn ---


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(2, 40), d=st.integers(1, 40), m=st.integers(1, 40), seed=st.integers(0, 1000),
    mean=st.sampled_from([0.0, 1.0, -100.0]), scale=st.sampled_from([1.0, 1e-6, 1e6]),
)  # fmt: skip
def test_equals_scikit_learn(n, d, m, seed, mean, scale):
    """Variances in geometric steps, so that the axes are apart; tall and wide, and all numbers of components."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(n - 1, d)
    m = min(m, rank)
    x, axes = with_singular_values(generator, n, d, 1.3 ** -torch.arange(rank, dtype=torch.float64))
    x = scale * (x + mean)
    pca, expected = PCA(m).fit(x), oracle(x, m)
    close(scale**-1 * pca.mean_, torch.from_numpy(expected.mean_) / scale, rtol=1e-12, atol=1e-13)
    close(pca.components_, torch.from_numpy(expected.components_), rtol=0, atol=1e-6 * max(1, abs(mean)))
    assert largest_angle(pca, axes[:m]) < 1e-7 * max(1, abs(mean))
    for name in ATTRIBUTES[2:]:
        close(getattr(pca, name), torch.from_numpy(getattr(expected, name)), rtol=1e-9 * max(1, abs(mean)), atol=0)
    z = pca.transform(x)
    close(z / scale, torch.from_numpy(expected.transform(x.numpy())) / scale, rtol=0, atol=1e-6 * max(1, abs(mean)))
    rebuilt = torch.from_numpy(expected.inverse_transform(z.numpy()))
    close(pca.inverse_transform(z) / scale, rebuilt / scale, rtol=0, atol=1e-6 * max(1, abs(mean)))


@pytest.mark.parametrize("m", [1, 10, 30, 61])
def test_equals_scikit_learn_on_the_digits(m):
    x = load_digits().x
    agree(PCA(m).fit(x), oracle(x, m), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("m", [1, 10, 30])
def test_equals_scikit_learn_on_the_digits_in_float32(m):
    x = load_digits(dtype=torch.float32).x
    pca = PCA(m).fit(x)
    agree(pca, oracle(x, m), rtol=2e-5, atol=2e-5)
    assert {getattr(pca, name).dtype for name in ATTRIBUTES} == {torch.float32}


@each_dtype
def test_equals_scikit_learn_on_iris(dtype):
    x = load_iris(dtype=dtype).x
    agree(PCA(4).fit(x), oracle(x, 4), rtol=1e-9 if dtype is torch.float64 else 1e-4, atol=1e-5)


@pytest.mark.parametrize(("m", "figure"), [(2, "0.05243"), (8, "0.02391"), (16, "0.01104")])
@each_dtype
def test_reconstruction_error_of_the_digits(m, figure, dtype):
    x = load_digits(dtype=dtype).x
    pca = PCA(m).fit(x)
    assert f"{pca.reconstruction_error(x).item():.5f}" == figure
    assert pca.reconstruction_error(x).dtype == dtype


# --- known answers ---


def test_an_ellipse_on_the_axes():
    x = torch.tensor([[0.0, 1.0], [4.0, 1.0], [2.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    pca = PCA(2).fit(x)
    assert pca.mean_.tolist() == [2, 1]
    close(pca.components_, torch.eye(2, dtype=torch.float64))
    close(pca.explained_variance_, torch.tensor([8.0, 2.0], dtype=torch.float64) / 3)
    close(pca.explained_variance_ratio_, torch.tensor([0.8, 0.2], dtype=torch.float64))
    close(pca.singular_values_, torch.tensor([8.0, 2.0], dtype=torch.float64).sqrt())
    assert pca.n_components_ == 2


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50), (20, 20), (5000, 8)])
def test_the_axes_that_the_data_were_made_with(n, d, dtype, generator):
    values = 2.0 ** -torch.arange(7, dtype=torch.float64)
    x, axes = with_singular_values(generator, n, d, values, mean=3.0)
    pca, tolerance = PCA(5).fit(x.to(dtype)), 1e-12 if dtype is torch.float64 else 2e-5
    assert largest_angle(pca, axes[:5]) < tolerance
    close(pca.singular_values_.double(), values[:5], rtol=tolerance, atol=0)
    gram = pca.components_.double() @ pca.components_.double().T
    close(gram, torch.eye(5).double(), rtol=0, atol=1e-12 if dtype is torch.float64 else 1e-6)
    signs = (pca.components_.double() * axes[:5]).sum(1).sign()[:, None]
    close(pca.components_.double(), signs * axes[:5], rtol=0, atol=10 * tolerance)


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(60, 9), (9, 60), (60, 60)])
def test_rebuilt_data_and_their_error(n, d, dtype):
    """The error is what the variances left out say: the sum of the other squared singular values over N d."""
    generator = torch.Generator().manual_seed(0)
    values = 1.5 ** -torch.arange(8, dtype=torch.float64)
    x, _ = with_singular_values(generator, n, d, values, mean=1.0)
    x = x.to(dtype)
    for m in (1, 4, 7):
        pca = PCA(m)
        z = pca.fit_transform(x)
        assert z.mean(0).abs().max().item() == pytest.approx(0, abs=1e-6)
        close(z, pca.transform(x), rtol=0, atol=0)
        rebuilt = pca.inverse_transform(z)
        expected = values[m:].square().sum().to(dtype) / (n * d)
        tolerance = 1e-9 if dtype is torch.float64 else 1e-3
        close(pca.reconstruction_error(x), expected, rtol=tolerance, atol=0)
        close((x - rebuilt).square().mean(), expected, rtol=tolerance, atol=1e-11)
        close(z.var(0), pca.explained_variance_, rtol=1e-5, atol=0)


def test_all_components_lose_nothing(generator):
    x = randn(generator, 30, 6) + 5
    pca = PCA(6).fit(x)
    close(pca.inverse_transform(pca.transform(x)), x, rtol=0, atol=1e-12)
    assert pca.reconstruction_error(x).item() < 1e-25
    assert pca.explained_variance_ratio_.sum().item() == pytest.approx(1, rel=1e-12)


def test_other_data_are_coded_from_the_mean_of_fit(generator):
    x, new = randn(generator, 40, 5), randn(generator, 7, 5) + 10
    pca, expected = PCA(2).fit(x), oracle(x, 2)
    close(pca.transform(new), torch.from_numpy(expected.transform(new.numpy())))
    projected = (new - x.mean(0)) @ pca.components_.T @ pca.components_
    close(pca.reconstruction_error(new), (new - x.mean(0) - projected).square().mean())
    assert pca.transform(new[:0]).shape == (0, 2)


def test_moving_the_data_moves_the_mean_alone():
    """PCA without its centring fails here: the first axis would point to the mean."""
    generator = torch.Generator().manual_seed(0)
    x, axes = with_singular_values(generator, 200, 6, [5.0, 4.0, 3.0])
    for shift in (0.0, 10.0, 1e3):
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
            pca = PCA(3).fit((x + shift).to(dtype))
            assert largest_angle(pca, axes) == pytest.approx(0, abs=tolerance)
            close(pca.singular_values_.double(), torch.tensor([5.0, 4.0, 3.0]).double(), rtol=tolerance, atol=0)
            close(pca.mean_.double(), torch.full((6,), shift).double(), rtol=1e-6, atol=1e-6)


def test_scaling_the_data_scales_the_deviations(generator):
    x = randn(generator, 50, 4) * torch.tensor([4.0, 3.0, 2.0, 1.0])
    pca = PCA(2).fit(x)
    for scale in (1e-100, 1e-5, 1e5, 1e100):
        scaled = PCA(2).fit(scale * x)
        close(scaled.components_, pca.components_, rtol=0, atol=1e-12)
        close(scaled.singular_values_, scale * pca.singular_values_)
        close(scaled.explained_variance_ratio_, pca.explained_variance_ratio_)


@pytest.mark.parametrize("scale", [1e-25, 1e-22, 1e-15, 1e15])
def test_scales_near_the_ends_of_float32(scale, generator):
    """Squares would leave the range of float32, or fall to zero; variances are what they are."""
    x = (randn(generator, 500, 4) * torch.tensor([4.0, 3.0, 2.0, 1.0])).float()
    pca, scaled = PCA(2).fit(x), PCA(2).fit(scale * x)
    close(scaled.components_, pca.components_, rtol=0, atol=1e-5)
    close(scaled.singular_values_ / scale, pca.singular_values_, rtol=1e-5, atol=0)
    close(scaled.explained_variance_ratio_, pca.explained_variance_ratio_, rtol=1e-5, atol=0)


# --- hard data ---


@pytest.mark.parametrize("mean", [0.0, 100.0, 1e4])
@pytest.mark.parametrize(("n", "d"), [(1797, 64), (10_000, 100), (60, 200)])
def test_float32_holds_the_subspace_beside_a_large_mean(n, d, mean, generator):
    x = benchmark.data(n, d, mean, generator)
    reference = torch.from_numpy(oracle(x, 10).components_)
    pca = PCA(10).fit(x)
    assert largest_angle(pca, reference) < 1e-5
    if mean == 1e4 and n >= 10 * d:
        theirs = decomposition.PCA(10).fit(x.numpy())
        assert principal_angles(torch.tensor(theirs.components_.T).double(), reference.T)[-1] > 0.1


def test_the_code_beside_a_large_mean_in_float32(generator):
    """The mean is rounded to 5e-4 there; the code does not show it."""
    x = benchmark.data(5000, 30, 1e4, generator)
    pca, expected = PCA(5).fit(x), oracle(x, 5)
    exact = torch.from_numpy(expected.transform(x.double().numpy())).float()
    close(pca.transform(x), exact, rtol=0, atol=1e-4)
    assert (pca.mean_.double() - torch.from_numpy(expected.mean_)).abs().max() < 5e-4
    close(pca.reconstruction_error(x).item(), _exact_error(x, expected), rtol=1e-5, atol=0)


def _exact_error(x, expected):
    y = x.double().numpy() - expected.mean_
    return float(np.mean((y - y @ expected.components_.T @ expected.components_) ** 2))


@each_dtype
def test_data_that_drift_and_repeat(dtype, generator):
    """The pilot of the mean sees each 39th row: here they are far from the others, and later here they drift."""
    n, d = 10_000, 6
    x, _ = with_singular_values(generator, n, d, [100.0, 80.0, 60.0, 40.0, 20.0, 10.0])
    step = n // module.PILOT
    periodic = x.clone()
    periodic[::step] += 1e3
    drifting = x + torch.linspace(0, 1e4, n, dtype=torch.float64)[:, None] * torch.eye(6, dtype=torch.float64)[0]
    for data in (periodic, drifting):
        data = data.to(dtype)
        pca, expected = PCA(4).fit(data), oracle(data, 4)
        tolerance = 1e-9 if dtype is torch.float64 else 1e-5
        close(pca.explained_variance_.double(), torch.tensor(expected.explained_variance_), rtol=tolerance, atol=0)
        assert largest_angle(pca, torch.tensor(expected.components_)) < 10 * tolerance


def test_a_pilot_that_sees_other_rows_in_float32(generator):
    """A guess of the mean that is off by a hundred deviations would take four digits from the variances."""
    n = 10_000
    x = randn(generator, n, 3) * torch.tensor([3.0, 2.0, 1.0])
    x[:: n // module.PILOT] += 100 * torch.tensor([1.0, 0.5, -0.7])
    pca, expected = PCA(3).fit(x.float()), oracle(x.float(), 3)
    close(pca.explained_variance_.double(), torch.tensor(expected.explained_variance_), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (12, 300), (40, 30)])
def test_small_singular_values_keep_their_digits(n, d, generator):
    """By X'X the last one here would be rounding alone: its square is 1e-20 of the largest."""
    values = torch.logspace(0, -10, 11, dtype=torch.float64)
    x, axes = with_singular_values(generator, n, d, values)
    pca = PCA(11).fit(x)
    # the data themselves are rounded to 1e-16 of their size
    close(pca.singular_values_, values, rtol=1e-10, atol=1e-15)
    for j in range(11):
        angle = principal_angles(pca.components_[j : j + 1].T, axes[j : j + 1].T).item()
        assert angle < 1e-14 / values[j].item()


@pytest.mark.parametrize(("n", "d"), [(300, 12), (12, 300)])
def test_small_singular_values_in_float32(n, d, generator):
    """What float32 data hold of them is found: they are rounded to 1e-7 of their size."""
    values = torch.logspace(0, -6, 7, dtype=torch.float64)
    x, _ = with_singular_values(generator, n, d, values)
    x = x.float()
    pca, exact = PCA(7).fit(x), torch.linalg.svdvals(x.double() - x.double().mean(0))[:7]
    close(pca.singular_values_.double(), exact, rtol=1e-6, atol=0)


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(50, 10), (10, 50)])
def test_rank_deficient_data(n, d, dtype, generator):
    """The axes beyond the rank are arbitrary, but orthonormal, and their variance is zero."""
    x, axes = with_singular_values(generator, n, d, [3.0, 2.0, 1.0], mean=1.0)
    pca = PCA(10).fit(x.to(dtype))
    eps = torch.finfo(dtype).eps
    assert largest_angle(PCA(3).fit(x.to(dtype)), axes) < 100 * eps
    assert pca.singular_values_[3:].max() < 30 * eps
    assert pca.explained_variance_.min() >= 0
    gram = pca.components_ @ pca.components_.T
    close(gram, torch.eye(10, dtype=dtype), rtol=0, atol=20 * eps)
    assert pca.reconstruction_error(x.to(dtype)) < 100 * eps**2


@each_dtype
def test_constant_columns(dtype, generator):
    x = torch.full((100, 6), 0.1, dtype=dtype)
    x[:, [1, 4]] = randn(generator, 100, 2, dtype=dtype)
    pca, expected = PCA(2).fit(x), oracle(x, 2)
    assert pca.components_[:, [0, 2, 3, 5]].abs().max() < 1e-7
    close(pca.components_.double(), torch.tensor(expected.components_), rtol=0, atol=1e-5)
    assert PCA(6).fit(x).explained_variance_[2:].abs().max() < 1e-14


@each_dtype
def test_equal_eigenvalues(dtype, generator):
    """The span of the two is found; the axes in it are orthonormal."""
    x, axes = with_singular_values(generator, 500, 8, [3.0, 2.0, 2.0, 1.0, 1.0])
    pca = PCA(3).fit(x.to(dtype))
    eps = torch.finfo(dtype).eps
    assert largest_angle(pca, axes[:3]) < 20 * eps
    close(pca.singular_values_.double(), torch.tensor([3.0, 2.0, 2.0]).double(), rtol=10 * eps, atol=0)
    close(pca.components_ @ pca.components_.T, torch.eye(3, dtype=dtype), rtol=0, atol=10 * eps)


@pytest.mark.parametrize("gap", [3e-2, 3e-3, 3e-4, 1e-6])
def test_float32_with_close_eigenvalues(gap, generator):
    """The three sizes of a gap that lead different ways; each axis is right as far as the data tell."""
    values = torch.tensor([1.0, 0.8, 0.6, (0.36 - gap) ** 0.5, 0.3, 0.2], dtype=torch.float64)
    x, _ = with_singular_values(generator, 5000, 6, 1e3 * values)
    x = x.float()
    exact = torch.linalg.svd(x.double() - x.double().mean(0)).Vh
    pca = PCA(3).fit(x)
    for j in range(3):
        angle = principal_angles(pca.components_[j : j + 1].T.double(), exact[j : j + 1].T).item()
        assert angle < 1e-5


def test_products_of_reduced_precision_are_not_used(generator, monkeypatch):
    """On request, PyTorch multiplies float32 numbers with 8 or 11 bits; then the first way is not good enough."""
    x = benchmark.data(2000, 20, 0.0, generator)
    asked = []
    monkeypatch.setattr(module, "_by_columns_fast", lambda *given: asked.append(given))
    PCA(2).fit(x)
    assert len(asked) == 1
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    PCA(2).fit(x)
    assert len(asked) == 1

    def refuses():
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuses)
    PCA(2).fit(x)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("dtype", "n", "d", "values", "way"),
    [
        (torch.float32, 100, 5, [3.0, 2.0, 1.0], "_by_columns_fast"),
        (torch.float32, 100, 5, [3.0, 2.0, 2.0], "_by_columns"),
        (torch.float32, 100, 5, [1.0, 0.5, 1e-3], "_by_columns"),
        (torch.float32, 100, 5, [1.0, 0.5, 1e-6], "_by_svd"),
        (torch.float32, 5, 100, [3.0, 2.0, 2.0], "_by_rows"),
        (torch.float64, 100, 5, [1.0, 0.5, 0.02], "_by_columns"),
        (torch.float64, 100, 5, [1.0, 0.5, 0.005], "_by_svd"),
        (torch.float64, 5, 100, [1.0, 0.5, 0.02], "_by_rows"),
        (torch.float64, 5, 100, [1.0, 0.5, 0.005], "_by_svd"),
    ],
)
def test_the_way_that_is_taken(dtype, n, d, values, way, generator, monkeypatch):
    """As the head of the module says; the result is that of the last way, whichever is taken."""
    x, _ = with_singular_values(generator, n, d, values)
    x, found = x.to(dtype), {}

    def spy(name, way):
        return lambda *given: found.setdefault(name, way(*given))

    for name in ("_by_columns_fast", "_by_columns", "_by_rows", "_by_svd"):
        monkeypatch.setattr(module, name, spy(name, getattr(module, name)))
    PCA(3).fit(x)
    assert [name for name, result in found.items() if result] == [way]


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_the_ways_agree(mean):
    generator = torch.Generator().manual_seed(0)
    values = 1.2 ** -torch.arange(12, dtype=torch.float64)
    x, _ = with_singular_values(generator, 9000, 12, 1e2 * values, mean)
    results = [way(x.float(), 5) for way in (module._by_columns_fast, module._by_columns, module._by_svd)]
    results.append(module._by_rows(x[:600].float(), 5))
    results.append(module._by_svd(x[:600].float(), 5))
    for first, other in ((0, 2), (1, 2), (3, 4)):
        (mean, values, axes, total), (others_mean, others_values, others_axes, others_total) = (
            [*map(torch.Tensor.double, results[k][:3]), results[k][3]] for k in (first, other)
        )
        assert total == pytest.approx(others_total, rel=1e-6)
        close(mean, others_mean, rtol=1e-6, atol=1e-6)
        close(values, others_values, rtol=1e-5, atol=0)
        close(module._with_signs(axes), module._with_signs(others_axes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("m", [1, 5, 19, 20])
def test_refined_eigenvectors(m, generator):
    basis = orthonormal(generator, 20, 20)
    true = torch.linspace(1, 3, 20, dtype=torch.float64)
    matrix = (basis * true) @ basis.T
    values, axes = torch.linalg.eigh(matrix.float())
    values, axes = module._refined(matrix, values, axes, m)
    close(values, true[-m:], rtol=1e-11, atol=0)
    close(axes.T @ axes, torch.eye(m).double(), rtol=0, atol=1e-14)
    close((axes * basis[:, -m:]).sum(0).abs(), torch.ones(m).double(), rtol=0, atol=1e-11)
    assert (matrix @ axes - axes * values).abs().max() < 1e-10


# --- signs ---


def test_the_largest_entry_of_each_axis_is_positive(generator):
    for dtype in (torch.float64, torch.float32):
        pca = PCA(8).fit(randn(generator, 60, 8, dtype=dtype))
        largest = pca.components_.abs().argmax(1, keepdim=True)
        assert (pca.components_.gather(1, largest) > 0).all()


def test_turning_the_data_around_changes_nothing(generator):
    x = randn(generator, 80, 7)
    close(PCA(4).fit(-x).components_, PCA(4).fit(x).components_, rtol=0, atol=1e-12)
    close(PCA(4).fit(x.flip(0)).components_, PCA(4).fit(x).components_, rtol=0, atol=1e-12)


def test_a_tie_goes_to_the_first_entry(generator):
    """(1, -1) and its rounded neighbours; scikit-learn's sign depends on the last digit here."""
    t = randn(generator, 50, 1)
    for dtype in (torch.float64, torch.float32):
        for noise in (0.0, 1e-15, -1e-15):
            x = torch.cat([-t, t * (1 + noise), 0 * t], 1).to(dtype)
            close(PCA(1).fit(x).components_, torch.tensor([[1, -1, 0]], dtype=dtype) / 2**0.5)
    axes = torch.tensor([[-0.6, 0.8, 0.0], [-0.5, 0.5 - 1e-16, 0.5 + 1e-16], [0.0, -1.0, 0.0]], dtype=torch.float64)
    assert module._with_signs(axes).sign().tolist() == [[-1, 1, 0], [1, -1, -1], [0, 1, 0]]


def test_the_same_data_give_the_same_axes_to_the_last_bit(generator):
    x = randn(generator, 5000, 20, dtype=torch.float32)
    first, again = PCA(5).fit(x), PCA(5).fit(x.clone())
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in ATTRIBUTES)
    state = torch.get_rng_state()
    PCA(5).fit(x)
    assert torch.equal(state, torch.get_rng_state())


# --- principal angles ---


@settings(max_examples=100, deadline=None)
@given(d=st.integers(1, 12), k=st.integers(1, 12), other=st.integers(1, 12), seed=st.integers(0, 1000))
def test_principal_angles_equal_scipy(d, k, other, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = randn(generator, d, min(k, d)), randn(generator, d, min(other, d))
    expected = np.sort(scipy.linalg.subspace_angles(a.numpy(), b.numpy()))
    angles = principal_angles(a, b)
    assert angles.shape == (min(k, other, d),)
    # SciPy takes the cosine of a small angle where another one is large, and loses half the digits
    close(angles, torch.from_numpy(expected), rtol=1e-10, atol=1e-7)
    close(principal_angles(b, a), angles, rtol=0, atol=1e-10)


@pytest.mark.parametrize("angle", [0.0, 1e-15, 1e-8, 1e-4, 0.5, math.pi / 4, 1.5, math.pi / 2 - 1e-9, math.pi / 2])
def test_known_angles_in_the_plane(angle):
    a = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    b = torch.tensor([[math.cos(angle)], [math.sin(angle)]], dtype=torch.float64)
    assert principal_angles(a, b).item() == pytest.approx(angle, rel=1e-12, abs=1e-18)
    assert principal_angles(a, -3 * b).item() == pytest.approx(angle, rel=1e-12, abs=1e-18)


def test_known_angles_between_planes_in_four_dimensions(generator):
    """a spans e1 and e2; b the same turned by two angles, in a random basis of the space and of each plane."""
    angles = torch.tensor([1e-9, 0.3], dtype=torch.float64)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    a = torch.cat([torch.eye(2, dtype=torch.float64), zero])
    b = torch.cat([angles.cos().diag(), angles.sin().diag()])
    turn = orthonormal(generator, 4, 4)
    mix = randn(generator, 2, 2, 2)
    close(principal_angles(turn @ a @ mix[0], turn @ b @ mix[1]), angles, rtol=1e-9, atol=1e-15)


def test_equal_orthogonal_and_contained_spans(generator):
    Q = orthonormal(generator, 6, 6)
    mix = randn(generator, 3, 3)
    assert principal_angles(Q[:, :3], Q[:, :3] @ mix).max() < 1e-14
    close(principal_angles(Q[:, :3], Q[:, 3:]), torch.full((3,), math.pi / 2).double())
    assert principal_angles(Q[:, :1], Q[:, :3] @ mix).tolist() == pytest.approx([0], abs=1e-14)
    assert principal_angles(Q[:, :2], Q[:, 1:4]).tolist() == pytest.approx([0, math.pi / 2], rel=1e-14, abs=1e-14)


def test_columns_of_any_length(generator):
    """The span does not depend on the length of the columns, however far apart."""
    a, b = randn(generator, 5, 2), randn(generator, 5, 2)
    lengths = torch.tensor([1e-200, 1e200], dtype=torch.float64)
    close(principal_angles(a * lengths, b / lengths), principal_angles(a, b), rtol=1e-12, atol=0)


def test_principal_angles_in_float32(generator):
    a, b = randn(generator, 9, 3), randn(generator, 9, 2)
    angles = principal_angles(a.float(), b.float())
    assert angles.dtype == torch.float32
    close(angles.double(), principal_angles(a, b), rtol=1e-5, atol=1e-6)
    c = torch.tensor([[1.0], [1e-6]])
    assert principal_angles(c, torch.tensor([[1.0], [0.0]])).item() == pytest.approx(1e-6, rel=1e-6)


# --- devices, gradients, what is given ---


def fitted(x, m=2):
    pca = PCA(m).fit(x)
    z = pca.transform(x)
    return [getattr(pca, name) for name in ATTRIBUTES] + [z, pca.inverse_transform(z), pca.reconstruction_error(x)]


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(5000, 4), (4, 9)])
def test_makes_no_cpu_tensor_for_a_gpu(n, d, dtype):
    """On fake tensors, which know their device and shape but no values; mixing devices raises there too."""
    shapes = [(d,), (2, d), (2,), (2,), (2,), (n, 2), (n, d), ()]
    with FakeTensorMode():
        for device in ("cuda", "cpu"):
            results = fitted(torch.ones(n, d, dtype=dtype, device=device))
            assert [tuple(t.shape) for t in results] == shapes
            assert {(t.device.type, t.dtype) for t in results} == {(device, dtype)}
        angles = principal_angles(torch.ones(4, 2, device="cuda"), torch.ones(4, 3, device="cuda"))
        assert (angles.device.type, angles.shape) == ("cuda", (2,))


@each_dtype
def test_cuda_equals_cpu(device, dtype, generator):
    x = randn(generator, 5000, 6, dtype=dtype) * torch.arange(1, 7) + 100
    tolerance = 1e-10 if dtype is torch.float64 else 1e-3
    for ours, theirs in zip(fitted(x.to(device)), fitted(x), strict=True):
        assert ours.device.type == device.type
        close(ours.cpu(), theirs, rtol=tolerance, atol=tolerance)


def test_what_is_given_stays_as_it_is(generator):
    x = randn(generator, 50, 4)
    before = x.clone()
    pca = PCA(2).fit(x.requires_grad_())
    assert torch.equal(x, before)
    assert not any(getattr(pca, name).requires_grad for name in ATTRIBUTES)
    assert torch.is_grad_enabled()


@each_dtype
def test_any_layout_of_the_data(dtype, generator):
    x = randn(generator, 300, 5, dtype=dtype)
    strided = torch.stack([x, x], 2)[:, :, 1]
    for other in (x.T.contiguous().T, strided, x.expand(1, 300, 5)[0]):
        for ours, theirs in zip(fitted(other), fitted(x), strict=True):
            close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_the_code(generator):
    x = randn(generator, 50, 4)
    pca = PCA(2).fit(x)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(pca.transform(x).sum(), x)
    close(grad, pca.components_.sum(0).expand(50, 4))
    (grad,) = torch.autograd.grad(pca.reconstruction_error(x), x)
    y = (x - pca.mean_).detach()
    close(grad, 2 * (y - y @ pca.components_.T @ pca.components_) / x.numel())


def test_fit_again_forgets(generator):
    pca = PCA(2).fit(randn(generator, 50, 4))
    other = randn(generator, 30, 6)
    close(pca.fit(other).components_, PCA(2).fit(other).components_)
    assert pca.transform(other).shape == (30, 2)
    assert repr(pca) == "PCA(n_components=2)"


# --- bad input ---

x = torch.arange(12.0, dtype=torch.float64).reshape(4, 3).square()


def changed(value, index=(2, 1)):
    tensor = x.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: PCA(0), ValueError, "n_components is 0: give at least 1"),
        (lambda: unchecked(PCA.__init__)(PCA(1), 2.0), TypeError, "n_components is a float: give an int"),
        (lambda: PCA(True), TypeError, "n_components is a bool: give an int"),
        (lambda: unchecked(PCA.fit)(PCA(1), x.numpy()), TypeError, "x is a ndarray: give a torch.Tensor"),
        (lambda: unchecked(PCA.fit)(PCA(1), x.long()), TypeError, "x has dtype torch.int64: give float32 or float64"),
        (lambda: unchecked(PCA.fit)(PCA(1), x[0]), ValueError, "x has shape (3,): give (N, d), a datum in each row"),
        (lambda: unchecked(PCA.fit)(PCA(1), x[None]), ValueError, "x has shape (1, 4, 3): give (N, d)"),
        (lambda: PCA(1).fit(x[:, :0]), ValueError, "x has shape (4, 0): give (N, d)"),
        (lambda: PCA(1).fit(x[:1]), ValueError, "x has shape (1, 3): a variance needs at least 2 rows"),
        (lambda: PCA(1).fit(x[:0]), ValueError, "x has shape (0, 3): a variance needs at least 2 rows"),
        (lambda: PCA(4).fit(x), ValueError, "n_components is 4 and x has shape (4, 3): there are at most 3 axes"),
        (lambda: PCA(3).fit(x[:2]), ValueError, "n_components is 3 and x has shape (2, 3): there are at most 2 axes"),
        (lambda: PCA(1).fit(changed(math.nan)), ValueError, "x[2, 1] is nan: every entry must be finite"),
        (lambda: PCA(1).fit(changed(-math.inf).float()), ValueError, "x[2, 1] is -inf: every entry must be finite"),
        (lambda: PCA(1).fit(changed(math.nan).T), ValueError, "x[1, 2] is nan: every entry must be finite"),
        (lambda: PCA(1).fit(changed(1e200)), ValueError, "beyond the range of torch.float64: divide x by a constant"),
        (lambda: PCA(1).fit(1e200 * x.T), ValueError, "beyond the range of torch.float64: divide x by a constant"),
        (lambda: PCA(1).fit(1e25 * x.float()), ValueError, "the variances of x are beyond the range of torch.float32"),
        (lambda: PCA(1).fit(1e-200 * x), ValueError, "the variances of x are below the range of torch.float64"),
        (lambda: PCA(1).fit(x[:1].expand(5, 3)), ValueError, "the rows of x are all equal: without variance"),
        (lambda: PCA(1).fit(0.1 + 0 * x), ValueError, "the rows of x are all equal: without variance"),
        (lambda: PCA(1).fit(torch.full((33, 3), 0.1).double()), ValueError, "the rows of x are all equal"),
        (lambda: PCA(1).fit(torch.full((9001, 3), 0.7)), ValueError, "the rows of x are all equal: without"),
        (lambda: PCA(1).fit(torch.full((33, 40), 0.1, dtype=torch.float64)), ValueError, "the rows of x are all equal"),
        (lambda: PCA(1).fit(0.1 + 0 * x.float().T), ValueError, "the rows of x are all equal: without variance"),
        (lambda: PCA(1).transform(x), ValueError, "there are no principal axes yet: call fit(x) first"),
        (lambda: PCA(1).inverse_transform(x), ValueError, "there are no principal axes yet: call fit(x) first"),
        (lambda: PCA(1).reconstruction_error(x), ValueError, "there are no principal axes yet: call fit(x) first"),
        (lambda: PCA(1).fit(x).transform(x[:, :2]), ValueError, "x has shape (4, 2): give (N, 3), as many columns as"),
        (lambda: unchecked(PCA.transform)(PCA(1).fit(x), x[0]), ValueError, "x has shape (3,): give (N, 3), as many"),
        (lambda: PCA(1).fit(x).transform(x.float()), TypeError, "x is torch.float32 but components_ is torch.float64"),
        (lambda: PCA(1).fit(x).transform(x.to("meta")), ValueError, "x is on meta but components_ is on cpu"),
        (lambda: PCA(1).fit(x).transform(changed(math.nan)), ValueError, "x[2, 1] is nan: every entry must be finite"),
        (lambda: PCA(1).fit(x).reconstruction_error(changed(math.inf)), ValueError, "x[2, 1] is inf: every entry"),
        (lambda: PCA(1).fit(x).reconstruction_error(x[:0]), ValueError, "x has no rows: an error is a mean over one"),
        (lambda: PCA(2).fit(x).inverse_transform(x), ValueError, "z has shape (4, 3): give (N, 2), as many columns as"),
        (lambda: PCA(3).fit(x).inverse_transform(changed(math.nan)), ValueError, "z[2, 1] is nan: every entry must"),
        (lambda: PCA(1).fit(x.float()).transform(torch.full((1, 3), 3e38)), ValueError, "the result is beyond"),
    ],
)  # fmt: skip
def test_pca_refuses_with_a_sentence(call, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        call()


@pytest.mark.parametrize(
    ("a", "b", "error", "sentence"),
    [
        (x[:, 0], x, ValueError, "a has shape (4,): give a matrix with one or more columns"),
        (x, x[:, :0], ValueError, "b has shape (4, 0): give a matrix with one or more columns"),
        (x, x[:3], ValueError, "a has shape (4, 3) and b (3, 3): columns of both need as many entries"),
        (x[:2], x[:2], ValueError, "a has shape (2, 3): 3 columns of 2 entries are linearly dependent"),
        (x, x[:, [0, 0]], ValueError, "the columns of b are linearly dependent: leave out those that the others span"),
        (x, 0 * x, ValueError, "the columns of b are linearly dependent"),
        (x[:, [0]] * torch.tensor([1.0, 3.0]), x, ValueError, "the columns of a are linearly dependent"),
        (x, changed(math.nan), ValueError, "b[2, 1] is nan: every entry must be finite"),
        (x, x.float(), TypeError, "b is torch.float32 but a is torch.float64: convert one of them"),
        (x.numpy(), x, TypeError, "a is a ndarray: give a torch.Tensor"),
        (x, x.to("meta"), ValueError, "b is on meta but a is on cpu: move one of them"),
    ],
)
def test_principal_angles_refuse_with_a_sentence(a, b, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        unchecked(principal_angles)(a, b)


def test_annotations_refuse_what_the_functions_refuse():
    """The shape annotations are checked in this suite, so the wrong shape stops at the signature."""
    for call in (lambda: PCA(1).fit(x[0]), lambda: principal_angles(x, x[:2])):
        with pytest.raises(Exception, match=r"x|b") as refused:
            call()
        assert type(refused.value).__module__.startswith("jaxtyping")
