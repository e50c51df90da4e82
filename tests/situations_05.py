r"""Chapter 5 for the mutation test, and for its tests of equations: values of the symbols where each equation holds.

Nothing here uses course_lib, autograd or the recurrence. A network is a few loops over NumPy arrays, and every
derivative is a complex step: f(x + i s) has the imaginary part s f'(x), exact to the last digits because nothing is
subtracted. A derivative with respect to a^(l) starts the forward pass again from a changed a^(l).
"""

import itertools

import numpy as np
from complex_steps import slopes
from latex_reader import Indexed
from scipy import optimize, special

EXACT = "a value without rounding is within the bound as well"
STILL_TRUE = {"eq-bp-error-forward": (2, EXACT), "eq-bp-error-central": (2, EXACT)}
NOT_MUTATED = {}
READ_BY_SYMPY = {}
CHANGES = [
    (r"\(D\)", "(D-1)"),
    (r"\(D-1\)", "(D)"),
    (r"(?<=_)D(?!')", "{D-1}"),
    (r"_\{D-1\}'", "_D'"),
    (r"(?<=_)j(?=[\^ ])", "m"),
    (r"(?<=_)m(?=[\^ ])", "j"),
    (r"-2 ", "2 "),
    (r"-2 ", "-"),
    (r"''(?!')", "'"),
    (r"s\^2", "s"),
    (r"(?<=M_)[023]", "4"),
    (r"\\hat(?=\\phi)", ""),
    (r"(?<=H)\^\{\(\\ell-1\)\}", r"^{(\\ell)}"),
]

def sympy_names(label):
    return {}


def column(values):
    return np.reshape(values, (-1, 1))


# --- a network in loops ---

# Each activation with its derivative, both written otherwise than in course_lib.
ACTIVATIONS = {
    "identity": (lambda a: a, lambda a: 1 + 0 * a),
    "tanh": (lambda a: (np.exp(a) - np.exp(-a)) / (np.exp(a) + np.exp(-a)), lambda a: np.cosh(a) ** -2),
    "sigmoid": (lambda a: 1 / (1 + np.exp(-a)), lambda a: 1 / (4 * np.cosh(a / 2) ** 2)),
}


def squared_error(y, output):
    return sum((y[k] - output[k]) ** 2 for k in range(len(y)))


def cross_entropy(y, output):
    """Of a one-hot y."""
    return np.log(sum(np.exp(number) for number in output)) - sum(y[k] * output[k] for k in range(len(y)))


MIXED = ["tanh", "sigmoid", "tanh", "tanh"]


class Network:
    """A random network, a few data and a loss; the index of a list is the number of a layer, from 1."""

    def __init__(self, seed, sizes, output="sigmoid", loss=squared_error, N=3, hidden=MIXED):
        rng = np.random.default_rng([5, seed])
        self.n, self.D, self.N, self.loss = sizes, len(sizes) - 1, N, loss
        names = [None, *hidden[: self.D - 1], output]
        self.g = [name and ACTIVATIONS[name] for name in names]
        self.W = [None, *(rng.normal(size=(out, into)) for into, out in itertools.pairwise(sizes))]
        self.b = [None, *(rng.normal(size=out) for out in sizes[1:])]
        self.x = rng.normal(size=(N, sizes[0]))
        self.y = rng.normal(size=(N, sizes[-1]))
        if loss is cross_entropy:
            self.y = np.eye(sizes[-1])[rng.permutation(sizes[-1])[:N]]

    def sum_of(self, ell, h, W=None, b=None):
        """a^(l) of one datum."""
        W, b = self.W[ell] if W is None else W, self.b[ell] if b is None else b
        return np.array([sum(W[j, m] * h[m] for m in range(len(h))) + b[j] for j in range(len(b))])

    def layers(self, i):
        """a^(1..D) and h^(0..D) of datum i, which is counted from 1."""
        a, h = [None], [self.x[i - 1]]
        for ell in range(1, self.D + 1):
            a.append(self.sum_of(ell, h[-1]))
            h.append(self.g[ell][0](a[-1]))
        return a, h

    def up_from(self, ell, a, to):
        """a^(to) of one datum, if a^(l) is the given."""
        for layer in range(ell + 1, to + 1):
            a = self.sum_of(layer, self.g[layer - 1][0](a))
        return a

    def risk_from(self, i, ell, a):
        """R_i, if a^(l) of this datum is the given."""
        return self.loss(self.y[i - 1], self.g[self.D][0](self.up_from(ell, a, self.D)))

    def risk(self, i, ell=1, **changed):
        """R_i with another W^(l) or b^(l)."""
        h = self.layers(i)[1][ell - 1]
        return self.risk_from(i, ell, self.sum_of(ell, h, **changed))

    # derivatives, by complex steps

    def delta(self, i, ell):
        return slopes(lambda a: self.risk_from(i, ell, a), self.layers(i)[0][ell])

    def by_W(self, i, ell):
        return slopes(lambda W: self.risk(i, ell, W=W), self.W[ell])

    def by_b(self, i, ell):
        return slopes(lambda b: self.risk(i, ell, b=b), self.b[ell])

    def by_output(self, i):
        return slopes(lambda h: self.loss(self.y[i - 1], h), self.layers(i)[1][self.D])

    def by_input(self, i):
        return slopes(lambda x: self.risk_from(i, 1, self.sum_of(1, x)), self.x[i - 1])

    def jacobian(self, upper, lower, i):
        """The derivatives of a^(upper) by a^(lower), one row for each entry of a^(upper)."""
        return slopes(lambda a: self.up_from(lower, a, upper), self.layers(i)[0][lower]).T

    def sum_by_W(self, upper, lower, i):
        """The derivatives of a^(upper) by the entries of W^(lower)."""
        h = self.layers(i)[1][lower - 1]
        return slopes(lambda W: self.up_from(lower, self.sum_of(lower, h, W=W), upper), self.W[lower])

    def sum_by_b(self, upper, lower, i):
        h = self.layers(i)[1][lower - 1]
        return slopes(lambda b: self.up_from(lower, self.sum_of(lower, h, b=b), upper), self.b[lower])


def by_layer(values, first=1):
    return {ell: value for ell, value in enumerate(values) if ell >= first}


def one_datum(seed, sizes, i=2, ell=1, j=1, m=1, **options):
    """The names of one datum: i, l, j and m are the indices at which an equation is looked at."""
    net = Network(seed, sizes, **options)
    a, h = net.layers(i)
    a_j, h_j = by_layer(a), by_layer(h, 0)
    delta_j = {k: net.delta(i, k) for k in range(1, net.D + 1)}
    scalar = sizes[-1] == 1

    def f(x):
        h = np.ravel(x)
        for layer in range(1, net.D + 1):
            h = net.g[layer][0](net.sum_of(layer, h))
        return h.item() if scalar else column(h)

    names = {
        "i": i, r"\ell": ell, "j": j, "m": m, "D": net.D, "K": sizes[-1], "N": net.N,
        r"n_\ell": dict(enumerate(sizes)), r"\theta": None,
        "x_i": [column(x) for x in net.x], "y_i": [y.item() if scalar else column(y) for y in net.y],
        "e_{y_i}": [column(y) for y in net.y],
        r"f_\theta": f, r"\loss": lambda y, f: net.loss(np.ravel(y), np.ravel(f)),
        r"g_\ell": {k: net.g[k][0] for k in range(1, net.D + 1)},
        "g_\\ell'": {k: net.g[k][1] for k in range(1, net.D + 1)},
        r"W^{(\ell)}": by_layer(net.W), r"w_{jm}^{(\ell)}": by_layer(net.W),
        r"w_j^{(\ell)}": {net.D: net.W[net.D][0]},
        r"b^{(\ell)}": {k: column(b) for k, b in by_layer(net.b).items()}, r"b_j^{(\ell)}": by_layer(net.b),
        r"a_j^{(\ell)}": a_j, r"a^{(\ell)}": {k: column(v) for k, v in a_j.items()},
        r"h_j^{(\ell)}": h_j, r"h^{(\ell)}": {k: column(v) for k, v in h_j.items()},
        r"\delta_j^{(\ell)}": delta_j, r"\delta^{(\ell)}": {k: column(v) for k, v in delta_j.items()},
        r"\softmax": lambda a: column(special.softmax(np.ravel(a))),
        "S": np.logaddexp.reduce(a[net.D]),
    }  # fmt: skip

    def family(numerator, denominator, function):
        names[rf"\frac{{\partial {numerator}}}{{\partial {denominator}}}"] = Indexed(function)

    family("R_i", r"w_j^{(\ell)}", lambda i, k, j: net.by_W(i, k)[0, j - 1])
    family("R_i", r"w_{jm}^{(\ell)}", lambda i, k, j, m: net.by_W(i, k)[j - 1, m - 1])
    family("R_i", r"b_j^{(\ell)}", lambda i, k, j: net.by_b(i, k)[j - 1])
    family("R_i", r"W^{(\ell)}", lambda i, k: net.by_W(i, k))
    family("R_i", r"b^{(\ell)}", lambda i, k: column(net.by_b(i, k)))
    family("R_i", r"a_j^{(\ell)}", lambda i, k, j: net.delta(i, k)[j - 1])
    family("R_i", r"h_j^{(\ell)}", lambda i, k, j: net.by_output(i)[j - 1] if k == net.D else 0 / 0)
    family("R_i", "x_i", lambda i, same: column(net.by_input(i)) if same == i else 0 / 0)
    family(r"a^{(\ell)}", r"w_{jm}^{(\ell)}", lambda up, k, j, m: net.sum_by_W(up, k, i)[j - 1, m - 1])
    family(r"a^{(\ell)}", r"b_j^{(\ell)}", lambda up, k, j: net.sum_by_b(up, k, i)[j - 1])
    family(r"a_m^{(\ell)}", r"a_j^{(\ell)}", lambda up, m, k, j: net.jacobian(up, k, i)[m - 1, j - 1])
    family(r"a^{(\ell)}", r"a^{(\ell)}", lambda up, k: net.jacobian(up, k, i))
    family("S", r"a_j^{(\ell)}", lambda k, j: slopes(lambda a: np.log(np.exp(a).sum()), a[k])[j - 1])
    family("R_i", r"\theta", lambda i: 0 / 0)
    names["R_i"] = [lambda theta, i=i: net.risk(i) for i in range(1, net.N + 1)]
    return names


def scalar_output(seed):
    """The section "Two layers by hand": one output, and the two last of three or four layers."""
    sizes, indices = [((2, 3, 4, 1), (3, 2)), ((4, 2, 5, 3, 1), (2, 4))][seed]
    return one_datum(seed, sizes, i=1 + seed, ell=2, j=indices[0], m=indices[1], output=("tanh", "sigmoid")[seed])


def hidden_layer(seed):
    """Some hidden layer of a deeper network with several outputs; the indices fit both ways round."""
    sizes, ell, j, m = [((3, 4, 2, 5), 1, 2, 1), ((2, 5, 3, 4, 2), 2, 3, 2), ((3, 4, 5, 3), 2, 4, 3)][seed]
    return one_datum(10 + seed, sizes, ell=ell, j=j, m=m, output=("sigmoid", "tanh", "identity")[seed])


def last_layer(seed):
    sizes, j = [((3, 4, 3), 2), ((2, 5, 4, 4), 4)][seed]
    return one_datum(20 + seed, sizes, ell=len(sizes) - 2, j=j, m=1, output=("sigmoid", "tanh")[seed])


def classes(seed):
    sizes, j = [((3, 4, 5), 2), ((2, 5, 3, 4), 4)][seed]
    return one_datum(30 + seed, sizes, ell=1, j=j, m=1, output="identity", loss=cross_entropy)


# --- batches in rows ---


def batch(seed, loss=squared_error):
    """The matrices of a whole batch; the mean loss is differentiated by complex steps in all rows."""
    sizes, ell, N = [((3, 4, 2, 5), 2, 4), ((2, 5, 3, 4), 1, 3)][seed]
    output = "identity" if loss is cross_entropy else ("sigmoid", "tanh")[seed]
    net = Network(40 + seed, sizes, output=output, loss=loss, N=N)
    layers = [net.layers(i) for i in range(1, N + 1)]
    A = {k: np.array([a[k] for a, _ in layers]) for k in range(1, net.D + 1)}
    H = {k: np.array([h[k] for _, h in layers]) for k in range(net.D + 1)}

    def mean_from(k, rows):
        return sum(net.risk_from(i, k, row) for i, row in enumerate(rows, 1)) / N

    def mean(k, **changed):
        return sum(net.risk(i, k, **changed) for i in range(1, N + 1)) / N

    Delta = {k: slopes(lambda rows, k=k: mean_from(k, rows), A[k]) for k in A}
    return {
        r"\ell": ell, "D": net.D, "N": N, "u": np.ones((N, 1)), "Y": net.y, r"A^{(\ell)}": A, r"H^{(\ell)}": H,
        r"W^{(\ell)}": by_layer(net.W), r"b^{(\ell)}": {k: column(b) for k, b in by_layer(net.b).items()},
        r"\Delta^{(\ell)}": Delta, "g_\\ell'": {k: net.g[k][1] for k in A},
        r"\softmax": lambda A: special.softmax(A, axis=1),
        r"\frac{\partial \hat R}{\partial A^{(\ell)}}": Indexed(lambda k: Delta[k]),
        r"\frac{\partial \hat R}{\partial W^{(\ell)}}": Indexed(
            lambda k: slopes(lambda W: mean(k, W=W), net.W[k])
        ),
        r"\frac{\partial \hat R}{\partial b^{(\ell)}}": Indexed(
            lambda k: column(slopes(lambda b: mean(k, b=b), net.b[k]))
        ),
    }  # fmt: skip


def batch_of_classes(seed):
    return batch(seed, loss=cross_entropy)


# --- the toy, the chain rule ---


def neuron(seed):
    w, b, x, y = np.random.default_rng([6, seed]).normal(size=4)
    g, slope = ACTIVATIONS[("sigmoid", "tanh")[seed]]
    by_w, by_b = slopes(lambda p: (y - g(p[0] * x + p[1])) ** 2, [w, b])
    return {
        "w": w, "b": b, "x": x, "y": y, "g": g, "g'": slope,
        r"\frac{\partial R}{\partial w}": by_w, r"\frac{\partial R}{\partial b}": by_b,
    }  # fmt: skip


def several_paths(seed, n=4):
    """R is a product of powers of n functions of v."""
    v, *powers = np.random.default_rng([7, seed]).uniform(0.5, 2, size=n + 1)

    def inner(v):
        return np.array([np.exp(v), np.sin(v) + 2, v**3, 1 / v])[:n]

    def outer(c):
        return np.prod(c**powers)

    return {
        "n": n, r"\frac{\partial R}{\partial v}": float(slopes(lambda v: outer(inner(v)), v)),
        r"\frac{\partial R}{\partial c_k}": slopes(outer, inner(v)),
        r"\frac{\partial c_k}{\partial v}": slopes(inner, v),
    }  # fmt: skip


# --- finite differences ---


def exponential(seed):
    """exp(c t), its derivatives, a place v and a step s."""
    c, v, s = [(1.7, 0.3, 0.7), (-0.6, -0.4, 1.3)][seed]
    derivatives = {"\\phi" + order * "'": lambda t, order=order: c**order * np.exp(c * t) for order in range(4)}
    return c, v, s, {"v": v, "s": s} | derivatives


def taylor(seed):
    """The point xi of the remainder is known here."""
    c, v, s, names = exponential(seed)
    xi = v + np.log(2 * (np.exp(c * s) - 1 - c * s) / (c * s) ** 2) / c
    assert v < xi < v + s
    return names | {r"\xi": xi}


def taylor_central(seed):
    c, v, s, names = exponential(seed)
    xi = v + np.log(6 * (np.sinh(c * s) / (c * s) - 1) / (c * s) ** 2) / c
    assert v - s < xi < v + s
    return names | {r"\xi": xi}


def rounded(seed, order):
    """A function for which a bound is reached: constant highest derivative, and rounding in the worst direction.

    phi is -M_0 before and M_0 behind. Its second or third derivative and the rounding both make the difference too
    large, or both too small.
    """
    M_0, M, s, eps = np.random.default_rng([8, seed]).uniform(0.5, 2, size=4)
    eps, s, v, sign = eps / 100, s / 4, 0.7, (1, -1)[seed]
    if order == 2:  # phi(v) = -M_0, phi(v + s) = M_0
        slope, start = 2 * M_0 / s - sign * M * s / 2, -M_0
        before, bound = v, s / 2 * M + 2 * eps / s * M_0
    else:  # phi(v - s) = -M_0, phi(v + s) = M_0
        slope, start = M_0 / s - sign * M * s**2 / 6, 0.0
        before, bound = v - s, s**2 / 6 * M + eps / s * M_0

    def phi(t):
        return start + slope * (t - v) + sign * M * (t - v) ** order / (2 if order == 2 else 6)

    assert np.allclose([phi(before), phi(v + s)], [-M_0, M_0])
    return {
        "v": v, "s": s, r"\varepsilon": eps, "M_0": M_0, f"M_{order}": M, f"M_{5 - order}": 17.0, "M_4": 23.0,
        r"\phi": phi, r"\hat\phi": lambda t: phi(t) * (1 + sign * eps), "\\phi'": lambda t: slope + 0 * t,
        "E_1": lambda s: bound, "E_2": lambda s: bound,
    }  # fmt: skip


def rounded_forward(seed):
    return rounded(seed, 2)


def rounded_central(seed):
    return rounded(seed, 3)


def best_step(seed):
    """The best steps by searching."""
    M_0, M_2, M_3, eps = np.random.default_rng([9, seed]).uniform(0.5, 3, size=4)
    eps /= 100

    def E_1(s):
        return s / 2 * M_2 + 2 * eps / s * M_0

    def E_2(s):
        return s**2 / 6 * M_3 + eps / s * M_0

    def best(E):
        return np.exp(optimize.minimize_scalar(lambda t: E(np.exp(t)), bracket=(-4, 0), tol=1e-12).x)

    return {
        r"\varepsilon": eps, "M_0": M_0, "M_2": M_2, "M_3": M_3, "M_4": 5.1, "E_1": E_1, "E_2": E_2,
        "s_1": best(E_1), "s_2": best(E_2),
    }  # fmt: skip


# --- counting ---


def products(sizes):
    """Multiplications of the forward and the backward pass, counted one by one."""
    forward = sum(1 for into, out in itertools.pairwise(sizes) for _ in itertools.product(range(out), range(into)))
    backward = 0
    for ell in range(len(sizes) - 1, 0, -1):
        for _ in itertools.product(range(sizes[ell]), range(sizes[ell - 1])):
            backward += 1  # delta_j h_m
            backward += ell > 1  # w_jm delta_j
    return forward, backward


def chain_of_products(shapes):
    """Multiplications of a product of matrices, from the left."""
    count, (rows, columns) = 0, shapes[0]
    for more in shapes[1:]:
        assert more[0] == columns
        for _ in itertools.product(range(rows), range(columns), range(more[1])):
            count += 1
        columns = more[1]
    return count


def counts(seed):
    sizes = [(3, 4, 2, 5), (6, 2, 3, 7, 4)][seed]
    C, C_back = products(sizes)
    jacobians = [(out, into) for into, out in itertools.pairwise(sizes)]
    from_output = chain_of_products(jacobians[::-1])
    from_input = chain_of_products([shape[::-1] for shape in jacobians])  # the same product, transposed
    return {
        "D": len(sizes) - 1, r"n_\ell": dict(enumerate(sizes)), "C": C, r"\bar C": C_back,
        "C_0": from_input, "C_D": from_output,
    }  # fmt: skip


WORLDS = {
    neuron: ("eq-bp-neuron",),
    several_paths: ("eq-bp-chain-rule",),
    scalar_output: (
        "eq-bp-last-weight", "eq-bp-last-bias", "eq-bp-below", "eq-bp-below-weight", "eq-bp-below-bias",
    ),
    hidden_layer: (
        "def-bp-delta", "eq-bp-entry-parameters", "eq-bp-entry-paths", "eq-bp-entry-local", "eq-bp-entry-recurrence",
        "eq-bp-recurrence", "eq-bp-parameters", "eq-bp-input", "eq-bp-jacobian",
    ),
    last_layer: ("eq-bp-entry-start", "eq-bp-start-squared"),
    classes: ("def-bp-loss", "eq-bp-log-sum", "eq-bp-start-cross-entropy"),
    batch: (
        "eq-bp-rows-forward", "def-bp-rows-delta", "eq-bp-rows-recurrence", "eq-bp-rows-parameters",
        "eq-bp-rows-start-squared",
    ),
    batch_of_classes: ("eq-bp-rows-start-cross-entropy",),
    taylor: ("eq-bp-taylor",),
    taylor_central: ("eq-bp-taylor-central",),
    rounded_forward: ("eq-bp-error-forward",),
    rounded_central: ("eq-bp-error-central",),
    best_step: ("eq-bp-step-forward", "eq-bp-step-central"),
    counts: ("eq-bp-cost-forward", "eq-bp-cost-backward", "eq-bp-cost-modes"),
}  # fmt: skip


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    seeds = (0, 1, 2) if label in WORLDS[hidden_layer] else (0, 1)
    return [world(seed) for world, labels in WORLDS.items() if label in labels for seed in seeds]
