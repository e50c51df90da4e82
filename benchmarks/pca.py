"""PCA: course_lib.pca against scikit-learn, speed as ratios and errors against a decomposition in float64.

    python -m benchmarks.pca [--quick] [--output FILE]

Ten components, float32. All contenders take turns in one process on one thread (threadpoolctl holds back NumPy's
threads too); a ratio is the median of the ratios of the single rounds, with its quartiles. The peers are scikit-learn's
PCA with its default solver, which is covariance_eigh on these data, and with its others ("full" on the digits only,
where it is not slow). An error is the sine of the largest principal angle to the subspace of a decomposition in
float64 of the same float32 numbers: the median over data sets, the least and the greatest.

The data are the 1797 digits (and Gaussian data of their shape), and Gaussian data with deviations j^-0.7 along random
axes, j = 1, ..., d, so that neighbouring variances are close: those of the axes 10 and 11 differ by half a hundredth of
the largest. Each column has the mean 1/2, or 1e4, where float32 has four digits left.
"""

import statistics

import torch
from sklearn.decomposition import PCA as Peer
from threadpoolctl import threadpool_limits

from benchmarks.run import main, time_ratios
from course_lib.data import load_digits
from course_lib.pca import PCA, principal_angles

M = 10
CASES = ((1797, 64, None), (20_000, 784, 0.95), (100_000, 100, 0.8))  # N, d, goal of the speed
SOLVERS = ("auto", "full", "randomized", "arpack")


def data(n, d, mean, generator):
    """Gaussian data in float32 with deviations j^-0.7 along random axes."""
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    deviations = torch.arange(1, d + 1, dtype=torch.float64) ** -0.7
    return ((torch.randn(n, d, generator=generator, dtype=torch.float64) * deviations) @ axes + mean).float()


def reference(x):
    """The principal axes in columns, by float64."""
    x = x.double()
    x -= x.mean(0)
    return torch.linalg.eigh(x.T @ x).eigenvectors[:, -M:]


def error(axes, components):
    return principal_angles(axes, components.double().T)[-1].sin().item()


def accuracy_rows(n, d, mean, goal, generator, repeats):
    ours, theirs = [], []
    for _ in range(repeats):
        x = data(n, d, mean, generator)
        axes = reference(x)
        ours.append(error(axes, PCA(M).fit(x).components_))
        theirs.append(error(axes, torch.from_numpy(Peer(M).fit(x.numpy()).components_)))
    yield {
        "what": f"{n} x {d}, mean {mean:g}, error of the subspace",
        "value": statistics.median(ours), "quartiles": [min(ours), max(ours)], "goal": goal,
        "met": max(ours) <= goal, "of_sklearn": statistics.median(theirs), "unit": "",
    }  # fmt: skip


def speed_rows(name, x, goal, solvers, seconds):
    array = x.numpy()
    contenders = [lambda: PCA(M).fit(x)]
    contenders += [lambda solver=solver: Peer(M, svd_solver=solver, random_state=0).fit(array) for solver in solvers]
    mine, ratios = time_ratios(contenders, seconds)
    for solver, (low, middle, high) in zip(solvers, ratios, strict=True):
        its_goal = goal if solver == "auto" else None
        yield {
            "what": f"{name}, scikit-learn, {solver}",
            "value": middle, "quartiles": [low, high], "goal": its_goal,
            "met": None if its_goal is None else middle >= its_goal, "microseconds": mine * 1e6, "unit": "x",
        }  # fmt: skip


def rows(quick):
    generator = torch.Generator().manual_seed(0)
    with threadpool_limits(1):
        for n, d, _ in CASES:
            for mean, goal in ((0.5, 1e-5), (1e4, 1e-4)):
                yield from accuracy_rows(n, d, mean, goal, generator, 1 if quick else 5)
        digits = load_digits(dtype=torch.float32).x
        # in a larger company each finds its instructions gone from the cache, which the smallest problem feels
        yield from speed_rows("digits, 1797 x 64", digits, 2.0, SOLVERS[:1], 1 if quick else 20)
        yield from speed_rows("digits, 1797 x 64", digits, None, SOLVERS[1:], 1 if quick else 20)
        for n, d, goal in CASES:
            x = data(n, d, 0.5, generator)
            yield from speed_rows(f"{n} x {d}", x, goal, SOLVERS[:1], 1 if quick else 30)
        for n, d, _ in CASES[1:]:
            yield from speed_rows(f"{n} x {d}", data(n, d, 0.5, generator), None, SOLVERS[2:], 1 if quick else 20)


if __name__ == "__main__":
    legend = "ratio: the peer's time over course_lib's, median and quartiles; error: median, least and greatest"
    main("pca", __doc__, legend, rows)
