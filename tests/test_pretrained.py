"""The trained models of chapter 9 and the draws of chapter 10, their records, and the command of chapter 9."""

import json
import math
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.datasets import load_digits
from torch.nn.functional import binary_cross_entropy_with_logits, linear, silu

from benchmarks import vae_digits as benchmark
from course_lib import pretrained
from course_lib.pretrained import posterior_draws, pretrained_vae, regression_record, training_record
from course_lib.vae import VAE

ROOT = Path(__file__).resolve().parents[1]
LATENT_DIMS = (2, 10)
GOALS = {2: {"elbo": -19.5, "iw": -17.8}, 10: {"elbo": -17.3, "iw": -16.0}}

each_model = pytest.mark.parametrize("latent_dim", LATENT_DIMS)


# --- the models ---


@each_model
def test_a_model_is_what_it_says(latent_dim, device):
    model = pretrained_vae(latent_dim, device=device)
    assert (model.data_dim, model.latent_dim, model.likelihood) == (64, latent_dim, "bernoulli")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {device.type}
    images = model.decode(torch.randn(7, latent_dim, device=device))
    assert images.shape == (7, 64)
    assert 0 <= images.min() < images.max() <= 1  # 1 is what a large logit gives in float32


@each_model
def test_a_model_in_float64_is_the_same(latent_dim):
    model, double = pretrained_vae(latent_dim), pretrained_vae(latent_dim, dtype=torch.float64)
    for ours, theirs in zip(model.parameters(), double.parameters(), strict=True):
        assert theirs.dtype == torch.float64
        assert torch.equal(ours.double(), theirs)
    x = (torch.rand(5, 64) < 0.5).float()
    torch.testing.assert_close(model.encode(x).mean, double.encode(x.double()).mean.float(), rtol=1e-4, atol=1e-5)


def test_loading_draws_nothing_and_each_call_makes_a_new_model():
    before = torch.get_rng_state()
    first = pretrained_vae(2)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        first.decoder.biases[-1].zero_()
    assert pretrained_vae(2).decoder.biases[-1].abs().max() > 0.1


@pytest.mark.parametrize("function", [pretrained_vae, training_record])
@pytest.mark.parametrize("latent_dim", [3, 0, -2, True])
def test_other_dimensions_are_refused(function, latent_dim):
    with pytest.raises(ValueError, match="the trained models have latent_dim 2 and 10"):
        function(latent_dim)


def test_what_cannot_be_had_is_refused():
    with pytest.raises(TypeError, match=r"dtype is torch.int64: give torch.float32 or torch.float64"):
        pretrained_vae(2, dtype=torch.int64)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device here"):
            pretrained_vae(2, device="cuda")


@pytest.mark.parametrize("function", [pretrained_vae, training_record])
def test_missing_files_are_explained(function, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="install course_lib again, or write the files with python -m"):
        function(10)


@pytest.mark.parametrize("function", [posterior_draws, regression_record])
def test_missing_files_of_the_regression_are_explained(function, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"with python -m benchmarks.bayes_regression --publish$"):
        function()


def test_the_files_are_small_and_go_with_the_package():
    files = sorted(pretrained.FOLDER.iterdir())
    names = "bayes_regression", "vae_digits_10", "vae_digits_2"
    assert [path.name for path in files] == [f"{name}.{kind}" for name in names for kind in ("json", "pt")]
    assert sum(path.stat().st_size for path in files) < 750_000
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["course_lib"]
    inside = [path.relative_to(ROOT / "course_lib").as_posix() for path in files]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in inside)


# --- the record ---


@each_model
def test_the_record_is_whole(latent_dim):
    record = training_record(latent_dim)
    n_seeds = len(record["seeds"])
    assert record["seeds"] == list(range(n_seeds))
    assert record["command"] == f"python -m benchmarks.vae_digits --latent {latent_dim} --seeds {n_seeds} --publish"
    assert record["epochs"] == benchmark.EPOCHS
    for table in (record, record["classic"]):
        columns = [table[name] for name in ("elbo", "elbo_error", "iw", "iw_error", "seconds")]
        assert {len(column) for column in columns} == {n_seeds}
        assert all(elbo < iw < 0 for elbo, iw in zip(table["elbo"], table["iw"], strict=True))
    assert record is not training_record(latent_dim)


@each_model
def test_the_goals_are_met(latent_dim):
    """In the mean over the seeds, and in at most 30 seconds."""
    record = training_record(latent_dim)
    assert len(record["seeds"]) >= 5
    for bound, goal in GOALS[latent_dim].items():
        assert mean(record[bound]) >= goal
        assert min(record[bound]) > max(record["classic"][bound])
    assert max(record["seconds"]) <= 30


# --- the numbers, from the state dict alone ---


def images_of_the_test():
    images = load_digits().data[np.random.RandomState(0).permutation(1797)[1437:]]
    return torch.tensor(images / 16 >= 0.5, dtype=torch.float32)


def networks(state):
    """Encoder and decoder of a saved model, written with torch functions only."""

    def network(name):
        layers = [
            (state[f"{name}.weights.{i}"], state[f"{name}.biases.{i}"])
            for i in range(sum(key.startswith(f"{name}.weights.") for key in state))
        ]

        def function(h):
            for weight, bias in layers[:-1]:
                h = silu(linear(h, weight, bias))
            return linear(h, *layers[-1])

        return function

    return network("encoder"), network("decoder")


REPEATS = 4  # some images have rare, large importance weights: their error shows between repeats only
TOLERANCE = 5 * math.sqrt(1 + 1 / REPEATS)  # deviations of one value from the mean of the others


@torch.no_grad()
def evaluated(state, n_elbo=100, n_weights=500):
    """ELBO and IW of the test images: mean over some repeats, and the deviation of one."""
    encode, decode = networks(state)
    x, generator = images_of_the_test(), torch.Generator().manual_seed(12345)
    mu, log_var = encode(x).chunk(2, -1)
    q, prior = torch.distributions.Normal(mu, (log_var / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(q, prior).sum(-1)

    def draw(n):
        z = mu + q.stddev * torch.randn(n, *mu.shape, generator=generator)
        cross_entropy = binary_cross_entropy_with_logits(decode(z), x.expand(n, -1, -1), reduction="none")
        return z, -cross_entropy.sum(-1)

    values = {"elbo": [], "iw": []}
    for _ in range(REPEATS):
        values["elbo"].append((draw(n_elbo)[1].mean(0) - divergence).mean().item())
        z, log_p = draw(n_weights)
        log_w = log_p + (prior.log_prob(z) - q.log_prob(z)).sum(-1)
        top = log_w.amax(0)
        values["iw"].append((top + (log_w - top).exp().mean(0).log()).mean().item())
    return {name: (mean(repeats), stdev(repeats)) for name, repeats in values.items()}


@each_model
def test_another_evaluation_gives_the_numbers_of_the_record(latent_dim):
    """It shares no code with course_lib.vae."""
    path = pretrained.FOLDER / f"vae_digits_{latent_dim}.pt"
    found, record = evaluated(torch.load(path, weights_only=True)["state"]), training_record(latent_dim)
    for bound, (value, error) in found.items():
        assert error < 0.03
        assert record[bound][0] == pytest.approx(value, rel=0, abs=TOLERANCE * error), bound


# --- the command ---


def test_the_protocol():
    grey, binary, test = benchmark.data()
    assert (grey.shape, binary.shape, test.shape) == ((1437, 64), (1437, 64), (360, 64))
    assert torch.equal(binary, (grey >= 0.5).float())
    assert torch.equal(test, images_of_the_test())


def test_training_images_are_binarised_at_a_noisy_threshold(generator):
    torch.manual_seed(0)
    pixels = torch.linspace(0, 1, 21).repeat(20_000, 1)
    drawn = benchmark.binarised(pixels)
    assert drawn.unique().tolist() == [0.0, 1.0]
    # the mean over the threshold's uniform law of a normal distribution function
    law = torch.distributions.Normal(0.0, benchmark.PIXEL_NOISE)
    low, high = benchmark.THRESHOLDS
    share = law.cdf(pixels[0, :, None] - torch.linspace(low, high, 1001)).mean(-1)
    torch.testing.assert_close(drawn.mean(0), share, rtol=0, atol=0.015)
    half = drawn[:, 8:13]  # grey 0.4 to 0.6: one threshold moves all pixels of an image together
    assert torch.corrcoef(half.T).fill_diagonal_(1).min() > 0.2


@pytest.fixture(scope="module")
def digits():
    return benchmark.data()[0]


CLOSE = 5e-5  # rounding in float32 makes 2e-7; a grey value on a threshold may fall to the other side elsewhere


def curve(latent_dim, seed, digits, n_epochs):
    return benchmark.train(latent_dim, seed, digits, stop=n_epochs)[1].loss


@each_model
def test_a_new_training_finds_the_stored_curve(latent_dim, digits):
    stored = training_record(latent_dim)["curve"]
    assert len(stored) == benchmark.CURVE
    assert curve(latent_dim, 0, digits, len(stored)) == pytest.approx(stored, rel=CLOSE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("LR", 1.9e-2), ("WARMUP", 0.055), ("EPOCHS", 1900), ("BATCH", 255), ("seed", 1)),
        *(("PIXEL_NOISE", 0.11), ("THRESHOLDS", (0.3, 0.72))),
    ],
)
def test_another_recipe_has_another_curve(name, value, digits, monkeypatch):
    seed = value if name == "seed" else 0
    if name != "seed":
        monkeypatch.setattr(benchmark, name, value)
    stored = training_record(2)["curve"]
    found = curve(2, seed, digits, len(stored))
    assert found != pytest.approx(stored, rel=20 * CLOSE)


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["vae_digits", *options])
    benchmark.main()


QUICK = ("--latent", "2", "--epochs", "2", "--classic-epochs", "1")


def test_the_command_saves_the_model_of_its_first_seed_and_the_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "HIDDEN", (16,))
    path = tmp_path / "model.pt"
    run(monkeypatch, *QUICK, "--seed", "3", "--seeds", "2", "--output", str(path))
    said, record = capsys.readouterr().out, json.loads(path.with_suffix(".json").read_text())
    assert record["seeds"] == [3, 4]
    saved = torch.load(path, weights_only=True)
    for bound, (value, error) in evaluated(saved["state"]).items():
        assert record[bound][0] == pytest.approx(value, rel=0, abs=TOLERANCE * error)
        assert record[bound][0] != record[bound][1]
        assert f"{mean(record[bound]):.3f} ± " in said
    assert f"ELBO {record['elbo'][1]:.3f} ± {record['elbo_error'][1]:.3f}" in said
    assert record.keys() == training_record(2).keys()
    model = VAE(**saved["arguments"])
    model.load_state_dict(saved["state"])
    assert benchmark.scores(model, images_of_the_test())["elbo"] == pytest.approx(record["elbo"][0], abs=1e-3)


def test_the_command_publishes_what_the_package_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    monkeypatch.setattr(benchmark, "EPOCHS", 2)
    monkeypatch.setattr(benchmark, "CLASSIC_EPOCHS", 1)
    run(monkeypatch, "--latent", "2", "--publish", "--output", str(tmp_path / "model.pt"))
    record, model = training_record(2), pretrained_vae(2)
    assert len(record["curve"]) == 2
    assert benchmark.scores(model, images_of_the_test())["iw"] == pytest.approx(record["iw"][0], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds must be 1 or more"),
        (["--publish", "--latent", "3"], "has the latent dimensions"),
        (["--publish", "--seed", "1"], "begins with seed 0"),
        (["--publish", "--epochs", "3"], "default numbers of epochs"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(options, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, *options)
    assert message in capsys.readouterr().err


# --- the draws and the record of chapter 10; its command has tests of its own ---

PRIOR_SDS = np.repeat([1.5, 0.3], [100, 51])  # of W1, b1, W2, b2
NOISE_SD = 0.2


@pytest.fixture(scope="module")
def draws():
    return {name: value.numpy() for name, value in posterior_draws().items()}


def points(seed, *parts):
    """The data, by their recipe and not by make_gap."""
    rng = np.random.RandomState(seed)
    x = np.concatenate([rng.uniform(*part) for part in parts])
    return x, np.sin(1.5 * x) + 0.3 * x + 0.2 * rng.randn(len(x))


TRAIN = points(0, (-4, -1.5, 30), (1.5, 4, 30))
TEST = points(1, (-4, 4, 400))


def networks_at(weights, x):
    """(draws, points), unit by unit."""
    total = np.repeat(weights[:, 150:], len(x), 1)
    for k in range(50):
        total = total + weights[:, 100 + k, None] * np.tanh(weights[:, k, None] * x + weights[:, 50 + k, None])
    return total


def test_the_draws_are_whole(draws):
    shapes = {"weights": (400, 151), "grid": (161, 1), "functions": (400, 161, 1), "test_functions": (400, 400, 1)}
    assert {name: value.shape for name, value in draws.items()} == shapes
    assert all(value.dtype == np.float64 and np.isfinite(value).all() for value in draws.values())
    np.testing.assert_allclose(draws["grid"][:, 0], np.linspace(-4, 4, 161), atol=1e-15)
    assert draws["grid"][80, 0] == 0
    for name, x in (("functions", draws["grid"][:, 0]), ("test_functions", TEST[0])):
        np.testing.assert_allclose(draws[name][..., 0], networks_at(draws["weights"], x), rtol=1e-9, atol=1e-9)


def test_each_call_gives_the_same_draws_in_memory_of_its_own():
    before = torch.get_rng_state()
    first, second = posterior_draws(), posterior_draws()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    first["weights"].zero_()
    assert posterior_draws()["weights"].abs().max() > 0.1


def stein(weights, noise_sd=NOISE_SD, prior_sds=PRIOR_SDS):
    """theta times the gradient of the log posterior density, for each draw: its mean is minus the number of weights."""
    theta = torch.tensor(weights, requires_grad=True)
    x, y = (torch.tensor(part) for part in TRAIN)
    W1, b1, W2, b2 = theta.split([50, 50, 50, 1], 1)
    f = (torch.tanh(W1[:, None] * x[:, None] + b1[:, None]) * W2[:, None]).sum(-1) + b2
    log_density = -((y - f) / noise_sd).square().sum() / 2 - (theta / torch.tensor(prior_sds)).square().sum() / 2
    return (theta * torch.autograd.grad(log_density, theta)[0]).sum(1).detach().numpy()


def test_the_draws_are_those_of_the_posterior(draws):
    """Stein's identity holds for them, and does not for another noise or another prior."""

    def score(**kind):
        values = stein(draws["weights"], **kind)
        return (values.mean() + 151) / (values.std() / len(values) ** 0.5)

    assert abs(score()) < 4
    for kind in ({"noise_sd": 0.25}, {"noise_sd": 0.16}, {"prior_sds": PRIOR_SDS**2}, {"prior_sds": PRIOR_SDS * 1.2}):
        assert abs(score(**kind)) > 6


def test_the_draws_have_both_chains(draws):
    """The halves of the file agree where the data are, to a few errors of the mean."""
    first, second = draws["test_functions"][:200, :, 0], draws["test_functions"][200:, :, 0]
    error = np.sqrt((first.var(0) + second.var(0)) / 200)
    assert np.abs((first.mean(0) - second.mean(0)) / error).max() < 5
    assert len(np.unique(draws["weights"][:, 0])) > 390


def test_the_record_of_the_regression_is_whole():
    record = regression_record()
    assert len(record["seeds"]) >= 3
    assert record["command"] == f"python -m benchmarks.bayes_regression --seeds {len(record['seeds'])} --publish"
    methods = ["exact", "map", "mean_field", "weights", "nuts", "torchbnn", "blitz", "pyro"]
    assert {"numpyro", "torchbnn", "blitz", "pyro", "torch"} <= record["versions"].keys()
    for data, of_data in (("toy", {"gap", "outside"}), ("diabetes", set())):
        assert list(record[data]) == methods
        for method, table in record[data].items():
            wanted = {"nll", "coverage", "seconds"} | of_data
            assert wanted <= table.keys()
            assert ("elbo" in table) == (method not in ("map", "nuts"))
            n_seeds = 1 if (data, method) == ("diabetes", "exact") else len(record["seeds"])
            assert {len(column) for column in table.values()} == {n_seeds}
            assert all(math.isfinite(value) for column in table.values() for value in column)
            assert all(0 <= share <= 1 for share in table["coverage"])
            if "ratio" in table:
                ratios = [gap / outside for gap, outside in zip(table["gap"], table["outside"], strict=True)]
                assert table["ratio"] == pytest.approx(ratios, rel=1e-4)
    assert regression_record() is not record


def test_the_goals_of_the_regression_are_met():
    record = regression_record()
    ours, nuts = record["toy"]["mean_field"], record["toy"]["nuts"]
    assert min(ours["elbo"]) >= -178
    for peer in ("torchbnn", "blitz", "pyro"):
        assert min(ours["elbo"]) > max(record["toy"][peer]["elbo"])
    assert min(nuts["ratio"]) >= 5
    assert max(nuts["seconds"]) <= 30
    assert max(nuts["rhat"]) < 1.02
    assert min(nuts["ess"]) > 200
    assert (record["nuts"]["rhat"], record["nuts"]["ess"]) == (max(nuts["rhat"]), min(nuts["ess"]))
    assert max(ours["ratio"]) < 2  # the uncertainty in between that mean field misses
    patients = record["diabetes"]["mean_field"]
    assert max(patients["nll"]) <= 1.06
    assert all(0.88 <= share <= 0.96 for share in patients["coverage"])


def test_the_stored_draws_give_the_numbers_of_the_record(draws):
    """By numpy and scipy, and to what thinning leaves: every second draw."""
    nuts = {name: column[0] for name, column in regression_record()["toy"]["nuts"].items()}
    inside = np.abs(draws["grid"][:, 0]) < 1.5
    deviation = draws["functions"][..., 0].std(0)
    assert deviation[inside].mean() == pytest.approx(nuts["gap"], rel=0.1)
    assert deviation[~inside].mean() == pytest.approx(nuts["outside"], rel=0.05)
    x, y = TEST
    f = networks_at(draws["weights"], x)
    density = norm(f, NOISE_SD).pdf(y).mean(0)
    assert -np.log(density).mean() == pytest.approx(nuts["nll"], abs=0.03)
    below = norm(f, NOISE_SD).cdf(y).mean(0)
    assert ((below > 0.05) & (below < 0.95)).mean() == pytest.approx(nuts["coverage"], abs=0.015)
