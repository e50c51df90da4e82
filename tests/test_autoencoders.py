"""Autoencoders against NumPy, against linear algebra and against their own invariances.

Tests of wrong shapes call the function without its shape annotations (`unchecked`): conftest.py has jaxtyping check
them, so it would speak first, whereas a user, who runs without that hook, sees the function's own sentence.
"""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from course_lib.autoencoders import (
    Autoencoder,
    DenoisingAutoencoder,
    LinearAutoencoder,
    StackedAutoencoder,
    denoising_loss,
    reconstruction_loss,
)
from course_lib.networks import ACTIVATIONS
from course_lib.training import fit

unchecked = inspect.unwrap
close = torch.testing.assert_close
double = {"dtype": torch.float64}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(kind, *arguments, **options):
    """An autoencoder by its constructor without the annotations."""
    model = kind.__new__(kind)
    unchecked(kind.__init__)(model, *arguments, **options)
    return model


def data(N=6, d=4, seed=1, dtype=torch.float64):
    return torch.randn(N, d, generator=seeded(seed), dtype=torch.float64).to(dtype)


def every_kind(d=4, m=2, **options):
    yield Autoencoder(d, m, (3,), **options)
    yield LinearAutoencoder(d, m, **options)
    yield DenoisingAutoencoder(d, m, (3,), level=0.1, **options)
    yield StackedAutoencoder((d, 3, m), **options)


G = {
    "identity": lambda a: a, "tanh": np.tanh, "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "relu": lambda a: np.maximum(a, 0),
    "silu": lambda a: a / (1 + np.exp(-a)),
}  # fmt: skip


def by_numpy(mlp, x, activation, output):
    """A network by loops over its layers."""
    for k, (W, b) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        name = output if k == len(mlp.weights) - 1 else activation
        x = G[name](np.einsum("jm,nm->nj", W.detach().numpy(), x) + b.detach().numpy())
    return x


# --- the loss ---


def test_the_loss_sums_over_entries_and_averages_over_data():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert reconstruction_loss(torch.zeros_like, x).item() == 12.5
    assert reconstruction_loss(torch.zeros_like, x[:1]).item() == 25.0
    assert reconstruction_loss(torch.zeros_like, torch.cat([x, x])).item() == 12.5


@settings(max_examples=50, deadline=None)
@given(N=st.integers(1, 5), d=st.integers(1, 5), m=st.integers(1, 6), seed=st.integers(0, 100))
def test_the_loss_equals_numpy(N, d, m, seed):
    model, x = Autoencoder(d, m, (3,), generator=seeded(seed), **double), data(N, d, seed)
    restored = by_numpy(model.decoder, by_numpy(model.encoder, x.numpy(), "tanh", "identity"), "tanh", "identity")
    assert reconstruction_loss(model, x).item() == pytest.approx(np.mean(np.sum((x.numpy() - restored) ** 2, 1)))


def test_the_loss_names_what_is_not_finite():
    x = data()
    x[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"y\[2, 1\] is nan"):
        reconstruction_loss(torch.nn.Identity(), x)


# --- plain autoencoders ---


@pytest.mark.parametrize("output", ACTIVATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_encoder_and_decoder_are_mirror_images(activation, output):
    model = Autoencoder(5, 2, (4, 3), activation, output, generator=seeded(), **double)
    assert model.encoder.sizes == (5, 4, 3, 2)
    assert model.decoder.sizes == (2, 3, 4, 5)
    for mlp in (model.encoder, model.decoder):  # so that a bias that is not used would be seen
        for bias in mlp.biases:
            bias.data = data(1, len(bias), seed=3)[0]
    x = data(d=5)
    z = by_numpy(model.encoder, x.numpy(), activation, "identity")
    np.testing.assert_allclose(model.encode(x).detach(), z, atol=1e-14)
    np.testing.assert_allclose(model(x).detach(), by_numpy(model.decoder, z, activation, output), atol=1e-14)


def test_no_hidden_layer_is_allowed_and_wide_codes_are():
    assert Autoencoder(5, 7, ()).encoder.sizes == (5, 7)
    assert Autoencoder(5, 7, ())(torch.zeros(2, 5)).shape == (2, 5)


def test_encoder_and_decoder_have_weights_of_their_own():
    model = Autoencoder(4, 2, (3,), generator=seeded())
    assert not torch.equal(model.encoder.weights[0], model.decoder.weights[1].T)
    assert len(list(model.parameters())) == 8


def test_a_generator_decides_the_weights():
    one, same, other = (Autoencoder(4, 2, generator=seeded(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.encoder.weights[0], other.encoder.weights[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_follows_dtype_and_device(dtype, device):
    x = data(dtype=dtype).to(device)
    for model in every_kind(dtype=dtype, device=device):
        assert {(p.dtype, p.device.type) for p in model.parameters()} == {(dtype, device.type)}
        z, restored, loss = model.encode(x), model(x), reconstruction_loss(model, x)
        assert (z.shape, restored.shape, loss.shape) == ((6, 2), (6, 4), ())
        assert {t.dtype for t in (z, restored, loss)} == {dtype}
        close(restored, model.decode(z))
        assert model(x.reshape(2, 3, 4)).shape == (2, 3, 4)
        assert model(x[0]).shape == (4,)


def test_every_kind_stays_on_a_fake_cuda_device():
    with FakeTensorMode(), torch.no_grad():  # fake gradients would need a GPU's library
        x = torch.zeros(6, 4, device="cuda")
        for model in every_kind(device="cuda"):
            assert model(x).device.type == model.encode(x).device.type == "cuda"
            assert reconstruction_loss(model, x).device.type == "cuda"
            with pytest.raises(ValueError, match="x is on cpu but the weights are on cuda"):
                model(torch.zeros(6, 4))
            if isinstance(model, DenoisingAutoencoder):
                assert model.corrupt(x).device.type == "cuda"


def test_every_kind_learns():
    x = data(40, 4) @ data(4, 4, seed=2)
    for model in every_kind(generator=seeded(), **double):
        before = reconstruction_loss(model, x)
        history = fit(model, (x,), reconstruction_loss, n_epochs=60, batch_size=10, lr=0.01, progress=False)
        assert reconstruction_loss(model, x) < 0.5 * before
        assert history.loss[-1] < history.loss[0]


def test_every_kind_says_what_is_wrong_with_its_input():
    for model in every_kind(**double):
        encode, decode = (
            lambda rows, f=f, model=model: unchecked(f)(model, rows) for f in (type(model).encode, type(model).decode)
        )
        with pytest.raises(ValueError, match=r"x has shape \(6, 5\): its last dimension must be 4, the data_dim"):
            encode(data(6, 5))
        with pytest.raises(ValueError, match=r"z has shape \(6, 4\): its last dimension must be 2, the code_dim"):
            decode(data(6, 4))
        with pytest.raises(ValueError, match=r"x has shape \(\)"):
            encode(torch.tensor(1.0, **double))
        with pytest.raises(TypeError, match=r"x is torch\.float32 but the weights are torch\.float64"):
            encode(data(dtype=torch.float32))
        with pytest.raises(TypeError, match="z is a ndarray: give a"):
            decode(np.zeros((6, 2)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((4.0, 2), TypeError, "data_dim is a float: give an int"),
        ((4, True), TypeError, "code_dim is a bool: give an int"),
        ((0, 2), ValueError, "data_dim is 0: it must be 1 or more"),
        ((4, -1), ValueError, "code_dim is -1: it must be 1 or more"),
    ],
)
def test_sizes_are_looked_at(arguments, error, message):
    for kind in (Autoencoder, LinearAutoencoder):
        with pytest.raises(error, match=message):
            made(kind, *arguments)


def test_names_and_generators_are_looked_at():
    with pytest.raises(ValueError, match="activation is 'swish': give one of"):
        Autoencoder(4, 2, activation="swish")
    with pytest.raises(ValueError, match="output is 'soft': give one of"):
        StackedAutoencoder((4, 2), output="soft")
    with pytest.raises(ValueError, match=r"sizes\[1\] is 0: every layer needs at least one neuron"):
        Autoencoder(4, 2, (0,))
    with pytest.raises(ValueError, match="give at least two"):
        StackedAutoencoder((4,))
    with FakeTensorMode(), pytest.raises(ValueError, match="generator is on cpu and the weights on cuda"):
        LinearAutoencoder(4, 2, generator=seeded(), device="cuda")


# --- the linear one ---


@pytest.mark.parametrize("bias", [True, False])
def test_the_linear_autoencoder_is_two_matrices(bias):
    model, x = LinearAutoencoder(4, 2, bias=bias, generator=seeded(), **double), data()
    if bias:
        model.b_e.data, model.b_d.data = data(1, 2)[0], data(1, 4)[0]
    b_e, b_d = (model.b_e, model.b_d) if bias else (0, 0)
    z = torch.stack([model.W_e @ row + b_e for row in x])
    close(model.encode(x), z)
    close(model(x), torch.stack([model.W_d @ row + b_d for row in z]))
    assert (model.b_e is None) is (model.b_d is None) is (not bias)
    assert {name for name, _ in model.named_parameters()} == {"W_e", "W_d"} | ({"b_e", "b_d"} if bias else set())


def test_the_scale_multiplies_the_first_weights():
    small, large = (LinearAutoencoder(4, 2, scale=s, generator=seeded(), **double) for s in (1e-3, 1.0))
    close(small.W_e, 1e-3 * large.W_e)
    close(small.W_d, 1e-3 * large.W_d)
    for scale, error in (
        (0.0, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="scale is"):
            made(LinearAutoencoder, 4, 2, scale=scale)


def trained_linear(x, m, bias, n_epochs=700, kappa=0.0, seed=0):
    model = LinearAutoencoder(x.shape[1], m, bias=bias, generator=seeded(seed), **double)

    def loss(model, x):
        return reconstruction_loss(model, x) + kappa * (model.W_e.square().sum() + model.W_d.square().sum())

    fit(model, (x,), loss, n_epochs=n_epochs, batch_size=len(x), lr=0.05, optimiser="momentum", progress=False)
    return model.requires_grad_(False)


def principal(x):
    """Eigenvalues and eigenvectors by NumPy."""
    lam, u = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    return torch.tensor(lam[::-1].copy()), torch.tensor(u[:, ::-1].copy())


@pytest.fixture(scope="module")
def cloud():
    """Thirty points with the standard deviations 1.2, 0.9, 0.5, 0.2 along axes at random."""
    x = torch.linalg.qr(data(30, 4) - data(30, 4).mean(0)).Q * 30**0.5
    return x @ torch.diag(torch.tensor([1.2, 0.9, 0.5, 0.2], **double)) @ torch.linalg.qr(data(4, 4, seed=5)).Q


@pytest.mark.parametrize("bias", [True, False])
def test_it_finds_the_principal_subspace_and_not_the_axes(cloud, bias):
    x = cloud + bias * torch.tensor([0.5, -0.3, 0.2, 0.1], **double)
    model, (lam, u) = trained_linear(x, 2, bias), principal(x)
    assert reconstruction_loss(model, x).item() == pytest.approx(lam[2:].sum().item(), rel=1e-8)
    for basis in (model.W_d, model.W_e.T):
        Q = torch.linalg.qr(basis).Q
        assert torch.linalg.matrix_norm(Q - u[:, :2] @ (u[:, :2].T @ Q), 2) < 1e-4  # the sine of the largest angle
    assert (model.W_d.T @ model.W_d - torch.eye(2)).abs().max() > 0.1
    assert (model.W_e - model.W_d.T).abs().max() > 0.1
    close(model.W_e @ model.W_d, torch.eye(2, **double), atol=1e-4, rtol=0)


def test_weight_decay_gives_the_axes(cloud):
    kappa, (lam, u) = 0.1, principal(cloud)
    model = trained_linear(cloud, 2, bias=False, kappa=kappa)
    close(model.W_e, model.W_d.T, atol=1e-8, rtol=0)
    axes, s, _ = torch.linalg.svd(model.W_d, full_matrices=False)
    close(s, (1 - kappa / lam[:2]).sqrt())
    close((axes.T @ u[:, :2]).abs(), torch.eye(2, **double), atol=1e-6, rtol=0)


# --- denoising ---


def test_gaussian_noise_has_its_level():
    model = DenoisingAutoencoder(2, 1, level=0.3, **double)
    x = torch.full((20000, 2), 5.0, **double)
    noise = model.corrupt(x, seeded()) - x
    assert noise.std().item() == pytest.approx(0.3, rel=0.03)
    assert abs(noise.mean().item()) < 0.01
    assert abs(torch.corrcoef(noise.T)[0, 1].item()) < 0.03


def test_masking_has_its_share_and_leaves_the_rest():
    model = DenoisingAutoencoder(2, 1, corruption="masking", level=0.3, **double)
    x = torch.full((20000, 2), 5.0, **double)
    corrupted = model.corrupt(x, seeded())
    assert set(corrupted.unique().tolist()) == {0.0, 5.0}
    assert (corrupted == 0).double().mean().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("corruption", ["gaussian", "masking"])
def test_level_zero_changes_nothing_and_noise_follows_the_generator(corruption):
    x = data()
    assert torch.equal(DenoisingAutoencoder(4, 2, corruption=corruption, level=0.0).corrupt(x), x)
    model = DenoisingAutoencoder(4, 2, corruption=corruption, level=0.5)
    one, same, other = (model.corrupt(x, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == x.dtype
    before = x.clone()
    model.corrupt(x)
    assert torch.equal(x, before)  # the input is not changed in place


def test_masking_at_level_one_masks_all():
    model = DenoisingAutoencoder(4, 2, corruption="masking", level=1.0)
    assert not model.corrupt(data(500)).any()


def test_the_target_of_denoising_is_clean():
    """A model that returns its input has the noise as its error; one that knew x would have none."""
    model, x = DenoisingAutoencoder(4, 2, level=0.5, **double), data(5000)

    class Perfect(torch.nn.Module):
        def forward(self, noisy):
            return x

        corrupt = model.corrupt

    class Same(Perfect):
        def forward(self, noisy):
            return noisy

    assert denoising_loss(Perfect(), x, seeded()).item() == 0
    assert denoising_loss(Same(), x, seeded()).item() == pytest.approx(4 * 0.25, rel=0.03)


def test_the_call_itself_adds_no_noise():
    model, x = DenoisingAutoencoder(4, 2, level=10.0, generator=seeded(), **double), data()
    close(model(x), model(x), rtol=0, atol=0)
    close(model(x), model.decoder(model.encoder(x)))
    assert denoising_loss(model, x, seeded()) != reconstruction_loss(model, x)


def test_fit_draws_fresh_noise_and_repeats_itself():
    seen = []

    def loss(model, x):
        seen.append(model.corrupt(x))
        return denoising_loss(model, x)

    x, weights = data(8), []
    for _ in range(2):
        model = DenoisingAutoencoder(4, 2, (3,), level=0.5, generator=seeded(), **double)
        fit(model, (x,), loss, n_epochs=3, batch_size=8, lr=0.01, progress=False)
        weights.append(model.encoder.weights[0].detach())
    assert torch.equal(*weights)
    assert all(not torch.equal(a.sort(0).values, b.sort(0).values) for a, b in itertools.pairwise(seen[:3]))


def test_a_linear_denoiser_learns_to_shrink():
    """One dimension: the best factor of Wiener is var / (var + level^2)."""
    x = data(4000, 1) * 2
    x = x - x.mean()
    model = DenoisingAutoencoder(1, 1, (), level=1.0, generator=seeded(2), **double)
    fit(model, (x,), denoising_loss, n_epochs=40, batch_size=200, lr=0.01, progress=False)
    factor = (model.encoder.weights[0] * model.decoder.weights[0]).item()
    var = x.var(correction=0).item()
    assert factor == pytest.approx(var / (var + 1), abs=0.03)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"level": 0.1, "corruption": "salt"}, ValueError, "corruption is 'salt': give one of gaussian, masking"),
        ({"level": "high"}, TypeError, "level is a str: give a number"),
        ({"level": True}, TypeError, "level is a bool"),
        ({"level": -0.1}, ValueError, "level is -0.1: the standard deviation"),
        ({"level": math.inf}, ValueError, "level is inf: the standard deviation"),
        ({"level": math.nan}, ValueError, "level is nan"),
        ({"level": 1.5, "corruption": "masking"}, ValueError, "level is 1.5: the probability"),
        ({"level": -0.5, "corruption": "masking"}, ValueError, "level is -0.5: the probability"),
    ],
)
def test_a_corruption_is_looked_at(options, error, message):
    with pytest.raises(error, match=message):
        made(DenoisingAutoencoder, 4, 2, **options)


def test_counts_are_not_corrupted():
    with pytest.raises(TypeError, match=r"x is torch\.int64: noise needs a floating-point dtype"):
        unchecked(DenoisingAutoencoder.corrupt)(DenoisingAutoencoder(4, 2, level=0.1), torch.ones(3, 4).long())


def test_a_generator_elsewhere_is_refused():
    with FakeTensorMode():
        model = DenoisingAutoencoder(4, 2, level=0.1, device="cuda")
        with pytest.raises(
            ValueError, match=r"generator is on cpu and x on cuda:0: make it with torch.Generator\('cuda'"
        ):
            model.corrupt(torch.zeros(3, 4, device="cuda"), seeded())


# --- stacked ---


def stack(sizes=(5, 4, 3, 2), seed=0, **options):
    return StackedAutoencoder(sizes, generator=seeded(seed), **double, **options)


def test_a_stack_is_an_autoencoder():
    model = stack()
    plain = Autoencoder(5, 2, (4, 3), generator=seeded(), **double)
    close(model(data(d=5)), plain(data(d=5)))
    assert (model.data_dim, model.code_dim) == (5, 2)


@pytest.mark.parametrize("output", ["identity", "sigmoid"])
@pytest.mark.parametrize("sizes", [(5, 4, 3, 2), (5, 5, 5, 5)])  # with equal widths a wrong input passes in silence
def test_pretraining_equals_separate_autoencoders(sizes, output):
    """Each level is what one trains by hand: on what the levels below have made, with the right activations."""
    x = data(20, 5).sigmoid()
    model, options = stack(sizes, output=output), {"batch_size": 7, "lr": 0.05}
    first = {name: value.clone() for name, value in model.state_dict().items()}
    histories = model.pretrain(x, 5, seed=3, **options)
    h = x
    for level in range(3):
        code, restore = ("identity" if level == 2 else "tanh"), (output if level == 0 else "tanh")
        W_e, b_e = (first[f"encoder.{kind}.{level}"] for kind in ("weights", "biases"))
        W_d, b_d = (first[f"decoder.{kind}.{2 - level}"] for kind in ("weights", "biases"))

        class ByHand(torch.nn.Module):
            def __init__(self, *tensors, code=code, restore=restore):
                super().__init__()
                self.all = torch.nn.ParameterList(t.clone() for t in tensors)
                self.code, self.restore = ACTIVATIONS[code].function, ACTIVATIONS[restore].function

            def encode(self, h):
                return self.code(h @ self.all[0].T + self.all[1])

            def forward(self, h):
                return self.restore(self.encode(h) @ self.all[2].T + self.all[3])

        by_hand = ByHand(W_e, b_e, W_d, b_d)
        history = fit(by_hand, (h,), reconstruction_loss, n_epochs=5, seed=3, progress=False, **options)
        assert history.loss == pytest.approx(histories[level].loss)
        for ours, name in zip(
            by_hand.all, ("encoder.weights", "encoder.biases", "decoder.weights", "decoder.biases"), strict=True
        ):
            index = level if name.startswith("encoder") else 2 - level
            close(ours, model.state_dict()[f"{name}.{index}"])
        h = by_hand.encode(h).detach()


def test_pretraining_changes_the_stack_itself_and_helps():
    x = data(60, 5) @ data(5, 5, seed=2) * 0.3
    model = stack()
    before = reconstruction_loss(model, x).item()
    histories = model.pretrain(x, 40, batch_size=20, lr=0.01)
    pretrained = reconstruction_loss(model, x).item()
    assert pretrained < before
    assert len(histories) == 3
    assert all(history.loss[-1] < history.loss[0] for history in histories)
    fit(model, (x,), reconstruction_loss, n_epochs=40, batch_size=20, lr=0.01, progress=False)
    assert reconstruction_loss(model, x).item() < pretrained


def test_one_level_is_trained_as_a_whole():
    x, one, two = data(20, 5), stack((5, 2)), stack((5, 2))
    one.pretrain(x, 3, batch_size=5, lr=0.01, seed=1)
    fit(two, (x,), reconstruction_loss, n_epochs=3, batch_size=5, lr=0.01, seed=1, progress=False)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        close(a, b)


def test_pretraining_says_what_is_wrong():
    model = stack()
    with pytest.raises(ValueError, match=r"x has shape \(6, 4\): its last dimension must be 5"):
        unchecked(StackedAutoencoder.pretrain)(model, data(6, 4), 1, batch_size=2, lr=0.1)
    with pytest.raises(ValueError, match="a batch cannot be larger than the data"):
        model.pretrain(data(6, 5), 1, batch_size=7, lr=0.1)
    with pytest.raises(TypeError, match=r"x is torch\.float32 but the weights are torch\.float64"):
        model.pretrain(data(6, 5, dtype=torch.float32), 1, batch_size=2, lr=0.1)
    x = data(6, 5)
    x[1, 2] = math.inf
    with pytest.raises(ValueError, match=r"\[1, 2\] is inf"):
        model.pretrain(x, 1, batch_size=2, lr=0.1)


def test_a_stack_is_saved_and_loaded():
    one, other, x = stack(seed=0), stack(seed=1), data(d=5)
    other.load_state_dict(one.state_dict())
    close(one(x), other(x))
