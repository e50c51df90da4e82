"""The VAE against torch.distributions, against exact probabilistic PCA, and its gradient by hand against autograd.

Statistical tests have fixed seeds and wide error bars. Tests of wrong shapes call the function without its shape
annotations (`unchecked`): conftest.py has jaxtyping check them, so it would speak first.
"""

import functools
import inspect
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import vae as benchmark
from course_lib import elbo as bounds_of
from course_lib import vae as module
from course_lib.backprop import numerical_gradient
from course_lib.latent import GaussianPosterior, ProbabilisticPCA
from course_lib.networks import ACTIVATIONS
from course_lib.training import TrainingDiverged, evaluate, fit
from course_lib.vae import VAE, vae_gradients, vae_loss

unchecked = inspect.unwrap
close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
F64 = torch.float64
KINDS = {
    "bernoulli": {"likelihood": "bernoulli"},
    "fixed": {"likelihood": "gaussian", "noise": "fixed", "noise_sd": 0.6},
    "learned": {"likelihood": "gaussian", "noise": "learned", "noise_sd": 0.6},
    "per_dimension": {"likelihood": "gaussian", "noise": "per_dimension", "noise_sd": 0.6},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
OPTIONS = {
    "elbo": {},
    "elbo, 3 samples": {"n_samples": 3},
    "beta": {"objective": "beta", "beta": 2.5, "n_samples": 2},
    "beta 0": {"objective": "beta", "beta": 0.0},
    "iwae": {"objective": "iwae", "n_samples": 4},
    "iwae, 1 sample": {"objective": "iwae"},
    "free bits": {"free_bits": 0.4, "n_samples": 2},
    "warm-up": {"warmup": 7},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(kind="bernoulli", d=5, m=2, hidden=(4, 3), activation="tanh", seed=0, dtype=F64, device=None):
    """A VAE whose parameters are all of order one, on the CPU's random numbers whatever the device."""
    model = VAE(d, m, hidden, activation=activation, dtype=dtype, device=device, **KINDS[kind])
    generator = seeded(seed)
    with torch.no_grad():
        for param in model.parameters():
            values = torch.randn(param.shape, generator=generator, dtype=F64)
            param.copy_(values / max(1, param.shape[-1] if param.ndim else 4) ** 0.5)
    return model


def data(kind="bernoulli", N=6, d=5, seed=1, dtype=F64, device=None):
    x = torch.randn(N, d, generator=seeded(seed), dtype=F64)
    return (x > 0 if kind == "bernoulli" else x).to(dtype=dtype, device=device)


def heads(model, x):
    mean, log_var = model.encoder(x).chunk(2, -1)
    return mean, log_var


def conditional(model, z):
    """p(x | z) by torch.distributions."""
    output = model.decoder(z)
    if model.likelihood == "bernoulli":
        return Bernoulli(logits=output, validate_args=False)
    return Normal(output, (0.5 * model.log_noise_var).exp().expand_as(output), validate_args=False)


def linear(d=6, m=2, N=4, noise_var=0.5, seed=0):
    """A linear VAE whose encoder is the exact posterior, the same model as probabilistic PCA, and data."""
    generator = seeded(seed)
    axes = torch.linalg.qr(torch.randn(d, m, generator=generator, dtype=F64)).Q
    W = axes * torch.linspace(0.5, 2, m, dtype=F64)  # W'W is diagonal, and so is the posterior's covariance
    mu = torch.randn(d, generator=generator, dtype=F64)
    exact = ProbabilisticPCA.from_parameters(W, mu, noise_var)
    G = W.T @ W + noise_var * torch.eye(m, dtype=F64)
    model = VAE(d, m, (), "gaussian", noise_sd=noise_var**0.5, dtype=F64)
    to_mean = torch.linalg.solve(G, W.T)
    with torch.no_grad():
        model.decoder.weights[0].copy_(W)
        model.decoder.biases[0].copy_(mu)
        model.encoder.weights[0].copy_(torch.cat((to_mean, torch.zeros_like(to_mean))))
        model.encoder.biases[0].copy_(torch.cat((-to_mean @ mu, (noise_var / G.diagonal()).log())))
    return model, exact, torch.randn(N, d, generator=generator, dtype=F64) * 2


# --- the model ---


def test_the_hidden_layers_are_shared_and_mirrored():
    model = VAE(7, 2, (5, 4))
    assert model.encoder.sizes == (7, 5, 4, 4)
    assert model.decoder.sizes == (2, 4, 5, 7)
    assert [name for name, _ in VAE(7, 2, (), "gaussian", noise="learned").named_parameters()] == [
        *("log_noise_var", "encoder.weights.0", "encoder.biases.0", "decoder.weights.0", "decoder.biases.0")
    ]


@each_kind
def test_the_halves_of_the_last_layer_are_mean_and_log_variance(kind):
    model, x = made(kind), data(kind)
    q = model.encode(x)
    mean, log_var = heads(model, x)
    close(q.mean, mean)
    close(q.cov, log_var.exp().diag_embed())
    close(model(x), model.decode(mean))


@each_kind
def test_densities_equal_torch_distributions(kind):
    model, x = made(kind), data(kind)
    z = torch.randn(3, 6, 2, generator=seeded(), dtype=F64)
    log_p = conditional(model, z).log_prob(x).sum(-1)
    log_prior = Normal(torch.zeros(2, dtype=F64), 1.0).log_prob(z).sum(-1)
    close(model.log_conditional(x, z), log_p)
    close(model.log_prior(z), log_prior)
    close(model.log_joint(x, z), log_p + log_prior)
    close(model.log_conditional(x[:1], z[:, :1]), log_p[:, :1])
    close(model.decode(z), conditional(model, z).mean)


def test_a_bernoulli_density_keeps_its_digits_at_large_logits():
    model = VAE(1, 1, (), dtype=F64)
    with torch.no_grad():
        model.decoder.weights[0].fill_(1.0)
    z = torch.tensor([-60.0, -25.0, 25.0, 39.0, 41.0, 300.0], dtype=F64)[:, None]
    for x, sign in ((1.0, 1), (0.0, -1)):
        # log sigmoid(a) by Python
        expected = [-math.log1p(math.exp(-sign * a)) if sign * a > -700 else sign * a for a in z[:, 0].tolist()]
        got = model.log_conditional(torch.full((6, 1), x, dtype=F64), z).tolist()
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-14)
        with torch.no_grad():
            model.encoder.weights[0].zero_()
            for logit, value in zip(z[:, 0].tolist(), expected, strict=True):
                model.decoder.weights[0].zero_()
                model.decoder.biases[0].fill_(logit)
                loss = vae_gradients(model, torch.tensor([[x]], dtype=F64))[0]
                assert -loss.item() == pytest.approx(value, rel=1e-12, abs=1e-14)
            model.decoder.biases[0].zero_()
            model.decoder.weights[0].fill_(1.0)


@each_kind
def test_probabilities_sum_to_one(kind):
    model, z = made(kind, d=3), torch.randn(2, generator=seeded(), dtype=F64)
    if kind == "bernoulli":
        x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=F64)
        total = model.log_conditional(x, z).exp().sum()
    else:
        ticks = torch.linspace(-8, 8, 65, dtype=F64)
        x = torch.cartesian_prod(ticks, ticks, ticks) + model.decode(z).detach()
        total = model.log_conditional(x, z).exp().sum() * 0.25**3
    assert total.item() == pytest.approx(1, abs=1e-6)


# --- bounds ---


@each_kind
@each_option
def test_the_loss_equals_a_loop_over_torch_distributions(kind, options):
    model, x = made(kind), data(kind)
    S = options.get("n_samples", 1)
    mean, log_var = heads(model, x)
    q, prior = Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros_like(mean), 1.0)
    z = mean + q.stddev * torch.randn(S, 6, 2, generator=seeded(3), dtype=F64)
    log_p = conditional(model, z).log_prob(x).sum(-1)
    if options.get("objective") == "iwae":
        weights = (log_p + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)).exp()
        expected = -weights.mean(0).log().mean()
    else:
        divergence = kl_divergence(q, prior).mean(0)
        floor = options.get("free_bits", 0.0)
        divergence = sum(max(floor, entry) for entry in divergence.tolist())
        weight = options.get("beta", 1.0) / options.get("warmup", 1)
        expected = weight * divergence - log_p.mean()
    close(vae_loss(model, x, generator=seeded(3), **options), expected)


@each_kind
@pytest.mark.parametrize("form", ["kl", "joint"])
def test_the_bounds_are_those_of_chapter_8(kind, form):
    model, x = made(kind), data(kind)
    q = model.encode(x)
    ours = model.elbo(x, 4, form=form, generator=seeded(2))
    close(ours, bounds_of.elbo(model, x, q, 4, form=form, generator=seeded(2)))
    ours = model.log_likelihood(x, 6, generator=seeded(2))
    close(ours, bounds_of.importance_weighted_bound(model, x, q, 6, generator=seeded(2)).detach())
    close(vae_loss(model, x, n_samples=4, generator=seeded(2)), -model.elbo(x, 4, generator=seeded(2)).mean())
    close(
        vae_loss(model, x, objective="iwae", n_samples=6, generator=seeded(2)),
        -model.log_likelihood(x, 6, generator=seeded(2)).mean(),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), d=st.integers(2, 7), m=st.integers(1, 2), noise_var=st.floats(0.05, 4))
def test_a_linear_vae_at_the_exact_posterior_has_no_gap(seed, d, m, noise_var):
    model, exact, x = linear(d, m, noise_var=noise_var, seed=seed)
    evidence = exact.log_likelihood(x)
    close(model.elbo(x, form="joint", generator=seeded(seed)).detach(), evidence)
    close(model.log_likelihood(x, 3, generator=seeded(seed)), evidence)
    close(vae_loss(model, x, objective="iwae", generator=seeded(seed)).detach(), -evidence.mean())
    close(bounds_of.exact_elbo(exact, x, model.encode(x)).detach(), evidence)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.01, 1))
def test_a_linear_vae_never_exceeds_the_exact_likelihood(seed, spread):
    """The bound without samples at any encoder, and in the mean over samples."""
    model, exact, x = linear(seed=seed)
    with torch.no_grad():
        for param in model.encoder.parameters():
            param += spread * torch.randn(param.shape, generator=seeded(seed), dtype=F64)
    q, evidence = model.encode(x), exact.log_likelihood(x)
    bound = bounds_of.exact_elbo(exact, x, q).detach()
    assert (bound < evidence).all()
    posterior = exact.posterior(x)
    gap = kl_divergence(
        MultivariateNormal(q.mean, scale_tril=q.tril), MultivariateNormal(posterior.mean, scale_tril=posterior.tril)
    )
    close(bound + gap.detach(), evidence)
    draws = torch.stack([model.elbo(x, 1, generator=seeded(s)).detach() for s in range(40)])
    error = draws.std(0) / 40**0.5
    assert ((draws.mean(0) - bound).abs() < 5 * error + 1e-9).all()


def test_more_weights_bring_the_bound_closer_to_the_likelihood():
    model, x = made(m=1, d=4), data(d=4)
    ticks = torch.linspace(-9, 9, 1001, dtype=F64)[:, None, None]  # the integral over z by a sum
    exact = (model.log_joint(x, ticks).logsumexp(0) + math.log(18 / 1000)).detach()
    one, many = (
        torch.stack([model.log_likelihood(x, S, generator=seeded(s)) for s in range(100)]).mean(0) for S in (1, 500)
    )
    assert (one < many).all()
    close(many, exact, rtol=0, atol=0.01)


@each_kind
def test_the_divergence_of_each_dimension(kind):
    model, x = made(kind), data(kind)
    mean, log_var = heads(model, x)
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros_like(mean), 1.0)).detach()
    close(model.kl_per_dimension(x), expected)
    close(model.kl_per_dimension(x).sum(-1), model.encode(x).kl_to_standard_normal().detach())


@each_kind
def test_a_datum_has_the_same_bound_in_any_batch(kind, monkeypatch):
    """With the noise of each datum held fixed; and the mean does not feel the size of the batch."""
    model, x = made(kind, d=5), data(kind, N=8)
    noise = torch.randn(3, 8, 2, generator=seeded(), dtype=F64)
    monkeypatch.setattr(module, "_noise", lambda n, mean, generator: noise[:, rows])
    rows = slice(None)
    whole = {name: vae_loss(model, x, **OPTIONS[name]).item() for name in ("elbo", "beta", "iwae")}
    by_rows = dict.fromkeys(whole, 0.0)
    for rows in (slice(0, 3), slice(3, 4), slice(4, 8)):
        for name in by_rows:
            by_rows[name] += len(x[rows]) * vae_loss(model, x[rows], **OPTIONS[name]).item()
    assert {name: value / 8 for name, value in by_rows.items()} == pytest.approx(whole, rel=1e-12)


def prepared(model, x, **options):
    """The second of two calls of what fit calls, on the same data: it finds all memory used."""
    step, before = vae_gradients.prepare(model, x), model.steps.clone()
    step(model, x, **options | {"generator": seeded(9)})
    model.steps.copy_(before)
    return step(model, x, **options)


ways = pytest.mark.parametrize("way", [vae_loss, vae_gradients, prepared], ids=lambda way: way.__name__)


@ways
def test_each_datum_and_each_sample_has_noise_of_its_own_in_the_loss(way):
    """The loss of 300 equal data with 3 samples has a variance 900 times smaller than that of one with one."""
    model, generator = made(), seeded()

    def variance(x, **options):
        values = [way(model, x, generator=generator, **options) for _ in range(120)]
        return torch.stack([value if way is vae_loss else value[0] for value in values]).var().item()

    x = data()[:1]
    ratio = variance(x) / variance(x.expand(300, -1), n_samples=3)
    assert ratio == pytest.approx(900, rel=0.5)


def test_each_datum_has_noise_of_its_own():
    model, x = made(), data()[:1].expand(2000, -1)
    bounds = model.elbo(x, generator=seeded())
    assert bounds.unique().numel() == 2000
    with torch.no_grad():
        twice = torch.stack([model.elbo(x, 2, generator=seeded(s)).var() for s in range(3)]).mean()
    assert twice == pytest.approx(model.elbo(x, generator=seeded()).var().item() / 2, rel=0.25)


@each_kind
def test_any_batch_shape(kind):
    model, x = made(kind), data(kind)
    shaped = x.reshape(2, 3, 5)
    assert model.elbo(shaped, 3).shape == model.log_likelihood(shaped, 3).shape == (2, 3)
    assert model.elbo(x[0]).shape == ()
    close(vae_loss(model, shaped, generator=seeded()), vae_loss(model, x, generator=seeded()))
    value, gradients = vae_gradients(model, shaped, generator=seeded())
    again, others = vae_gradients(model, x, generator=seeded())
    close([value, *gradients], [again, *others])


def test_large_evaluations_go_in_pieces(monkeypatch):
    model, x = made(), data(N=7)
    whole = [model.elbo(x, 4000, generator=seeded()), model.log_likelihood(x, 4000, generator=seeded())]
    monkeypatch.setattr(module, "AT_ONCE", 2 * 4000 * 5)
    pieces = []
    monkeypatch.setattr(model, "encode", lambda rows: (pieces.append(len(rows)), VAE.encode(model, rows))[1])
    parts = [model.elbo(x, 4000, generator=seeded()), model.log_likelihood(x, 4000, generator=seeded())]
    assert pieces == [2, 2, 2, 1] * 2
    close(torch.stack(parts), torch.stack(whole), rtol=0, atol=0.2)


# --- samples, lines, traversals ---


@each_kind
def test_samples_have_the_moments_of_the_model(kind):
    model = made(kind)
    x, z = model.sample(40_000, generator=seeded())
    close(z.mean(0), torch.zeros(2, dtype=F64), rtol=0, atol=0.03)
    close(z.T.cov(), torch.eye(2, dtype=F64), rtol=0, atol=0.04)
    rest = x - model.decode(z).detach()
    close(rest.mean(0), torch.zeros(5, dtype=F64), rtol=0, atol=0.03)
    close(rest.var(0), conditional(model, z).variance.mean(0).detach(), rtol=0.03, atol=0.01)
    again, _ = model.sample(40_000, generator=seeded())
    assert torch.equal(x, again)
    assert not x.requires_grad


@each_kind
def test_a_line_between_two_codes(kind):
    model, x = made(kind), data(kind)
    line = model.interpolate(x[:2], x[2:4], 5)
    assert line.shape == (5, 2, 5)
    close(line[0], model(x[:2]).detach())
    close(line[-1], model(x[2:4]).detach())
    middle = (model.encode(x[:2]).mean + model.encode(x[2:4]).mean) / 2
    close(line[2], model.decode(middle).detach())


@each_kind
def test_a_traversal_moves_one_coordinate(kind):
    model, z = made(kind), torch.randn(3, 2, generator=seeded(), dtype=F64)
    before, values = z.clone(), torch.tensor([-2.0, 0.5], dtype=F64)
    images = model.traverse(z, 1, values)
    assert images.shape == (2, 3, 5)
    for image, value in zip(images, values, strict=True):
        moved = torch.stack((z[:, 0], value.expand(3)), 1)
        close(image, model.decode(moved).detach())
    assert torch.equal(z, before)
    assert model.traverse(z[0], 0, values).shape == (2, 5)


# --- the gradient by hand ---


def compare(model, x, way=vae_gradients, **options):
    """Loss and gradient by hand, equal to those of autograd to 1e-10."""
    model.steps.fill_(3)
    value = vae_loss(model, x, generator=seeded(5), **options)
    by_autograd = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    model.steps.fill_(3)
    by_hand, gradients = way(model, x, generator=seeded(5), **options)
    close(by_hand, value.detach())
    assert len(gradients) == len(by_autograd)
    for ours, theirs in zip(gradients, by_autograd, strict=True):
        close(ours, theirs)
        assert not ours.requires_grad


@each_kind
@each_option
@pytest.mark.parametrize("way", [vae_gradients, prepared], ids=lambda way: way.__name__)
def test_the_gradient_by_hand_equals_autograd(kind, options, way):
    compare(made(kind), data(kind), way, **options)


@each_kind
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3, 3)], ids=str)
def test_the_gradient_by_hand_for_all_networks(kind, activation, hidden):
    compare(made(kind, hidden=hidden, activation=activation), data(kind), n_samples=2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(list(KINDS)),
    options=st.sampled_from(list(OPTIONS.values())),
    N=st.integers(1, 4),
    d=st.integers(1, 5),
    m=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_the_gradient_by_hand_for_all_sizes(kind, options, N, d, m, seed):
    compare(made(kind, d, m, (3,), seed=seed), data(kind, N, d, seed + 1), **options)


def test_the_gradient_by_hand_equals_finite_differences():
    model, x = made("per_dimension"), data("fixed")
    _, gradients = vae_gradients(model, x, n_samples=2, generator=seeded())
    by_differences = numerical_gradient(
        lambda: vae_loss(model, x, n_samples=2, generator=seeded()), list(model.parameters())
    )
    for ours, theirs in zip(gradients, by_differences, strict=True):
        close(ours, theirs, rtol=1e-6, atol=1e-7)


class _Operations(TorchDispatchMode):
    """The names of the operations, and whether any result belongs to a graph of autograd."""

    def __init__(self):
        super().__init__()
        self.names, self.graph = [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        self.graph |= any(isinstance(t, torch.Tensor) and t.requires_grad for t in tree_leaves(result))
        return result


def test_the_gradient_by_hand_needs_no_graph_and_few_operations():
    model, x = made(hidden=(4,)), data()
    step = vae_gradients.prepare(model, x)
    step(model, x)
    with _Operations() as watched:
        _, gradients = step(model, x)
    assert not watched.graph
    assert all(gradient.grad_fn is None for gradient in gradients)
    assert len(watched.names) <= 51, watched.names


def test_prepared_gradients_follow_the_parameters():
    """Steps in place, other values, other memory, another size of the batch, another weight of the divergence."""
    model, x = made("learned"), data("learned")
    step = vae_gradients.prepare(model)
    params = list(model.parameters())
    for change in (
        lambda param: param.sub_(0.1),
        lambda param: param.copy_(torch.randn_like(param)),
        lambda param: setattr(param, "data", param.data.clone() + 1),
        lambda param: torch.nn.utils.vector_to_parameters(torch.ones(param.numel(), dtype=F64), [param]),
    ):
        with torch.no_grad():
            for param in params:
                change(param)
        for rows, beta in ((slice(0, 4), 1.0), (slice(4, 6), 2.0), (slice(0, 4), 3.0)):
            options = {"objective": "beta", "beta": beta}
            ours = step(model, x[rows], generator=seeded(1), **options)
            close(ours, vae_gradients(model, x[rows], generator=seeded(1), **options))
    with pytest.raises(ValueError, match="prepared for another model"):
        step(made("learned"), x)


def test_prepared_gradients_use_their_memory_again_and_others_do_not():
    model, x = made(), data()
    step = vae_gradients.prepare(model)
    for call, again in ((step, True), (vae_gradients, False)):
        (first_value, first), (value, gradients) = call(model, x), call(model, x)
        assert first_value.data_ptr() != value.data_ptr()
        assert [g.data_ptr() == h.data_ptr() for g, h in zip(first, gradients, strict=True)] == [again] * len(first)


def test_what_fit_prepares_looks_at_the_data_at_once():
    grey = replaced(data(), (4, 2), 0.5)
    for gradients in ("analytic", vae_gradients, functools.partial(vae_gradients, warmup=3)):
        model = made()
        before = [param.clone() for param in model.parameters()]
        with pytest.raises(ValueError, match=r"x\[4, 2\] is 0.5: a Bernoulli"):
            fit(model, (grey,), vae_loss, n_epochs=1, batch_size=2, lr=0.1, gradients=gradients)
        assert all(map(torch.equal, before, model.parameters()))
    step = vae_gradients.prepare(made())  # without data it looks at each batch
    with pytest.raises(ValueError, match="prepared for another"):
        step(made(), grey)
    model = made()
    for step in (vae_gradients.prepare(model), vae_gradients.prepare(model, data())):
        with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4\): its last dimension must be 5"):
            step(model, torch.ones(2, 3, 4, dtype=F64))
    with pytest.raises(ValueError, match=r"x\[4, 2\] is 0.5: a Bernoulli"):
        vae_gradients.prepare(model)(model, grey)


def test_frozen_parameters_are_left_out():
    model, x = made("learned"), data("learned")
    model.encoder.requires_grad_(False)
    _, gradients = vae_gradients(model, x, generator=seeded())
    trained = [param for param in model.parameters() if param.requires_grad]
    by_autograd = torch.autograd.grad(vae_loss(model, x, generator=seeded()), trained)
    close(gradients, list(by_autograd))
    fit(model, (x,), vae_loss, n_epochs=1, batch_size=3, lr=0.01, gradients=vae_gradients)


# --- training ---


@each_kind
@each_option
def test_fit_by_hand_and_by_autograd_gives_the_same_weights(kind, options):
    loss, gradients = functools.partial(vae_loss, **options), functools.partial(vae_gradients, **options)
    models = made(kind), made(kind)
    common = {"n_epochs": 3, "batch_size": 4, "lr": 0.01, "seed": 2}
    by_autograd = fit(models[0], (data(kind),), loss, **common)
    by_hand = fit(models[1], (data(kind),), loss, gradients=gradients, **common)
    assert by_hand.loss == pytest.approx(by_autograd.loss, rel=1e-9)
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        close(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"objective": "beta", "beta": 3.0}, {"objective": "iwae", "n_samples": 3}])
def test_fit_finds_the_gradient_by_hand(options, monkeypatch):
    """By its name, also behind a partial, and with its options."""
    calls = []

    def watched(*arguments, **options):
        calls.append(options)
        return vae_gradients(*arguments, **options)

    monkeypatch.setattr(vae_loss, "gradients", watched)
    loss = functools.partial(functools.partial(vae_loss, **options)) if options else vae_loss
    models, common = (made(), made()), {"n_epochs": 2, "batch_size": 3, "lr": 0.01}
    histories = [
        fit(model, (data(),), loss, gradients=gradients, **common)
        for model, gradients in zip(models, ("analytic", "autograd"), strict=True)
    ]
    assert calls == [options] * 4
    assert histories[0].loss == pytest.approx(histories[1].loss, rel=1e-9)
    with pytest.raises(ValueError, match=r"loss reconstruction brings none: give 'autograd', or set"):
        fit(made(), (data(),), reconstruction, gradients="analytic", **common)


def reconstruction(model, x):
    return (model(x) - x).square().mean()


def test_training_raises_the_bound():
    model = VAE(4, 1, (8,), dtype=F64, generator=seeded())
    x = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]], dtype=F64).repeat(20, 1)
    fit(model, (x,), vae_loss, n_epochs=200, batch_size=20, lr=0.02, gradients=vae_gradients)
    evidence = model.log_likelihood(x, 200, generator=seeded()).mean().item()
    assert -1.0 < evidence < -math.log(2) + 0.01  # no model gives the two kinds more than half each


def test_a_learned_noise_finds_the_variance_of_the_data():
    x = 0.3 * torch.randn(400, 3, generator=seeded(), dtype=F64)
    model = VAE(3, 1, (), "gaussian", noise="per_dimension", dtype=F64, generator=seeded())
    history = fit(model, (x,), vae_loss, n_epochs=60, batch_size=40, lr=0.05, gradients=vae_gradients)
    close((model.log_noise_var.exp() + model.decoder.weights[0][:, 0] ** 2).detach(), x.var(0), rtol=0.2, atol=0)
    assert history.loss[-1] < history.loss[0]


def test_a_warmup_raises_the_weight_step_by_step():
    model, x = made(), data()
    with torch.no_grad():
        divergence = model.kl_per_dimension(x).sum(-1).mean()
        full = vae_loss(model, x, generator=seeded())
        for step, weight in enumerate((0.25, 0.5, 0.75, 1.0, 1.0)):
            assert model.steps == step
            close(vae_loss(model, x, warmup=4, generator=seeded()), full - (1 - weight) * divergence)
        model.eval()
        model.steps.zero_()
        close(vae_loss(model, x, warmup=4, generator=seeded()), full)  # the full weight, and no step
        assert model.steps == 0


def test_validation_takes_no_step_of_the_warmup():
    model, x = made(), data()
    loss = functools.partial(vae_loss, warmup=100)
    fit(model, (x,), loss, n_epochs=2, batch_size=3, lr=0.01, validation=(x,))
    assert model.steps == 4
    evaluate(model, (x,), loss, 3)
    assert model.steps == 4


def test_an_interrupted_warmup_goes_on_where_it_was(tmp_path):
    loss, gradients = (functools.partial(function, warmup=8) for function in (vae_loss, vae_gradients))
    common = {"batch_size": 3, "lr": 0.01, "gradients": gradients}
    whole, parts = made(), made()
    fit(whole, (data(),), loss, n_epochs=4, **common)
    for n_epochs in (2, 4):
        parts = made()
        fit(parts, (data(),), loss, n_epochs=n_epochs, checkpoint=tmp_path / "run.pt", **common)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_free_bits_stop_the_pull_on_small_divergences():
    model, x = made(), data()
    by_dimension = model.kl_per_dimension(x).mean(0)
    between = by_dimension.mean().item()
    _, free = vae_gradients(model, x, free_bits=between, generator=seeded())
    _, all_free = vae_gradients(model, x, free_bits=100.0, generator=seeded())
    _, without = vae_gradients(model, x, objective="beta", beta=0.0, generator=seeded())
    close(all_free, without)
    assert by_dimension.min() < between < by_dimension.max()
    assert not torch.allclose(free[0], without[0])


def test_the_state_is_saved_whole():
    model, other = made("per_dimension", seed=0), made("per_dimension", seed=1)
    other.load_state_dict(model.state_dict())
    x = data("fixed")
    assert torch.equal(other.elbo(x, generator=seeded()), model.elbo(x, generator=seeded()))
    assert "log_noise_var" in VAE(5, 2, (), "gaussian", noise_sd=0.3).state_dict()


# --- dtype, device, generators ---


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_device_follow_the_inputs(kind, dtype, device):
    model, x = made(kind, dtype=dtype, device=device), data(kind, dtype=dtype, device=device)
    z = model.encode(x).mean
    value, gradients = vae_gradients(model, x)
    results = [
        *(model.elbo(x), model.log_likelihood(x, 5), model.kl_per_dimension(x), model(x), vae_loss(model, x), value),
        *(model.interpolate(x[0], x[1]), model.traverse(z[0], 0, z[:, 0].detach()), *model.sample(3), *gradients),
    ]
    assert {(t.dtype, t.device.type) for t in results} == {(dtype, device.type)}


@each_kind
def test_float32_agrees_with_float64(kind):
    double, single = made(kind), made(kind, dtype=torch.float32)
    x, z = data(kind), torch.randn(4, 6, 2, generator=seeded(), dtype=F64)
    torch.testing.assert_close(
        single.log_joint(x.float(), z.float()).double(), double.log_joint(x, z), rtol=1e-5, atol=1e-5
    )


@each_kind
def test_makes_no_cpu_tensor_for_a_gpu(kind):
    """On fake tensors, which know their device and shape but no values; mixing devices raises there too."""
    with FakeTensorMode(), torch.no_grad():  # autograd on fake tensors would want a GPU's library
        model = VAE(5, 2, (4,), device="cuda", **KINDS[kind])
        x, z = torch.ones(3, 5, device="cuda"), torch.ones(3, 2, device="cuda")
        results = [model.elbo(x), model.log_likelihood(x, 3), *model.sample(3), model.interpolate(x, x)]
        results += [model.traverse(z, 0, torch.ones(4, device="cuda"))]
        results += [model.kl_per_dimension(x), model(x), model.log_joint(x, z)]
        for options in OPTIONS.values():
            if "warmup" not in options:  # which asks for a value
                value, gradients = vae_gradients(model, x, **options)
                results += [value, *gradients, vae_loss(model, x, **options)]
        assert {t.device.type for t in results} == {"cuda"}
        for call in (
            lambda: vae_loss(model, x, generator=torch.Generator()),
            lambda: vae_gradients(model, x, generator=torch.Generator()),
            lambda: model.elbo(x, generator=torch.Generator()),
            lambda: model.log_likelihood(x, 3, generator=torch.Generator()),
            lambda: model.sample(3, generator=torch.Generator()),
        ):
            with pytest.raises(ValueError, match=r"generator is on cpu and .* on cuda"):
                call()
        with pytest.raises(ValueError, match="the first weight is on cuda:0 but x is on cpu"):
            vae_loss(model, torch.ones(3, 5))


@each_kind
def test_a_generator_decides_and_the_global_one_is_left_alone(kind):
    model, x = made(kind), data(kind)
    before = torch.get_rng_state()
    for call in (
        lambda generator: vae_loss(model, x, generator=generator),
        lambda generator: vae_gradients(model, x, generator=generator)[1][-1].sum(),
        lambda generator: model.elbo(x, generator=generator).sum(),
        lambda generator: model.log_likelihood(x, 2, generator=generator).sum(),
        lambda generator: model.sample(3, generator=generator)[0].sum() + model.sample(1, generator=generator)[1].sum(),
    ):
        one, same, other = (call(seeded(s)).item() for s in (0, 0, 1))
        assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)
    first, again = (VAE(5, 2, generator=seeded(s)).decoder.weights[0] for s in (0, 0))
    assert torch.equal(first, again)


def test_an_empty_batch():
    model = made()
    with pytest.raises(ValueError, match="there are no data"):
        vae_loss(model, torch.zeros(0, 5, dtype=F64))
    assert model.elbo(torch.zeros(0, 5, dtype=F64)).shape == (0,)
    assert model.sample(0)[0].shape == (0, 5)


# --- bad input ---


def replaced(tensor, index, value):
    tensor = tensor.detach().clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize("grey", [0.4375, 7.0, -1.0, 1 - 1e-9])
@pytest.mark.parametrize("call", [vae_loss, vae_gradients, VAE.elbo, VAE.log_likelihood], ids=lambda f: f.__name__)
def test_grey_pixels_are_refused_with_a_way_out(call, grey):
    with pytest.raises(ValueError, match=rf"x\[4, 2\] is {grey:.6g}: .*\(x >= 0.5\).to\(x.dtype\).*gaussian"):
        call(made(), replaced(data(), (4, 2), grey))


@pytest.mark.parametrize("kind", ["bernoulli", "fixed"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(kind, value):
    model, x = made(kind), replaced(data(kind), (1, 3), value)
    for call in (vae_loss, vae_gradients, VAE.elbo, VAE.log_likelihood, VAE.encode, VAE.kl_per_dimension):
        with pytest.raises(ValueError, match=r"x\[1, 3\] is (nan|-?inf)"):
            call(model, x)
    with pytest.raises(ValueError, match="x"):
        model.log_conditional(x, torch.zeros(6, 2, dtype=F64))
    with torch.no_grad():
        model.decoder.weights[2][0, 0] = value
    for call in (vae_loss, vae_gradients):
        with pytest.raises(ValueError, match=r"decoder.weights.2\[0, 0\] is (nan|-?inf)"):
            call(model, data(kind))


@each_kind
def test_an_infinite_weight_that_only_saturates_a_neuron_is_found(kind):
    """The loss stays finite, the gradients do not."""
    model = made(kind)
    with torch.no_grad():
        model.decoder.weights[1][0, 0] = math.inf
    assert vae_loss(model, data(kind)).isfinite()
    with pytest.raises(ValueError, match=r"decoder.weights.1\[0, 0\] is inf"):
        vae_gradients(model, data(kind))


def test_a_model_of_which_nothing_is_trained_has_no_gradients():
    assert vae_gradients(made().requires_grad_(False), data())[1] == []


@each_kind
def test_a_log_variance_that_overflows_is_explained(kind):
    """exp overflows in float32 past 88, and in float64 past 709."""
    for dtype, limit in ((torch.float32, 88.7), (F64, 709.8)):
        model, x = made(kind, dtype=dtype), data(kind, dtype=dtype)
        with torch.no_grad():
            model.encoder.biases[-1][-1] = 1.2 * limit
        for call in (vae_loss, vae_gradients, VAE.elbo, VAE.log_likelihood, VAE.kl_per_dimension):
            with pytest.raises(
                ValueError, match=rf"log-variance of q is as large as .*beyond {limit} .* learning rate"
            ):
                call(model, x)
        with torch.no_grad():
            model.encoder.biases[-1][-1] = 0.5 * limit
            model.decoder.weights[0].zero_()
        assert model.kl_per_dimension(x).isfinite().all()
        assert vae_loss(model, x).isfinite()


x, z = data(), torch.zeros(6, 2, dtype=F64)
MODEL = made()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vae_loss(MODEL, x[:, :4]), ValueError, r"x has shape \(6, 4\): its last dimension must be 5"),
        (lambda: vae_loss(MODEL, x.float()), TypeError, "x is torch.float|is torch.float64 but x is torch.float32"),
        (lambda: vae_loss(MODEL, x.long()), TypeError, "x has dtype torch.int64: give float32 or float64"),
        (lambda: vae_loss(MODEL, x.numpy()), TypeError, "x is a ndarray: give a torch.Tensor"),
        (lambda: vae_loss(MODEL.encoder, x), TypeError, "model is a MLP: give a VAE"),
        (lambda: vae_loss(MODEL, x, objective="mse"), ValueError, "objective is 'mse': give one of elbo, beta, iwae"),
        (lambda: vae_loss(MODEL, x, objective="beta"), ValueError, "'beta' needs beta=, the weight"),
        (lambda: vae_loss(MODEL, x, beta=2.0), ValueError, "'elbo' has no beta: give objective=\"beta\""),
        (lambda: vae_loss(MODEL, x, objective="beta", beta=-1.0), ValueError, "beta is -1.0: give a finite number"),
        (lambda: vae_loss(MODEL, x, objective="beta", beta=math.nan), ValueError, "beta is nan: give a finite number"),
        (lambda: vae_loss(MODEL, x, free_bits=-0.5), ValueError, "free_bits is -0.5: give a finite number"),
        (lambda: vae_loss(MODEL, x, warmup=-2), ValueError, "warmup is -2: give a number of steps"),
        (lambda: vae_loss(MODEL, x, warmup=0.5), ValueError, "warmup is 0.5: give a number of steps"),
        (lambda: vae_loss(MODEL, x, objective="iwae", warmup=5), ValueError, '"iwae" has no divergence to weigh'),
        (lambda: vae_loss(MODEL, x, objective="iwae", free_bits=0.1), ValueError, '"iwae" has no divergence to weigh'),
        (lambda: vae_loss(MODEL, x, n_samples=0), ValueError, "n_samples is 0: it must be 1 or more"),
        (lambda: vae_loss(MODEL, x, n_samples=2.0), TypeError, "n_samples is a float: give an int"),
        (lambda: MODEL.elbo(x, 0), ValueError, "n_samples is 0: it must be 1 or more"),
        (lambda: MODEL.encode(x[:, :2]), ValueError, r"must be 5, the data_dim"),
        (lambda: MODEL.decode(x), ValueError, r"z has shape \(6, 5\): its last dimension must be 2, the latent_dim"),
        (lambda: MODEL.log_prior(replaced(z, (0, 1), math.nan)), ValueError, r"z\[0, 1\] is nan"),
        (lambda: MODEL.log_conditional(x, z[:4]), ValueError, r"for samples against data give z \(S, 1, m\)"),
        (lambda: MODEL.log_conditional(x, replaced(z, (0, 1), math.nan)), ValueError, r"z\[0, 1\] is nan"),
        (lambda: MODEL.sample(-1), ValueError, "n is -1: the number of samples must be 0 or more"),
        (lambda: MODEL.sample(2.5), TypeError, "n is a float: give an int"),
        (lambda: MODEL.interpolate(x[0], x[1], 1), ValueError, "a line has two ends"),
        (lambda: MODEL.interpolate(x[0], x[:5], 5), ValueError, r"start has shape \(5,\) but end \(5, 5\): give the"),
        (lambda: MODEL.traverse(z, 2, z[:, 0]), ValueError, "dimension is 2: z has the dimensions 0 to 1"),
        (lambda: MODEL.traverse(z, 0, z), ValueError, r"values has shape \(6, 2\): give one row of numbers"),
        (lambda: VAE(0, 2), ValueError, "data_dim is 0: it must be 1 or more"),
        (lambda: VAE(5, 2.0), TypeError, "latent_dim is a float: give an int"),
        (lambda: VAE(5, 2, (0,)), ValueError, r"sizes\[1\] is 0: every layer needs"),
        (lambda: VAE(5, 2, likelihood="poisson"), ValueError, "likelihood is 'poisson': give one of bernoulli, gauss"),
        (lambda: VAE(5, 2, activation="swish"), ValueError, "activation is 'swish': give one of"),
        (lambda: VAE(5, 2, noise="fixed"), ValueError, "Bernoulli likelihood has no noise: leave out"),
        (lambda: VAE(5, 2, noise_sd=0.1), ValueError, "Bernoulli likelihood has no noise: leave out"),
        (lambda: VAE(5, 2, (), "gaussian", noise="free"), ValueError, "noise is 'free': give one of fixed, learned"),
        (lambda: VAE(5, 2, (), "gaussian", noise_sd=0.0), ValueError, "noise_sd is 0.0: it must be positive"),
        (lambda: VAE(5, 2, (), "gaussian", noise_sd="1"), TypeError, "noise_sd is a str: give a number"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, message, monkeypatch):
    for name in ("vae_loss", "vae_gradients"):
        monkeypatch.setitem(globals(), name, unchecked(getattr(module, name)))
    for name in ("__init__", "elbo", "encode", "decode", "log_prior", "log_conditional", "sample", "interpolate"):
        monkeypatch.setattr(VAE, name, unchecked(getattr(VAE, name)))
    monkeypatch.setattr(VAE, "traverse", unchecked(VAE.traverse))
    with pytest.raises(error, match=message):
        call()


def test_both_ways_refuse_the_same():
    for options in ({"objective": "beta"}, {"n_samples": 0}, {"objective": "iwae", "warmup": 3}):
        for call in (vae_loss, vae_gradients):
            with pytest.raises(ValueError, match=r"it must be 1 or more|needs beta|no divergence"):
                call(MODEL, x, **options)


def test_a_refused_call_is_no_step():
    model = made()
    for call in (vae_loss, vae_gradients):
        with pytest.raises(ValueError, match="Bernoulli"):
            call(model, 0.5 * x + 0.2, warmup=5)
    assert model.steps == 0


def test_q_is_a_posterior_of_chapter_8():
    assert isinstance(MODEL.encode(x), GaussianPosterior)
    assert "likelihood='gaussian', noise='learned'" in str(made("learned"))


def test_a_run_that_diverges_says_so():
    with pytest.raises((ValueError, TrainingDiverged), match=r"learning rate|scale the data"):
        fit(made("learned", dtype=torch.float32), (data("learned", dtype=torch.float32),), vae_loss, n_epochs=50,
            batch_size=3, lr=50.0)  # fmt: skip


# --- the benchmark ---


def test_the_benchmark_compares_the_same_work():
    _, x, test = benchmark.data()
    assert benchmark.difference_after_steps(x, 6) < 1e-7
    net = benchmark.Reference().copy_(benchmark.our_model())
    for ours, again in zip(benchmark.our_model().parameters(), benchmark.as_ours(net).parameters(), strict=True):
        assert torch.equal(ours, again)
    bounds = []
    for make in (benchmark.by_hand, benchmark.plain_autograd):
        model, run = make(x)
        torch.manual_seed(0)
        run(1)
        bounds.append(benchmark.elbo(model, test))
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-4)
    assert bounds[0] > benchmark.elbo(benchmark.our_model(), test) + 1
