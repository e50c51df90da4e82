r"""The evidence lower bound (ELBO) and its gradients (chapter 8).

A model is anything with `log_conditional(x, z)` and `log_joint(x, z)`, such as `GaussianLatentModel` and
`ProbabilisticPCA` of `course_lib.latent`; a q is a `GaussianPosterior`. A bound is in nats for each datum, summed over
the dimensions, and is to be **maximised**; a loss is its negative. Device and dtype follow x, noise comes from
`generator`.

Each function that draws samples is unbiased for what its equation names: the bound, the importance-weighted bound (not
log p(x)), or a gradient. A single estimate of a bound may lie above log p(x); its expectation does not.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib._validation import bounds, check_finite, check_form, check_generator, check_types
from course_lib.latent import GaussianPosterior, ProbabilisticPCA

__all__ = [
    "GradientSamples",
    "elbo",
    "exact_elbo",
    "importance_weighted_bound",
    "minibatch_elbo",
    "pathwise_gradient",
    "score_function_gradient",
]

AT_ONCE = 1 << 22  # numbers drawn in one go: 32 MiB in float64


# Bounds


def elbo(
    model: Any,
    x: Float[Tensor, "*batch d"],
    q: GaussianPosterior,
    n_samples: int = 1,
    *,
    form: Literal["kl", "joint"] = "kl",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch"]:
    """Monte Carlo estimate of the evidence lower bound of each datum, in nats.

    form "kl" takes log p(x | z) from samples of q and the divergence of q from the prior in closed form; the prior of
    the model must be N(0, I). form "joint" averages log p(x, z) - log q(z), whatever the prior; it has no variance at
    all where q is the posterior. Both are unbiased, and differentiable in q and in the model.
    Shapes: x (*batch, d), one q for each datum (mean (*batch, m)) or one for all (mean (m,)). Returns (*batch).
    Raises TypeError or ValueError for wrong types, shapes, dtypes or devices, NaN or infinity in x, an n_samples below
    1, an unknown form, and a generator on another device.
    Chapter 8, equation def-elbo-samples. D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014).

    Examples:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> model = ProbabilisticPCA.from_parameters(one, torch.zeros(1, dtype=torch.float64), 0.5625)
        >>> x = torch.tensor([[1.25]], dtype=torch.float64)
        >>> posterior = model.posterior(x)  # N(0.8, 0.36): the bound is tight, and one sample tells it
        >>> round(elbo(model, x, posterior, form="joint").item(), 6), round(model.log_likelihood(x).item(), 6)
        (-1.642082, -1.642082)
    """
    if form not in ("kl", "joint"):
        raise ValueError(f'form is {form!r}: give "kl" or "joint"')
    q = _check(model, x, q, generator)
    z = q.rsample(_count("n_samples", n_samples), generator=generator)
    if form == "kl":
        result = model.log_conditional(x, z).mean(0) - q.kl_to_standard_normal()
    else:
        result = _log_weights(model, x, q, z).mean(0)
    check_finite("the bound", result)
    return result


def exact_elbo(model: ProbabilisticPCA, x: Float[Tensor, "*batch d"], q: GaussianPosterior) -> Float[Tensor, "*batch"]:
    """Evidence lower bound of each datum in the linear Gaussian model, in nats, without samples.

    Shapes: x (*batch, d), one q for each datum (mean (*batch, m)) or one for all (mean (m,)). Returns (*batch), at
    most `model.log_likelihood(x)`, and equal to it where q is `model.posterior(x)`.
    Raises TypeError or ValueError for wrong types, shapes, dtypes or devices, and NaN or infinity in x.
    Chapter 8, equation eq-elbo-linear. M. E. Tipping and C. M. Bishop, Probabilistic Principal Component Analysis
    (1999), for the model.

    Examples:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> model = ProbabilisticPCA.from_parameters(one, torch.zeros(1, dtype=torch.float64), 0.5625)
        >>> x = torch.tensor([[1.25]], dtype=torch.float64)
        >>> prior = GaussianPosterior(torch.zeros(1, dtype=torch.float64), one)
        >>> round(exact_elbo(model, x, prior).item(), 6)
        -2.909034
    """
    if not isinstance(model, ProbabilisticPCA):
        raise TypeError(f"model is a {type(model).__name__}: give a ProbabilisticPCA, or use elbo for an estimate")
    q = _check(model, x, q, None)
    # log p(x | z) at the mean of q, and what the spread of z around it adds to the squared distance
    spread = (model.W_ @ q.tril).square().sum((-2, -1))
    reconstruction = model.log_conditional(x, q.mean) - spread / (2 * model.noise_var_)
    return reconstruction - q.kl_to_standard_normal()


def importance_weighted_bound(
    model: Any,
    x: Float[Tensor, "*batch d"],
    q: GaussianPosterior,
    n_samples: int,
    *,
    n_repeats: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*repeats_and_batch"]:
    """Estimate of the importance-weighted bound of each datum: the logarithm of the mean of n_samples weights, in nats.

    The weights are p(x, z) / q(z) at samples of q. With one sample the expectation is the evidence lower bound; with
    more it grows, and tends to log p(x). One call is one draw of the logarithm; n_repeats independent ones, in a new
    first dimension, give its mean and an error bar. Differentiable in q and in the model.
    Shapes: x (*batch, d), one q for each datum (mean (*batch, m)) or one for all (mean (m,)). Returns (*batch), or
    (n_repeats, *batch) if n_repeats is given.
    Raises TypeError or ValueError for wrong types, shapes, dtypes or devices, NaN or infinity in x, an n_samples or
    n_repeats below 1, and a generator on another device.
    Chapter 8, equation def-elbo-weighted. Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted Autoencoders
    (2016).

    Examples:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> model = ProbabilisticPCA.from_parameters(one, torch.zeros(1, dtype=torch.float64), 0.5625)
        >>> x = torch.tensor([[1.25]], dtype=torch.float64)
        >>> round(importance_weighted_bound(model, x, model.posterior(x), 5).item(), 6)
        -1.642082
    """
    q = _check(model, x, q, generator)
    n_samples = _count("n_samples", n_samples)
    repeats = 1 if n_repeats is None else _count("n_repeats", n_repeats)
    at_once = max(1, AT_ONCE // max(1, n_samples * x.numel()))
    parts = []
    for first in range(0, repeats, at_once):
        n = min(at_once, repeats - first)
        z = q.rsample(n * n_samples, generator=generator)
        log_weights = _log_weights(model, x, q, z)
        parts.append(_log_mean_exp(log_weights.unflatten(0, (n, n_samples)), dim=1))
    result = torch.cat(parts)
    check_finite("the bound", result)
    return result[0] if n_repeats is None else result


def minibatch_elbo(
    terms: Float[Tensor, " b"], n_data: int, reduction: Literal["sum", "mean"] = "sum"
) -> Float[Tensor, ""]:
    """Estimate of the bound of all data from the bounds of a batch that was drawn uniformly, in nats.

    reduction "sum": n_data / b times the sum of the batch, unbiased for the sum over all data. "mean": the mean of the
    batch, unbiased for the mean over all data, which is the objective of this book. Differentiable in terms.
    Shapes: terms (b,), the bound of each datum of the batch. Returns a scalar.
    Raises TypeError or ValueError for wrong types or shapes, NaN or infinity, an unknown reduction, and an n_data that
    is no integer or below b.
    Chapter 8, equation eq-minibatch. M. D. Hoffman, D. M. Blei, C. Wang and J. Paisley, Stochastic Variational
    Inference (2013).

    Examples:
        >>> terms = torch.tensor([-3.0, -5.0])
        >>> minibatch_elbo(terms, 6).item(), minibatch_elbo(terms, 6, "mean").item()
        (-24.0, -4.0)
    """
    check_types({"terms": terms})
    if terms.ndim != 1 or len(terms) == 0:
        raise ValueError(f"terms has shape {tuple(terms.shape)}: give the bounds of b >= 1 data, shape (b,)")
    if reduction not in ("sum", "mean"):
        raise ValueError(f'reduction is {reduction!r}: give "sum" or "mean"')
    if _count("n_data", n_data) < len(terms):
        raise ValueError(f"n_data is {n_data}, and the batch alone has {len(terms)}: give the number of all data")
    check_finite("terms", terms)
    mean = terms.mean()
    return n_data * mean if reduction == "sum" else mean


# Gradients of an expectation


class GradientSamples(NamedTuple):
    """Independent estimates of a gradient in the mean and in the log-variance of a Gaussian, one in each row.

    Shapes: mean and log_var both (n_samples, m). The mean over the rows estimates the gradient; their deviation over
    the square root of n_samples is its standard error, if the rows are independent.
    Chapter 8, equations eq-pathwise and eq-score-gradient.

    Examples:
        >>> GradientSamples(torch.zeros(5, 2), torch.ones(5, 2)).log_var.mean(0)
        tensor([1., 1.])
    """

    mean: Tensor
    log_var: Tensor


def pathwise_gradient(
    f: Callable[[Tensor], Tensor],
    mean: Float[Tensor, " m"],
    log_var: Float[Tensor, " m"],
    n_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> GradientSamples:
    """Gradient of E[f(z)] for z ~ N(mean, diag(exp(log_var))), by differentiating along z = mean + deviation * noise.

    f must be differentiable, and treat each row of its argument by itself.
    Shapes: mean and log_var (m,), f (n, m) -> (n,). Returns one unbiased sample of the gradient in each row.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, a log_var whose deviation leaves
    the range of the dtype, an n_samples below 1, a generator on another device, an f that returns another shape, and an
    f that cannot be differentiated.
    Chapter 8, equation eq-pathwise. D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014).

    Examples:
        >>> mean, log_var = torch.tensor([2.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> square = lambda z: z.square().sum(-1)  # E = mean² + 1, the derivative is 4
        >>> rows = pathwise_gradient(square, mean, log_var, 100_000, generator=torch.Generator().manual_seed(0))
        >>> round(rows.mean.mean().item(), 1), round(rows.mean.var().item(), 1)
        (4.0, 4.0)
    """
    noise, deviation = _noise(mean, log_var, n_samples, generator)
    z = (mean + deviation * noise).detach().requires_grad_()
    with torch.enable_grad():
        values = _value(f, z)
        slope = torch.autograd.grad(values.sum(), z, allow_unused=True)[0] if values.requires_grad else None
    if slope is None:
        raise ValueError(
            "f(z) does not depend on z in a way that autograd can follow: compute it with torch operations on z, "
            "or use score_function_gradient, which needs no derivative of f"
        )
    check_finite("the gradient of f", slope)
    return GradientSamples(slope, 0.5 * slope * deviation * noise)


def score_function_gradient(
    f: Callable[[Tensor], Tensor],
    mean: Float[Tensor, " m"],
    log_var: Float[Tensor, " m"],
    n_samples: int,
    *,
    baseline: float | Literal["leave_one_out"] | None = None,
    generator: torch.Generator | None = None,
) -> GradientSamples:
    """Gradient of E[f(z)] for z ~ N(mean, diag(exp(log_var))), from f(z) times the gradient of log q(z).

    f needs no derivative; it may even jump. A constant baseline is subtracted from f and changes no expectation.
    "leave_one_out" takes for each sample the mean of f over the others: unbiased as well, but then the rows are not
    independent.
    Shapes: mean and log_var (m,), f (n, m) -> (n,). Returns one unbiased sample of the gradient in each row.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, a log_var whose deviation leaves
    the range of the dtype, an n_samples below 1 (2 for "leave_one_out"), a generator on another device, a baseline that
    is no finite number, and an f that returns another shape.
    Chapter 8, equation eq-score-gradient. R. J. Williams, Simple Statistical Gradient-Following Algorithms for
    Connectionist Reinforcement Learning (1992).

    Examples:
        >>> mean, log_var = torch.tensor([2.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> square = lambda z: z.square().sum(-1)  # E = mean² + 1, the derivative is 4
        >>> rows = score_function_gradient(square, mean, log_var, 500_000, generator=torch.Generator().manual_seed(0))
        >>> round(rows.mean.mean().item(), 1), round(rows.mean.var().item())
        (4.0, 87)
    """
    noise, deviation = _noise(mean, log_var, n_samples, generator)
    with torch.no_grad():
        values = _value(f, mean + deviation * noise)
        check_finite("f(z)", values)
        weight = (values - _baseline(baseline, values)).unsqueeze(-1)
        return GradientSamples(weight * noise / deviation, 0.5 * weight * (noise.square() - 1))


# What they are made of


def _log_weights(model, x, q, z):
    """log p(x, z) - log q(z)"""
    return model.log_joint(x, z) - q.log_prob(z)


def _log_mean_exp(values, dim):
    return values.logsumexp(dim) - math.log(values.shape[dim])


def _noise(mean, log_var, n_samples, generator):
    """Standard noise in n_samples rows, and the deviation of z."""
    check_form({"mean": mean, "log_var": log_var}, {})
    if mean.ndim != 1 or log_var.ndim != 1:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and log_var {tuple(log_var.shape)}: give one Gaussian, shape (m,)"
        )
    check_finite("mean", mean)
    check_finite("log_var", log_var)
    check_generator(generator, "mean", mean)
    n_samples, deviation = _count("n_samples", n_samples), (0.5 * log_var.detach()).exp()
    smallest, largest = bounds(deviation)
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(
            f"log_var lies between {log_var.min().item():.4g} and {log_var.max().item():.4g}: the deviation "
            f"exp(log_var / 2) leaves the range of {deviation.dtype}"
        )
    noise = torch.randn(n_samples, len(mean), generator=generator, dtype=mean.dtype, device=mean.device)
    return noise, deviation


def _value(f, z):
    values = f(z)
    if not isinstance(values, Tensor) or values.shape != z.shape[:1]:
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise ValueError(f"f gave {got} for z of shape {tuple(z.shape)}: it must give one number for each row of z")
    return values


def _baseline(baseline, values):
    if baseline is None:
        return 0.0
    if baseline == "leave_one_out":
        if len(values) < 2:
            raise ValueError('the baseline "leave_one_out" needs n_samples >= 2')
        return (values.sum() - values) / (len(values) - 1)
    if isinstance(baseline, str) or not math.isfinite(baseline):
        raise ValueError(f'baseline is {baseline!r}: give a finite number, "leave_one_out" or None')
    return float(baseline)


def _check(model, x, q, generator):
    """Refuse what makes no sense; return one q for each datum."""
    for name in ("log_joint", "log_conditional"):
        if not callable(getattr(model, name, None)):
            raise TypeError(f"model is a {type(model).__name__} without {name}: give a model of course_lib.latent")
    if not isinstance(q, GaussianPosterior):
        raise TypeError(f"q is a {type(q).__name__}: give a GaussianPosterior")
    check_types({"x": x, "the mean of q": q.mean})
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: it must end in the dimension d >= 1")
    batch = torch.broadcast_shapes(q.mean.shape[:-1], q.tril.shape[:-2])
    if batch not in ((), x.shape[:-1]):
        raise ValueError(
            f"q has the batch {tuple(batch)} and x has {tuple(x.shape[:-1])}: give one q for each datum, or one for "
            "all, with a mean of shape (m,)"
        )
    check_generator(generator, "x", x)
    # one q for all data: stretched, so that each datum gets its own samples
    return q if batch else GaussianPosterior(q.mean.expand(*x.shape[:-1], -1), q.tril)


def _count(name, n):
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name} is {n!r}: give a whole number, 1 or more")
    return n
