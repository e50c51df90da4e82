r"""Gaussians as posteriors, and models with a Gaussian latent variable (chapters 7 and 8).

A model draws z from N(0, I_m), and x from N(decoder(z), noise_sd^2 I_d). Log-densities are in nats for each datum.
Samples of z have the shape (*samples, *batch, m) beside data of shape (*batch, d): their own dimensions come first.
Device and dtype follow the inputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import diagonal, solve_triangular

from course_lib import gaussians
from course_lib._validation import (
    bounds,
    check_finite,
    check_form,
    check_generator,
    check_samples_against_data,
    check_tril,
    check_types,
    checked,
    values_are_known,
)
from course_lib.gaussians import LOG_TWO_PI

__all__ = ["GaussianLatentModel", "GaussianPosterior"]

ADVICE = "use float64, or bring the data to a scale"


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """A batch of Gaussians N(mean, tril tril') over a latent variable z.

    It serves as an exact posterior, as an approximate one whose parameters are learned, and as a proposal. Gradients
    reach mean and tril. One factor (m, m) may serve the whole batch.
    Shapes: mean (*batch, m), tril (*batch, m, m) or (m, m).
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a factor that is not lower
    triangular with a positive diagonal.
    Chapters 7 and 8.

    Examples:
        >>> mean = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        >>> q = GaussianPosterior(mean, torch.eye(2, dtype=torch.float64))
        >>> q.kl_to_standard_normal()
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """

    mean: Float[Tensor, "*#batch m"]
    tril: Float[Tensor, "*#batch m m"]

    def __post_init__(self):
        check_form({"mean": self.mean}, {"tril": self.tril})
        check_finite("mean", self.mean.detach())
        check_finite("tril", self.tril.detach())
        check_tril("tril", self.tril.detach())

    @classmethod
    def diagonal(cls, mean: Float[Tensor, "*#batch m"], log_var: Float[Tensor, "*#batch m"]) -> "GaussianPosterior":
        """The Gaussian with independent coordinates, N(mean, diag(exp(log_var))).

        Shapes: both (*batch, m); the batches broadcast.
        Raises TypeError or ValueError as the class does, and where exp(log_var) leaves the range of the dtype.

        Examples:
            >>> GaussianPosterior.diagonal(torch.zeros(3), torch.full((3,), 2.0)).cov.diagonal()
            tensor([7.3891, 7.3891, 7.3891])
        """
        check_form({"mean": mean, "log_var": log_var}, {})
        check_finite("log_var", log_var.detach())
        sd = (0.5 * log_var).exp()
        smallest, largest = bounds(sd)
        if not 0 < smallest <= largest < math.inf:
            raise ValueError(
                f"log_var lies between {log_var.min().item():.4g} and {log_var.max().item():.4g}: its exponential "
                f"leaves the range of {sd.dtype}"
            )
        return cls(mean, sd.diag_embed())

    @property
    def cov(self) -> Float[Tensor, "*batch m m"]:
        """Covariances tril tril', shape (*batch, m, m) or (m, m).

        Examples:
            >>> GaussianPosterior(torch.zeros(1), torch.tensor([[3.0]])).cov
            tensor([[9.]])
        """
        return self.tril @ self.tril.mT

    def rsample(self, n_samples: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n *batch m"]:
        """Draw n_samples for each member of the batch: mean + tril times standard normal noise.

        Shapes: returns (n_samples, *batch, m). Gradients reach mean and tril.
        Raises ValueError for a negative number of samples, and a generator on another device.
        Chapter 2, equation eq-sampling.

        Examples:
            >>> q = GaussianPosterior(torch.zeros(5, 2), torch.eye(2))
            >>> q.rsample(3, generator=torch.Generator().manual_seed(0)).shape
            torch.Size([3, 5, 2])
        """
        if n_samples < 0:
            raise ValueError(f"n_samples is {n_samples}: the number of samples must be 0 or more")
        check_generator(generator, "mean", self.mean)
        shape = (n_samples, *self._batch(), self.mean.shape[-1])
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        if self.tril.ndim == 2:
            return self.mean + noise @ self.tril.mT
        return self.mean + torch.einsum("...ij,s...j->s...i", self.tril, noise)

    def log_prob(self, z: Float[Tensor, "*any m"]) -> Float[Tensor, "..."]:
        """Log-density at z, in nats.

        Shapes: z (*samples, *batch, m), any dimensions of samples first; it broadcasts, so that z (S, 1, m) sets S
        points against each member of a batch. Returns (*samples, *batch).
        Raises TypeError or ValueError for wrong types, shapes or devices, and NaN or infinity.
        Chapter 2, equation eq-log-density.

        Examples:
            >>> q = GaussianPosterior(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
            >>> round(q.log_prob(torch.zeros(7, 2, dtype=torch.float64))[0].item(), 6)  # -log(2 pi)
            -1.837877
        """
        check_form({"z": z, "mean": self.mean}, {})
        m, batch = z.shape[-1], self._batch()
        shift = z.double() - self.mean.double()
        tril = self.tril.double()
        if tril.ndim == 2 and shift.ndim > 1:  # one solve for all rows
            white = solve_triangular(tril.mT, shift, upper=True, left=False).square().sum(-1)
        else:  # the samples are columns of one solve for each member of the batch
            shape = torch.broadcast_shapes(shift.shape[:-1], batch)
            columns = shift.expand(*shape, m).reshape(-1, *batch, m).movedim(0, -1)
            white = solve_triangular(tril, columns, upper=False).square().sum(-2).movedim(-1, 0).reshape(shape)
        half_log_det = diagonal(tril).log().sum(-1)
        result = (-0.5 * (m * LOG_TWO_PI + white) - half_log_det).to(z.dtype)
        return checked(result, "log-density", {"z": z}, ADVICE)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Differential entropies, in nats.

        Shapes: returns (*batch).
        Chapter 2.

        Examples:
            >>> q = GaussianPosterior(torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
            >>> round(q.entropy().item(), 6)  # log(2 pi e) / 2
            1.418939
        """
        half_log_det = diagonal(self.tril).log().sum(-1)
        return (0.5 * self.mean.shape[-1] * (1 + LOG_TWO_PI) + half_log_det).expand(self._batch())

    def kl_to_standard_normal(self) -> Float[Tensor, "*batch"]:
        """Divergences KL(N(mean, tril tril') || N(0, I)) to the prior of the models here, in nats.

        Shapes: returns (*batch), never negative.
        Raises ValueError for a divergence beyond the range of the dtype.
        Chapter 2, equation eq-kl-factors.

        Examples:
            >>> q = GaussianPosterior.diagonal(torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
            >>> q.kl_to_standard_normal().item()
            1.0
        """
        eye = torch.eye(self.mean.shape[-1], dtype=self.mean.dtype, device=self.mean.device)
        return gaussians.kl_gaussian_tril(self.mean, self.tril, eye.new_zeros(len(eye)), eye)

    def _batch(self):
        return torch.broadcast_shapes(self.mean.shape[:-1], self.tril.shape[:-2])


class GaussianLatentModel:
    """The model z ~ N(0, I_m), x ~ N(decoder(z), noise_sd^2 I_d), with any function as decoder.

    decoder maps (*any, m) to (*any, d): a function, or a network. noise_sd is a positive number, or a tensor that
    holds one.
    Raises TypeError or ValueError for a decoder that cannot be called, a latent_dim below 1, and a noise_sd that is
    not positive and finite.
    Chapter 7, equation def-latent-model.

    Examples:
        >>> circle = GaussianLatentModel(lambda z: torch.cat((z.cos(), z.sin()), -1), 1, noise_sd=0.1)
        >>> x, z = circle.sample(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> x.shape, z.shape, round(x.norm(dim=-1).mean().item(), 2)
        (torch.Size([1000, 2]), torch.Size([1000, 1]), 1.0)
    """

    def __init__(self, decoder: Callable[[Tensor], Tensor], latent_dim: int, noise_sd: float | Tensor):
        if not callable(decoder):
            raise TypeError(f"decoder is a {type(decoder).__name__}: give a function of z, or a network")
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}: it must be 1 or more")
        if isinstance(noise_sd, Tensor) and noise_sd.ndim:
            raise ValueError(f"noise_sd has shape {tuple(noise_sd.shape)}: give one number")
        known = not isinstance(noise_sd, Tensor) or values_are_known(noise_sd)
        if known and not 0 < noise_sd < math.inf:
            raise ValueError(f"noise_sd is {float(noise_sd)}: it must be positive and finite")
        self.decoder, self.latent_dim, self.noise_sd = decoder, latent_dim, noise_sd

    def log_prior(self, z: Float[Tensor, "*any m"]) -> Float[Tensor, "*any"]:
        """Log-density of the prior N(0, I_m) at z, in nats.

        Shapes: z (*any, m). Returns (*any).
        Raises TypeError or ValueError for wrong types or shapes, and NaN or infinity.
        Chapter 7, equation def-latent-model.

        Examples:
            >>> model = GaussianLatentModel(torch.sin, 1, 0.1)
            >>> round(model.log_prior(torch.zeros(1, dtype=torch.float64)).item(), 6)  # -log(2 pi) / 2
            -0.918939
        """
        self._check_latent(z)
        return checked(-0.5 * (self.latent_dim * LOG_TWO_PI + z.square().sum(-1)), "log-density", {"z": z}, ADVICE)

    def log_conditional(self, x: Float[Tensor, "*batch d"], z: Float[Tensor, "*any m"]) -> Float[Tensor, "..."]:
        """Log-density log p(x | z) of N(decoder(z), noise_sd^2 I_d) at x, in nats for each datum.

        Shapes: x (*batch, d), z (*samples, *batch, m); they broadcast. To set S samples against each of N data, give
        z (S, 1, m) and x (N, d). Returns (*samples, *batch), summed over d.
        Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, a decoder that returns
        another shape than (*samples, *batch, d), and an overflow.
        Chapter 7, equation def-latent-model.

        Examples:
            >>> model = GaussianLatentModel(lambda z: torch.cat((z, z**2), -1), 1, 1.0)
            >>> x, z = torch.zeros(5, 2, dtype=torch.float64), torch.zeros(7, 1, 1, dtype=torch.float64)
            >>> model.log_conditional(x, z).shape, round(model.log_conditional(x, z)[0, 0].item(), 6)  # -log(2 pi)
            (torch.Size([7, 5]), -1.837877)
        """
        self._check_latent(z)
        check_types({"x": x, "z": z})
        decoded = self.decoder(z)
        self._check_decoded(x, z, decoded)
        d, sd = x.shape[-1], self.noise_sd
        log_sd = sd.log() if isinstance(sd, Tensor) else math.log(sd)
        result = -0.5 * ((x - decoded) / sd).square().sum(-1) - d * (log_sd + 0.5 * LOG_TWO_PI)
        return checked(result, "log-density", {"x": x, "z": z, "decoder(z)": decoded}, ADVICE)

    def log_joint(self, x: Float[Tensor, "*batch d"], z: Float[Tensor, "*any m"]) -> Float[Tensor, "..."]:
        """Log-density log p(x, z) = log p(z) + log p(x | z), in nats for each datum.

        Shapes and errors are those of `log_conditional`.
        Chapter 7, equation eq-lv-joint.

        Examples:
            >>> model = GaussianLatentModel(lambda z: z, 1, 1.0)
            >>> zero = torch.zeros(1, dtype=torch.float64)
            >>> round(model.log_joint(zero, zero).item(), 6)  # -log(2 pi)
            -1.837877
        """
        return self.log_prior(z) + self.log_conditional(x, z)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n m"]]:
        """Draw n pairs: z from the prior, then x from the decoder and noise.

        dtype and device are those of the decoder's parameters or of noise_sd, where these are tensors. Others may be
        given, for instance dtype=torch.float64 where the decoder is a plain function and noise_sd a number.
        Shapes: returns x (n, d) and z (n, m).
        Raises ValueError for a negative n, and a generator on another device.
        Chapter 7, equation def-latent-model.

        Examples:
            >>> x, z = GaussianLatentModel(lambda z: 2 * z, 1, 0.5).sample(4, generator=torch.Generator())
            >>> x.shape, z.shape
            (torch.Size([4, 1]), torch.Size([4, 1]))
        """
        if n < 0:
            raise ValueError(f"n is {n}: the number of samples must be 0 or more")
        own = self._own_tensor()
        if own is not None:
            dtype, device = dtype or own.dtype, device or own.device
        elif generator is not None:
            device = device or generator.device
        like = torch.empty(0, dtype=dtype, device=device)
        check_generator(generator, "the model", like)
        kind = {"generator": generator, "dtype": like.dtype, "device": like.device}
        z = torch.randn(n, self.latent_dim, **kind)
        decoded = self.decoder(z)
        return decoded + self.noise_sd * torch.randn(decoded.shape, **kind), z

    def _own_tensor(self):
        """A tensor that says which dtype and device the model has, or None."""
        owned = self.decoder.parameters() if isinstance(self.decoder, torch.nn.Module) else ()
        own = next(iter(owned), self.noise_sd)
        return own if isinstance(own, Tensor) else None

    def _check_latent(self, z):
        check_types({"z": z})
        if z.ndim == 0 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}: its last dimension must be latent_dim = {self.latent_dim}")

    def _check_decoded(self, x, z, decoded):
        if decoded.shape != (*z.shape[:-1], *x.shape[-1:]):
            raise ValueError(
                f"decoder returned shape {tuple(decoded.shape)} for z of shape {tuple(z.shape)}, and x has shape "
                f"{tuple(x.shape)}: the decoder must return {(*z.shape[:-1], *x.shape[-1:])}"
            )
        check_samples_against_data(x, z)
