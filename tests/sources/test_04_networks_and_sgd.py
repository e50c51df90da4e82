"""What the sources print on networks and stochastic gradient descent, beside what is right: the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib.networks import MLP, count_parameters
from course_lib.optimisers import OPTIMISERS, adam, learning_rate_schedule, minibatches, sgd
from course_lib.training import fit

ROOT = Path(__file__).resolve().parents[2]


def squared(model, x, y):
    return (y - model(x)).square().sum(-1).mean()


def bibliography(key):
    """The fields of an entry of the book's bibliography."""
    text = (ROOT / "book/references.bib").read_text(encoding="utf-8")
    entry = re.search(rf"@\w+\{{{key},\n(.*?)\n\}}", text, re.S)[1]
    return dict(re.findall(r"(\w+) = \{(.*)\}", entry))


def test_two_ways_to_count_layers():
    """L = 2 read in both ways, for data in three dimensions, widths of 4 and one output."""
    layers_up_to_the_output = (3, 4, 1)  # layers 1, ..., L, the last gives the output
    hidden_and_output = (3, 4, 4, 1)  # L hidden layers, and an output layer L + 1
    assert count_parameters(layers_up_to_the_output) == 4 * (3 + 1) + 1 * (4 + 1) == 21
    assert count_parameters(hidden_and_output) == 4 * (3 + 1) + 4 * (4 + 1) + 1 * (4 + 1) == 41
    assert len(MLP(layers_up_to_the_output).weights) == 2  # the book's D


def test_batches_of_one_size_only_if_it_divides_the_number_of_data():
    """N = 10 and b = 4: no number of batches makes b N_B = N. Full batches alone would leave two data out."""
    assert all(4 * N_B != 10 for N_B in range(10))
    batches = minibatches(10, 4, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(torch.cat(batches[:2])) == 8
    # and the dimension of a datum is another number than that of the data
    x = torch.zeros(10, 3)
    assert x.shape[1] != len(x)


def test_backpropagation_is_of_1986_and_stochastic_approximation_of_1951():
    rumelhart, robbins = bibliography("rumelhart1986"), bibliography("robbins1951")
    assert (rumelhart["year"], rumelhart["journal"], rumelhart["volume"]) == ("1986", "Nature", "323")
    assert rumelhart["pages"] == "533--536"
    assert "Back-Propagating Errors" in rumelhart["title"]
    assert (robbins["year"], robbins["title"]) == ("1951", "A Stochastic Approximation Method")


def test_the_layer_with_an_activation_of_its_own_is_the_output_layer():
    """With tanh there, as in the hidden layers, no output exceeds 1, and the target 3 stays out of reach."""
    x = torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None]
    losses = {}
    for output in ("tanh", "identity"):
        mlp = MLP((1, 5, 1), "tanh", output, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        history = fit(mlp, (x, torch.full_like(x, 3.0)), squared, n_epochs=300, batch_size=10, lr=0.05, progress=False)
        losses[output] = history.loss[-1]
    assert losses["tanh"] > (3 - 1) ** 2
    assert losses["identity"] < 0.01


@pytest.mark.parametrize(("rho", "against_theory"), [(0.5, 1.0), (0.05, 1.0), (0.005, 0.78)])
def test_a_constant_rate_reaches_no_minimum(rho, against_theory):
    """The mean of 1000 numbers, pairs reshuffled, step 2 rho. In the long run theta keeps a deviation of its own:
    the theory of independent batches says sqrt(rho s^2 / (b (1 - rho))), reshuffling makes it smaller at small rates.
    With the rates 1/(t + 1) it arrives.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=1000)
    theta, seen, arrives, t = x.mean(), [], 5.0, 0
    for epoch in range(120):
        for pair in x[rng.permutation(1000)].reshape(500, 2).mean(1):
            theta -= 2 * rho * (theta - pair)
            arrives -= (arrives - pair) / (t + 1)
            t += 1
            if epoch >= 20:
                seen.append(theta)
    theory = (rho * x.var() / (2 * (1 - rho))) ** 0.5
    deviation = np.std(np.array(seen) - x.mean())
    assert deviation / theory == pytest.approx(against_theory, abs=0.06)
    assert deviation > 0.03
    assert abs(arrives - x.mean()) < 1e-9


def test_an_epoch_is_many_iterations():
    """N_B steps; and the number of batches follows from their size: it is not a parameter of its own."""
    x = torch.linspace(-1, 1, 22)[:, None]
    steps = []

    def loss(model, x, y):
        steps.append(1)
        return squared(model, x, y)

    for b, N_B in ((4, 6), (11, 2), (22, 1)):
        steps.clear()
        fit(MLP((1, 1)), (x, x), loss, n_epochs=3, batch_size=b, lr=0.01, progress=False)
        assert len(steps) == 3 * N_B
        assert (N_B - 1) * b < 22 <= N_B * b


def test_too_large_a_rate_diverges():
    """On a quadratic: below the limit arrival, at it oscillation, beyond it the loss grows without bound."""
    sizes = {}
    for rho in (0.9, 1.0, 1.1):  # in units of 2 / curvature
        theta, state = torch.ones(1, dtype=torch.float64), {}
        for _ in range(500):
            sgd([theta], [4.0 * theta], state, rho * 2 / 4.0)
        sizes[rho] = abs(theta.item())
    assert sizes[0.9] < 1e-9
    assert sizes[1.0] == pytest.approx(1.0)
    assert sizes[1.1] > 1e30


def test_a_decreasing_rate_is_not_adaptive():
    """A schedule gives the same rates for every loss; Adam's step for each parameter depends on its gradients."""
    x = torch.linspace(-1, 1, 20)[:, None]
    rate = learning_rate_schedule("inverse", 0.1, decay=0.5)
    one, two = (
        fit(MLP((1, 1)), (x, y), squared, n_epochs=4, batch_size=5, lr=rate, progress=False) for y in (x, 100 * x - 7)
    )
    assert one.lr == two.lr
    assert one.loss != two.loss
    theta, state = torch.zeros(2, dtype=torch.float64), {}
    for sign in (1, -1, 1, -1, 1, -1):  # the first gradient agrees with itself, the second does not
        adam([theta], [torch.tensor([3.0, 3.0 * sign], dtype=torch.float64)], state, 0.1)
    assert abs(theta[0]) > 3 * abs(theta[1])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_these_algorithms_minimise(name):
    """Momentum, Nesterov and the others go down; with the sign of a maximisation the loss grows."""
    for sign, better in ((1, True), (-1, False)):
        theta, state = torch.tensor([2.0], dtype=torch.float64), {}
        for _ in range(20):
            OPTIMISERS[name]([theta], [sign * theta], state, 0.01)
        assert bool(theta.square() < 4.0) == better


def test_what_small_batches_save():
    """What the forward pass keeps grows with b. Parameters and their gradient take the same room for every b."""
    mlp, kept, gradients = MLP((3, 8, 2)), {}, {}
    own = {p.data_ptr() for p in mlp.parameters()}
    for b in (1, 10, 100):
        found = {}

        def note(tensor, found=found):
            if tensor.data_ptr() not in own:
                found[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = mlp(torch.ones(b, 3))
        kept[b] = sum(found.values())
        gradients[b] = sum(g.numel() for g in torch.autograd.grad(output.sum(), list(mlp.parameters())))
    assert kept == {1: 11, 10: 110, 100: 1100}
    assert set(gradients.values()) == {count_parameters((3, 8, 2))}
