"""The command for MNIST, on small files of the same form, served by this machine."""

import functools
import gzip
import hashlib
import http.server
import json
import struct
import threading

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch._subclasses import FakeTensorMode
from torch.distributions import Bernoulli, Normal, kl_divergence

from benchmarks import vae_mnist as benchmark
from course_lib import data
from course_lib.optimisers import adam
from course_lib.vae import VAE

SIZES = {"train": 300, "t10k": 120}
SMALL = ["--hidden", "16", "--latent", "3", "--epochs", "2", "--samples", "30", "--device", "cpu"]
each_binarisation = pytest.mark.parametrize("binarisation", benchmark.BINARISATIONS)


def idx(values):
    values = np.asarray(values, np.uint8)
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with four files as MNIST has them: the digits of scikit-learn, three times as large, in a frame."""
    folder, first = tmp_path_factory.mktemp("mirror"), 0
    digits = load_digits()
    for kind, n in SIZES.items():
        images = np.kron(digits.images[first : first + n], np.ones((1, 3, 3))) / 16 * 255
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
        (folder / f"{kind}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{kind}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(digits.target[first : first + n])))
        first += n
    return folder


@pytest.fixture(autouse=True)
def their_checksums(files, monkeypatch):
    sums = {name: hashlib.sha256((files / name).read_bytes()).hexdigest() for name in data.MNIST}
    monkeypatch.setattr(data, "MNIST", sums)


@pytest.fixture
def mirror(files):
    """The address of the folder on a server of this machine."""
    handler = functools.partial(Quiet, directory=files)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command; its result, and the file of the model."""

    def call(*options):
        path = tmp_path / "made" / "model.pt"
        every = ["--root", str(tmp_path / "data"), "--output", str(path), *SMALL, *options]
        monkeypatch.setattr("sys.argv", ["vae_mnist", *every])
        benchmark.main()
        return json.loads(path.with_suffix(".json").read_text()), path

    return call


def images(files, binarisation):
    return benchmark.data(files, binarisation, ["http://127.0.0.1:1/"])


def bound_of_torch(model, x, n_samples):
    """The ELBO of each row, from the networks alone, with torch's distributions."""
    mean, log_var = model.encoder(x).chunk(2, -1)
    q = Normal(mean, (log_var / 2).exp())
    output = model.decoder(q.sample((n_samples,)))
    binary = model.likelihood == "bernoulli"
    p = Bernoulli(logits=output) if binary else Normal(output, (model.log_noise_var / 2).exp())
    divergence = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    return p.log_prob(x).sum(-1).mean(0) - divergence, divergence


@each_binarisation
def test_from_the_network_to_a_saved_model_with_its_numbers(binarisation, mirror, run, tmp_path, files, capsys):
    row, path = run("--binarisation", binarisation, "--mirror", mirror)
    saved = torch.load(path, weights_only=True)
    model = VAE(**saved["arguments"])
    model.load_state_dict(saved["state"])
    assert (model.encoder.sizes, model.likelihood == "gaussian") == ((784, 16, 6), binarisation == "none")
    torch.manual_seed(0)
    with torch.no_grad():
        elbo, divergence = bound_of_torch(model, images(files, binarisation)[1], 400)
    spread = elbo.std().item() / SIZES["t10k"] ** 0.5
    assert row["elbo"][0] == pytest.approx(elbo.mean().item(), rel=5e-3)
    assert row["elbo"][1] == pytest.approx(spread, rel=0.1)  # of 100 samples for each image
    assert row["kl"][0] == pytest.approx(divergence.mean().item())
    assert row["elbo"][0] < row["iw"][0]
    assert row["loss"][1] < row["loss"][0]
    said = capsys.readouterr()
    assert f"ELBO {row['elbo'][0]:.2f} ± {row['elbo'][1]:.2f}, IW-30 {row['iw'][0]:.2f}" in said.out
    assert ("log-density" in said.out) == (binarisation == "none")
    assert said.err == ""
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.json", "model.pt"]
    assert sorted(file.name for file in (tmp_path / "data").glob("*.gz")) == sorted(data.MNIST)


def test_the_protocols(files):
    grey, grey_test = images(files, "none")
    assert (grey.shape, grey_test.shape) == ((300, 784), (120, 784))
    assert torch.equal(grey, data.load_mnist(files).x)
    assert len(grey.unique()) > 10
    dynamic, static = images(files, "dynamic"), images(files, "static")
    assert torch.equal(dynamic[0], grey)
    assert torch.equal(dynamic[1], static[1])
    assert all(map(torch.equal, static, images(files, "static")))
    for drawn, probability in ((static[0], grey), (static[1], grey_test)):
        assert drawn.unique().tolist() == [0, 1]
        noise = (drawn - probability).sum() / (probability * (1 - probability)).sum().sqrt()
        assert noise.abs() < 4


def test_dynamic_pixels_are_drawn_anew_from_the_grey_ones(monkeypatch):
    seen = []
    for name in ("vae_loss", "vae_gradients"):
        monkeypatch.setattr(benchmark, name, lambda model, x: seen.append(x))
    grey = torch.tensor([0.0, 0.2, 0.7, 1.0]).repeat(20_000, 1)
    torch.manual_seed(0)
    for function in (benchmark.redrawn_loss, benchmark.redrawn_loss, benchmark.redrawn_loss.gradients):
        function(None, grey)
    for x in seen:
        assert x.unique().tolist() == [0, 1]
        torch.testing.assert_close(x.mean(0), grey[0], rtol=0, atol=0.015)
    assert not torch.equal(seen[0], seen[1])


def test_the_loss_and_its_gradients_have_the_same_draws(files):
    x = images(files, "dynamic")[0][:20]
    model, _ = benchmark.untrained(x, "dynamic", 2, (5,), seed=0)
    torch.manual_seed(3)
    loss = benchmark.redrawn_loss(model, x)
    by_autograd = torch.autograd.grad(loss, list(model.parameters()))
    torch.manual_seed(3)
    value, by_hand = benchmark.redrawn_gradients(model, x)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(by_hand, list(by_autograd), rtol=1e-4, atol=1e-5)


@each_binarisation
def test_the_start_is_the_mean_image(binarisation, files):
    x, _ = images(files, binarisation)
    model, _ = benchmark.untrained(x, binarisation, 3, (16,), seed=0)
    with torch.no_grad():
        model.decoder.weights[-1].zero_()
        torch.testing.assert_close(model.decode(torch.randn(5, 3)), x.mean(0).expand(5, -1), rtol=0, atol=0.004)


def test_on_each_device(files, device):
    x, test = images(files, "dynamic")
    model, _ = benchmark.untrained(x, "dynamic", 3, (16,), seed=0)
    history = benchmark.train(model, x, "dynamic", epochs=20, seed=0, device=device)
    assert model.decoder.weights[0].device.type == device.type
    assert history.loss[-1] < history.loss[0] - 5
    found = benchmark.scores(model, test, 30, progress=False)
    with torch.no_grad():
        expected = bound_of_torch(model, test.to(device), 400)[0].mean().item()
    assert found["elbo"][0] == pytest.approx(expected, rel=5e-3)


def test_a_step_makes_no_cpu_tensor_for_a_gpu():
    with FakeTensorMode(), torch.no_grad():
        _, made_with = benchmark.untrained(torch.rand(20, 784), "dynamic", 3, (16,), seed=0)
        model, x = VAE(**made_with, device="cuda"), torch.ones(10, 784, device="cuda")
        value, gradients = benchmark.redrawn_gradients(model, torch.rand(10, 784, device="cuda"))
        params = list(model.parameters())
        adam(params, gradients, {}, 1e-3)
        results = [value, *gradients, *params, model.elbo(x, 4), model.log_likelihood(x, 4), model.kl_per_dimension(x)]
        assert {t.device.type for t in results} == {"cuda"}


def test_the_same_command_goes_on_after_an_interruption(run, mirror, monkeypatch, tmp_path):
    whole, _ = run("--mirror", mirror)
    steps = []

    def interrupted(*arguments):
        steps.append(arguments)
        if len(steps) == 4:  # in the second epoch
            raise KeyboardInterrupt
        return real(*arguments)

    real = benchmark.vae_gradients
    monkeypatch.setattr(benchmark, "vae_gradients", interrupted)
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 130
    assert (tmp_path / "made" / "model.checkpoint").exists()
    again, _ = run()
    assert len(steps) == 4 + 3  # the epoch that was not finished is done once more, and the first is not
    different = {"seconds"}
    assert {key: value for key, value in again.items() if key not in different} == {
        key: value for key, value in whole.items() if key not in different
    }


def test_without_a_network_it_says_what_to_do(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--mirror", "http://127.0.0.1:1/")
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "train-images-idx3-ubyte.gz could not be downloaded" in said
    assert "--mirror" in said
    assert "benchmarks.vae_digits needs no network" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epochs", "0"], "must be 1 or more"),
        (["--hidden", "16", "-3"], "must be 1 or more"),
        (["--binarisation", "random"], "invalid choice: 'random'"),
        (["--device", "cuda"], "PyTorch finds no CUDA device here"),
    ],
)
def test_bad_options(run, capsys, monkeypatch, options, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run(*options)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_help_says_what_can_be_compared(run, capsys):
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    for word in ("Larochelle", "dynamic", "static", "none", "--samples", "load_mnist"):
        assert word in said
