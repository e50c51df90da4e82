"""The student's names as the tests see them: values as they are, and stand-ins for what stays in the sandbox.

A stand-in can be called, and nothing else. An object of the student's could answer everything that a test may ask of a
number or a tensor (``f(x).allclose(y)``, ``abs(f(x) - y) < 1e-6``) as the student likes. So a test concludes from plain
values, by code of its own. A test of a class takes its objects on purpose, by :func:`as_object`.
"""

from course_lib import _wire
from course_lib.grading.box import Box, StudentError, student_error

MAX_STEPS = 100_000  # of an iterator, which may have no end


class Remote:
    """Stands for an object in the sandbox, of which a test may want to call it: a function, a class."""

    __slots__ = ("_remote_box", "_remote_form", "_remote_life", "_remote_root")

    def __init__(self, box, form, root, life=None):
        # The form is {"name": …}, or {"object": …} of one life of the box; the root is the name from which it came.
        for slot, value in zip(Remote.__slots__, (box, form, life, root), strict=True):
            object.__setattr__(self, slot, value)

    def __call__(self, *arguments, **keywords):
        return _do(self, "call", arguments, keywords)

    def __getattr__(self, name):
        # Libraries look for such names to find out what an object can do. A stand-in can do nothing for them.
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._no_value()

    def _no_value(self):
        return student_error("bad value", f"{self!r}, where a value was expected.", builtin="TypeError")

    def __eq__(self, other):
        raise self._no_value()

    def __ne__(self, other):
        raise self._no_value()

    def __bool__(self):
        raise self._no_value()

    __hash__ = None

    def __repr__(self):
        return f"<an object of the student's {self._remote_root}>"


class Object(Remote):
    """A stand-in that passes attributes, items, arithmetic and iteration on; what comes out is one too, or a value."""

    __slots__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _do(self, "getattr", (name,))

    def __setattr__(self, name, value):
        _do(self, "setattr", (name, value))

    def __setitem__(self, key, value):
        _do(self, "setitem", (key, value))

    def __iter__(self):
        iterator = _do(self, "iter")
        if not isinstance(iterator, Remote):
            raise student_error("bad value", "The process sent something else than an iterator.")
        for _ in range(MAX_STEPS):
            step = _do(iterator, "next")
            if type(step) is not list or len(step) > 1:
                raise student_error("bad value", "The process sent something else than the next item.")
            if not step:
                return
            yield step[0]
        raise student_error("timed out", f"The iterator has more than {MAX_STEPS} items.")

    def __len__(self):
        length = _do(self, "len")
        if type(length) is not int or not 0 <= length < 2**31:
            raise student_error("bad value", "The process sent something else than a length.")
        return length


def _operator(action):
    def method(self, *others):
        return _do(self, action, others)

    return method


def _reflected(action):
    def method(self, other):
        return _do(self, action, (other,), swapped=True)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Object, f"__{_name}__", _operator(_name))
    setattr(Object, f"__r{_name}__", _reflected(_name))
for _name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "getitem"):
    setattr(Object, f"__{_name}__", _operator(_name))


def as_object(value):
    """The stand-in with all that its object can do, for tests of classes and iterators; a value stays what it is.

    What it answers is the student's word: a test may rely on the plain values among the answers only.
    """
    if not isinstance(value, Remote):
        return value
    return Object(value._remote_box, value._remote_form, value._remote_root, value._remote_life)


def _do(remote, action, arguments=(), keywords=None, swapped=False, arguments_too=False):
    box, root = remote._remote_box, remote._remote_root
    operands = [remote, *arguments]
    lives = []  # of the objects among the operands
    forms = [_encode(box, value, lives) for value in (operands[::-1] if swapped else operands)]
    named = {name: _encode(box, value, lives) for name, value in (keywords or {}).items()}
    form = box.ask(root, action, forms, named, arguments_too, box.life if lives else None)
    return _decode(box, root, form, type(remote))


def _encode(box, value, lives):
    def refer(value):
        if isinstance(value, Remote) and value._remote_box is box:
            if value._remote_life is not None:
                if not box.lives(value._remote_life):
                    raise student_error("crashed", f"{value!r} is lost, because the process ended.")
                lives.append(value._remote_life)
            return value._remote_form
        return next(({"name": name} for name, known in box.shared.items() if known is value), None)

    return _wire.encode(value, refer)


def _decode(box, root, form, kind):
    life = box.life

    def resolve(what, key):
        if what != "object" or not 0 <= key < 10**6:
            raise _wire.WireError("a name, where the process may send values and objects only")
        return kind(box, {"object": key}, root, life)

    return box.decode(form, resolve)


def student_names(box: Box, names) -> dict:
    """The student's names for the tests: plain values as they are, all else as stand-ins.

    A name that the student has not defined is a stand-in too, and raises when it is used.
    """
    return {name: _fetch(box, name) for name in names}


def _fetch(box, name):
    by_name = Remote(box, {"name": name}, name)
    try:
        value = _do(by_name, "value")
    except StudentError:
        return by_name
    # By its name, and not by its number: so it is there again when the process had to be started again.
    return by_name if isinstance(value, Remote) else value


def call_and_arguments(function: Remote, *arguments, **keywords):
    """Call a function that may change its arguments: its result, the arguments after it, the keywords after it.

    An ordinary call sends copies, so that changes made in place are not seen here.
    """
    result = _do(function, "call", arguments, keywords, arguments_too=True)
    whole = type(result) is tuple and [type(part) for part in result[1:]] == [list, dict] and len(result) == 3
    if not whole or len(result[1]) != len(arguments) or set(result[2]) != set(keywords):
        raise student_error("bad value", "The process sent something else than a result and its arguments.")
    return result
