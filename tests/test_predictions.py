"""Predictions against torch.distributions, scipy's root finding and simulation."""

import functools
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch._subclasses import FakeTensorMode
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence

from course_lib import predictions as module
from course_lib.predictions import ClassPrediction, GaussianPrediction, SampledPrediction

F64 = torch.float64
close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
unchecked = inspect.unwrap


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=seeded(seed), dtype=F64).to(dtype)


def gaussian(batch=(4,), c=2, dtype=F64):
    return GaussianPrediction(normal(*batch, c, dtype=dtype), normal(*batch, c, seed=1, dtype=dtype).abs(), 0.3)


def sampled(S=7, batch=(4,), c=2, noise="one", dtype=F64):
    noise_sd = {"one": 0.3, "tensor": torch.tensor(0.3, dtype=dtype), "each": 0.1 + torch.rand(S, generator=seeded())}
    noise_sd = noise_sd[noise].to(dtype) if noise == "each" else noise_sd[noise]
    return SampledPrediction(normal(S, *batch, c, dtype=dtype), noise_sd)


def mixture(prediction):
    """The law of each entry of y, by torch.distributions."""
    f = prediction.functions.movedim(0, -1)
    sd = torch.as_tensor(prediction.noise_sd, dtype=F64).expand(f.shape)
    return MixtureSameFamily(Categorical(torch.ones_like(f)), Normal(f, sd))


noises = pytest.mark.parametrize("noise", ["one", "tensor", "each"])


def test_a_gaussian_prediction_equals_torch_distributions():
    p = gaussian()
    f, y = Normal(p.mean, p.function_sd), normal(4, 2, seed=3)
    target = Normal(p.mean, (p.function_sd**2 + 0.3**2).sqrt())
    close(p.sd, target.stddev)
    close(p.log_prob(y), target.log_prob(y).sum(-1))
    close(p.cdf(y), target.cdf(y))
    for level in (0.5, 0.9, 0.999):
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=F64)
        for got, law in ((p.interval(level), target), (p.function_interval(level), f)):
            close(torch.stack(got), torch.stack([law.icdf(end) for end in ends]))


@noises
def test_a_sampled_prediction_equals_a_mixture_of_torch_distributions(noise):
    p, y = sampled(noise=noise), normal(4, 2, seed=3)
    law = mixture(p)
    close(p.mean, law.mean)
    close(p.sd, law.variance.sqrt())
    close(p.function_sd, torch.from_numpy(np.std(p.functions.numpy(), 0)))
    close(p.cdf(y), law.cdf(y))
    sd = torch.as_tensor(p.noise_sd, dtype=F64).reshape(-1, 1, 1)
    close(p.log_prob(y), Normal(p.functions, sd).log_prob(y).sum(-1).exp().mean(0).log())
    one = SampledPrediction(p.functions[..., :1], p.noise_sd)
    close(one.log_prob(y[:, :1]), law.log_prob(y)[:, 0])


@noises
@pytest.mark.parametrize("level", [0.02, 0.5, 0.9, 0.9999])
def test_the_ends_of_an_interval_are_the_quantiles_of_the_mixture(noise, level):
    p = sampled(noise=noise)
    noise_sd = np.broadcast_to(np.asarray(p.noise_sd), (7,))
    for ends, share in zip(p.interval(level), ((1 - level) / 2, (1 + level) / 2), strict=True):
        close(p.cdf(ends), torch.full((4, 2), share, dtype=F64), rtol=0, atol=1e-14)
        for i, k in ((0, 0), (3, 1)):
            f = p.functions[:, i, k].numpy()
            root = optimize.brentq(
                lambda t, f=f, q=share: stats.norm.cdf(t, f, noise_sd).mean() - q, -20, 20, xtol=1e-13
            )
            assert ends[i, k].item() == pytest.approx(root, abs=1e-10)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    S=st.integers(1, 9),
    spread=st.floats(0, 100),
    noise_sd=st.floats(1e-3, 1e3),
    level=st.floats(0.01, 0.999),
    seed=st.integers(0, 10**6),
)
def test_laws_of_all_sampled_predictions(S, spread, noise_sd, level, seed):
    """Moments add, the interval of y holds that of f when all draws agree, and wide draws make it wider."""
    p = SampledPrediction(spread * normal(S, 3, 1, seed=seed), noise_sd)
    close(p.sd**2, p.function_sd**2 + noise_sd**2)
    low, high = p.interval(level)
    assert (low <= high).all()
    close(p.cdf(high) - p.cdf(low), torch.full((3, 1), level, dtype=F64), rtol=0, atol=1e-9)
    wide = GaussianPrediction(torch.zeros(3, 1, dtype=F64), torch.zeros(3, 1, dtype=F64), noise_sd).interval(level)
    assert (high - low >= (wide[1] - wide[0]) * (1 - 1e-9)).all()  # no mixture of these is narrower than one of them
    shift = SampledPrediction(p.functions + 5, noise_sd).interval(level)
    close(shift[0], low + 5, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_both_ends_of_a_wide_interval_keep_their_digits(dtype):
    """Near 1 a distribution function has few digits left, near 0 it has all of them."""
    p = SampledPrediction(torch.tensor([[[-1.0]], [[1.0]]], dtype=dtype), 1.0)
    q = GaussianPrediction(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype), 1.0)
    eps = torch.finfo(dtype).eps
    for level in (0.9, 1 - 16 * eps, 1 - 2.0**-53):
        for low, high in (p.interval(level), q.interval(level)):
            torch.testing.assert_close(low, -high, rtol=4 * eps, atol=0)
        tail = (1 - level) / 2
        assert q.interval(level)[1].item() == pytest.approx(stats.norm.isf(tail), rel=4 * eps)
        assert stats.norm.sf(p.interval(level)[1].item(), [-1, 1]).mean() == pytest.approx(tail, rel=200 * eps)
    z = torch.tensor([[-10.0]], dtype=dtype)
    assert q.cdf(z).item() == pytest.approx(stats.norm.cdf(-10), rel=100 * eps)


def test_draws_that_agree_are_a_gaussian_prediction():
    mean = normal(5, 2)
    p, q = SampledPrediction(mean.expand(6, 5, 2), 0.7), GaussianPrediction(mean, torch.zeros(5, 2, dtype=F64), 0.7)
    y = normal(5, 2, seed=4)
    for name in ("mean", "sd", "function_sd"):
        close(getattr(p, name), getattr(q, name))
    for name in ("log_prob", "cdf"):
        close(getattr(p, name)(y), getattr(q, name)(y))
    close(list(p.interval(0.8)), list(q.interval(0.8)))
    close(list(p.function_interval(0.8)), [mean, mean])


def test_many_draws_of_a_gaussian_tend_to_the_gaussian_prediction():
    q = gaussian((3,), 1)
    p = SampledPrediction(q.mean + q.function_sd * normal(20_000, 3, 1, seed=8), 0.3)
    y = q.mean + 0.5 * q.sd
    close(p.log_prob(y), q.log_prob(y), rtol=0, atol=0.05)
    for ours, exact in zip(p.interval() + p.function_interval(), q.interval() + q.function_interval(), strict=True):
        close(ours, exact, rtol=0, atol=0.08)


def test_the_interval_of_the_function_is_a_quantile_of_the_draws():
    for S in (1, 2, 10, 11):
        p = sampled(S)
        for end, share in zip(p.function_interval(0.83), (0.085, 0.915), strict=True):
            close(end, torch.from_numpy(np.quantile(p.functions.numpy(), share, axis=0)))


@pytest.mark.parametrize("make", [gaussian, sampled])
def test_the_interval_of_the_targets_has_the_noise_and_that_of_the_function_has_not(make):
    p = make()
    (low, high), (f_low, f_high) = p.interval(), p.function_interval()
    assert ((low < f_low) & (f_high < high)).all()


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_coverage_is_the_share_inside_the_interval(level):
    for p in (gaussian((300,)), sampled(5, (300,), noise="each")):
        y = 1.5 * normal(300, 2, seed=6)
        low, high = p.interval(level)
        inside = ((low <= y) & (y <= high)).double().mean()
        assert 0.1 < inside < 0.9
        close(p.coverage(y, level), inside)


def test_targets_of_the_law_are_covered_as_often_as_the_level_says():
    generator = seeded(1)
    for p, draw in (
        (gaussian((20_000,), 1), lambda p: p.mean + p.sd * torch.randn(20_000, 1, generator=generator, dtype=F64)),
        (
            SampledPrediction(normal(5, 20_000, 1), 0.2),
            lambda p: (
                p.functions.gather(0, torch.randint(5, (1, 20_000, 1), generator=generator))[0]
                + 0.2 * torch.randn(20_000, 1, generator=generator, dtype=F64)
            ),
        ),
    ):
        y = draw(p)
        for level in (0.5, 0.9):
            assert p.coverage(y, level).item() == pytest.approx(level, abs=4 * (level * (1 - level) / 20_000) ** 0.5)
        assert stats.kstest(p.cdf(y)[:, 0].numpy(), "uniform").pvalue > 0.001


@pytest.mark.parametrize("make", [gaussian, sampled])
def test_one_target_for_each_datum_may_stand_in_one_row(make):
    p, y = make(c=1), normal(4, seed=2)
    assert p.log_prob(y).shape == (4,)
    close(p.log_prob(y), p.log_prob(y[:, None]))
    close(p.coverage(y), p.coverage(y[:, None]))
    assert make(batch=(2, 3), c=1).log_prob(normal(2, 3)).shape == (2, 3)
    assert make(batch=(), c=1).log_prob(normal()).shape == ()


def test_classes_equal_torch_distributions():
    p = ClassPrediction(2 * normal(6, 5, 3))
    y = torch.tensor([0, 1, 2, 1, 0])
    each, whole = Categorical(logits=p.logits), Categorical(probs=p.logits.softmax(-1).mean(0))
    close(p.probabilities, whole.probs)
    close(p.log_prob(y), whole.log_prob(y))
    close(p.entropy, whole.entropy())
    close(p.expected_entropy, each.entropy().mean(0))
    close(p.information, kl_divergence(each, whole.expand((6, 5))).mean(0))
    close(p.information, p.entropy - p.expected_entropy)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(S=st.integers(1, 8), K=st.integers(1, 5), scale=st.floats(0, 200), seed=st.integers(0, 10**6))
def test_laws_of_all_class_predictions(S, K, scale, seed):
    p = ClassPrediction(scale * normal(S, 4, K, seed=seed))
    close(p.probabilities.sum(-1), torch.ones(4, dtype=F64))
    assert (p.information >= 0).all()
    assert (p.entropy <= math.log(K) + 1e-12).all()
    close(p.entropy, p.expected_entropy + p.information, rtol=0, atol=1e-12)
    if S == 1:
        close(p.information, torch.zeros(4, dtype=F64), rtol=0, atol=1e-13)
    # Jensen: the log of the mean probability is at least the mean of the logs
    y = torch.zeros(4, dtype=torch.long)
    assert (p.log_prob(y) >= p.logits.log_softmax(-1)[..., 0].mean(0) - 1e-12).all()


def test_draws_that_agree_have_no_information_and_never_less():
    p = ClassPrediction(normal(50, 4).float().expand(7, 50, 4))
    assert (p.information >= 0).all()
    close(p.information, torch.zeros(50), rtol=0, atol=1e-6)


def test_a_class_that_no_draw_gives_keeps_its_digits():
    p = ClassPrediction(torch.tensor([[0.0, -800.0], [0.0, -900.0]], dtype=F64))
    assert p.log_prob(torch.tensor(1)).item() == pytest.approx(-800 - math.log(2), rel=1e-14)
    assert p.information.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_device_follow_the_inputs(dtype, device):
    for p in (gaussian(dtype=dtype), sampled(dtype=dtype)):
        p = type(p)(*(t.to(device) if isinstance(t, torch.Tensor) else t for t in vars(p).values()))
        y = torch.zeros(4, 2, dtype=dtype, device=device)
        results = [p.mean, p.sd, p.function_sd, p.cdf(y), p.log_prob(y), p.coverage(y)]
        results += [*p.interval(), *p.function_interval()]
        assert {(t.dtype, t.device.type) for t in results} == {(dtype, device.type)}


def test_float32_agrees_with_float64():
    for make in (gaussian, sampled):
        single, double = make(dtype=torch.float32), make()
        for ours, exact in zip(single.interval(), double.interval(), strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_makes_no_cpu_tensor_for_a_gpu():
    with FakeTensorMode():
        f, y = torch.ones(5, 3, 1, device="cuda"), torch.ones(3, 1, device="cuda")
        results = []
        for p in (
            SampledPrediction(f, 0.2),
            SampledPrediction(f, torch.ones(5, device="cuda")),
            GaussianPrediction(y, y, 0.2),
        ):
            results += [p.mean, p.sd, p.function_sd, p.cdf(y), p.log_prob(y), p.coverage(y), *p.interval()]
            results += p.function_interval()
        p = ClassPrediction(torch.ones(5, 3, 4, device="cuda"))
        results += [p.probabilities, p.entropy, p.expected_entropy, p.information]
        assert {t.device.type for t in results} == {"cuda"}


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


MEAN, F = torch.zeros(4, 2, dtype=F64), torch.zeros(7, 4, 2, dtype=F64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: GaussianPrediction(MEAN, MEAN[:3], 1.0),
            ValueError,
            r"mean has shape \(4, 2\) and function_sd \(3",
        ),
        (lambda: GaussianPrediction(MEAN, MEAN - 1, 1.0), ValueError, "function_sd is as small as -1.0"),
        (lambda: GaussianPrediction(MEAN, MEAN.float(), 1.0), TypeError, "function_sd is torch.float32 but mean is"),
        (lambda: GaussianPrediction(replaced(MEAN, (1, 0), math.nan), MEAN, 1.0), ValueError, r"mean\[1, 0\] is nan"),
        (lambda: GaussianPrediction(MEAN, replaced(MEAN, (0, 1), math.inf), 1.0), ValueError, r"function_sd\[0, 1\]"),
        (lambda: GaussianPrediction(MEAN, MEAN, 0.0), ValueError, "noise_sd is 0.0: it must be positive"),
        (lambda: GaussianPrediction(MEAN, MEAN, "1"), TypeError, "noise_sd is a str: give a number, or a tensor"),
        (
            lambda: GaussianPrediction(MEAN, MEAN, MEAN[:, 0] + 1),
            ValueError,
            r"noise_sd has shape \(4,\): give one",
        ),
        (lambda: SampledPrediction(F[0, 0], 1.0), ValueError, r"functions has shape \(2,\): give \(S, \*batch, c\)"),
        (lambda: SampledPrediction(F[:0], 1.0), ValueError, r"functions has shape \(0, 4, 2\)"),
        (lambda: SampledPrediction(replaced(F, (6, 1, 0), math.nan), 1.0), ValueError, r"functions\[6, 1, 0\] is nan"),
        (lambda: SampledPrediction(F, torch.ones(4, dtype=F64)), ValueError, r"one for each of the 7 draws"),
        (lambda: SampledPrediction(F, torch.ones(())), TypeError, "noise_sd is torch.float32 but the prediction is"),
        (lambda: SampledPrediction(F, torch.zeros(7, dtype=F64)), ValueError, "noise_sd is 0.0: it must be positive"),
        (lambda: SampledPrediction(F, 1.0).log_prob(MEAN[:, :1]), ValueError, r"y has shape \(4, 1\) and the pred"),
        (lambda: SampledPrediction(F, 1.0).log_prob(MEAN[:, 0]), ValueError, r"y has shape \(4,\) and the pred"),
        (lambda: SampledPrediction(F, 1.0).cdf(MEAN.float()), TypeError, "y is torch.float32 but mean is"),
        (lambda: SampledPrediction(F, 1.0).cdf([1.0]), TypeError, "y is a list: give a torch.Tensor"),
        (lambda: SampledPrediction(F, 1.0).coverage(MEAN / 0), ValueError, r"y\[0, 0\] is nan"),
        (lambda: SampledPrediction(F, 1.0).interval(90), ValueError, "level is 90: a probability between 0 and 1"),
        (lambda: SampledPrediction(F, 1.0).interval(1.0), ValueError, "level is 1.0: a probability between"),
        (lambda: SampledPrediction(F, 1.0).function_interval("0.9"), TypeError, "level is a str: give a probability"),
        (lambda: GaussianPrediction(MEAN, MEAN, 1.0).coverage(MEAN, 0), ValueError, "level is 0: a probability"),
        (lambda: ClassPrediction(F[0, 0]), ValueError, r"logits has shape \(2,\): give \(S, \*batch, K\)"),
        (lambda: ClassPrediction(replaced(F, (0, 1, 1), math.inf)), ValueError, r"logits\[0, 1, 1\] is inf"),
        (lambda: ClassPrediction(F).log_prob(MEAN), TypeError, "y has dtype torch.float64"),
        (
            lambda: ClassPrediction(F).log_prob(torch.tensor([0, 1, 2, 0])),
            ValueError,
            r"y\[2\] is 2: the classes are 0 to 1",
        ),
        (
            lambda: ClassPrediction(F).log_prob(torch.tensor([0, 1])),
            ValueError,
            r"y has shape \(2,\): give one class for each datum, \(4,\)",
        ),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, message, monkeypatch):
    for name in ("GaussianPrediction", "SampledPrediction", "ClassPrediction"):
        cls = getattr(module, name)
        for method in ("__init__", "log_prob", "cdf", "coverage", "interval", "function_interval"):
            if hasattr(cls, method):
                monkeypatch.setattr(cls, method, unchecked(getattr(cls, method)))
    with pytest.raises(error, match=message):
        call()
