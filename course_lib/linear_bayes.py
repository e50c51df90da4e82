r"""Bayesian linear regression: posterior, predictions and evidence in closed form (chapter 10).

y = X theta + noise, theta ~ N(0, prior_sd^2 I), noise ~ N(0, noise_sd^2 I). The columns of X are features of the
inputs: a column of ones for an offset, powers, or the neurons of a network whose first layer is fixed. Both numbers
are standard **deviations**. Log-densities and free energies are in nats for the whole data set.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import diagonal, solve_triangular

from course_lib._validation import check_finite, check_positive, check_types, checked
from course_lib.gaussians import LOG_TWO_PI
from course_lib.latent_models import GaussianPosterior
from course_lib.predictions import GaussianPrediction

__all__ = ["BayesianLinearRegression"]


class BayesianLinearRegression:
    """Linear regression with a Gaussian prior on the weights and Gaussian noise of a known deviation.

    After `fit`, `posterior` holds the law of the weights given the data.
    Shapes: features x (N, d), targets y (N) or (N, 1). prior_sd and noise_sd are numbers, standard deviations; prior_sd
    has the unit of y over that of a feature, noise_sd that of y.
    Raises TypeError or ValueError for deviations that are not positive and finite.
    Chapter 10, equations eq-blr-posterior to eq-blr-evidence-peak. C. M. Bishop, Pattern Recognition and Machine
    Learning (2006), sections 3.3 and 3.5.

    Examples:
        >>> x = torch.ones(4, 1, dtype=torch.float64)  # one weight: the mean of y
        >>> y = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        >>> model = BayesianLinearRegression(prior_sd=1.0, noise_sd=2.0).fit(x, y)
        >>> model.posterior.mean, model.posterior.cov  # precision 4 / 2^2 + 1, mean 10 / 2^2 / 2
        (tensor([1.2500], dtype=torch.float64), tensor([[0.5000]], dtype=torch.float64))
    """

    def __init__(self, prior_sd: float, noise_sd: float):
        self.prior_sd, self.noise_sd = check_positive("prior_sd", prior_sd), check_positive("noise_sd", noise_sd)
        self._posterior = None

    def __repr__(self):
        return f"BayesianLinearRegression(prior_sd={self.prior_sd}, noise_sd={self.noise_sd})"

    def fit(
        self, x: Float[Tensor, "N d"], y: Float[Tensor, "..."], temperature: float = 1.0
    ) -> "BayesianLinearRegression":
        """Take in the data: computes the exact posterior of the weights, and returns the model itself.

        With a temperature T other than 1 the posterior is the tempered one, that of a likelihood to the power 1 / T:
        as if the noise had the variance T noise_sd^2. The predictions keep the noise of the model, noise_sd.
        Shapes: x (N, d), y (N) or (N, 1).
        Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, a temperature that is not
        positive and finite, and for a posterior beyond the range of the dtype.
        Chapter 10, equations eq-blr-posterior and eq-blr-tempered.

        Examples:
            >>> x, y = torch.ones(1, 1), torch.ones(1)
            >>> BayesianLinearRegression(1.0, 1.0).fit(x, y).posterior.mean
            tensor([0.5000])
        """
        x, y = _check_data(x, y)
        check_positive("temperature", temperature)
        self._posterior = None  # until all of this has succeeded
        self._x, self._y, self._temperature = x, y, float(temperature)
        mean, factor = self._solve(temperature)
        self._mean, self._factor = mean, factor
        # Sigma = R^-1 R^-T; the QR decomposition of R^-T turns the factor R^-1 into a lower triangular one
        eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        upper = torch.linalg.qr(solve_triangular(factor.mT, eye, upper=False), mode="r").R
        tril = (upper * diagonal(upper).sign().unsqueeze(1)).mT
        mean, tril = mean.to(x.dtype), tril.tril().to(x.dtype)
        self._checked(torch.cat((mean, diagonal(tril).log())), "posterior")
        self._posterior = GaussianPosterior(mean, tril)
        return self

    def _solve(self, temperature):
        """The mean, and the upper triangular R with R' R = Lambda: by QR, which never squares the features."""
        x, y = self._x.double(), self._y.double()
        noise_sd, d = self.noise_sd * math.sqrt(temperature), x.shape[1]
        prior = torch.eye(d, dtype=x.dtype, device=x.device) / self.prior_sd
        Q, R = torch.linalg.qr(torch.cat((x / noise_sd, prior)))
        target = Q.narrow(0, 0, len(x)).mT @ (y / noise_sd)
        return solve_triangular(R, target.unsqueeze(1), upper=True).squeeze(1), R

    @property
    def posterior(self) -> GaussianPosterior:
        """The exact posterior N(mean, cov) of the weights: mean (d), tril and cov (d, d).

        Raises ValueError before `fit`.
        Chapter 10, equation eq-blr-posterior.

        Examples:
            >>> BayesianLinearRegression(1.0, 1.0).fit(torch.ones(1, 1), torch.ones(1)).posterior.cov
            tensor([[0.5000]])
        """
        if self._posterior is None:
            raise ValueError("the model has seen no data: call fit(x, y) first")
        return self._posterior

    def log_evidence(self) -> Float[Tensor, ""]:
        """log p(y | X) of the data that the model was fitted to, in nats of the whole data set.

        It is the evidence of the model, whatever the temperature of the fit.
        Raises ValueError before `fit`, and for a result beyond the range of the dtype.
        Chapter 10, equations eq-blr-evidence and eq-blr-evidence-peak.

        Examples:
            >>> model = BayesianLinearRegression(1.0, 1.0).fit(torch.ones(1, 1), torch.zeros(1))
            >>> round(model.log_evidence().item(), 4)  # log N(0; 0, 2)
            -1.2655
        """
        posterior = self.posterior
        mean, R = (self._mean, self._factor) if self._temperature == 1 else self._solve(1.0)
        half_log_det = diagonal(R).abs().log().sum() + len(mean) * math.log(self.prior_sd)
        peak = self._energy(mean) + len(self._y) * (0.5 * LOG_TWO_PI + math.log(self.noise_sd))
        return self._checked(-(peak + half_log_det).to(posterior.mean.dtype), "log evidence")

    def _energy(self, mean):
        """Half the squared distances over their variances, of the data from X mean and of the mean from 0."""
        gap = self._y.double() - self._x.double() @ mean
        return 0.5 * ((gap / self.noise_sd).square().sum() + (mean / self.prior_sd).square().sum())

    def predict(self, x: Float[Tensor, "*batch d"], q: GaussianPosterior | None = None) -> GaussianPrediction:
        """The prediction at new features, exact under the posterior, or under another Gaussian q over the weights.

        Shapes: x (*batch, d). The prediction's mean and deviations are (*batch, 1).
        Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and before `fit`.
        Chapter 10, equation eq-blr-predictive.

        Examples:
            >>> model = BayesianLinearRegression(1.0, 1.0).fit(torch.ones(1, 1), torch.ones(1))
            >>> prediction = model.predict(torch.tensor([[0.0], [2.0]]))
            >>> prediction.mean.squeeze(), prediction.sd.square().squeeze()
            (tensor([0., 1.]), tensor([1., 3.]))
        """
        q = self._check_q(q)
        check_types({"mean": q.mean, "x": x})
        if x.ndim == 0 or x.shape[-1] != len(q.mean):
            raise ValueError(f"x has shape {tuple(x.shape)}: its last dimension must be {len(q.mean)}, as in fit")
        check_finite("x", x)
        function_sd = torch.linalg.vector_norm(x @ q.tril, dim=-1, keepdim=True)
        return GaussianPrediction((x @ q.mean).unsqueeze(-1), function_sd, self.noise_sd)

    def mean_field(self) -> GaussianPosterior:
        """The product of Gaussians, one for each weight, with the least free energy.

        It has the posterior's mean, and variances 1 / Lambda_jj from the precision Lambda; the posterior's own
        variances are larger wherever weights are correlated. After a tempered fit it is that of the tempered posterior.
        Raises ValueError before `fit`.
        Chapter 10, equation eq-blr-mean-field.

        Examples:
            >>> x = torch.tensor([[1.0, 1.0]])
            >>> model = BayesianLinearRegression(1.0, 1.0).fit(x, torch.ones(1))
            >>> model.mean_field().cov.diagonal(), model.posterior.cov.diagonal()
            (tensor([0.5000, 0.5000]), tensor([0.6667, 0.6667]))
        """
        mean = self.posterior.mean
        log_precision = 2 * torch.linalg.vector_norm(self._factor, dim=0).log()
        return GaussianPosterior.diagonal(mean, -log_precision.to(mean.dtype))

    def free_energy(self, q: GaussianPosterior, temperature: float = 1.0) -> Float[Tensor, ""]:
        """The free energy F(q) of a Gaussian q over the weights, exact, in nats of the whole data set.

        It is at least -log_evidence(), and equal to it at the posterior; a temperature T multiplies the divergence.
        Shapes: q with a mean (d). Returns a scalar; gradients reach the mean and the factor of q.
        Raises TypeError or ValueError for a q of another size, dtype or device, a temperature that is not positive and
        finite, before `fit`, and for a result beyond the range of the dtype.
        Chapter 10, equations def-vb-free-energy, eq-blr-free-energy and def-vb-tempered.

        Examples:
            >>> model = BayesianLinearRegression(1.0, 1.0).fit(torch.ones(1, 1), torch.zeros(1))
            >>> round((model.free_energy(model.posterior) + model.log_evidence()).abs().item(), 5)
            0.0
        """
        q = self._check_q(q)
        check_positive("temperature", temperature)
        mean, tril, x = q.mean.double(), q.tril.double(), self._x.double()
        N, d, tau = len(x), len(mean), self.prior_sd
        scaled = (tril.square().sum() + mean.square().sum()) / tau**2
        divergence = 0.5 * (scaled - d) + d * math.log(tau) - diagonal(tril).log().sum()
        squares = (self._y.double() - x @ mean).square().sum() + (x @ tril).square().sum()
        cost = squares / (2 * self.noise_sd**2) + N * (0.5 * LOG_TWO_PI + math.log(self.noise_sd))
        return self._checked((temperature * divergence + cost).to(q.mean.dtype), "free energy")

    def _check_q(self, q):
        posterior = self.posterior
        if q is None:
            return posterior
        if not isinstance(q, GaussianPosterior):
            raise TypeError(f"q is a {type(q).__name__}: give a GaussianPosterior")
        check_types({"the posterior": posterior.mean, "q": q.mean})
        if q.mean.shape != posterior.mean.shape:
            raise ValueError(f"q has a mean of shape {tuple(q.mean.shape)}: there are {len(posterior.mean)} weights")
        return q

    def _checked(self, result, what):
        return checked(result, what, {"x": self._x, "y": self._y}, "scale the data, or use float64")


def _check_data(x, y):
    check_types({"x": x, "y": y})
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}: give (N, d), a row of features for each datum")
    if y.shape not in {(len(x),), (len(x), 1)}:
        raise ValueError(f"y has shape {tuple(y.shape)}: give one target for each of the {len(x)} rows of x")
    check_finite("x", x)
    check_finite("y", y)
    return x, y.reshape(-1)
