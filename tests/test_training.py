"""fit against a loop written out, its promises about randomness, and runs that are killed and resumed."""

import functools
import inspect
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from course_lib import training
from course_lib.networks import MLP
from course_lib.optimisers import learning_rate_schedule, minibatches, momentum, sgd
from course_lib.training import History, TrainingDiverged, evaluate, fit

ROOT = Path(__file__).resolve().parents[1]
unchecked = inspect.unwrap
close = torch.testing.assert_close


def squared(model, x, y):
    return (y - model(x)).square().sum(-1).mean()


def noisy(model, x, y):
    """A loss that draws from the global generator, as that of a variational autoencoder does."""
    return squared(model, x + 0.1 * torch.randn_like(x), y)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(23, 2, generator=generator, dtype=torch.float64)
    return x, (x.sin() @ x.new_ones(2, 1))


def network(dtype=torch.float64, activation="tanh"):
    return MLP((2, 5, 1), activation, generator=torch.Generator().manual_seed(4), dtype=dtype)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.state_dict().values()])


OPTIONS = {"n_epochs": 6, "batch_size": 5, "lr": 0.03, "progress": False}


# The algorithm


def test_fit_is_the_loop_of_the_chapter(data):
    model, by_hand = network(), network()
    history = fit(model, data, squared, optimiser="momentum", seed=7, **OPTIONS)
    generator, state, losses = torch.Generator().manual_seed(7), {}, []
    for _ in range(6):
        total = 0.0
        for batch in minibatches(23, 5, generator):
            by_hand.zero_grad()
            value = squared(by_hand, *(t[batch] for t in data))
            value.backward()
            momentum(list(by_hand.parameters()), [p.grad for p in by_hand.parameters()], state, 0.03)
            total += len(batch) * value.item()
        losses.append(total / 23)
    assert torch.equal(weights(model), weights(by_hand))
    assert history.loss == losses
    assert history.lr == [0.03] * 6
    assert history.validation == []
    assert all(seconds > 0 for seconds in history.seconds)


def test_every_datum_counts_once_in_the_loss_of_an_epoch():
    """With a rate too small to move anything. The last batch holds one datum of three."""
    model = torch.nn.Linear(1, 1)
    x = torch.tensor([[1.0], [2.0], [6.0]])
    history = fit(model, (x,), lambda m, x: x.mean() + 0 * m(x).sum(), n_epochs=4, batch_size=2, lr=1e-30)
    assert history.loss == pytest.approx([3.0] * 4)
    assert evaluate(model, (x,), lambda m, x: x.mean(), batch_size=2) == pytest.approx(3.0)


def test_schedules_are_asked_step_by_step(data):
    asked = []

    def rate(step):
        asked.append(step)
        return 0.01 / (1 + step)

    history = fit(network(), data, squared, **OPTIONS | {"lr": rate})
    assert sorted(set(asked)) == list(range(30))
    assert history.lr == [0.01 / n for n in (5, 10, 15, 20, 25, 30)]
    cosine = learning_rate_schedule("cosine", 0.01, n_steps=30)
    fit(network(), data, squared, **OPTIONS | {"lr": cosine})
    with pytest.raises(ValueError, match="made for 29 steps and is asked for one more"):
        fit(network(), data, squared, **OPTIONS | {"lr": learning_rate_schedule("cosine", 0.01, n_steps=29)})


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "nesterov", "adam", sgd])
def test_it_learns(optimiser, data):
    history = fit(network(), data, squared, optimiser=optimiser, **OPTIONS | {"n_epochs": 40})
    assert history.loss[-1] < 0.5 * history.loss[0]


def test_gradients_of_ones_own(data):
    def by_hand(model, x, y):
        value = squared(model, x, y)
        return value, list(torch.autograd.grad(value, list(model.parameters())))

    one, two = network(), network()
    assert fit(one, data, squared, **OPTIONS).loss == fit(two, data, squared, gradients=by_hand, **OPTIONS).loss
    assert torch.equal(weights(one), weights(two))
    as_number = fit(network(), data, squared, gradients=lambda *a: (1.5, by_hand(*a)[1]), **OPTIONS)
    assert as_number.loss == pytest.approx([1.5] * 6)


def test_gradients_may_be_prepared_once(data):
    """With the model and the data on their device; what is prepared takes the options of a partial."""
    made = []

    def by_hand(model, x, y, factor=1.0):
        value = factor * squared(model, x, y)
        return value, list(torch.autograd.grad(value, list(model.parameters())))

    def prepare(model, *data):
        made.append((model, [t.shape for t in data]))
        memory = [torch.empty_like(param) for param in model.parameters()]

        def step(model, *batch, **options):
            value, grads = by_hand(model, *batch, **options)
            return value, [place.copy_(grad) for place, grad in zip(memory, grads, strict=True)]

        return step

    by_hand.prepare = prepare
    for gradients, loss in (
        (by_hand, squared),
        (functools.partial(by_hand, factor=2.0), lambda model, x, y: 2 * squared(model, x, y)),
    ):
        for optimiser in ("sgd", "momentum", "nesterov", "adam"):
            one, two = network(), network()
            options = OPTIONS | {"optimiser": optimiser}
            history = fit(one, data, loss, **options)
            assert fit(two, data, loss, gradients=gradients, **options).loss == history.loss
            assert torch.equal(weights(one), weights(two))
            assert made.pop() == (two, [t.shape for t in data])
            assert not made


def test_any_module_with_any_data():
    """A module of torch.nn with integer labels, one frozen layer and one that is not used."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator), torch.randint(3, (30,), generator=generator)
    model = torch.nn.ModuleList([torch.nn.Linear(4, 8), torch.nn.Linear(8, 3), torch.nn.Linear(2, 2)])
    for p in model[0].parameters():
        p.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]

    def loss(model, x, y):
        return torch.nn.functional.cross_entropy(model[1](model[0](x).relu()), y)

    history = fit(model, (x, y), loss, n_epochs=20, batch_size=10, lr=0.05)
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert moved == [False, False, True, True, False, False]
    assert history.loss[-1] < history.loss[0]


def test_one_tensor_of_data_and_float32(data):
    model = network(torch.float32)
    history = fit(model, (data[0].float(),), lambda model, x: (model(x) - 1).square().mean(), **OPTIONS)
    assert history.loss[-1] < history.loss[0]
    assert model.weights[0].dtype == torch.float32


# Randomness


@pytest.mark.parametrize("loss", [squared, noisy])
def test_the_same_call_gives_the_same_weights(loss, data):
    one, two, three = network(), network(), network()
    first = fit(one, data, loss, seed=1, **OPTIONS)
    torch.rand(3)
    second = fit(two, data, loss, seed=1, **OPTIONS)
    fit(three, data, loss, seed=2, **OPTIONS)
    assert torch.equal(weights(one), weights(two))
    assert first.loss == second.loss
    assert not torch.equal(weights(one), weights(three))


def test_the_global_generator_is_given_back(data):
    before = torch.get_rng_state()
    fit(network(), data, noisy, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError):
        fit(network(), data, lambda model, x, y: torch.randn(()) / (1 // 0), **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_changes_nothing_and_is_the_mean_loss(data):
    with_it, without = network(), network()
    history = fit(with_it, data, noisy, validation=tuple(t[:3] for t in data), **OPTIONS)  # less than a batch
    fit(without, data, noisy, **OPTIONS)
    assert torch.equal(weights(with_it), weights(without))
    assert len(history.validation) == 6
    quiet = fit(network(), data, squared, validation=data, **OPTIONS)
    assert quiet.validation[-1] < quiet.validation[0]
    model = network()
    last = fit(model, data, squared, validation=data, **OPTIONS).validation[-1]
    assert last == pytest.approx(squared(model, *data).item(), rel=1e-12)


def test_the_same_noise_in_each_validation(data):
    """With a rate that moves nothing, a noisy validation loss stays where it is."""
    history = fit(network(), data, noisy, validation=data, **OPTIONS | {"lr": 1e-30})
    assert len(set(history.validation)) == 1
    assert len(set(history.loss)) == 6


def test_modes_are_given_back(data):
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)).double()
    model[0].eval()  # frozen on its own
    seen = []

    def loss(m, x, y):
        seen.append(m[1].training)
        return squared(m, x, y)

    fit(model, data, loss, validation=data, **OPTIONS | {"n_epochs": 1})
    assert seen == [True] * 5 + [False] * 5
    assert [m.training for m in model] == [False, True, True]


# Divergence


def test_a_loss_that_explodes_is_named(data):
    message = r"the loss is (nan|inf) in epoch \d+, batch \d of 5: try a smaller"
    with pytest.raises(TrainingDiverged, match=message) as e:
        fit(network(activation="identity"), data, squared, optimiser="sgd", **OPTIONS | {"lr": 50.0, "n_epochs": 200})
    assert isinstance(e.value, FloatingPointError)
    assert len(e.value.history.loss) < 200
    assert all(map(math.isfinite, e.value.history.loss))


def test_the_step_of_a_nan_is_not_made(data, tmp_path):
    model, calls = network(), []

    def loss(model, x, y):
        calls.append(weights(model).clone())
        return squared(model, x, y) * (math.nan if len(calls) == 8 else 1)

    with pytest.raises(TrainingDiverged, match="the loss is nan in epoch 2, batch 3 of 5") as e:
        fit(model, data, loss, checkpoint=tmp_path / "run", **OPTIONS)
    assert torch.equal(weights(model), calls[-1])
    assert len(e.value.history.loss) == 1
    assert torch.load(tmp_path / "run", weights_only=True)["epoch"] == 1


# Checkpoints


def straight(data, loss=noisy, **options):
    model = network()
    return model, fit(model, data, loss, **OPTIONS | options)


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
def test_more_epochs_later_are_the_same_run(optimiser, data, tmp_path):
    model, history = straight(data, optimiser=optimiser)
    fit(network(), data, noisy, optimiser=optimiser, checkpoint=tmp_path / "run", **OPTIONS | {"n_epochs": 2})
    resumed = network()
    second = fit(resumed, data, noisy, optimiser=optimiser, checkpoint=tmp_path / "run", **OPTIONS)
    assert torch.equal(weights(resumed), weights(model))
    assert second.loss == history.loss
    assert len(second.seconds) == 6


def test_a_finished_run_is_only_read(data, tmp_path):
    model, history = straight(data, checkpoint=tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    again = network()
    assert fit(again, data, noisy, checkpoint=tmp_path / "run", **OPTIONS) == history
    assert torch.equal(weights(again), weights(model))
    assert (tmp_path / "run").read_bytes() == before
    assert os.listdir(tmp_path) == ["run"]


def test_a_checkpoint_holds_the_state_dict(data, tmp_path):
    model, history = straight(data, checkpoint=str(tmp_path / "run"))
    saved = torch.load(tmp_path / "run", weights_only=True)
    other = network()
    other.load_state_dict(saved["model"])
    assert torch.equal(weights(other), weights(model))
    assert saved["history"]["loss"] == history.loss


def test_buffers_are_resumed_too(data, tmp_path):
    """The running means of batch normalisation are no parameters."""

    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)).double()

    options = {"n_epochs": 4, "batch_size": 6, "lr": 0.01}
    with torch.random.fork_rng():
        one, two, three = model(), model(), model()
    fit(one, data, squared, **options)
    fit(two, data, squared, checkpoint=tmp_path / "run", **options | {"n_epochs": 1})
    fit(three, data, squared, checkpoint=tmp_path / "run", **options)
    assert torch.equal(weights(one), weights(three))


@pytest.fixture
def interruptible():
    """Python's own answer to Ctrl-C: a shell starts what runs in the background with this signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("step", [1, 7, 10, 12, 29, 30])
def test_an_interrupt_between_two_steps_loses_nothing(step, data, tmp_path):
    """Ctrl-C while step 1, 2, ... is being made: it is finished, the state is saved, and the next call goes on."""
    expected, history = straight(data)
    calls = []

    def interrupted(model, x, y):
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return noisy(model, x, y)

    interrupted.__qualname__ = noisy.__qualname__  # the same loss, as far as its name goes
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on from"):
        fit(network(), data, interrupted, checkpoint=tmp_path / "run", **OPTIONS)
    assert len(calls) == step
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = network()
    second = fit(resumed, data, noisy, checkpoint=tmp_path / "run", **OPTIONS)
    assert torch.equal(weights(resumed), weights(expected))
    assert second.loss == history.loss


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_is_obeyed_at_once(data, tmp_path):
    def loss(model, x, y):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        fit(network(), data, loss, checkpoint=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("interruptible")
def test_without_a_checkpoint_an_interrupt_is_left_alone(data):
    def loss(model, x, y):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        fit(network(), data, loss, **OPTIONS)


def test_in_another_thread(data, tmp_path):
    """Only the main thread may handle signals."""
    results = []
    thread = threading.Thread(target=lambda: results.append(straight(data, checkpoint=tmp_path / "run")[0]))
    thread.start()
    thread.join()
    assert torch.equal(weights(results[0]), weights(straight(data)[0]))


SCRIPT = """
import sys, time, torch
from course_lib.networks import MLP
from course_lib.training import fit


def train(checkpoint, pause):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    model = MLP((2, 16, 1), generator=generator, dtype=torch.float64)

    def loss(model, x):
        time.sleep(pause)
        return (model(x + 0.1 * torch.randn_like(x)) - x.prod(1, keepdim=True)).square().mean()

    fit(model, (x,), loss, n_epochs=60, batch_size=20, lr=0.01, checkpoint=checkpoint, progress=False)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], float(sys.argv[2]))
"""


def test_killed_at_any_time_it_ends_in_the_same_weights(tmp_path):
    """SIGKILL at two moments that nobody chose, each in a process of its own, and then to the end."""
    here = {"__name__": "here"}
    exec(SCRIPT, here)
    path, held = tmp_path / "run", []
    for wait in (0.11, 0.27):
        before = path.stat().st_mtime_ns if path.exists() else 0
        with subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), "0.003"], cwd=ROOT) as process:
            while not path.exists() or path.stat().st_mtime_ns == before:
                time.sleep(0.005)
            time.sleep(wait)
            process.kill()
        assert process.returncode != 0
        held.append(torch.load(path, weights_only=True)["epoch"])
    assert 1 <= held[0] < held[1] < 60
    assert torch.equal(here["train"](path, 0.0), here["train"](None, 0.0))


@pytest.mark.parametrize(("module", "name"), [(torch, "save"), (os, "fsync"), (os, "replace")])
def test_a_write_that_fails_leaves_the_old_checkpoint(module, name, data, tmp_path, monkeypatch):
    fit(network(), data, noisy, checkpoint=tmp_path / "run", **OPTIONS | {"n_epochs": 2})
    before = (tmp_path / "run").read_bytes()

    def full(thing, *file):
        if name == "save":
            file[0].write(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(OSError, match="no space left"):
            fit(network(), data, noisy, checkpoint=tmp_path / "run", **OPTIONS)
    assert (tmp_path / "run").read_bytes() == before
    resumed = network()
    fit(resumed, data, noisy, checkpoint=tmp_path / "run", **OPTIONS)
    assert torch.equal(weights(resumed), weights(straight(data)[0]))


@pytest.mark.parametrize("damage", ["empty", "half", "tail", "text", "pickle"])
def test_a_damaged_checkpoint_is_not_taken_for_another(damage, data, tmp_path):
    path = tmp_path / "run"
    fit(network(), data, noisy, checkpoint=path, **OPTIONS | {"n_epochs": 1})
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "tail": whole[:-10],
        "text": b"no checkpoint at all",
        "pickle": b"cos\nsystem\n(S'false'\ntR.",
    }
    path.write_bytes(content[damage])
    with pytest.raises(ValueError, match=r"run cannot be read .* delete it to begin anew"):
        fit(network(), data, noisy, checkpoint=path, **OPTIONS)
    assert path.read_bytes() == content[damage]


class Intruder:
    """What is done when it is unpickled, by those who trust it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(data, tmp_path):
    torch.save({"format": Intruder(tmp_path / "trace")}, tmp_path / "run")
    with pytest.raises(ValueError, match="run cannot be read"):
        fit(network(), data, noisy, checkpoint=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [{"format": "another"}, {"a": torch.zeros(1)}, [1, 2]])
def test_another_file_of_torch_is_refused(content, data, tmp_path):
    torch.save(content, tmp_path / "run")
    with pytest.raises(ValueError, match="was not written by this version of fit"):
        fit(network(), data, noisy, checkpoint=tmp_path / "run", **OPTIONS)


def other_loss(model, x, y):
    return squared(model, x, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": MLP((2, 6, 1), dtype=torch.float64)}, r"its model was MLP.*\(2, 5, 1\).* and is now .*\(2, 6, 1\)"),
        ({"model": network(activation="relu")}, "its model was .*activation='tanh'.* is now .*activation='relu'"),
        ({"model": network(torch.float32)}, r"its model was .*float64.* is now .*float32"),
        ({"loss": other_loss}, "its loss was <function noisy> and is now <function other_loss>"),
        ({"optimiser": "momentum"}, "its optimiser was <function adam> and is now <function momentum>"),
        ({"lr": 0.04}, r"its lr was .*0\.03.* is now .*0\.04"),
        ({"batch_size": 6}, "its batch_size was 5 and is now 6"),
        ({"seed": 1}, "its seed was 0 and is now 1"),
        ({"validation": (torch.ones(2, 2), torch.ones(2, 1))}, "its validation was None and is now"),
        ({"gradients": lambda model, x, y: None}, "its gradients was 'autograd' and is now <function"),
        ({"n_epochs": 1}, "holds more than the 1 epochs"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(change, message, data, tmp_path):
    fit(network(), data, noisy, checkpoint=tmp_path / "run", **OPTIONS | {"n_epochs": 2})
    before = (tmp_path / "run").read_bytes()
    arguments = {"model": network(), "data": data, "loss": noisy, "checkpoint": tmp_path / "run"} | OPTIONS | change
    with pytest.raises(ValueError, match=message):
        fit(**arguments)
    assert (tmp_path / "run").read_bytes() == before


def test_the_checkpoint_of_other_data_is_refused(data, tmp_path):
    fit(network(), data, noisy, checkpoint=tmp_path / "run", **OPTIONS)
    x, y = data
    for other in ((x[:22], y[:22]), (x, y + 1e-15)):
        with pytest.raises(ValueError, match="its data was"):
            fit(network(), other, noisy, checkpoint=tmp_path / "run", **OPTIONS)


def test_functions_in_another_place_of_the_memory_are_the_same(data, tmp_path):
    """A partial, a lambda and a schedule, made anew as a new process makes them."""
    from functools import partial

    for _ in range(2):
        fit(
            network(), data, lambda model, x, y: squared(model, x, y), optimiser=partial(momentum, beta=0.5),
            n_epochs=2, batch_size=5, lr=learning_rate_schedule("inverse", 0.1, decay=1.0),
            checkpoint=tmp_path / "run",
        )  # fmt: skip


# Device and progress


def test_device(device, data):
    model = network()
    history = fit(model, data, noisy, device=device, validation=data, **OPTIONS)
    assert all(p.device.type == device.type for p in model.parameters())
    assert data[0].device.type == "cpu"
    assert history.loss[-1] < history.loss[0]
    fit(model, data, squared, **OPTIONS | {"n_epochs": 1})  # by default where the model is
    assert model.weights[0].device.type == device.type


def test_a_device_that_is_not_there(data):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(ValueError, match="device is cuda and PyTorch finds no CUDA device here"):
        fit(network(), data, squared, device="cuda", **OPTIONS)


def test_data_that_do_not_fit_are_moved_batch_by_batch(data, device, monkeypatch):
    """The move of whole tensors fails, that of their rows does not."""
    expected = straight(data, squared, device=device)[0]
    plain = torch.Tensor.to

    def narrow(tensor, *arguments, **options):
        if tensor.ndim == 2 and len(tensor) == 23:
            raise torch.cuda.OutOfMemoryError("too large")
        return plain(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", narrow)
    assert torch.equal(weights(straight(data, squared, device=device)[0]), weights(expected))


@pytest.mark.parametrize("fetched", [1, 60, 100, 10**6])
def test_how_many_batches_are_fetched_at_once_changes_nothing(data, fetched, monkeypatch):
    expected, history, *_ = straight(data, squared)
    monkeypatch.setattr(training, "FETCHED", fetched)
    model, other, *_ = straight(data, squared)
    assert torch.equal(weights(model), weights(expected))
    assert history.loss == other.loss


def test_a_short_run_prints_nothing(data, capsys):
    fit(network(), data, squared, **OPTIONS | {"progress": True})
    assert capsys.readouterr() == ("", "")


def test_a_long_run_shows_a_bar_on_stderr_only(data, capsys, monkeypatch):
    from tqdm.std import tqdm

    plain = tqdm.__init__
    monkeypatch.setattr(tqdm, "__init__", lambda self, **options: plain(self, **options | {"delay": 0, "ascii": True}))
    fit(network(), data, squared, **OPTIONS | {"progress": True})
    out, err = capsys.readouterr()
    assert out == ""
    assert "/30" in err
    fit(network(), data, squared, **OPTIONS | {"progress": False})
    assert capsys.readouterr() == ("", "")


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": torch.zeros(3, 2)}, TypeError, "data is one tensor: give a tuple"),
        ({"data": ()}, ValueError, "data is empty"),
        ({"data": (torch.zeros(3, 2), [1, 2, 3])}, TypeError, r"data\[1\] is a list"),
        ({"data": (torch.zeros(3, 2), torch.zeros(4, 1))}, ValueError, r"shapes \(3, 2\), \(4, 1\): the first"),
        ({"data": (torch.zeros(0, 2),)}, ValueError, "must be the same, and not 0"),
        ({"data": (torch.tensor(1.0),)}, ValueError, "the first dimension must be the same"),
        ({"data": (torch.tensor([[1.0], [math.nan]]),)}, ValueError, r"data\[0\]\[1, 0\] is nan"),
        ({"validation": (torch.zeros(3, 2), torch.zeros(4, 1))}, ValueError, "validation has shapes"),
        ({"n_epochs": 0}, ValueError, "n_epochs is 0: it must be 1 or more"),
        ({"n_epochs": 2.0}, TypeError, "n_epochs is a float"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"batch_size": 24}, ValueError, "batch_size is 24 and there are 23 data"),
        ({"lr": 0.0}, ValueError, r"lr is 0\.0: it must be positive"),
        ({"lr": lambda step: -1.0}, ValueError, r"lr is -1\.0: the learning rate"),
        ({"optimiser": "adamw"}, ValueError, "optimiser is 'adamw': give a step function or one of sgd, momentum"),
        ({"gradients": "numeric"}, ValueError, "gradients is 'numeric': give 'autograd' or a function"),
        ({"gradients": lambda *a: (1.0, [])}, ValueError, "there are 4 parameters and 0 gradients"),
        ({"model": torch.nn.Flatten()}, ValueError, "no parameters that require a gradient"),
        ({"loss": lambda model, x, y: model(x)}, ValueError, r"loss returned a tensor of shape \(5, 1\)"),
        ({"loss": lambda model, x, y: 1.0}, ValueError, "loss returned float: it must return a scalar tensor"),
        ({"checkpoint": "no/such/folder/run"}, ValueError, "there is no folder no/such/folder"),
    ],
)
def test_bad_input(change, error, message, data):
    arguments = {"model": network(), "data": data, "loss": squared} | OPTIONS | change
    with pytest.raises(error, match=message.replace("/", r"[/\\]")):
        unchecked(fit)(**arguments)


def test_evaluate_refuses_what_fit_refuses(data):
    with pytest.raises(ValueError, match="batch_size is 24 and there are 23 data"):
        evaluate(network(), data, squared, 24)
    with pytest.raises(TypeError, match="data is one tensor"):
        unchecked(evaluate)(network(), data[0], squared, 2)


def test_evaluate_leaves_model_and_generators_alone(data):
    model, enabled = network(), []
    before = torch.get_rng_state()

    def loss(model, x, y):
        enabled.append(torch.is_grad_enabled())
        return squared(model, x, y)

    value = evaluate(model, data, loss, batch_size=4)
    assert enabled == [False] * 6
    assert value == pytest.approx(squared(model, *data).item(), rel=1e-12)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_history_is_a_tuple_with_names():
    history = History([1.0], [2.0], [0.1], [0.5])
    assert history._fields == ("loss", "validation", "lr", "seconds")
