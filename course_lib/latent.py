r"""Latent variable models and the integral over the latent variable (chapter 7).

p(x) is the integral of p(x | z) p(z) over z: exact for ProbabilisticPCA, by quadrature where z has one or two
dimensions, by Monte Carlo in general. All results are in nats for each datum. The model may be anything with the
methods `log_prior`, `log_conditional` and `log_joint`, and the number `latent_dim`. Device and dtype follow the data.

The parts lie in modules of their own, and their names are here too: `latent_models` (posteriors and the model with any
decoder), `ppca` (the exact model) and `sampling` (Metropolis).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib._validation import any_of, check_finite, check_generator, check_types, member, values_are_known
from course_lib.latent_models import GaussianLatentModel, GaussianPosterior
from course_lib.ppca import ProbabilisticPCA
from course_lib.sampling import Chain, autocorrelation, effective_sample_size, metropolis

__all__ = [
    "Chain",
    "GaussianLatentModel",
    "GaussianPosterior",
    "ProbabilisticPCA",
    "autocorrelation",
    "effective_sample_size",
    "marginal_by_quadrature",
    "marginal_log_likelihood",
    "metropolis",
    "posterior_on_grid",
]

CHUNK = 2**20  # so many numbers are worked on at once
DEFAULT_NODES = {1: 2001, 2: 401}


def marginal_log_likelihood(
    model,
    x: Float[Tensor, "*batch d"],
    n_samples: int,
    *,
    proposal: GaussianPosterior | None = None,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Float[Tensor, "*batch"]:
    """Estimate log p(x) by Monte Carlo: the logarithm of the mean of p(x, z_s) / q(z_s), z_s drawn from q.

    Without a proposal, q is the prior and the mean is that of p(x | z_s). The same samples then serve all data, so the
    estimate is a density of x itself, and the errors of different data are correlated. With a proposal, a Gaussian for
    each datum, this is importance sampling: the nearer q is to the posterior, the smaller the variance, and with the
    exact posterior every single sample gives log p(x).
    The mean is unbiased for p(x); its logarithm is too small on average. Samples are taken chunk_size at a time, which
    bounds the memory; the default works on about a million numbers at once. With another chunk_size, the generator's
    numbers may go to other samples.
    Shapes: x (*batch, d); the batch of the proposal broadcasts to (*batch). Returns (*batch).
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, fewer than one sample, and
    a proposal of another dimension or batch.
    Chapter 7, equations def-lv-monte-carlo and eq-lv-is-mean.

    Examples:
        >>> W, zero = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        >>> model = ProbabilisticPCA.from_parameters(W, zero, 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> estimate = marginal_log_likelihood(model, zero + 1, 10_000, generator=generator)
        >>> round(estimate.item(), 1), round(model.log_likelihood(zero + 1).item(), 1)
        (-2.7, -2.7)
        >>> exact = marginal_log_likelihood(model, zero + 1, 1, proposal=model.posterior(zero + 1))
        >>> (exact - model.log_likelihood(zero + 1)).abs().item() < 1e-12
        True
    """
    _check_data(x)
    check_generator(generator, "x", x)
    if n_samples < 1:
        raise ValueError(f"n_samples is {n_samples}: give at least one")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: give at least one sample at a time")
    if proposal is not None:
        proposal = _check_proposal(proposal, x, model.latent_dim)
    size = chunk_size or max(1, CHUNK // (max(1, x[..., 0].numel()) * (x.shape[-1] + model.latent_dim)))
    total = None
    for first in range(0, n_samples, size):
        n = min(size, n_samples - first)
        if proposal is None:
            shape = (n, *[1] * (x.ndim - 1), model.latent_dim)
            z = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
            log_weights = model.log_conditional(x, z)
        else:
            z = proposal.rsample(n, generator=generator)
            log_weights = model.log_joint(x, z) - proposal.log_prob(z)
        part = log_weights.double().logsumexp(0)
        total = part if total is None else torch.logaddexp(total, part)
    return (total - math.log(n_samples)).to(x.dtype)


def marginal_by_quadrature(
    model, x: Float[Tensor, "*batch d"], n_nodes: int | None = None, *, reach: float = 8.0
) -> Float[Tensor, "*batch"]:
    """Log p(x) as an integral over z on a regular grid, where z has one or two dimensions.

    The trapezoidal rule with n_nodes from -reach to reach in each dimension: for a smooth integrand that vanishes at
    both ends its error falls faster than any power of the spacing. The result is refused where rules with fewer nodes
    give another, and where the integrand is not small at the ends.
    Shapes: x (*batch, d). Returns (*batch).
    Raises TypeError or ValueError for wrong types or shapes, NaN or infinity, a latent dimension above 2, an even
    n_nodes, and an integral that the grid does not resolve: the posterior is too narrow (raise n_nodes), or lies
    beyond the ends (raise reach).
    Chapter 7, equation eq-lv-marginal. L. N. Trefethen and J. A. C. Weideman, The Exponentially Convergent Trapezoidal
    Rule (2014).

    Examples:
        >>> W, zero = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        >>> model = ProbabilisticPCA.from_parameters(W, zero, 0.01)
        >>> (marginal_by_quadrature(model, zero) - model.log_likelihood(zero)).abs().item() < 1e-12
        True
    """
    _check_data(x)
    m = model.latent_dim
    if m not in DEFAULT_NODES:
        raise ValueError(f"latent_dim is {m}: quadrature serves 1 or 2 dimensions; use marginal_log_likelihood")
    n_nodes = DEFAULT_NODES[m] if n_nodes is None else n_nodes
    if n_nodes < 5 or n_nodes % 2 == 0:
        raise ValueError(f"n_nodes is {n_nodes}: give an odd number from 5 on, so that every second node is a rule too")
    if not 0 < reach < math.inf:
        raise ValueError(f"reach is {reach}: it must be positive and finite")
    axis = torch.linspace(-reach, reach, n_nodes, dtype=x.dtype, device=x.device)
    z = torch.stack(torch.meshgrid(*[axis] * m, indexing="ij"), -1)
    rule = _Trapezoid([axis] * m)
    log_joint = _on_grid(model, x, z.flatten(0, -2))
    return rule.integrate(log_joint, tol=1e-6).to(x.dtype)


def posterior_on_grid(model, x: Float[Tensor, "*batch d"], grid: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Density p(z | x) at the points of a grid, divided by its integral over the grid.

    Shapes: x (*batch, d); grid (n) or (n, 1) for one latent dimension, ascending; (n_1, n_2, 2) for two, as
    torch.stack(torch.meshgrid(axis_1, axis_2, indexing="ij"), -1). Returns (*grid, *batch): (n, *batch) or
    (n_1, n_2, *batch).
    Raises TypeError or ValueError for wrong types or shapes, NaN or infinity, points that are no such grid, and
    a posterior that the grid cuts off (more than a thousandth of its height at an end) or does not resolve (with
    every second point the integral differs by more than a hundredth).
    Chapter 7, equation eq-lv-posterior.

    Examples:
        >>> W, zero = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        >>> model = ProbabilisticPCA.from_parameters(W, zero, 1.0)
        >>> z = torch.linspace(-4, 4, 401, dtype=torch.float64)
        >>> density = posterior_on_grid(model, zero, z)
        >>> gap = density - model.posterior(zero).log_prob(z[:, None]).exp()
        >>> gap.abs().max().item() < 1e-12
        True
    """
    _check_data(x)
    check_types({"x": x, "grid": grid})
    if grid.ndim == 1:
        grid = grid.unsqueeze(-1)
    m = model.latent_dim
    if m not in DEFAULT_NODES or grid.ndim != m + 1 or grid.shape[-1] != m:
        raise ValueError(
            f"grid has shape {tuple(grid.shape)} and latent_dim is {m}: give (n) for one latent dimension, "
            "or (n_1, n_2, 2) for two"
        )
    rule = _Trapezoid(_axes(grid))
    log_joint = _on_grid(model, x, grid.flatten(0, -2))
    log_integral = rule.integrate(log_joint, tol=1e-2, edge=1e-3)
    density = (log_joint.double() - log_integral).exp().to(x.dtype)
    return density.unflatten(0, grid.shape[:-1])


class _Trapezoid:
    """The trapezoidal rule on a product of axes, and the same with every second and with every third node."""

    def __init__(self, axes):
        self.shape = [len(axis) for axis in axes]
        self.log_weights = [self._log_weights(axes, every) for every in (1, 2, 3)]
        ends = torch.zeros(self.shape, dtype=torch.bool, device=axes[0].device)
        for dim, length in enumerate(self.shape):
            ends.index_fill_(dim, torch.tensor([0, length - 1], device=axes[0].device), True)
        self.ends = ends.flatten()

    @staticmethod
    def _log_weights(axes, every):
        """Flat logarithms of the weights, -inf for nodes that are not used."""
        logs = []
        for axis in axes:
            nodes = torch.arange(0, len(axis), every, device=axis.device)
            widths = axis.double()[nodes].diff()
            weights = axis.new_zeros(len(axis), dtype=torch.float64)
            weights[nodes[:-1]] += widths / 2
            weights[nodes[1:]] += widths / 2
            logs.append(weights.log())
        return logs[0] if len(logs) == 1 else (logs[0][:, None] + logs[1]).flatten()

    def integrate(self, log_values, tol, edge=1e-12):
        """The logarithm of the integral of exp(log_values), (nodes, *batch) -> (*batch), if the grid resolves it."""
        values = log_values.double().flatten(1) if log_values.ndim > 1 else log_values.double().unsqueeze(1)
        highest = values.amax(0)
        full, half, third = ((values + weights.unsqueeze(1)).logsumexp(0) for weights in self.log_weights)
        batch = log_values.shape[1:]
        cut = values[self.ends].amax(0) > highest + math.log(edge)
        if any_of(cut):
            index = cut.reshape(batch).nonzero()[0].tolist()
            raise ValueError(
                f"the posterior of {member('x', index)} is not small at the ends of the grid: raise reach, "
                "or give a wider grid"
            )
        rounding = 64 * torch.finfo(log_values.dtype).eps * (1 + highest.abs())
        resolved = (full - half).abs() <= tol + rounding
        # A peak right between two nodes looks the same with and without one of them, but not with every third.
        resolved &= (full - third).abs() <= 0.3
        if any_of(~resolved):
            index = (~resolved).reshape(batch).nonzero()[0].tolist()
            raise ValueError(
                f"the posterior of {member('x', index)} is too narrow for the grid (with every second or third node "
                "the integral is another): raise n_nodes, or give a finer grid"
            )
        return full.reshape(batch)


def _axes(grid):
    """The axes of a grid of points, if it is a product of ascending axes."""
    if grid.shape[-1] == 1:
        axes = [grid[:, 0]]
    else:
        axes = [grid[:, 0, 0], grid[0, :, 1]]
        if values_are_known(grid) and not torch.equal(grid, torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)):
            raise ValueError(
                'grid is not a product of two axes: make it as torch.stack(torch.meshgrid(a, b, indexing="ij"), -1)'
            )
    check_finite("grid", grid)
    for number, axis in enumerate(axes):
        if len(axis) < 5 or any_of(axis.diff() <= 0):
            raise ValueError(f"axis {number} of grid is short or does not ascend: give at least 5 ascending points")
    return axes


def _on_grid(model, x, z):
    """log p(x, z) for all nodes (n, m), shape (n, *batch), not all of (n, *batch, d) at once."""
    z = z.reshape(len(z), *[1] * (x.ndim - 1), z.shape[-1])
    size = max(1, CHUNK // max(1, x.numel()))
    return torch.cat([model.log_joint(x, part) for part in z.split(size)])


# Checks


def _check_data(x):
    check_types({"x": x})
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: it must end in the dimension d >= 1")
    check_finite("x", x.detach())


def _check_proposal(proposal, x, m):
    """The proposal, stretched to the batch of x."""
    if not isinstance(proposal, GaussianPosterior):
        raise TypeError(f"proposal is a {type(proposal).__name__}: give a GaussianPosterior")
    check_types({"x": x, "proposal.mean": proposal.mean})
    shape = (*x.shape[:-1], m)
    for name, found in (("mean", proposal.mean.shape), ("tril", proposal.tril.shape[:-1])):
        fits = found[-1] == m and all(a in (1, b) for a, b in zip(found[::-1], shape[::-1], strict=False))
        if len(found) > len(shape) or not fits:
            raise ValueError(
                f"proposal.{name} has shape {tuple(getattr(proposal, name).shape)}: for x of shape {tuple(x.shape)} "
                f"its batch must broadcast to {shape[:-1]}, and its dimension must be latent_dim = {m}"
            )
    return GaussianPosterior(proposal.mean.expand(shape), proposal.tril)
