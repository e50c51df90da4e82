"""What the sources print on losses and the three tasks, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import numpy as np
import pytest
import torch
from scipy import special, stats

from course_lib import losses


def test_cross_entropy_is_not_a_function_of_the_difference():
    """Two data with the same difference of one-hot class and logits, and not the same loss."""
    one_hot = torch.eye(3, dtype=torch.float64)
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    other = logits + one_hot[1] - one_hot[0]
    assert torch.allclose(one_hot[0] - logits, one_hot[1] - other)
    first = losses.cross_entropy_loss(torch.tensor(0), logits)
    second = losses.cross_entropy_loss(torch.tensor(1), other)
    assert abs(first - second) > 0.3
    # the squared error is one
    square = losses.squared_error(one_hot[0], logits)
    assert torch.isclose(square, losses.squared_error(one_hot[1], other))


def test_the_order_of_the_arguments_matters():
    """The squared error is the same both ways, the cross-entropy of two distributions is not."""
    y, f = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.5, -2.0]])
    assert torch.equal(losses.squared_error(y, f), losses.squared_error(f, y))
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    right, swapped = -(p * np.log(q)).sum(), -(q * np.log(p)).sum()
    assert right == pytest.approx(stats.entropy(p) + stats.entropy(p, q))
    assert abs(right - swapped) > 0.1


def test_a_classifier_that_returns_a_class_has_no_cross_entropy():
    """A class as a distribution is one-hot: the loss is 0 or infinite. Its errors do not move with the weights."""
    hard = np.eye(3)[[0, 2, 1]]
    truth = [0, 2, 2]
    surprise = -special.xlogy(1, hard[range(3), truth])
    assert surprise.tolist() == [0, 0, np.inf]
    x, y = np.array([-1.0, 0.5, 2.0]), np.array([0, 0, 1])
    errors = [((w * x > 1).astype(int) != y).mean() for w in (0.9, 0.9001, 0.91)]
    assert len(set(errors)) == 1
    soft = [np.logaddexp(0, -(2 * y - 1) * (w * x - 1)).mean() for w in (0.9, 0.9001, 0.91)]
    assert len(set(soft)) == 3


def test_a_small_loss_on_the_data_is_not_a_good_function():
    """As many weights as data: the loss on the data is zero, on new targets it is twice the noise."""
    rng, (N, sigma) = np.random.default_rng(0), (10, 1.0)
    X, w = rng.normal(size=(N, N)), rng.normal(size=(N, 1))
    y, new = X @ w + sigma * rng.normal(size=(2, N, 20_000))
    fitted = X @ np.linalg.solve(X, y)
    assert np.abs(y - fitted).max() < 1e-8
    assert np.mean((new - fitted) ** 2) == pytest.approx(2 * sigma**2, rel=0.02)


def test_the_square_of_a_vector_is_its_squared_norm():
    """Entry by entry a square is a vector; a loss is a number, the sum."""
    x, restored = np.array([1.0, 2.0, -1.0]), np.array([0.5, 2.5, 1.0])
    square = (x - restored) ** 2
    assert square.shape == (3,)
    ours = losses.squared_error(torch.tensor(x), torch.tensor(restored)).item()
    assert ours == pytest.approx(np.linalg.norm(x - restored) ** 2) == square.sum()


def test_a_gaussian_gives_the_squared_error_only_with_a_fixed_variance():
    """With a variance for each datum, the density prefers another mean than the least squares do."""
    y, variance = np.array([0.0, 3.0]), np.array([0.1, 2.0])
    grid = np.linspace(-1, 4, 5001)
    squares = ((y - grid[:, None]) ** 2).sum(1)
    minus_log = -stats.norm(grid[:, None], variance**0.5).logpdf(y).sum(1)
    assert grid[squares.argmin()] == pytest.approx(1.5)
    assert grid[minus_log.argmin()] == pytest.approx((0.0 / 0.1 + 3.0 / 2.0) / (1 / 0.1 + 1 / 2.0), abs=1e-3)
    fixed = -stats.norm(grid[:, None], 0.7).logpdf(y).sum(1)
    assert np.ptp(fixed - squares / (2 * 0.7**2)) < 1e-9  # a constant
