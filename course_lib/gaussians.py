r"""Gaussians: log-density, sampling and the Kullback-Leibler divergence (chapter 2).

Divergences are in nats for each datum, summed over the d dimensions; a batch of Gaussians gives a batch of
divergences, and leading dimensions broadcast. Device and dtype follow the inputs. Full covariances and factors are
worked on in float64 whatever their dtype, because a float32 covariance of condition 1e8 is singular in float32.

Between full Gaussians the divergence comes from the Cholesky factors, cov = tril tril'. With C = tril_q^-1 tril_p and
m = tril_q^-1 (mean_p - mean_q), which is p seen from a q that is whitened,

    KL(p || q) = 1/2 (|C|^2 - d + |m|^2) - sum_i log c_i             (trace, dimension, Mahalanobis, log-determinant)
               = 1/2 |W|^2 + 1/2 |m|^2 + sum_i (w_i - log(1 + w_i))    where C = I + W.

For the value nothing is inverted. The first form serves in general. Nearly equal Gaussians take the second, in which
no term is negative and no digit is lost: W = tril_q^-1 (tril_p - tril_q) takes the difference before the solve.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import cholesky_ex, diagonal, solve_triangular, vecdot, vector_norm

from course_lib._validation import (
    any_of,
    bounds,
    check_finite,
    check_form,
    check_generator,
    check_symmetric,
    check_tril,
    member,
)

__all__ = [
    "kl_diagonal_gaussian",
    "kl_gaussian",
    "kl_gaussian_tril",
    "kl_to_standard_normal",
    "log_prob",
    "log_prob_tril",
    "sample",
    "sample_tril",
]

LOG_TWO_PI = math.log(2 * math.pi)

# Below this divergence the first form above would show the rounding of its differences; the second takes over.
NEARLY_EQUAL = 1e-2

# Up to so many entries, to copy two tensors into one costs less than the call that is saved.
SMALL = 50_000


# Log-density and sampling


def log_prob(
    x: Float[Tensor, "*#batch d"], mean: Float[Tensor, "*#batch d"], cov: Float[Tensor, "*#batch d d"]
) -> Float[Tensor, "*#batch"]:
    """Log-density of the Gaussian N(mean, cov) at x, in nats for each datum.

    Shapes: x and mean (*batch, d), cov (*batch, d, d); the batches broadcast. Returns (*batch).
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a covariance that is
    not symmetric or not positive definite (the batch member is named).
    Chapter 2, equation eq-log-density. T. W. Anderson, An Introduction to Multivariate Statistical Analysis, ch. 2.

    Examples:
        >>> zero, identity = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        >>> round(log_prob(zero, zero, identity).item(), 6)  # -log(2 pi)
        -1.837877
    """
    check_form({"x": x, "mean": mean}, {"cov": cov})
    return _log_prob(_cholesky("cov", cov, cov.dtype), x=x, mean=mean)


def log_prob_tril(
    x: Float[Tensor, "*#batch d"], mean: Float[Tensor, "*#batch d"], tril: Float[Tensor, "*#batch d d"]
) -> Float[Tensor, "*#batch"]:
    """Log-density at x of the Gaussian N(mean, tril tril'), in nats for each datum.

    Shapes: x and mean (*batch, d), tril (*batch, d, d); the batches broadcast. Returns (*batch).
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a factor that is not
    lower triangular with a positive diagonal.
    Chapter 2, equation eq-log-density. T. W. Anderson, An Introduction to Multivariate Statistical Analysis, ch. 2.

    Examples:
        >>> zero, tril = torch.zeros(2, dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64)
        >>> round(log_prob_tril(zero, zero, tril).item(), 6)  # -log(2 pi) - log 4
        -3.224171
    """
    check_form({"x": x, "mean": mean}, {"tril": tril})
    check_tril("tril", tril.detach())
    return _log_prob(tril.double(), x=x, mean=mean)


def sample(
    mean: Float[Tensor, "*#batch d"],
    cov: Float[Tensor, "*#batch d d"],
    n: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n *batch d"]:
    """Draw n samples mean + tril z from N(mean, cov), z standard normal, so that gradients reach mean and cov.

    Shapes: mean (*batch, d), cov (*batch, d, d); the batches broadcast. Returns (n, *batch, d).
    Raises TypeError or ValueError as `log_prob` does, and for a negative n or a generator on another device.
    Chapter 2, equation eq-sampling. D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014), section 2.4.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> cov = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> draws = sample(torch.zeros(2, dtype=torch.float64), cov, 100_000, generator=generator)
        >>> draws.shape, round(draws.T.cov()[0, 1].item(), 1)
        (torch.Size([100000, 2]), 1.0)
    """
    check_form({"mean": mean}, {"cov": cov})
    return _sample(mean, _cholesky("cov", cov, cov.dtype).to(mean.dtype), n, generator)


def sample_tril(
    mean: Float[Tensor, "*#batch d"],
    tril: Float[Tensor, "*#batch d d"],
    n: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n *batch d"]:
    """Draw n samples mean + tril z, z standard normal, so that gradients reach mean and tril.

    Shapes: mean (*batch, d), tril (*batch, d, d); the batches broadcast. Returns (n, *batch, d).
    Raises TypeError or ValueError as `log_prob_tril` does, and for a negative n or a generator on another device.
    Chapter 2, equation eq-sampling. D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014), section 2.4.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> mean, tril = torch.ones(1, dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64)
        >>> draws = sample_tril(mean, tril, 100_000, generator=generator)
        >>> round(draws.mean().item(), 1), round(draws.std().item(), 1)
        (1.0, 3.0)
    """
    check_form({"mean": mean}, {"tril": tril})
    check_tril("tril", tril.detach())
    return _sample(mean, tril, n, generator)


# Kullback-Leibler divergences


def kl_gaussian(
    mean_p: Float[Tensor, "*#batch d"],
    cov_p: Float[Tensor, "*#batch d d"],
    mean_q: Float[Tensor, "*#batch d"],
    cov_q: Float[Tensor, "*#batch d d"],
) -> Float[Tensor, "*#batch"]:
    """Divergence KL(p || q) of two Gaussians given by their covariances, in nats for each datum.

    Shapes: means (*batch, d), covariances (*batch, d, d); the batches broadcast. Returns (*batch), never negative.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a covariance that is
    not symmetric (to half the digits of its dtype) or not positive definite (the batch member is named).
    Chapter 2, equation eq-gaussian-kl. S. Kullback, Information Theory and Statistics (1959), chapter 9.

    Examples:
        >>> mean_p, cov_p = torch.tensor([0.0], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
        >>> mean_q, cov_q = torch.tensor([1.0], dtype=torch.float64), torch.tensor([[4.0]], dtype=torch.float64)
        >>> round(kl_gaussian(mean_p, cov_p, mean_q, cov_q).item(), 6)
        0.443147
        >>> round(kl_gaussian(mean_q, cov_q, mean_p, cov_p).item(), 6)
        1.306853
    """
    check_form({"mean_p": mean_p, "mean_q": mean_q}, {"cov_p": cov_p, "cov_q": cov_q})
    return _with_gradient(_FromCovariances, mean_p, cov_p, mean_q, cov_q)


def kl_gaussian_tril(
    mean_p: Float[Tensor, "*#batch d"],
    tril_p: Float[Tensor, "*#batch d d"],
    mean_q: Float[Tensor, "*#batch d"],
    tril_q: Float[Tensor, "*#batch d d"],
) -> Float[Tensor, "*#batch"]:
    """Divergence KL(p || q) of two Gaussians given by the Cholesky factors, in nats for each datum.

    Use it where covariances are ill-conditioned: the error grows with the condition of a factor, which is the square
    root of the covariance's.
    Shapes: means (*batch, d), factors (*batch, d, d); the batches broadcast. Returns (*batch), never negative.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a factor that is not
    lower triangular with a positive diagonal.
    Chapter 2, equation eq-kl-factors. S. Kullback, Information Theory and Statistics (1959), chapter 9.

    Examples:
        >>> mean_p, tril_p = torch.tensor([0.0], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
        >>> mean_q, tril_q = torch.tensor([1.0], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
        >>> round(kl_gaussian_tril(mean_p, tril_p, mean_q, tril_q).item(), 6)
        0.443147
    """
    check_form({"mean_p": mean_p, "mean_q": mean_q}, {"tril_p": tril_p, "tril_q": tril_q})
    return _with_gradient(_FromFactors, mean_p, tril_p, mean_q, tril_q)


def kl_diagonal_gaussian(
    mean_p: Float[Tensor, "*#batch d"],
    log_var_p: Float[Tensor, "*#batch d"],
    mean_q: Float[Tensor, "*#batch d"],
    log_var_q: Float[Tensor, "*#batch d"],
) -> Float[Tensor, "*#batch"]:
    """Divergence KL(p || q) of two Gaussians with diagonal covariances diag(exp(log_var)), in nats for each datum.

    Shapes: all four (*batch, d); the batches broadcast. Returns (*batch), never negative.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a divergence beyond the
    range of the dtype (log-variances more than 88 apart in float32, 709 in float64).
    Chapter 2, equation eq-kl-diagonal. S. Kullback, Information Theory and Statistics (1959), chapter 9.

    Examples:
        >>> mean_p, log_var_p = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        >>> mean_q, log_var_q = mean_p + 1, log_var_p + math.log(4)
        >>> round(kl_diagonal_gaussian(mean_p, log_var_p, mean_q, log_var_q).item(), 6)  # 3 x 0.443147
        1.329442
    """
    arguments = {"mean_p": mean_p, "log_var_p": log_var_p, "mean_q": mean_q, "log_var_q": log_var_q}
    check_form(arguments, {})
    shift = (mean_p - mean_q) * (-0.5 * log_var_q).exp()
    return _FromLogVariances.apply(arguments, shift, log_var_p - log_var_q)


def kl_to_standard_normal(
    mean: Float[Tensor, "*#batch d"], log_var: Float[Tensor, "*#batch d"]
) -> Float[Tensor, "*#batch"]:
    """Divergence of N(mean, diag(exp(log_var))) to the standard normal N(0, I), in nats for each datum.

    Shapes: both (*batch, d); the batches broadcast. Returns (*batch), never negative.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a divergence beyond the
    range of the dtype (log_var above 88 in float32, 709 in float64).
    Chapter 2, equation eq-kl-log-variance. D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014),
    appendix B.

    Examples:
        >>> mean, log_var = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        >>> round(kl_to_standard_normal(mean, log_var).item(), 6)
        0.5
    """
    arguments = {"mean": mean, "log_var": log_var}
    check_form(arguments, {})
    return _FromLogVariances.apply(arguments, mean, log_var)


# The formulas


def _log_prob(tril, *, x, mean):
    dim = tril.shape[-1]
    mahalanobis = _solve(tril, x.double() - mean.double()).square().sum(-1)
    half_log_det = diagonal(tril).log().sum(-1)
    result = (-0.5 * (dim * LOG_TWO_PI + mahalanobis) - half_log_det).to(x.dtype)
    if not all(map(math.isfinite, bounds(result))):
        _explain_not_finite("log-density", x.dtype, {"x": x, "mean": mean, "tril": tril})
    return result


def _sample(mean, tril, n, generator):
    for name, argument in {"mean": mean, "tril": tril}.items():
        check_finite(name, argument)
    if n < 0:
        raise ValueError(f"n is {n}: the number of samples must be 0 or more")
    check_generator(generator, "mean", mean)
    batch = torch.broadcast_shapes(mean.shape[:-1], tril.shape[:-2])
    shape = (n, *batch, mean.shape[-1])
    noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
    if tril.ndim == 2:  # one product for all samples
        return mean + noise @ tril.mT
    return mean + (tril @ noise.unsqueeze(-1)).squeeze(-1)


def _kl_from_covariances(dtype, mean_p, cov_p, mean_q, cov_q, for_gradient=False):
    """The divergence and, if asked, what its gradient needs: which form was taken, both factors, and C or W, and m."""
    tril_p, tril_q = _cholesky("cov_p", cov_p, dtype), _cholesky("cov_q", cov_q, dtype)
    scale, shift = _whiten(mean_p - mean_q, tril_p, tril_q)
    kl = _kl_whitened(scale, shift)
    smallest = _check_kl(kl, dtype, mean_p=mean_p, cov_p=cov_p, mean_q=mean_q, cov_q=cov_q)
    nearly_equal = smallest < NEARLY_EQUAL
    if nearly_equal:
        _, shift = _split(scale, shift)
        scale = _refine(_relative_change(tril_p, tril_q), cov_p - cov_q, tril_q)
        kl = torch.where(kl < NEARLY_EQUAL, _kl_nearly_equal(scale, shift), kl)
    return (kl, nearly_equal, tril_p, tril_q, scale, shift) if for_gradient else kl


def _kl_from_factors(dtype, mean_p, tril_p, mean_q, tril_q, for_gradient=False):
    """The divergence and, if asked, what its gradient needs: W and m."""
    check_tril("tril_p", tril_p)
    check_tril("tril_q", tril_q)
    scale, shift = _whiten(mean_p - mean_q, tril_p, tril_q)
    kl = _kl_whitened(scale, shift)
    smallest = _check_kl(kl, dtype, mean_p=mean_p, tril_p=tril_p, mean_q=mean_q, tril_q=tril_q)
    if smallest >= NEARLY_EQUAL and not for_gradient:
        return kl
    change, shift = _split(scale, shift)
    if smallest < NEARLY_EQUAL:
        change = _relative_change(tril_p, tril_q)
        kl = torch.where(kl < NEARLY_EQUAL, _kl_nearly_equal(change, shift), kl)
    return (kl, change, shift) if for_gradient else kl


def _whiten(mean, tril_p, tril_q):
    """C = tril_q^-1 tril_p and m = tril_q^-1 mean; where one solve is cheaper than two, [C, m] in one and None."""
    if tril_p.numel() <= SMALL and tril_p.shape[:-1] == mean.shape:
        return solve_triangular(tril_q, torch.cat((tril_p, mean.unsqueeze(-1)), -1), upper=False), None
    return solve_triangular(tril_q, tril_p, upper=False), _solve(tril_q, mean)


def _relative_change(tril_p, tril_q):
    """W = tril_q^-1 (tril_p - tril_q), which keeps the digits that C - I loses."""
    return solve_triangular(tril_q, tril_p - tril_q, upper=False)


def _split(scale, shift):
    """W = C - I and m from what `_whiten` returned. The identity is taken off in place: C is not used again."""
    if shift is None:
        scale, shift = scale[..., :-1], scale[..., -1]
    diagonal(scale).sub_(1)
    return scale, shift


def _kl_whitened(scale, shift):
    # a norm makes no copy of a large batch, unlike scale.square().sum()
    trace_and_mahalanobis = vector_norm(scale, dim=(-2, -1)).square()
    if shift is not None:
        trace_and_mahalanobis = trace_and_mahalanobis + vecdot(shift, shift)
    # 1/2 (trace + mahalanobis - d) - log-determinant, in place
    return trace_and_mahalanobis.sub_(scale.shape[-2]).mul_(0.5).sub_(diagonal(scale).log().sum(-1))


def _kl_nearly_equal(change, shift):
    rows = 0.5 * change.square().sum(-1) + _minus_log1p(diagonal(change))
    return rows.sum(-1) + 0.5 * shift.square().sum(-1)


def _refine(change, difference, tril_q):
    """W again, from cov_p - cov_q where it is small: rounding in the two factors is then as large as W itself.

    W satisfies W + W' + W W' = tril_q^-1 (cov_p - cov_q) tril_q^-T. One Newton step from the W that the factors gave
    adds the lower triangle of what is missing, with half its diagonal.
    """
    difference = difference.tril() + difference.tril(-1).mT  # the Cholesky factors came from lower triangles
    target = solve_triangular(tril_q, solve_triangular(tril_q, difference, upper=False).mT, upper=False)
    missing = target - (change + change.mT + change @ change.mT)
    refined = change + missing.tril() - 0.5 * torch.diag_embed(diagonal(missing))
    small = 0.5 * change.square().sum((-2, -1), keepdim=True) < NEARLY_EQUAL
    return torch.where(small, refined, change)


def _kl_log_variance(shift, log_ratio, arguments):
    """The divergence from the whitened means and the differences of the log-variances."""
    kl = 0.5 * (shift.square() + (log_ratio.expm1() - log_ratio)).sum(-1)
    if _check_kl(kl, kl.dtype, **arguments) < NEARLY_EQUAL:
        # exp(t) - 1 - t = x - log(1 + x) with x = exp(t) - 1
        nearly_equal = 0.5 * (shift.square() + _minus_log1p(log_ratio.expm1())).sum(-1)
        kl = torch.where(kl < NEARLY_EQUAL, nearly_equal, kl)
    return kl


def _minus_log1p(x):
    """x - log(1 + x) for |x| <= 0.2 to the last digits, where the subtraction itself would lose them.

    With s = x / (2 + x), log(1 + x) = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...) and x - 2 s = x s.
    """
    s = x / (2 + x)
    t = s * s
    return x * s - 2 * s * t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t / 13)))))


# The gradients, in closed form: faster than autograd through the Cholesky factors, and right at equality, where the
# divergence is computed by another branch. Under create_graph, backward recomputes the whitened quantities from the
# inputs, so that second derivatives see them as functions of the inputs. Autograd itself sums each gradient over the
# dimensions in which its input was broadcast.


def _with_gradient(function, *inputs):
    """The divergence in float64, rounded once to the dtype of the inputs."""
    dtype = inputs[0].dtype
    if dtype is not torch.float64:
        inputs = [tensor.double() for tensor in inputs]
    # apply costs as much as two small Cholesky factors, so it is left out where no gradient is wanted
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    kl = function.apply(dtype, *inputs) if wanted else function.value(dtype, *inputs)
    return kl if dtype is torch.float64 else kl.to(dtype)


class _FromFactors(torch.autograd.Function):
    """With Y = tril_q^-T W, v = tril_q^-T m and lower triangles taken:

    dKL/dmean_p = v = -dKL/dmean_q,   dKL/dtril_p = Y + diag(w_i / p_ii),
    dKL/dtril_q = -(Y + Y W' + v m' + diag(w_i / q_ii)).
    """

    value = staticmethod(_kl_from_factors)

    @staticmethod
    def forward(ctx, dtype, *inputs):
        kl, change, shift = _kl_from_factors(dtype, *inputs, for_gradient=True)
        ctx.save_for_backward(*inputs, change, shift)
        return kl

    @staticmethod
    def backward(ctx, grad):
        mean_p, tril_p, mean_q, tril_q, change, shift = ctx.saved_tensors
        if torch.is_grad_enabled():
            change, shift = _whiten_again(mean_p, tril_p, mean_q, tril_q)
        weight = grad.unsqueeze(-1)
        scaled = weight.unsqueeze(-1) * change
        width = diagonal(scaled)
        grad_mean = weight * _solve_transposed(tril_q, shift)
        grad_tril = solve_triangular(tril_q.mT, scaled, upper=True)
        outer = grad_tril + grad_tril @ change.mT + grad_mean.unsqueeze(-1) * shift.unsqueeze(-2)
        grad_tril_p, grad_tril_q = grad_tril.tril(), outer.tril()
        diagonal(grad_tril_p).add_(width / diagonal(tril_p))
        diagonal(grad_tril_q).add_(width / diagonal(tril_q))
        return None, grad_mean, grad_tril_p, -grad_mean, -grad_tril_q


class _FromCovariances(torch.autograd.Function):
    """dKL/dmean_p = tril_q^-T m = -dKL/dmean_q, and with the precisions P = cov^-1 and v = tril_q^-T m

        dKL/dcov_p = 1/2 (P_q - P_p),   dKL/dcov_q = 1/2 (P_q - P_q cov_p P_q - v v').

    For nearly equal Gaussians the precisions are written through W, so that no digit is lost and equal covariances
    give exactly zero:

        dKL/dcov_p = 1/2 tril_p^-T (W + W' + W' W) tril_p^-1,
        dKL/dcov_q = -1/2 tril_q^-T (W + W' + W W' + m m') tril_q^-1.
    """

    value = staticmethod(_kl_from_covariances)

    @staticmethod
    def forward(ctx, dtype, *inputs):
        kl, ctx.nearly_equal, *whitened = _kl_from_covariances(dtype, *inputs, for_gradient=True)
        ctx.save_for_backward(*inputs, *whitened)
        return kl

    @staticmethod
    def backward(ctx, grad):
        mean_p, cov_p, mean_q, cov_q, tril_p, tril_q, scale, shift = ctx.saved_tensors
        if torch.is_grad_enabled():
            tril_p, tril_q = cholesky_ex(cov_p).L, cholesky_ex(cov_q).L
            gradients = _gradients_nearly_equal(tril_p, tril_q, *_whiten_again(mean_p, tril_p, mean_q, tril_q))
        elif ctx.nearly_equal:
            gradients = _gradients_nearly_equal(tril_p, tril_q, scale, shift)
        else:
            gradients = _gradients(tril_p, tril_q, scale, shift)
        grad_mean, grad_cov_p, grad_cov_q = gradients
        grad_mean = grad.unsqueeze(-1) * grad_mean
        half = 0.5 * grad[..., None, None]
        return None, grad_mean, half * grad_cov_p, -grad_mean, half * grad_cov_q


def _gradients(tril_p, tril_q, scale, shift):
    """For mean_p, and twice those for cov_p and cov_q."""
    precision_p, precision_q = torch.cholesky_inverse(tril_p), torch.cholesky_inverse(tril_q)
    seen = solve_triangular(tril_q.mT, scale, upper=True)
    seen_cov = seen @ seen.mT
    if shift is None:
        return seen[..., -1], precision_q - precision_p, precision_q - seen_cov
    gap = _solve_transposed(tril_q, shift)
    return gap, precision_q - precision_p, precision_q - seen_cov - gap.unsqueeze(-1) * gap.unsqueeze(-2)


def _gradients_nearly_equal(tril_p, tril_q, change, shift):
    """The same from W."""
    symmetric = change + change.mT
    seen_from_p = symmetric + change.mT @ change
    seen_from_q = symmetric + change @ change.mT + shift.unsqueeze(-1) * shift.unsqueeze(-2)
    return _solve_transposed(tril_q, shift), _unwhiten(tril_p, seen_from_p), -_unwhiten(tril_q, seen_from_q)


class _FromLogVariances(torch.autograd.Function):
    """dKL/dshift = shift and dKL/dlog_ratio = 1/2 (exp(log_ratio) - 1)."""

    @staticmethod
    def forward(ctx, arguments, shift, log_ratio):
        ctx.save_for_backward(shift, log_ratio)
        return _kl_log_variance(shift, log_ratio, arguments)

    @staticmethod
    def backward(ctx, grad):
        shift, log_ratio = ctx.saved_tensors
        weight = grad.unsqueeze(-1)
        return None, weight * shift, 0.5 * weight * log_ratio.expm1()


def _whiten_again(mean_p, tril_p, mean_q, tril_q):
    """W and m as differentiable functions of their inputs."""
    return _relative_change(tril_p, tril_q), _solve(tril_q, mean_p - mean_q)


# Linear algebra


def _solve(tril, vectors):
    """tril^-1 v for each vector."""
    if tril.ndim == 2 and vectors.ndim >= 2:  # one solve for all rows, not a copy of the factor for each
        return solve_triangular(tril.mT, vectors, upper=True, left=False)
    return solve_triangular(tril, vectors.unsqueeze(-1), upper=False).squeeze(-1)


def _solve_transposed(tril, vectors):
    """tril^-T v for each vector."""
    if tril.ndim == 2 and vectors.ndim >= 2:
        return solve_triangular(tril, vectors, upper=False, left=False)
    return solve_triangular(tril.mT, vectors.unsqueeze(-1), upper=True).squeeze(-1)


def _unwhiten(tril, matrix):
    """tril^-T M tril^-1."""
    return solve_triangular(tril, solve_triangular(tril.mT, matrix, upper=True), upper=False, left=False)


def _cholesky(name, cov, dtype):
    """The lower Cholesky factor in float64, or a sentence that names the batch member that has none."""
    check_symmetric(name, cov, dtype)
    tril, info = cholesky_ex(cov.double())  # info costs less than an exception, and says which member failed
    if any_of(info):
        index = info.nonzero()[0].tolist() if info.ndim else []
        raise ValueError(
            f"{member(name, index)} is not positive definite (its leading minor of order "
            f"{info[tuple(index)].item()} is not positive): add a little to its diagonal, or give its Cholesky factor"
        )
    return tril


# NaN and infinity are not looked for in the arguments: they make every divergence NaN or infinite, and that is seen.


def _check_kl(kl, dtype, **arguments):
    """Refuse what is not finite; return the smallest divergence."""
    smallest, largest = bounds(kl)
    if not largest <= torch.finfo(dtype).max:  # also when it is NaN
        _explain_not_finite("divergence", dtype, arguments)
    return smallest


def _explain_not_finite(what, dtype, arguments):
    for name, tensor in arguments.items():
        check_finite(name, tensor)
    raise ValueError(
        f"the {what} is beyond the range of {dtype}: the variances are too small, or too far apart; "
        "keep the log-variances within a few tens of each other, or use float64"
    )
