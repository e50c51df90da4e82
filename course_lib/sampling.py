r"""Random-walk Metropolis, and how much its correlated samples are worth (chapter 7).

A chain visits points whose long-run frequencies follow a density that is known up to a factor. Many chains run at once,
side by side: states have the shape (*chains, m), and samples (n_steps, *chains, m). Device and dtype follow the start.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib._validation import check_finite, check_generator, check_types, member, values_are_known

__all__ = ["Chain", "autocorrelation", "effective_sample_size", "metropolis"]

BLOCK = 2**20  # up to so many random numbers are drawn at once, for up to 256 steps


class Chain(NamedTuple):
    """The samples of one or more chains, and the fraction of proposals that each of them accepted.

    Shapes: samples (n_steps, *chains, m), acceptance (*chains), between 0 and 1.
    Chapter 7.

    Examples:
        >>> chain = Chain(torch.zeros(100, 4, 2), torch.full((4,), 0.3))
        >>> chain.samples.shape, chain.acceptance.mean()
        (torch.Size([100, 4, 2]), tensor(0.3000))
    """

    samples: Tensor
    acceptance: Tensor


def metropolis(
    log_density: Callable[[Tensor], Tensor],
    start: Float[Tensor, "*chains m"],
    n_steps: int,
    step_sd: float | Tensor,
    *,
    generator: torch.Generator | None = None,
    burn_in: int = 0,
) -> Chain:
    """Sample from a density that is known up to a factor, by random-walk Metropolis.

    Each step proposes z + step_sd * noise and accepts it with probability min(1, p(proposal) / p(z)). Where it is
    rejected, the chain stays, and the state counts once more: without that, the samples would follow another density.
    log_density maps states (*chains, m) to the logarithms of their densities (*chains), up to one constant; -inf
    means density zero. step_sd is one number, or one for each of the m coordinates. The first burn_in states are
    thrown away. No gradient is recorded.
    Shapes: start (*chains, m). Returns samples (n_steps, *chains, m) and acceptance (*chains), over the steps kept.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, a start of density zero, a
    step_sd that is not positive, negative numbers of steps, and a log_density that returns NaN or +infinity.
    Chapter 7, equation def-lv-accept. N. Metropolis et al., Equation of State Calculations by Fast Computing Machines
    (1953).

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> start = torch.zeros(100, 1, dtype=torch.float64)  # 100 chains
        >>> chain = metropolis(lambda z: -z.square().sum(-1) / 2, start, 1000, 2.4, generator=generator, burn_in=20)
        >>> chain.samples.shape, round(chain.samples.var().item(), 1), round(chain.acceptance.mean().item(), 1)
        (torch.Size([1000, 100, 1]), 1.0, 0.4)
    """
    step_sd = _check_start(start, n_steps, step_sd, generator, burn_in)
    with torch.no_grad():
        state = start.detach().clone()
        log_p = _first_density(log_density, state)
        samples, accepted = [state.new_empty((0, *state.shape))], torch.zeros_like(log_p)
        # A block draws for all of its steps, also those after the last one: the number of steps decides how long the
        # chain is, but not where it goes.
        size = min(256, max(1, BLOCK // max(1, start.numel())))
        for first in range(-burn_in, n_steps, size):
            jumps = (step_sd * _noise(torch.randn, size, state, generator)).unbind()
            log_u = _noise(torch.rand, size, log_p, generator).log().unbind()
            states, proposed, accepts = [], [], []
            for t in range(min(size, n_steps - first)):
                proposal = state + jumps[t]
                proposed.append(log_density(proposal))
                accepts.append(log_u[t] < proposed[t] - log_p)
                log_p = torch.where(accepts[t], proposed[t], log_p)
                state = torch.where(accepts[t].unsqueeze(-1), proposal, state)
                states.append(state)
            _check_densities(torch.stack(proposed), first + burn_in)
            burnt = max(0, -first)
            if burnt < len(states):
                samples.append(torch.stack(states[burnt:]))
                accepted += torch.stack(accepts[burnt:]).sum(0)
    return Chain(torch.cat(samples), accepted / max(n_steps, 1))


def autocorrelation(samples: Float[Tensor, "n ..."], max_lag: int) -> Float[Tensor, "lags ..."]:
    """Correlation of each sequence with itself, `lag` steps later, for all lags from 0 to max_lag.

    The sums of products are divided by n whatever the lag, so that large lags, where few pairs are left, stay quiet.
    Shapes: samples (n, *rest), time first. Returns (max_lag + 1, *rest), which begins with 1.
    Raises TypeError or ValueError for wrong types or shapes, NaN or infinity, a max_lag outside 0 to n - 1, and a
    sequence that never changes.
    Chapter 7, equation eq-lv-chain-variance. C. J. Geyer, Practical Markov Chain Monte Carlo (1992).

    Examples:
        >>> steps = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        >>> autocorrelation(steps, 2)
        tensor([ 1.0000, -0.7500,  0.5000], dtype=torch.float64)
    """
    _check_samples(samples, 1)
    if not 0 <= max_lag < len(samples):
        raise ValueError(f"max_lag is {max_lag}: with {len(samples)} samples the lags are 0 to {len(samples) - 1}")
    covariances = _autocovariance(samples)
    _check_moved(covariances[0])
    return (covariances[: max_lag + 1] / covariances[0]).to(samples.dtype)


def effective_sample_size(samples: Float[Tensor, "n *chains m"]) -> Float[Tensor, " m"]:
    """Number of independent samples whose mean would have the same variance, for each coordinate.

    The autocorrelations are summed as long as Geyer's conditions hold: sums of neighbouring pairs are positive and
    fall. Several chains count together, and their correlations are measured against the variance of all of them: so
    chains that stay in different places give a small number.
    Shapes: samples (n, *chains, m), as `metropolis` returns them. Returns (m).
    Raises TypeError or ValueError for wrong types or shapes, NaN or infinity, fewer than 4 steps, and a coordinate
    that never changes.
    Chapter 7, equation eq-lv-chain-variance. C. J. Geyer, Practical Markov Chain Monte Carlo (1992); A. Vehtari et
    al., Rank-Normalization, Folding, and Localization: An Improved R-hat (2021), section 3.2.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> independent = torch.randn(2000, 1, generator=generator, dtype=torch.float64)
        >>> held = independent.repeat_interleave(10, 0)  # each value ten times
        >>> ratio = effective_sample_size(independent) / effective_sample_size(held)
        >>> round(ratio.item(), 1)
        1.0
    """
    _check_samples(samples, 2)
    if len(samples) < 4:
        raise ValueError(f"samples has {len(samples)} steps: give at least 4")
    n, m = len(samples), samples.shape[-1]
    chains = samples.reshape(n, -1, m)
    covariances = _autocovariance(chains)
    within = covariances.mean(1)  # (n, m), divided by n
    total = within[0] + (chains.double().mean(0).var(0) if chains.shape[1] > 1 else 0)
    _check_moved(total)
    correlations = 1 - (within[0] - within) / total
    correlations[0] = 1
    pairs = correlations[: n - n % 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0)
    positive[0] = 1
    time = 2 * (positive * pairs.cummin(0).values).sum(0) - 1
    size = n * chains.shape[1]
    return (size / time.clamp(min=1 / math.log10(size))).to(samples.dtype)


def _autocovariance(samples):
    """Sums of products at each lag, divided by n, in float64; by the Fourier transform of the padded sequence."""
    centred = samples.double() - samples.double().mean(0)
    n = len(samples)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0).abs().square()
    return torch.fft.irfft(spectrum, n=2 * n, dim=0)[:n] / n


def _noise(draw, n, like, generator):
    return draw((n, *like.shape), generator=generator, dtype=like.dtype, device=like.device)


def _first_density(log_density, state):
    log_p = log_density(state)
    if not isinstance(log_p, Tensor) or log_p.shape != state.shape[:-1]:
        got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
        raise ValueError(
            f"log_density returned {got} for states of shape {tuple(state.shape)}: it must return one number for each "
            f"state, shape {tuple(state.shape[:-1])}"
        )
    if values_are_known(log_p) and not log_p.isfinite().all():
        index = (~log_p.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"log_density at {member('start', index)} is {log_p[tuple(index)].item()}: start where the density is "
            "positive and finite"
        )
    return log_p


# Checks


def _check_densities(log_p, first):
    """Those of a block of proposals. The largest is NaN if one of them is, and NaN is not below infinity."""
    if values_are_known(log_p) and not log_p.amax().item() < math.inf:
        step, *index = (~(log_p < math.inf)).nonzero()[0].tolist()
        raise ValueError(
            f"log_density returned {log_p[(step, *index)].item()} for the proposal of {member('chain', index)} in step "
            f"{first + step}: return -inf where the density is zero, and a finite number elsewhere"
        )


def _check_start(start, n_steps, step_sd, generator, burn_in):
    check_types({"start": start})
    if start.ndim == 0 or start.shape[-1] == 0:
        raise ValueError(f"start has shape {tuple(start.shape)}: it must end in the dimension m >= 1")
    check_finite("start", start)
    for name, count in (("n_steps", n_steps), ("burn_in", burn_in)):
        if count < 0:
            raise ValueError(f"{name} is {count}: it must be 0 or more")
    check_generator(generator, "start", start)
    step_sd = torch.as_tensor(step_sd, dtype=start.dtype, device=start.device)
    if step_sd.shape not in ((), start.shape[-1:]):
        raise ValueError(
            f"step_sd has shape {tuple(step_sd.shape)}: give one number, or one for each of the {start.shape[-1]} "
            "coordinates"
        )
    if values_are_known(step_sd) and not (step_sd.isfinite() & (step_sd > 0)).all():
        raise ValueError(f"step_sd is {step_sd.tolist()}: it must be positive and finite")
    return step_sd


def _check_samples(samples, n_dims):
    check_types({"samples": samples})
    if samples.ndim < n_dims or samples.numel() == 0:
        wanted = "(n, *rest)" if n_dims == 1 else "(n, *chains, m)"
        raise ValueError(f"samples has shape {tuple(samples.shape)}: it must be {wanted}, with n >= 1 steps first")
    check_finite("samples", samples)


def _check_moved(variances):
    if values_are_known(variances) and (variances <= 0).any():
        index = (variances <= 0).nonzero()[0].tolist()
        raise ValueError(f"samples[{', '.join(map(str, [':', *index]))}] never changes: take smaller or more steps")
