"""Small mean-field networks of every kind, with data for them, for the tests of chapter 10's modules."""

import pytest
import torch

from course_lib.mean_field import MeanFieldNetwork

F64 = torch.float64
KINDS = {
    "fixed": {"noise_sd": 0.6},
    "learned": {"noise_sd": 0.6, "noise": "learned"},
    "categorical": {"likelihood": "categorical"},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def made(kind="fixed", sizes=(2, 4, 3), activation="tanh", seed=0, dtype=F64, device=None, prior_sd=None):
    """A network whose means, deviations and priors are all different and of order one."""
    prior_sd = prior_sd or tuple(0.5 + 0.3 * layer for layer in range(len(sizes) - 1))
    model = MeanFieldNetwork(sizes, prior_sd, activation=activation, dtype=dtype, device=device, **KINDS[kind])
    with torch.no_grad():
        model.means.copy_(0.7 * normal(len(model.means), seed=seed))
        model.log_vars.copy_(normal(len(model.means), seed=seed + 1) - 1.5)
    return model


def data(kind="fixed", b=6, d=2, c=3, seed=1, dtype=F64, device=None):
    x, y = normal(b, d, seed=seed), normal(b, c, seed=seed + 1)
    y = y.argmax(1) if kind == "categorical" else y.to(dtype)
    return x.to(dtype=dtype, device=device), y.to(device)


def replaced(tensor, index, value):
    tensor = tensor.detach().clone()
    tensor[index] = value
    return tensor


def spoilt(name, value, kind="fixed"):
    model = made(kind)
    with torch.no_grad():
        getattr(model, name).view(-1)[0] = value
    return model
