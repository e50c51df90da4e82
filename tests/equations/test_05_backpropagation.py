r"""Every equation of chapter 5, both sides computed by routes that share no code.

`agree` reads all sides from the chapter itself and computes each with the values of ``situations_05``: networks are
loops over NumPy arrays there, derivatives complex steps, counts loops that count. Beside it, ``course_lib`` and
automatic differentiation are held against the same values. ``test_latex_reader.py`` shows that small changes are seen.
"""

import itertools

import numpy as np
import pytest
import torch
from printed import agree, claims, readers, relation
from situations_05 import (
    Network,
    batch,
    batch_of_classes,
    best_step,
    classes,
    counts,
    cross_entropy,
    hidden_layer,
    last_layer,
    neuron,
    one_datum,
    rounded_central,
    rounded_forward,
    scalar_output,
    several_paths,
    slopes,
    squared_error,
    taylor,
    taylor_central,
)
from torch.utils.flop_counter import FlopCounterMode

from course_lib.backprop import Scalar, backward, count_multiply_adds, forward_backward, numerical_gradient
from course_lib.networks import MLP

two = pytest.mark.parametrize("seed", range(2))
three = pytest.mark.parametrize("seed", range(3))
DEPTHS = [(3, 2), (3, 5, 2), (2, 3, 4, 3), (4, 2, 5, 3, 2), (2, 4, 3, 5, 2, 3)]
each_depth = pytest.mark.parametrize("sizes", DEPTHS, ids=lambda sizes: f"depth{len(sizes) - 1}")


def everywhere(label, names, ell):
    """The equation at every entry (j, m) of a layer."""
    n = names[r"n_\ell"]
    for j, m in itertools.product(range(1, n[ell] + 1), range(1, n[ell - 1] + 1)):
        agree(label, names | {r"\ell": ell, "j": j, "m": m})


def of_course_lib(net, activation="tanh", output="sigmoid"):
    """The same network as an MLP of course_lib."""
    mlp = MLP(net.n, activation, output, dtype=torch.float64)
    with torch.no_grad():
        for ell in range(1, net.D + 1):
            mlp.weights[ell - 1].copy_(torch.tensor(net.W[ell]))
            mlp.biases[ell - 1].copy_(torch.tensor(net.b[ell]))
    return mlp


# --- the toy and the chain rule ---


@two
@pytest.mark.equation(
    "eq-bp-neuron",
    r"\begin{aligned} \frac{\partial R}{\partial w} &= -2 (y - g(w x + b)) \, g'(w x + b) \, x , \quad \\ "
    r"\frac{\partial R}{\partial b} &= -2 (y - g(w x + b)) \, g'(w x + b) . \end{aligned}",
)
def test_one_neuron(seed):
    names = neuron(seed)
    agree("eq-bp-neuron", names)
    w, b = Scalar(names["w"]), Scalar(names["b"])
    a = w * names["x"] + b
    g = 1 / (1 + (-a).exp()) if seed == 0 else a.tanh()
    ((names["y"] - g) ** 2).backward()
    assert [w.grad, b.grad] == pytest.approx([names[rf"\frac{{\partial R}}{{\partial {v}}}"] for v in "wb"])


@pytest.mark.equation(
    "eq-bp-neuron",
    r"\begin{aligned} \frac{\partial R}{\partial w} &= -2 (y - g(w x + b)) \, g'(w x + b) \, x , \quad \\ "
    r"\frac{\partial R}{\partial b} &= -2 (y - g(w x + b)) \, g'(w x + b) . \end{aligned}",
)
def test_one_neuron_with_the_known_answer():
    """At w x + b = 0 the sigmoid is 1/2 and its derivative 1/4."""
    names = {"w": 0.5, "b": -1.0, "x": 2.0, "y": 1.0, "g": lambda a: 0.5 + a / 4, "g'": lambda a: 0.25}
    right = [formulas[1](names) for formulas, _ in claims("eq-bp-neuron")]
    assert right == [-0.5, -0.25]


@two
@pytest.mark.equation(
    "eq-bp-chain-rule",
    r"\frac{\partial R}{\partial v} = \sum_{k=1}^{n} \frac{\partial R}{\partial c_k} \frac{\partial "
    r"c_k}{\partial v} .",
)
def test_chain_rule(seed):
    for n in (1, 2, 4):
        agree("eq-bp-chain-rule", several_paths(seed, n))


# --- two layers by hand ---


@two
@pytest.mark.equation("def-bp-loss", r"R_i(\theta) = \loss(y_i, f_\theta(x_i)) .")
def test_loss_of_a_datum(seed):
    names = classes(seed)
    for i in (1, 2, 3):
        agree("def-bp-loss", names | {"i": i})


@two
@pytest.mark.equation(
    "eq-bp-last-weight",
    r"\frac{\partial R_i}{\partial w_j^{(D)}} = -2 (y_i - f_\theta(x_i)) \, g_D'(a^{(D)}) \, h_j^{(D-1)} ,",
)
@pytest.mark.equation(
    "eq-bp-last-bias",
    r"\frac{\partial R_i}{\partial b^{(D)}} = -2 (y_i - f_\theta(x_i)) \, g_D'(a^{(D)}) .",
)
def test_last_layer_by_hand(seed):
    names = scalar_output(seed)
    for j in range(1, names[r"n_\ell"][names["D"] - 1] + 1):
        agree("eq-bp-last-weight", names | {"j": j})
    agree("eq-bp-last-bias", names)


@two
@pytest.mark.equation(
    "eq-bp-below",
    r"\frac{\partial R_i}{\partial w_{jm}^{(D-1)}} = -2 (y_i - f_\theta(x_i)) \, g_D'(a^{(D)}) \, "
    r"\frac{\partial a^{(D)}}{\partial w_{jm}^{(D-1)}} .",
)
@pytest.mark.equation(
    "eq-bp-below-weight",
    r"\frac{\partial a^{(D)}}{\partial w_{jm}^{(D-1)}} = w_j^{(D)} \, g_{D-1}'(a_j^{(D-1)}) \, h_m^{(D-2)} "
    r".",
)
@pytest.mark.equation(
    "eq-bp-below-bias",
    r"\frac{\partial a^{(D)}}{\partial b_j^{(D-1)}} = w_j^{(D)} \, g_{D-1}'(a_j^{(D-1)}) .",
)
def test_layer_below_by_hand(seed):
    names = scalar_output(seed)
    for label in ("eq-bp-below", "eq-bp-below-weight", "eq-bp-below-bias"):
        everywhere(label, names, names["D"] - 1)


# --- the recurrence in indices ---


@three
@pytest.mark.equation("def-bp-delta", r"\delta_j^{(\ell)} = \frac{\partial R_i}{\partial a_j^{(\ell)}}")
@pytest.mark.equation(
    "eq-bp-entry-parameters",
    r"\frac{\partial R_i}{\partial w_{jm}^{(\ell)}} = \delta_j^{(\ell)} h_m^{(\ell-1)} , \qquad "
    r"\frac{\partial R_i}{\partial b_j^{(\ell)}} = \delta_j^{(\ell)} .",
)
def test_from_delta_to_the_parameters(seed):
    names = hidden_layer(seed)
    for ell in range(1, names["D"] + 1):
        everywhere("def-bp-delta", names, ell)
        everywhere("eq-bp-entry-parameters", names, ell)


@three
@pytest.mark.equation(
    "eq-bp-entry-paths",
    r"\delta_j^{(\ell)} = \sum_{m=1}^{n_{\ell+1}} \delta_m^{(\ell+1)} \frac{\partial "
    r"a_m^{(\ell+1)}}{\partial a_j^{(\ell)}} .",
)
@pytest.mark.equation(
    "eq-bp-entry-local",
    r"\frac{\partial a_m^{(\ell+1)}}{\partial a_j^{(\ell)}} = w_{mj}^{(\ell+1)} \, g_\ell'(a_j^{(\ell)}) .",
)
@pytest.mark.equation(
    "eq-bp-entry-recurrence",
    r"\delta_j^{(\ell)} = g_\ell'(a_j^{(\ell)}) \sum_{m=1}^{n_{\ell+1}} w_{mj}^{(\ell+1)} "
    r"\delta_m^{(\ell+1)} .",
)
def test_from_a_layer_to_the_layer_below(seed):
    names = hidden_layer(seed)
    for ell in range(1, names["D"]):
        n = names[r"n_\ell"]
        for j in range(1, n[ell] + 1):
            agree("eq-bp-entry-paths", names | {r"\ell": ell, "j": j})
            agree("eq-bp-entry-recurrence", names | {r"\ell": ell, "j": j})
            for m in range(1, n[ell + 1] + 1):
                agree("eq-bp-entry-local", names | {r"\ell": ell, "j": j, "m": m})


@two
@pytest.mark.equation(
    "eq-bp-entry-start",
    r"\delta_j^{(D)} = \frac{\partial R_i}{\partial h_j^{(D)}} \, g_D'(a_j^{(D)}) .",
)
@pytest.mark.equation("eq-bp-start-squared", r"\delta^{(D)} = -2 (y_i - h^{(D)}) \odot g_D'(a^{(D)}) ,")
def test_start_for_the_squared_error(seed):
    names = last_layer(seed)
    for i in (1, 2, 3):  # what depends on the datum is that of the second one in `names`
        of_datum = names if i == 2 else one_datum(20, (3, 4, 3), i=i, ell=1, j=1)
        everywhere("eq-bp-entry-start", of_datum, of_datum["D"])
        agree("eq-bp-start-squared", of_datum)


@two
@pytest.mark.equation(
    "eq-bp-log-sum",
    r"S = \log \sum_{k=1}^{K} \exp(a_k^{(D)}) , \qquad \frac{\partial S}{\partial a_j^{(D)}} = "
    r"\frac{\exp(a_j^{(D)})}{\sum_{k=1}^{K} \exp(a_k^{(D)})} .",
)
@pytest.mark.equation("eq-bp-start-cross-entropy", r"\delta^{(D)} = \softmax(a^{(D)}) - e_{y_i} .")
def test_start_for_the_cross_entropy(seed):
    names = classes(seed)
    everywhere("eq-bp-log-sum", names, names["D"])
    agree("eq-bp-start-cross-entropy", names)


# --- the theorem ---


@each_depth
@pytest.mark.equation(
    "eq-bp-recurrence",
    r"\delta^{(\ell)} = \left( (W^{(\ell+1)})^\T \delta^{(\ell+1)} \right) \odot g_\ell'(a^{(\ell)}) ,",
)
@pytest.mark.equation(
    "eq-bp-parameters",
    r"\frac{\partial R_i}{\partial W^{(\ell)}} = \delta^{(\ell)} (h^{(\ell-1)})^\T , \qquad \frac{\partial "
    r"R_i}{\partial b^{(\ell)}} = \delta^{(\ell)} .",
)
@pytest.mark.equation("eq-bp-input", r"\frac{\partial R_i}{\partial x_i} = (W^{(1)})^\T \delta^{(1)} .")
def test_recurrence(sizes):
    """The print, in every layer, against complex steps; and course_lib against them."""
    names = one_datum(3, sizes, hidden=["tanh"] * 5)
    for ell in range(1, names["D"] + 1):
        agree("eq-bp-parameters", names | {r"\ell": ell})
        if ell < names["D"]:
            agree("eq-bp-recurrence", names | {r"\ell": ell})
    agree("eq-bp-input", names)

    net, i = Network(3, sizes, hidden=["tanh"] * 5), 2
    mlp, x, y = of_course_lib(net), torch.tensor(net.x[[i - 1]]), torch.tensor(net.y[[i - 1]])
    value, gradients = forward_backward(mlp, x, y, "squared_error")
    assert value.item() == pytest.approx(net.risk(i), rel=1e-12)
    for ell in range(1, net.D + 1):
        assert gradients[ell - 1].numpy() == pytest.approx(net.by_W(i, ell), rel=1e-10, abs=1e-13)
        assert gradients[net.D + ell - 1].numpy() == pytest.approx(net.by_b(i, ell), rel=1e-10, abs=1e-13)
    a, h = mlp.layers(x)
    _, by_x = backward(mlp, a, h, 2 * (h[-1] - y))
    assert by_x.numpy()[0] == pytest.approx(net.by_input(i), rel=1e-10, abs=1e-13)


@each_depth
@pytest.mark.equation(
    "eq-bp-recurrence",
    r"\delta^{(\ell)} = \left( (W^{(\ell+1)})^\T \delta^{(\ell+1)} \right) \odot g_\ell'(a^{(\ell)}) ,",
)
@pytest.mark.equation(
    "eq-bp-parameters",
    r"\frac{\partial R_i}{\partial W^{(\ell)}} = \delta^{(\ell)} (h^{(\ell-1)})^\T , \qquad \frac{\partial "
    r"R_i}{\partial b^{(\ell)}} = \delta^{(\ell)} .",
)
def test_recurrence_against_autograd_and_differences(sizes):
    """The printed right sides with the values of a network in PyTorch."""
    generator = torch.Generator().manual_seed(len(sizes))
    mlp = MLP(sizes, "tanh", generator=generator, dtype=torch.float64)
    x, y = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (sizes[0], sizes[-1]))
    a, h = mlp.layers(x)
    risk = (y - h[-1]).square().sum()
    truth = torch.autograd.grad(risk, [*a, *mlp.parameters()])
    D = len(sizes) - 1
    by_a, by_W, by_b = truth[:D], truth[D : 2 * D], truth[2 * D :]

    def columns(tensors, first=1):
        return {k: t.detach().numpy()[:, None] for k, t in enumerate(tensors, first)}

    names = {
        r"\delta^{(\ell)}": columns(by_a), r"h^{(\ell)}": columns(h, 0), r"a^{(\ell)}": columns(a),
        r"W^{(\ell)}": {k: W.detach().numpy() for k, W in enumerate(mlp.weights, 1)},
        "g_\\ell'": dict.fromkeys(range(1, D), lambda a: np.cosh(a) ** -2.0),
    }  # fmt: skip
    of_W, of_b = (formulas[1] for formulas, _ in claims("eq-bp-parameters"))
    for ell in range(1, D + 1):
        assert of_W(names | {r"\ell": ell}) == pytest.approx(by_W[ell - 1].numpy(), rel=1e-9)
        assert np.ravel(of_b(names | {r"\ell": ell})) == pytest.approx(by_b[ell - 1].numpy(), rel=1e-9)
        if ell < D:
            printed_delta = readers("eq-bp-recurrence")[1](names | {r"\ell": ell})
            assert np.ravel(printed_delta) == pytest.approx(by_a[ell - 1].numpy(), rel=1e-9)
    numerical = numerical_gradient(lambda: (y - mlp(x)).square().sum(), list(mlp.parameters()))
    for ours, theirs in zip([*by_W, *by_b], numerical, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@three
@pytest.mark.equation(
    "eq-bp-jacobian",
    r"\frac{\partial a^{(\ell+1)}}{\partial a^{(\ell)}} = W^{(\ell+1)} \diag(g_\ell'(a^{(\ell)})) .",
)
def test_jacobian_of_a_layer(seed):
    names = hidden_layer(seed)
    for ell in range(1, names["D"]):
        agree("eq-bp-jacobian", names | {r"\ell": ell})


# --- batches ---


@two
@pytest.mark.equation("eq-bp-rows-forward", r"A^{(\ell)} = H^{(\ell-1)} (W^{(\ell)})^\T + u (b^{(\ell)})^\T .")
@pytest.mark.equation("def-bp-rows-delta", r"\Delta^{(\ell)} = \frac{\partial \hat R}{\partial A^{(\ell)}} .")
@pytest.mark.equation(
    "eq-bp-rows-recurrence",
    r"\Delta^{(\ell)} = \left( \Delta^{(\ell+1)} W^{(\ell+1)} \right) \odot g_\ell'(A^{(\ell)}) .",
)
@pytest.mark.equation(
    "eq-bp-rows-parameters",
    r"\frac{\partial \hat R}{\partial W^{(\ell)}} = (\Delta^{(\ell)})^\T H^{(\ell-1)} , \qquad "
    r"\frac{\partial \hat R}{\partial b^{(\ell)}} = (\Delta^{(\ell)})^\T u .",
)
def test_batch_in_rows(seed):
    for names in (batch(seed), batch_of_classes(seed)):
        for ell in range(1, names["D"] + 1):
            at = names | {r"\ell": ell}
            for label in ("eq-bp-rows-forward", "def-bp-rows-delta", "eq-bp-rows-parameters"):
                agree(label, at)
            if ell < names["D"]:
                agree("eq-bp-rows-recurrence", at)


@two
@pytest.mark.equation("eq-bp-rows-start-squared", r"\Delta^{(D)} = \frac{2}{N} (H^{(D)} - Y) \odot g_D'(A^{(D)})")
def test_start_of_a_batch_for_the_squared_error(seed):
    agree("eq-bp-rows-start-squared", batch(seed))


@two
@pytest.mark.equation(
    "eq-bp-rows-start-cross-entropy",
    r"\Delta^{(D)} = \frac{1}{N} \left( \softmax(A^{(D)}) - Y \right) .",
)
def test_start_of_a_batch_for_the_cross_entropy(seed):
    agree("eq-bp-rows-start-cross-entropy", batch_of_classes(seed))


@each_depth
@pytest.mark.parametrize("loss", [squared_error, cross_entropy], ids=["squared_error", "cross_entropy"])
@pytest.mark.equation(
    "eq-bp-rows-parameters",
    r"\frac{\partial \hat R}{\partial W^{(\ell)}} = (\Delta^{(\ell)})^\T H^{(\ell-1)} , \qquad "
    r"\frac{\partial \hat R}{\partial b^{(\ell)}} = (\Delta^{(\ell)})^\T u .",
)
def test_course_lib_on_a_batch(sizes, loss):
    """The mean over the rows of what complex steps give for each."""
    output, N = ("identity" if loss is cross_entropy else "sigmoid"), min(4, sizes[-1])
    net = Network(5, sizes, output=output, loss=loss, N=N, hidden=["tanh"] * 5)
    y = net.y.argmax(1) if loss is cross_entropy else net.y
    value, gradients = forward_backward(
        of_course_lib(net, output=output), torch.tensor(net.x), torch.tensor(y), loss.__name__
    )
    data = range(1, N + 1)
    assert value.item() == pytest.approx(np.mean([net.risk(i) for i in data]), rel=1e-12)
    for ell in range(1, net.D + 1):
        by_W, by_b = (np.mean([of(i, ell) for i in data], axis=0) for of in (net.by_W, net.by_b))
        assert gradients[ell - 1].numpy() == pytest.approx(by_W, rel=1e-10, abs=1e-13)
        assert gradients[net.D + ell - 1].numpy() == pytest.approx(by_b, rel=1e-10, abs=1e-13)


# --- finite differences ---


@two
@pytest.mark.equation("eq-bp-taylor", r"\phi(v + s) = \phi(v) + s \, \phi'(v) + \frac{s^2}{2} \phi''(\xi) .")
def test_taylor(seed):
    agree("eq-bp-taylor", taylor(seed))


@two
@pytest.mark.equation(
    "eq-bp-taylor-central",
    r"\frac{\phi(v + s) - \phi(v - s)}{2 s} = \phi'(v) + \frac{s^2}{6} \phi'''(\xi) .",
)
def test_taylor_for_the_central_difference(seed):
    agree("eq-bp-taylor-central", taylor_central(seed))


@pytest.mark.parametrize("world", [rounded_forward, rounded_central])
@two
@pytest.mark.equation(
    "eq-bp-error-forward",
    r"\left| \frac{\hat\phi(v + s) - \hat\phi(v)}{s} - \phi'(v) \right| \le \frac{s}{2} M_2 + \frac{2 "
    r"\varepsilon}{s} M_0 = E_1(s) ,",
)
@pytest.mark.equation(
    "eq-bp-error-central",
    r"\left| \frac{\hat\phi(v + s) - \hat\phi(v - s)}{2 s} - \phi'(v) \right| \le \frac{s^2}{6} M_3 + "
    r"\frac{\varepsilon}{s} M_0 = E_2(s) .",
)
def test_bounds_of_the_error_are_reached(world, seed):
    label = {rounded_forward: "eq-bp-error-forward", rounded_central: "eq-bp-error-central"}[world]
    names = world(seed)
    agree(label, names)
    (error, bound, _), _ = relation(label)
    assert error(names) == pytest.approx(bound(names), rel=1e-9)


@pytest.mark.parametrize(
    ("label", "M", "points"),
    [("eq-bp-error-forward", "M_2", (0, 1)), ("eq-bp-error-central", "M_3", (-1, 1))],
)
@pytest.mark.equation(
    "eq-bp-error-forward",
    r"\left| \frac{\hat\phi(v + s) - \hat\phi(v)}{s} - \phi'(v) \right| \le \frac{s}{2} M_2 + \frac{2 "
    r"\varepsilon}{s} M_0 = E_1(s) ,",
)
@pytest.mark.equation(
    "eq-bp-error-central",
    r"\left| \frac{\hat\phi(v + s) - \hat\phi(v - s)}{2 s} - \phi'(v) \right| \le \frac{s^2}{6} M_3 + "
    r"\frac{\varepsilon}{s} M_0 = E_2(s) .",
)
def test_bounds_of_the_error_hold_in_float32(label, M, points):
    """Values rounded to float32, exact ones in float64; the bounds of the derivatives from a fine grid."""
    (error, bound, _), _ = relation(label)
    rng, eps = np.random.default_rng(0), np.finfo(np.float32).eps / 2
    order = int(M[-1])
    for v, step in zip(rng.uniform(-2, 2, size=200), 2.0 ** rng.uniform(-20, 0, size=200), strict=True):
        near = np.linspace(v + points[0] * step, v + points[1] * step, 101)
        names = {
            "v": v, "s": step, r"\varepsilon": eps, r"\phi": np.sin, "\\phi'": np.cos,
            r"\hat\phi": lambda t: float(np.float32(np.sin(t))), "M_0": np.abs(np.sin(near)).max(),
            M: np.abs({2: np.sin, 3: np.cos}[order](near)).max(),
        }  # fmt: skip
        assert error(names) <= bound(names) * (1 + 1e-6) + 1e-12


@two
@pytest.mark.equation(
    "eq-bp-step-forward",
    r"s_1 = 2 \sqrt{\frac{\varepsilon M_0}{M_2}} , \qquad E_1(s_1) = 2 \sqrt{\varepsilon M_0 M_2} ,",
)
@pytest.mark.equation(
    "eq-bp-step-central",
    r"s_2 = \left( \frac{3 \varepsilon M_0}{M_3} \right)^{1/3} , \qquad E_2(s_2) = \frac{3 \varepsilon "
    r"M_0}{2 s_2} .",
)
def test_best_steps(seed):
    for label in ("eq-bp-step-forward", "eq-bp-step-central"):
        agree(label, best_step(seed), rel=1e-6, abs=1e-8)


@pytest.mark.equation(
    "eq-bp-step-forward",
    r"s_1 = 2 \sqrt{\frac{\varepsilon M_0}{M_2}} , \qquad E_1(s_1) = 2 \sqrt{\varepsilon M_0 M_2} ,",
)
@pytest.mark.equation(
    "eq-bp-step-central",
    r"s_2 = \left( \frac{3 \varepsilon M_0}{M_3} \right)^{1/3} , \qquad E_2(s_2) = \frac{3 \varepsilon "
    r"M_0}{2 s_2} .",
)
def test_the_measured_minimum_is_where_theory_puts_it():
    """The function of the figure; the lowest measured error is within a factor of four of the best step, two places."""

    def phi(v):
        return (0.3 - np.tanh(0.8 * np.tanh(1.5 * v))) ** 2

    v, eps, h = 0.25 + np.arange(200) / 256, np.finfo(float).eps, 1e-2
    exact = slopes(lambda t: phi(t).sum(), v)
    second = (phi(v + h) - 2 * phi(v) + phi(v - h)) / h**2
    third = (phi(v + 2 * h) - 2 * phi(v + h) + 2 * phi(v - h) - phi(v - 2 * h)) / (2 * h**3)
    M_0, M_2, M_3 = (np.abs(values).mean() for values in (phi(v), second, third))
    names = {r"\varepsilon": eps, "M_0": M_0, "M_2": M_2, "M_3": M_3}
    steps = 0.5 ** np.arange(1, 50)
    forward = [np.abs((phi(v + s) - phi(v)) / s - exact).mean() for s in steps]
    central = [np.abs((phi(v + s) - phi(v - s)) / (2 * s) - exact).mean() for s in steps]
    for label, errors in (("eq-bp-step-forward", forward), ("eq-bp-step-central", central)):
        ((_, best), _), _ = claims(label)
        ratio = steps[np.argmin(errors)] / best(names)
        assert 1 / 4 <= ratio <= 4
        assert errors[np.argmin(errors)] < errors[0] / 1e6
        assert errors[np.argmin(errors)] < errors[-1] / 1e6
        falls = 1 if label == "eq-bp-step-forward" else 2  # the slopes of the two sides in the figure
        assert np.polyfit(np.log(steps[4:14]), np.log(errors[4:14]), 1)[0] == pytest.approx(falls, abs=0.02)
        assert np.polyfit(np.log(steps[30:]), np.log(errors[30:]), 1)[0] == pytest.approx(-1, abs=0.05)


# --- costs ---


@two
@pytest.mark.equation("eq-bp-cost-forward", r"C = \sum_{\ell=1}^{D} n_\ell \, n_{\ell-1} .")
@pytest.mark.equation(
    "eq-bp-cost-backward",
    r"\bar C = \sum_{\ell=1}^{D} n_\ell \, n_{\ell-1} + \sum_{\ell=2}^{D} n_\ell \, n_{\ell-1} = 2 C - n_1 "
    r"n_0 .",
)
@pytest.mark.equation(
    "eq-bp-cost-modes",
    r"C_0 = n_0 \sum_{\ell=2}^{D} n_\ell \, n_{\ell-1} , \qquad C_D = n_D \sum_{\ell=1}^{D-1} n_\ell \, "
    r"n_{\ell-1} .",
)
def test_costs(seed):
    for label in ("eq-bp-cost-forward", "eq-bp-cost-backward", "eq-bp-cost-modes"):
        agree(label, counts(seed))


@each_depth
@pytest.mark.equation("eq-bp-cost-forward", r"C = \sum_{\ell=1}^{D} n_\ell \, n_{\ell-1} .")
@pytest.mark.equation(
    "eq-bp-cost-backward",
    r"\bar C = \sum_{\ell=1}^{D} n_\ell \, n_{\ell-1} + \sum_{\ell=2}^{D} n_\ell \, n_{\ell-1} = 2 C - n_1 "
    r"n_0 .",
)
def test_costs_as_pytorch_counts_them(sizes):
    """The operations that forward and forward_backward really do; two for a multiplication with an addition."""
    names = {"D": len(sizes) - 1, r"n_\ell": dict(enumerate(sizes))}
    forward = readers("eq-bp-cost-forward")[1](names)
    backward = readers("eq-bp-cost-backward")[1](names)
    assert count_multiply_adds(sizes) == (forward, backward)
    mlp, N = MLP(sizes, dtype=torch.float64), 7
    x, y = torch.ones(N, sizes[0], dtype=torch.float64), torch.ones(N, sizes[-1], dtype=torch.float64)
    for call, expected in (
        (lambda: mlp(x), forward),
        (lambda: forward_backward(mlp, x, y, "squared_error"), forward + backward),
    ):
        with FlopCounterMode(display=False) as counter:
            call()
        assert counter.get_total_flops() == 2 * N * expected
