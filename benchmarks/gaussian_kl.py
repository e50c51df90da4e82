"""Gaussian KL: course_lib.gaussians against torch.distributions, speed as ratios and errors against 80 digits.

    python -m benchmarks.gaussian_kl [--quick] [--output FILE]

All contenders take turns in one process on one thread, so that a busy machine slows them alike; a ratio is the median
of the ratios of the single rounds, with its quartiles. torch.distributions builds both distributions inside the timed
call, once with validate_args=True (its default) and once with False: `torch.compile` switches the default off for the
whole process, so both are asked for by name. course_lib always checks its input.
"""

import statistics

import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from benchmarks.exact import exact_kl, ill_conditioned, relative_error
from benchmarks.run import main, time_ratios
from course_lib.gaussians import kl_diagonal_gaussian, kl_gaussian, kl_gaussian_tril


def random_gaussian(generator, batch, d):
    root = torch.randn(*batch, d, d, generator=generator, dtype=torch.float64)
    cov = root @ root.mT + torch.eye(d, dtype=torch.float64)
    return torch.randn(*batch, d, generator=generator, dtype=torch.float64), (cov + cov.mT) / 2


def torch_kl(mean_p, matrix_p, mean_q, matrix_q, *, validate_args, form="covariance_matrix"):
    p = MultivariateNormal(mean_p, **{form: matrix_p}, validate_args=validate_args)
    q = MultivariateNormal(mean_q, **{form: matrix_q}, validate_args=validate_args)
    return kl_divergence(p, q)


def torch_kl_diagonal(mean_p, log_var_p, mean_q, log_var_q, *, validate_args):
    p = Normal(mean_p, (0.5 * log_var_p).exp(), validate_args=validate_args)
    q = Normal(mean_q, (0.5 * log_var_q).exp(), validate_args=validate_args)
    return kl_divergence(Independent(p, 1, validate_args=validate_args), Independent(q, 1, validate_args=validate_args))


def with_backward(function):
    def forward_and_backward(*arguments, **options):
        return torch.autograd.grad(function(*arguments, **options).sum(), arguments)

    return forward_and_backward


def speed_cases(generator):
    """Name, our function, the peer's, the arguments, and the goals: against validated, against unvalidated torch."""
    for batch, d in (((), 2), ((), 5), ((), 10), ((10,), 10), ((1000,), 2), ((1000,), 10), ((100,), 50)):
        label = f"batch {batch[0] if batch else 1:>5}, d {d:>2}"
        p, q = random_gaussian(generator, batch, d), random_gaussian(generator, batch, d)
        forward_goal = 5.0 if batch == () else 2.0
        yield f"covariances, {label}", kl_gaussian, torch_kl, {}, (*p, *q), forward_goal, 2.0
        factors = p[0], torch.linalg.cholesky(p[1]), q[0], torch.linalg.cholesky(q[1])
        yield f"factors,     {label}", kl_gaussian_tril, torch_kl, {"form": "scale_tril"}, factors, 1.4, 1.25
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    rounded = root @ root.mT + torch.eye(5, dtype=torch.float64)
    rounded = rounded * (1 + 1e-15 * torch.randn(5, 5, generator=generator, dtype=torch.float64))
    mean = torch.zeros(5, dtype=torch.float64)
    pair = mean, rounded, mean + 1, 2 * rounded
    # no goal: no peer was measured so
    yield "covariances, symmetric but for rounding, d 5", kl_gaussian, torch_kl, {}, pair, None, None
    for dtype in (torch.float32, torch.float64):
        vectors = [torch.randn(10_000, 64, generator=generator, dtype=dtype) for _ in range(4)]
        name = f"diagonal, 10,000 x 64, {str(dtype).removeprefix('torch.')}"
        yield name, kl_diagonal_gaussian, torch_kl_diagonal, {}, vectors, 1.25, 1.7


def speed_rows(generator, seconds):
    for name, ours, peer, options, arguments, forward_goal, backward_goal in speed_cases(generator):
        differentiable = [argument.clone().requires_grad_() for argument in arguments]
        for way, wrap, inputs, goal in (
            ("forward", lambda function: function, arguments, forward_goal),
            ("forward and backward", with_backward, differentiable, backward_goal),
        ):
            mine, theirs = wrap(ours), wrap(peer)
            contenders = [
                lambda: mine(*inputs),  # noqa: B023  called before the loop moves on
                lambda: theirs(*inputs, validate_args=True, **options),  # noqa: B023
                lambda: theirs(*inputs, validate_args=False, **options),  # noqa: B023
            ]
            seconds_each, ratios = time_ratios(contenders, seconds)
            # Without validation, only the values from covariances have a goal of their own.
            unvalidated_goal = 1.0 if ours is kl_gaussian and way == "forward" and goal else None
            for label, ratio, its_goal in zip(
                ("validated", "unvalidated"), ratios, (goal, unvalidated_goal), strict=True
            ):
                yield {
                    "what": f"{name}, {way}, torch {label}",
                    "value": ratio[1],
                    "quartiles": [ratio[0], ratio[2]],
                    "goal": its_goal,
                    "met": None if its_goal is None else ratio[1] >= its_goal,
                    "microseconds": seconds_each * 1e6,
                    "unit": "x",
                }


def accuracy_rows(generator, repeats):
    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def covariances(condition):
        return (
            randn(10),
            ill_conditioned(generator, condition, 10),
            randn(10),
            ill_conditioned(generator, condition, 10),
        )

    def float32_covariances():
        while True:
            pair = [tensor.float() for tensor in covariances(1e8)]
            if all(torch.linalg.eigvalsh(cov.double())[0] > 1e-9 for cov in (pair[1], pair[3])):
                return [tensor.double() for tensor in pair]

    def factors():
        deviations = torch.logspace(0, -7.5, 10, dtype=torch.float64)[:, None]
        tril_p, tril_q = (deviations * (torch.eye(10) + randn(10, 10).tril(-1) / 4) for _ in "pq")
        return randn(10), tril_p, randn(10), tril_q

    def nearly_equal(dtype):
        mean, cov = random_gaussian(generator, (), 5)
        noise = 1e-6 * randn(5, 5)
        return [t.to(dtype) for t in (mean, cov, mean + noise[0], cov + noise + noise.mT)]

    for what, ours, make, goal, from_factors in (
        ("float64 covariances, condition 1e8", kl_gaussian, lambda: covariances(1e8), 6e-10, False),
        ("float64 covariances, condition 1e12", kl_gaussian, lambda: covariances(1e12), 3e-6, False),
        (
            "float32 covariances, condition 1e8, before rounding",
            kl_gaussian,
            float32_covariances,
            1e-9,
            False,
        ),
        ("factors, condition 1e15", kl_gaussian_tril, factors, 2e-15, True),
        ("nearly equal, float64", kl_gaussian, lambda: nearly_equal(torch.float64), 1e-12, False),
        ("nearly equal, float32", kl_gaussian, lambda: nearly_equal(torch.float32), 1e-4, False),
    ):
        form = {"form": "scale_tril" if from_factors else "covariance_matrix", "validate_args": False}
        errors, of_torch = [], []
        for _ in range(repeats):
            pair = make()
            exact = exact_kl(*pair, from_factors=from_factors)
            errors.append(relative_error(ours(*pair), exact))
            of_torch.append(relative_error(torch_kl(*pair, **form), exact))
        yield {
            "what": f"relative error, {what}",
            "value": statistics.median(errors),
            "quartiles": [min(errors), max(errors)],
            "of_torch": statistics.median(of_torch),
            "goal": goal,
            "met": statistics.median(errors) <= goal,
            "unit": "",
        }
    pair = random_gaussian(generator, (5000,), 5)
    noise = 1e-6 * randn(5000, 5, 5)
    pair = [t.float() for t in (*pair, pair[0], pair[1] + noise + noise.mT)]
    negative = (kl_gaussian(*pair) < 0).double().mean().item()
    yield {
        "what": "share of negative divergences, nearly equal, float32",
        "value": negative,
        "quartiles": [negative, negative],
        "of_torch": (torch_kl(*pair, validate_args=False) < 0).double().mean().item(),
        "goal": 0.0,
        "met": negative == 0,
        "unit": "",
    }


def rows(quick):
    generator = torch.Generator().manual_seed(0)
    yield from accuracy_rows(generator, 4 if quick else 40)
    yield from speed_rows(generator, 0.1 if quick else 1.5)


if __name__ == "__main__":
    legend = "ratio: torch's time over course_lib's, median and quartiles; error: median, least and greatest"
    main("gaussian_kl", __doc__, legend, rows)
