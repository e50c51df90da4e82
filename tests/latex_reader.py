r"""Read a formula as the book prints it, and compute it with numbers, matrices of any size, and functions.

SymPy's parser reads scalars only, so a lost trace or a dimension printed as 1 would pass it. This reader knows the
signs that the book uses. What it does not know, it refuses.

A formula becomes a function of the values of its symbols: a dict from the LaTeX of each name to its value.

* A value is a number, a matrix, a **column** (a vector has the shape (n, 1)), a set, or a function.
* A name with index letters is a family: ``x_i``, ``w_{jm}^{(\ell)}``, ``\theta_t``. Give all of it under one key,
  with whatever letters: ``"w_{jm}^{(\ell)}"`` serves ``w_{kj}^{(\ell+1)}``, too. Its value has one level for each
  index, the layer first and then the subscripts. A list or an array is counted **from 1**, as in print; a dict is
  asked for the index itself (``{0: ..., 1: ...}`` for ``\theta_t`` or ``h^{(\ell)}``); `Indexed` calls a function.
* A letter that is an index is a name like others: a sum binds it, or a situation gives its value (``"i": 3``).
* ``f(x)`` is the value of ``f`` at x if that value is a function, and else a product.
  Arguments that are parted by other signs than commas have a key of their own: ``p(x \mid y)`` is ``"p(\mid)"``.
"""

import itertools
import math
import numbers
import operator
import re
from functools import cache, reduce

import numpy as np

INDICES = {"i", "j", "k", "l", "m", "r", "s", "t", r"\ell"}  # in a subscript these number the entries of a family
ONLY_FUNCTIONS = {r"\loss", r"\enc", r"\dec", r"\softmax", r"\sigmoid", r"\relu", r"\Normal"}  # never a factor
ELEMENTARY = {name: getattr(np, name[1:]) for name in (r"\log", r"\exp", r"\sin", r"\cos", r"\tanh")}
ACCENTS = {r"\hat", r"\bar", r"\tilde"}
RELATIONS = {
    "=": None, "<": operator.lt, ">": operator.gt, r"\le": operator.le, r"\leq": operator.le, r"\ge": operator.ge,
    r"\geq": operator.ge, r"\ne": operator.ne, r"\neq": operator.ne, r"\in": lambda a, b: a in b,
}  # fmt: skip
SETS = {r"\cap": operator.and_, r"\cup": operator.or_}
STOPS = {"+", "-", ")", "]", "}", r"\}", ",", ";", r"\mid", r"\odot", "dx", "dy", "dz", *SETS, *RELATIONS, None}

TOKEN = re.compile(r"\\[A-Za-z]+|\\[|{}]|\d+(?:\.\d+)?|d[xyz](?![A-Za-z])|[A-Za-z]|\S")
LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle)(?![A-Za-z])|\\[,;:!]"
    r"|\\(?:begin|end)\{aligned\}|\{\}&|&|\\\\(?=\s|$)"
)
CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", r"\|": r"\|", r"\{": r"\}"}
SLOT = "\N{MIDDLE DOT}"  # where an index stands in the name of a family


class Indexed:
    """A family whose entry is a function of its indices, the layer first and then the subscripts."""

    def __init__(self, function):
        self.function = function


class Depends:
    """A value that is computed from the other values at the moment when it is needed."""

    def __init__(self, function):
        self.function = function


# --- a whole display ---


def claims(latex):
    r"""The claims of a display, parted by ``, \quad``: for each its sides, as functions, and the signs between them."""
    texts = [text for text in re.split(r"\\q?quad(?![A-Za-z])", latex) if text.strip(" .,")]
    return [relation(text) for text in texts]


def relation(latex):
    r"""The sides of one claim, as functions of the values, and the signs between them: ``=``, ``\le``, ``<``..."""
    tokens, signs, sides, depth = tokens_of(latex), [], [[]], 0
    for token in tokens:
        depth += (token in ("(", "[", "{", r"\{")) - (token in (")", "]", "}", r"\}"))
        if depth == 0 and token in RELATIONS:
            signs.append(token)
            sides.append([])
        else:
            sides[-1].append(token)
    return [Reader(side, latex).whole() for side in sides], signs


def sides(latex):
    """The formulas between the signs of equality, each as a function of the values of its symbols."""
    (found, signs), *more = claims(latex)
    if more or set(signs) - {"="}:
        raise ValueError(f"more than one chain of equal sides: {latex}")
    return found


def holds(sign, left, right, rel=1e-4, abs=1e-4):
    """Whether two values stand in a relation. Equal means close; an inequality may fail by rounding."""
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape:
        return False
    close = np.allclose(left, right, rtol=rel, atol=abs)
    if sign == "=":
        return close
    return bool(np.all(RELATIONS[sign](left, right))) or (sign in (r"\le", r"\leq", r"\ge", r"\geq") and close)


def tokens_of(latex):
    return TOKEN.findall(LAYOUT.sub(" ", latex).strip(" .,"))


# --- arithmetic that refuses what NumPy would stretch ---


def number(value):
    """A matrix with one entry is a number."""
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value


def operand(value):
    """A number or an array; Python would also add lists, and multiply tensors entry by entry."""
    value = number(value)
    if callable(value):
        raise ValueError(f"a function stands here without its arguments: {value}")
    if not isinstance(value, numbers.Number | np.ndarray):
        raise ValueError(f"a number or a NumPy array is wanted here, not {value!r}")
    if isinstance(value, np.ndarray) and value.ndim == 1:
        raise ValueError(f"a vector is a column, of shape ({len(value)}, 1)")
    return value


def product(a, b):
    a, b = operand(a), operand(b)
    return a @ b if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a * b


def same_shape(a, b, what):
    a, b = operand(a), operand(b)
    if np.shape(a) != np.shape(b):
        raise ValueError(f"{what} of shapes {np.shape(a)} and {np.shape(b)}")
    return a, b


def added(a, b):
    a, b = same_shape(a, b, "a sum")
    return a + b


def scalar(value):
    value = number(value)
    if not isinstance(value, numbers.Number):
        raise ValueError(f"a number is wanted here, not {value!r}")
    return value


def size(value):
    """``|A|``: the number of elements of a set, the determinant of a matrix, the absolute value of a number."""
    if isinstance(value, set | frozenset | list | tuple):
        return len(value)
    value = operand(value)
    return np.linalg.det(value) if np.ndim(value) else abs(value)


def entry(value, index, name):
    """One entry of a family."""
    if isinstance(value, dict) and index in value:
        return value[index]
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        if isinstance(index, int) and 1 <= index <= len(value):
            return value[index - 1]
    elif not isinstance(value, dict):
        raise ValueError(f"{name} was given without entries, as {value!r}")
    raise ValueError(f"{name} has no entry {index!r}")


def entries(value, indices, name):
    """The entry of a family at all its indices; a row of an array is a vector, so it becomes a column."""
    if isinstance(value, Indexed):
        return value.function(*indices)
    for index in indices:
        value = entry(value, index, name)
    return value[:, None] if indices and isinstance(value, np.ndarray) and value.ndim == 1 else value


# --- names ---


class Name:
    """A name as it is printed: what stands before its indices, the items of its subscript, and its layer."""

    def __init__(self, head, subscript, layer, tail=""):
        self.head, self.items, self.layer, self.tail = head, subscript, layer, tail

    def __str__(self):
        """As one would print it, or nearly so."""
        text = self.spelled(["".join(item) for item in self.items + self.layer])
        return re.sub(r"_\{(\w)\}", r"_\1", text)

    def spelled(self, indices):
        below, above = indices[: len(self.items)], indices[len(self.items) :]
        layer = "".join(f"^{{({item})}}" for item in above)
        return self.head + (f"_{{{','.join(below)}}}" if below else "") + layer + self.tail

    def key(self):
        """The name of the family, with a slot for each index."""
        return self.spelled([SLOT if is_index(item) else "".join(item) for item in self.items + self.layer])

    def candidates(self):
        """Names to look for, and which items are then indices. An item such as 0, 1 or D may be a part of the name."""
        items = self.items + self.layer
        options = [[True] if is_index(item) else [False, True] for item in items]
        for chosen in itertools.product(*options):
            key = self.spelled([SLOT if slot else "".join(item) for slot, item in zip(chosen, items, strict=True)])
            below = [item for slot, item in zip(chosen, items, strict=True) if slot]
            above = below[len(below) - sum(chosen[len(self.items) :]) :]
            yield key, above + below[: len(below) - len(above)]


def is_index(item):
    return len(item) > 1 or item[0] in INDICES or item[0] == SLOT


@cache
def key_of(spelling):
    """The name of a family, however its key is spelled."""
    if SLOT in spelling or "/" in spelling:
        return spelling  # it is one already
    arguments = re.search(r"\((?:[,;|\s]|\\mid|\\\|)*\)$", spelling)
    plain = spelling[: arguments.start()] if arguments else spelling
    reader = Reader(tokens_of(plain), spelling)
    if reader.next() == r"\frac":
        reader.take(r"\frac")
        key = "/".join(name.key() for name in (reader.partial(), reader.partial()))
    else:
        key = reader.name().key()
    if reader.tokens:
        raise ValueError(f"the key {spelling} is not one name")
    return key + (arguments[0] if arguments else "")


def by_key(values):
    """The values under the names of their families."""
    found = {}
    for spelling, value in values.items():
        if key_of(spelling) in found:
            raise ValueError(f"{spelling} is given twice: index letters of a key stand for all entries of one family")
        found[key_of(spelling)] = value
    return found


def with_values(names, changed):
    return {**names, **by_key(changed)}


# --- the grammar ---


class Reader:
    """A parser by recursive descent: one method for each rule of the grammar, each returns a function of the values."""

    def __init__(self, tokens, latex):
        self.latex, self.tokens = latex, list(tokens)
        self.ends = []  # the signs that close what is open, the innermost last

    # the stream of tokens

    def next(self):
        return self.tokens[0] if self.tokens else None

    def take(self, *wanted):
        """Take one of the wanted tokens if it is next."""
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def need(self, token):
        if not self.take(token):
            raise self.error(f"{token} expected")

    def error(self, what):
        return ValueError(f"{what} before {' '.join(self.tokens[:5])!r} in {self.latex}")

    def group(self, opening):
        """What stands between two signs, which are taken too."""
        self.need(opening)
        return self.up_to(CLOSING[opening])

    def up_to(self, closing):
        self.ends.append(closing)
        inner = self.sum()
        self.need(self.ends.pop())
        return inner

    def raw_group(self):
        """The tokens between two braces, or the one token that stands without."""
        if not self.take("{"):
            return [self.tokens.pop(0)] if self.tokens else []
        inner, depth = [], 1
        while self.tokens:
            token = self.tokens.pop(0)
            depth += (token == "{") - (token == "}")
            if not depth:
                return inner
            inner.append(token)
        raise self.error("} expected")

    def read(self, tokens):
        """A formula of its own, as in a subscript or an exponent."""
        return Reader(tokens, self.latex).whole_inside()

    # sums and products

    def whole(self):
        result = self.whole_inside()
        return lambda names: number(result(by_key(names)))

    def whole_inside(self):
        result = self.sum()
        if self.tokens:
            raise self.error("something was not read")
        return result

    def sum(self):
        terms = [(self.take("+", "-") or "+", self.term())]
        while sign := self.take("+", "-", *SETS):
            terms.append((sign, self.term()))

        def value(names):
            sign, first = terms[0]
            total = first(names) if sign == "+" else product(-1, first(names))
            for sign, term in terms[1:]:
                one = product(-1, term(names)) if sign == "-" else term(names)
                total = SETS[sign](total, one) if sign in SETS else added(total, one)
            return total

        return value

    def term(self):
        """Products, and between them signs of the product entry by entry."""
        products = [self.product()]
        while self.take(r"\odot"):
            products.append(self.product())

        def value(names):
            first, *others = [one(names) for one in products]
            return reduce(lambda a, b: operator.mul(*same_shape(a, b, "a product entry by entry")), others, first)

        return value

    def at_end(self):
        return self.next() in STOPS or self.next() in self.ends[-1:]

    def product(self):
        factors, divisor = [], None
        while not self.at_end():
            if divisor:
                raise self.error("after a / and its divisor, it is not clear what is divided")
            if self.take("/"):
                divisor = self.factor()
            elif not self.take(r"\cdot", r"\times"):
                factors.append(self.factor())
        if not factors:
            raise self.error("a factor is missing")

        def value(names):
            result = reduce(product, (factor(names) for factor in factors[1:]), factors[0](names))
            return result if divisor is None else operand(result) / scalar(divisor(names))

        return value

    # factors

    def factor(self):
        return self.afterwards(self.base())

    def afterwards(self, base):
        """Exponents, and subscripts that take an entry of what stands before."""
        while self.next() in ("^", "_"):
            base = self.power(base) if self.take("^") else self.entry_of(base)
        return base

    def entry_of(self, base):
        self.need("_")
        items = [self.read(item) for item in items_of(self.raw_group())]
        return lambda names: entries(base(names), [index_value(item(names)) for item in items], "a value")

    def power(self, base):
        return self.raised(base, self.raw_group())

    def raised(self, base, exponent):
        if exponent == [r"\T"]:
            return lambda names: np.transpose(operand(base(names)))
        if exponent == ["-", r"\T"]:
            return lambda names: np.linalg.inv(np.atleast_2d(base(names))).T
        if exponent == ["-", "1"]:
            return lambda names: np.linalg.inv(np.atleast_2d(base(names)))
        rank = self.read(exponent)
        return lambda names: scalar(base(names)) ** scalar(rank(names))

    def base(self):
        token = self.next()
        if token in ("(", "{", "["):
            return self.group(token)
        if token == "|":
            inner = self.group(token)
            return lambda names: size(inner(names))
        if token == r"\|":
            return self.norm()
        if re.fullmatch(r"[\d.]+", token):
            self.tokens.pop(0)
            return lambda names: float(token)
        rule = {
            r"\frac": self.fraction, r"\sqrt": self.root, r"\tr": self.trace, r"\diag": self.diagonal,
            r"\sum": self.repeated, r"\prod": self.repeated, r"\max": self.repeated, r"\min": self.repeated,
            r"\E": self.moment, r"\Var": self.moment, r"\KL": self.divergence, r"\int": self.integral,
            r"\ind": self.indicator, r"\nabla": self.gradient,
        }.get(token)  # fmt: skip
        if rule:
            return rule()
        if token in ELEMENTARY:
            return self.elementary()
        if self.tokens[:2] == ["e", "^"]:
            return self.exponential()
        return self.symbol()

    def fraction(self):
        self.need(r"\frac")
        if self.tokens[:2] == ["{", r"\partial"]:
            return self.derivative()
        above, below = self.group("{"), self.group("{")
        return lambda names: operand(above(names)) / scalar(below(names))

    def root(self):
        self.need(r"\sqrt")
        inner = self.group("{")
        return lambda names: scalar(inner(names)) ** 0.5

    def trace(self):
        self.need(r"\tr")
        inner = self.group("(")
        return lambda names: np.trace(np.atleast_2d(inner(names)))

    def diagonal(self):
        self.need(r"\diag")
        inner = self.group("(")
        return lambda names: np.diag(np.ravel(inner(names)))

    def norm(self):
        """The Euclidean norm of a vector, or with F the Frobenius norm of a matrix, or with 1 the sum of the sizes."""
        inner = self.group(r"\|")
        kind = "".join(self.raw_group()) if self.take("_") else ""
        if kind not in ("", "1", "2", "F"):
            raise self.error(f"the norm {kind} is not known")

        def value(names):
            inside = operand(inner(names))
            if min(np.shape(inside), default=1) > 1 and kind != "F":
                raise ValueError("the norm of a matrix needs its F")
            return np.sum(np.abs(inside)) if kind == "1" else np.sum(np.square(inside)) ** 0.5

        return value

    def elementary(self):
        function = ELEMENTARY[self.tokens.pop(0)]
        exponent = self.read(self.raw_group()) if self.take("^") else None
        bare = self.is_name() or (self.next() or "")[0:1].isdigit()
        before = list(self.tokens)
        argument = self.afterwards(self.symbol(only=True)) if self.is_name() else self.factor()
        last = before[len(before) - len(self.tokens) - 1]
        if bare and last != ")" and not self.at_end():
            raise self.error("it is not clear how far the logarithm (or the like) reaches")

        def value(names):
            result = function(scalar(argument(names)))
            return result if exponent is None else result ** scalar(exponent(names))

        return value

    def exponential(self):
        """``e^{...}``."""
        self.need("e")
        self.need("^")
        exponent = self.read(self.raw_group())
        return lambda names: math.exp(scalar(exponent(names)))

    def indicator(self):
        r"""``\ind[a = b]`` is 1 if it is so, and else 0."""
        self.need(r"\ind")
        opening = self.next()
        if opening not in ("[", "(", r"\{"):
            raise self.error("a condition in brackets expected")
        self.need(opening)
        left, sign = self.sum(), self.take(*RELATIONS)
        if not sign:
            raise self.error("a condition expected")
        right = self.up_to(CLOSING[opening])
        compare = operator.eq if sign == "=" else RELATIONS[sign]
        return lambda names: float(compare(number(left(names)), number(right(names))))

    # sums over an index, expectations, integrals

    def repeated(self):
        r"""``\sum_{i=1}^{N}``, ``\sum_{i \in B}``, ``\sum_x``, ``\sum_{x, y}``, ``\sum_{k \ne y}``; the same with
        ``\prod``, ``\max``, ``\min``. The elements of ``\sum_x`` are given under that name.
        """
        sign = self.tokens.pop(0)
        if sign in (r"\max", r"\min") and self.next() == "(":
            arguments = self.arguments()[0]
            return lambda names: (max if sign == r"\max" else min)(scalar(one(names)) for one in arguments)
        self.need("_")
        ranges = self.ranges(sign, self.raw_group())
        body = self.term()

        def value(names):
            found = [body(inner) for inner in ranges(names)]
            if sign == r"\sum":
                return reduce(added, found) if found else 0.0
            found = [scalar(one) for one in found]
            return {r"\prod": math.prod, r"\max": max, r"\min": min}[sign](found)

        return value

    def ranges(self, sign, below):
        """The values with which the body of a sum is computed, as a function of the values outside."""
        letter = below[0] if below else ""
        if below[1:2] == ["="]:
            lower = self.read(below[2:])
            self.need("^")
            upper = self.read(self.raw_group())
            return lambda names: [
                names | {letter: k} for k in range(whole_number(lower(names)), whole_number(upper(names)) + 1)
            ]
        if below[1:2] == [r"\in"]:
            elements = self.read(below[2:])
            return lambda names: [names | {letter: one} for one in elements(names)]
        if below[1:2] in ([r"\ne"], [r"\neq"]):
            without = self.read(below[2:])
            return lambda names: [
                names | {letter: one} for one in given(names, rf"\sum_{letter}") if one != number(without(names))
            ]
        letters = below[::2]
        if set(below[1::2]) - {","} or len(below) % 2 == 0:
            raise self.error(f"a {sign} over {' '.join(below)} is not known")
        return lambda names: [
            names | dict(zip(letters, chosen, strict=True))
            for chosen in itertools.product(*(given(names, rf"\sum_{one}") for one in letters))
        ]

    def moment(self):
        r"""``\E_p[...]``: what is given under ``\E_p`` is called with a function of what is drawn."""
        name = self.tokens.pop(0)
        if self.take("_"):
            name = f"{name}_{{{' '.join(self.raw_group())}}}"
        inner = self.group("(" if self.next() == "(" else "[")
        return lambda names: given(names, name)(lambda **drawn: inner(with_values(names, drawn)))

    def integral(self):
        self.need(r"\int")
        inner = self.sum()
        if not self.take("dx", "dy", "dz"):
            raise self.error("dx expected")
        return lambda names: given(names, r"\int")(lambda **drawn: scalar(inner(with_values(names, drawn))))

    def divergence(self):
        self.need(r"\KL")
        self.need("(")
        first, second = self.up_to(r"\|"), self.up_to(")")
        return lambda names: given(names, r"\KL")(first(names), second(names))

    # derivatives

    def partial(self):
        r"""``{\partial name}``."""
        reader = Reader(self.raw_group(), self.latex)
        reader.need(r"\partial")
        name = reader.name()
        if reader.tokens:
            raise reader.error("one name expected")
        return name

    def derivative(self):
        r"""``\frac{\partial R_i}{\partial w_{jm}^{(\ell)}}``: a family given under this very name, with the indices in
        the order of print (of each name the layer first). Or else what is given under ``\partial`` is called with a
        function of changed values, the name that changes, and its indices. ``\frac{\partial}{\partial x} f`` is the
        same, of all that follows.
        """
        above = self.raw_group()
        name = self.partial()
        function = self.read(above[1:]) if above[1:] else self.term()
        try:
            numerator = Reader(["{", *above, "}"], self.latex).partial()
        except ValueError:
            numerator = None

        def value(names):
            if numerator:
                for (key, first), (last, second) in itertools.product(numerator.candidates(), name.candidates()):
                    if f"{key}/{last}" in names:
                        where = [index_value(self.read(item)(names)) for item in first + second]
                        return entries(names[f"{key}/{last}"], where, f"the derivative of {numerator} by {name}")
            head = Name(name.head, [item for item in name.items if not is_index(item)], [], name.tail)
            indices = name.layer + [item for item in name.items if is_index(item)]
            where = [index_value(self.read(item)(names)) for item in indices]
            change = given(names, r"\partial")
            return change(lambda changed: function(with_values(names, changed)), str(head), *where)

        return value

    def gradient(self):
        r"""``\nabla R_i(\theta)``: a function given under ``\nabla R_i``. Or else what is given under ``\nabla`` is
        called with a function of changed values.
        """
        self.need(r"\nabla")
        sign = r"\nabla" + (f"_{{{' '.join(self.raw_group())}}}" if self.take("_") else "")
        if not self.is_name():
            inner = self.factor()
            return lambda names: given(names, sign)(lambda changed: inner(with_values(names, changed)))
        before = list(self.tokens)
        name = self.name(sign + " ")
        gradient, left = self.applied(name), self.tokens
        self.tokens = before[: len(before) - len(left)]
        inner, self.tokens = self.symbol(), left

        def value(names):
            if key_of(sign) not in names or any(key in names for key, _ in name.candidates()):
                return gradient(names)
            return names[key_of(sign)](lambda changed: inner(with_values(names, changed)))

        return value

    # names and functions

    def is_name(self):
        token = self.next() or ""
        return re.fullmatch(r"[A-Za-z]|\\[A-Za-z]+", token) is not None and token not in (
            *ELEMENTARY, *RELATIONS, r"\frac", r"\sqrt", r"\tr", r"\diag", r"\sum", r"\prod", r"\max", r"\min", r"\E",
            r"\Var", r"\KL", r"\int", r"\ind", r"\nabla",
        )  # fmt: skip

    def name(self, prefix=""):
        """A name with its accent, primes, star, subscript and layer, in whatever order they stand."""
        if self.next() == r"\nabla":
            self.need(r"\nabla")
            prefix = r"\nabla" + (f"_{{{' '.join(self.raw_group())}}}" if self.take("_") else "") + " "
        head = self.tokens.pop(0) if self.tokens else ""
        if head in ACCENTS:
            head += "{" + "".join(self.raw_group()) + "}"
        if head in (r"\E", r"\Var", r"\sum", r"\prod", r"\max", r"\min") and self.take("_"):
            return Name(f"{head}_{{{' '.join(self.raw_group())}}}", [], [])
        subscript, layer, primes, tail = [], [], "", ""
        while True:
            if self.take("'"):
                primes += "'"
            elif self.next() == "_" and not subscript:
                self.need("_")
                subscript = items_of(self.raw_group())
            elif self.tokens[:3] == ["^", "{", "("] and not layer:
                self.need("^")
                inside = self.raw_group()
                end = inside.index(")") if ")" in inside else len(inside)
                layer = [inside[1:end]]
                if inside[end + 1 :]:  # ^{(\ell)\T}
                    self.tokens[:0] = ["^", "{", *inside[end + 1 :], "}"]
            elif self.tokens[:2] in (["^", "*"], ["^", r"\star"]):
                del self.tokens[:2]
                tail = "^*"
            else:
                return Name((prefix + head + primes).strip(), subscript, layer, tail)

    def arguments(self):
        """What stands in the brackets of a function, and the signs between."""
        self.need("(")
        self.ends.append(")")
        found, marks = [self.sum()], []
        while mark := self.take(",", ";", r"\mid"):
            marks.append(mark)
            found.append(self.sum())
        self.need(self.ends.pop())
        return found, marks

    def symbol(self, only=False):
        if not self.is_name():
            raise self.error("something that is not known")
        return self.applied(self.name(), only)

    def applied(self, name, only=False):
        """A name, and the arguments behind it: a function of them, or a product with them if it is no function."""
        if self.next() != "(":
            return lambda names: self.find(names, name)
        arguments, marks = self.arguments()
        suffix = "" if set(marks) <= {","} else f"({''.join(marks)})"
        after = self.afterwards(lambda names: names[SLOT])  # what stands behind the bracket

        def value(names):
            function = self.find(names, name, suffix)
            given_to_it = [number(one(names)) for one in arguments]
            if callable(function):
                return after(names | {SLOT: function(*given_to_it)})
            if marks or only or name.head in ONLY_FUNCTIONS:
                raise ValueError(f"{name} is no function, so its bracket makes no sense here: {self.latex}")
            return product(function, after(names | {SLOT: given_to_it[0]}))

        return value

    def find(self, names, name, suffix=""):
        for key, items in name.candidates():
            if key + suffix in names:
                where = [index_value(self.read(item)(names)) for item in items]
                found = names[key + suffix]
                return entries(found.function(names) if isinstance(found, Depends) else found, where, name)
        raise ValueError(f"no value was given for {name}{suffix}")


def items_of(subscript):
    r"""The items of a subscript: ``jm`` has two, ``i+1,j`` has two, ``\ell-1`` has one."""
    items, pieces = [], [[]]
    for token in subscript:
        if token == ",":
            pieces.append([])
        else:
            pieces[-1].append(token)
    for piece in pieces:
        items += [piece] if {"+", "-"} & set(piece) else [[token] for token in piece]
    return items


def index_value(value):
    """An index is a whole number; the key of a dict may be anything else."""
    value = number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_number(value):
    value = index_value(value)
    if not isinstance(value, int):
        raise ValueError(f"a whole number is wanted here, not {value!r}")
    return value


def given(names, name):
    if key_of(name) not in names:
        raise ValueError(f"no value was given for {name}")
    return names[key_of(name)]
