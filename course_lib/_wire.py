"""Values as text, without pickle: what a student's process may say to the grader, and what stored checks hold.

The text is JSON. None, booleans, whole numbers, finite floats, strings and lists stand for themselves; everything else
is an object with exactly one key:

    {"float": "nan" | "inf" | "-inf"}      {"complex": [re, im]}        {"tuple": [...]}
    {"dict": [[key, value], ...]}          {"dtype": "float32"}         {"generator": seed, or its state in base64}
    {"tensor": {"dtype", "shape", "data", "grad"}}                      {"array": {"dtype", "shape", "data", "scalar"}}
    {"name": "f"}  an object of the notebook    {"object": 3}  an object that stays in the student's process

Subclasses arrive as the plain type. What a text may hold is bounded in bytes, nesting, items and digits, so that
reading one from a hostile process costs a bounded amount of time and memory. What is wrong is always a WireError.

PyTorch and NumPy are imported when the first of their values comes, so that a small process can start quickly.
"""

import base64
import json
import math
import struct
import sys

MAX_BYTES = 32 * 2**20  # of a message; an array is a third longer in base64
MAX_ITEMS = 100_000  # values within one message
MAX_DEPTH = 30
MAX_DIGITS = 1_000  # of a whole number
MAX_KEYS = 2_000  # of a dict: keys of equal hash, which one can choose, cost the square of their number
MAX_DIMS = 24  # some functions of PyTorch know no more
_MAX_NUMBER = 40  # characters of a float; repr gives at most 24

_SIZES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
_TENSORS = _SIZES.keys()
_ARRAYS = _SIZES.keys() - {"bfloat16"} | {"uint16", "uint32", "uint64"}
_ARRAY_SIZES = _SIZES | {"uint16": 2, "uint32": 4, "uint64": 8}
_WITH_GRADIENT = {"float16", "bfloat16", "float32", "float64", "complex64", "complex128"}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_HEAD = struct.Struct(">I")


class WireError(ValueError):
    """A text that is no message of ours, or a value that no message can carry."""


# Writing


def encode(value, refer=None):
    """The JSON form of a value; ``refer(value)`` may give ``{"name": …}`` or ``{"object": …}`` for what has none."""
    return _Encoder(refer).form(value, 0)


class _Encoder:
    def __init__(self, refer):
        self.refer = refer
        self.items = 0
        self.bytes = 0

    def form(self, value, depth):
        self.items += 1
        if self.items > MAX_ITEMS:
            raise WireError(f"more than {MAX_ITEMS} values in one message")
        if depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH}")
        if value is None or value is True or value is False:
            return value
        for kind, write in self.WRITERS:
            if isinstance(value, kind):
                return write(self, value, depth)
        return self.library_form(value)

    def library_form(self, value):
        # A library that nobody has imported cannot have made the value.
        for library, write in (("torch", _torch_form), ("numpy", _numpy_form)):
            if library in sys.modules and (form := write(self, value)) is not None:
                return form
        if self.refer is not None and (form := self.refer(value)) is not None:
            return form
        raise WireError(f"a {type(value).__name__} cannot be sent: give numbers, strings, lists, dicts or tensors")

    def count(self, n_characters):
        self.bytes += n_characters
        if self.bytes > MAX_BYTES:
            raise WireError(f"more than {MAX_BYTES // 2**20} MiB in one message")

    def integer(self, value, depth):
        value = int.__int__(value)  # a subclass may have methods of its own
        if value.bit_length() > 3 * MAX_DIGITS:
            raise WireError(f"a whole number of more than {MAX_DIGITS} digits")
        return value

    def floating(self, value, depth):
        value = float.__float__(value)
        return value if math.isfinite(value) else {"float": repr(value)}

    def complex_number(self, value, depth):
        parts = complex.__complex__(value)
        return {"complex": [self.floating(parts.real, depth), self.floating(parts.imag, depth)]}

    def string(self, value, depth):
        value = str.__str__(value)
        self.count(len(value))
        _check_text(value)
        return value

    def list_of(self, value, depth):
        return [self.form(item, depth + 1) for item in list.__iter__(value)]

    def tuple_of(self, value, depth):
        return {"tuple": [self.form(item, depth + 1) for item in tuple.__iter__(value)]}

    def dict_of(self, value, depth):
        if dict.__len__(value) > MAX_KEYS:
            raise WireError(f"a dict of more than {MAX_KEYS} keys")
        pairs = list(dict.items(value))
        for key, _ in pairs:
            _check_key(key)
        return {"dict": [[self.form(key, depth + 1), self.form(item, depth + 1)] for key, item in pairs]}

    WRITERS = (
        (int, integer), (float, floating), (str, string), (list, list_of), (tuple, tuple_of), (dict, dict_of),
        (complex, complex_number),
    )  # fmt: skip


def _in_base64(n_bytes):
    return (n_bytes + 2) // 3 * 4


def _base64(raw):
    return base64.b64encode(raw).decode("ascii")


def _check_text(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise WireError("a string with half of a character (a lone surrogate)") from None


def _check_key(key):
    """A dict's keys are plain: equal keys stay equal on the other side, and hashing runs no code of the sender."""
    plain = key is None or isinstance(key, bool | int | float | complex | str)
    if not plain and not (isinstance(key, tuple) and all(_check_key(item) is None for item in tuple.__iter__(key))):
        raise WireError(f"a dict's key is a {type(key).__name__}: use numbers, strings or tuples of them")


def _torch_form(encoder, value):
    import torch

    if isinstance(value, torch.Tensor):
        return {"tensor": _tensor_form(encoder, value)}
    if isinstance(value, torch.dtype):
        return {"dtype": _known(str(value).removeprefix("torch."), _TENSORS)}
    if isinstance(value, torch.Generator):
        return {"generator": _generator_form(value)}
    return None


def _tensor_form(encoder, value):
    import torch

    dense = value.layout is torch.strided and not value.is_quantized and not value.is_nested and not value.is_meta
    if not dense:
        raise WireError(f"a tensor of layout {value.layout} on {value.device}: give a dense one")
    dtype = _known(str(value.dtype).removeprefix("torch."), _TENSORS)
    # Before anything is copied: one number may be expanded to a shape of any size.
    encoder.count(_in_base64(value.numel() * _SIZES[dtype]))
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    raw = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    form = {"dtype": dtype, "shape": list(value.shape), "data": _base64(raw)}
    return form | {"grad": True} if value.requires_grad else form


def _generator_form(generator):
    import torch

    if generator.device.type != "cpu":
        raise WireError("a generator of another device than the processor")
    seed, state = generator.initial_seed(), generator.get_state()
    if torch.equal(state, torch.Generator().manual_seed(seed).get_state()):
        return seed  # short, and the same in every version of PyTorch
    return _base64(state.numpy().tobytes())


def _numpy_form(encoder, value):
    import numpy as np

    if not isinstance(value, np.ndarray | np.generic):
        return None
    array = np.asarray(value)
    dtype = _known(array.dtype.name, _ARRAYS)
    encoder.count(_in_base64(array.nbytes))
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    form = {"dtype": dtype, "shape": list(np.shape(value)), "data": _base64(array.tobytes())}
    return {"array": form | {"scalar": True} if isinstance(value, np.generic) else form}


def _known(dtype, names):
    if not isinstance(dtype, str) or dtype not in names:
        raise WireError(f"numbers of type {str(dtype)[:40]!a}: use {', '.join(sorted(names))}")
    return dtype


# Reading


def decode(form, resolve=None):
    """The value of a JSON form; ``resolve("name" or "object", key)`` gives the object that a reference means."""
    return _Decoder(resolve).value(form, 0)


class _Decoder:
    def __init__(self, resolve):
        self.resolve = resolve
        self.items = 0

    def value(self, form, depth):
        self.items += 1
        if self.items > MAX_ITEMS or depth > MAX_DEPTH:
            raise WireError("too many values, or nested too deep")
        kind = type(form)
        if form is None or kind is bool:
            return form
        if kind is int:
            if form.bit_length() > 4 * MAX_DIGITS:
                raise WireError("a number with too many digits")
            return form
        if kind is float:
            return _finite(form)
        if kind is str:
            _check_text(form)
            return form
        if kind is list:
            return [self.value(item, depth + 1) for item in form]
        if kind is dict and len(form) == 1:
            ((tag, content),) = form.items()
            if tag in self.READERS:
                return self.READERS[tag](self, content, depth)
        raise WireError("a value of no known kind")

    def floating(self, content, depth):
        return _NOT_FINITE[_the(content, str, _NOT_FINITE)]

    def complex_number(self, content, depth):
        parts = [self.value(part, depth + 1) for part in _the(content, list)]
        if [type(part) for part in parts] != [float, float]:
            raise WireError("a complex number has two floats")
        return complex(*parts)

    def tuple_of(self, content, depth):
        return tuple(self.value(item, depth + 1) for item in _the(content, list))

    def dict_of(self, content, depth):
        if len(_the(content, list)) > MAX_KEYS:
            raise WireError("a dict with too many keys")
        result = {}
        for pair in content:
            if len(_the(pair, list)) != 2:
                raise WireError("a dict's entry is a pair")
            key = self.value(pair[0], depth + 1)
            _check_key(key)
            result[key] = self.value(pair[1], depth + 1)
        return result

    def dtype(self, content, depth):
        import torch

        return getattr(torch, _known(content, _TENSORS))

    def generator(self, content, depth):
        import torch

        generator = torch.Generator()
        if type(content) is int and -(2**63) <= content < 2**64:
            return generator.manual_seed(content)
        state = bytearray(_block(content))
        if len(state) != generator.get_state().numel():
            raise WireError("the state of a generator has another length")
        try:
            return generator.set_state(torch.frombuffer(state, dtype=torch.uint8).clone())
        except RuntimeError:
            raise WireError("no state of a generator") from None

    def tensor(self, content, depth):
        import torch

        dtype, shape, raw = _numbers(content, _TENSORS, {"grad"})
        stored = torch.uint8 if dtype == "bool" else getattr(torch, dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=stored).clone() if raw else torch.empty(0, dtype=stored)
        # A byte that is neither 0 nor 1 must not become a boolean that is neither true nor false.
        values = (flat != 0 if dtype == "bool" else flat).reshape(shape)
        if "grad" not in content:
            return values
        if dtype not in _WITH_GRADIENT or content["grad"] is not True:
            raise WireError("a tensor that cannot have a gradient")
        return values.requires_grad_()

    def array(self, content, depth):
        import numpy as np

        dtype, shape, raw = _numbers(content, _ARRAYS, {"scalar"})
        flat = np.frombuffer(raw, np.uint8 if dtype == "bool" else dtype)
        values = (flat != 0 if dtype == "bool" else flat.copy()).reshape(shape)
        if "scalar" not in content:
            return values
        if shape or content["scalar"] is not True:
            raise WireError("a scalar with a shape")
        return values[()]

    def name(self, content, depth):
        return self.reference("name", _the(content, str))

    def object(self, content, depth):
        return self.reference("object", _the(content, int))

    def reference(self, kind, key):
        if self.resolve is None:
            raise WireError("a reference where only values may stand")
        return self.resolve(kind, key)

    READERS = {  # noqa: RUF012 - a table, never changed
        "float": floating, "complex": complex_number, "tuple": tuple_of, "dict": dict_of, "dtype": dtype,
        "generator": generator, "tensor": tensor, "array": array, "name": name, "object": object,
    }  # fmt: skip


def _the(content, kind, known=None):
    if type(content) is not kind or (known is not None and content not in known):
        raise WireError(f"a {kind.__name__} was expected")
    return content


def _finite(number):
    if not math.isfinite(number):
        raise WireError("a float that is not finite is written by its name")
    return number


def _block(content):
    try:
        return base64.b64decode(_the(content, str), validate=True)
    except ValueError:
        raise WireError("data that is not base64") from None


def _numbers(content, names, optional):
    """Type, shape and bytes of an array, when they fit each other."""
    if not {"dtype", "shape", "data"} <= _the(content, dict).keys() <= {"dtype", "shape", "data"} | optional:
        raise WireError("an array has a dtype, a shape and data")
    dtype, shape = _known(content["dtype"], names), _the(content["shape"], list)
    if len(shape) > MAX_DIMS or not all(type(length) is int and 0 <= length < 2**31 for length in shape):
        raise WireError("no shape of an array")
    if math.prod(length or 1 for length in shape) >= 2**62:  # an empty one must not overflow either
        raise WireError("the shape of an array is too large")
    raw = _block(content["data"])
    if len(raw) != math.prod(shape) * _ARRAY_SIZES[dtype]:
        raise WireError("the data of an array does not fill its shape")
    return dtype, shape, raw


# Text and messages


def dumps(form) -> str:
    """The text of a JSON form: ASCII only, in one line."""
    return json.dumps(form, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def loads(text: str | bytes):
    """The JSON form that a text holds, within the bounds."""
    if len(text) > MAX_BYTES:
        raise WireError(f"more than {MAX_BYTES // 2**20} MiB of text")
    try:
        text = text.decode("ascii") if isinstance(text, bytes) else text
        # Before the parser builds anything: "[]," is three bytes of text and some sixty of memory.
        if sum(map(text.count, ",[{")) > 4 * MAX_ITEMS:
            raise WireError("too many values")
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except WireError:
        raise
    except (ValueError, RecursionError, MemoryError):
        raise WireError("no JSON, or nested too deep") from None


def _integer(digits):
    if len(digits) > MAX_DIGITS + 1:
        raise WireError("a number with too many digits")
    return int(digits)


def _float(digits):
    if len(digits) > _MAX_NUMBER:
        raise WireError("a number with too many digits")
    return float(digits)


def _constant(name):
    raise WireError(f"{name} is no JSON")


def pack(message: dict) -> bytes:
    """The bytes of a message: its length, then its text."""
    body = dumps(message).encode("ascii")
    if len(body) > MAX_BYTES:
        raise WireError(f"more than {MAX_BYTES // 2**20} MiB in one message")
    return _HEAD.pack(len(body)) + body


HEAD_BYTES = _HEAD.size


def body_length(head: bytes) -> int:
    """How many bytes follow a message's head."""
    (length,) = _HEAD.unpack(head)
    if length > MAX_BYTES:
        raise WireError(f"a message of more than {MAX_BYTES // 2**20} MiB")
    return length


def unpack(body: bytes) -> dict:
    """The message in a body."""
    return _the(loads(body), dict)
