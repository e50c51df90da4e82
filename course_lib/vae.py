r"""The variational autoencoder, its objectives, and the gradient of its bound by hand (chapter 9).

An encoder network gives, for each datum, the mean and the log-variance of q(z | x) = N(mean, diag(exp(log_var))); a
decoder network gives the parameters of p(x | z); the prior of z is N(0, I). Log-densities and bounds are in nats for
each datum, summed over its entries and over the dimensions of z, with every constant; a loss is the **mean over the
data** of minus a bound. The log-variance is a logarithm of the variance, not of the deviation.

`vae_loss` is for autograd. `vae_gradients` returns the same number and the gradients without autograd: chapter 5's
recurrence goes back through the decoder to z, along z = mean + exp(log_var / 2) * noise to the two heads of the
encoder, where the derivative of the divergence is added, and on through the encoder.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from course_lib import elbo as bounds_of
from course_lib._validation import (
    bounds,
    check_count,
    check_finite,
    check_generator,
    check_samples_against_data,
    check_types,
    member,
    one_of,
    values_are_known,
)
from course_lib.backprop import _backward, _forward, _layers_of
from course_lib.gaussians import LOG_TWO_PI
from course_lib.latent_models import GaussianPosterior
from course_lib.networks import MLP

__all__ = ["VAE", "vae_gradients", "vae_loss"]

LIKELIHOODS = ("bernoulli", "gaussian")
NOISES = ("fixed", "learned", "per_dimension")
OBJECTIVES = ("elbo", "beta", "iwae")
AT_ONCE = 1 << 22  # numbers in the widest layer when many samples are decoded: 32 MiB in float64


class VAE(torch.nn.Module):
    """A latent variable model whose decoder is a network, with a network that proposes the posterior.

    The encoder has the widths (data_dim, *hidden, 2 latent_dim): its hidden layers are shared, and the two halves of
    its last layer are the two heads, first the mean, then the log-variance. The decoder has the widths (latent_dim,
    *reversed(hidden), data_dim). activation is that of the hidden layers; hidden=() makes both linear.
    likelihood "bernoulli": x has entries 0 and 1, independent given z, and the decoder gives their logits.
    likelihood "gaussian": the decoder gives the mean of x given z. Its noise has the deviation noise_sd; with noise
    "fixed" it stays so, with "learned" one variance is a parameter, with "per_dimension" one for each entry of x.
    The model has the methods that the bounds of `course_lib.elbo` ask for.
    Shapes: data (*batch, data_dim), codes (*batch, latent_dim), log_noise_var () or (data_dim), the logarithm of the
    **variance**. The parameters are log_noise_var, if it is learned, then those of `encoder` and of `decoder`.
    Raises TypeError or ValueError for sizes that are not positive integers, unknown names, a noise_sd that is not
    positive and finite or stands beside a Bernoulli likelihood, and a generator on another device than the weights.
    Chapter 9. D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014); D. J. Rezende, S. Mohamed and
    D. Wierstra, Stochastic Backpropagation and Approximate Inference in Deep Generative Models (2014).

    Examples:
        >>> model = VAE(64, 2, (32,), generator=torch.Generator().manual_seed(0))
        >>> model.encoder.sizes, model.decoder.sizes
        ((64, 32, 4), (2, 32, 64))
        >>> x = torch.ones(5, 64)
        >>> model.elbo(x, n_samples=10, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64,),
        likelihood: str = "bernoulli",
        activation: str = "tanh",
        *,
        noise: str | None = None,
        noise_sd: float | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.data_dim, self.latent_dim = check_count("data_dim", data_dim), check_count("latent_dim", latent_dim)
        self.likelihood = one_of("likelihood", likelihood, LIKELIHOODS)
        self.noise, noise_sd = _check_noise(likelihood, noise, noise_sd)
        options = {"generator": generator, "dtype": dtype, "device": device}
        self.encoder = MLP((data_dim, *hidden, 2 * latent_dim), activation, **options)
        self.decoder = MLP((latent_dim, *reversed(tuple(hidden)), data_dim), activation, **options)
        self._add_noise(noise_sd)
        # the steps that a warm-up has seen; in the state_dict, so that an interrupted run goes on where it was
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))

    def _add_noise(self, noise_sd):
        if noise_sd is None:
            self.log_noise_var = None
            return
        shape = (self.data_dim,) if self.noise == "per_dimension" else ()
        log_var = self.decoder.biases[0].detach().new_full(shape, 2 * math.log(noise_sd))
        if self.noise == "fixed":
            self.register_buffer("log_noise_var", log_var)
        else:
            self.log_noise_var = torch.nn.Parameter(log_var)

    # Networks

    def encode(self, x: Float[Tensor, "*batch d"]) -> GaussianPosterior:
        """The approximate posterior q(z | x) of each datum, with independent coordinates.

        Shapes: x (*batch, data_dim). Returns a GaussianPosterior with a mean of shape (*batch, latent_dim).
        Raises TypeError or ValueError for an x of another width, dtype or device than the weights, NaN or infinity,
        and a log-variance whose exponential leaves the range of the dtype.
        Chapter 9.

        Examples:
            >>> VAE(5, 2).encode(torch.zeros(3, 5)).mean.shape
            torch.Size([3, 2])
        """
        self._check_rows("x", x, self.data_dim, "data_dim")
        check_finite("x", x.detach())
        mean, log_var = self.encoder(x).chunk(2, -1)
        if not all(map(math.isfinite, (*bounds(mean), *bounds(log_var)))):
            self._explain(x)
        _check_log_var(log_var)
        return GaussianPosterior.diagonal(mean, log_var)

    def decode(self, z: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch d"]:
        """The mean of x given z: probabilities of a one if the likelihood is Bernoulli.

        This is what is shown as the image of a code; it is no draw from p(x | z). `decoder(z)` gives the logits.
        Shapes: z (*batch, latent_dim). Returns (*batch, data_dim).
        Raises TypeError or ValueError for a z of another width, dtype or device than the weights.
        Chapter 9.

        Examples:
            >>> VAE(5, 2).decode(torch.zeros(3, 2))[0]
            tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000], grad_fn=<SelectBackward0>)
        """
        self._check_rows("z", z, self.latent_dim, "latent_dim")
        output = self.decoder(z)
        return output.sigmoid() if self.likelihood == "bernoulli" else output

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The reconstruction of each datum: the decoded mean of its code.

        Shapes: x (*batch, data_dim). Returns the same shape.
        Raises what `encode` raises.

        Examples:
            >>> VAE(5, 2)(torch.zeros(3, 5)).shape
            torch.Size([3, 5])
        """
        return self.decode(self.encode(x).mean)

    # Densities

    def log_prior(self, z: Float[Tensor, "*any m"]) -> Float[Tensor, "*any"]:
        """Log-density of the prior N(0, I) at z, in nats.

        Shapes: z (*any, latent_dim). Returns (*any).
        Raises TypeError or ValueError for a z of another width, dtype or device than the weights, NaN and infinity.
        Chapter 7, equation def-latent-model.

        Examples:
            >>> round(VAE(5, 2).log_prior(torch.zeros(2)).item(), 4)  # -log(2 pi)
            -1.8379
        """
        self._check_rows("z", z, self.latent_dim, "latent_dim")
        check_finite("z", z.detach())
        return -0.5 * (self.latent_dim * LOG_TWO_PI + z.square().sum(-1))

    def log_conditional(self, x: Float[Tensor, "*batch d"], z: Float[Tensor, "*any m"]) -> Float[Tensor, "..."]:
        """Log-density, or log-probability, log p(x | z), in nats for each datum.

        Shapes: x (*batch, data_dim), z (*samples, *batch, latent_dim); they broadcast. To set S samples against each of
        N data, give z (S, 1, m) and x (N, d). Returns (*samples, *batch), summed over the entries of x.
        Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, an overflow, and for a
        Bernoulli likelihood entries of x that are not 0 or 1.
        Chapter 9.

        Examples:
            >>> model = VAE(5, 2)
            >>> value = model.log_conditional(torch.ones(5), torch.zeros(2))  # the logits are 0
            >>> round(value.item(), 4)  # -5 log 2
            -3.4657
        """
        self._check_data(x)
        self._check_rows("z", z, self.latent_dim, "latent_dim")
        check_samples_against_data(x, z)
        result = self._log_likelihood_of(x, self.decoder(z))
        if not all(map(math.isfinite, bounds(result))):
            check_finite("z", z.detach())
            self._explain(x)
        return result

    def _log_likelihood_of(self, x, output):
        """log p(x | z) from what the decoder's network has made of z."""
        if self.likelihood == "bernoulli":
            # log sigmoid(a) = a - softplus(a), log(1 - sigmoid(a)) = -softplus(a); torch's own threshold of 20 would
            # leave an error of 2e-9
            return (x * output - softplus(output, threshold=40)).sum(-1)
        log_var = self.log_noise_var
        return -0.5 * ((x - output).square() * (-log_var).exp() + log_var + LOG_TWO_PI).sum(-1)

    def log_joint(self, x: Float[Tensor, "*batch d"], z: Float[Tensor, "*any m"]) -> Float[Tensor, "..."]:
        """log p(x, z) = log p(z) + log p(x | z), in nats for each datum.

        Shapes and errors are those of `log_conditional`.
        Chapter 7, equation eq-lv-joint.

        Examples:
            >>> VAE(5, 2).log_joint(torch.ones(3, 5), torch.zeros(7, 3, 2)).shape
            torch.Size([7, 3])
        """
        return self.log_prior(z) + self.log_conditional(x, z)

    # Bounds

    def elbo(
        self,
        x: Float[Tensor, "*batch d"],
        n_samples: int = 1,
        *,
        form: Literal["kl", "joint"] = "kl",
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch"]:
        """Estimate of the evidence lower bound of each datum with q(z | x) from the encoder, in nats.

        form "kl": log p(x | z) at samples, and the divergence from the prior in closed form; "joint": all from samples,
        see `course_lib.elbo.elbo`. Each datum has noise of its own. Differentiable.
        Shapes: x (*batch, data_dim). Returns (*batch).
        Raises what `encode`, `log_conditional` and `course_lib.elbo.elbo` raise.
        Chapter 8, equation def-elbo-samples; chapter 9. D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes
        (2014).

        Examples:
            >>> model = VAE(5, 2, generator=torch.Generator().manual_seed(0))
            >>> model.elbo(torch.ones(3, 5), 100, generator=torch.Generator().manual_seed(0)).shape
            torch.Size([3])
        """
        options = {"form": form, "generator": generator}
        return self._by_rows(
            lambda rows: bounds_of.elbo(self, rows, self.encode(rows), n_samples, **options), x, n_samples
        )

    @torch.no_grad()
    def log_likelihood(
        self, x: Float[Tensor, "*batch d"], n_samples: int = 500, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """Importance-weighted estimate of log p(x) of each datum, in nats.

        The encoder's q(z | x) is the proposal. The expectation of the estimate is a lower bound of log p(x), which
        grows with n_samples and tends to it. Without a graph of gradients: `vae_loss` with objective "iwae" trains it.
        Shapes: x (*batch, data_dim). Returns (*batch).
        Raises what `encode`, `log_conditional` and `course_lib.elbo.importance_weighted_bound` raise.
        Chapter 8, equation def-elbo-weighted. Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted
        Autoencoders (2016).

        Examples:
            >>> model = VAE(5, 2, generator=torch.Generator().manual_seed(0))
            >>> model.log_likelihood(torch.ones(3, 5), generator=torch.Generator().manual_seed(0)).shape
            torch.Size([3])
        """

        def weighted(rows):
            q = self.encode(rows)
            bound = bounds_of.importance_weighted_bound(self, rows, q, n_samples, n_repeats=1, generator=generator)
            return bound.squeeze(0)

        return self._by_rows(weighted, x, n_samples)

    def _by_rows(self, function, x, n_samples):
        """The function of so many data at a time that their samples fit into the memory of a laptop."""
        self._check_data(x)
        rows = x.reshape(-1, self.data_dim)
        at_once = max(1, AT_ONCE // (check_count("n_samples", n_samples) * max(self.decoder.sizes)))
        return torch.cat([function(part) for part in rows.split(at_once)]).reshape(x.shape[:-1])

    @torch.no_grad()
    def kl_per_dimension(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m"]:
        """The divergence KL(q(z | x) || N(0, I)) of each datum, one summand for each dimension of z, in nats.

        A dimension whose summand is near zero for all data is not used: q is the prior there, whatever x is.
        Shapes: x (*batch, data_dim). Returns (*batch, latent_dim), never negative but for rounding.
        Raises what `encode` raises.
        Chapter 9; chapter 2, equation eq-kl-log-variance.

        Examples:
            >>> VAE(5, 2).kl_per_dimension(torch.zeros(3, 5)).shape
            torch.Size([3, 2])
        """
        self._check_rows("x", x, self.data_dim, "data_dim")
        check_finite("x", x)
        mean, log_var = self.encoder(x).chunk(2, -1)
        _check_log_var(log_var)
        return _kl_terms(mean, log_var)

    # Images from codes

    @torch.no_grad()
    def sample(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n m"]]:
        """Draw n pairs: z from the prior, then x from p(x | z). The encoder takes no part.

        Draws of x are noisy by the model's own account; `decode(z)` gives their means.
        Shapes: returns x (n, data_dim) and z (n, latent_dim).
        Raises TypeError or ValueError for an n that is no integer or negative, and a generator on another device.
        Chapter 7, equation def-latent-model.

        Examples:
            >>> x, z = VAE(5, 2).sample(4, generator=torch.Generator().manual_seed(0))
            >>> x.shape, z.shape, x.unique()
            (torch.Size([4, 5]), torch.Size([4, 2]), tensor([0., 1.]))
        """
        if not isinstance(n, int) or isinstance(n, bool):
            raise TypeError(f"n is a {type(n).__name__}: give an int")
        if n < 0:
            raise ValueError(f"n is {n}: the number of samples must be 0 or more")
        weight = self.decoder.weights[0]
        check_generator(generator, "the model", weight)
        kind = {"generator": generator, "dtype": weight.dtype, "device": weight.device}
        z = torch.randn(n, self.latent_dim, **kind)
        mean = self.decode(z)
        if self.likelihood == "bernoulli":
            return (torch.rand(mean.shape, **kind) < mean).to(mean.dtype), z
        return mean + (0.5 * self.log_noise_var).exp() * torch.randn(mean.shape, **kind), z

    @torch.no_grad()
    def interpolate(
        self, start: Float[Tensor, "*batch d"], end: Float[Tensor, "*batch d"], n: int = 10
    ) -> Float[Tensor, "n *batch d"]:
        """Decoded means of n codes on the straight line between the mean codes of two data, both ends included.

        Shapes: start and end (*batch, data_dim). Returns (n, *batch, data_dim); the first and the last are the
        reconstructions of start and end.
        Raises what `encode` raises, and ValueError for an n below 2.
        Chapter 9.

        Examples:
            >>> VAE(5, 2).interpolate(torch.zeros(5), torch.ones(5), 7).shape
            torch.Size([7, 5])
        """
        if check_count("n", n) < 2:
            raise ValueError(f"n is {n}: a line has two ends, give 2 or more")
        first, last = self.encode(start).mean, self.encode(end).mean
        share = torch.linspace(0, 1, n, dtype=first.dtype, device=first.device)
        return self.decode(torch.lerp(first, last, share.reshape(n, *[1] * first.ndim)))

    @torch.no_grad()
    def traverse(
        self, z: Float[Tensor, "*batch m"], dimension: int, values: Float[Tensor, " n"]
    ) -> Float[Tensor, "n *batch d"]:
        """Decoded means of copies of z in which one coordinate takes the given values, and the others stay.

        Shapes: z (*batch, latent_dim), values (n). Returns (n, *batch, data_dim).
        Raises TypeError or ValueError for wrong types, shapes or devices, and for a dimension outside 0, ...,
        latent_dim - 1.
        Chapter 9.

        Examples:
            >>> VAE(5, 2).traverse(torch.zeros(2), 1, torch.linspace(-3, 3, 7)).shape
            torch.Size([7, 5])
        """
        self._check_rows("z", z, self.latent_dim, "latent_dim")
        check_types({"z": z, "values": values})
        if values.ndim != 1:
            raise ValueError(f"values has shape {tuple(values.shape)}: give one row of numbers, shape (n,)")
        if isinstance(dimension, bool) or not isinstance(dimension, int) or not 0 <= dimension < self.latent_dim:
            raise ValueError(f"dimension is {dimension!r}: z has the dimensions 0 to {self.latent_dim - 1}")
        chosen = torch.arange(self.latent_dim, device=z.device) == dimension
        copies = torch.where(chosen, values.reshape(-1, *[1] * z.ndim), z)
        return self.decode(copies)

    def extra_repr(self) -> str:
        """What print shows beside the two networks.

        Examples:
            >>> print(VAE(5, 2).extra_repr())
            likelihood='bernoulli'
        """
        noise = "" if self.noise is None else f", noise={self.noise!r}"
        return f"likelihood={self.likelihood!r}{noise}"

    # Checks

    def _check_rows(self, name, rows, width, meaning):
        check_types({name: rows, "the first weight": self.encoder.weights[0]})
        if rows.ndim == 0 or rows.shape[-1] != width:
            raise ValueError(f"{name} has shape {tuple(rows.shape)}: its last dimension must be {width}, the {meaning}")

    def _check_data(self, x):
        """Form, and whether a Bernoulli likelihood can have made x; for a Gaussian one the results tell of NaN."""
        self._check_rows("x", x, self.data_dim, "data_dim")
        # 0 and 1 are the numbers that are their own squares, and infinity, which the results tell of
        if self.likelihood == "bernoulli" and values_are_known(x) and not torch.equal(x * x, x):
            check_finite("x", x)
            index = (x * x != x).nonzero()[0].tolist()
            raise ValueError(
                f"{member('x', index)} is {x[tuple(index)].item():.6g}: a Bernoulli likelihood gives probabilities "
                "to 0 and 1 only, and grey pixels would make its value no log-probability. Binarise x, as in "
                '(x >= 0.5).to(x.dtype) for grey values from 0 to 1, or make the VAE with likelihood="gaussian"'
            )

    def _explain(self, x):
        """Raise a sentence about what made a result NaN or infinite."""
        check_finite("x", x.detach())
        for name, parameter in self.named_parameters():
            check_finite(name, parameter.detach())
        with torch.no_grad():
            mean, log_var = self.encoder(x).chunk(2, -1)
        check_finite("the mean of q", mean)
        _check_log_var(log_var)
        raise ValueError(
            f"the bound or its gradient is beyond the range of {x.dtype}: scale the data, lower the learning rate, "
            "or use float64"
        )


# Objectives


def vae_loss(
    model: VAE,
    x: Float[Tensor, "*batch d"],
    *,
    objective: str = "elbo",
    n_samples: int = 1,
    beta: float | None = None,
    free_bits: float = 0.0,
    warmup: int = 0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Minus the mean of a bound over the data, in nats for each datum: the `loss` of `course_lib.training.fit`.

    objective "elbo": the evidence lower bound with n_samples samples and the divergence in closed form. "beta": the
    same with the divergence multiplied by beta, which is no bound of log p(x) for beta < 1. "iwae": the bound with
    n_samples importance weights. Each datum has its own noise; without a generator it comes from PyTorch's global one,
    which `fit` seeds. Other options than the defaults go to fit as functools.partial(vae_loss, beta=...).
    free_bits: the divergence of each dimension of z, in the mean over the batch, counts as this many nats if it is
    less, so that there is no gain in making it smaller. The loss then depends on how the data are cut into batches.
    warmup: in training mode, the weight of the divergence is multiplied by 1 / warmup, 2 / warmup, ..., 1 at the first
    calls; they are counted in the buffer `model.steps`. In evaluation mode the weight is the full one.
    Shapes: x (*batch, data_dim). Returns a scalar.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, grey pixels beside a Bernoulli
    likelihood, options out of range or that do not go together, and a loss beyond the range of the dtype.
    Chapter 9. I. Higgins and others, beta-VAE (2017); Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted
    Autoencoders (2016); D. P. Kingma and others, Improved Variational Inference with Inverse Autoregressive Flow
    (2016), for free bits; S. R. Bowman and others, Generating Sentences from a Continuous Space (2016), for the
    warm-up.

    Examples:
        >>> model = VAE(5, 2, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(3, 5)
        >>> loss = vae_loss(model, x, n_samples=10, generator=torch.Generator().manual_seed(1))
        >>> bound = model.elbo(x, n_samples=10, generator=torch.Generator().manual_seed(1))
        >>> bool((loss + bound.mean()).abs() < 1e-6)
        True
    """
    options = _options(model, objective, n_samples, beta, free_bits, warmup)
    rows = _rows(model, x, generator)
    mean, log_var = model.encoder(rows).chunk(2, -1)
    noise = _noise(options.n_samples, mean, generator)
    z = mean + (0.5 * log_var).exp() * noise
    log_p = model._log_likelihood_of(rows, model.decoder(z))
    if objective == "iwae":
        value = -_log_mean_exp(_log_weights(log_p, z, noise, log_var)).mean()
    else:
        by_dimension = _kl_terms(mean, log_var).mean(0)
        value = options.weight * by_dimension.clamp(min=options.free_bits).sum() - log_p.mean()
    if values_are_known(value) and not math.isfinite(value.item()):
        model._explain(rows)
    _count_step(model, warmup)
    return value


def vae_gradients(
    model: VAE,
    x: Float[Tensor, "*batch d"],
    *,
    objective: str = "elbo",
    n_samples: int = 1,
    beta: float | None = None,
    free_bits: float = 0.0,
    warmup: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """The value of `vae_loss` and its gradients by backpropagation through the sampled code, without autograd.

    Options, noise and errors are those of `vae_loss`: with gradients=vae_gradients, or "analytic", `fit` gives the same
    weights as without, but for rounding. Other options than the defaults go to fit as functools.partial, to both.
    Shapes: x (*batch, data_dim). Returns a scalar, and the gradients in the order of model.parameters(), without those
    of parameters that require none.
    Raises what `vae_loss` raises.
    Chapter 9; chapter 5, equations eq-bp-rows-recurrence and eq-bp-rows-parameters; chapter 8, equation eq-pathwise.
    D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014).

    Examples:
        >>> model = VAE(5, 2, (4,), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(3, 5, dtype=torch.float64)
        >>> value, gradients = vae_gradients(model, x, generator=torch.Generator().manual_seed(1))
        >>> by_autograd = torch.autograd.grad(
        ...     vae_loss(model, x, generator=torch.Generator().manual_seed(1)), list(model.parameters())
        ... )
        >>> all(torch.allclose(g, h, rtol=1e-10) for g, h in zip(gradients, by_autograd, strict=True))
        True
    """
    options = _options(model, objective, n_samples, beta, free_bits, warmup)
    with torch.no_grad():
        rows = _rows(model, x, generator)
        value, gradients = _value_and_gradients(model, rows, options, generator)
        # NaN or infinity anywhere reaches the loss, or the gradient of the first weight that is trained
        first = next((grad for grad in gradients if grad.ndim == 2), value)
        if values_are_known(value) and not math.isfinite(value.item() + first.sum().item()):
            model._explain(rows)
    _count_step(model, warmup)
    return value, gradients


vae_loss.gradients = vae_gradients  # where fit looks for gradients="analytic"


def _value_and_gradients(model, x, options, generator):
    """Torch operations with alpha= and value= stand where a product with a number would be an operation of its own."""
    N, m, S = len(x), model.latent_dim, options.n_samples
    encoder, decoder = _Network(model.encoder), _Network(model.decoder)
    mean, log_var = encoder.forward(x).split(m, 1)
    noise = _noise(S, mean, generator)
    shift = (0.5 * log_var).exp_() * noise
    z = mean + shift
    law = _bernoulli if model.likelihood == "bernoulli" else _gaussian
    log_p, slope, scaled = law(model, x, decoder.forward(z.view(S * N, m)).view(S, N, -1))
    bound = _importance_weighted if options.objective == "iwae" else _plain
    value, share, by_mean, by_log_var, prior = bound(log_p, mean, log_var, z, noise, options)
    by_decoder, by_z = decoder.backward(slope.mul_(share).view(S * N, -1), to_input=True)
    by_z = by_z.view(S, N, m) if prior is None else by_z.view(S, N, m) + prior
    # back along z = mean + exp(log_var / 2) noise to the two heads, where the direct derivatives are added
    by_shift = by_z * shift
    by_heads = torch.cat((by_mean.add_(_over_samples(by_z)), by_log_var.add_(_over_samples(by_shift), alpha=0.5)), 1)
    by_encoder, _ = encoder.backward(by_heads, to_input=False)
    gradients, params = by_encoder + by_decoder, encoder.params() + decoder.params()
    if model.noise in ("learned", "per_dimension"):
        gradients.insert(0, _by_log_noise_var(model, share, scaled))
        params.insert(0, model.log_noise_var)
    return value, [grad for grad, param in zip(gradients, params, strict=True) if param.requires_grad]


def _over_samples(t):
    return t.squeeze(0) if len(t) == 1 else t.sum(0)


class _Network:
    """An MLP between its forward and its backward step, in chapter 5's way and without looking at anything twice."""

    def __init__(self, mlp):
        self.W, self.b, self.g = _layers_of(mlp)

    def forward(self, x):
        self.a, self.h = _forward(self.W, self.b, self.g, x)
        return self.h[-1]

    def backward(self, slope, to_input):
        return _backward(self.W, self.g, self.a, self.h, slope, to_input)

    def params(self):
        return self.W[1:] + self.b[1:]


def _plain(log_p, mean, log_var, z, noise, options):
    """The loss, the share of each sample in it, and its direct derivatives by mean, log_var and z (here none)."""
    (S, N), weight = log_p.shape, options.weight
    excess = log_var.expm1()
    twice = torch.addcmul(excess - log_var, mean, mean)  # twice the divergence of each dimension
    value = log_p.sum().mul_(-1 / (S * N))
    if options.free_bits:
        by_dimension = twice.mean(0).mul_(0.5)
        value.add_(by_dimension.clamp(min=options.free_bits).sum(), alpha=weight)
        pull = weight / N * (by_dimension >= options.free_bits).to(mean.dtype)  # a bool times a number is float32
    else:
        value.add_(twice.sum(), alpha=weight / (2 * N))
        pull = weight / N
    return value, 1 / (S * N), pull * mean, excess.mul_(0.5 * pull), None


def _importance_weighted(log_p, mean, log_var, z, noise, options):
    """The same for the bound with importance weights: each sample has its weight for a share.

    log p(z) depends on z. log q(z | x) depends on log_var alone, as long as the noise is held fixed.
    """
    log_weights = _log_weights(log_p, z, noise, log_var)
    share = log_weights.softmax(0).unsqueeze(-1) / len(log_var)
    by_log_var = torch.full_like(log_var, -0.5 / len(log_var))
    return -_log_mean_exp(log_weights).mean(), share, torch.zeros_like(log_var), by_log_var, share * z


def _bernoulli(model, x, logits):
    """log p(x | z) of each sample and datum, and minus its derivative by the logits."""
    return model._log_likelihood_of(x, logits), logits.sigmoid().sub_(x), None


def _gaussian(model, x, output):
    """log p(x | z), minus its derivative by the output, and the squared distances over the variance."""
    log_var = model.log_noise_var
    gap = output - x
    slope = gap * (-log_var).exp()
    scaled = gap.mul_(slope)
    constant = (log_var + LOG_TWO_PI).expand(model.data_dim).sum()
    return -0.5 * (scaled.sum(-1) + constant), slope, scaled


def _by_log_noise_var(model, share, scaled):
    """One number for each entry of x, or the sum over all entries where they have one variance."""
    return 0.5 * (share * (1 - scaled)).sum((0, 1)).sum_to_size(model.log_noise_var.shape)


def _kl_terms(mean, log_var):
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each coordinate; expm1 keeps its digits where log_var is near 0."""
    return 0.5 * (mean.square() + (log_var.expm1() - log_var))


def _log_weights(log_p, z, noise, log_var):
    """log p(x | z) + log p(z) - log q(z | x), where the constants of the last two cancel."""
    return log_p + 0.5 * (noise.square() - z.square() + log_var).sum(-1)


def _log_mean_exp(log_weights):
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _noise(n_samples, mean, generator):
    return torch.randn(n_samples, *mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)


class _Options(NamedTuple):
    objective: str
    n_samples: int
    weight: float  # of the divergence, in this step
    free_bits: float


def _options(model, objective, n_samples, beta, free_bits, warmup):
    """The options, looked at."""
    if not isinstance(model, VAE):
        raise TypeError(f"model is a {type(model).__name__}: give a VAE")
    one_of("objective", objective, OBJECTIVES)
    check_count("n_samples", n_samples)
    if (beta is None) == (objective == "beta"):
        what = "needs beta=, the weight of the divergence" if beta is None else 'has no beta: give objective="beta"'
        raise ValueError(f"the objective {objective!r} {what}")
    for name, value in {"beta": beta, "free_bits": free_bits}.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise ValueError(f"{name} is {value!r}: give a finite number, 0 or more")
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"warmup is {warmup!r}: give a number of steps, 0 or more")
    if objective == "iwae" and (free_bits or warmup):
        raise ValueError('the objective "iwae" has no divergence to weigh: leave out free_bits and warmup')
    weight = 1.0 if beta is None else float(beta)
    if warmup and model.training:
        weight *= min(1.0, (model.steps.item() + 1) / warmup)
    return _Options(objective, n_samples, weight, float(free_bits))


def _count_step(model, warmup):
    if warmup and model.training:
        model.steps += 1


def _rows(model, x, generator):
    model._check_data(x)
    check_generator(generator, "x", x)
    if x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no data, and so there is no mean")
    return x.reshape(-1, model.data_dim)


# What they check


def _check_log_var(log_var):
    """Its exponential must be a positive number: in float32 it overflows past 88."""
    largest, limit = bounds(log_var)[1], math.log(torch.finfo(log_var.dtype).max)
    if not largest < limit:
        raise ValueError(
            f"the log-variance of q is as large as {largest:.4g}: beyond {limit:.1f} its exponential leaves the range "
            f"of {log_var.dtype}. Scale the data, lower the learning rate, or begin with smaller weights"
        )


def _check_noise(likelihood, noise, noise_sd):
    """What the noise is, and its deviation at the start; None and None without noise."""
    if likelihood == "bernoulli":
        if noise is not None or noise_sd is not None:
            raise ValueError("a Bernoulli likelihood has no noise: leave out noise and noise_sd")
        return None, None
    noise_sd = 1.0 if noise_sd is None else noise_sd
    if isinstance(noise_sd, bool) or not isinstance(noise_sd, int | float):
        raise TypeError(f"noise_sd is a {type(noise_sd).__name__}: give a number")
    if not 0 < noise_sd < math.inf:
        raise ValueError(f"noise_sd is {noise_sd}: it must be positive and finite")
    return one_of("noise", "fixed" if noise is None else noise, NOISES), noise_sd
