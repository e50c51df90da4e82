r"""Variational Bayesian inference: the loss of a mean-field network and its gradient by hand (chapter 10).

The loss is the free energy divided by n_data, in nats for each datum. `mean_field_loss` is for autograd;
`mean_field_gradients` returns the same number and the gradients without autograd: chapter 5's recurrence goes back to
the drawn weights, or to the drawn inputs of the neurons, and from there to the means and the log-variances.

The other parts lie in modules of their own, and their names are here too: `mean_field` (the network and its free
energy), `linear_bayes` (the exact linear regression) and `predictions`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, bmm, mm

from course_lib._validation import values_are_known
from course_lib.backprop import _times_derivative
from course_lib.gaussians import LOG_TWO_PI
from course_lib.linear_bayes import BayesianLinearRegression
from course_lib.mean_field import MeanFieldNetwork, _check_batch, _check_options, batch_weights
from course_lib.networks import ACTIVATIONS
from course_lib.predictions import ClassPrediction, GaussianPrediction, SampledPrediction

__all__ = [
    "BayesianLinearRegression",
    "ClassPrediction",
    "GaussianPrediction",
    "MeanFieldNetwork",
    "SampledPrediction",
    "batch_weights",
    "mean_field_gradients",
    "mean_field_loss",
]


def mean_field_loss(
    model: MeanFieldNetwork,
    x: Float[Tensor, "b d"],
    y: Tensor,
    *,
    n_data: int,
    n_samples: int = 1,
    estimate: str = "kl",
    sampling: str = "local",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """The free energy divided by n_data, in nats for each datum: the `loss` of `course_lib.training.fit`.

    n_data is the number of all data, not of the batch: it goes to fit as functools.partial(mean_field_loss, n_data=N).
    Without a generator the noise comes from PyTorch's global one, which `fit` seeds; each call draws fresh noise.
    Shapes, options and errors are those of `MeanFieldNetwork.free_energy`.
    Chapter 10, equations def-vb-batch and eq-vb-batch. C. Blundell and others, Weight Uncertainty in Neural Networks
    (2015).

    Examples:
        >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0, generator=torch.Generator().manual_seed(0))
        >>> x, noise = torch.linspace(-1, 1, 20)[:, None], torch.Generator()
        >>> loss = mean_field_loss(model, x[:5], x[:5], n_data=20, generator=noise.manual_seed(0))
        >>> bool(loss == model.free_energy(x[:5], x[:5], 20, generator=noise.manual_seed(0)) / 20)
        True
    """
    _check_model(model)
    options = {"estimate": estimate, "sampling": sampling, "temperature": temperature}
    return model.free_energy(x, y, n_data, n_samples, generator=generator, **options) / n_data


def mean_field_gradients(
    model: MeanFieldNetwork,
    x: Float[Tensor, "b d"],
    y: Tensor,
    *,
    n_data: int,
    n_samples: int = 1,
    estimate: str = "kl",
    sampling: str = "local",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """The value of `mean_field_loss` and its gradients by backpropagation to the laws of the weights, without autograd.

    Options, noise and errors are those of `mean_field_loss`: with gradients="analytic", `fit` gives the same weights
    as without, but for rounding.
    For a loop of your own, gradients = mean_field_gradients.prepare(model) makes a function of the same arguments that
    takes half the time: it uses its memory again, so what it returns lasts until its next call. `fit` does so too.
    Shapes: x (b, n_0), y as for `MeanFieldNetwork.free_energy`. Returns a scalar, and the gradients in the order of
    model.parameters(), without those of parameters that require none.
    Raises what `mean_field_loss` raises.
    Chapter 10, equations eq-vb-slope-mean, eq-vb-slope-log-var and eq-vb-local-slopes; chapter 5, equation
    eq-bp-recurrence. C. Blundell and others, Weight Uncertainty in Neural Networks (2015).

    Examples:
        >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0, dtype=torch.float64)
        >>> x, noise = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None], torch.Generator()
        >>> value, gradients = mean_field_gradients(model, x, x, n_data=20, generator=noise.manual_seed(0))
        >>> loss = mean_field_loss(model, x, x, n_data=20, generator=noise.manual_seed(0))
        >>> by_autograd = torch.autograd.grad(loss, list(model.parameters()))
        >>> all(torch.allclose(g, h, rtol=1e-10) for g, h in zip(gradients, by_autograd, strict=True))
        True
    """
    options = {"n_samples": n_samples, "estimate": estimate, "sampling": sampling, "temperature": temperature}
    return _Gradients(model)(model, x, y, n_data=n_data, generator=generator, **options)


class _Options(NamedTuple):
    n_data: int
    n_samples: int
    estimate: str
    sampling: str
    temperature: float


class _Gradients:
    """`mean_field_gradients` of one model for many steps. Each call writes over the gradients of the one before.

    If the data are given, they are looked at now, and batches of their rows not again.
    """

    def __init__(self, model, x=None, y=None):
        _check_model(model)
        self.model, self.workspaces, self.given, self.options, self.known = model, {}, None, None, None
        if x is not None and x.device == model.means.device:
            _check_batch(model, x, y, len(x), None)
            self.known = _form(x, y)

    def __call__(self, model, x, y, *, generator=None, **given):
        if model is not self.model:
            raise ValueError("these gradients were prepared for another model: call prepare with this one")
        with torch.no_grad():
            self._look_at(x, y, generator, given)
            options = self.options
            size = len(x), options.n_samples, options.estimate, options.sampling
            memory = self.workspaces.get(size)
            if memory is None or memory.places != memory.places_now():
                memory = self.workspaces[size] = _Workspace(model, len(x), options)
            memory.set_weight(options.temperature / options.n_data)
            value = _forward_and_backward(model, x, y, generator, memory)
            # NaN or infinity anywhere reaches the loss or a gradient
            watched = memory.by_means.sum() + memory.by_log_vars.sum()
            if values_are_known(value) and not math.isfinite(value.item() + watched.item()):
                model._explain(x, y)
        return value, memory.trained

    def _look_at(self, x, y, generator, given):
        """The options and the batch, unless both are known to be right."""
        if given != self.given:
            options = _options(**given)
            _check_batch(self.model, x, y, options.n_data, generator)
            self.given, self.options = given, options
        elif generator is not None or self.known != _form(x, y) or not len(x) == len(y) <= self.options.n_data:
            _check_batch(self.model, x, y, self.options.n_data, generator)


def _form(x, y):
    return x.shape[1:], x.dtype, x.device, y.shape[1:], y.dtype, y.device


mean_field_loss.gradients = mean_field_gradients  # where fit looks for gradients="analytic"
mean_field_gradients.prepare = _Gradients  # what fit calls instead, step after step


def _options(*, n_data, n_samples=1, estimate="kl", sampling="local", temperature=1.0):
    _check_options(n_samples, estimate, sampling, temperature)
    return _Options(n_data, n_samples, estimate, sampling, temperature)


def _forward_and_backward(model, x, y, generator, memory):
    """The two steps of backpropagation, with a **column** for each datum: (n_out, b), or (S, n_out, b) for S networks.

    On a small network an operation takes longer to begin than to compute: so there are few of them, and all that can be
    made before is in `memory`. The divergence fills the gradients first, the likelihood is added.
    """
    memory.noise.normal_(generator=generator)
    draw, to_parameters = (_local, _from_local) if memory.local else (_weights, _from_weights)
    layers, law = memory.layers, _categorical if model.likelihood == "categorical" else _gaussian
    draw(model, memory)
    twice = _divergence(model, memory)  # twice the loss, so far
    torch.mul(memory.ones, x.T, out=memory.inputs)
    for layer in layers:
        layer.forward()
    law(model, y, memory, twice)
    for layer in reversed(layers):
        layer.backward()
    to_parameters(memory)
    return twice.mul_(0.5)


def _divergence(model, memory):
    """T / N times twice the divergence, or its estimate; fills its derivatives by means and log_vars, by draws too."""
    weight, pull = memory.weight, memory.pull  # T / N, and T / (N tau^2)
    if memory.estimate == "kl":
        log_ratio = torch.sub(model.log_vars, memory.log_prior_var, out=memory.log_ratio)
        excess = torch.expm1(log_ratio, out=memory.excess)
        torch.mul(model.means, pull, out=memory.by_means)
        torch.mul(excess, memory.half_weight, out=memory.by_log_vars)
        return torch.dot(memory.by_means, model.means).add_(log_ratio.neg_().add_(excess).sum(), alpha=weight)
    memory.by_means.zero_()
    memory.by_log_vars.fill_(-0.5 * weight)
    draws, S = memory.draws, len(memory.draws)
    torch.mul(draws, pull, out=memory.by_prior).div_(S)
    constant = (memory.log_prior_var - model.log_vars).sum() - memory.noise.square().sum() / S
    return torch.dot(memory.by_prior.view(-1), draws.view(-1)).add_(constant, alpha=weight)


def _local(model, memory):
    torch.exp(model.log_vars, out=memory.variances)


def _from_local(memory):
    memory.by_log_vars.addcmul_(memory.by_variances, memory.variances, value=0.5)


def _weights(model, memory):
    torch.mul(model.log_vars, memory.half, out=memory.sd).exp_()
    torch.addcmul(model.means, memory.sd, memory.noise, out=memory.draws)


def _from_weights(memory):
    """Back along draws = means + exp(log_vars / 2) noise."""
    by_draws = memory.by_draws
    if memory.estimate == "sampled":
        by_draws.add_(memory.by_prior)
    memory.by_means.add_(_over_draws(by_draws))
    by_draws.mul_(memory.noise)
    memory.by_log_vars.addcmul_(_over_draws(by_draws), memory.sd, value=0.5)


def _over_draws(by_draws):
    return by_draws.select(0, 0) if len(by_draws) == 1 else by_draws.sum(0)


def _gaussian(model, y, memory, twice):
    """Adds twice the likelihood's share to the loss; fills the derivative by the output, and by log_noise_var."""
    log_var, share, c = model.log_noise_var, memory.share, model.sizes[-1]  # share: 1 / (S b)
    precision = log_var.neg().exp_()
    torch.sub(memory.output, y.reshape(-1, c).T, out=memory.gap)
    torch.mul(memory.flat_gap, precision, out=memory.flat_slope)
    squares = torch.dot(memory.flat_gap, memory.flat_slope)
    memory.flat_slope.mul_(memory.share_tensor)
    twice.add_(squares, alpha=share).add_(log_var, alpha=c).add_(c * LOG_TWO_PI)
    if memory.by_noise is not None:
        memory.by_noise.fill_(0.5 * c).sub_(squares, alpha=0.5 * share)


def _categorical(model, y, memory, twice):
    """The same for classes: softmax minus one-hot."""
    log_p = memory.output.log_softmax(-2)
    one_hot = torch.zeros_like(log_p.select(0, 0)).scatter_(0, y.long().unsqueeze(0), memory.share)
    torch.exp(log_p, out=memory.slope).mul_(memory.share_tensor).sub_(one_hot)
    twice.sub_((log_p * one_hot).sum(), alpha=2.0)


class _Workspace:
    """All that the steps for b data with these options can find ready: memory, and its parts in other shapes."""

    def __init__(self, model, b, options):
        S, n = options.n_samples, len(model.means)
        self.model, self.estimate, self.local = model, options.estimate, options.sampling == "local"
        new = model.means.detach().new_empty
        self.by_means, self.by_log_vars = new(n), new(n)
        by_noise = model.noise == "learned"
        self.by_noise = new(()) if by_noise else None
        gradients = [self.by_means, self.by_log_vars, *([self.by_noise] if by_noise else [])]
        params = [model.means, model.log_vars, *([model.log_noise_var] if by_noise else [])]
        self.trained = [grad for grad, param in zip(gradients, params, strict=True) if param.requires_grad]
        # The divergence
        self.log_prior_var, self.precision = 2 * model.prior_sd.log(), 1 / model.prior_sd.square()
        self.weight, self.pull, self.log_ratio, self.excess = None, new(n), new(n), new(n)
        # Python's numbers would be made tensors at each step, which takes longer than the products with them.
        self.share = 1 / (S * b)
        self.ones, self.half, self.half_weight = new(S, 1, 1).fill_(1.0), new(()).fill_(0.5), new(())
        self.share_tensor = new(()).fill_(self.share)
        if self.local:
            self._add_local(model, S, b, new)
        else:
            self._add_weights(model, S, b, new)
        last = self.layers[-1]
        self.output, self.slope = self._by_draw(last.a, S, b), self._by_draw(last.slope, S, b)
        gap = torch.empty_like(last.a)
        self.gap, self.flat_gap, self.flat_slope = self._by_draw(gap, S, b), gap.view(-1), last.slope.view(-1)
        self.places = self.places_now()

    def set_weight(self, weight):
        """T / N, which multiplies the divergence."""
        if weight != self.weight:
            self.weight = weight
            torch.mul(self.precision, weight, out=self.pull)
            self.half_weight.fill_(0.5 * weight)

    def _by_draw(self, columns, S, b):
        """(S, c, b), whatever the layout."""
        if self.local:
            return columns.view(-1, S, b).transpose(0, 1)
        return columns.view(S, -1, b)

    def _add_local(self, model, S, b, new):
        widths = model.sizes[1:]
        self.noise = new(S * b * sum(widths))
        self.variances, self.by_variances = torch.empty_like(self.by_means), torch.empty_like(self.by_means)
        noise = [piece.view(-1, S * b) for piece in self.noise.split([S * b * n for n in widths])]
        vectors = (model.means.detach(), self.by_means, self.variances, self.by_variances)
        matrices = zip(*(_matrices(model, vector) for vector in vectors), noise, strict=True)
        self.layers = _chain([_LocalLayer(*parts) for parts in matrices], model)
        self.inputs = self.layers[0].received.view(-1, S, b).transpose(0, 1)

    def _add_weights(self, model, S, b, new):
        n = len(self.by_means)
        self.noise, self.draws, self.by_draws, self.by_prior = (new(S, n) for _ in range(4))
        self.sd = new(n)
        vectors = (self.draws, self.by_draws) if S > 1 else (self.draws.select(0, 0), self.by_draws.select(0, 0))
        matrices = zip(*(_matrices(model, vector) for vector in vectors), strict=True)
        self.layers = _chain([_Layer(W, by_W, b) for W, by_W in matrices], model)
        self.inputs = self.layers[0].received.view(S, -1, b)

    def places_now(self):
        """Where the parameters lie, and whether the prior was changed. If so, this workspace is of no more use."""
        model = self.model
        if not values_are_known(model.means):
            return None
        return model.means.data_ptr(), model.log_vars.data_ptr(), model.prior_sd.data_ptr(), model.prior_sd._version


def _matrices(model, vector):
    """The weights of each layer with the biases for last column, (*S, n_out, n_in + 1), as views."""
    sizes = [out * (into + 1) for into, out in zip(model.sizes[:-1], model.sizes[1:], strict=True)]
    pieces = vector.split(sizes, -1)
    return [piece.unflatten(-1, (out, -1)) for piece, out in zip(pieces, model.sizes[1:], strict=True)]


def _chain(layers, model):
    """Links the layers: the output of each is the input of the next, except for a last row of ones for the bias."""
    for layer, next_layer, g in zip(layers, [*layers[1:], None], model._activations(), strict=True):
        layer.link(next_layer, g)
    return layers


class _Layer:
    """One layer with drawn weights: h its input with a row of ones, a = W h; slope the derivative by a."""

    def __init__(self, W, by_W, n_columns):
        self.W, self.by_W, self.to_input = W, by_W, _but_last(W, -1).mT
        self.product = mm if W.ndim == 2 else bmm
        *S, n_out, n_in = W.shape
        self.h = W.new_empty(*S, n_in, n_columns)
        self.h.select(-2, -1).fill_(1.0)
        self.h_T, self.received = self.h.mT, _but_last(self.h, -2)
        self.a, self.slope = W.new_empty(*S, n_out, n_columns), W.new_empty(*S, n_out, n_columns)
        self.previous = self.output = None

    def link(self, following, g):
        self.g = g
        if following is not None:
            following.previous, self.output = self, following.received
            self.activate = _INTO.get(g) or (lambda a, out: torch.mul(g.function(a), 1.0, out=out))

    def forward(self):
        self.product(self.W, self.h, out=self.a)
        self._pass_on()

    def _pass_on(self):
        if self.output is not None:
            self.activate(self.a, out=self.output)

    def backward(self):
        self.product(self.slope, self.h_T, out=self.by_W)
        if self.previous is not None:
            slope = self.product(self.to_input, self.slope, out=self.previous.slope)
            _times_derivative(slope, self.previous.g, self.previous.a, self.received)


class _LocalLayer(_Layer):
    """One layer whose a is drawn: a = means h + sqrt(variances h^2) noise."""

    def __init__(self, means, by_means, variances, by_variances, noise):
        super().__init__(means, by_means, noise.shape[1])
        self.variances, self.by_variances, self.noise = variances, by_variances, noise
        self.variances_to_input = _but_last(variances, -1).T
        self.squares, self.sd, self.ratio = (torch.empty_like(t) for t in (self.h, self.a, self.a))
        self.squares_T, self.by_squares = self.squares.T, torch.empty_like(self.received)

    def forward(self):
        torch.mul(self.h, self.h, out=self.squares)
        mm(self.W, self.h, out=self.a)
        mm(self.variances, self.squares, out=self.sd).sqrt_()
        self.a.addcmul_(self.sd, self.noise)
        self._pass_on()

    def backward(self):
        self.by_W.addmm_(self.slope, self.h_T)  # beside what the divergence left there
        ratio = torch.mul(self.slope, self.noise, out=self.ratio).div_(self.sd)  # twice the derivative by the variance
        mm(ratio, self.squares_T, out=self.by_variances)
        if self.previous is not None:
            slope = mm(self.to_input, self.slope, out=self.previous.slope)
            slope.addcmul_(mm(self.variances_to_input, ratio, out=self.by_squares), self.received)
            _times_derivative(slope, self.previous.g, self.previous.a, self.received)


def _but_last(tensor, dim):
    return tensor.narrow(dim, 0, tensor.shape[dim] - 1)


# Activations that can be written to where the next layer reads.
_INTO = {
    ACTIVATIONS["tanh"]: torch.tanh,
    ACTIVATIONS["sigmoid"]: torch.sigmoid,
    ACTIVATIONS["relu"]: lambda a, out: torch.clamp(a, min=0, out=out),
}


def _check_model(model):
    if not isinstance(model, MeanFieldNetwork):
        raise TypeError(f"model is a {type(model).__name__}: give a MeanFieldNetwork")
