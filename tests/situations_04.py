"""Chapter 4 for the mutation test: values of the symbols in which each equation claims to hold.

Nothing here is computed as the chapter prints it: steps come from torch.optim, gradients from autograd or differences,
expectations from a list of all batches, networks from course_lib (which the tests hold against torch.nn).
"""

import itertools
import math

import numpy as np
import torch
from latex_reader import Depends
from scipy import optimize

from course_lib.networks import MLP
from course_lib.optimisers import minibatches

STILL_TRUE = {
    "eq-descent-factor": (1, "the larger of two numbers does not depend on their order"),
    "eq-batch-covariance": (2, "the error has mean zero, so what is added to the other factor does not matter"),
}
NOT_MUTATED = {"def-robbins-monro": "two infinite sums, which no computer adds up"}
READ_BY_SYMPY = {}
CHANGES = [
    (r"\\beta ", ""),
    (r"\\lambda_\{\\min\}", r"\\lambda_{\\max}"),
    (r"\\bar u_t(?![+])", r"\\bar u_{t+1}"),
    (r"\\sqrt\{(\\[a-z]+(?:_\{\\m[axin]+\})?)\}", r"\1"),
    (r"\\in ", r"\\ne "),
]

ATTEMPTS = (0, 1)


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    return [names for maker in MAKERS[label] for names in maker()]


def array(tensor):
    return tensor.detach().numpy().copy()  # a step of an optimiser is made in place


def column(values):
    return np.reshape(array(values) if torch.is_tensor(values) else np.array(values, dtype=float), (-1, 1))


# --- the quadratic ---


def quadratic_cases():
    """Gradient descent by torch.optim.SGD on 1/2 sum_j lambda_j theta_j^2, at a low and at a high rate."""
    for eta in (0.23, 1.38):
        curvature, start = np.array([0.4, 0.9, 1.3]), np.array([1.7, -2.2, 0.6])
        theta = torch.tensor(start, requires_grad=True)
        path, optimiser = {0: list(start)}, torch.optim.SGD([theta], lr=eta)
        for t in range(1, 400):
            optimiser.zero_grad()
            (0.5 * torch.tensor(curvature) * theta**2).sum().backward()
            optimiser.step()
            path[t] = array(theta).tolist()
        yield {
            r"\eta": eta, r"\theta_{t,j}": path, r"\theta_t": {t: column(point) for t, point in path.items()},
            r"\lambda_j": list(curvature), r"\lambda_{\min}": 0.4, r"\lambda_{\max}": 1.3, r"\sum_j": [1, 2, 3],
            "R": lambda theta, c=curvature: sum(0.5 * c[j] * theta[j, 0] ** 2 for j in range(3)),
            r"\Lambda": np.diag(curvature), r"\theta": column(start), "j": 2, "t": 5,
        }  # fmt: skip


def with_slopes():
    """The gradient by central differences, which are exact for a quadratic."""
    for names in quadratic_cases():
        yield names | {r"\nabla R": differences(names["R"])}


def differences(function, h=1e-4):
    def gradient(point):
        steps = h * np.eye(len(point))
        ends = [(function(point + step[:, None]), function(point - step[:, None])) for step in steps]
        return column([(right - left) / (2 * h) for right, left in ends])

    return gradient


def long_run_factor(curvatures, eta, steps=4000):
    """By which factor the distance shrinks or grows in a step, after many; the scale is taken out each time."""
    theta = np.ones(len(curvatures))
    for _ in range(steps):
        theta = theta - eta * curvatures * theta
        size = np.linalg.norm(theta)
        theta = theta / size
    return size


def factor_cases():
    for names in quadratic_cases():
        yield names | {"r": lambda eta, c=names[r"\lambda_j"]: long_run_factor(np.array(c), eta)}


def best_rate_cases():
    for low, high in ((0.4, 1.3), (0.7, 9.1)):
        curvatures = np.linspace(low, high, 5)
        best = optimize.minimize_scalar(
            lambda eta, c=curvatures: np.abs(1 - eta * c).max(), bounds=(0, 2 / high), method="bounded",
            options={"xatol": 1e-10},
        ).x  # fmt: skip
        yield {
            r"\hat\eta": best, r"\lambda_{\min}": low, r"\lambda_{\max}": high, r"\kappa": high / low,
            "r": lambda eta, c=curvatures: np.abs(1 - eta * c).max(),
        }  # fmt: skip


def other_loss(theta):
    """A smooth loss that is not a quadratic, for tensors."""
    return (theta - 0.3).cosh().log().sum() + 0.2 * (theta[0] * theta[1]) + 0.05 * theta.pow(4).sum()


def other_gradient(point):
    theta = torch.tensor(np.ravel(point), requires_grad=True)
    return column(torch.autograd.grad(other_loss(theta), theta)[0])


def trajectory(make, loss=other_loss, start=(1.7, -0.8), steps=8):
    """What torch.optim does: parameters, gradients, and what the optimiser remembers, by the step."""
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimiser = make([theta])
    found = {"theta": {0: column(start)}, "gradient": {}, "state": {0: {}}}
    for t in range(steps):
        optimiser.zero_grad()
        loss(theta).backward()
        found["gradient"][t] = column(theta.grad)
        optimiser.step()
        found["theta"][t + 1] = column(theta)
        found["state"][t + 1] = {
            name: column(value) for name, value in optimiser.state[theta].items() if torch.is_tensor(value)
        }
    return found


def descent_cases():
    run = trajectory(lambda p: torch.optim.SGD(p, lr=0.17))
    yield {r"\theta_t": run["theta"], r"\nabla R": other_gradient, r"\eta": 0.17, "t": 3}


# --- networks ---


def network(sizes, seed, activation="tanh", output="sigmoid"):
    generator = torch.Generator().manual_seed(seed)
    mlp = MLP(sizes, activation, output, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for b in mlp.biases:
            b.copy_(torch.randn(b.shape, generator=generator, dtype=torch.float64))
    return mlp, torch.randn(sizes[0], generator=generator, dtype=torch.float64)


def by_torch_nn(mlp):
    """The same network made of torch.nn.Linear, as a function of columns."""
    functions = {"tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid, "identity": torch.nn.Identity}
    layers = []
    for number, (W, b) in enumerate(zip(mlp.weights, mlp.biases, strict=True), 1):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], dtype=torch.float64)
        linear.load_state_dict({"weight": W.detach(), "bias": b.detach()})
        layers += [linear, functions[mlp.output if number == len(mlp.weights) else mlp.activation]()]
    model = torch.nn.Sequential(*layers)
    return lambda x: column(model(torch.tensor(np.ravel(x))))


def network_names(sizes=(2, 4, 3, 5), seed=0, **activations):
    """Every symbol of the section on networks; a and h are those of MLP.layers."""
    mlp, x = network(sizes, seed, **activations)
    a, h = mlp.layers(x)
    depth = len(sizes) - 1
    plain = {"tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "identity": lambda v: v}
    numbered = range(1, depth + 1)
    return {
        "D": depth, r"n_\ell": dict(enumerate(sizes)), "x": column(x), "j": 2, "t": 3,
        r"W^{(\ell)}": dict(zip(numbered, map(array, mlp.weights), strict=True)),
        r"w_{jm}^{(\ell)}": dict(zip(numbered, map(array, mlp.weights), strict=True)),
        r"b^{(\ell)}": {k: column(b) for k, b in zip(numbered, mlp.biases, strict=True)},
        r"b_j^{(\ell)}": {k: array(b).tolist() for k, b in zip(numbered, mlp.biases, strict=True)},
        r"a^{(\ell)}": {k: column(v) for k, v in zip(numbered, a, strict=True)},
        r"a_j^{(\ell)}": {k: array(v).tolist() for k, v in zip(numbered, a, strict=True)},
        r"h^{(\ell)}": {k: column(v) for k, v in enumerate(h)},
        r"h_m^{(\ell)}": {k: array(v).tolist() for k, v in enumerate(h)},
        r"g_\ell": {k: plain[mlp.output if k == depth else mlp.activation] for k in numbered},
        r"f_\theta": by_torch_nn(mlp), r"n_\theta": sum(p.numel() for p in mlp.parameters()),
    }  # fmt: skip


def layer_cases():
    for seed in ATTEMPTS:
        names = network_names(seed=seed)
        yield from (names | {r"\ell": layer} for layer in (1, 2, 3))


def network_cases():
    for sizes in ((2, 4, 3, 5), (3, 2), (5, 1, 4)):
        yield network_names(sizes)


def affine_cases():
    for seed in ATTEMPTS:
        yield network_names((2, 4, 3), seed, activation="identity", output="identity")


def first_weights_cases():
    """All weights of a neuron are +s or -s: the mean over all choices of the signs."""
    for inputs in ([0.7, -1.9, 2.4], [1.3, 0.2]):
        s = 0.6
        sums = [np.dot(np.multiply(signs, s), inputs) for signs in itertools.product((-1, 1), repeat=len(inputs))]
        yield {
            r"\E": lambda f, sums=sums: np.mean([f(**{r"a_j^{(\ell)}": {2: {3: a}}}) for a in sums]),
            r"h_m^{(\ell)}": {1: inputs}, r"\sigma": s, r"\ell": 2, "j": 3, r"n_\ell": {0: 7, 1: len(inputs), 2: 5},
        }  # fmt: skip


# --- gradients of batches ---


class SmallRisk:
    """Six data, a neuron with two weights, and the gradient of each squared loss."""

    def __init__(self, seed, b):
        rng = np.random.default_rng([4, seed])
        self.x, self.y, self.theta = rng.normal(size=(6, 2)), rng.normal(size=6), rng.normal(size=2)
        self.N, self.b = 6, b
        self.batches = [set(B) for B in itertools.combinations(range(1, 7), b)]

    def gradient(self, rows, theta=None):
        """Of the mean loss over some data, by autograd. Data are counted from 1."""
        theta = torch.tensor(self.theta if theta is None else np.ravel(theta), requires_grad=True)
        x, y = (torch.tensor(values[[i - 1 for i in sorted(rows)]]) for values in (self.x, self.y))
        return column(torch.autograd.grad((y - (x @ theta).tanh()).square().mean(), theta)[0])

    def one(self, i):
        """The gradient of the loss of datum i, by the chain rule."""

        def gradient(theta):
            h = np.tanh(self.x[i - 1] @ np.ravel(theta))
            return column(-2 * (self.y[i - 1] - h) * (1 - h**2) * self.x[i - 1])

        return gradient

    def names(self):
        every = range(1, self.N + 1)
        u = [self.one(i)(self.theta) for i in every]
        mean = sum(u) / self.N
        return {
            "N": self.N, "b": self.b, "B": self.batches[-2:][0], "i": 2, "k": 5, r"\theta": column(self.theta),
            "u_i": u, r"\bar u": mean, "c_i": [one - mean for one in u],
            r"\nabla R_i": [self.one(i) for i in every], r"\nabla \hat R": lambda theta: self.gradient(every, theta),
            r"\bar u_B": Depends(lambda names: self.gradient(names["B"])),
            r"\E": lambda f: sum(f(B=B) for B in self.batches) / len(self.batches),
            "S": np.cov(np.hstack(u), bias=True), r"\sum_k": list(every),
        }  # fmt: skip


def batch_cases():
    for seed in ATTEMPTS:
        yield from (SmallRisk(seed, b).names() for b in (2, 3, 5))


def sgd_step_cases():
    """One step of torch.optim.SGD on the mean loss of a batch."""
    for b in (2, 3):
        risk, eta = SmallRisk(0, b), 0.37
        names = risk.names()
        batch = [i - 1 for i in sorted(names["B"])]
        x, y = torch.tensor(risk.x[batch]), torch.tensor(risk.y[batch])
        run = trajectory(
            lambda p, eta=eta: torch.optim.SGD(p, lr=eta),
            lambda theta, x=x, y=y: (y - (x @ theta).tanh()).square().mean(),
            tuple(risk.theta),
        )
        yield names | {r"\theta_t": run["theta"], r"\eta": eta, "t": 2}


def number_of_batches_cases():
    for N, b in ((20, 4), (21, 4), (23, 4), (7, 7), (9, 2)):
        yield {"N": N, "b": b, "N_B": len(minibatches(N, b))}


# --- noise ---


class NoisyMean:
    """SGD on lambda/2 (theta - x_i)^2 over five numbers, batches drawn independently: everything by enumeration."""

    def __init__(self, seed, eta, b):
        self.x = np.random.default_rng([5, seed]).normal(size=5) + 0.4
        self.eta, self.b, self.curvature = eta, b, 0.8
        self.means = [np.mean(B) for B in itertools.combinations(self.x, b)]

    def steps(self, theta, means):
        """torch.optim.SGD, each batch loss by its mean (the constant is left out)."""
        theta = torch.tensor(float(theta), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.SGD([theta], lr=self.eta)
        for mean in means:
            optimiser.zero_grad()
            (self.curvature / 2 * (theta - mean) ** 2).backward()
            optimiser.step()
        return theta.item()

    def moment(self, start, t):
        """E[(theta_t - mean)^2] over all sequences of t batches."""
        ends = [self.steps(start, sequence) for sequence in itertools.product(self.means, repeat=t)]
        return np.mean((np.array(ends) - self.x.mean()) ** 2)

    def settled(self):
        """The second moment after very many steps, from the map of both moments that one random batch makes."""
        first, second = 1.0, 1.0
        pulls = self.eta * self.curvature * (np.array(self.means) - self.x.mean())
        keep = 1 - self.eta * self.curvature
        for _ in range(500):
            first, second = keep * first + pulls.mean(), np.mean(keep**2 * second + 2 * keep * first * pulls + pulls**2)
        return second

    def names(self):
        theta, mean = 1.9, self.means[-2:][0]
        return {
            r"\eta": self.eta, r"\lambda": self.curvature, "b": self.b, "N": 5, "t": 1, r"\bar x": self.x.mean(),
            r"\bar x_B": mean, r"\theta_t": {1: theta, 2: self.steps(theta, [mean])},
            "S": np.var(self.curvature * (theta - self.x)),
        }  # fmt: skip


def noise_cases():
    for seed, (eta, b) in enumerate(((0.3, 2), (1.6, 3))):
        yield NoisyMean(seed, eta, b)


def noise_step_cases():
    yield from (case.names() for case in noise_cases())


def noise_recursion_cases():
    for case in noise_cases():
        yield case.names() | {"V_t": {1: case.moment(1.9, 1), 2: case.moment(1.9, 2)}}


def noise_ball_cases():
    for case in noise_cases():
        yield case.names() | {"V": case.settled()}


def running_mean_cases():
    """One run with the rates 1, 1/2, 1/3, ... and curvature 1, its rate set before each step of torch.optim.SGD."""
    means = np.random.default_rng(6).normal(size=9)
    theta = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    optimiser, path = torch.optim.SGD([theta], lr=1.0), {0: 4.0}
    for t, mean in enumerate(means):
        optimiser.param_groups[0]["lr"] = 1 / (t + 1)
        optimiser.zero_grad()
        (0.5 * (theta - mean) ** 2).backward()
        optimiser.step()
        path[t + 1] = theta.item()
    for t in (3, 8):
        yield {r"\theta_t": path, r"\bar x_k": means, "t": t}


# --- momentum and Adam ---


def momentum_cases():
    eta, beta = 0.13, 0.7
    run = trajectory(lambda p: torch.optim.SGD(p, lr=eta, momentum=beta))
    velocity = {t: state["momentum_buffer"] for t, state in run["state"].items() if t}
    yield {
        r"\theta_t": run["theta"], "v_t": velocity, r"\bar u_t": run["gradient"], r"\eta": eta, r"\beta": beta, "t": 4,
    }  # fmt: skip


def constant_gradient_cases():
    for t in (1, 3, 7):
        slope = torch.tensor([0.9, -2.3], dtype=torch.float64)
        run = trajectory(lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.7), lambda theta, s=slope: (s * theta).sum())
        yield {"v_t": {t: run["state"][t]["momentum_buffer"]}, r"\bar u": column(slope), r"\beta": 0.7, "t": t}


def heavy_ball_quadratic_cases():
    for eta in (0.4, 2.3):
        run = trajectory(
            lambda p, eta=eta: torch.optim.SGD(p, lr=eta, momentum=0.6),
            lambda theta: 0.45 * (theta**2).sum(),
            (1.4,),
        )
        path = {t: theta.item() for t, theta in run["theta"].items()}
        yield {r"\theta_t": path, r"\eta": eta, r"\beta": 0.6, r"\lambda": 0.9, "t": 4}


def factors_of_momentum(eta, beta, curvature):
    """The eigenvalues of one step as a map of (theta, v)."""
    return np.linalg.eigvals([[1 - eta * curvature, -eta * beta], [curvature, beta]])


def characteristic_cases():
    for eta in (0.4, 0.02, 3.4):  # two complex roots, two real ones, two negative ones
        for rho in factors_of_momentum(eta, 0.6, 0.9):
            yield {r"\rho": rho, r"\eta": eta, r"\beta": 0.6, r"\lambda": 0.9}


def slowest(eta, beta, curvatures):
    return max(np.abs(factors_of_momentum(eta, beta, c)).max() for c in curvatures)


def best_momentum(low, high):
    """The rate and beta with the smallest factor, found without a formula."""

    def best_rate(beta):
        return optimize.minimize_scalar(
            lambda eta: slowest(eta, beta, (low, high)), bounds=(1e-3, 4 / high), method="bounded",
            options={"xatol": 1e-11},
        )  # fmt: skip

    beta = optimize.minimize_scalar(
        lambda beta: best_rate(beta).fun, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}
    ).x
    return best_rate(beta).x, beta


def best_momentum_cases():
    for low, high in ((0.5, 1.7), (0.3, 4.1)):
        eta, beta = best_momentum(low, high)
        yield {
            r"\eta": eta, r"\beta": beta, r"\lambda_{\min}": low, r"\lambda_{\max}": high, r"\kappa": high / low,
        }  # fmt: skip


def nesterov_cases():
    """torch.optim stores the point ahead; the point behind it follows from the velocity."""
    eta, beta = 0.13, 0.7
    run = trajectory(lambda p: torch.optim.SGD(p, lr=eta, momentum=beta, nesterov=True))
    velocity = {t: state["momentum_buffer"] for t, state in run["state"].items() if t}
    behind = {t: ahead + eta * beta * velocity[t] for t, ahead in run["theta"].items() if t}
    yield {
        r"\bar\theta_t": run["theta"], r"\theta_t": behind, "v_t": velocity, r"\nabla R": other_gradient,
        r"\eta": eta, r"\beta": beta, "t": 4,
    }  # fmt: skip


def weighted_mean(values, beta):
    """The mean in which each value has beta times the weight of its successor."""
    weights = beta ** np.arange(len(values))[::-1]
    return np.average(np.hstack(values), axis=1, weights=weights)[:, None]


def adam_cases():
    eta, betas, eps = 0.13, (0.7, 0.9), 0.02
    run = trajectory(lambda p: torch.optim.Adam(p, lr=eta, betas=betas, eps=eps))
    seen = {t: [run["gradient"][k] for k in range(t)] for t in range(1, 9)}
    corrected = {t: weighted_mean(gradients, betas[0]) for t, gradients in seen.items()}
    squares = {t: weighted_mean([g**2 for g in gradients], betas[1]) for t, gradients in seen.items()}
    for t in (2, 5):
        yield {
            "v_t": {k: state["exp_avg"] for k, state in run["state"].items() if k},
            "s_t": {k: state["exp_avg_sq"] for k, state in run["state"].items() if k},
            r"\bar u_t": run["gradient"], r"\theta_{t,j}": {k: np.ravel(p).tolist() for k, p in run["theta"].items()},
            r"\hat v_t": corrected, r"\hat s_t": squares,
            r"\hat v_{t,j}": {k: np.ravel(v).tolist() for k, v in corrected.items()},
            r"\hat s_{t,j}": {k: np.ravel(s).tolist() for k, s in squares.items()},
            r"\beta_1": betas[0], r"\beta_2": betas[1], r"\eta": eta, r"\varepsilon": eps, "t": t, "j": 2,
        }  # fmt: skip


def adam_bias_cases():
    """Every gradient is one of two vectors, equally likely: the mean over all sequences of torch.optim.Adam."""
    values = [torch.tensor([0.4, -1.0], dtype=torch.float64), torch.tensor([1.5, 0.3], dtype=torch.float64)]

    def remembered(sequence):
        gradients = iter(sequence)
        run = trajectory(
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.7, 0.9)),
            lambda theta: (theta * next(gradients)).sum(),
            steps=len(sequence),
        )
        return run["state"][len(sequence)]

    for t in (1, 3):
        drawn = [
            {"v_t": {t: state["exp_avg"]}, "s_t": {t: state["exp_avg_sq"]}, r"\bar u": column(sequence[-1])}
            for sequence in itertools.product(values, repeat=t)
            for state in [remembered(sequence)]
        ]
        yield {
            r"\E": lambda f, drawn=drawn: sum(f(**one) for one in drawn) / len(drawn),
            r"\beta_1": 0.7, r"\beta_2": 0.9, "t": t,
        }  # fmt: skip


# --- memory, and the loss of an epoch ---


def kept_numbers(mlp, x):
    """How many numbers PyTorch keeps for the gradient, those of the parameters not counted."""
    own, found = {p.data_ptr() for p in mlp.parameters()}, {}

    def note(tensor):
        if tensor.data_ptr() not in own:
            found[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mlp(x)
    return sum(found.values())


def memory_cases():
    for sizes, activation in (((3, 5, 4, 2), "tanh"), ((7, 2), "relu"), ((2, 6, 3), "relu"), ((2, 6, 3), "sigmoid")):
        mlp, _ = network(sizes, 0, activation, "identity")
        for b in (3, 8):
            kept = kept_numbers(mlp, torch.ones(b, sizes[0], dtype=torch.float64))
            yield {"A": kept, "b": b, "N": 11, "D": len(sizes) - 1, r"n_\ell": dict(enumerate(sizes))}


def epoch_loss_cases():
    losses = np.random.default_rng(7).uniform(size=7)
    for b in (2, 3):
        batches = [
            {i + 1 for i in batch.tolist()} for batch in minibatches(7, b, torch.Generator().manual_seed(b))
        ]
        means = [np.mean([losses[i - 1] for i in batch]) for batch in batches]
        yield {"N": 7, "b": b, "N_B": math.ceil(7 / b), "B_k": batches, r"\bar R_k": means, "R_i": losses}


MAKERS = {
    "def-gradient-descent": [descent_cases],
    "def-quadratic": [quadratic_cases],
    "eq-quadratic-gradient": [with_slopes],
    "eq-descent-power": [quadratic_cases],
    "eq-stable": [quadratic_cases],
    "eq-descent-factor": [factor_cases],
    "eq-best-rate": [best_rate_cases],
    "def-layer": [layer_cases],
    "eq-layer-matrix": [layer_cases],
    "def-network": [network_cases],
    "eq-count": [network_cases],
    "eq-affine-layers": [affine_cases],
    "eq-first-weights": [first_weights_cases],
    "def-sgd-step": [sgd_step_cases],
    "eq-number-of-batches": [number_of_batches_cases],
    "def-batch-gradient": [batch_cases],
    "eq-inclusion": [batch_cases],
    "eq-batch-unbiased": [batch_cases],
    "def-gradient-covariance": [batch_cases],
    "eq-batch-covariance": [batch_cases],
    "eq-batch-error": [batch_cases],
    "eq-other-pairs": [batch_cases],
    "eq-noise-step": [noise_step_cases],
    "eq-noise-recursion": [noise_recursion_cases],
    "eq-noise-ball": [noise_ball_cases],
    "eq-running-mean": [running_mean_cases],
    "def-momentum": [momentum_cases],
    "eq-heavy-ball": [momentum_cases],
    "eq-momentum-constant": [constant_gradient_cases],
    "eq-heavy-ball-quadratic": [heavy_ball_quadratic_cases],
    "eq-characteristic": [characteristic_cases],
    "eq-heavy-ball-best": [best_momentum_cases],
    "def-nesterov": [nesterov_cases],
    "eq-nesterov": [nesterov_cases],
    "def-adam-means": [adam_cases],
    "eq-adam-bias": [adam_bias_cases],
    "def-adam-corrected": [adam_cases],
    "def-adam-step": [adam_cases],
    "eq-activation-memory": [memory_cases],
    "eq-epoch-loss": [epoch_loss_cases],
}
