r"""Probabilistic PCA, the latent variable model in which everything is known exactly (chapter 7).

    z ~ N(0, I_m),   x = W z + mean + noise,   noise ~ N(0, noise_var I_d),
    so that x ~ N(mean, C) with C = W W' + noise_var I_d.

Missing entries are NaN. How posterior and likelihood are computed, with and without them, says `_linear_gaussian`. All
of it is done in float64 and rounded once.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib._linear_gaussian import Rows
from course_lib._validation import (
    any_of,
    check_finite,
    check_generator,
    check_types,
    member,
    values_are_known,
)
from course_lib.latent_models import GaussianLatentModel, GaussianPosterior

__all__ = ["ProbabilisticPCA"]


class ProbabilisticPCA(GaussianLatentModel):
    """Probabilistic PCA with n_components latent dimensions: x = W z + mean + noise, all Gaussian.

    Fit it with `fit` or `fit_em`, or give the parameters to `from_parameters`. Then `W_` (d, m), `mean_` (d) and
    `noise_var_` (a scalar) are there. It is a GaussianLatentModel with a linear decoder, so it has `log_prior`,
    `log_conditional`, `log_joint` and `sample`, but also the exact `log_likelihood` and `posterior`.
    Entries that are NaN are missing. That they are missing must not depend on their values, given what is observed
    (missing at random); else the estimates may be biased.
    Raises TypeError or ValueError for an n_components that is no positive integer.
    Chapter 7, equation def-ppca. M. E. Tipping and C. M. Bishop, Probabilistic Principal Component Analysis (1999).

    Examples:
        >>> from course_lib.data import load_digits
        >>> x = load_digits().x
        >>> round(ProbabilisticPCA(2).fit(x).log_likelihood(x).mean().item(), 4)  # nats for each image
        0.0057
    """

    def __init__(self, n_components: int):
        if not isinstance(n_components, int) or isinstance(n_components, bool):
            raise TypeError(f"n_components is a {type(n_components).__name__}: give an int")
        if n_components < 1:
            raise ValueError(f"n_components is {n_components}: it must be 1 or more")
        self.n_components = n_components

    @classmethod
    def from_parameters(
        cls, W: Float[Tensor, "d m"], mean: Float[Tensor, " d"], noise_var: float | Float[Tensor, ""]
    ) -> "ProbabilisticPCA":
        """The model with the given parameters; gradients reach them.

        Shapes: W (d, m), mean (d), noise_var one positive number.
        Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a noise_var that is not
        positive.

        Chapter 7, equation def-ppca.

        Examples:
            >>> W, mean = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            >>> ProbabilisticPCA.from_parameters(W, mean, 0.5).covariance()[0]
            tensor([1.5000, 1.0000, 1.0000], dtype=torch.float64)
        """
        check_types({"W": W, "mean": mean})
        if W.ndim != 2 or 0 in W.shape or mean.shape != W.shape[:1]:
            raise ValueError(f"W has shape {tuple(W.shape)} and mean {tuple(mean.shape)}: give W (d, m) and mean (d)")
        check_finite("W", W.detach())
        check_finite("mean", mean.detach())
        if not isinstance(noise_var, Tensor):
            noise_var = torch.full((), noise_var, dtype=W.dtype, device=W.device)
        check_types({"W": W, "noise_var": noise_var})
        if noise_var.ndim:
            raise ValueError(f"noise_var has shape {tuple(noise_var.shape)}: give one number")
        if values_are_known(noise_var) and not 0 < noise_var.item() < math.inf:
            raise ValueError(f"noise_var is {noise_var.item()}: it must be positive and finite")
        model = cls(W.shape[1])
        model.W_, model.mean_, model.noise_var_ = W, mean, noise_var
        return model

    # What GaussianLatentModel asks for

    @property
    def latent_dim(self) -> int:
        """The dimension m of z: another name for n_components."""
        return self.n_components

    @property
    def noise_sd(self) -> Tensor:
        """The standard deviation of the noise, the root of noise_var_."""
        self._check_fitted()
        return self.noise_var_.sqrt()

    def decoder(self, z: Float[Tensor, "*any m"]) -> Float[Tensor, "*any d"]:
        """The mean W z + mean of x given z.

        Shapes: z (*any, m). Returns (*any, d).

        Raises ValueError for a model without parameters.
        Chapter 7, equation def-ppca.

        Examples:
            >>> model = ProbabilisticPCA.from_parameters(torch.tensor([[2.0], [1.0]]), torch.zeros(2), 1.0)
            >>> model.decoder(torch.tensor([3.0]))
            tensor([6., 3.])
        """
        self._check_fitted()
        return z @ self.W_.mT + self.mean_

    # Fitting

    def fit(self, x: Float[Tensor, "N d"]) -> "ProbabilisticPCA":
        """Maximum likelihood in closed form, from the eigenvalues of the covariance of x (divided by N).

        noise_var_ is the mean of the d - m smallest eigenvalues, and column j of W_ is the eigenvector j times
        sqrt(eigenvalue - noise_var_). W_ is unique up to a rotation of z; this one has orthogonal columns, and the
        entry of largest modulus of each is positive.
        Shapes: x (N, d). Returns the model itself.
        Raises TypeError or ValueError for wrong types or shapes, NaN (use `fit_em`) or infinity, and m that is not
        below the rank of the centred data: then the likelihood has no maximum.
        Chapter 7, equation eq-ppca-ml. M. E. Tipping and C. M. Bishop, Probabilistic Principal Component Analysis
        (1999), section 3.2.

        Examples:
            >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
            >>> model = ProbabilisticPCA(1).fit(x)  # the eigenvalues are 2 and 1/2
            >>> model.W_.T.numpy().round(4), round(model.noise_var_.item(), 4)
            (array([[1.2247, 0.    ]]), 0.5)
        """
        _check_data(x)
        if values_are_known(x) and x.isnan().any():
            index = x.isnan().nonzero()[0].tolist()
            raise ValueError(f"{member('x', index)} is nan: use fit_em, which treats NaN as a missing value")
        check_finite("x", x)
        data = x.detach().double()
        mean = data.mean(0)
        singular, vectors = self._decompose(data - mean, mean)
        m, d = self.n_components, x.shape[1]
        eigenvalues, left_out = (singular.square() / len(x)).tensor_split((m,))
        noise_var = left_out.sum() / (d - m)
        directions = vectors.tensor_split((m,))[0]
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        W = (directions * largest.sign()).T * (eigenvalues - noise_var).clamp(min=0).sqrt()
        self._set(x, W, mean, noise_var)
        self.history_, self.converged_ = self.log_likelihood(x.detach()).double().mean().reshape(1), True
        return self

    def fit_em(
        self,
        x: Float[Tensor, "N d"],
        *,
        n_iter: int = 1000,
        tol: float = 1e-9,
        generator: torch.Generator | None = None,
    ) -> "ProbabilisticPCA":
        """Maximum likelihood by expectation-maximisation, also where entries of x are missing (NaN).

        Each step computes the posterior of z for each datum from its observed entries, and then the parameters that
        maximise the expected log p(x, z) of all observed entries. No step lowers the log-likelihood of what is
        observed. W_ comes out in any rotation of z. Missing values must be missing at random: that an entry is missing
        may depend on what is observed, but not on what is missing.
        It starts at a random W, and ends after n_iter steps, or when a step gains less than tol nats for each datum.
        `history_` holds the mean log-likelihood of a datum after each step, and `converged_` whether tol was reached.
        Shapes: x (N, d). Returns the model itself.
        Raises TypeError or ValueError for wrong types or shapes, infinity, rows or columns without any observed
        entry, a generator on another device, n_iter below 1, and an m for which the likelihood has no maximum.
        Chapter 7, equation eq-ppca-em-step. M. E. Tipping and C. M. Bishop, Probabilistic Principal Component Analysis
        (1999), appendix B.

        Examples:
            >>> from course_lib.data import load_iris
            >>> x = load_iris().x.clone()
            >>> x[::5, 2] = math.nan
            >>> model = ProbabilisticPCA(1).fit_em(x, generator=torch.Generator().manual_seed(0))
            >>> bool((model.history_.diff() > -1e-9).all()), model.impute(x).isnan().any().item()
            (True, False)
        """
        _check_data(x)
        if n_iter < 1:
            raise ValueError(f"n_iter is {n_iter}: give at least one step")
        check_generator(generator, "x", x)
        data, rows = Rows.of(x.detach())
        rows.check_observed()
        m, d = self.n_components, x.shape[1]
        data, centre, total_var = rows.centre(data)
        if not rows.missing:
            self._decompose(data, centre)
        elif m >= d:
            self._refuse_rank(d, x.shape)
        noise = torch.randn(d, m, generator=generator, dtype=torch.float64, device=x.device)
        W, mean, noise_var = noise * (total_var / (2 * m)).sqrt(), torch.zeros_like(centre), total_var / 2
        history, self.converged_ = [], False
        step = rows.expect(data, W, mean, noise_var)
        for _ in range(n_iter):
            W, mean, noise_var = rows.maximise(data, step)
            if any_of(noise_var <= torch.finfo(torch.float64).eps * total_var):
                raise ValueError(
                    f"the noise variance fell to {noise_var.item():.4g}: with n_components = {self.n_components} the "
                    "likelihood of the observed entries has no maximum; give fewer components"
                )
            before, step = step, rows.expect(data, W, mean, noise_var)
            history.append(step.log_likelihood.mean())
            if any_of(history[-1] - before.log_likelihood.mean() < tol):
                self.converged_ = True
                break
        self._set(x, W, centre + mean, noise_var)
        self.history_ = torch.stack(history)
        return self

    # What the model says about data

    def log_likelihood(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """Exact log p(x) = log N(x; mean, W W' + noise_var I), in nats for each datum.

        Where entries of x are NaN, it is the log-density of the entries observed; of nothing at all, zero.
        Shapes: x (*batch, d). Returns (*batch), summed over d.
        Raises TypeError or ValueError for wrong types, shapes or devices, infinity, and a model without parameters.
        Chapter 7, equation eq-ppca-marginal.

        Examples:
            >>> W, zero = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
            >>> model = ProbabilisticPCA.from_parameters(W, zero, 1.0)
            >>> round(model.log_likelihood(zero).item(), 6)  # -log(2 pi) - log(3) / 2
            -2.387183
        """
        data, rows = self._rows(x)
        step = rows.expect(data, *self._parameters())
        return step.log_likelihood.reshape(x.shape[:-1]).to(x.dtype)

    def posterior(self, x: Float[Tensor, "*batch d"]) -> GaussianPosterior:
        """Exact posterior p(z | x), a Gaussian; where entries of x are NaN, given the entries observed.

        Shapes: x (*batch, d). The mean is (*batch, m), and the factor (m, m) where nothing is missing, because the
        covariance is the same for all x; else (*batch, m, m).
        Raises TypeError or ValueError as `log_likelihood` does.
        Chapter 7, equation eq-ppca-marginal.

        Examples:
            >>> W, zero = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            >>> posterior = ProbabilisticPCA.from_parameters(W, zero, 1.0).posterior(zero + 1)
            >>> posterior.mean.item(), posterior.cov.item()  # 3 / (3 + 1) and 1 / (3 + 1)
            (0.75, 0.25)
        """
        data, rows = self._rows(x)
        step = rows.expect(data, *self._parameters())
        shape = (*x.shape[:-1], self.n_components)
        tril = step.tril[rows.pattern].reshape(*shape, shape[-1]) if rows.missing else step.tril.squeeze(0)
        return GaussianPosterior(step.z.reshape(shape).to(x.dtype), tril.to(x.dtype))

    def transform(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m"]:
        """The posterior means of z.

        Shapes: x (*batch, d). Returns (*batch, m).
        Raises TypeError or ValueError as `log_likelihood` does.
        Chapter 7, equation def-ppca-mean.

        Examples:
            >>> W, zero = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            >>> ProbabilisticPCA.from_parameters(W, zero, 1.0).transform(zero + 1)
            tensor([0.7500], dtype=torch.float64)
        """
        data, rows = self._rows(x)
        step = rows.expect(data, *self._parameters())
        return step.z.reshape(*x.shape[:-1], self.n_components).to(x.dtype)

    def impute(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """A copy of x in which each missing entry is its expectation given the observed entries of its datum.

        Shapes: x (*batch, d) with NaN where values are missing. Returns (*batch, d).
        Raises TypeError or ValueError as `log_likelihood` does.
        Chapter 7, equation eq-ppca-impute.

        Examples:
            >>> W, zero = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
            >>> model = ProbabilisticPCA.from_parameters(W, zero, 1.0)
            >>> model.impute(torch.tensor([2.0, math.nan], dtype=torch.float64)).numpy().round(4)  # correlation 1/2
            array([2., 1.])
        """
        filled = self.decoder(self.transform(x))
        return torch.where(x.isnan(), filled, x)

    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance C = W W' + noise_var I of x.

        Shapes: returns (d, d).
        Chapter 7, equation def-ppca-matrices.

        Examples:
            >>> ProbabilisticPCA.from_parameters(torch.tensor([[2.0]]), torch.zeros(1), 0.5).covariance()
            tensor([[4.5000]])
        """
        self._check_fitted()
        eye = torch.eye(len(self.W_), dtype=self.W_.dtype, device=self.W_.device)
        return self.W_ @ self.W_.mT + self.noise_var_ * eye

    # Inside

    def _set(self, x, W, mean, noise_var):
        self.W_, self.mean_, self.noise_var_ = (t.to(x.dtype) for t in (W, mean, noise_var))
        if any_of(self.noise_var_ <= 0):
            raise ValueError(f"the noise variance {noise_var.item():.4g} is below the range of {x.dtype}: use float64")

    def _parameters(self):
        return self.W_.double(), self.mean_.double(), self.noise_var_.double()

    def _rows(self, x):
        self._check_fitted()
        check_types({"W_": self.W_, "x": x})
        if x.ndim == 0 or x.shape[-1] != len(self.W_):
            raise ValueError(f"x has shape {tuple(x.shape)}: its last dimension must be d = {len(self.W_)}")
        _check_no_infinity(x)
        return Rows.of(x.reshape(-1, x.shape[-1]))

    def _check_fitted(self):
        if not hasattr(self, "W_"):
            raise ValueError("the model has no parameters yet: call fit, fit_em or from_parameters first")

    def _decompose(self, centred, mean):
        """Singular values and right singular vectors of complete data, if m is below their number."""
        _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
        if values_are_known(singular):
            # what rounding makes of a zero, in the decomposition and when the mean was taken off
            N, eps = len(centred), torch.finfo(centred.dtype).eps
            rounding = eps * (max(centred.shape) * singular[0] + 4 * N**0.5 * mean.norm())
            rank = int((singular > rounding).sum())
            if self.n_components >= rank:
                self._refuse_rank(rank, centred.shape)
        return singular, vectors

    def _refuse_rank(self, rank, shape):
        N, d = shape
        if rank == d:
            raise ValueError(
                f"n_components is {self.n_components} and the data have d = {d} dimensions: that leaves no direction "
                "for the noise alone; give fewer components than dimensions"
            )
        raise ValueError(
            f"n_components is {self.n_components}, but the {N} centred data have rank {rank} (in {d} dimensions): the "
            "likelihood would grow without bound as noise_var falls to 0; give fewer components than the rank"
        )


def _check_data(x):
    check_types({"x": x})
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}: give at least 2 data in rows, (N, d)")
    _check_no_infinity(x)


def _check_no_infinity(x):
    """NaN is a missing value; infinity is not."""
    if any_of(x.detach().isinf()):
        check_finite("x", x.detach().nan_to_num(0.0, math.inf, -math.inf))
