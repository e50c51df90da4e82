"""The Gaussian KL in 80 digits, and Gaussians on which it is hard: the truth for the tests and for the benchmark."""

import math

import mpmath
import torch


def exact_kl(mean_p, cov_p, mean_q, cov_q, *, from_factors=False):
    """The textbook formula in 80 digits, with the given entries taken as exact."""
    with mpmath.workdps(80):
        mean_p, cov_p, mean_q, cov_q = (
            mpmath.matrix(tensor.double().tolist()) for tensor in (mean_p, cov_p, mean_q, cov_q)
        )
        if from_factors:
            cov_p, cov_q = cov_p * cov_p.T, cov_q * cov_q.T
        precision, mean = mpmath.inverse(cov_q), mean_p - mean_q
        product = precision * cov_p
        trace = sum(product[i, i] for i in range(cov_p.rows))
        log_ratio = mpmath.log(mpmath.det(cov_q) / mpmath.det(cov_p))
        return (trace - cov_p.rows + (mean.T * precision * mean)[0] + log_ratio) / 2


def relative_error(value, exact):
    return float(abs((mpmath.mpf(value.item()) - exact) / exact))


def ill_conditioned(generator, condition, d=5):
    """A covariance with a random basis and eigenvalues from 1 down to 1 / condition."""
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)
    cov = (basis * eigenvalues) @ basis.mT
    return (cov + cov.mT) / 2
