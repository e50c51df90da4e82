"""The format without pickle: every value comes back as it was, and no text can do harm."""

import contextlib
import enum
import json
import math
import random
import string
import time
import tracemalloc
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import _wire
from course_lib._wire import WireError, decode, dumps, encode, loads, pack, unpack


def there_and_back(value):
    return decode(loads(dumps(encode(value))))


def alike(a, b):
    """The same type and value, bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return alike(list(a.items()), list(b.items()))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or (a != a and b != b))
    if isinstance(a, complex):
        return alike(a.real, b.real) and alike(a.imag, b.imag)
    if isinstance(a, torch.Tensor):
        form = (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
        return form and bits(
            a.detach().numpy(force=True) if a.dtype != torch.bfloat16 else a.detach().float().numpy()
        ) == (bits(b.detach().numpy(force=True) if b.dtype != torch.bfloat16 else b.detach().float().numpy()))
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if isinstance(a, np.ndarray | np.generic):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and bits(a) == bits(b)
    return a == b


def bits(array):
    return np.asarray(array).tobytes()


numbers = st.integers(-(10**300), 10**300) | st.floats(width=64).filter(lambda x: not math.isnan(x)) | st.just(math.nan)
keys = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.tuples(st.integers(), st.text())
)
plain = st.none() | st.booleans() | numbers | st.complex_numbers(allow_nan=False) | st.text()
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
def test_plain_values_come_back(value):
    assert alike(there_and_back(value), value)


DTYPES = sorted(_wire._TENSORS)


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**31), st.booleans())
def test_tensors_come_back(dtype, shape, seed, grad):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, [*shape, _wire._SIZES[dtype]], dtype=torch.uint8, generator=generator)
    tensor = (raw[..., 0] > 99) if dtype == "bool" else raw.view(getattr(torch, dtype))[..., 0]
    tensor = tensor.clone().requires_grad_(grad and dtype in _wire._WITH_GRADIENT)
    assert alike(there_and_back(tensor), tensor)


@given(st.sampled_from(sorted(_wire._ARRAYS)), st.lists(st.integers(0, 4), max_size=4), st.booleans())
def test_arrays_come_back(dtype, shape, big_endian):
    array = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    sent = array.astype(array.dtype.newbyteorder(">")) if big_endian else array
    assert alike(there_and_back(sent), np.asarray(array))


@pytest.mark.parametrize("scalar", [np.float32(2.5), np.int64(-3), np.bool_(True), np.complex64(1j)])
def test_a_numpy_scalar_stays_one(scalar):
    assert alike(there_and_back(scalar), scalar)


def test_views_arrive_as_what_they_show():
    x = torch.arange(6.0).reshape(2, 3)
    z = torch.tensor([1 + 2j, 3 - 1j])
    for view in (x.T, x[:, ::2], x[:, :1].expand(2, 5), z.conj(), z.imag, torch.tensor(1.0), torch.empty(0, 3)):
        back = there_and_back(view)
        assert back.shape == view.shape
        assert torch.equal(back, view.resolve_conj())


def test_results_of_a_graph_arrive_as_leaves_that_require_a_gradient():
    w = torch.ones(2, requires_grad=True)
    back = there_and_back(w * 2)
    assert back.requires_grad
    assert back.is_leaf


def test_subclasses_arrive_as_the_plain_type():
    class MyTensor(torch.Tensor):
        pass

    class Always(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class MyList(list):
        def __iter__(self):
            return iter(range(10**9))

    point = namedtuple("point", "x y")
    cases = [
        (torch.ones(2).as_subclass(MyTensor), torch.ones(2)),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2).requires_grad_()),
        (Always(3), 3), (MyList([1, 2]), [1, 2]), (point(1, 2.0), (1, 2.0)), (torch.Size([2, 3]), (2, 3)),
        (OrderedDict(a=1), {"a": 1}), (enum.IntEnum("Level", "low high").high, 2), (np.float64(0.1), 0.1),
        (np.str_("é"), "é"),
    ]  # fmt: skip
    for sent, expected in cases:
        assert alike(there_and_back(sent), expected)


def test_generators_go_on_where_they_were():
    fresh = torch.Generator().manual_seed(7)
    assert encode(fresh) == {"generator": 7}
    used = torch.Generator().manual_seed(7)
    torch.randn(3, generator=used)
    for generator in (fresh, used, torch.Generator().manual_seed(-1)):
        back = there_and_back(generator)
        assert back.initial_seed() == generator.initial_seed()
        assert torch.equal(torch.randn(5, generator=back), torch.randn(5, generator=generator))


def test_dtypes_and_references():
    assert there_and_back([torch.float32]) == [torch.float32]
    tanh = object()
    form = encode([1, tanh], refer=lambda value: {"name": "tanh"} if value is tanh else None)
    assert decode(loads(dumps(form)), resolve=lambda kind, key: (kind, key)) == [1, ("name", "tanh")]
    with pytest.raises(WireError, match="a reference where only values may stand"):
        decode(form)


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"bytes", "bytes cannot be sent"),
        (object(), "object cannot be sent"),
        ({1, 2}, "set cannot be sent"),
        (print, "cannot be sent"),
        (nested(_wire.MAX_DEPTH + 1), "nested deeper"),
        (endless(), "nested deeper"),
        ([None] * _wire.MAX_ITEMS, "more than 100000 values"),
        (10**1000, "more than 1000 digits"),
        ("a" * (_wire.MAX_BYTES + 1), "more than 32 MiB"),
        ("\ud800", "half of a character"),
        (torch.zeros(1).expand(10**12), "more than 32 MiB"),
        ([torch.zeros(10**6)] * 20, "more than 32 MiB"),
        (torch.zeros(3, device="meta"), "give a dense one"),
        (torch.eye(2).to_sparse(), "give a dense one"),
        (torch.complex32, "numbers of type 'complex32'"),
        (np.array(["text"]), "numbers of type 'str"),
        (np.array([None]), "numbers of type 'object"),
        (np.zeros(2, dtype=[("a", "f8")]), "numbers of type 'void"),
        (np.broadcast_to(0.0, 10**12), "more than 32 MiB"),
        (dict.fromkeys(range(_wire.MAX_KEYS + 1)), "more than 2000 keys"),
        ({frozenset(): 1}, "key is a frozenset"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_cannot_be_sent_says_so(value, words):
    with pytest.raises(WireError, match=words):
        encode(value)


GOOD = {"dtype": "float32", "shape": [2], "data": "AAAAAAAAgD8="}
BAD = {
    "no JSON": "{",
    "empty": "",
    "two values": "1 2",
    "NaN": "[NaN]",
    "Infinity": "-Infinity",
    "overflow": "1e999",
    "long float": "0." + "1" * 10**6,
    "long integer": "9" * 10**6,
    "integer of 1100 digits": "9" * 1100,
    "deep": "[" * 50_000 + "]" * 50_000,
    "deep in objects": '{"tuple":[' * 5_000 + "]}" * 5_000,
    "many lists": "[" + "[]," * 10**6 + "[]]",
    "many zeros": "[" + "0," * 10**6 + "0]",
    "bytes of another code": '"é"'.encode("latin-1"),
    "UTF-16": json.dumps([1]).encode("utf-16"),
    "surrogate": '"\\ud800"',
    "no tag": {},
    "two tags": {"tuple": [], "dict": []},
    "unknown tag": {"pickle": "gASVAAAA"},
    "attribute as tag": {"__class__": []},
    "tuple of a string": {"tuple": "abc"},
    "float by another name": {"float": "1"},
    "float of a list": {"float": []},
    "complex of one": {"complex": [1.0]},
    "complex of strings": {"complex": ["1", "2"]},
    "dict of numbers": {"dict": [1, 2]},
    "dict of triples": {"dict": [[1, 2, 3]]},
    "list as key": {"dict": [[[1], 2]]},
    "tensor as key": {"dict": [[{"tensor": GOOD}, 2]]},
    "dict as key in a tuple": {"dict": [[{"tuple": [{"dict": []}]}, 2]]},
    "too many keys": {"dict": [[n, 0] for n in range(_wire.MAX_KEYS + 1)]},
    "dtype of torch that is none": {"dtype": "load"},
    "dtype that is a number": {"dtype": 3},
    "object dtype": {"array": GOOD | {"dtype": "object"}},
    "dtype with fields": {"array": GOOD | {"dtype": "f4,f4"}},
    "list as dtype": {"tensor": GOOD | {"dtype": ["float32"]}},
    "negative length": {"tensor": GOOD | {"shape": [-1, -2]}},
    "minus one": {"tensor": GOOD | {"shape": [-1]}},
    "float as length": {"tensor": GOOD | {"shape": [2.0]}},
    "true as length": {"tensor": GOOD | {"shape": [2, True]}},
    "too short": {"tensor": GOOD | {"shape": [3]}},
    "too long": {"tensor": GOOD | {"shape": [1]}},
    "huge": {"tensor": GOOD | {"shape": [2**40]}},
    "huge and empty": {"tensor": GOOD | {"shape": [0] + [2**30] * 3, "data": ""}},
    "many dimensions": {"tensor": GOOD | {"shape": [1] * 63 + [2]}},
    "no shape": {"tensor": GOOD | {"shape": None}},
    "no base64": {"tensor": GOOD | {"data": "AAAA AAAAgD8="}},
    "number as data": {"tensor": GOOD | {"data": 3}},
    "unknown field": {"tensor": GOOD | {"device": "cuda"}},
    "missing field": {"tensor": {"dtype": "float32", "shape": [2]}},
    "gradient of integers": {"tensor": {"dtype": "int8", "shape": [1], "data": "AA==", "grad": True}},
    "gradient that is a number": {"tensor": GOOD | {"grad": 1}},
    "scalar with a shape": {"array": GOOD | {"scalar": True}},
    "short state": {"generator": "AAAA"},
    "state of zeros": {"generator": "A" * 6740 + "AAA="},
    "large seed": {"generator": 2**64},
    "float as seed": {"generator": 1.0},
    "true as seed": {"generator": True},
    "name": {"name": "f"},
    "object": {"object": 0},
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_text_is_one_clear_error_and_costs_little(text):
    text = text if isinstance(text, str | bytes) else json.dumps(text)
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(WireError, match=r"\w") as raised:
            decode(loads(text))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(raised.value)) < 150
    assert peak < 50 * 2**20
    assert time.perf_counter() - started < 5


def test_what_one_can_choose_to_make_a_dict_slow_is_bounded():
    same_hash = [[k * (2**61 - 1), 0] for k in range(_wire.MAX_KEYS)]
    assert len({hash(key) for key, _ in same_hash}) == 1
    started = time.perf_counter()
    assert len(decode({"dict": same_hash})) == _wire.MAX_KEYS
    assert time.perf_counter() - started < 5


def test_booleans_are_true_or_false_whatever_their_byte():
    form = {"dtype": "bool", "shape": [4], "data": "AAEC/w=="}
    for kind, one in (("tensor", torch.tensor), ("array", np.array)):
        values = decode({kind: form})
        assert bits(values) == bits(one([False, True, True, True]))


def test_decoding_gives_values_of_their_own():
    form = loads(dumps(encode([torch.zeros(2), np.zeros(2)])))
    first, second = decode(form), decode(form)
    first[0][0] = first[1][0] = 1  # neither read-only nor shared
    assert second[0].sum() == second[1].sum() == 0


def test_messages():
    body = pack({"id": "a", "value": [1]})
    assert _wire.body_length(body[: _wire.HEAD_BYTES]) == len(body) - _wire.HEAD_BYTES
    assert unpack(body[_wire.HEAD_BYTES :]) == {"id": "a", "value": [1]}
    with pytest.raises(WireError, match="a dict was expected"):
        unpack(b"[1]")
    with pytest.raises(WireError, match="more than 32 MiB"):
        _wire.body_length(b"\xff\xff\xff\xff")
    with pytest.raises(WireError, match="more than 32 MiB"):
        pack({"value": "a" * _wire.MAX_BYTES})
    with pytest.raises(WireError, match="more than 32 MiB"):
        loads(" " * (_wire.MAX_BYTES + 1))


SAMPLES = [
    dumps(encode(value))
    for value in (
        [1, 2.5, None, True, "a\n", math.nan, 1j], {"a": (1, [2]), 3: {}}, torch.eye(2), np.arange(3), np.float32(1),
        torch.Generator().manual_seed(3), [torch.float64, torch.tensor([True, False])],
    )
]  # fmt: skip
FRAGMENTS = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "tensor",
    "dict",
    "null",
    "1e400",
    "-",
    "\\u0000",
    "NaN",
    "0" * 30,
    "\x00",
]


def mutated(text, chance):
    for _ in range(chance.choice([1, 1, 2])):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 1, 1, 2, 8, 30]))
        new = chance.choice([*FRAGMENTS, chance.choice(string.printable), text[start : end + 5] * 2, ""])
        text = text[:start] + new + text[end:]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_text_gives_another_error(seed):
    chance = random.Random(seed)
    read = 0
    for _ in range(1_000):
        text = mutated(chance.choice(SAMPLES), chance)
        try:
            value = decode(loads(text))
        except WireError:
            continue
        read += 1
        assert alike(there_and_back(value), value)  # what can be read can be written
    assert read > 10


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_no_bytes_give_another_error(data):
    with contextlib.suppress(WireError):
        decode(unpack(data))


@settings(max_examples=100)
@given(
    st.recursive(
        plain,
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(sorted(_wire._Decoder.READERS)) | st.text(), inner)
        ),
    )
)
def test_no_form_gives_another_error(form):
    with contextlib.suppress(WireError):
        decode(form)
