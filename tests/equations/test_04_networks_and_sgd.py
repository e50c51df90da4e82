r"""Every equation of chapter 4, both sides computed by routes that share no code.

``check`` reads all sides of an equation from the chapter itself and computes each with the values of `situations_04`:
steps of torch.optim, gradients by autograd or differences, expectations over every batch. Beside it, ``course_lib`` is
held against the same prints.
"""

import itertools
import math

import numpy as np
import printed
import pytest
import situations_04 as made
import torch

from course_lib import optimisers
from course_lib.networks import MLP, count_parameters
from course_lib.training import evaluate, fit


def check(label, rel=1e-9, **more):
    for names in made.situations(label):
        printed.agree(label, names | more, rel=rel)


def side(label, number, names, claim=0):
    """One side of one claim of a display."""
    return printed.claims(label)[claim][0][number](names)


def one_step(step, names, state=None, **options):
    """What a step function of course_lib makes of theta_t with the gradient of step t."""
    t = names["t"]
    theta = torch.tensor(names[r"\theta_t"][t])
    step([theta], [torch.tensor(names[r"\bar u_t"][t])], {} if state is None else state, names[r"\eta"], **options)
    return theta.numpy()


# --- the quadratic ---


@pytest.mark.equation("def-gradient-descent", r"\theta_{t+1} = \theta_t - \eta \, \nabla R(\theta_t) ,")
def test_gradient_descent_is_that_of_torch():
    check("def-gradient-descent")


@pytest.mark.equation("def-quadratic", r"R(\theta) = \frac{1}{2} \theta^\T \Lambda \, \theta .")
def test_quadratic():
    check("def-quadratic")


@pytest.mark.equation("eq-quadratic-gradient", r"\nabla R(\theta) = \Lambda \, \theta ,")
def test_gradient_of_the_quadratic():
    check("eq-quadratic-gradient", rel=1e-7)


@pytest.mark.equation("eq-descent-power", r"\theta_{t,j} = (1 - \eta \lambda_j)^t \, \theta_{0,j} .")
def test_descent_is_a_power():
    for names in made.situations("eq-descent-power"):
        for t, j in itertools.product((0, 1, 7, 60), (1, 2, 3)):
            printed.agree("eq-descent-power", names | {"t": t, "j": j})


@pytest.mark.parametrize("largest", [0.3, 1.0, 25.0])
@pytest.mark.equation("eq-stable", r"0 < \eta < \frac{2}{\lambda_{\max}} .")
def test_stable_if_and_only_if(largest):
    """Steps of course_lib at the edges: shorter and shorter inside, not outside and not at the end points."""
    check("eq-stable")
    (zero, _, limit), signs = printed.relation("eq-stable")
    names = {r"\lambda_{\max}": largest}
    assert (zero(names), signs) == (0, ["<", "<"])
    limit = limit(names)
    curvatures = torch.tensor([largest / 7, largest / 2, largest], dtype=torch.float64)
    for eta, arrives in ((0.05, True), (0.5, True), (0.99, True), (1.0, False), (1.01, False), (3.0, False)):
        theta, state = torch.ones(3, dtype=torch.float64), {}
        for _ in range(1500):
            optimisers.sgd([theta], [curvatures * theta], state, eta * limit)
            if theta.norm() > 1e3 or theta.norm() < 1e-6:
                break
        assert bool(theta.norm() < 1e-6) == arrives


@pytest.mark.equation(
    "eq-descent-factor",
    r"r(\eta) = \max_j |1 - \eta \lambda_j| = \max(1 - \eta \lambda_{\min}, \eta \lambda_{\max} - 1) .",
)
def test_factor_of_descent():
    check("eq-descent-factor", rel=1e-7)


@pytest.mark.equation(
    "eq-best-rate",
    r"\hat\eta = \frac{2}{\lambda_{\min} + \lambda_{\max}} , \qquad r(\hat\eta) = \frac{\kappa - 1}{\kappa "
    r"+ 1} ,",
)
def test_best_rate():
    check("eq-best-rate", rel=1e-7)
    equal = {r"\lambda_{\min}": 0.7, r"\lambda_{\max}": 0.7, r"\kappa": 1.0}  # one curvature: one step is enough
    assert side("eq-best-rate", 1, equal) == pytest.approx(1 / 0.7)
    assert side("eq-best-rate", 1, equal, claim=1) == 0


# --- networks ---


@pytest.mark.equation(
    "def-layer",
    r"a_j^{(\ell)} = \sum_{m=1}^{n_{\ell-1}} w_{jm}^{(\ell)} h_m^{(\ell-1)} + b_j^{(\ell)} , \qquad "
    r"h_j^{(\ell)} = g_\ell(a_j^{(\ell)}) .",
)
def test_layer_in_indices():
    """Every neuron of every layer of MLP."""
    for names in made.situations("def-layer"):
        for j in range(1, names[r"n_\ell"][names[r"\ell"]] + 1):
            printed.agree("def-layer", names | {"j": j})


@pytest.mark.equation(
    "eq-layer-matrix",
    r"a^{(\ell)} = W^{(\ell)} h^{(\ell-1)} + b^{(\ell)} , \qquad h^{(\ell)} = g_\ell(a^{(\ell)}) .",
)
def test_layer_in_matrices():
    check("eq-layer-matrix")


@pytest.mark.equation(
    "eq-layer-matrix",
    r"a^{(\ell)} = W^{(\ell)} h^{(\ell-1)} + b^{(\ell)} , \qquad h^{(\ell)} = g_\ell(a^{(\ell)}) .",
)
def test_rows_in_code_are_columns_on_paper():
    """A batch goes through MLP in rows; each row is what the print makes of the column."""
    names = made.network_names((3, 4, 2)) | {r"\ell": 1}
    mlp, _ = made.network((3, 4, 2), 0)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, _ = mlp.layers(x)
    for row, expected in zip(x, a[0], strict=True):
        ours = side("eq-layer-matrix", 1, names | {r"h^{(\ell)}": {0: made.column(row)}})
        assert np.ravel(ours) == pytest.approx(made.array(expected))


@pytest.mark.equation("def-network", r"f_\theta(x) = h^{(D)} .")
def test_network_is_that_of_torch_nn():
    check("def-network")


@pytest.mark.equation("eq-count", r"n_\theta = \sum_{\ell=1}^{D} n_\ell (n_{\ell-1} + 1)")
def test_count():
    check("eq-count")
    for sizes in ((1, 1), (64, 256, 256, 10), (3, 50, 2)):
        names = {"D": len(sizes) - 1, r"n_\ell": dict(enumerate(sizes))}
        assert side("eq-count", 1, names) == count_parameters(sizes)


@pytest.mark.equation(
    "eq-affine-layers",
    r"W^{(2)} \left( W^{(1)} x + b^{(1)} \right) + b^{(2)} = \left( W^{(2)} W^{(1)} \right) x + \left( "
    r"W^{(2)} b^{(1)} + b^{(2)} \right) .",
)
def test_affine_layers_are_one():
    check("eq-affine-layers")
    for names in made.situations("eq-affine-layers"):  # and MLP with the identity is that map
        assert side("eq-affine-layers", 1, names) == pytest.approx(names[r"f_\theta"](names["x"]))


@pytest.mark.equation(
    "eq-first-weights",
    r"\E\left[ (a_j^{(\ell)})^2 \right] = \sigma^2 \sum_{m=1}^{n_{\ell-1}} (h_m^{(\ell-1)})^2 ,",
)
def test_first_weights():
    check("eq-first-weights")


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1.0), ("relu", 2.0)])
@pytest.mark.equation(
    "eq-first-weights",
    r"\E\left[ (a_j^{(\ell)})^2 \right] = \sigma^2 \sum_{m=1}^{n_{\ell-1}} (h_m^{(\ell-1)})^2 ,",
)
def test_first_weights_of_course_lib(activation, gain):
    """The second layer of MLP: 40,000 neurons with the same inputs, within four standard errors."""
    generator = torch.Generator().manual_seed(0)
    mlp = MLP((4, 6, 40_000), activation, generator=generator, dtype=torch.float64)
    a, h = mlp.layers(torch.randn(4, generator=generator, dtype=torch.float64))
    squares = made.array(a[1]) ** 2
    names = {r"\sigma": (gain / 6) ** 0.5, r"\ell": 2, r"n_\ell": {1: 6}, r"h_m^{(\ell)}": {1: made.array(h[1])}}
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - side("eq-first-weights", 1, names)) < 4 * error


# --- stochastic gradient descent ---


@pytest.mark.equation(
    "def-sgd-step",
    r"\theta_{t+1} = \theta_t - \eta \, \frac{1}{b} \sum_{i \in B} \nabla R_i(\theta_t) .",
)
def test_step_on_a_batch():
    check("def-sgd-step")


@pytest.mark.equation(
    "def-sgd-step",
    r"\theta_{t+1} = \theta_t - \eta \, \frac{1}{b} \sum_{i \in B} \nabla R_i(\theta_t) .",
)
def test_step_of_fit():
    """One epoch of fit in three steps: the same as the print, step by step."""
    risk, eta = made.SmallRisk(1, 2), 0.21
    module = torch.nn.Module()
    module.theta = torch.nn.Parameter(torch.tensor(risk.theta))
    data = torch.tensor(risk.x), torch.tensor(risk.y)

    def loss(module, x, y):
        return (y - (x @ module.theta).tanh()).square().mean()

    fit(module, data, loss, n_epochs=1, batch_size=2, lr=eta, optimiser="sgd", seed=5)
    names = risk.names() | {r"\eta": eta, "t": 0}
    theta = names[r"\theta"]
    for batch in optimisers.minibatches(6, 2, torch.Generator().manual_seed(5)):
        theta = side("def-sgd-step", 1, names | {r"\theta_t": {0: theta}, "B": {i + 1 for i in batch.tolist()}})
    assert made.column(module.theta) == pytest.approx(theta, rel=1e-12)


@pytest.mark.equation("eq-number-of-batches", r"(N_B - 1) \, b < N \leq N_B \, b .")
def test_number_of_batches():
    check("eq-number-of-batches")
    for N in range(1, 30):
        for b in range(1, N + 1):
            printed.agree("eq-number-of-batches", {"N": N, "b": b, "N_B": len(optimisers.minibatches(N, b))})


def each_batch_size():
    """From one datum to all of them."""
    return [made.SmallRisk(seed, b).names() for seed in (0, 1) for b in range(1, 7)]


@pytest.mark.equation(
    "def-batch-gradient",
    r"\bar u_B = \frac{1}{b} \sum_{i \in B} u_i , \qquad u_i = \nabla R_i(\theta) .",
)
def test_batch_gradient_is_that_of_autograd():
    for names in each_batch_size():
        batch = max(names["B"], key=lambda i: i)
        printed.agree("def-batch-gradient", names | {"i": batch})


@pytest.mark.equation(
    "eq-inclusion",
    r"\E[\ind[i \in B]] = \frac{b}{N} , \qquad \E[\ind[i \in B] \, \ind[k \in B]] = \frac{b \, (b - 1)}{N "
    r"\, (N - 1)} .",
)
def test_inclusion():
    for names in each_batch_size():
        printed.agree("eq-inclusion", names)


@pytest.mark.equation(
    "eq-inclusion",
    r"\E[\ind[i \in B]] = \frac{b}{N} , \qquad \E[\ind[i \in B] \, \ind[k \in B]] = \frac{b \, (b - 1)}{N "
    r"\, (N - 1)} .",
)
def test_inclusion_in_the_batches_of_course_lib():
    """The second of three batches of each epoch: 20,000 epochs, within four standard errors."""
    generator, n = torch.Generator().manual_seed(3), 20_000
    seen = np.zeros((n, 6))
    for row in seen:
        row[optimisers.minibatches(6, 2, generator)[1]] = 1
    for values, number in ((seen[:, 1], 0), (seen[:, 1] * seen[:, 4], 1)):
        exact = side("eq-inclusion", 1, {"N": 6, "b": 2}, claim=number)
        assert abs(values.mean() - exact) < 4 * (exact * (1 - exact) / n) ** 0.5


@pytest.mark.equation("eq-batch-unbiased", r"\E[\bar u_B] = \bar u = \nabla \hat R(\theta) .")
def test_the_gradient_of_a_batch_is_unbiased():
    for names in each_batch_size():
        printed.agree("eq-batch-unbiased", names)


@pytest.mark.equation("def-gradient-covariance", r"S = \frac{1}{N} \sum_{i=1}^{N} c_i c_i^\T ,")
def test_gradient_covariance():
    check("def-gradient-covariance")


@pytest.mark.equation(
    "eq-batch-covariance",
    r"\E\left[ (\bar u_B - \bar u) (\bar u_B - \bar u)^\T \right] = \frac{1}{b} \, \frac{N - b}{N - 1} \, "
    r"S .",
)
def test_batch_covariance():
    for names in each_batch_size():
        printed.agree("eq-batch-covariance", names)
    assert np.all(side("eq-batch-covariance", 1, each_batch_size()[5]) == 0)  # b = N


@pytest.mark.equation("eq-batch-error", r"\bar u_B - \bar u = \frac{1}{b} \sum_{i=1}^{N} \ind[i \in B] \, c_i .")
def test_batch_error():
    for names in each_batch_size():
        printed.agree("eq-batch-error", names)


@pytest.mark.equation("eq-other-pairs", r"\sum_{i=1}^{N} \sum_{k \neq i} c_i c_k^\T = - \sum_{i=1}^{N} c_i c_i^\T .")
def test_other_pairs():
    check("eq-other-pairs")


# --- noise ---


@pytest.mark.equation(
    "eq-noise-step",
    r"\theta_{t+1} - \bar x = (1 - \eta \lambda) (\theta_t - \bar x) + \eta \lambda \, (\bar x_B - \bar x) "
    r".",
)
def test_noise_step():
    check("eq-noise-step")


@pytest.mark.equation(
    "eq-noise-recursion",
    r"V_{t+1} = (1 - \eta \lambda)^2 \, V_t + \eta^2 \, \frac{S}{b} \, \frac{N - b}{N - 1} .",
)
def test_noise_recursion():
    check("eq-noise-recursion")


@pytest.mark.equation(
    "eq-noise-ball",
    r"V = \frac{\eta}{\lambda (2 - \eta \lambda)} \, \frac{S}{b} \, \frac{N - b}{N - 1} .",
)
def test_noise_ball():
    check("eq-noise-ball")
    all_data = made.NoisyMean(0, 0.3, 5)  # no noise, no ball
    assert side("eq-noise-ball", 1, all_data.names()) == 0
    assert all_data.settled() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("eta", "b"), [(0.05, 2), (0.5, 1), (1.5, 3)])
@pytest.mark.equation(
    "eq-noise-ball",
    r"V = \frac{\eta}{\lambda (2 - \eta \lambda)} \, \frac{S}{b} \, \frac{N - b}{N - 1} .",
)
def test_noise_ball_of_course_lib(eta, b):
    """4000 runs of `sgd`, side by side, long after the start: within four standard errors."""
    case, generator = made.NoisyMean(0, eta, b), torch.Generator().manual_seed(8)
    x, theta, state = torch.tensor(case.x), torch.zeros(4000, dtype=torch.float64), {}
    for _ in range(round(8 / eta) + 20):
        batch = torch.rand(4000, 5, generator=generator).argsort(1)[:, :b]
        sgd_gradient = case.curvature * (theta - x[batch].mean(1))
        optimisers.sgd([theta], [sgd_gradient], state, eta)
    squares = (theta - x.mean()).square()
    exact = side("eq-noise-ball", 1, case.names())
    assert abs(squares.mean().item() - exact) < 4 * squares.std().item() / 4000**0.5


@pytest.mark.equation("eq-running-mean", r"\theta_t = \frac{1}{t} \sum_{k=1}^{t} \bar x_k ,")
def test_running_mean():
    check("eq-running-mean")


@pytest.mark.equation("eq-running-mean", r"\theta_t = \frac{1}{t} \sum_{k=1}^{t} \bar x_k ,")
def test_running_mean_of_course_lib():
    """`fit` with the inverse schedule: the mean of all batches, and after an epoch the mean of the data."""
    x = torch.tensor([[1.0], [4.0], [-2.0], [0.5], [3.5], [-5.0]], dtype=torch.float64)
    module = torch.nn.Module()
    module.theta = torch.nn.Parameter(torch.tensor([7.0], dtype=torch.float64))
    rate = optimisers.learning_rate_schedule("inverse", 1.0, decay=1.0)
    fit(
        module, (x,), lambda module, x: 0.5 * (module.theta - x).square().mean(),
        n_epochs=1, batch_size=2, lr=rate, optimiser="sgd",
    )  # fmt: skip
    means = [x[batch].mean().item() for batch in optimisers.minibatches(6, 2, torch.Generator().manual_seed(0))]
    assert module.theta.item() == pytest.approx(side("eq-running-mean", 1, {r"\bar x_k": means, "t": 3}))
    assert module.theta.item() == pytest.approx(x.mean().item())


# --- momentum, Nesterov, Adam ---


@pytest.mark.equation(
    "def-momentum",
    r"v_{t+1} = \beta v_t + \bar u_t , \qquad \theta_{t+1} = \theta_t - \eta v_{t+1} .",
)
def test_momentum():
    check("def-momentum")


@pytest.mark.equation(
    "def-momentum",
    r"v_{t+1} = \beta v_t + \bar u_t , \qquad \theta_{t+1} = \theta_t - \eta v_{t+1} .",
)
def test_momentum_of_course_lib():
    for names in made.situations("def-momentum"):
        t, beta = names["t"], names[r"\beta"]
        state = {"step": t, "velocity": [torch.tensor(names["v_t"][t])]}
        theta = one_step(optimisers.momentum, names, state, beta=beta)
        assert theta == pytest.approx(side("def-momentum", 1, names, claim=1), rel=1e-12)
        assert state["velocity"][0].numpy() == pytest.approx(side("def-momentum", 1, names), rel=1e-12)


@pytest.mark.equation(
    "eq-heavy-ball",
    r"\theta_{t+1} = \theta_t - \eta \, \bar u_t + \beta \, (\theta_t - \theta_{t-1}) .",
)
def test_heavy_ball():
    check("eq-heavy-ball")


@pytest.mark.equation("eq-momentum-constant", r"v_t = \frac{1 - \beta^t}{1 - \beta} \, \bar u ,")
def test_velocity_of_a_constant_gradient():
    check("eq-momentum-constant")


@pytest.mark.equation(
    "eq-heavy-ball-quadratic",
    r"\theta_{t+1} = (1 + \beta - \eta \lambda) \, \theta_t - \beta \, \theta_{t-1} .",
)
def test_heavy_ball_on_a_quadratic():
    check("eq-heavy-ball-quadratic")


@pytest.mark.equation("eq-characteristic", r"\rho^2 = (1 + \beta - \eta \lambda) \, \rho - \beta .")
def test_characteristic_equation():
    check("eq-characteristic")


@pytest.mark.equation(
    "eq-heavy-ball-best",
    r"\eta = \left( \frac{2}{\sqrt{\lambda_{\min}} + \sqrt{\lambda_{\max}}} \right)^2 , \qquad "
    r"\sqrt{\beta} = \frac{\sqrt{\kappa} - 1}{\sqrt{\kappa} + 1} .",
)
def test_best_momentum():
    """Found by search; and around it no choice of rate and momentum is better, for all curvatures in between."""
    check("eq-heavy-ball-best", rel=1e-5)
    low, high = 0.2, 3.0
    names = {r"\lambda_{\min}": low, r"\lambda_{\max}": high, r"\kappa": high / low}
    eta, beta = side("eq-heavy-ball-best", 1, names), side("eq-heavy-ball-best", 1, names, claim=1) ** 2
    curvatures = np.linspace(low, high, 40)
    best = made.slowest(eta, beta, curvatures)
    assert best == pytest.approx(beta**0.5, rel=1e-5)
    for change in itertools.product((0.97, 1.0, 1.03), repeat=2):
        assert made.slowest(eta * change[0], beta * change[1], curvatures) >= best * (1 - 1e-7)


@pytest.mark.equation(
    "def-nesterov",
    r"v_{t+1} = \beta v_t + \nabla R(\theta_t - \eta \beta v_t) , \qquad \theta_{t+1} = \theta_t - \eta "
    r"v_{t+1} .",
)
def test_nesterov_looks_ahead():
    check("def-nesterov")


@pytest.mark.equation(
    "eq-nesterov",
    r"\bar\theta_{t+1} = \bar\theta_t - \eta \left( \nabla R(\bar\theta_t) + \beta v_{t+1} \right) .",
)
def test_nesterov_as_torch_stores_it():
    check("eq-nesterov")


@pytest.mark.equation(
    "eq-nesterov",
    r"\bar\theta_{t+1} = \bar\theta_t - \eta \left( \nabla R(\bar\theta_t) + \beta v_{t+1} \right) .",
)
def test_nesterov_of_course_lib():
    for names in made.situations("eq-nesterov"):
        t, ahead = names["t"], names[r"\bar\theta_t"]
        state = {"step": t, "velocity": [torch.tensor(names["v_t"][t])]}
        plain = {r"\theta_t": ahead, r"\bar u_t": {t: names[r"\nabla R"](ahead[t])}, "t": t, r"\eta": names[r"\eta"]}
        theta = one_step(optimisers.nesterov, plain, state, beta=names[r"\beta"])
        assert theta == pytest.approx(side("eq-nesterov", 1, names), rel=1e-12)


@pytest.mark.equation(
    "def-adam-means",
    r"v_{t+1} = \beta_1 v_t + (1 - \beta_1) \, \bar u_t , \qquad s_{t+1} = \beta_2 s_t + (1 - \beta_2) \, "
    r"\bar u_t \odot \bar u_t .",
)
def test_running_means_of_adam():
    check("def-adam-means")


@pytest.mark.equation(
    "eq-adam-bias",
    r"\E[v_t] = (1 - \beta_1^t) \, \E[\bar u] , \qquad \E[s_t] = (1 - \beta_2^t) \, \E[\bar u \odot \bar "
    r"u] .",
)
def test_bias_of_the_running_means():
    check("eq-adam-bias")


@pytest.mark.equation(
    "def-adam-corrected",
    r"\hat v_t = \frac{1}{1 - \beta_1^t} \, v_t , \qquad \hat s_t = \frac{1}{1 - \beta_2^t} \, s_t .",
)
def test_corrected_means():
    check("def-adam-corrected")


@pytest.mark.equation(
    "def-adam-step",
    r"\theta_{t+1,j} = \theta_{t,j} - \eta \, \frac{\hat v_{t+1,j}}{\sqrt{\hat s_{t+1,j}} + \varepsilon} .",
)
def test_step_of_adam():
    check("def-adam-step", rel=1e-8)


@pytest.mark.equation(
    "def-adam-means",
    r"v_{t+1} = \beta_1 v_t + (1 - \beta_1) \, \bar u_t , \qquad s_{t+1} = \beta_2 s_t + (1 - \beta_2) \, "
    r"\bar u_t \odot \bar u_t .",
)
@pytest.mark.equation(
    "def-adam-step",
    r"\theta_{t+1,j} = \theta_{t,j} - \eta \, \frac{\hat v_{t+1,j}}{\sqrt{\hat s_{t+1,j}} + \varepsilon} .",
)
def test_step_of_adam_in_course_lib():
    for names in made.situations("def-adam-step"):
        t = names["t"]
        state = {"step": t, "mean": [torch.tensor(names["v_t"][t])], "square": [torch.tensor(names["s_t"][t])]}
        start = {k: made.column(point) for k, point in names[r"\theta_{t,j}"].items()}
        options = {"betas": (names[r"\beta_1"], names[r"\beta_2"]), "eps": names[r"\varepsilon"]}
        theta = one_step(optimisers.adam, names | {r"\theta_t": start}, state, **options)
        for j in (1, 2):
            assert theta[j - 1, 0] == pytest.approx(side("def-adam-step", 1, names | {"j": j}), rel=1e-9)
        assert state["mean"][0].numpy() == pytest.approx(side("def-adam-means", 1, names), rel=1e-12)
        assert state["square"][0].numpy() == pytest.approx(side("def-adam-means", 1, names, claim=1), rel=1e-12)


# --- memory, and the loss of an epoch ---


@pytest.mark.equation("eq-activation-memory", r"A = b \, \sum_{\ell=1}^{D} n_{\ell-1}")
def test_activation_memory():
    check("eq-activation-memory")


@pytest.mark.equation(
    "eq-epoch-loss",
    r"\frac{1}{N} \sum_{k=1}^{N_B} |B_k| \, \bar R_k = \frac{1}{N} \sum_{i=1}^{N} R_i .",
)
def test_loss_of_an_epoch():
    check("eq-epoch-loss")


@pytest.mark.parametrize("b", [1, 2, 3, 4, 7])
@pytest.mark.equation(
    "eq-epoch-loss",
    r"\frac{1}{N} \sum_{k=1}^{N_B} |B_k| \, \bar R_k = \frac{1}{N} \sum_{i=1}^{N} R_i .",
)
def test_loss_of_an_epoch_in_fit_and_evaluate(b):
    """With a rate that moves nothing. The loss of a datum is the datum."""
    losses = torch.rand(7, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    model = torch.nn.Linear(1, 1, dtype=torch.float64)

    def loss(model, x):
        return x.mean() + 0 * model(x).sum()

    history = fit(model, (losses,), loss, n_epochs=2, batch_size=b, lr=1e-30)
    right = side("eq-epoch-loss", 1, {"N": 7, "R_i": losses[:, 0].numpy(), "b": b, "N_B": math.ceil(7 / b)})
    assert history.loss == pytest.approx([right] * 2)
    assert evaluate(model, (losses,), loss, b) == pytest.approx(right)
