"""What the slides print on backpropagation, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import numpy as np
import pytest
import torch

from course_lib.backprop import forward_backward
from course_lib.networks import MLP

SIZES = (2, 3, 4, 1)  # in the slides' count L = 2: hidden layers 1 and 2, and the output layer 3


@pytest.fixture
def net():
    """A network with tanh inside and the sigmoid at the end, one datum, and all that the slides' formulas contain."""
    generator = torch.Generator().manual_seed(0)
    mlp = MLP(SIZES, "tanh", "sigmoid", generator=generator, dtype=torch.float64)
    x, y = torch.randn(1, 2, generator=generator).double(), torch.tensor([[0.3]]).double()
    a, h = mlp.layers(x)
    truth = torch.autograd.grad((y - h[-1]).square().sum(), list(mlp.parameters()))
    return {
        "mlp": mlp, "x": x, "y": y, "by_W": dict(enumerate(truth[:3], 1)), "by_b": dict(enumerate(truth[3:], 1)),
        "W": {k: W.detach() for k, W in enumerate(mlp.weights, 1)},
        "a": {k: v.detach()[0] for k, v in enumerate(a, 1)}, "h": {k: v.detach()[0] for k, v in enumerate(h)},
    }  # fmt: skip


def tanh_slope(a):
    return 1 / torch.cosh(a) ** 2


def first_factors(net):
    """-2 (Y - f) psi'(a^(L+1))"""
    f = net["h"][3]
    return -2 * (net["y"][0] - f) * f * (1 - f)


def test_two_headings_one_layer(net):
    """The last formula of the frames is the gradient for layer L = 2, and has the shape of no layer below."""
    inner = net["W"][3][0] * tanh_slope(net["a"][2])  # w_j^(L+1) phi'(a_j^(L))
    as_printed = first_factors(net) * torch.outer(inner, net["h"][1])
    torch.testing.assert_close(as_printed, net["by_W"][2])
    assert as_printed.shape != net["by_W"][1].shape  # of layer L - 1; layer L - 2 = 0 has no weights here


def test_the_last_sum_is_a_number(net):
    assert net["a"][3].shape == (1,)
    assert all(net["a"][k].numel() > 1 for k in (1, 2))
    with pytest.raises(ValueError, match="the output"):  # with J = 4 outputs there would be 4 targets
        forward_backward(MLP((2, 3, 4), dtype=torch.float64), net["x"], net["y"], "squared_error")


def test_an_activation_needs_a_derivative():
    """R = (1 - relu(w))^2 at w = 0: slope 0 from the left, -2 from the right; what is returned is the convention."""

    def R(w):
        return (1 - max(w, 0.0)) ** 2

    left, right = ((R(0.0) - R(-1e-8)) / 1e-8, (R(1e-8) - R(0.0)) / 1e-8)
    assert (left, right) == pytest.approx((0.0, -2.0), abs=1e-6)
    mlp = MLP((1, 1), output="relu", dtype=torch.float64)
    with torch.no_grad():
        mlp.weights[0].zero_()
    one = torch.ones(1, 1, dtype=torch.float64)
    _, (by_w, _) = forward_backward(mlp, one, one, "squared_error")
    assert by_w.item() == 0


def test_biases_have_derivatives_too(net):
    """They are the delta's, and a network that learns without them cannot fit a constant at x = 0."""
    torch.testing.assert_close(first_factors(net), net["by_b"][3])
    delta = first_factors(net) * net["W"][3][0] * tanh_slope(net["a"][2])
    torch.testing.assert_close(delta, net["by_b"][2])
    x, y = torch.zeros(5, 1).double(), torch.full((5, 1), 3.0).double()
    losses = []
    for with_biases in (True, False):
        mlp = MLP((1, 4, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for _ in range(100):
            value, gradients = forward_backward(mlp, x, y, "squared_error")
            for param, gradient in list(zip(mlp.parameters(), gradients, strict=True))[: None if with_biases else 2]:
                param.data -= 0.1 * gradient
        losses.append(value.item())
    assert losses[0] < 1e-6
    assert losses[1] == 9.0


def test_the_printed_formulas_do_not_reach_the_layers_below(net):
    """Layer 1 gets its input from three neurons: one product of factors is not enough, the sum over paths is."""
    factors = first_factors(net) * net["W"][3][0] * tanh_slope(net["a"][2])  # one for each neuron of layer 2
    by_recurrence = (net["W"][2].T @ factors) * tanh_slope(net["a"][1])
    torch.testing.assert_close(torch.outer(by_recurrence, net["x"][0]), net["by_W"][1])
    for j in range(4):  # the printed pattern again: a single neuron j of the layer above
        one_path = factors[j] * net["W"][2][j] * tanh_slope(net["a"][1])
        wrong = torch.outer(one_path, net["x"][0])
        assert (wrong - net["by_W"][1]).norm() > 0.1 * net["by_W"][1].norm()


def test_the_last_activation_is_another_one(net):
    """phi = tanh at layer L + 1 gives another output, and another loss, than psi = the sigmoid."""
    with_psi, with_phi = net["mlp"](net["x"])[0], torch.tanh(net["a"][3])
    torch.testing.assert_close(torch.sigmoid(net["a"][3]), with_psi)
    assert (with_phi - with_psi).abs().min() > 0.1


def test_a_layer_is_not_a_power():
    """With a_j = 0.5 in layer 2, read as a power it is 0.25, and the derivative of tanh there is another one."""
    a = 0.5
    assert abs(np.cosh(a) ** -2 - np.cosh(a**2) ** -2) > 0.1
