"""Data sets against scikit-learn, and downloads against a server on this machine that misbehaves on request."""

import functools
import gzip
import hashlib
import http.server
import inspect
import math
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split as split_of_sklearn
from sklearn.preprocessing import StandardScaler

from course_lib import data
from course_lib.data import fetch, load_mnist, read_idx, standardise, train_test_split

unchecked = inspect.unwrap
close = torch.testing.assert_close
BUNDLED = ["breast_cancer", "diabetes", "digits", "iris"]


# From scikit-learn


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bundled_data_are_those_of_sklearn(name, dtype):
    kind = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(sklearn.datasets, f"load_{name}")(**kind)
    kind = {"scaled": False} if name == "digits" else {}
    x, y, features, classes = getattr(data, f"load_{name}")(dtype=dtype, **kind)
    assert x.dtype == dtype
    close(x, torch.tensor(bunch.data, dtype=dtype), rtol=0, atol=0)
    assert len(features) == x.shape[1]
    if name == "diabetes":
        assert (y.dtype, y.shape, classes) == (dtype, (442, 1), ())
    else:
        assert (y.dtype, y.shape) == (torch.int64, x.shape[:1])
        assert y.unique().tolist() == list(range(len(classes)))
    assert y.flatten().tolist() == bunch.target.tolist()


def test_digits_are_scaled_to_the_unit_interval():
    x, raw = data.load_digits().x, data.load_digits(scaled=False).x
    assert (x.min(), x.max()) == (0, 1)
    assert torch.equal(16 * x, raw)


def test_loading_twice_gives_tensors_of_ones_own():
    first = data.load_iris()
    first.x[:] = 0
    assert data.load_iris().x.max() > 0


@pytest.mark.parametrize("name", BUNDLED)
def test_no_network_is_needed(name, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it opened a connection"))
    assert len(getattr(data, f"load_{name}")().x)


@pytest.mark.parametrize("name", BUNDLED)
def test_an_unknown_dtype_is_refused(name):
    with pytest.raises(TypeError, match=r"dtype is torch\.float16: give torch\.float32 or torch\.float64"):
        getattr(data, f"load_{name}")(dtype=torch.float16)


# Made


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_gap_is_made_by_its_recipe(split):
    rng = np.random.RandomState(["train", "test"].index(split))
    parts = {"train": [(-4, -1.5, 30), (1.5, 4, 30)], "test": [(-4, 4, 400)]}[split]
    x = np.concatenate([rng.uniform(*part) for part in parts])
    y = np.sin(1.5 * x) + 0.3 * x + 0.2 * rng.randn(len(x))
    made = data.make_gap(split)
    assert (made.x.shape, made.y.shape) == ((len(x), 1), (len(x), 1))
    assert (made.feature_names, made.class_names) == (("x",), ())
    assert made.x.flatten().tolist() == x.tolist()
    close(made.y.flatten(), torch.tensor(y), rtol=1e-14, atol=1e-14)


def test_the_gap_is_for_training_unless_it_is_said():
    assert torch.equal(data.make_gap().x, data.make_gap("train").x)


def test_the_gap_has_its_law():
    train, test = data.make_gap(), data.make_gap("test")
    assert (train.x < -1.5).sum() == (train.x > 1.5).sum() == 30
    assert (test.x.abs() < 1.5).double().mean().item() == pytest.approx(3 / 8, abs=5 * (15 / 64 / 400) ** 0.5)
    for x, y, *_ in (train, test):
        noise = (y - torch.sin(1.5 * x) - 0.3 * x) / 0.2
        assert abs(noise.mean().item()) < 4 / len(x) ** 0.5
        assert noise.square().mean().item() == pytest.approx(1, abs=4 * (2 / len(x)) ** 0.5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_gap_draws_from_no_global_generator_and_is_made_anew(split):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = data.make_gap(split, dtype=torch.float32)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert (first.x.dtype, first.y.dtype) == (torch.float32, torch.float32)
    close(first.x, data.make_gap(split).x.float(), rtol=0, atol=0)
    first.x[:] = 0
    assert data.make_gap(split).x.abs().max() > 3


def test_the_gap_refuses():
    with pytest.raises(ValueError, match='split is \'both\': give "train" or "test"'):
        data.make_gap("both")
    with pytest.raises(TypeError, match=r"dtype is torch\.float16: give torch\.float32 or torch\.float64"):
        data.make_gap(dtype=torch.float16)


# Splitting and standardising

quick = settings(max_examples=60, deadline=None, derandomize=True)


@quick
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_a_split_holds_each_number_once(n, fraction, seed):
    sizes = [len(part) for part in split_of_sklearn(range(n), test_size=fraction)] if n * fraction <= n - 1 else None
    if sizes is None:
        return
    generator = torch.Generator().manual_seed(seed)
    train, test = train_test_split(n, fraction, generator=generator)
    assert sorted(torch.cat([train, test]).tolist()) == list(range(n))
    assert abs(len(test) - n * fraction) < 1
    if abs(n * fraction - round(n * fraction)) > 1e-6:  # else the rounding of the product decides in scikit-learn
        assert [len(train), len(test)] == sizes


def test_a_split_is_random_and_repeats_with_the_seed():
    draws = [train_test_split(50, 0.3, generator=torch.Generator().manual_seed(seed))[1] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert [len(part) for part in train_test_split(442)] == [353, 89]
    assert [len(part) for part in train_test_split(100, 0.07)] == [93, 7]  # 100 x 0.07 is 7.000000000000001
    hits = torch.zeros(10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        hits[train_test_split(10, 0.2, generator=generator)[1]] += 1
    assert ((hits - 400).abs() < 5 * math.sqrt(2000 * 0.2 * 0.8)).all()


@pytest.mark.parametrize(("n", "fraction"), [(10, 0.0), (10, 1.0), (10, -0.1), (10, math.nan), (1, 0.5), (0, 0.5)])
def test_an_empty_part_is_refused(n, fraction):
    with pytest.raises(ValueError, match=f"of n = {n} data leaves the training or the test set empty: give"):
        train_test_split(n, fraction)


def test_split_on_the_device_of_the_generator(device):
    train, test = train_test_split(10, generator=torch.Generator(device).manual_seed(0))
    assert train.device.type == test.device.type == device.type


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standardise_agrees_with_sklearn(generator, dtype, device):
    train = (5 + 3 * torch.randn(30, 4, generator=generator)).to(device, dtype)
    other = torch.randn(7, 4, generator=generator).to(device, dtype)
    scaler = StandardScaler().fit(train.cpu())
    ours = standardise(train, other, train)
    assert [(t.dtype, t.device.type) for t in ours] == [(dtype, device.type)] * 3
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {}
    close(ours[0].cpu(), torch.tensor(scaler.transform(train.cpu()), dtype=dtype), **tolerance)
    close(ours[1].cpu(), torch.tensor(scaler.transform(other.cpu()), dtype=dtype), **tolerance)
    assert torch.equal(ours[0], ours[2])
    close(ours[0].mean(0).cpu(), torch.zeros(4, dtype=dtype), rtol=0, atol=1e-6)


def test_a_constant_column_is_only_shifted():
    """0.1 has no exact mean, so that the computed deviation is a rounding error and not zero."""
    train = torch.stack([torch.full((7,), 0.1), torch.arange(7.0)], 1).double()
    (mine,) = standardise(train)
    assert mine[:, 0].abs().max() < 1e-15
    other = standardise(train, torch.tensor([[0.6, 3.0]]).double())[1]
    close(other, torch.tensor([[0.5, 0.0]]).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (([[0.0]],), TypeError, "train is a list"),
        ((torch.zeros(3, 2), torch.zeros(3, 2).double()), TypeError, "others[0] is torch.float64 but train is"),
        ((torch.zeros(3),), ValueError, "train has shape (3,): it must be (N, d)"),
        ((torch.zeros(3, 2), torch.zeros(3, 4)), ValueError, "others[0] has shape (3, 4): it must be (N, d)"),
        ((torch.zeros(0, 2),), ValueError, "train has shape (0, 2): there are no data"),
        ((torch.zeros(2, 2), torch.full((1, 2), math.nan)), ValueError, "others[0][0, 0] is nan"),
        ((torch.tensor([[0.0, 1e20], [1.0, 0.0]]),), ValueError, "column 1 of train has a variance beyond the"),
        ((torch.tensor([[1e-30], [0.0]]),), ValueError, "column 0 of train has a variance beyond the range of"),
    ],
)
def test_standardise_refuses(arguments, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        unchecked(standardise)(*arguments)


# IDX files


def idx(array, kind=8, sizes=None):
    sizes = array.shape if sizes is None else sizes
    return bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (0, 28, 28), (300, 2)])
def test_idx_is_read(tmp_path, shape):
    array = np.random.default_rng(0).integers(256, size=shape)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    tensor = read_idx(tmp_path / "a.gz")
    assert (tensor.dtype, tensor.shape) == (torch.uint8, shape)
    assert np.array_equal(tensor.numpy(), array)
    tensor += 1  # its memory is its own


zipped = functools.partial(gzip.compress, mtime=0)  # without the time of the day, the same bytes in every process


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no gzip", "is no whole gzipped IDX file (Not a gzipped file"),
        (zipped(idx(np.zeros((9, 9))))[:-3], "is no whole gzipped IDX file (Compressed file ended"),
        (zipped(b""), "is no whole gzipped IDX file (unpack_from requires"),
        (zipped(b"\0\0\x08\x03\0\0"), "is no whole gzipped IDX file (unpack_from requires"),
        (zipped(b"<h\0\0ml>"), "begins with b'<h\\x00\\x00', and not as an IDX file"),
        (zipped(idx(np.zeros(3), kind=13)), "and not as an IDX file of bytes does"),
        (zipped(idx(np.zeros(5), sizes=(2, 3))), "says (2, 3), and 5 bytes follow"),
        (zipped(idx(np.zeros(7), sizes=(2, 3))), "says (2, 3), and 7 bytes follow"),
    ],
    ids=["no gzip", "cut short", "empty", "half a header", "a page of the web", "doubles", "too short", "too long"],
)
def test_what_is_no_idx_file_is_refused(tmp_path, content, sentence):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(sentence) + ".*: delete the file, and load again"):
        read_idx(tmp_path / "a.gz")


# Downloads

CONTENT = np.random.default_rng(1).bytes(300_000)  # more than one chunk, and no two alike
NAME, CHECKSUM = "file.gz", hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]


class Server(http.server.ThreadingHTTPServer):
    """It answers the n-th request as the n-th entry of `plan` says, and from then on as the last. It keeps a log."""

    daemon_threads = True

    def __init__(self, *plan, content=CONTENT):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.content, self.log = plan, content, []
        self.address = f"http://127.0.0.1:{self.server_address[1]}/a/folder/"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def handle_error(self, request, client_address):
        """A client that hangs up early is part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, start = self.server, 0
        answer = server.plan[min(len(server.log), len(server.plan) - 1)]
        server.log.append((self.path, self.headers.get("Range")))
        if isinstance(answer, int):
            return self.send_error(answer)
        if answer == "hang up":
            return None
        if answer == "silence":
            return time.sleep(2)
        content = server.content.get(Path(self.path).name) if isinstance(server.content, dict) else server.content
        if "range" in answer and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            at = start + 1 if "wrong place" in answer else start
            self.send_header("Content-Range", f"bytes {at}-{len(content) - 1}/{len(content)}")
        if "no length" not in answer:
            self.send_header("Content-Length", "some" if "nonsense" in answer else str(len(body)))
        self.end_headers()
        body = body[: 100_000 if "closes" in answer else None]
        return self.wfile.write(body)

    def log_message(self, *_):
        """Nothing on stderr."""


@pytest.fixture
def serve():
    servers = []

    def start(*plan, **kind):
        servers.append(Server(*plan, **kind))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def every_answer_is_closed(monkeypatch):
    answers, urlopen = [], urllib.request.urlopen

    def recorded(*arguments, **kind):
        try:
            answers.append(urlopen(*arguments, **kind))
        except urllib.error.HTTPError as error:
            answers.append(error)
            raise
        return answers[-1]

    monkeypatch.setattr(urllib.request, "urlopen", recorded)
    yield
    assert all(answer.closed for answer in answers)


def get(tmp_path, *servers, **kind):
    kind = {"sha256": CHECKSUM, "progress": False, "timeout": 1.0} | kind
    return fetch(NAME, tmp_path, mirrors=[getattr(s, "address", s) for s in servers], **kind)


def is_right(tmp_path):
    """The file is there and whole, and nothing beside it."""
    return left_over(tmp_path) == {NAME: len(CONTENT)} and (tmp_path / NAME).read_bytes() == CONTENT


def left_over(tmp_path):
    return {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.name != ".lock"}


def nobody():
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


@pytest.mark.parametrize("plan", ["range", "no ranges here", "no length"])
def test_a_file_comes_and_is_reused(serve, tmp_path, plan):
    server = serve(plan)
    folder = tmp_path / "made" / "on the way"
    assert get(folder, server) == folder / NAME
    assert is_right(folder)
    assert get(folder, server).read_bytes() == CONTENT
    assert server.log == [("/a/folder/file.gz", None)]


def test_a_download_that_broke_off_goes_on_where_it_was(serve, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:123_456])
    server = serve("range")
    get(tmp_path, server)
    assert is_right(tmp_path)
    assert server.log == [("/a/folder/file.gz", "bytes=123456-")]


@pytest.mark.parametrize("plan", ["no ranges here", "range in the wrong place"])
def test_a_server_without_ranges_sends_it_all_again(serve, tmp_path, plan):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:123_456])
    server = serve(plan)
    get(tmp_path, server)
    assert is_right(tmp_path)
    again = [None] if "wrong" in plan else []  # the checksum tells, and it is asked for the whole
    assert [wanted for _, wanted in server.log] == ["bytes=123456-", *again]


def test_a_partial_file_that_is_whole_needs_no_more_than_a_question(serve, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    get(tmp_path, serve("range"))
    assert is_right(tmp_path)


@pytest.mark.parametrize("left", [OTHER[:1000], OTHER, CONTENT + b"more"])
def test_a_partial_file_of_something_else_is_thrown_away(serve, tmp_path, left):
    (tmp_path / f"{NAME}.part").write_bytes(left)
    server = serve("range")
    get(tmp_path, server)
    assert is_right(tmp_path)
    assert [wanted for _, wanted in server.log] == [f"bytes={len(left)}-", None]


@pytest.mark.parametrize("plan", [("range closes",), ("closes", "range"), ("closes", "no ranges here")])
def test_a_server_that_closes_in_the_middle_is_asked_for_the_rest(serve, tmp_path, plan):
    server = serve(*plan)
    get(tmp_path, server)
    assert is_right(tmp_path)
    assert server.log[1][1] == "bytes=100000-"


def test_a_server_that_closes_again_and_again(serve, tmp_path):
    """Without ranges nothing is ever gained; the partial file stays for a better day."""
    server = serve("closes")
    with pytest.raises(ConnectionError, match=r"closed after 100000 of 300000 bytes"):
        get(tmp_path, server)
    assert len(server.log) == 2
    assert left_over(tmp_path) == {f"{NAME}.part": 100_000}
    get(tmp_path, serve("range"))
    assert is_right(tmp_path)


def test_a_server_that_disappears(serve, tmp_path):
    server = serve("closes", "hang up")
    with pytest.raises(ConnectionError, match="closed connection without response"):
        get(tmp_path, server)
    assert left_over(tmp_path) == {f"{NAME}.part": 100_000}


def test_a_liar_is_not_believed(serve, tmp_path):
    """Another file under the right name: refused, deleted, and the next mirror is asked from the start."""
    liar, honest = serve("range", content=OTHER), serve("range")
    get(tmp_path, liar, honest)
    assert is_right(tmp_path)
    assert [wanted for _, wanted in honest.log] == [None]
    (tmp_path / NAME).unlink()
    with pytest.raises(ConnectionError, match="it sent has another checksum"):
        get(tmp_path, liar)
    assert left_over(tmp_path) == {}
    assert len(liar.log) == 2  # asked once each time


def test_what_a_liar_began_does_not_spoil_the_next_mirror(serve, tmp_path):
    """The first 100,000 bytes are another file's. The second mirror adds the rest, sees it, and begins again."""
    liar, honest = serve("closes", "hang up", content=OTHER), serve("range")
    get(tmp_path, liar, honest)
    assert is_right(tmp_path)
    assert [wanted for _, wanted in honest.log] == ["bytes=100000-", None]


@pytest.mark.parametrize("answer", [404, 403, 500, 503, "hang up", "silence", "nonsense"])
def test_the_next_mirror_is_tried(serve, tmp_path, answer):
    bad, good = serve(answer), serve("range")
    get(tmp_path, bad, good, timeout=0.3)
    assert is_right(tmp_path)
    assert len(bad.log) == 1


def test_all_mirrors_fail_and_the_sentence_says_how(serve, tmp_path):
    servers = serve(404), serve(500), serve("silence"), serve("range", content=OTHER)
    dead = nobody()
    with pytest.raises(ConnectionError) as refused:
        get(tmp_path, *servers, dead, timeout=0.3)
    sentence = str(refused.value)
    assert sentence.startswith(f"file.gz could not be downloaded into {tmp_path}:\n- http://127.0.0.1:")
    for server, answer in zip(
        servers, ["answered 404 Not Found", "answered 500 Internal", "no answer in time", "another"], strict=True
    ):
        assert re.search(rf"- {server.address}file.gz: .*{answer}", sentence)
    assert re.search(rf"- {dead}file.gz: .*(refused|No connection)", sentence, re.I)
    for advice in ("Try again later", "put the file into that folder yourself", "mirrors", "load_digits()"):
        assert advice in sentence
    assert left_over(tmp_path) == {}


@pytest.mark.parametrize("there", [CONTENT[:-1], b"", OTHER])
def test_a_damaged_file_is_found_and_fetched_again(serve, tmp_path, there):
    (tmp_path / NAME).write_bytes(there)
    with pytest.raises(ConnectionError, match="is there with another checksum"):
        get(tmp_path, nobody())
    assert (tmp_path / NAME).read_bytes() == there
    get(tmp_path, serve("range"))
    assert is_right(tmp_path)


def test_a_folder_may_be_a_mirror(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    with pytest.raises(ConnectionError, match=r"No such file|not find"):
        get(here, there.as_uri())
    (there / NAME).write_bytes(CONTENT)
    (here / f"{NAME}.part").write_bytes(CONTENT[:1000])
    get(here, there.as_uri() + "/")
    assert is_right(here)


def test_an_interruption_keeps_what_has_come(serve, tmp_path, monkeypatch):
    """Ctrl-C in the middle: what has come is kept under the name that the next call looks for."""
    chunks = []

    def interrupted(*_):
        bar = real(*_)
        bar.update = lambda n: chunks.append(n) or (len(chunks) > 2 and (_ for _ in ()).throw(KeyboardInterrupt))
        return bar

    real = data._bar
    monkeypatch.setattr(data, "_bar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, serve("range"))
    ((name, size),) = left_over(tmp_path).items()
    assert (name, size) == (f"{NAME}.part", sum(chunks))
    assert 0 < size < len(CONTENT)


def test_of_many_at_once_one_fetches_and_the_others_wait(serve, tmp_path):
    server, outcomes = serve("range"), []

    def one():
        outcomes.append(get(tmp_path, server).read_bytes() == CONTENT)

    threads = [threading.Thread(target=one) for _ in range(8)]
    with (tmp_path / ".lock").open("ab") as lock:
        data._wait_for(lock)
        for thread in threads:
            thread.start()
        threads[0].join(0.2)  # by now all have seen that there is no file
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 8
    assert is_right(tmp_path)
    assert len(server.log) == 1


IN_THE_MIDDLE = """
import inspect, pathlib, sys, time
folder, part, first, function = sys.argv[1:]
from contextlib import suppress
exec(function)
with open(f"{folder}/.lock", "ab") as lock:
    _wait_for(lock)
    pathlib.Path(folder, part).write_bytes(bytes.fromhex(first))
    print("locked", flush=True)
    time.sleep(60)
"""


def test_another_process_is_waited_for_and_when_it_is_killed_its_part_is_used(serve, tmp_path):
    """The other process runs the function of `data` that locks, alone: to import torch would take seconds."""
    arguments = str(tmp_path), f"{NAME}.part", CONTENT[:1000].hex(), inspect.getsource(unchecked(data._wait_for))
    command = [sys.executable, "-c", IN_THE_MIDDLE, *arguments]
    server = serve("range")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            waiting = threading.Thread(target=get, args=(tmp_path, server))
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive()
            assert server.log == []
        finally:
            other.kill()
    waiting.join()
    assert is_right(tmp_path)
    assert [wanted for _, wanted in server.log] == ["bytes=1000-"]


def test_without_fcntl_the_lock_is_that_of_windows(tmp_path, monkeypatch):
    """It is asked for again when it gives up."""
    calls = []

    def locking(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise OSError("36: resource deadlock avoided")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_LOCK=1))
    with (tmp_path / ".lock").open("ab") as lock:
        data._wait_for(lock)
        assert calls == [(lock.fileno(), 1, 1)] * 3


def test_a_file_system_without_locks_is_no_obstacle(serve, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(*_):
        raise OSError("38: function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    get(tmp_path, serve("range"))
    assert is_right(tmp_path)


def test_a_good_file_is_only_read(tmp_path):
    """It needs no network, and nothing is made beside it, not even a lock."""
    (tmp_path / NAME).write_bytes(CONTENT)
    assert get(tmp_path, nobody()) == tmp_path / NAME
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_bar_can_be_seen_and_switched_off(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "_bar", lambda *a, bar=data._bar: without_delay(bar(*a)))
    get(tmp_path / "off", serve("range"))
    assert capsys.readouterr() == ("", "")
    get(tmp_path / "on", serve("range"), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "file.gz: 100%" in err


def without_delay(bar):
    bar.delay = 0
    return bar


def test_a_quick_download_shows_no_bar(serve, tmp_path, capsys):
    get(tmp_path, serve("range"), progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "../file"}, "name is '../file': give the name of a file"),
        ({"name": ""}, "name is ''"),
        ({"name": ".."}, "name is '..'"),
        ({"mirrors": []}, "mirrors is []: give a list"),
        ({"mirrors": "https://a.example/"}, "mirrors is 'https://a.example/': give a list"),
        ({"mirrors": ["a.example"]}, "the mirror 'a.example' is no address: it must begin with https://"),
    ],
)
def test_arguments_of_fetch(tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        fetch(**{"name": "f", "root": tmp_path, "mirrors": [nobody()], "sha256": ""} | arguments)


# MNIST


@pytest.fixture
def tiny(monkeypatch):
    """Four files as MNIST has them, with few images, and their checksums."""
    rng = np.random.default_rng(2)
    files = {}
    for kind, n in (("train", 12), ("t10k", 5)):
        files[f"{kind}-images-idx3-ubyte.gz"] = gzip.compress(idx(rng.integers(256, size=(n, 28, 28))))
        files[f"{kind}-labels-idx1-ubyte.gz"] = gzip.compress(idx(rng.integers(10, size=n)))
    monkeypatch.setattr(data, "MNIST", {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    return files


@pytest.mark.parametrize(("train", "n"), [(True, 12), (False, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mnist_comes_as_tensors(serve, tmp_path, tiny, train, n, dtype):
    server = serve("range", content=tiny)
    x, y, features, classes = load_mnist(tmp_path, train=train, mirrors=[server.address], dtype=dtype, progress=False)
    kind = "train" if train else "t10k"
    pixels = np.frombuffer(gzip.decompress(tiny[f"{kind}-images-idx3-ubyte.gz"])[16:], np.uint8).reshape(n, 784)
    close(x, torch.tensor(pixels / 255, dtype=dtype))
    assert y.tolist() == list(gzip.decompress(tiny[f"{kind}-labels-idx1-ubyte.gz"])[8:])
    assert (y.dtype, len(features), classes) == (torch.int64, 784, tuple("0123456789"))
    again = load_mnist(tmp_path, train=train, mirrors=[nobody()], dtype=dtype)
    assert torch.equal(again.x, x)
    assert len(server.log) == 2


def test_mnist_without_a_network_says_what_to_do(tmp_path):
    with pytest.raises(ConnectionError, match=r"train-images-idx3-ubyte\.gz could not(.|\n)*load_digits\(\)"):
        load_mnist(tmp_path, mirrors=[nobody()], progress=False)
    with pytest.raises(TypeError, match=r"dtype is torch\.int64"):
        load_mnist(tmp_path, dtype=torch.int64, mirrors=[nobody()])


def test_the_files_of_mnist_are_named_with_their_checksums():
    assert len(data.MNIST) == 4
    assert all(re.fullmatch(r"(train|t10k)-(images-idx3|labels-idx1)-ubyte\.gz", name) for name in data.MNIST)
    assert all(re.fullmatch(r"[0-9a-f]{64}", checksum) for checksum in data.MNIST.values())
    assert len(set(data.MNIST.values())) == 4
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in data.MNIST_MIRRORS)
