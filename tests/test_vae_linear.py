"""The benchmark of the linear variational autoencoder, which probabilistic PCA judges."""

import json
import math

import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from benchmarks import vae_linear as benchmark
from course_lib.ppca import ProbabilisticPCA
from course_lib.vae import VAE

EXACT = {2: -5.455, 10: 7.026}  # log-likelihood of the test images in pixels, from scikit-learn's PCA, to three digits


@pytest.fixture(scope="module")
def images():
    return benchmark.data()


@pytest.mark.parametrize("latent", EXACT)
def test_the_data_are_those_of_the_protocol(latent, images):
    x, test, log_scale = images
    assert (x.shape, test.shape) == ((1437, 53), (360, 53))
    assert x.mean(0).abs().max() < 1e-12
    assert x.square().mean().item() == pytest.approx(1)
    # scikit-learn divides by N - 1
    theirs = PCA(latent, svd_solver="full").fit(x).score(test)
    ours = ProbabilisticPCA(latent).fit(x).log_likelihood(test).mean().item()
    assert ours == pytest.approx(theirs, abs=0.005)
    assert ours - log_scale == pytest.approx(EXACT[latent], abs=5e-4)
    deviation = math.exp(log_scale / 53)  # one pixel's density in pixels is that in deviations over this number
    assert 0.25 < deviation < 0.35


def test_the_parts_add_up(images, generator):
    x = images[0][:200]
    model = VAE(53, 3, (), "gaussian", noise="learned", dtype=torch.float64, generator=generator)
    best = ProbabilisticPCA(3).fit(x)
    found = benchmark.gap(model, best, x)
    assert found["gap"] == pytest.approx(found["model"] + found["q"])
    assert found["gap"] == pytest.approx(found["exact"] - found["elbo"])
    assert min(found["model"], found["q"]) > 0  # untrained, on the data of the best model
    # the bound by samples, the likelihood by scipy
    with torch.no_grad():
        bounds = torch.stack([model.elbo(x, 50, generator=generator).mean() for _ in range(20)])
    W, mean = model.decoder.weights[0].detach(), model.decoder.biases[0].detach()
    cov = W @ W.T + torch.eye(53, dtype=torch.float64) * model.log_noise_var.exp().item()
    likelihood = multivariate_normal(mean.numpy(), cov.numpy()).logpdf(x.numpy()).mean()
    assert found["elbo"] == pytest.approx(bounds.mean().item(), abs=5 * bounds.std().item() / 20**0.5)
    assert found["exact"] - found["model"] == pytest.approx(likelihood)


def test_the_goal_is_met(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.json"
    monkeypatch.setattr("sys.argv", ["vae_linear", "--seeds", "1", "--output", str(path)])
    benchmark.main()
    rows = json.loads(path.read_text())
    assert [row["latent"] for row in rows] == [2, 10]
    for row in rows:
        assert row["test"]["exact"] == pytest.approx(EXACT[row["latent"]], abs=5e-4)
        assert abs(row["test"]["gap"]) < 0.03
        assert 0 < row["train"]["gap"] < 0.03
        assert min(row["train"]["model"], row["train"]["q"], row["test"]["q"]) > 0
    assert "within 0.03 nats: 2 of 2" in capsys.readouterr().out
