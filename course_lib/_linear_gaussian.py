r"""Posterior, likelihood and EM step of x = W z + mean + noise, where entries of x may be missing.

Nothing of size d x d is formed. With sd = sqrt(noise_var), the posterior mean of z minimises
|x - mean - W z|^2 + noise_var |z|^2, a least-squares problem with the matrix [W; sd I]. Its orthogonal factorisation
[W; sd I] = Q L, L lower triangular with L' L = G = W' W + noise_var I, gives

    posterior of z:  mean G^-1 W' (x - mean),  covariance noise_var G^-1 = (sd L^-1)(sd L^-1)',
    log det C = (d - m) log(noise_var) + 2 sum_i log L_ii,
    (x - mean)' C^-1 (x - mean) = |x - mean - W z|^2 / noise_var + |z|^2    at the posterior mean z.

G itself is not formed, and the last line has no difference of large numbers: so a small noise variance costs no digits.
Missing entries drop out of every sum: for each pattern of missing entries that occurs, the rows of W that are observed
take the place of W. Everything here is float64.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import diagonal, solve_triangular

from course_lib._validation import any_of

LOG_TWO_PI = math.log(2 * math.pi)
CHUNK = 2**17  # so many numbers are worked on at once where rows have different patterns: they fit in the cache


class Expectation(NamedTuple):
    """What the posterior says of N rows: its means (N, m), its factors (P, m, m), the log-likelihoods (N)."""

    z: Tensor
    tril: Tensor
    log_likelihood: Tensor


class Rows:
    """The patterns of missing entries of N rows: P different masks (P, d), and the number of each row's pattern."""

    def __init__(self, masks, pattern, missing):
        self.masks, self.pattern, self.missing = masks, pattern, missing
        self.mask = masks if pattern is None else masks[pattern]  # of each row

    @classmethod
    def of(cls, x):
        """Rows in float64 with zeros for what is missing, and their patterns."""
        data = x.double()
        if not any_of(x.detach().isnan()):
            return data, cls(data.new_ones(1, x.shape[1]), None, False)
        observed = ~x.detach().isnan()
        masks, pattern = observed.unique(dim=0, return_inverse=True)
        return torch.where(observed, data, 0.0), cls(masks.double(), pattern, True)

    def check_observed(self):
        if not self.missing:
            return
        mask = self.mask
        for name, counts in (("row", mask.sum(1)), ("column", mask.sum(0))):
            if any_of(counts == 0):
                index = (counts == 0).nonzero()[0].item()
                raise ValueError(f"{name} {index} of x has no observed entry: leave it out")

    def centre(self, data):
        """The data without the mean of each column, this mean, and the mean variance of an entry."""
        mask = self.mask.expand(data.shape)
        mean = data.sum(0) / mask.sum(0)
        centred = mask * (data - mean)
        variance = centred.square().sum() / mask.sum()
        if any_of(variance.sqrt() <= 4 * torch.finfo(data.dtype).eps * data.abs().max()):
            raise ValueError("in each column of x all observed entries are equal: there is nothing to fit")
        return centred, mean, variance

    def expect(self, data, W, mean, noise_var):
        """The posterior of z and the log-likelihood of each row."""
        sd, m = noise_var.sqrt(), W.shape[1]
        eye = torch.eye(m, dtype=W.dtype, device=W.device)
        size = max(1, CHUNK // (W.numel() + m * m))
        L = torch.cat([_factor(part.unsqueeze(-1) * W, sd) for part in self.masks.split(size)])
        inverse = solve_triangular(L, eye, upper=False)
        # L' L z = W' (x - mean), and once more for what rounding left over
        centred = self.mask * (data - mean)
        z = self._solve(inverse, centred @ W)
        residual = self.mask * (centred - z @ W.mT)
        z = z + self._solve(inverse, residual @ W - noise_var * z)
        residual = self.mask * (centred - z @ W.mT)
        n_observed = self.masks.sum(1)
        log_det = (n_observed - m) * noise_var.log() + 2 * diagonal(L).log().sum(-1)
        constant = n_observed * LOG_TWO_PI + log_det
        square = residual.square().sum(-1) / noise_var + z.square().sum(-1)
        constant = constant if self.pattern is None else constant[self.pattern]
        return Expectation(z, sd * inverse, -0.5 * (constant + square))

    def _solve(self, inverse, rows):
        """(L' L)^-1 times each row, with the L of its pattern."""
        if self.pattern is None:
            return rows @ inverse.squeeze(0) @ inverse.squeeze(0).mT
        size = max(1, CHUNK // inverse.shape[-1] ** 2)
        solutions = []
        for row, pattern in zip(rows.unsqueeze(1).split(size), self.pattern.split(size), strict=True):
            chosen = inverse[pattern]
            solutions.append(row @ chosen @ chosen.mT)
        return torch.cat(solutions).squeeze(1)

    def maximise(self, data, step):
        """The parameters that maximise the expected log p(x, z): a regression of each column on z and 1."""
        N, m = step.z.shape
        z1 = torch.nn.functional.pad(step.z, (0, 1), value=1.0)
        cov = step.tril @ step.tril.mT
        # E[(z, 1) (z, 1)'], summed over the rows in which a column is observed
        if self.pattern is None:
            uncertain = N * cov
            moments = z1.mT @ z1 + _pad(uncertain.squeeze(0))
            solution = torch.linalg.solve(moments, z1.mT @ data).mT
        else:
            counts = torch.bincount(self.pattern, minlength=len(cov)).to(cov)
            uncertain = torch.einsum("pd,p,pij->dij", self.masks, counts, cov)
            moments = self._products(z1) + _pad(uncertain)
            solution = torch.linalg.solve(moments, (data.mT @ z1).unsqueeze(-1)).squeeze(-1)
        W, mean = solution.split((m, 1), 1)
        mean = mean.squeeze(1)
        mask = self.mask.expand(data.shape)
        residual = (mask * (data - z1 @ solution.mT)).square().sum()
        spread = torch.einsum("di,dij,dj->", W, uncertain.expand(len(W), m, m), W)
        return W, mean, (residual + spread) / mask.sum()

    def _products(self, z1):
        """The sum of (z, 1) (z, 1)' over the rows in which each column is observed, (d, m + 1, m + 1)."""
        total, size = 0, max(1, CHUNK // z1.shape[1] ** 2)
        for row, pattern in zip(z1.split(size), self.pattern.split(size), strict=True):
            outer = (row.unsqueeze(2) * row.unsqueeze(1)).flatten(1)
            total = total + self.masks[pattern].mT @ outer
        return total.unflatten(1, (z1.shape[1], z1.shape[1]))


def _factor(W, sd):
    """The lower factor L of [W; sd I] = Q L, for a batch of W (P, d, m)."""
    ridge = (sd * torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)).expand(len(W), -1, -1)
    # Of the columns in reverse order: reversed back, the upper factor R is lower. Signs make its diagonal positive.
    stacked = torch.cat((W, ridge), 1).flip(-1)
    R = torch.linalg.qr(stacked, mode="reduced" if stacked.requires_grad else "r").R
    return (diagonal(R).sign().unsqueeze(-1) * R).flip(-1, -2)


def _pad(matrices):
    """With one more row and column, of zeros."""
    return torch.nn.functional.pad(matrices, (0, 1, 0, 1))
