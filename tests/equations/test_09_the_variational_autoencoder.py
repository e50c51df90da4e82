r"""Every equation of chapter 9, both sides computed by routes that share no code.

`agree` reads all sides from the chapter itself and computes each with the values of ``situations_09``: likelihoods of
SciPy, bounds from fine grids, optima from searches. Beside it, ``course_lib.vae`` is held against the same print, with
the noise that it draws. ``test_latex_reader.py`` shows that small changes of the print are seen.
"""

import math

import numpy as np
import pytest
import torch
from printed import agree, claims, relation
from scipy import special
from situations_09 import (
    ACTIVE,
    active,
    aggregated,
    all_samples,
    bernoulli,
    best_noise,
    best_variance,
    blind,
    code,
    column,
    either,
    estimate,
    free_bits,
    frontier,
    gaussian,
    heads,
    information,
    line,
    linear_error,
    linear_max,
    loss,
    networks,
    slope_bernoulli,
    slope_gaussian,
    tangent,
    through_the_sample,
    warm_up,
    weighted,
)

from course_lib.elbo import exact_elbo
from course_lib.latent import ProbabilisticPCA
from course_lib.vae import VAE, vae_gradients, vae_loss

two = pytest.mark.parametrize("seed", range(2))
F64 = torch.float64
M = 3  # samples


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=F64)


def numpy(t):
    return t.detach().numpy()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def right(label, names, claim=0):
    """The last side of a claim."""
    return claims(label)[claim][0][-1](names)


def vae(seed, likelihood="gaussian", **options):
    """A small model with weights of both signs and some size, and four data."""
    model = VAE(5, 2, (4,), likelihood, dtype=F64, generator=generator(seed), **options)
    with torch.no_grad():
        for parameter in (*model.encoder.parameters(), *model.decoder.parameters()):
            parameter += 0.4 * torch.randn(parameter.shape, dtype=F64, generator=generator(parameter.numel()))
    x = torch.randn(4, 5, dtype=F64, generator=generator(seed + 50))
    return model, (x > 0).to(F64) if likelihood == "bernoulli" else x


def printed_terms(model, x, seed):
    """What the print says of each datum, with the noise that this seed draws: samples, log p(x | z_s), divergences."""
    mean, log_var = (numpy(part) for part in model.encoder(x).chunk(2, -1))
    noise = torch.randn(M, len(x), 2, dtype=F64, generator=generator(seed)).numpy()
    label = "eq-vae-bernoulli-log" if model.likelihood == "bernoulli" else "eq-vae-gaussian-log"
    z, log_p, rate = np.zeros(noise.shape), np.zeros(noise.shape[:2]), np.zeros(len(x))
    for i in range(len(x)):
        rate[i] = right("eq-vae-kl", {"m": 2, r"\mu_k": list(mean[i]), r"\gamma_k": list(log_var[i])})
        for s in range(M):
            names = {r"\mu": column(mean[i]), r"\gamma": column(log_var[i]), r"\varepsilon_s": [column(noise[s, i])]}
            z[s, i] = np.ravel(right("def-vae-sample", names | {"s": 1}))
            log_p[s, i] = right(label, output_names(model, x[i], z[s, i]))
    return z, log_p, rate


def output_names(model, x, z):
    a = numpy(model.decoder(tensor(z)))
    names = {"d": len(x), "x_j": list(numpy(x)), "a_j": list(a), r"\sigmoid": special.expit}
    if model.likelihood == "gaussian":
        noise_var = model.log_noise_var.exp().item()
        names |= {"x": column(numpy(x)), "a": column(a), r"\sigma": noise_var**0.5, r"\pi": np.pi}
    return names


# --- the model ---


@two
@pytest.mark.equation(
    "def-vae-bernoulli",
    r"p_\theta(x \mid z) = \prod_{j=1}^{d} \sigmoid(a_j)^{x_j} (1 - \sigmoid(a_j))^{1 - x_j} .",
)
@pytest.mark.equation(
    "eq-vae-bernoulli-log",
    r"\log p_\theta(x \mid z) = \sum_{j=1}^{d} \left( x_j a_j - \log(1 + \exp(a_j)) \right) .",
)
def test_black_and_white_pixels(seed):
    """All eight images; their probabilities add up to one."""
    names, total = bernoulli(seed), 0.0
    for k in range(8):
        x = [float(k >> j & 1) for j in range(3)]
        image = names | {"x": column(x), "x_j": x}
        agree("def-vae-bernoulli", image)
        agree("eq-vae-bernoulli-log", image)
        total += right("def-vae-bernoulli", image)
    assert total == pytest.approx(1, abs=1e-14)


@two
@pytest.mark.equation("def-vae-gaussian", r"p_\theta(x \mid z) = \Normal(x; a, \sigma^2 I_d) ,")
@pytest.mark.equation(
    "eq-vae-gaussian-log",
    r"\log p_\theta(x \mid z) = -\frac{\|x - a\|^2}{2 \sigma^2} - \frac{d}{2} \log(2 \pi \sigma^2) .",
)
def test_a_gaussian_with_one_variance(seed):
    for z in (-2.5, 0.0, 0.6, 3.0):
        agree("def-vae-gaussian", gaussian(seed) | {"z": z})
        agree("eq-vae-gaussian-log", gaussian(seed) | {"z": z})


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.equation(
    "eq-vae-bernoulli-log",
    r"\log p_\theta(x \mid z) = \sum_{j=1}^{d} \left( x_j a_j - \log(1 + \exp(a_j)) \right) .",
)
@pytest.mark.equation(
    "eq-vae-gaussian-log",
    r"\log p_\theta(x \mid z) = -\frac{\|x - a\|^2}{2 \sigma^2} - \frac{d}{2} \log(2 \pi \sigma^2) .",
)
def test_log_conditional(likelihood):
    """The print, course_lib and torch.distributions; and at logits where a sigmoid is 0 or 1 in its dtype."""
    options = {"noise_sd": 0.7} if likelihood == "gaussian" else {}
    model, x = vae(1, likelihood, **options)
    label = {"bernoulli": "eq-vae-bernoulli-log", "gaussian": "eq-vae-gaussian-log"}[likelihood]
    for i, z in enumerate(torch.randn(4, 2, dtype=F64, generator=generator(9)) * 3):
        found = model.log_conditional(x[i], z).item()
        assert found == pytest.approx(right(label, output_names(model, x[i], numpy(z))), rel=1e-12)
        a = model.decoder(z)
        law = (
            torch.distributions.Bernoulli(logits=a) if likelihood == "bernoulli" else torch.distributions.Normal(a, 0.7)
        )
        assert found == pytest.approx(law.log_prob(x[i]).sum().item(), rel=1e-12)
    if likelihood == "bernoulli":
        with torch.no_grad():
            model.decoder.biases[-1].copy_(tensor([800.0, -800.0, 40.0, -40.0, 0.0]))
            model.decoder.weights[-1].zero_()
        ones, zero = torch.ones(5, dtype=F64), torch.zeros(2, dtype=F64)
        assert model.log_conditional(ones, zero).item() == pytest.approx(-840 - math.log(2), rel=1e-12)
        with torch.no_grad():
            model.decoder.biases[-1].fill_(21.0)
        assert model.log_conditional(ones, zero).item() == pytest.approx(-5 * math.log1p(math.exp(-21)), rel=1e-4)


@two
@pytest.mark.equation(
    "def-vae-encoder",
    r"q_\phi(z \mid x) = \Normal(z; \mu, \diag(\exp(\gamma_1), \dots, \exp(\gamma_m))) .",
)
@pytest.mark.equation("def-vae-heads", r"\mu = W_\mu h + b_\mu , \qquad \gamma = W_\gamma h + b_\gamma .")
def test_the_encoder(seed):
    """The print, and course_lib's encoder as two heads on its last hidden layer."""
    agree("def-vae-heads", heads(seed))
    agree("def-vae-encoder", code(seed))
    model, x = vae(seed)
    W, b, h = numpy(model.encoder.weights[-1]), numpy(model.encoder.biases[-1]), numpy(model.encoder.layers(x)[1][-2])
    posterior = model.encode(x)
    z = torch.randn(4, 2, dtype=F64, generator=generator(3))
    for i in range(4):
        names = {"h": column(h[i]), r"W_\mu": W[:2], r"W_\gamma": W[2:], r"b_\mu": column(b[:2])}
        mean, log_var = (right("def-vae-heads", names | {r"b_\gamma": column(b[2:])}, claim) for claim in (0, 1))
        np.testing.assert_allclose(numpy(posterior.mean[i]), mean[:, 0], rtol=1e-12)
        names = {"m": 2, "z": column(numpy(z[i])), r"\mu": mean, r"\gamma_k": list(log_var[:, 0])}
        density = posterior.log_prob(z)[i].exp().item()
        assert density == pytest.approx(right("def-vae-encoder", names), rel=1e-12)


# --- the objective ---


@two
@pytest.mark.equation(
    "def-vae-objective",
    r"\elbo(\theta, \phi; x) = \E_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)] - \KL(q_\phi(z \mid x) "
    r"\,\|\, p(z)) .",
)
def test_the_objective_is_the_evidence_less_the_gap(seed):
    for i in range(3):
        names = either(seed)
        agree("def-vae-objective", names | {"x": names["x_i"][i]})
        assert right("def-vae-objective", names) < math.log(names[r"p_\theta(x)"](names["x"]))


@two
@pytest.mark.equation(
    "eq-vae-kl",
    r"\KL(q_\phi(z \mid x) \,\|\, p(z)) = \sum_{k=1}^{m} \frac{1}{2} \left( \exp(\gamma_k) + \mu_k^2 - 1 - "
    r"\gamma_k \right) .",
)
def test_the_divergence(seed):
    agree("eq-vae-kl", code(seed))


@pytest.mark.parametrize(
    ("mu", "gamma"),
    [([0.0, 0.0], [0.0, 0.0]), ([3.0, -1e-3], [-30.0, 1e-9]), ([0.0, 5.0], [-700.0, 20.0]), ([1e4, -0.5], [0.3, -2.0])],
)
@pytest.mark.equation(
    "eq-vae-kl",
    r"\KL(q_\phi(z \mid x) \,\|\, p(z)) = \sum_{k=1}^{m} \frac{1}{2} \left( \exp(\gamma_k) + \mu_k^2 - 1 - "
    r"\gamma_k \right) .",
)
def test_the_divergence_at_the_edges(mu, gamma):
    """The print, `kl_per_dimension` and torch.distributions."""
    model = VAE(1, 2, (), "gaussian", dtype=F64)
    with torch.no_grad():
        model.encoder.weights[0].zero_()
        model.encoder.biases[0].copy_(tensor(mu + gamma))
    found = model.kl_per_dimension(torch.zeros(1, dtype=F64))
    expected = right("eq-vae-kl", {"m": 2, r"\mu_k": mu, r"\gamma_k": gamma})
    assert found.sum().item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    law = torch.distributions.Normal(tensor(mu), (tensor(gamma) / 2).exp())
    by_torch = torch.distributions.kl_divergence(law, torch.distributions.Normal(tensor(0.0), tensor(1.0)))
    torch.testing.assert_close(found, by_torch, rtol=1e-10, atol=1e-9)


@two
@pytest.mark.equation(
    "def-vae-loss",
    r"\hat{R}(\theta, \phi) = -\frac{1}{N} \sum_{i=1}^{N} \elbo(\theta, \phi; x_i) ,",
)
@pytest.mark.equation(
    "def-vae-rate",
    r"\begin{aligned} \Delta = {}& -\frac{1}{N} \sum_{i=1}^{N} \E_{q_\phi(z \mid x_i)}[\log p_\theta(x_i "
    r"\mid z)] , \\ \quad \rho = {}& \frac{1}{N} \sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, p(z)) . "
    r"\end{aligned}",
)
def test_the_loss_and_its_two_parts(seed):
    names = loss(seed)
    agree("def-vae-loss", names)
    agree("def-vae-rate", names, rel=1e-6, abs=1e-6)
    assert right("def-vae-loss", names) == pytest.approx(names[r"\Delta"] + names[r"\rho"], rel=1e-8)


@two
@pytest.mark.equation("def-vae-sample", r"z_s = \mu + \exp(\gamma / 2) \odot \varepsilon_s .")
@pytest.mark.equation(
    "def-vae-estimate",
    r"\bar{\elbo}(x) = \frac{1}{M} \sum_{s=1}^{M} \log p_\theta(x \mid z_s) - \KL(q_\phi(z \mid x) \,\|\, "
    r"p(z)) .",
)
@pytest.mark.equation(
    "eq-vae-estimate",
    r"\E[\bar{\elbo}(x)] = \elbo(\theta, \phi; x) , \qquad \Var[\bar{\elbo}(x)] = \frac{1}{M} "
    r"\Var_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)] .",
)
def test_samples_and_the_estimate(seed):
    for s in range(1, 3):
        agree("def-vae-sample", code(seed) | {"s": s})
    agree("def-vae-estimate", estimate(seed))
    agree("eq-vae-estimate", all_samples(seed))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@two
@pytest.mark.equation("def-vae-sample", r"z_s = \mu + \exp(\gamma / 2) \odot \varepsilon_s .")
@pytest.mark.equation(
    "def-vae-estimate",
    r"\bar{\elbo}(x) = \frac{1}{M} \sum_{s=1}^{M} \log p_\theta(x \mid z_s) - \KL(q_\phi(z \mid x) \,\|\, "
    r"p(z)) .",
)
@pytest.mark.equation(
    "def-vae-loss",
    r"\hat{R}(\theta, \phi) = -\frac{1}{N} \sum_{i=1}^{N} \elbo(\theta, \phi; x_i) ,",
)
@pytest.mark.equation(
    "def-vae-beta",
    r"\elbo_\beta(\theta, \phi; x) = \E_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)] - \beta \KL(q_\phi(z "
    r"\mid x) \,\|\, p(z)) ,",
)
@pytest.mark.equation(
    "def-vae-rate",
    r"\begin{aligned} \Delta = {}& -\frac{1}{N} \sum_{i=1}^{N} \E_{q_\phi(z \mid x_i)}[\log p_\theta(x_i "
    r"\mid z)] , \\ \quad \rho = {}& \frac{1}{N} \sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, p(z)) . "
    r"\end{aligned}",
)
def test_the_bound_of_course_lib(seed, likelihood):
    """`elbo`, `vae_loss` and `vae_gradients` are what is printed, at the samples that they draw."""
    model, x = vae(seed, likelihood, **({"noise_sd": 1.3} if likelihood == "gaussian" else {}))
    _, log_p, rate = printed_terms(model, x, seed)
    names = {"M": M, "N": len(x), "x_i": list(range(1, 5)), r"\theta": 0, r"\phi": 0, "z_s": [1, 2, 3]}

    def of_datum(i):
        """The divergence is given as a number, so the densities in it are not asked."""
        return names | {
            "x": i, r"p_\theta(x \mid z)": lambda x, z: math.exp(log_p[z - 1, i]), r"\KL": lambda p, q: rate[i],
            r"q_\phi(z \mid x)": None, "p(z)": None,
        }  # fmt: skip

    bounds = [right("def-vae-estimate", of_datum(i)) for i in range(4)]
    found = model.elbo(x, M, generator=generator(seed))
    np.testing.assert_allclose(numpy(found), bounds, rtol=1e-11)
    mean_loss = right("def-vae-loss", names | {r"\elbo(\theta, \phi; x)": lambda t, p, x: bounds[x - 1]})
    for beta in (None, 0.0, 0.3, 4.0):
        options = {} if beta is None else {"objective": "beta", "beta": beta}
        weight = 1 if beta is None else beta
        one = {r"\E_{q_\phi(z \mid x)}": lambda f: np.mean([f(z=s) for s in (1, 2, 3)]), r"\beta": weight}
        expected = -np.mean([right("def-vae-beta", of_datum(i) | one) for i in range(4)])
        if beta is None:
            assert expected == pytest.approx(mean_loss, rel=1e-12)
        assert expected == pytest.approx(-log_p.mean() + weight * rate.mean(), rel=1e-12)  # distortion and rate
        assert vae_loss(model, x, n_samples=M, generator=generator(seed), **options).item() == pytest.approx(expected)
        value, _ = vae_gradients(model, x, n_samples=M, generator=generator(seed), **options)
        assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation(
    "eq-vae-estimate",
    r"\E[\bar{\elbo}(x)] = \elbo(\theta, \phi; x) , \qquad \Var[\bar{\elbo}(x)] = \frac{1}{M} "
    r"\Var_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)] .",
)
def test_more_samples_have_less_variance():
    """The variance of course_lib's estimate is that of log p(x | z) under q, over M."""
    model, x = vae(0, "bernoulli")
    z = model.encode(x[:1]).rsample(40_000, generator=generator(1))
    of_one = model.log_conditional(x[:1], z).var().item()
    rows = x[:1].expand(20_000, 5)
    for n in (1, 5):
        bounds = model.elbo(rows, n, generator=generator(n))
        assert bounds.var().item() == pytest.approx(of_one / n, rel=0.05)


# --- slopes ---


@two
@pytest.mark.equation("eq-vae-slope-bernoulli", r"\frac{\partial R_s}{\partial a_j} = \sigmoid(a_j) - x_j .")
@pytest.mark.equation("eq-vae-slope-gaussian", r"\frac{\partial R_s}{\partial a_j} = \frac{a_j - x_j}{\sigma^2} .")
@pytest.mark.equation(
    "eq-vae-slope-noise",
    r"\frac{\partial R_s}{\partial \nu} = \frac{d}{2} - \frac{\|x - a\|^2}{2 \exp(\nu)} .",
)
def test_slopes_of_the_output(seed):
    for j in range(1, 4):
        agree("eq-vae-slope-bernoulli", slope_bernoulli(seed) | {"j": j})
        agree("eq-vae-slope-gaussian", slope_gaussian(seed) | {"j": j})
    agree("eq-vae-slope-noise", slope_gaussian(seed))


@two
@pytest.mark.equation(
    "eq-vae-slope-mean",
    r"\frac{\partial R}{\partial \mu} = \frac{1}{M} \sum_{s=1}^{M} \frac{\partial R_s}{\partial z_s} + \mu "
    r",",
)
@pytest.mark.equation(
    "eq-vae-slope-log-var",
    r"\frac{\partial R}{\partial \gamma_k} = \frac{1}{2 M} \sum_{s=1}^{M} \frac{\partial R_s}{\partial "
    r"z_{sk}} \exp(\gamma_k / 2) \, \varepsilon_{sk} + \frac{1}{2} (\exp(\gamma_k) - 1) .",
)
def test_slopes_through_the_sample(seed):
    names = through_the_sample(seed)
    agree("eq-vae-slope-mean", names)
    for k in range(1, names["m"] + 1):
        agree("eq-vae-slope-log-var", names | {"k": k})


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@two
@pytest.mark.equation("eq-vae-slope-bernoulli", r"\frac{\partial R_s}{\partial a_j} = \sigmoid(a_j) - x_j .")
@pytest.mark.equation("eq-vae-slope-gaussian", r"\frac{\partial R_s}{\partial a_j} = \frac{a_j - x_j}{\sigma^2} .")
@pytest.mark.equation(
    "eq-vae-slope-noise",
    r"\frac{\partial R_s}{\partial \nu} = \frac{d}{2} - \frac{\|x - a\|^2}{2 \exp(\nu)} .",
)
@pytest.mark.equation(
    "eq-vae-slope-mean",
    r"\frac{\partial R}{\partial \mu} = \frac{1}{M} \sum_{s=1}^{M} \frac{\partial R_s}{\partial z_s} + \mu "
    r",",
)
@pytest.mark.equation(
    "eq-vae-slope-log-var",
    r"\frac{\partial R}{\partial \gamma_k} = \frac{1}{2 M} \sum_{s=1}^{M} \frac{\partial R_s}{\partial "
    r"z_{sk}} \exp(\gamma_k / 2) \, \varepsilon_{sk} + \frac{1}{2} (\exp(\gamma_k) - 1) .",
)
def test_the_gradient_of_course_lib(seed, likelihood):
    """For one datum the biases of the last layers have the printed slopes as their gradients, summed over samples."""
    options = {"noise": "learned", "noise_sd": 0.6} if likelihood == "gaussian" else {}
    model, x = vae(seed, likelihood, **options)
    x = x[:1]
    _, grads = vae_gradients(model, x, n_samples=M, generator=generator(seed))
    by_name = dict(zip((name for name, _ in model.named_parameters()), grads, strict=True))
    z, _, _ = printed_terms(model, x, seed)
    mean, log_var = (numpy(part[0]) for part in model.encoder(x).chunk(2, -1))
    noise = torch.randn(M, 1, 2, dtype=F64, generator=generator(seed)).numpy()[:, 0]
    slopes, by_z, by_noise = [], [], []
    for s in range(M):
        names = output_names(model, x[0], z[s, 0])
        names |= {r"\nu": 2 * math.log(names[r"\sigma"])} if likelihood == "gaussian" else {}
        slopes.append([right(f"eq-vae-slope-{likelihood}", names | {"j": j}) for j in range(1, 6)])
        if likelihood == "gaussian":
            by_noise.append(right("eq-vae-slope-noise", names))
        start = tensor(z[s, 0]).requires_grad_()
        by_z.append(numpy(torch.autograd.grad(model.decoder(start), start, tensor(slopes[-1]))[0]))
    last = len(model.decoder.biases) - 1
    np.testing.assert_allclose(numpy(by_name[f"decoder.biases.{last}"]), np.mean(slopes, 0), rtol=1e-10)
    if likelihood == "gaussian":
        assert by_name["log_noise_var"].item() == pytest.approx(np.mean(by_noise), rel=1e-10)
    names = {
        "M": M, r"\mu": column(mean), r"\gamma_k": list(log_var), r"\varepsilon_{sk}": noise,
        r"\frac{\partial R_s}{\partial z_s}": {s: {s: column(by_z[s - 1])} for s in (1, 2, 3)},
        r"\frac{\partial R_s}{\partial z_{sk}}": {s: {s: list(by_z[s - 1])} for s in (1, 2, 3)},
    }  # fmt: skip
    by_mean = np.ravel(right("eq-vae-slope-mean", names))
    by_log_var = [right("eq-vae-slope-log-var", names | {"k": k}) for k in (1, 2)]
    np.testing.assert_allclose(numpy(by_name[f"encoder.biases.{last}"]), [*by_mean, *by_log_var], rtol=1e-10)


# --- the linear model ---


@two
@pytest.mark.equation(
    "eq-vae-linear-error",
    r"\E_{q_\phi(z \mid x)}[\|x - W z - b\|^2] = \|x - W \mu - b\|^2 + \sum_{k=1}^{m} \exp(\gamma_k) "
    r"\|w_k\|^2 .",
)
def test_the_error_of_the_linear_decoder(seed):
    agree("eq-vae-linear-error", linear_error(seed))


@two
@pytest.mark.equation(
    "eq-vae-linear-max",
    r"\max_{W, b, \phi} \frac{1}{N} \sum_{i=1}^{N} \elbo(\theta, \phi; x_i) = \max_{W, b} \frac{1}{N} "
    r"\sum_{i=1}^{N} \log p_\theta(x_i) .",
)
def test_the_linear_vae_is_ppca(seed):
    """Two searches that know nothing of each other; and none of the other candidates is above."""
    names = linear_max(seed)
    agree("eq-vae-linear-max", names, rel=1e-7, abs=1e-7)


@pytest.mark.equation(
    "eq-vae-linear-max",
    r"\max_{W, b, \phi} \frac{1}{N} \sum_{i=1}^{N} \elbo(\theta, \phi; x_i) = \max_{W, b} \frac{1}{N} "
    r"\sum_{i=1}^{N} \log p_\theta(x_i) .",
)
def test_the_linear_vae_of_course_lib():
    """Weights from `ProbabilisticPCA`, turned, and the encoder of the proof: no gap. Any other encoder has one."""
    x = tensor(line(0).x)
    ppca = ProbabilisticPCA(2).fit(x)
    U, sizes, _ = torch.linalg.svd(ppca.W_, full_matrices=False)
    W, noise_var = U * sizes, ppca.noise_var_
    model = VAE(3, 2, (), "gaussian", noise_sd=noise_var.sqrt().item(), dtype=F64)
    G = sizes.square() + noise_var
    with torch.no_grad():
        model.decoder.weights[0].copy_(W)
        model.decoder.biases[0].copy_(ppca.mean_)
        A = W.T / G[:, None]
        model.encoder.weights[0].copy_(torch.cat((A, torch.zeros_like(A))))
        model.encoder.biases[0].copy_(torch.cat((-A @ ppca.mean_, (noise_var / G).log())))
    linear = ProbabilisticPCA.from_parameters(W, ppca.mean_, noise_var)
    evidence = ppca.log_likelihood(x)
    torch.testing.assert_close(exact_elbo(linear, x, model.encode(x)), evidence, rtol=0, atol=1e-10)
    bounds = model.elbo(x, 4000, generator=generator(0))
    error = model.log_conditional(x, model.encode(x).rsample(4000, generator=generator(1))).std(0) / 4000**0.5
    assert ((bounds - evidence).abs() < 5 * error).all()
    joint = model.elbo(x, 3, form="joint", generator=generator(2))  # without a gap every weight is the evidence
    torch.testing.assert_close(joint, evidence, rtol=0, atol=1e-10)
    for k in range(20):
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, dtype=F64, generator=generator(k))
        assert (exact_elbo(linear, x, model.encode(x)) < evidence).all()


# --- noise, beta, dimensions that are off ---


@two
@pytest.mark.equation(
    "eq-vae-gaussian-bound",
    r"\begin{aligned} -\elbo(\theta, \phi; x) = {}& \frac{1}{2 \sigma^2} \E_{q_\phi(z \mid x)}[\|x - "
    r"a\|^2] + \frac{d}{2} \log(2 \pi \sigma^2) \\ & + \KL(q_\phi(z \mid x) \,\|\, p(z)) . \end{aligned}",
)
@pytest.mark.equation(
    "def-vae-beta",
    r"\elbo_\beta(\theta, \phi; x) = \E_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)] - \beta \KL(q_\phi(z "
    r"\mid x) \,\|\, p(z)) ,",
)
@pytest.mark.equation(
    "eq-vae-beta-is-noise",
    r"\begin{aligned} \elbo_\beta(\theta, \phi; x) = {}& \beta \left( \E_{q_\phi(z \mid x)}[\log "
    r"\Normal(x; a, \beta \sigma^2 I_d)] - \KL(q_\phi(z \mid x) \,\|\, p(z)) \right) \\ & + \frac{d}{2} "
    r"\left( \beta \log(2 \pi \beta \sigma^2) - \log(2 \pi \sigma^2) \right) . \end{aligned}",
)
def test_a_beta_is_another_noise(seed):
    for beta in (0.4, 1.0, 2.7):
        world = networks(seed, gaussian=True)
        names = weighted(seed) | {r"\beta": beta}
        names[r"\elbo_\beta(\theta, \phi; x)"] = lambda t, p, x, w=world, beta=beta: (
            w.elbo(x) + (1 - beta) * w.divergence(x)
        )
        for label in ("eq-vae-gaussian-bound", "def-vae-beta", "eq-vae-beta-is-noise"):
            agree(label, names, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("beta", [0.25, 3.0])
@pytest.mark.equation(
    "eq-vae-beta-is-noise",
    r"\begin{aligned} \elbo_\beta(\theta, \phi; x) = {}& \beta \left( \E_{q_\phi(z \mid x)}[\log "
    r"\Normal(x; a, \beta \sigma^2 I_d)] - \KL(q_\phi(z \mid x) \,\|\, p(z)) \right) \\ & + \frac{d}{2} "
    r"\left( \beta \log(2 \pi \beta \sigma^2) - \log(2 \pi \sigma^2) \right) . \end{aligned}",
)
def test_a_beta_of_course_lib_is_another_noise(beta):
    """With the same weights and the same noise, for every datum, to the last digits."""
    model, x = vae(0, noise_sd=0.7)
    other, _ = vae(0, noise_sd=0.7 * beta**0.5)
    with_beta = vae_loss(model, x, objective="beta", beta=beta, generator=generator(4))
    plain = vae_loss(other, x, generator=generator(4))
    names = {"d": 5, r"\beta": beta, r"\sigma": 0.7, r"\pi": np.pi, r"q_\phi(z \mid x)": None, "p(z)": None}
    names |= {r"\E_{q_\phi(z \mid x)}": lambda f: -plain.item(), r"\KL": lambda p, q: 0.0}  # the bound, both terms
    assert -with_beta.item() == pytest.approx(right("eq-vae-beta-is-noise", names), rel=1e-11)


@pytest.mark.equation(
    "def-vae-beta",
    r"\elbo_\beta(\theta, \phi; x) = \E_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)] - \beta \KL(q_\phi(z "
    r"\mid x) \,\|\, p(z)) ,",
)
def test_for_a_small_beta_it_is_no_bound():
    names = weighted(0)
    log_p = math.log(names[r"p_\theta(x)"](names["x"]))
    values = [right("def-vae-beta", names | {r"\beta": beta}) for beta in (0.0, 0.2, 1.0, 3.0)]
    assert values[0] > log_p > values[2] > values[3]


@two
@pytest.mark.equation(
    "eq-vae-best-noise",
    r"\hat\sigma^2 = \frac{1}{N d} \sum_{i=1}^{N} \E_{q_\phi(z \mid x_i)}[\|x_i - a\|^2] .",
)
def test_the_best_noise(seed):
    agree("eq-vae-best-noise", best_noise(seed), rel=1e-6, abs=1e-6)


@pytest.mark.equation(
    "eq-vae-best-noise",
    r"\hat\sigma^2 = \frac{1}{N d} \sum_{i=1}^{N} \E_{q_\phi(z \mid x_i)}[\|x_i - a\|^2] .",
)
def test_the_best_noise_of_course_lib():
    """At the printed value, with the samples drawn, the gradient by the learned log-variance is zero."""
    model, x = vae(1, noise="learned", noise_sd=0.9)
    z, _, _ = printed_terms(model, x, 7)
    a = {(s, i): column(numpy(model.decoder(tensor(z[s, i])))) for s in range(M) for i in range(4)}
    total = sum(np.sum((column(numpy(x[i])) - one) ** 2) for (_, i), one in a.items()) / M
    names = {"N": 4, "d": 5, "x_i": [0.0] * 4, "a": 0.0, r"\E_{q_\phi(z \mid x_i)}": lambda f: total / 4}
    best = right("eq-vae-best-noise", names)
    with torch.no_grad():
        model.log_noise_var.fill_(math.log(best))
    _, (by_noise, *_) = vae_gradients(model, x, n_samples=M, generator=generator(7))
    assert abs(by_noise.item()) < 1e-12


@two
@pytest.mark.equation(
    "eq-vae-best-variance",
    r"\exp(\hat\gamma_k) = \frac{\beta \sigma^2}{\beta \sigma^2 + \|w_k\|^2} .",
)
def test_the_best_variance(seed):
    for k in (1, 2):
        agree("eq-vae-best-variance", best_variance(seed) | {"k": k}, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("case", range(len(ACTIVE)))
@pytest.mark.equation("eq-vae-active", r"\|\hat w_k\|^2 = \max(\lambda_k - \beta \sigma^2, 0) .")
@pytest.mark.equation(
    "eq-vae-best-variance",
    r"\exp(\hat\gamma_k) = \frac{\beta \sigma^2}{\beta \sigma^2 + \|w_k\|^2} .",
)
def test_dimensions_that_are_on_and_off(case):
    """The search finds orthogonal columns along the eigenvectors; what is off has the prior for its posterior."""
    names, (seed, beta, _) = active(case), ACTIVE[case]
    world, found = line(seed), []
    agree("eq-vae-active", names, rel=1e-8, abs=1e-8)
    for k, w in enumerate(names[r"\hat{w}_k"]):
        along = world.eigenvectors[:, k] @ w[:, 0]
        assert along**2 == pytest.approx(np.sum(w**2), abs=1e-9)
        found.append(np.sum(w**2) > 1e-8)
    assert found == [lam > beta * world.sigma**2 for lam in world.eigenvalues[:2]]
    W, b, A, c, G, g = np.split(world.optimum(beta).numpy(), [6, 9, 15, 17, 23])
    np.testing.assert_allclose(b, world.x.mean(0), atol=1e-9)
    np.testing.assert_allclose(G, 0, atol=1e-8)
    for k in range(2):
        here = {r"\beta": beta, r"\sigma": world.sigma, "w_k": [column(W.reshape(3, 2)[:, k])], "k": 1}
        assert math.exp(g[k]) == pytest.approx(right("eq-vae-best-variance", here), rel=1e-7)
        if np.sum(W.reshape(3, 2)[:, k] ** 2) < 1e-8:
            np.testing.assert_allclose([*A.reshape(2, 3)[k], c[k], g[k]], 0, atol=1e-8)


# --- the aggregated posterior, collapse ---


@two
@pytest.mark.equation("def-vae-aggregated", r"\bar{q}(z) = \frac{1}{N} \sum_{i=1}^{N} q_\phi(z \mid x_i) .")
@pytest.mark.equation(
    "eq-vae-split-rate",
    r"\begin{aligned} \frac{1}{N} \sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, p(z)) = {}& \frac{1}{N} "
    r"\sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, \bar{q}(z)) \\ & + \KL(\bar{q}(z) \,\|\, p(z)) . "
    r"\end{aligned}",
)
@pytest.mark.equation(
    "eq-vae-information",
    r"0 \leq \frac{1}{N} \sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, \bar{q}(z)) \leq \log N .",
)
def test_the_aggregated_posterior(seed):
    names = aggregated(seed)
    for z in (-2.0, 0.1, 0.7):
        agree("def-vae-aggregated", names | {"z": z})
    agree("eq-vae-split-rate", names)
    agree("eq-vae-information", names)
    formulas, _ = relation("eq-vae-information")
    left, _, log_n = (side(names) for side in formulas)
    assert left < formulas[1](names) < log_n


@pytest.mark.equation(
    "eq-vae-information",
    r"0 \leq \frac{1}{N} \sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, \bar{q}(z)) \leq \log N .",
)
def test_the_ends_of_the_information():
    """Equal codes tell nothing; codes far apart tell all."""
    for seed, expected in ((0, 0.0), (1, math.log(4))):
        agree("eq-vae-information", information(seed))
        assert relation("eq-vae-information")[0][1](information(seed)) == pytest.approx(expected, abs=1e-9)


@two
@pytest.mark.equation(
    "eq-vae-split-rate",
    r"\begin{aligned} \frac{1}{N} \sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, p(z)) = {}& \frac{1}{N} "
    r"\sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, \bar{q}(z)) \\ & + \KL(\bar{q}(z) \,\|\, p(z)) . "
    r"\end{aligned}",
)
def test_the_rate_of_course_lib_is_the_sum_of_both_parts(seed):
    """The left side in closed form by `kl_per_dimension`, the parts by samples from `encode`, within their error."""
    model, x = vae(seed)
    rate = model.kl_per_dimension(x).sum(-1).mean().item()
    with torch.no_grad():
        q = model.encode(x)
        z = q.rsample(50_000, generator=generator(seed))
        own = q.log_prob(z)
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.ones(4, dtype=F64)),
            torch.distributions.MultivariateNormal(q.mean, scale_tril=q.tril.expand(4, 2, 2)),
        ).log_prob(z)
        parts = own - mixture, mixture - model.log_prior(z)
    total = sum(part.mean().item() for part in parts)
    error = (parts[0] + parts[1]).std().item() / 200_000**0.5
    assert total == pytest.approx(rate, abs=5 * error)
    assert 0 < parts[0].mean() < math.log(4)
    assert parts[1].mean() > 0


@two
@pytest.mark.equation(
    "eq-vae-collapsed",
    r"\elbo(\theta, \phi; x) = \log p_\theta(x) - \KL(q_\phi(z \mid x) \,\|\, p(z)) .",
)
def test_a_decoder_that_does_not_look(seed):
    agree("eq-vae-collapsed", blind(seed))


@pytest.mark.equation(
    "eq-vae-collapsed",
    r"\elbo(\theta, \phi; x) = \log p_\theta(x) - \KL(q_\phi(z \mid x) \,\|\, p(z)) .",
)
def test_collapse_in_course_lib():
    """No weights behind the code: the bound is the log-probability without it, less the divergence."""
    model, x = vae(0, "bernoulli")
    with torch.no_grad():
        model.decoder.weights[0].zero_()
    log_p = model.log_conditional(x, torch.zeros(4, 2, dtype=F64))
    rate = model.kl_per_dimension(x).sum(-1)
    torch.testing.assert_close(model.elbo(x, generator=generator()), log_p - rate)
    with torch.no_grad():
        model.encoder.weights[-1].zero_()
        model.encoder.biases[-1].zero_()
    torch.testing.assert_close(model.elbo(x, generator=generator()), log_p)


# --- cures, rate and distortion ---


@two
@pytest.mark.equation(
    "def-vae-free-bits",
    r"\begin{aligned} \hat{R}_\kappa(\theta, \phi) = {}& -\frac{1}{b} \sum_{i \in B} \E_{q_\phi(z \mid "
    r"x_i)}[\log p_\theta(x_i \mid z)] \\ & + \sum_{k=1}^{m} \max\left(\kappa, \frac{1}{b} \sum_{i \in B} "
    r"\rho_{ik}\right) . \end{aligned}",
)
def test_free_bits(seed):
    agree("def-vae-free-bits", free_bits(seed))


@two
@pytest.mark.equation(
    "def-vae-free-bits",
    r"\begin{aligned} \hat{R}_\kappa(\theta, \phi) = {}& -\frac{1}{b} \sum_{i \in B} \E_{q_\phi(z \mid "
    r"x_i)}[\log p_\theta(x_i \mid z)] \\ & + \sum_{k=1}^{m} \max\left(\kappa, \frac{1}{b} \sum_{i \in B} "
    r"\rho_{ik}\right) . \end{aligned}",
)
def test_free_bits_of_course_lib(seed):
    """For no free nats, for floors between the divergences, and for one above them all."""
    model, x = vae(seed, "bernoulli")
    _, log_p, _ = printed_terms(model, x, seed)
    rho = numpy(model.kl_per_dimension(x))
    names = {"B": {1, 2, 3, 4}, "b": 4, "m": 2, r"\rho_{ik}": rho, "x_i": [1, 2, 3, 4]}
    names |= {r"\E_{q_\phi(z \mid x_i)}": lambda f: log_p.mean()}  # its mean over the data is all that matters
    for floor in (0.0, rho.mean(0).mean(), 50.0):
        found = vae_loss(model, x, n_samples=M, free_bits=float(floor), generator=generator(seed)).item()
        assert found == pytest.approx(right("def-vae-free-bits", names | {r"\kappa": floor}), rel=1e-11)
        value, _ = vae_gradients(model, x, n_samples=M, free_bits=float(floor), generator=generator(seed))
        assert value.item() == pytest.approx(found, rel=1e-12)


@two
@pytest.mark.equation("def-vae-warm-up", r"\beta_t = \min(1, t / T) .")
def test_warm_up(seed):
    for t in range(1, 11):
        agree("def-vae-warm-up", warm_up(seed) | {"t": t})


@pytest.mark.equation("def-vae-warm-up", r"\beta_t = \min(1, t / T) .")
def test_the_warm_up_of_course_lib():
    """Step t of the training has the printed weight; in evaluation mode it is 1 at once."""
    model, x = vae(0)
    plain, rate = vae_loss(model, x, generator=generator(0)).item(), model.kl_per_dimension(x).sum(-1).mean().item()
    for t in range(1, 8):
        weight = right("def-vae-warm-up", {"t": t, "T": 4})
        objective = (vae_loss, vae_gradients)[t % 2]
        found = objective(model, x, warmup=4, generator=generator(0))
        found = found.item() if t % 2 == 0 else found[0].item()
        assert found == pytest.approx(plain - (1 - weight) * rate, rel=1e-11)
    fresh, _ = vae(0)
    assert vae_loss(fresh.eval(), x, warmup=4, generator=generator(0)).item() == pytest.approx(plain, rel=1e-12)


@two
@pytest.mark.equation(
    "eq-vae-support",
    r"\Delta(\beta') + \beta \rho(\beta') \geq \Delta(\beta) + \beta \rho(\beta) :",
)
def test_no_point_lies_below_the_line(seed):
    for other in (0.7, 0.8, 1.3, 2.2, 4.0):
        agree("eq-vae-support", frontier(seed) | {r"\beta'": other})
    sides = [side(frontier(0) | {r"\beta'": 0.8}) for side in relation("eq-vae-support")[0]]
    assert sides[0] == sides[1]


@two
@pytest.mark.equation("eq-vae-tangent", r"\frac{d \Delta}{d \beta} = -\beta \frac{d \rho}{d \beta} .")
@pytest.mark.equation(
    "def-vae-rate",
    r"\begin{aligned} \Delta = {}& -\frac{1}{N} \sum_{i=1}^{N} \E_{q_\phi(z \mid x_i)}[\log p_\theta(x_i "
    r"\mid z)] , \\ \quad \rho = {}& \frac{1}{N} \sum_{i=1}^{N} \KL(q_\phi(z \mid x_i) \,\|\, p(z)) . "
    r"\end{aligned}",
)
def test_the_slope_of_the_curve(seed):
    """By differences of what the search finds; and with two dimensions on, the slope of the distortion is 2 / 2."""
    names = tangent(seed)
    agree("eq-vae-tangent", names, rel=1e-6, abs=1e-6)
    slope = relation("eq-vae-tangent")[0][0](names)
    assert slope == pytest.approx(1.0, abs=1e-6)
    world, beta = line(0), names[r"\beta"]
    assert world.curve(beta)[1] == pytest.approx(0.5 * np.log(world.eigenvalues[:2] / beta / world.sigma**2).sum())
