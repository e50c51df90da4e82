r"""Data as tensors: four small sets that come with scikit-learn, a made one, and MNIST from the network (chapter 3).

A data set is x (N, d), one datum in each row, and y. For classes y is (N,) and holds integers; for regression it is
(N, 1), as the losses want it. Tensors are made on the CPU, in float64 unless `dtype` says otherwise.
"""

import gzip
import hashlib
import http
import http.client
import math
import os
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from course_lib._validation import FLOATS, any_of, check_finite, check_types

__all__ = [
    "Data",
    "fetch",
    "load_breast_cancer",
    "load_diabetes",
    "load_digits",
    "load_iris",
    "load_mnist",
    "make_gap",
    "read_idx",
    "standardise",
    "train_test_split",
]

# The files of MNIST and their SHA-256.
MNIST = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",  # where torchvision gets it from
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

TRIES = 5  # at one mirror, as long as each brings more of the file
CHUNK = 1 << 14  # bytes; of a chunk that breaks off nothing is kept


class Data(NamedTuple):
    """A data set: x (N, d), y (N,) for classes or (N, 1) for regression, and the names of columns and classes.

    Examples:
        >>> x, y, *_ = load_iris()
        >>> x.shape, y.shape
        (torch.Size([150, 4]), torch.Size([150]))
    """

    x: Tensor
    y: Tensor
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


# From scikit-learn


def load_diabetes(*, dtype: torch.dtype = torch.float64) -> Data:
    """442 diabetes patients: ten measurements, and how far the illness had come a year later, for regression.

    The columns have their own units (years, kg/m^2, mmHg, ...), so standardise them.
    Shapes: x (442, 10), y (442, 1). Raises TypeError for a dtype that is not float32 or float64.
    Chapter 3. B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least Angle Regression (2004).

    Examples:
        >>> data = load_diabetes()
        >>> data.y.shape, data.feature_names[:4]
        (torch.Size([442, 1]), ('age', 'sex', 'bmi', 'bp'))
    """
    from sklearn import datasets  # slow to import, and only needed here

    return _data(datasets.load_diabetes(scaled=False), dtype)


def load_iris(*, dtype: torch.dtype = torch.float64) -> Data:
    """150 irises of three species: length and width of sepals and petals in cm, for classification.

    Shapes: x (150, 4), y (150,) with classes 0 to 2. Raises TypeError for a dtype that is not float32 or float64.
    Chapter 3. R. A. Fisher, The Use of Multiple Measurements in Taxonomic Problems (1936).

    Examples:
        >>> load_iris().class_names
        ('setosa', 'versicolor', 'virginica')
    """
    from sklearn import datasets

    return _data(datasets.load_iris(), dtype)


def load_breast_cancer(*, dtype: torch.dtype = torch.float64) -> Data:
    """569 tumours: thirty measurements of cell nuclei, malignant (0) or benign (1), for classification.

    Shapes: x (569, 30), y (569,). Raises TypeError for a dtype that is not float32 or float64.
    Chapter 3. W. N. Street, W. H. Wolberg and O. L. Mangasarian, Nuclear Feature Extraction for Breast Tumor
    Diagnosis (1993).

    Examples:
        >>> data = load_breast_cancer()
        >>> data.class_names, data.y.bincount().tolist()
        (('malignant', 'benign'), [212, 357])
    """
    from sklearn import datasets

    return _data(datasets.load_breast_cancer(), dtype)


def load_digits(*, scaled: bool = True, dtype: torch.dtype = torch.float64) -> Data:
    """1797 images of handwritten digits, 8 x 8 pixels, row by row.

    Scaled, the pixels are grey values from 0 to 1; otherwise the counts from 0 to 16 that scikit-learn has.
    Shapes: x (1797, 64), y (1797,) with classes 0 to 9. Raises TypeError for a dtype that is not float32 or float64.
    Chapter 3. E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI repository, 1998).

    Examples:
        >>> x = load_digits().x
        >>> x.shape, x.max().item()
        (torch.Size([1797, 64]), 1.0)
    """
    from sklearn import datasets

    data = _data(datasets.load_digits(), dtype)
    return data._replace(x=data.x / 16) if scaled else data


def _data(bunch, dtype):
    _check_dtype(dtype)
    classes = tuple(map(str, getattr(bunch, "target_names", ())))
    target = torch.tensor(bunch.target)
    y = target.long() if classes else target.to(dtype)[:, None]
    return Data(torch.tensor(bunch.data, dtype=dtype), y, tuple(map(str, bunch.feature_names)), classes)


def _check_dtype(dtype):
    if dtype not in FLOATS:
        raise TypeError(f"dtype is {dtype}: give torch.float32 or torch.float64")


# Made


def make_gap(split: str = "train", *, dtype: torch.dtype = torch.float64) -> Data:
    """Points of a known curve with noise, and none in the middle.

    y = sin(1.5 x) + 0.3 x and normal noise of deviation 0.2. The 60 training inputs are uniform on [-4, -1.5] and on
    [1.5, 4], 30 on each side; the 400 test inputs, of split="test", are uniform on [-4, 4]. Always the same points.
    Shapes: x (60, 1) or (400, 1), y the same. Raises ValueError for another split, TypeError for a dtype that is not
    float32 or float64.
    Chapter 10.

    Examples:
        >>> x, y, *_ = make_gap()
        >>> x.shape, y.shape, x.abs().min() > 1.5
        (torch.Size([60, 1]), torch.Size([60, 1]), tensor(True))
    """
    if split not in ("train", "test"):
        raise ValueError(f'split is {split!r}: give "train" or "test"')
    _check_dtype(dtype)
    rng = np.random.RandomState(0 if split == "train" else 1)  # its numbers are the same in all versions of NumPy
    if split == "train":
        x = np.concatenate([rng.uniform(-4, -1.5, 30), rng.uniform(1.5, 4, 30)])
    else:
        x = rng.uniform(-4, 4, 400)
    y = np.sin(1.5 * x) + 0.3 * x + 0.2 * rng.randn(len(x))
    return Data(torch.tensor(x[:, None], dtype=dtype), torch.tensor(y[:, None], dtype=dtype), ("x",), ())


# Splitting and standardising


def train_test_split(
    n: int, test_fraction: float = 0.2, *, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, " train"], Int[Tensor, " test"]]:
    """Split the numbers 0 to n - 1 at random into those of the training set and those of the test set.

    Shapes: returns two index tensors, of n - m and m numbers, where m is n test_fraction, rounded up.
    Raises ValueError for a fraction that leaves either set empty.
    Chapter 3, section "Training and test data".

    Examples:
        >>> train, test = train_test_split(442, 0.2, generator=torch.Generator().manual_seed(0))
        >>> len(train), len(test)
        (353, 89)
    """
    # rounded up as scikit-learn does; the small number takes back the rounding of the product
    n_test = math.ceil(n * test_fraction - 1e-9) if math.isfinite(test_fraction) else 0
    if not 0 < n_test < n:
        raise ValueError(
            f"test_fraction {test_fraction} of n = {n} data leaves the training or the test set empty: give a "
            "number between 0 and 1, and at least two data"
        )
    device = None if generator is None else generator.device
    order = torch.randperm(n, generator=generator, device=device)
    return order[n_test:], order[:n_test]


def standardise(train: Float[Tensor, "n d"], *others: Float[Tensor, "_ d"]) -> tuple[Tensor, ...]:
    """Shift and scale each column to mean 0 and variance 1 on the training data, and the others by the same numbers.

    A column that is constant on the training data is only shifted. The variance is the mean square (1/N).
    Shapes: train (N, d), the others (anything, d). Returns a tuple of the same shapes.
    Raises TypeError or ValueError for wrong types or devices, shapes that do not fit, no data, NaN or infinity, and a
    variance that over- or underflows.
    Chapter 3, section "Training and test data".

    Examples:
        >>> train, test = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0]])
        >>> standardise(train, test)
        (tensor([[-1.],
                [ 1.]]), tensor([[2.]]))
    """
    named = {"train": train} | {f"others[{i}]": other for i, other in enumerate(others)}
    check_types(named)
    for name, tensor in named.items():
        if tensor.ndim != 2 or tensor.shape[-1] != train.shape[-1]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it must be (N, d), with the d of train")
        check_finite(name, tensor.detach())
    if len(train) == 0:
        raise ValueError(f"train has shape {tuple(train.shape)}: there are no data to take a mean of")
    mean = train.mean(0)
    constant = (train == train[0]).all(0)  # the computed deviation may be a rounding error, and not 0
    variance = torch.where(constant, torch.ones_like(mean), (train - mean).square().mean(0))
    if any_of(bad := (variance == 0) | ~variance.isfinite()):
        column = bad.nonzero()[0].item()
        raise ValueError(f"column {column} of train has a variance beyond the range of {train.dtype}: change its unit")
    scale = variance.sqrt()
    return tuple((tensor - mean) / scale for tensor in named.values())


# MNIST


def load_mnist(
    root: str | os.PathLike,
    *,
    train: bool = True,
    mirrors: Sequence[str] = MNIST_MIRRORS,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    timeout: float = 20.0,
) -> Data:
    """MNIST: 60,000 images of handwritten digits for training or 10,000 for testing, 28 x 28 pixels from 0 to 1.

    The files are downloaded into root the first time (11 MB for training), see `fetch`. `load_digits` needs no
    network. The default is float32: in float64 the training images take 376 MB.
    Shapes: x (60000, 784) or (10000, 784), y (60000,) or (10000,) with classes 0 to 9.
    Raises ConnectionError without a network and without files in root; ValueError or TypeError for bad arguments.
    Chapter 3. Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-Based Learning Applied to Document
    Recognition (1998).

    Examples:
        >>> train = load_mnist("data")  # doctest: +SKIP
        >>> train.x.shape, train.y[:3].tolist()  # doctest: +SKIP
        (torch.Size([60000, 784]), [5, 0, 4])
    """
    _check_dtype(dtype)
    names = [name for name in MNIST if name.startswith("train" if train else "t10k")]
    images, labels = (
        read_idx(fetch(name, root, mirrors=mirrors, sha256=MNIST[name], progress=progress, timeout=timeout))
        for name in names
    )
    pixels = tuple(f"pixel_{row}_{column}" for row in range(images.shape[1]) for column in range(images.shape[2]))
    return Data(images.flatten(1).to(dtype) / 255, labels.long(), pixels, tuple("0123456789"))


def read_idx(path: str | os.PathLike) -> UInt8[Tensor, "..."]:
    """Read a gzipped IDX file of bytes, the format of MNIST.

    The format: two zero bytes, the type (8 for bytes), the number of dimensions, each size as four bytes with the
    highest first, and then the entries, the last dimension fastest.
    Shapes: as the file says. Raises ValueError for a file that is not so or is cut off, and FileNotFoundError.
    Chapter 3.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "two.gz")
        ...     _ = path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2]) + bytes([7, 9])))
        ...     read_idx(path)
        tensor([7, 9], dtype=torch.uint8)
    """
    hint = "delete the file, and load again"
    try:
        with gzip.open(path) as file:
            content = bytearray(file.read())
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        sizes = struct.unpack_from(f">{dimensions}I", content, 4)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise ValueError(f"{path} is no whole gzipped IDX file ({error}): {hint}") from None
    if (zeros, kind) != (0, 8):
        raise ValueError(f"{path} begins with {bytes(content[:4])!r}, and not as an IDX file of bytes does: {hint}")
    start = 4 + 4 * dimensions
    if len(content) - start != math.prod(sizes):
        raise ValueError(f"{path} says {sizes}, and {len(content) - start} bytes follow: {hint}")
    return torch.frombuffer(content, dtype=torch.uint8)[start:].reshape(sizes)


# Downloading. pooch checks checksums too, but it begins again from nothing when a download breaks off (it opens its
# file with "w+b"); so the requests are made here, with the Range header of HTTP.


def fetch(
    name: str,
    root: str | os.PathLike,
    *,
    mirrors: Sequence[str],
    sha256: str,
    progress: bool = True,
    timeout: float = 20.0,
) -> Path:
    """The path of a file in the folder root, downloaded from the first mirror that has it if it is not there.

    Only a file with the right checksum gets its name, in one step. A file that is there with another checksum is
    fetched again. A download that breaks off leaves a file ending in .part, and the next call goes on from there, also
    when the process was killed. Of two processes that want the same file, one fetches it and the other waits.

    Args:
        name: the name of the file, here and at the mirrors
        root: the folder, made if it is missing
        mirrors: addresses of folders, tried in this order; file:///a/folder/ is one too
        sha256: the checksum of the file, in hexadecimal
        progress: show a bar on stderr when it takes more than a second
        timeout: seconds of silence after which a mirror is given up

    Raises:
        ConnectionError: no mirror gave the file; the sentence says what each answered and what to do
        ValueError: name is not the name of a file, no mirror was given, or one is not an address

    Examples:
        >>> import tempfile
        >>> checksum = hashlib.sha256(b"some bytes").hexdigest()
        >>> with tempfile.TemporaryDirectory() as there, tempfile.TemporaryDirectory() as here:
        ...     _ = Path(there, "file.bin").write_bytes(b"some bytes")
        ...     fetch("file.bin", here, mirrors=[Path(there).as_uri()], sha256=checksum).read_bytes()
        b'some bytes'
    """
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(f"name is {name!r}: give the name of a file, without a folder")
    if isinstance(mirrors, str) or not mirrors:
        raise ValueError(f"mirrors is {mirrors!r}: give a list of one or more addresses")
    for mirror in mirrors:
        if not str(mirror).startswith(("http://", "https://", "file://")):
            raise ValueError(f"the mirror {mirror!r} is no address: it must begin with https://, http:// or file://")
    path = Path(root) / name
    if not _is_there(path, sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("ab") as lock:
            _wait_for(lock)
            if not _is_there(path, sha256):  # another process may have fetched it meanwhile
                _from_mirrors([f"{mirror.rstrip('/')}/{name}" for mirror in mirrors], path, sha256, progress, timeout)
    return path


def _is_there(path, sha256):
    return path.is_file() and _sha256(path) == sha256


def _wait_for(lock):
    """Lock the open file, alone. The system unlocks it when it is closed, or when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        while True:
            with suppress(OSError):  # it gives up after ten seconds
                return msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
    with suppress(OSError):  # a file system without locks: what two processes spoil is then for the checksum to find
        fcntl.flock(lock, fcntl.LOCK_EX)


def _from_mirrors(urls, path, sha256, progress, timeout):
    part, answers = path.with_name(f"{path.name}.part"), []
    if path.is_file():
        answers.append(f"{path} is there with another checksum, so it is another file or a damaged one")
    for url in urls:
        answer = _from_mirror(url, part, sha256, progress, timeout)
        if answer is None:
            os.replace(part, path)
            return
        answers.append(answer)
    tried = "".join(f"\n- {answer}" for answer in answers)
    raise ConnectionError(
        f"{path.name} could not be downloaded into {path.parent}:{tried}\n"
        "Try again later: what has come is kept. Or put the file into that folder yourself; or give other addresses "
        "as mirrors. load_digits() gives images of digits without a network."
    )


def _from_mirror(url, part, sha256, progress, timeout):
    """Fill the partial file from one address. Returns None when its checksum is right, and else what went wrong."""
    for _ in range(TRIES):
        before = _size(part)
        try:
            _download(url, part, progress, timeout)
        # URLError and TimeoutError are OSErrors; a ValueError is a header or an address that makes no sense.
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer = f"{url}: {_in_words(error)}"
            if _size(part) > before:
                continue  # more of it has come: go on from there
            return answer
        if _sha256(part) == sha256:
            return None
        part.unlink()
        answer = f"{url}: what it sent has another checksum, so it is another file or a damaged one"
        if before == 0:  # otherwise the first part may be to blame, which came from elsewhere or long ago
            return answer
    return answer


def _download(url, part, progress, timeout):
    """Append to the partial file what is missing, or write it anew where the server does not send parts."""
    before = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "course_lib", "Accept-Encoding": "identity"})
    if before:
        request.add_header("Range", f"bytes={before}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing comes after what we have; the checksum says whether it is the file
    with answer:
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {before}-")
        length = answer.headers.get("Content-Length")
        written = before if resumed else 0
        total = written + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file, _bar(part, written, total, progress) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                written += len(chunk)
                bar.update(len(chunk))
    if total is not None and written < total:
        raise ConnectionError(f"the connection was closed after {written} of {total} bytes")


def _bar(part, start, total, progress):
    from tqdm import tqdm

    return tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True, delay=1, disable=not progress)


def _in_words(error):
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return "no answer in time"
    return str(getattr(error, "reason", error)) or type(error).__name__


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
