r"""Every equation of chapter 7, both sides computed by routes that share no code.

`agree` reads all sides from the chapter itself and computes each with the values of ``situations_07``: integrals over
fine grids, sums over all samples, searches for maxima. Beside it, ``course_lib`` is held against the same values.
``test_latex_reader.py`` shows that small changes are seen.
"""

import itertools
import math

import numpy as np
import pytest
import situations_07 as values
import torch
from latex_numerics import grid
from printed import agree, readers, relation
from scipy import stats
from sklearn.neighbors import KernelDensity

from course_lib import latent
from course_lib.latent import GaussianLatentModel, GaussianPosterior, ProbabilisticPCA

two = pytest.mark.parametrize("seed", range(2))


def tensor(array):
    return torch.as_tensor(np.asarray(array, dtype=float), dtype=torch.float64)


def flat(array):
    return tensor(np.ravel(array))


def curve_model(names):
    """The curve of a situation with m = 1 as a model of course_lib."""
    dec = names[r"\dec"]
    return GaussianLatentModel(
        lambda z: torch.stack([flat(dec(one.item())) for one in z.reshape(-1)]).reshape(*z.shape[:-1], 2),
        1, names[r"\sigma"],
    )  # fmt: skip


def linear_model(names):
    """The linear Gaussian model of a situation, of course_lib."""
    return ProbabilisticPCA.from_parameters(tensor(names["W"]), flat(names[r"\mu"]), tensor(names[r"\sigma"] ** 2))


# --- the curve, histogram and kernel ---


@two
@pytest.mark.equation("def-latent-curve", r"\dec(z) = z \, e_1 + \sin(3 z) \, e_2 ,")
def test_curve(seed):
    agree("def-latent-curve", values.curve(seed))


@two
@pytest.mark.equation("def-lv-histogram", r"\hat p(x) = \frac{n_k}{N h^d} .")
def test_histogram(seed):
    names = values.histogram(seed)
    agree("def-lv-histogram", names)
    empty = next(k for k, count in enumerate(names["n_k"], 1) if count == 0)
    assert readers("def-lv-histogram")[1](names | {"k": empty}) == 0


@two
@pytest.mark.equation("def-lv-kernel", r"\hat p(x) = \frac{1}{N} \sum_{i=1}^{N} \Normal(x; x_i, h^2 I)")
def test_kernel_estimate(seed):
    names = values.kernel(seed)
    agree("def-lv-kernel", names)
    data = np.array([np.ravel(one) for one in names["x_i"]])
    peer = KernelDensity(bandwidth=names["h"]).fit(data).score_samples([np.ravel(names["x"])])
    assert readers("def-lv-kernel")[1](names) == pytest.approx(np.exp(peer.item()))


@two
@pytest.mark.equation("eq-lv-empty", r"\frac{1}{K} \sum_{k=1}^{K} \ind[n_k = 0] \geq 1 - \frac{N}{K} .")
def test_share_of_empty_cells(seed):
    agree("eq-lv-empty", values.cells(seed))
    counts = np.histogramdd(np.random.default_rng(seed).normal(size=(20, 3)), [np.linspace(-6, 6, 5)] * 3)[0]
    agree("eq-lv-empty", {"n_k": [int(n) for n in counts.ravel()], "K": 64, "N": 20})


# --- the model ---


@two
@pytest.mark.equation(
    "def-latent-model",
    r"p(z) = \Normal(z; 0, I_m) , \qquad p(x \mid z) = \Normal(x; \dec(z), \sigma^2 I_d) .",
)
@pytest.mark.equation("eq-lv-joint", r"p(x, z) = p(x \mid z) \, p(z) .")
@pytest.mark.equation("eq-lv-marginal", r"p(x) = \int p(x, z) \, dz = \int p(x \mid z) \, p(z) \, dz .")
@pytest.mark.equation("eq-lv-posterior", r"p(z \mid x) = \frac{p(x \mid z) \, p(z)}{p(x)} .")
def test_model_joint_marginal_posterior(seed):
    names = values.plane_curve(seed)
    for label in ("def-latent-model", "eq-lv-joint", "eq-lv-marginal", "eq-lv-posterior"):
        agree(label, names)
    model, x, z = curve_model(names), flat(names["x"]), tensor([names["z"]])
    assert model.log_prior(z).exp().item() == pytest.approx(names["p(z)"](names["z"]))
    assert model.log_conditional(x, z).exp().item() == pytest.approx(names[r"p(x \mid z)"](names["x"], names["z"]))
    assert model.log_joint(x, z).exp().item() == pytest.approx(names["p(x, z)"](names["x"], names["z"]))
    assert latent.marginal_by_quadrature(model, x, 401).exp().item() == pytest.approx(names["p(x)"](names["x"]))
    nodes = torch.linspace(-7, 7, 401, dtype=torch.float64)
    density = latent.posterior_on_grid(model, x, nodes)
    expected = [names[r"p(z \mid x)"](one.item(), names["x"]) for one in nodes[150:250:20]]
    torch.testing.assert_close(density[150:250:20], tensor(expected))


@two
@pytest.mark.equation("eq-lv-candidate", r"p(x) = \frac{p(x \mid z) \, p(z)}{p(z \mid x)} .")
def test_posterior_at_any_place_gives_the_marginal(seed):
    names = values.plane_curve(seed)
    for z in (-2.0, 0.0, 0.7, 3.0):
        agree("eq-lv-candidate", names | {"z": z})


@two
@pytest.mark.equation("eq-lv-factorises", r"\log p(X) = \sum_{i=1}^{N} \log \int p(x_i \mid z) \, p(z) \, dz .")
def test_likelihood_of_several_data(seed):
    agree("eq-lv-factorises", values.several_data(seed))


@two
@pytest.mark.equation("eq-lv-rotation", r"\int p(x \mid Q z) \, p(z) \, dz = p(x) .")
def test_rotations_of_z_change_nothing(seed):
    names = values.rotated(seed)
    agree("eq-lv-rotation", names, rel=1e-6)
    W, Q = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), tensor(names["Q"])
    x = flat(names["x"])
    plain, turned = (ProbabilisticPCA.from_parameters(V, torch.zeros_like(x), tensor(0.3)) for V in (W, W @ Q))
    torch.testing.assert_close(plain.log_likelihood(x), turned.log_likelihood(x))


@two
@pytest.mark.equation(
    "eq-lv-toy",
    r"p(x) = \Normal(x; 0, w^2 + \sigma^2) , \qquad p(z \mid x) = \Normal\left(z; \frac{w x}{w^2 + "
    r"\sigma^2}, \frac{\sigma^2}{w^2 + \sigma^2}\right) .",
)
def test_toy(seed):
    names = values.toy(seed)
    agree("eq-lv-toy", names)
    model = ProbabilisticPCA.from_parameters(tensor([[names["w"]]]), tensor([0.0]), tensor(names[r"\sigma"] ** 2))
    x, z = tensor([names["x"]]), tensor([names["z"]])
    assert model.log_likelihood(x).exp().item() == pytest.approx(names["p(x)"](names["x"]))
    assert model.posterior(x).log_prob(z[None]).exp().item() == pytest.approx(
        names[r"p(z \mid x)"](names["z"], names["x"])
    )


# --- Monte Carlo ---


@two
@pytest.mark.equation("def-lv-monte-carlo", r"\hat p_M(x) = \frac{1}{M} \sum_{s=1}^{M} p(x \mid z_s) .")
@pytest.mark.equation("eq-lv-mc-mean", r"\E[\hat p_M(x)] = p(x) .")
@pytest.mark.equation(
    "eq-lv-mc-variance",
    r"\frac{\Var[\hat p_M(x)]}{p(x)^2} = \frac{1}{M} \left( \frac{\E[p(x \mid z)^2]}{p(x)^2} - 1 \right) .",
)
@pytest.mark.equation("eq-lv-log-bias", r"\E[\log \hat p_M(x)] \leq \log p(x) .")
def test_monte_carlo_over_all_samples(seed):
    for M in (1, 2, 3):
        names = values.discrete(seed, M)
        for label in ("def-lv-monte-carlo", "eq-lv-mc-mean", "eq-lv-mc-variance", "eq-lv-log-bias"):
            agree(label, names)
    biases = [readers_of("eq-lv-log-bias", values.discrete(seed, M)) for M in (1, 2, 3)]
    assert biases[0] < biases[1] < biases[2] < 0


def readers_of(label, names):
    (left, right), _ = relation(label)
    return left(names) - right(names)


@pytest.mark.equation("def-lv-monte-carlo", r"\hat p_M(x) = \frac{1}{M} \sum_{s=1}^{M} p(x \mid z_s) .")
def test_monte_carlo_of_course_lib():
    """The logarithm of the mean of p(x | z_s) with the samples that the generator gives, alone and in parts."""
    model = GaussianLatentModel(lambda z: torch.cat([z, z**2], -1), 1, 0.5)
    x = tensor([[0.4, 0.3], [-1.0, 0.8]])
    z = torch.randn(1000, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = (x[:, 0] - z[..., 0]) ** 2 + (x[:, 1] - z[..., 0] ** 2) ** 2
    expected = (torch.exp(-distance / 0.5) / (2 * math.pi * 0.25)).mean(0).log()
    found = latent.marginal_log_likelihood(model, x, 1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected)


@two
@pytest.mark.equation(
    "eq-lv-square",
    r"\Normal(x; z, \sigma^2)^2 = \frac{1}{2 \sigma \sqrt{\pi}} \Normal(x; z, \frac{\sigma^2}{2}) .",
)
@pytest.mark.equation(
    "eq-lv-mc-explodes",
    r"\frac{\E[p(x \mid z)^2]}{p(x)^2} = \left( \frac{1 + \sigma^2}{\sigma \sqrt{2 + \sigma^2}} \right)^m "
    r"\exp\left( \frac{\| x \|^2}{(1 + \sigma^2) (2 + \sigma^2)} \right) .",
)
def test_variance_grows_with_the_dimension(seed):
    agree("eq-lv-square", values.square(seed))
    agree("eq-lv-mc-explodes", values.copies(seed), rel=1e-6)
    side = readers("eq-lv-mc-explodes")[1]
    for sigma in (0.1, 0.75, 5.0, 40.0):
        one, two = (side({r"\sigma": sigma, "m": m, "x": np.zeros((m, 1))}) for m in (1, 2))
        assert 1 < one < two


# --- importance sampling ---


@two
@pytest.mark.equation("def-lv-weights", r"r(z) = \frac{p(x, z)}{q(z)} .")
@pytest.mark.equation("eq-lv-is-mean", r"\E_q[r(z)] = \int q(z) \frac{p(x, z)}{q(z)} \, dz = p(x) .")
@pytest.mark.equation("eq-lv-is-variance", r"\Var_q[r(z)] = \int \frac{p(x, z)^2}{q(z)} \, dz - p(x)^2 .")
def test_importance_weights(seed):
    names = values.proposal(seed)
    for label in ("def-lv-weights", "eq-lv-is-mean", "eq-lv-is-variance"):
        agree(label, names)
    exact = names | {"q(z)": lambda z: names[r"p(z \mid x)"](z, names["x"])}
    exact |= {"r(z)": lambda z: names["p(x, z)"](names["x"], z) / exact["q(z)"](z), "dz": grid(-4, 4, 97)}
    assert readers("eq-lv-is-variance")[0](exact) == pytest.approx(0, abs=1e-12)
    assert readers("eq-lv-is-variance")[1](exact) == pytest.approx(0, abs=1e-12)


@two
@pytest.mark.equation(
    "eq-lv-is-wide",
    r"\E_q\left[\left( \frac{r(z)}{p(x)} \right)^2\right] = \left( \frac{c}{\sqrt{2 c - 1}} \right)^m .",
)
def test_a_proposal_of_another_width(seed):
    agree("eq-lv-is-wide", values.wide(seed), rel=1e-6)
    side = readers("eq-lv-is-wide")[1]
    assert side({"c": 1.0, "m": 3}) == pytest.approx(1)
    assert side({"c": 0.5001, "m": 1}) > 30


@pytest.mark.equation("def-lv-weights", r"r(z) = \frac{p(x, z)}{q(z)} .")
@pytest.mark.equation("eq-lv-is-mean", r"\E_q[r(z)] = \int q(z) \frac{p(x, z)}{q(z)} \, dz = p(x) .")
def test_importance_sampling_of_course_lib():
    """The weights by hand; one sample of the exact posterior is enough."""
    model = ProbabilisticPCA.from_parameters(tensor([[1.0, 0.2], [0.3, -0.8], [0.5, 0.5]]), flat([0.1] * 3), 0.4)
    x = tensor([0.7, -0.2, 0.4])
    q = GaussianPosterior(tensor([0.3, 0.1]), tensor([[0.9, 0.0], [-0.2, 0.7]]))
    z = q.rsample(500, generator=torch.Generator().manual_seed(1)).numpy()
    law = stats.multivariate_normal([0.3, 0.1], (q.tril @ q.tril.T).numpy())
    C = model.W_.numpy()
    joint = [values.normal(x, C @ one + 0.1, 0.4**0.5) * values.normal(one, 0, 1) for one in z]
    expected = np.log(np.mean(joint / law.pdf(z)))
    found = latent.marginal_log_likelihood(model, x, 500, proposal=q, generator=torch.Generator().manual_seed(1))
    assert found.item() == pytest.approx(expected)
    exact = latent.marginal_log_likelihood(model, x, 1, proposal=model.posterior(x))
    torch.testing.assert_close(exact, model.log_likelihood(x))


@two
@pytest.mark.equation(
    "eq-lv-ess-weights",
    r"\hat M = \frac{\left( \sum_{s=1}^{M} r(z_s) \right)^2}{\sum_{s=1}^{M} r(z_s)^2} , \qquad 1 \leq \hat "
    r"M \leq M .",
)
def test_effective_sample_size_of_weights(seed):
    agree("eq-lv-ess-weights", values.weights(seed))
    for M in (1, 3):  # equal weights; and one that is all
        names = {"M": M, "z_s": [0.5] * M, "r(z)": lambda z: 2.0, r"\hat M": float(M)}
        agree("eq-lv-ess-weights", names)
    agree("eq-lv-ess-weights", {"M": 2, "z_s": [0.0, 1.0], "r(z)": lambda z: z, r"\hat M": 1.0})


# --- Metropolis ---


@two
@pytest.mark.equation("def-lv-accept", r"a(z, z') = \min\left(1, \frac{p(x, z')}{p(x, z)}\right) .")
@pytest.mark.equation(
    "eq-lv-balance",
    r"p(z \mid x) \, q(z' \mid z) \, a(z, z') = p(z' \mid x) \, q(z \mid z') \, a(z', z) .",
)
@pytest.mark.equation("eq-lv-balance-min", r"p(z \mid x) \, a(z, z') = \min(p(z \mid x), p(z' \mid x)) ,")
@pytest.mark.equation("eq-lv-stationary", r"\sum_z p(z \mid x) \, T(z' \mid z) = p(z' \mid x) .")
def test_detailed_balance(seed):
    names = values.walk(seed)
    for z, new in itertools.product(names[r"\sum_z"], repeat=2):
        for label in ("def-lv-accept", "eq-lv-balance", "eq-lv-balance-min", "eq-lv-stationary"):
            agree(label, names | {"z": z, "z'": new})


@pytest.mark.equation("def-lv-accept", r"a(z, z') = \min\left(1, \frac{p(x, z')}{p(x, z)}\right) .")
@pytest.mark.equation(
    "eq-lv-balance",
    r"p(z \mid x) \, q(z' \mid z) \, a(z, z') = p(z' \mid x) \, q(z \mid z') \, a(z', z) .",
)
def test_metropolis_of_course_lib_walks_like_the_printed_rule():
    """On states one step apart, the frequency of each move is q(z' | z) a(z, z')."""
    heights = tensor([0.5, 1.0, 2.0, 0.25])
    places = torch.arange(4, dtype=torch.float64)

    def log_density(z):  # constant on [k - 1/2, k + 1/2]
        k = z[..., 0].round().long()
        inside = (k >= 0) & (k < 4)
        return torch.where(inside, heights[k.clamp(0, 3)].log(), -math.inf)

    start = places.repeat_interleave(40_000)[:, None]
    start = start + torch.rand(start.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    chain = latent.metropolis(log_density, start, 1, 0.8, generator=torch.Generator().manual_seed(1))
    before, after = (state[:, 0].round().long() for state in (start, chain.samples[0]))
    counts = torch.zeros(4, 4, dtype=torch.float64).index_put((before, after), tensor(1.0).expand(len(before)), True)
    flow = heights[:, None] * counts / 40_000
    # as many walk from one to the other as back, up to the noise of the counts
    error = (heights[:, None] ** 2 * counts + (heights[:, None] ** 2 * counts).T).sqrt() / 40_000
    assert ((flow - flow.T).abs() <= 5 * error).all()
    edges = stats.norm(0, 0.8)
    line = np.linspace(-0.5, 0.5, 2001)
    to_right = np.trapezoid(edges.cdf(1.5 - line) - edges.cdf(0.5 - line), line)
    found = counts[2, 1] / 40_000  # downhill: half of the proposals are accepted
    assert found.item() == pytest.approx(to_right / 2, abs=5 * math.sqrt(0.25 / 40_000))


@two
@pytest.mark.equation(
    "eq-lv-chain-variance",
    r"\Var[\bar f] = \frac{\tau^2}{M} \left( 1 + 2 \sum_{t=1}^{M-1} \left( 1 - \frac{t}{M} \right) \rho_t "
    r"\right) .",
)
def test_variance_of_the_mean_of_a_chain(seed):
    names = values.chain(seed)
    agree("eq-lv-chain-variance", names)
    agree("eq-lv-chain-variance", names | {r"\rho_t": [0.0] * 5, r"\Var": lambda f: names[r"\tau"] ** 2 / names["M"]})


@pytest.mark.equation(
    "eq-lv-chain-variance",
    r"\Var[\bar f] = \frac{\tau^2}{M} \left( 1 + 2 \sum_{t=1}^{M-1} \left( 1 - \frac{t}{M} \right) \rho_t "
    r"\right) .",
)
def test_effective_sample_size_of_course_lib():
    """An autoregression has the correlations phi^t; the bracket of the equation tends to (1 + phi) / (1 - phi)."""
    generator, n, phi = torch.Generator().manual_seed(0), 40_000, 0.8
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    states = [noise[0]]
    for e in noise[1:]:
        states.append(phi * states[-1] + math.sqrt(1 - phi**2) * e)
    states = torch.stack(states)
    expected = {t: phi**t for t in (1, 2, 5)}
    found = latent.autocorrelation(states, 5)[:, 0]
    assert all(found[t].item() == pytest.approx(expected[t], abs=0.03) for t in expected)
    bracket = readers("eq-lv-chain-variance")[1]({"M": 400, r"\tau": 20.0, r"\rho_t": [phi**t for t in range(1, 400)]})
    assert bracket == pytest.approx((1 + phi) / (1 - phi), rel=0.03)
    assert latent.effective_sample_size(states).item() == pytest.approx(n / 9, rel=0.15)


# --- probabilistic PCA ---


@two
@pytest.mark.equation("def-ppca", r"p(x \mid z) = \Normal(x; W z + \mu, \sigma^2 I_d)")
@pytest.mark.equation("def-ppca-matrices", r"C = W W^\T + \sigma^2 I_d , \qquad G = W^\T W + \sigma^2 I_m .")
@pytest.mark.equation("def-ppca-mean", r"\hat z = G^{-1} W^\T (x - \mu)")
@pytest.mark.equation(
    "eq-ppca-marginal",
    r"p(x) = \Normal(x; \mu, C) , \qquad p(z \mid x) = \Normal(z; \hat z, \sigma^2 G^{-1}) .",
)
@pytest.mark.equation("eq-ppca-inverse", r"C^{-1} = \frac{1}{\sigma^2} \left( I_d - W G^{-1} W^\T \right) .")
@pytest.mark.equation(
    "eq-ppca-square",
    r"\begin{aligned} \frac{1}{\sigma^2} \| x - \mu - W z \|^2 + \| z \|^2 = {}& \frac{1}{\sigma^2} (z - "
    r"\hat z)^\T G (z - \hat z) \\ & + (x - \mu)^\T C^{-1} (x - \mu) . \end{aligned}",
)
@pytest.mark.equation("eq-ppca-det", r"|C| = \sigma^{2 (d - m)} |G| .")
def test_marginal_and_posterior_of_the_linear_model(seed):
    names = values.ppca(seed)
    for label in ("def-ppca", "def-ppca-matrices", "def-ppca-mean", "eq-ppca-inverse", "eq-ppca-square", "eq-ppca-det"):
        agree(label, names)
    agree("eq-ppca-marginal", names, rel=1e-6)
    model, x, z = linear_model(names), flat(names["x"]), flat(names["z"])
    assert model.log_likelihood(x).exp().item() == pytest.approx(names["p(x)"](names["x"]), rel=1e-6)
    torch.testing.assert_close(model.posterior(x).mean, flat(names[r"\hat z"]))
    torch.testing.assert_close(model.transform(x), flat(names[r"\hat z"]))
    density = names[r"p(z \mid x)"](names["z"], names["x"])
    assert model.posterior(x).log_prob(z[None]).exp().item() == pytest.approx(density, rel=1e-6)
    torch.testing.assert_close(model.covariance(), tensor(names["C"]))
    conditional = names[r"p(x \mid z)"](names["x"], names["z"])
    assert model.log_conditional(x, z).exp().item() == pytest.approx(conditional)


@two
@pytest.mark.equation(
    "eq-ppca-log-likelihood",
    r"\begin{aligned} \frac{1}{N} \sum_{i=1}^{N} \log p(x_i) = {}& -\frac{1}{2} \left( d \log(2\pi) + "
    r"\log|C| + \tr(C^{-1} S) \right) \\ & - \frac{1}{2} (\bar x - \mu)^\T C^{-1} (\bar x - \mu) . "
    r"\end{aligned}",
)
def test_log_likelihood(seed):
    names = values.data(seed)
    agree("eq-ppca-log-likelihood", names)
    x = torch.stack([flat(one) for one in names["x_i"]])
    mean = linear_model(names).log_likelihood(x).mean()
    assert mean.item() == pytest.approx(readers("eq-ppca-log-likelihood")[1](names))


@two
@pytest.mark.equation(
    "eq-ppca-ml",
    r"\hat\sigma^2 = \frac{1}{d - m} \sum_{j=m+1}^{d} \lambda_j , \qquad \hat W \hat W^\T = U_m (\Lambda - "
    r"\hat\sigma^2 I_m) U_m^\T ,",
)
@pytest.mark.equation(
    "eq-ppca-maximum",
    r"\begin{aligned} \frac{1}{N} \sum_{i=1}^{N} \log \hat p(x_i) = {}& -\frac{d}{2} (\log(2\pi) + 1) \\ & "
    r"- \frac{1}{2} \left( \sum_{j=1}^{m} \log \lambda_j + (d - m) \log \hat\sigma^2 \right) . "
    r"\end{aligned}",
)
@pytest.mark.equation("eq-ppca-shrink", r"\hat W G^{-1} \hat W^\T = U_m (I_m - \hat\sigma^2 \Lambda^{-1}) U_m^\T .")
def test_maximum_likelihood(seed):
    names = values.maximum(seed)
    for label in ("eq-ppca-ml", "eq-ppca-maximum", "eq-ppca-shrink"):
        agree(label, names, rel=1e-5, abs=1e-5)
    x = torch.stack([flat(one) for one in names["x_i"]])
    model = ProbabilisticPCA(names["m"]).fit(x)
    C = names[r"\hat W"] @ names[r"\hat W"].T + names[r"\hat\sigma"] ** 2 * np.eye(names["d"])
    torch.testing.assert_close(model.covariance(), tensor(C), rtol=1e-5, atol=1e-5)
    value = readers("eq-ppca-maximum")[1](names | {r"\hat\sigma": model.noise_var_.item() ** 0.5})
    assert model.log_likelihood(x).mean().item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("m", "value"), [(2, 0.0057067), (8, 14.209788), (16, 23.929443)])
@pytest.mark.equation(
    "eq-ppca-maximum",
    r"\begin{aligned} \frac{1}{N} \sum_{i=1}^{N} \log \hat p(x_i) = {}& -\frac{d}{2} (\log(2\pi) + 1) \\ & "
    r"- \frac{1}{2} \left( \sum_{j=1}^{m} \log \lambda_j + (d - m) \log \hat\sigma^2 \right) . "
    r"\end{aligned}",
)
def test_maximum_on_the_digits(m, value):
    from course_lib.data import load_digits

    digits = load_digits().x
    eigenvalues = np.linalg.eigvalsh(np.cov(digits.numpy().T, ddof=0))[::-1]
    names = {"d": 64, "m": m, r"\pi": np.pi, r"\lambda_j": list(eigenvalues)}
    names[r"\hat\sigma"] = np.sqrt(readers_of_claims("eq-ppca-ml", 0, names))
    assert readers("eq-ppca-maximum")[1](names) == pytest.approx(value, abs=1e-6)
    assert ProbabilisticPCA(m).fit(digits).log_likelihood(digits).mean().item() == pytest.approx(value, abs=1e-6)


def readers_of_claims(label, which, names):
    """The right side of one of several claims."""
    from printed import claims

    formulas, _ = claims(label)[which]
    return formulas[-1](names)


@two
@pytest.mark.equation(
    "eq-ppca-trace-split",
    r"\tr(C^{-1} S) = \frac{1}{\sigma^2} \tr(S) - \sum_{j=1}^{m} \left( \frac{1}{\sigma^2} - "
    r"\frac{1}{\gamma_j} \right) v_j^\T S v_j .",
)
@pytest.mark.equation("eq-ppca-trace", r"\tr(C^{-1} S) \geq \sum_{j=1}^{d} \frac{\lambda_j}{\gamma_j} ,")
def test_trace(seed):
    names = values.spread(seed)
    agree("eq-ppca-trace-split", names)
    agree("eq-ppca-trace", names)
    rng = np.random.default_rng(seed)
    for _ in range(50):  # any other axes
        axes = stats.ortho_group.rvs(names["d"], random_state=rng)
        S = axes @ np.diag(names[r"\lambda_j"]) @ axes.T
        agree("eq-ppca-trace", names | {"S": S})
        agree("eq-ppca-trace-split", names | {"S": S})


@two
@pytest.mark.equation("eq-ppca-stationary", r"S C^{-1} W = W .")
def test_stationary_points(seed):
    agree("eq-ppca-stationary", values.stationary(seed))


@two
@pytest.mark.equation("eq-em-ratio", r"\frac{p'(x)}{p(x)} = \E_q\left[\frac{p'(x, z)}{p(x, z)}\right] .")
@pytest.mark.equation("eq-em-climb", r"\log p'(x) - \log p(x) \geq \E_q[\log p'(x, z)] - \E_q[\log p(x, z)] .")
def test_why_em_climbs(seed):
    names = values.two_models(seed)
    agree("eq-em-ratio", names)
    agree("eq-em-climb", names)
    same = names | {"p'(x)": names["p(x)"], "p'(x, z)": names["p(x, z)"]}
    assert readers_of("eq-em-climb", same) == pytest.approx(0, abs=1e-9)


@two
@pytest.mark.equation(
    "eq-ppca-em-moments",
    r"\E_q[z] = \hat z_i , \qquad V_i = \E_q[z z^\T] = \sigma^2 G^{-1} + \hat z_i \hat z_i^\T .",
)
def test_moments_of_the_posterior(seed):
    names = values.moments(seed)
    agree("eq-ppca-em-moments", names, rel=1e-6, abs=1e-6)


@two
@pytest.mark.equation(
    "eq-ppca-em-sums",
    r"W' = \left( \sum_{i=1}^{N} (x_i - \bar x) \hat z_i^\T \right) \left( \sum_{i=1}^{N} V_i \right)^{-1} "
    r",",
)
@pytest.mark.equation(
    "eq-ppca-em-step",
    r"W' = S W \left( \sigma^2 I_m + G^{-1} W^\T S W \right)^{-1} , \qquad \sigma'^2 = \frac{1}{d} \tr(S - "
    r"S W G^{-1} W'^\T) .",
)
def test_step_of_em(seed):
    names = values.one_step(seed)
    agree("eq-ppca-em-sums", names)
    agree("eq-ppca-em-step", names)


@two
@pytest.mark.equation(
    "eq-ppca-em-step",
    r"W' = S W \left( \sigma^2 I_m + G^{-1} W^\T S W \right)^{-1} , \qquad \sigma'^2 = \frac{1}{d} \tr(S - "
    r"S W G^{-1} W'^\T) .",
)
def test_em_of_course_lib(seed):
    """It climbs at every step, and arrives at the closed form; a step from there changes nothing."""
    x = tensor(values.best_model(seed)[0])
    m = values.best_model(seed)[1].shape[1]
    best = ProbabilisticPCA(m).fit(x)
    model = ProbabilisticPCA(m).fit_em(x, n_iter=5000, tol=1e-13, generator=torch.Generator().manual_seed(seed))
    assert (model.history_.diff() > -1e-12).all()
    assert model.history_[-1].item() == pytest.approx(best.log_likelihood(x).mean().item(), abs=1e-8)
    S = np.cov(x.numpy().T, ddof=0)
    W, sigma = best.W_.numpy(), best.noise_var_.item() ** 0.5
    names = {"S": S, "W": W, r"\sigma": sigma, "d": len(W), "m": m, "I_m": {m: np.eye(m)}, "W'": W, r"\sigma'": sigma}
    agree("eq-ppca-em-step", names | {"G": W.T @ W + sigma**2 * np.eye(m)}, rel=1e-8)


@two
@pytest.mark.equation("eq-ppca-impute", r"\hat x_u = \mu_u + W_u G_o^{-1} W_o^\T (x_o - \mu_o) .")
def test_missing_entries(seed):
    names = values.gaps(seed)
    agree("eq-ppca-impute", names)
    model = linear_model(values.linear(seed))
    x = torch.full((model.W_.shape[0],), math.nan, dtype=torch.float64)
    observed = [0] if seed == 0 else [0, 2, 3]
    x[observed] = flat(names["x_o"])
    missing = x.isnan()
    torch.testing.assert_close(model.impute(x)[missing], flat(names[r"\hat x_u"]))
    C, mu = model.covariance()[observed][:, observed], model.mean_[observed]
    law = stats.multivariate_normal(mu.numpy(), C.numpy())
    assert model.log_likelihood(x).item() == pytest.approx(law.logpdf(x[observed].numpy()))
