"""One step of SGD with momentum: course_lib.backprop and course_lib.optimisers against torch.autograd and torch.optim.

    python -m benchmarks.backprop [--quick] [--output FILE]

The peer is what a user writes: nn.Sequential of nn.Linear and nn.ReLU, cross_entropy, backward(), and torch.optim.SGD
with its defaults (on the CPU a loop over the parameters; a row for foreach=True stands beside it). A second peer is
course_lib's own MLP under autograd. All work in float32 on the same weights and the same batch, take turns in one
process on one thread, and must hold the same parameters to 1e-6 after 20 steps. A ratio is the median of the ratios
of the single rounds, with its quartiles. The matrix products alone, which no implementation can save, are timed beside
them: they are the physical limit. The goals are for relu; the same with tanh is shown beside it.
"""

import itertools

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.run import main, time_ratios
from course_lib.backprop import forward_backward
from course_lib.networks import MLP
from course_lib.optimisers import momentum

LR, BETA = 0.01, 0.9
CASES = (((64, 256, 256, 10), 128, 1.15), ((2, 32, 32, 2), 32, 2.8))  # sizes, batch, goal


def data(sizes, batch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, sizes[0], generator=generator)
    return x, torch.randint(sizes[-1], (batch,), generator=generator)


def network(sizes, activation):
    return MLP(sizes, activation, generator=torch.Generator().manual_seed(1), dtype=torch.float32)


def by_hand(sizes, activation, x, y):
    mlp, state = network(sizes, activation), {}
    params = list(mlp.parameters())

    def step():
        value, gradients = forward_backward(mlp, x, y, "cross_entropy")
        momentum(params, gradients, state, LR, BETA)
        return value

    return step, params


def sequential(sizes, activation, x, y, **options):
    """The network that a user of PyTorch writes, with the weights of ours."""
    ours, layers = network(sizes, activation), []
    for W, b in zip(ours.weights, ours.biases, strict=True):
        linear = nn.Linear(*reversed(W.shape))
        linear.weight, linear.bias = nn.Parameter(W.detach().clone()), nn.Parameter(b.detach().clone())
        layers += [linear, {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()]
    net = nn.Sequential(*layers[:-1])
    params = [*(layer.weight for layer in layers[:-1:2]), *(layer.bias for layer in layers[:-1:2])]
    return under_autograd(net, params, x, y, **options)


def own_network(sizes, activation, x, y):
    mlp = network(sizes, activation)
    return under_autograd(mlp, list(mlp.parameters()), x, y)


def under_autograd(net, params, x, y, **options):
    optimiser = torch.optim.SGD(net.parameters(), lr=LR, momentum=BETA, **options)

    def step():
        optimiser.zero_grad()
        value = cross_entropy(net(x), y)
        value.backward()
        optimiser.step()
        return value

    return step, params


def products_alone(sizes, x):
    """The matrix products of one step and nothing else, into memory that is there already."""
    widths = list(itertools.pairwise(sizes))
    W = [torch.randn(out, into) for into, out in widths]
    h = [torch.randn(len(x), width) for width in sizes]
    by_W, by_h = [torch.empty_like(w) for w in W], [torch.empty_like(row) for row in h]

    def step():
        for ell in range(len(W)):
            torch.mm(h[ell], W[ell].T, out=by_h[ell + 1])
        for ell in reversed(range(len(W))):
            torch.mm(h[ell + 1].T, h[ell], out=by_W[ell])
            if ell:
                torch.mm(h[ell + 1], W[ell], out=by_h[ell])

    return step


def largest_difference(first, other, steps=20):
    """The largest distance between two parameters after so many steps."""
    (step, params), (other_step, other_params) = first, other
    for _ in range(steps):
        step()
        other_step()
    return max((a - b).abs().max().item() for a, b in zip(params, other_params, strict=True))


def rows(seconds):
    for (sizes, batch, goal), activation in itertools.product(CASES, ("relu", "tanh")):
        name = f"{'-'.join(map(str, sizes))}, batch {batch}, {activation}"
        given = (sizes, activation, *data(sizes, batch))
        difference = largest_difference(by_hand(*given), sequential(*given))
        yield {
            "what": f"{name}, parameters after 20 steps, largest difference",
            "value": difference, "quartiles": [difference, difference], "goal": 1e-6, "met": difference <= 1e-6,
            "of_torch": largest_difference(own_network(*given), sequential(*given)), "unit": "",
        }  # fmt: skip
        contenders = {
            "by hand": by_hand(*given)[0],
            "nn.Sequential, autograd, optim.SGD": sequential(*given)[0],
            "the same with foreach=True": sequential(*given, foreach=True)[0],
            "our MLP, autograd, optim.SGD": own_network(*given)[0],
            "matrix products alone (the limit)": products_alone(sizes, given[2]),
        }
        mine, ratios = time_ratios(list(contenders.values()), seconds)
        for peer, (low, middle, high) in zip(list(contenders)[1:], ratios, strict=True):
            its_goal = goal if peer.startswith("nn.") and activation == "relu" else None
            yield {
                "what": f"{name}, {peer}",
                "value": middle, "quartiles": [low, high], "goal": its_goal,
                "met": None if its_goal is None else middle >= its_goal,
                "microseconds": mine * 1e6, "unit": "x",
            }  # fmt: skip


if __name__ == "__main__":
    legend = "ratio: the peer's time over course_lib's, median and quartiles; us: course_lib's step"
    main("backprop", __doc__, legend, lambda quick: rows(0.5 if quick else 8))
