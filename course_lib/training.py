r"""Training of any torch.nn.Module by minibatches: seeded, checkpointed, the same after an interruption (chapter 4).

`fit` is the algorithm of chapter 4 and no more: for each epoch a fresh permutation, for each batch a gradient and a
step. All that the rest of a run depends on is in one place, `_Run.state_dict`: parameters, what the optimiser
remembers, both random generators, the number of batches done. A checkpoint holds that and what the run was asked to
do, and is written whole or not at all.
"""

import math
import os
import re
import signal
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from course_lib._validation import check_count, check_device, check_finite
from course_lib.optimisers import OPTIMISERS, learning_rate_schedule, minibatches

__all__ = ["History", "TrainingDiverged", "evaluate", "fit"]

FORMAT = "course_lib checkpoint 1"
FETCHED = 1 << 17  # numbers in the batches that are fetched at once: 512 KiB in float32


class History(NamedTuple):
    """What `fit` measured, one entry for each epoch.

    loss: mean over the data of the loss that each datum had when its batch came, in the unit of the loss;
    validation: mean loss over the validation data at the end of the epoch (empty if there are none);
    lr: the rate of the epoch's last step; seconds: the time of the epoch, without its validation and checkpoint.

    Examples:
        >>> History([0.5, 0.25], [], [0.1, 0.1], [1.0, 1.0]).loss[-1]
        0.25
    """

    loss: list[float]
    validation: list[float]
    lr: list[float]
    seconds: list[float]


class TrainingDiverged(FloatingPointError):
    """The loss of a batch was NaN or infinite; `history` holds the epochs before.

    The parameters are those before the step that this batch would have made, and a checkpoint holds the last epoch.

    Examples:
        >>> TrainingDiverged("the loss is nan", History([2.0], [], [0.1], [0.1])).history.loss
        [2.0]
    """

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history


def fit(
    model: torch.nn.Module,
    data: tuple[Tensor, ...],
    loss: Callable[..., Tensor],
    *,
    n_epochs: int,
    batch_size: int,
    lr: float | Callable[[int], float],
    optimiser: str | Callable = "adam",
    seed: int = 0,
    device: torch.device | str | None = None,
    gradients: str | Callable = "autograd",
    validation: tuple[Tensor, ...] | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place by minibatches, and return the loss of each epoch.

    data: a tuple of tensors with the same first dimension, such as (x,) or (x, y); a batch is the same rows of each.
    loss(model, *batch): the mean loss of the batch, a scalar tensor; its unit is the unit of the history.
    lr: a rate, or a function that gives the rate of step 0, 1, 2, ... such as `learning_rate_schedule` makes.
    optimiser: "sgd", "momentum", "nesterov", "adam", or a step function like those of `course_lib.optimisers`.
    gradients: "autograd", or a function (model, *batch) -> (loss, gradients in the order of model.parameters()), or
    "analytic" for a loss that brings such a function as its attribute `gradients`, like `vae_loss` of course_lib.vae;
    of a functools.partial, the options go to both. If the function has an attribute `prepare`, prepare(model,
    *data) is called once, and what it returns takes the function's place. That may look at the data once and for all,
    and use its memory again: the gradients that it returns need last only until its next call.
    validation: a tuple like data; its mean loss is measured after each epoch, and does not change the training.

    Randomness: the permutations come from a generator of their own, seeded by `seed`. PyTorch's global generator, from
    which a loss may draw, is seeded by `seed` too, and given back as it was. So the same call gives the same weights,
    bit for bit on the same CPU with the same number of threads.
    device: where to train; by default where the model is. The model is moved there, and the data, once if they fit.
    checkpoint: a file. It is written after each epoch and, between two steps, when you interrupt (Ctrl-C). If it
    exists, the run goes on from it, and ends in the weights that it would have had without the interruption. n_epochs
    may be larger then; model, data, validation, loss, gradients, optimiser, lr, batch_size, seed and the kind of device
    must be the same. (Of a function, only the name is compared.) The model's state_dict is
    torch.load(checkpoint, weights_only=True)["model"].
    progress: a bar on stderr, for runs of more than five seconds.

    Raises TypeError or ValueError for input that does not fit together and for a checkpoint of another run, and
    TrainingDiverged when the loss is NaN or infinite.
    Chapter 4, algorithm alg-sgd. L. Bottou, F. Curtis, J. Nocedal, Optimization Methods for Large-Scale Machine
    Learning (2018).

    Examples:
        >>> from course_lib.networks import MLP
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> model = MLP((1, 8, 1), generator=torch.Generator().manual_seed(0))
        >>> def loss(model, x, y):
        ...     return (y - model(x)).square().mean()
        >>> history = fit(model, (x, x**2), loss, n_epochs=200, batch_size=5, lr=0.01)
        >>> len(history.loss), history.loss[-1] < 0.01 < history.loss[0]
        (200, True)
    """
    run = _Run(model, data, loss, n_epochs, batch_size, lr, optimiser, seed, device, gradients, validation)
    path = _check_folder(checkpoint)
    with _own_randomness(seed, run.device), _mode_of(model, training=True), _interrupts(path) as interrupted:
        if path is not None and path.exists():
            run.load_state_dict(_read(path, run.settings, n_epochs))
        with _progress_bar(run, progress) as bar:
            while run.epoch < n_epochs:
                for _ in run.steps_of_epoch():
                    bar.update()
                    if interrupted.is_set():
                        break
                else:
                    run.end_epoch()
                    bar.set_postfix(loss=f"{run.history.loss[-1]:.4g}", refresh=False)
                if path is not None:
                    _write(path, run)
                if interrupted.is_set():
                    raise KeyboardInterrupt(f"interrupted; the same call goes on from {path}")
    return run.history


@torch.no_grad()
def evaluate(model: torch.nn.Module, data: tuple[Tensor, ...], loss: Callable[..., Tensor], batch_size: int) -> float:
    """The mean loss over the data, in evaluation mode, batch by batch; a short last batch has its share and no more.

    data, loss and batch_size are as for `fit`; the batches are moved to the device of the model.
    Raises TypeError or ValueError for data that do not fit together or a batch size outside 1, ..., N.
    Chapter 4, equation eq-epoch-loss.

    Examples:
        >>> model = torch.nn.Flatten()
        >>> x = torch.tensor([[1.0], [2.0], [6.0]])
        >>> evaluate(model, (x,), lambda model, x: model(x).mean(), batch_size=2)
        3.0
    """
    n = _check_data("data", data)
    _check_count("batch_size", batch_size, n)
    device = next((parameter.device for parameter in model.parameters()), data[0].device)
    total = 0.0
    with _mode_of(model, training=False):
        for batch in zip(*(t.split(batch_size) for t in data), strict=True):
            total += len(batch[0]) * loss(model, *(t.to(device) for t in batch)).item()
    return total / n


# One run


class _Run:
    """The model, the data, and all that changes while they meet."""

    def __init__(self, model, data, loss, n_epochs, batch_size, lr, optimiser, seed, device, gradients, validation):
        self.n = _check_data("data", data)
        _check_count("batch_size", batch_size, self.n)
        _check_count("n_epochs", n_epochs)
        if validation is not None:
            _check_data("validation", validation)
        if gradients == "analytic":
            gradients = _analytic(loss)
        if gradients != "autograd" and not callable(gradients):
            raise ValueError(
                f"gradients is {gradients!r}: give 'autograd' or a function (model, *batch), or 'analytic' for a loss "
                "that brings its own"
            )
        self.n_epochs, self.batch_size, self.loss, self.seed = n_epochs, batch_size, loss, seed
        self.optimise = _step_function(optimiser)
        self.rate = lr if callable(lr) else learning_rate_schedule("constant", lr)
        self.gradients = self._by_autograd if gradients == "autograd" else gradients
        self.params = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self.params:
            raise ValueError("the model has no parameters that require a gradient: there is nothing to train")
        self.device = check_device(device) if device is not None else self.params[0].device
        self.model = model.to(self.device)
        self.data = _moved(data, self.device)
        self.value_and_gradients = _prepared(self.gradients, self.model, self.data)
        self.validation = None if validation is None else _moved(validation, self.device)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser_state = {}
        self.history = History([], [], [], [])
        self.epoch = self.batches_done = 0
        self.epoch_loss = self.epoch_seconds = 0.0
        self.before_shuffle = self.generator.get_state()

    @cached_property
    def settings(self):
        """What a checkpoint must agree with, in words and numbers."""
        described = {
            "model": self.model,
            "parameters": {name: (tuple(t.shape), t.dtype) for name, t in self.model.state_dict().items()},
            "data": [_fingerprint(t) for t in self.data],
            "validation": self.validation and [_fingerprint(t) for t in self.validation],
            "loss": self.loss,
            "gradients": self.gradients if self.gradients != self._by_autograd else "autograd",
            "optimiser": self.optimise,
            "lr": self.rate,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "device": self.device.type,
        }
        # an address is another one in the next process
        return {name: re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing)) for name, thing in described.items()}

    @cached_property
    def n_batches(self):
        return math.ceil(self.n / self.batch_size)

    @property
    def steps_done(self):
        return self.epoch * self.n_batches + self.batches_done

    def steps_of_epoch(self):
        """Yield after each step of the epoch; those that a checkpoint has done already are left out."""
        self.before_shuffle = self.generator.get_state()
        started = time.perf_counter() - self.epoch_seconds
        for batch in self._batches():
            value, grads = self.value_and_gradients(self.model, *batch)
            self.epoch_loss += len(batch[0]) * self._finite(value)
            self.optimise(self.params, grads, self.optimiser_state, self.rate(self.steps_done))
            self.batches_done += 1
            self.epoch_seconds = time.perf_counter() - started
            yield

    def _batches(self):
        """The batches that are left of the epoch. Many small ones are fetched at once, in one piece of memory."""
        indices = minibatches(self.n, self.batch_size, self.generator)[self.batches_done :]
        row = sum(t[0].numel() for t in self.data)
        at_once = max(1, FETCHED // (self.batch_size * row)) if row else len(indices)
        for k in range(0, len(indices), at_once):
            index = torch.cat(indices[k : k + at_once])
            fetched = [t.index_select(0, index.to(t.device)).split(self.batch_size) for t in self.data]
            for batch in zip(*fetched, strict=True):
                yield [t.to(self.device) for t in batch]

    def end_epoch(self):
        self.history.loss.append(self.epoch_loss / self.n)
        self.history.lr.append(self.rate(self.steps_done - 1))
        self.history.seconds.append(self.epoch_seconds)
        if self.validation is not None:
            with _own_randomness(self.seed, self.device):  # the same noise in each epoch, and none taken from training
                size = min(self.batch_size, len(self.validation[0]))
                self.history.validation.append(evaluate(self.model, self.validation, self.loss, size))
        self.epoch, self.batches_done, self.epoch_loss, self.epoch_seconds = self.epoch + 1, 0, 0.0, 0.0
        self.before_shuffle = self.generator.get_state()

    def _by_autograd(self, model, *batch):
        value = self.loss(model, *batch)
        if not isinstance(value, Tensor) or value.ndim:
            what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss returned {what}: it must return a scalar tensor, the mean over the batch")
        return value, torch.autograd.grad(value, self.params, materialize_grads=True)

    def _finite(self, value):
        value = value.item() if isinstance(value, Tensor) else float(value)
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the loss is {value} in epoch {self.epoch + 1}, batch {self.batches_done + 1} of {self.n_batches}: "
                "try a smaller learning rate, or look for NaN and extreme values in that batch",
                self.history,
            )
        return value

    def state_dict(self):
        """All that the rest of the run depends on; tensors, numbers, text, and lists and dicts of them."""
        return {
            "format": FORMAT,
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimiser_state": self.optimiser_state,
            "epoch": self.epoch,
            "batches_done": self.batches_done,
            "epoch_loss": self.epoch_loss,
            "epoch_seconds": self.epoch_seconds,
            "before_shuffle": self.before_shuffle,
            "global_generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "history": self.history._asdict(),
        }

    def load_state_dict(self, saved):
        self.model.load_state_dict(saved["model"])
        self.optimiser_state = _map_tensors(saved["optimiser_state"], lambda t: t.to(self.device))
        self.epoch, self.batches_done = saved["epoch"], saved["batches_done"]
        self.epoch_loss, self.epoch_seconds = saved["epoch_loss"], saved["epoch_seconds"]
        self.history = History(**saved["history"])
        self.generator.set_state(saved["before_shuffle"])  # the permutation is drawn again
        torch.set_rng_state(saved["global_generator"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["device_generator"], self.device)


# Checkpoints


def _write(path, run):
    """The whole file under another name first: a file of this name is never half written."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        torch.save(run.state_dict(), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _read(path, settings, n_epochs):
    with open(path, "rb") as file:
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of many types, by the place where the file ends
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}): it is damaged, or not a checkpoint; "
                "delete it to begin anew, or give another name"
            ) from error
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by this version of fit: give another name")
    for name, now in settings.items():
        then = saved["settings"][name]
        if then != now:
            raise ValueError(
                f"{path} belongs to another run: its {name} was {_unlike(then, now)} and is now {_unlike(now, then)}; "
                "give another name, or delete the file to begin anew"
            )
    if saved["epoch"] + (saved["batches_done"] > 0) > n_epochs:
        raise ValueError(f"{path} holds more than the {n_epochs} epochs that n_epochs asks for: give another name")
    return saved


def _unlike(text, other, width=60):
    """The text from shortly before the place where it begins to differ."""
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    start = max(0, same - width // 2)
    return ("..." if start else "") + " ".join(text[start : start + width].split())


def _fingerprint(tensor):
    """Shape, type and a checksum."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{tuple(tensor.shape)} {tensor.dtype} {zlib.crc32(flat.numpy()):08x}"


def _map_tensors(nest, function):
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, dict):
        return {key: _map_tensors(value, function) for key, value in nest.items()}
    if isinstance(nest, list | tuple):
        return type(nest)(_map_tensors(value, function) for value in nest)
    return nest


# What surrounds a run


@contextmanager
def _own_randomness(seed, device):
    """PyTorch's global generators, seeded here and given back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _mode_of(model, training):
    """Training or evaluation mode, and afterwards for each module what it was in before."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def _interrupts(path):
    """An event that Ctrl-C sets, so that no step is cut in two; a second Ctrl-C interrupts at once."""
    event, before = threading.Event(), signal.getsignal(signal.SIGINT)
    if path is None or before is None or threading.current_thread() is not threading.main_thread():
        yield event  # nothing to save, or no right to handle signals
        return

    def first_time(number, frame):
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first_time)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _progress_bar(run, wanted):
    from tqdm.std import tqdm  # not tqdm.auto, whose bar in a notebook is an output of its own

    steps = {"total": run.n_epochs * run.n_batches, "initial": run.steps_done, "unit": "step"}
    return tqdm(**steps, delay=5, leave=False, disable=not wanted)


# Input


def _check_data(name, data):
    if isinstance(data, Tensor):
        raise TypeError(f"{name} is one tensor: give a tuple, (x,) or (x, y)")
    if not data:
        raise ValueError(f"{name} is empty: give a tuple of tensors, (x,) or (x, y)")
    for i, tensor in enumerate(data):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}[{i}] is a {type(tensor).__name__}: give a torch.Tensor")
        if tensor.ndim == 0 or len(tensor) != len(data[0]) or len(tensor) == 0:
            shapes = ", ".join(str(tuple(t.shape)) for t in data)
            raise ValueError(f"{name} has shapes {shapes}: the first dimension must be the same, and not 0")
        if tensor.is_floating_point():
            check_finite(f"{name}[{i}]", tensor)
    return len(data[0])


def _check_count(name, value, n=None):
    check_count(name, value)
    if n is not None and value > n:
        raise ValueError(f"{name} is {value} and there are {n} data: a batch cannot be larger than the data")


def _check_folder(checkpoint):
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"checkpoint is {path} and there is no folder {path.parent}: make it first")
    return path


def _analytic(loss):
    """The gradients that the author of a loss has written, with the options of the loss."""
    if isinstance(loss, partial):
        return partial(_analytic(loss.func), *loss.args, **loss.keywords)
    gradients = getattr(loss, "gradients", None)
    if not callable(gradients):
        name = getattr(loss, "__name__", type(loss).__name__)
        raise ValueError(
            f"gradients is 'analytic', and the loss {name} brings none: give 'autograd', or set {name}.gradients to a "
            "function (model, *batch) -> (loss, gradients)"
        )
    return gradients


def _prepared(gradients, model, data):
    """What is called at each step: of a function that brings `prepare`, what that makes for this model and data."""
    if isinstance(gradients, partial):
        return partial(_prepared(gradients.func, model, data), *gradients.args, **gradients.keywords)
    return gradients.prepare(model, *data) if hasattr(gradients, "prepare") else gradients


def _step_function(optimiser):
    if callable(optimiser):
        return optimiser
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser is {optimiser!r}: give a step function or one of {', '.join(OPTIMISERS)}")
    return OPTIMISERS[optimiser]


def _moved(data, device):
    """The data on the device, or, where they do not fit, as they are: then each batch is moved."""
    try:
        return tuple(t.to(device) for t in data)
    except torch.cuda.OutOfMemoryError:
        return tuple(data)
