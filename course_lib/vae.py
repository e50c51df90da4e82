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
from torch import Tensor, mm
from torch.nn.functional import softplus

from course_lib import elbo as bounds_of
from course_lib._validation import (
    FLOATS,
    bounds,
    check_count,
    check_finite,
    check_generator,
    check_positive,
    check_samples_against_data,
    check_types,
    member,
    one_of,
    values_are_known,
)
from course_lib.backprop import _layers_of, _times_derivative
from course_lib.gaussians import LOG_TWO_PI
from course_lib.latent_models import GaussianPosterior
from course_lib.networks import ACTIVATIONS, MLP

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
        Chapter 9, equation def-vae-encoder.

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
        Chapter 9, equations eq-vae-bernoulli-log and eq-vae-gaussian-log.

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
        Chapter 9, equation def-vae-estimate; chapter 8, equation def-elbo-samples. D. P. Kingma and M. Welling,
        Auto-Encoding Variational Bayes (2014).

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
        Chapter 9, equation eq-vae-kl; chapter 2, equation eq-kl-log-variance.

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
        Raises what `encode` raises, and ValueError for an n below 2 and for two different shapes.
        Chapter 9.

        Examples:
            >>> VAE(5, 2).interpolate(torch.zeros(5), torch.ones(5), 7).shape
            torch.Size([7, 5])
        """
        if check_count("n", n) < 2:
            raise ValueError(f"n is {n}: a line has two ends, give 2 or more")
        if isinstance(start, Tensor) and isinstance(end, Tensor) and start.shape != end.shape:
            raise ValueError(f"start has shape {tuple(start.shape)} but end {tuple(end.shape)}: give the same for both")
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
        W = self._modules["encoder"]._modules["weights"]._parameters["0"]  # the short way: every step asks
        alike = isinstance(rows, Tensor) and rows.dtype is W.dtype in FLOATS and rows.device == W.device
        if alike and rows.ndim and rows.shape[-1] == width:
            return
        check_types({name: rows, "the first weight": W})
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
    Chapter 9, equations def-vae-loss, def-vae-beta, def-vae-free-bits and def-vae-warm-up. I. Higgins and others,
    beta-VAE (2017); Y. Burda, R. Grosse and R. Salakhutdinov, Importance Weighted Autoencoders (2016); D. P. Kingma and
    others, Improved Variational Inference with Inverse Autoregressive Flow (2016), for free bits; S. R. Bowman and
    others, Generating Sentences from a Continuous Space (2016), for the warm-up.

    Examples:
        >>> model = VAE(5, 2, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(3, 5)
        >>> loss = vae_loss(model, x, n_samples=10, generator=torch.Generator().manual_seed(1))
        >>> bound = model.elbo(x, n_samples=10, generator=torch.Generator().manual_seed(1))
        >>> bool((loss + bound.mean()).abs() < 1e-6)
        True
    """
    _check_model(model)
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
    _count_step(model, options)
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
    For a loop of your own, gradients = vae_gradients.prepare(model) makes a function of the same arguments that takes
    half the time: it uses its memory again, so what it returns lasts until its next call. `fit` does so by itself.
    Shapes: x (*batch, data_dim). Returns a scalar, and the gradients in the order of model.parameters(), without those
    of parameters that require none.
    Raises what `vae_loss` raises.
    Chapter 9, equations eq-vae-slope-mean, eq-vae-slope-log-var and eq-vae-slope-noise; chapter 5, equations
    eq-bp-recurrence and eq-bp-parameters; chapter 8, equation eq-pathwise. D. P. Kingma and M. Welling, Auto-Encoding
    Variational Bayes (2014).

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
    options = {"objective": objective, "n_samples": n_samples, "beta": beta, "free_bits": free_bits, "warmup": warmup}
    return _Gradients(model)(model, x, generator=generator, **options)


class _Gradients:
    """`vae_gradients` of one model for many steps. Each call writes over the gradients that the one before returned.

    If the data are given, they are looked at now, and batches of their rows not again.
    """

    def __init__(self, model, data=None):
        _check_model(model)
        self.model, self.workspaces, self.given, self.options = model, {}, None, None
        self.known = data is not None and data.device == model.encoder.weights[0].device
        if self.known:
            _rows(model, data, None)

    def __call__(self, model, x, *, generator=None, **given):
        if model is not self.model:
            raise ValueError("these gradients were prepared for another model: call prepare with this one")
        if given != self.given or given.get("warmup"):  # a warm-up is another weight at each step
            self.given, self.options = given, _options(model, **given)
        options = self.options
        with torch.no_grad():
            rows = x if self.known and x.ndim == 2 and generator is None else _rows(model, x, generator)
            size = len(rows), options.n_samples
            memory = self.workspaces.get(size)
            if memory is None or memory.places != memory.places_now():
                memory = self.workspaces[size] = _Workspace(model, *size)
            value = _forward_and_backward(model, rows, options, generator, memory)
            # NaN or infinity anywhere reaches the loss, or the gradient of the first weight that is trained
            watched = value if memory.first is None else memory.first
            if values_are_known(value) and not math.isfinite(value.item() + watched.sum().item()):
                model._explain(rows)
        _count_step(model, options)
        return value, memory.trained


vae_loss.gradients = vae_gradients  # where fit looks for gradients="analytic"
vae_gradients.prepare = _Gradients  # what fit calls instead, step after step


def _forward_and_backward(model, x, options, generator, memory):
    """The two steps of backpropagation through the sampled code, with a **column** for each datum or sample.

    On a small network an operation takes longer to begin than to compute. So there are few of them: alpha= and value=
    stand where a product with a number would be one of its own. And all that can be made before is in `memory`.
    """
    S, mean, log_var = options.n_samples, memory.mean, memory.log_var
    law = _bernoulli if model.likelihood == "bernoulli" else _gaussian
    bound = _importance_weighted if options.objective == "iwae" else _plain
    _forward(memory.encoder, x.T, x)  # fills mean and log_var
    memory.noise.normal_(generator=generator)
    shift = torch.mul(log_var, memory.half, out=memory.deviation).exp_()
    if S > 1:
        shift, mean = shift.repeat(1, S), mean.repeat(1, S)
    z = torch.add(mean, shift.mul_(memory.noise_columns), out=memory.z)
    _forward(memory.decoder, z, memory.z_rows)  # fills output
    cost, scaled = law(model, x, memory.output, memory.slope)
    value, share, prior = bound(cost, memory, options)
    memory.slope.mul_(share)
    by_z = _backward(memory.decoder, memory.slope_columns, to_input=True)
    if prior is not None:
        by_z.add_(prior)
    # back along z = mean + exp(log_var / 2) noise to the two heads, which hold the direct derivatives by now
    memory.mean.add_(_over_samples(by_z, S))
    log_var.add_(_over_samples(by_z.mul_(shift), S), alpha=0.5)
    _backward(memory.encoder, memory.heads, to_input=False)
    if memory.by_noise is not None:
        _by_log_noise_var(share, scaled, memory.by_noise)
    return value


def _over_samples(columns, n_samples):
    return columns if n_samples == 1 else columns.view(len(columns), n_samples, -1).sum(1)


def _forward(layers, h, h_T):
    """The forward step of chapter 5 on columns: fills a and h of each layer."""
    for layer in layers:
        layer.received_T = h_T
        mm(layer.W, h, out=layer.a).add_(layer.b)
        layer.h = h = layer.activate(layer.a)
        h_T = layer.a_T if h is layer.a else h.T


def _backward(layers, slope, to_input):
    """The recurrence of chapter 5 on columns: fills the gradients, from the derivative by the last h.

    Returns the derivative by what the first layer received, if it is asked for.
    """
    for layer in reversed(layers):
        delta = _times_derivative(slope, layer.g, layer.a, layer.h)
        mm(delta, layer.received_T, out=layer.by_W)
        mm(delta, layer.ones, out=layer.by_b)  # the sum over the columns
        if to_input or layer is not layers[0]:
            slope = mm(layer.W_T, delta, out=layer.by_received)
    return slope


class _Workspace:
    """All that the steps for N data with S samples each can find ready: memory, and its parts in other shapes."""

    def __init__(self, model, N, S):
        m, d = model.latent_dim, model.data_dim
        self.encoder, by_encoder, params = _layers(model.encoder, N)
        self.decoder, by_decoder, more = _layers(model.decoder, S * N, output_in_rows=True)
        self.params, gradients, self.by_noise = params + more, by_encoder + by_decoder, None
        if model.noise in ("learned", "per_dimension"):
            self.by_noise = torch.empty_like(model.log_noise_var)
            self.params, gradients = [model.log_noise_var, *self.params], [self.by_noise, *gradients]
        self.places = self.places_now()
        self.trained = [grad for grad, param in zip(gradients, self.params, strict=True) if param.requires_grad]
        self.first = next((grad for grad in self.trained if grad.ndim == 2), None)
        self.heads = self.encoder[-1].a
        self.mean, self.log_var = self.heads.chunk(2)
        self.deviation, self.excess, self.twice = (torch.empty_like(self.mean) for _ in range(3))
        self.noise = self.heads.new_empty(S, N, m)
        self.noise_columns = self.noise.view(S * N, m).T
        self.z = self.heads.new_empty(m, S * N)
        self.z_rows = self.z.T
        output = self.decoder[-1].a_T
        slope = torch.empty_like(output)
        self.slope_columns = slope.T
        self.output, self.slope = (t if S == 1 else t.view(S, N, d) for t in (output, slope))
        # Python's numbers would be made tensors at each step, which takes longer than the products with them.
        self.half, self.share = (self.heads.new_full((), value) for value in (0.5, 1 / (S * N)))
        self.weight, self.pull, self.half_pull = None, *(torch.empty_like(self.half) for _ in range(2))

    def places_now(self):
        """Where the parameters lie. If they are given other memory, this workspace is of no more use."""
        return [param.data_ptr() for param in self.params] if values_are_known(self.params[0]) else None

    def set_weight(self, weight):
        if weight != self.weight:
            N = self.mean.shape[1]
            self.weight = weight
            self.pull.fill_(weight / N)
            self.half_pull.fill_(0.5 * weight / N)


def _layers(mlp, n, output_in_rows=False):
    """The layers with memory for n columns; the gradients and the parameters in the order of mlp.parameters()."""
    W, b, g = _layers_of(mlp)
    params = W[1:] + b[1:]
    gradients = [torch.empty_like(param) for param in params]
    D, ones = len(W) - 1, W[1].new_ones(n, 1)
    layers = []
    for ell in range(1, D + 1):
        by_W, by_b = gradients[ell - 1], gradients[D + ell - 1]
        layers.append(_Layer(W[ell].detach(), b[ell].detach(), g[ell], by_W, by_b, ones, output_in_rows and ell == D))
    return layers, gradients, params


class _Layer:
    """One layer, what it computes with a column for each datum, and the derivatives; a may lie in memory row by row."""

    def __init__(self, W, b, g, by_W, by_b, ones, in_rows):
        n = len(ones)
        self.W, self.W_T, self.b = W, W.T, b.unsqueeze(1)
        self.g, self.activate = g, _IN_PLACE.get(g, g.function)
        self.by_W, self.by_b, self.ones = by_W, by_b.unsqueeze(1), ones
        self.a = W.new_empty(n, len(W)).T if in_rows else W.new_empty(len(W), n)
        self.a_T = self.a.T
        self.by_received = W.new_empty(W.shape[1], n)


# Activations whose derivative asks for h alone may write it over a.
_IN_PLACE = {
    ACTIVATIONS["identity"]: lambda a: a,
    ACTIVATIONS["tanh"]: torch.tanh_,
    ACTIVATIONS["sigmoid"]: torch.sigmoid_,
    ACTIVATIONS["relu"]: torch.relu_,
}


def _plain(cost, memory, options):
    """The loss, the share of each sample in it, and its direct derivative by z (here none).

    Its direct derivatives by mean and log_var overwrite them.
    """
    mean, log_var, weight = memory.mean, memory.log_var, options.weight
    memory.set_weight(weight)
    pull, half_pull = memory.pull, memory.half_pull  # weight / N, and half of it
    excess = torch.expm1(log_var, out=memory.excess)
    # twice the divergence of each dimension and datum
    twice = torch.sub(excess, log_var, out=memory.twice).addcmul_(mean, mean)
    value = cost.sum()
    if options.free_bits:
        by_dimension = twice.mean(1, keepdim=True).mul_(memory.half)
        value.mul_(memory.share).add_(by_dimension.clamp(min=options.free_bits).sum(), alpha=weight)
        counts = (by_dimension >= options.free_bits).to(mean.dtype)
        pull, half_pull = counts * pull, counts * half_pull
    else:
        value.add_(twice.sum(), alpha=0.5 * weight * options.n_samples).mul_(memory.share)
    mean.mul_(pull)
    torch.mul(excess, half_pull, out=log_var)
    return value, memory.share, None


def _importance_weighted(cost, memory, options):
    """The same for the bound with importance weights: each sample has its weight for a share.

    log p(z) depends on z. log q(z | x) depends on log_var alone, as long as the noise is held fixed.
    """
    S, N, m = memory.noise.shape
    log_p, z = -cost.sum(-1).view(S, N), memory.z_rows.view(S, N, m)
    log_weights = _log_weights(log_p, z, memory.noise, memory.log_var.T)
    share = log_weights.softmax(0).div_(N)
    memory.mean.zero_()
    memory.log_var.fill_(-0.5 / N)
    return -_log_mean_exp(log_weights).mean(), share.view(*cost.shape[:-1], 1), share.view(1, -1) * memory.z


def _bernoulli(model, x, logits, slope):
    """-log p of each entry of x; fills in its derivative by the logits."""
    torch.sigmoid(logits, out=slope).sub_(x)
    return softplus(logits, threshold=40).addcmul_(x, logits, value=-1), None


def _gaussian(model, x, output, slope):
    """-log p of each entry of x, and the squared distances over the variance; fills in its derivative by the output."""
    log_var = model.log_noise_var
    gap = output - x
    torch.mul(gap, (-log_var).exp(), out=slope)
    scaled = gap.mul_(slope)
    return 0.5 * (scaled + (log_var + LOG_TWO_PI)), scaled


def _by_log_noise_var(share, scaled, out):
    """One number for each entry of x, or the sum over all entries where they have one variance."""
    by_entry = (share * (1 - scaled)).flatten(0, -2).sum(0)
    torch.mul(by_entry.sum_to_size(out.shape), 0.5, out=out)


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
    warmup: int


def _options(model, objective="elbo", n_samples=1, beta=None, free_bits=0.0, warmup=0):
    """The options, looked at."""
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
    return _Options(objective, n_samples, weight, float(free_bits), warmup)


def _check_model(model):
    if not isinstance(model, VAE):
        raise TypeError(f"model is a {type(model).__name__}: give a VAE")


def _count_step(model, options):
    if options.warmup and model.training:
        model.steps += 1


def _rows(model, x, generator):
    model._check_data(x)
    check_generator(generator, "x", x)
    if x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no data, and so there is no mean")
    return x if x.ndim == 2 else x.reshape(-1, model.data_dim)


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
    check_positive("noise_sd", noise_sd)
    return one_of("noise", "fixed" if noise is None else noise, NOISES), noise_sd
