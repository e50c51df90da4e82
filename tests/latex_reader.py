r"""Read a formula as the book prints it, and compute it with matrices of any size.

SymPy's parser reads scalars only, so a lost trace or a dimension printed as 1 would pass it. This reader knows the
signs that the book uses: products by juxtaposition, ``\frac``, ``\tr``, ``|A|``, ``\|A\|_F^2``, ``^\T``, ``^{-1}``,
sums over dimensions, ``\E_p[...]``, ``\KL(p \| q)``, ``\Normal``, ``\int``. What it does not know, it refuses.

A formula becomes a function of the values of its symbols: a dict from the LaTeX of each name to a number, an array
(vectors are columns), a list (one entry for each dimension, for the terms of a sum) or a callable.
"""

import re

import numpy as np

TOKEN = re.compile(r"\\[A-Za-z]+|\\\||\d+(?:\.\d+)?|dx|[A-Za-z]|\S")
LAYOUT = re.compile(r"\\(?:left|right|qquad|quad)(?![A-Za-z])|\\[,;]|\\(?:begin|end)\{aligned\}|\{\}&|&|\\\\(?=\s)")
CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", r"\|": r"\|"}
ELEMENTARY = {r"\log": np.log, r"\exp": np.exp, r"\sin": np.sin}


def sides(latex):
    """The formulas between the signs of equality, each as a function of the values of its symbols."""
    return [Reader(part).whole() for part in re.split(r"(?<!\w)=(?=\s)|(?<=\s)=(?!\w)", latex)]


def number(value):
    """A matrix with one entry is a number."""
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def product(a, b):
    a, b = number(a), number(b)
    return a @ b if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a * b


def added(a, b):
    a, b = number(a), number(b)
    if np.shape(a) != np.shape(b):  # NumPy would stretch one to the other
        raise ValueError(f"a sum of shapes {np.shape(a)} and {np.shape(b)}")
    return a + b


def scalar(value):
    value = number(value)
    if np.ndim(value):
        raise ValueError(f"a number is wanted here, not an array of shape {value.shape}")
    return value


class Reader:
    """A parser by recursive descent: one method for each rule of the grammar, each returns a function of the values."""

    def __init__(self, latex):
        self.latex = latex
        self.tokens = TOKEN.findall(LAYOUT.sub(" ", latex).strip(" .,"))

    # the stream of tokens

    def next(self):
        return self.tokens[0] if self.tokens else None

    def take(self, *wanted):
        """Take one of the wanted tokens if it is next."""
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def need(self, token):
        if not self.take(token):
            raise ValueError(f"{token} expected before {' '.join(self.tokens[:5])!r} in {self.latex}")

    def group(self, opening):
        """The tokens up to the sign that closes, which is taken too."""
        self.need(opening)
        inner = self.sum(CLOSING[opening])
        self.need(CLOSING[opening])
        return inner

    # the grammar

    def whole(self):
        result = self.sum(None)
        if self.tokens:
            raise ValueError(f"{' '.join(self.tokens[:5])!r} was not read, in {self.latex}")
        return lambda names: number(result(names))

    def sum(self, end):
        terms = [(self.take("+", "-") or "+", self.term(end))]
        while sign := self.take("+", "-"):
            terms.append((sign, self.term(end)))

        def value(names):
            signed = [term(names) if sign == "+" else product(-1, term(names)) for sign, term in terms]
            total = signed[0]
            for one in signed[1:]:
                total = added(total, one)
            return total

        return value

    def term(self, end):
        factors = []
        while self.next() not in ("+", "-", ")", "]", "}", ",", ";", "dx", None) and self.next() != end:
            factors.append(self.factor())
        if not factors:
            raise ValueError(f"a factor is missing before {' '.join(self.tokens[:5])!r} in {self.latex}")

        def value(names):
            result = factors[0](names)
            for factor in factors[1:]:
                result = product(result, factor(names))
            return result

        return value

    def factor(self):
        base = self.base()
        while self.take("^"):
            base = self.power(base)
        return base

    def power(self, base):
        exponent = self.raw_group() if self.next() == "{" else [self.tokens.pop(0)]
        if exponent == [r"\T"]:
            return lambda names: np.transpose(base(names))
        if exponent == ["-", r"\T"]:
            return lambda names: np.linalg.inv(np.atleast_2d(base(names))).T
        if exponent == ["-", "1"]:
            return lambda names: np.linalg.inv(np.atleast_2d(base(names)))
        if len(exponent) == 1:
            rank = Reader(exponent[0]).whole()
            return lambda names: scalar(base(names)) ** rank(names)
        raise ValueError(f"the exponent {exponent} is not known, in {self.latex}")

    def raw_group(self):
        self.need("{")
        end = self.tokens.index("}")
        inner, self.tokens = self.tokens[:end], self.tokens[end + 1 :]
        return inner

    def base(self):
        token = self.next()
        if token in ("(", "{"):
            return self.group(token)
        if token == "|":
            inner = self.group(token)
            return lambda names: np.linalg.det(np.atleast_2d(inner(names)))
        if token == r"\|":
            return self.squared_norm()
        self.tokens.pop(0)
        if re.fullmatch(r"[\d.]+", token):
            return lambda names: float(token)
        if token == r"\frac" and self.tokens[1:2] == [r"\partial"]:
            return self.derivative()
        if token == r"\frac":
            above, below = self.group("{"), self.group("{")
            return lambda names: number(above(names)) / scalar(below(names))
        if token == r"\sqrt":
            inner = self.group("{")
            return lambda names: scalar(inner(names)) ** 0.5
        if token in ELEMENTARY:
            return self.elementary(ELEMENTARY[token])
        if token == r"\tr":
            inner = self.group("(")
            return lambda names: np.trace(np.atleast_2d(inner(names)))
        if token == r"\sum":
            return self.sum_over_dimensions()
        if token in (r"\E", r"\Var"):
            return self.moment(token)
        if token == r"\KL":
            return self.divergence()
        if token == r"\Normal":
            return self.normal()
        if token == r"\int":
            inner = self.term("dx")
            self.need("dx")
            return lambda names: names[r"\int"](lambda **drawn: scalar(inner(names | drawn)))
        return self.symbol(token)

    def derivative(self):
        """``\\frac{\\partial f}{\\partial name}``."""
        self.need("{")
        self.need(r"\partial")
        function = self.sum("}")
        self.need("}")
        name = "".join(self.raw_group()).removeprefix(r"\partial")
        return lambda names: names[r"\partial"](lambda changed: function(names | changed), name)

    def squared_norm(self):
        inner = self.group(r"\|")
        if self.take("_"):
            self.need("F")
        self.need("^")
        self.need("2")
        return lambda names: np.sum(np.square(inner(names)))

    def elementary(self, function):
        exponent = float(self.tokens.pop(0)) if self.take("^") else 1
        argument = self.factor()
        return lambda names: function(scalar(argument(names))) ** exponent

    def sum_over_dimensions(self):
        self.need("_")
        index, equal, one = self.raw_group()
        self.need("^")
        upper = self.group("{")
        if (equal, one) != ("=", "1"):
            raise ValueError(f"a sum from 1 is expected in {self.latex}")
        body = self.term(None)
        return lambda names: sum(scalar(body(names | {"index": (index, k)})) for k in range(upper(names)))

    def moment(self, token):
        name = token + ("_" + self.tokens.pop(0) if self.take("_") else "")
        inner = self.group("[")
        return lambda names: names[name](lambda **drawn: inner(names | drawn))

    def divergence(self):
        self.need("(")
        first = self.base()
        self.need(r"\|")
        second = self.base()
        self.need(")")
        return lambda names: names[r"\KL"](first(names), second(names))

    def normal(self):
        """``\\Normal(mean, cov)`` is a distribution, ``\\Normal(x; mean, cov)`` its density at x."""
        self.need("(")
        arguments, marks = [self.sum(None)], []
        while mark := self.take(",", ";"):
            marks.append(mark)
            arguments.append(self.sum(None))
        self.need(")")
        name = r"\Normal" if marks == [","] else r"\Normal;"
        return lambda names: names[name](*(argument(names) for argument in arguments))

    def symbol(self, token):
        name = token
        if self.take("_"):
            subscript = "".join(self.raw_group()) if self.next() == "{" else self.tokens.pop(0)
            name += f"_{{{subscript}}}" if len(subscript) > 1 else f"_{subscript}"
        if token in ("p", "q") and self.next() == "(":
            argument = self.group("(")
            return lambda names: names[name](argument(names))

        def value(names):
            if name not in names:
                raise ValueError(f"no value was given for {name}")
            known = names[name]
            if not isinstance(known, list):
                return known
            index, k = names["index"]
            if index not in name.partition("_")[2]:
                raise ValueError(f"{name} does not carry the index {index} of its sum")
            return known[k]

        return value
