"""What the sources print on the variational autoencoder, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import math

import pytest
import torch

from course_lib.elbo import exact_elbo
from course_lib.gaussians import kl_gaussian, kl_to_standard_normal
from course_lib.latent import GaussianPosterior, ProbabilisticPCA
from course_lib.vae import VAE, vae_loss

F64 = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vae(likelihood="bernoulli", **options):
    return VAE(5, 2, (8,), likelihood, dtype=F64, generator=generator(), **options)


def linear(noise_var, W=((2.0,), (1.0,))):
    """Probabilistic PCA with the mean 0; its posterior serves as an encoder."""
    W = tensor(W)
    return ProbabilisticPCA.from_parameters(W, torch.zeros(len(W), dtype=F64), noise_var)


def test_the_reconstruction_has_a_constant():
    """Printed, a larger variance is always better; with the constant the best one is the mean squared error."""
    total, entries = 50.0, 20  # of the squared errors, and the number of entries of all data
    variances = (0.1, 1.0, 10.0, 1000.0)
    assert [total / (2 * v) for v in variances] == pytest.approx([250, 25, 2.5, 0.025])
    fine = torch.linspace(0.5, 10, 951, dtype=F64)
    right = total / (2 * fine) + entries / 2 * (2 * math.pi * fine).log()
    assert fine[right.argmin()].item() == pytest.approx(total / entries, abs=0.01)
    x = torch.randn(4, 5, dtype=F64, generator=generator(1))
    found = [vae_loss(vae("gaussian", noise_sd=v**0.5), x, generator=generator(2)).item() for v in (0.1, 1.0, 1000.0)]
    assert found[1] < min(found[0], found[2])


def test_the_variance_is_a_part_of_the_model():
    """It is the noise of what the model draws; the printed loss, without the constant, prefers the wrong one."""
    x = linear(0.5).sample(2000, generator=generator())[0]
    mean_squared = {v: (x - linear(v).posterior(x).mean @ linear(v).W_.T).square().sum(-1).mean() for v in (0.5, 4.0)}
    printed = {v: mean_squared[v] / (2 * v) + linear(v).posterior(x).kl_to_standard_normal().mean() for v in (0.5, 4.0)}
    assert printed[4.0] < printed[0.5] - 0.1
    assert linear(0.5).log_likelihood(x).mean() > linear(4.0).log_likelihood(x).mean() + 0.5
    model = vae("gaussian", noise_sd=0.3)
    draws, z = model.sample(4000, generator=generator())
    assert (draws - model.decode(z)).std().item() == pytest.approx(0.3, rel=0.03)


def test_the_noise_that_is_drawn_is_the_noise_that_enters():
    """With another letter in the formula the draw has no effect: the codes do not spread."""
    g, h, zeta = 0.4, 0.7, 0.25
    xi = torch.randn(10_000, dtype=F64, generator=generator())
    as_printed, right = g + h * zeta + 0 * xi, g + h * xi
    assert as_printed.std() < 1e-12
    assert right.std().item() == pytest.approx(h, rel=0.03)


def test_the_decoder_generates_and_the_encoder_recognises():
    """Other parameters of the encoder: the same generated data, other codes. Of the decoder: the other way round."""
    x = torch.ones(3, 5, dtype=F64)

    def drawn_and_recognised(part):
        model = vae()
        before = model.sample(50, generator=generator())[0], model.encode(x).mean
        with torch.no_grad():
            for parameter in getattr(model, part).parameters():
                parameter += torch.randn(parameter.shape, dtype=F64, generator=generator(7))
        after = model.sample(50, generator=generator())[0], model.encode(x).mean
        return [torch.equal(one, other) for one, other in zip(before, after, strict=True)]

    assert drawn_and_recognised("encoder") == [True, False]
    assert drawn_and_recognised("decoder") == [False, True]


def test_one_variance_is_fewer_than_one_for_each_dimension():
    """With the posterior's mean and the best single variance there is a gap; with two variances there is none."""
    model = linear(0.5, ((2.0, 0.0), (0.0, 0.3)))
    x = tensor([[1.2, -0.4]])
    posterior = model.posterior(x)
    log_p = model.log_likelihood(x).item()
    assert exact_elbo(model, x, posterior).item() == pytest.approx(log_p, abs=1e-12)
    single = torch.linspace(-5, 1, 601, dtype=F64)[:, None].expand(601, 2)
    bounds = exact_elbo(model, x.expand(601, 2), GaussianPosterior.diagonal(posterior.mean.expand(601, 2), single))
    assert log_p - bounds.max().item() > 0.2


def test_new_data_come_from_the_prior():
    """Codes from q(z | x0) give variants of x0 = (2, 1); codes from the prior give data around the model's mean."""
    model, x0 = linear(1.0), tensor([2.0, 1.0])
    variants = model.posterior(x0).rsample(40_000, generator=generator()) @ model.W_.T
    new = torch.randn(40_000, 1, dtype=F64, generator=generator()) @ model.W_.T
    torch.testing.assert_close(variants.mean(0), x0 * 5 / 6, atol=0.02, rtol=0)
    torch.testing.assert_close(new.mean(0), torch.zeros(2, dtype=F64), atol=0.04, rtol=0)
    C = model.W_ @ model.W_.T
    torch.testing.assert_close(new.T.cov(), C, atol=0.1, rtol=0)
    assert variants.T.cov().trace() < 0.2 * C.trace()


def test_a_deviation_is_not_a_covariance():
    """h = 0.3 read as a variance, and squared; and the distance at one code is not its expectation."""
    g, one = tensor([1.0]), torch.eye(1, dtype=F64)
    as_printed, right = (kl_gaussian(g, v * one, 0 * g, one).item() for v in (0.3, 0.3**2))
    assert (as_printed, right) == pytest.approx((0.752, 1.249), abs=5e-4)
    x, w, h = 0.7, 1.5, 0.3
    z = 1.0 + h * torch.randn(100_000, dtype=F64, generator=generator())
    assert ((x - w * z) ** 2).mean().item() == pytest.approx((x - w) ** 2 + (w * h) ** 2, rel=0.01)
    assert (w * h) ** 2 > 0.2  # what is missing at the mean code


def test_the_deviation_has_a_network_of_its_own():
    """With g2 twice, h would be g: no such q is near a posterior with a mean near 0 and a deviation of 0.6."""
    g = torch.linspace(0.01, 2, 2000, dtype=F64)[:, None]
    target = tensor([0.1]), tensor([[0.36]])
    as_printed = kl_gaussian(g, g[..., None] ** 2, target[0].expand(2000, 1), target[1])
    assert as_printed.min() > 0.2
    assert kl_gaussian(*target, *target) == 0


def test_a_covariance_is_positive_definite():
    """A symmetric matrix may have a negative eigenvalue; and with a zero in h the divergence is infinite."""
    symmetric = tensor([[1.0, 2.0], [2.0, 1.0]])
    assert torch.linalg.eigvalsh(symmetric)[0].item() == pytest.approx(-1)
    zero = torch.zeros(2, dtype=F64)
    with pytest.raises(ValueError, match="positive definite"):
        kl_gaussian(zero, symmetric, zero, torch.eye(2, dtype=F64))
    h = tensor([[1e-3], [1e-30], [1e-300]])
    growing = kl_to_standard_normal(torch.zeros(3, 1, dtype=F64), 2 * h.log())
    assert growing.tolist() == pytest.approx([-math.log(one) - 0.5 for one in (1e-3, 1e-30, 1e-300)], rel=1e-5)


def test_for_a_linear_decoder_the_expectation_is_known():
    """The formula against the mean over many codes."""
    W, x, g, h = tensor([[1.0, 0.6], [0.4, 1.1], [-0.5, 0.2]]), tensor([0.9, -0.3, 0.5]), tensor([0.2, -0.6]), 0.4
    z = g + h * torch.randn(200_000, 2, dtype=F64, generator=generator())
    squared = (x - z @ W.T).square().sum(-1)
    known = (x - W @ g).square().sum() + h**2 * (W @ W.T).trace()
    assert squared.mean().item() == pytest.approx(known.item(), abs=4 * squared.std().item() / 200_000**0.5)


def test_nearby_codes_need_not_give_similar_images():
    """A decoder with large weights: codes 0.02 apart, images that agree nowhere, and a divergence as before."""
    model = vae()
    x = torch.ones(1, 5, dtype=F64)
    rate = model.kl_per_dimension(x)
    with torch.no_grad():
        model.decoder.weights[0].mul_(2000.0)
        model.decoder.biases[0].zero_()
        model.decoder.biases[1].zero_()
        model.decoder.weights[1].mul_(200.0)
    one, other = model.decode(tensor([[0.01, 0.0], [-0.01, 0.0]]))
    assert (one - other).abs().min() > 0.9
    assert torch.equal(model.kl_per_dimension(x), rate)


def test_an_expectation_names_its_law():
    """The mean of log p(x | z) depends on whether z comes from q or from the prior: E_z alone does not say."""
    model, x = linear(0.5), tensor([2.0, 1.0])
    under_q = model.log_conditional(x, model.posterior(x).rsample(20_000, generator=generator())).mean()
    prior = torch.randn(20_000, 1, dtype=F64, generator=generator())
    assert under_q - model.log_conditional(x, prior).mean() > 3


def test_one_mean_one_name():
    """What `decode` gives is the one mean: the log-density is largest there, and falls with the squared distance."""
    model, z = vae("gaussian", noise_sd=0.5), tensor([0.3, -1.1])
    mean = model.decode(z).detach()
    x = mean.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.log_conditional(x, z), x)
    assert slope.abs().max() < 1e-12
    other = mean + torch.ones(5, dtype=F64)
    fall = model.log_conditional(mean, z) - model.log_conditional(other, z)
    assert fall.item() == pytest.approx(5 / (2 * 0.5**2), rel=1e-12)


def test_the_divergence_keeps_the_variance_open():
    """Without it the best variance is zero; with it the best one is that of the posterior."""
    model, x = linear(0.5), tensor([[2.0, 1.0]])
    posterior = model.posterior(x)
    log_vars = torch.linspace(-20, 2, 2201, dtype=F64)
    q = GaussianPosterior.diagonal(posterior.mean.expand(2201, 1), log_vars[:, None])
    with_it = exact_elbo(model, x.expand(2201, 2), q)
    without = with_it + q.kl_to_standard_normal()
    assert log_vars[without.argmax()] == -20  # the end of the range
    assert log_vars[with_it.argmax()].item() == pytest.approx(math.log(posterior.cov.item()), abs=0.01)


def test_the_sum_goes_over_the_dimensions_of_the_code():
    """d is that of the data, 5 here; the code has 2. Counted to d, the ones alone would add 3 / 2 nats."""
    model, x = vae(), torch.ones(4, 5, dtype=F64)
    mean, log_var = model.encoder(x).chunk(2, -1)
    assert mean.shape == log_var.shape == (4, 2) == model.kl_per_dimension(x).shape
    terms = 0.5 * (log_var - mean.square() - log_var.exp())
    to_m, to_d = terms.sum(-1) + 2 / 2, terms.sum(-1) + 5 / 2
    bound = model.elbo(x, 50, generator=generator())
    z = model.encode(x).rsample(50, generator=generator())
    reconstruction = model.log_conditional(x, z).mean(0)
    torch.testing.assert_close(to_m + reconstruction, bound)
    assert (to_d + reconstruction - bound - 1.5).abs().max() < 1e-10


def test_generating_is_not_testing():
    """The same decoder, two encoders: the same generated data, other bounds. And a draw is not its mean."""
    good, bad = vae(), vae()
    with torch.no_grad():
        good.encoder.weights[-1].zero_()
        good.encoder.biases[-1].zero_()  # q is the prior; the decoder is untrained, so this is a good choice
        bad.encoder.biases[-1].fill_(3.0)
    (x, z), (same, _) = (model.sample(200, generator=generator()) for model in (good, bad))
    assert torch.equal(x, same)
    assert good.elbo(x, generator=generator()).mean() > bad.elbo(x, generator=generator()).mean() + 1
    assert set(x.unique().tolist()) == {0.0, 1.0}
    grey = good.decode(z).detach()
    assert 0.01 < grey.min() < grey.max() < 0.99
    with pytest.raises(ValueError, match="Binarise"):
        good.log_conditional(grey, z)
