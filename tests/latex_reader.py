r"""Read a formula as the book prints it, and compute it with numbers, matrices of any size, and functions.

SymPy's parser reads scalars only, so a lost trace or a dimension printed as 1 would pass it. This reader knows the
signs that the book uses. What it does not know, it refuses.

A formula becomes a function of the values of its symbols: a dict from the LaTeX of each name to its value.

* A value is a number, a matrix, a **column** (a vector has the shape (n, 1)), a set, or a function. A value that is to
  change with others is ``Depends(lambda names: ...)``.
* A name with index letters is a family: ``x_i``, ``w_{jm}^{(\ell)}``, ``\theta_t``. Give all of it under one key,
  with whatever letters: ``"w_{jm}^{(\ell)}"`` serves ``w_{kj}^{(\ell+1)}``, too. Its value has one level for each
  index, the layer first and then the subscripts. A list or an array is counted **from 1**, as in print; a dict is
  asked for the index itself (``{0: ..., 1: ...}`` for ``\theta_t`` or ``h^{(\ell)}``); `Indexed` calls a function.
* A letter that is an index is a name like others: a sum binds it, or a situation gives its value (``"i": 3``).
* ``\exp`` of a column is that of its entries; other functions want numbers, unless a situation gives them.
* ``f(x)`` is the value of ``f`` at x if that value is a function, and else a product.
  Arguments that are parted by other signs than commas have a key of their own: ``p(x \mid y)`` is ``"p(\mid)"``.
* Where one letter has several meanings, told apart by the letters of its arguments, give a function for each, under
  ``"p(x)"``, ``"p(z)"``, ``"p(x, z)"``, ``"p(x \mid z)"``. The first serves ``p(x_i)`` and ``p(x')``, too. An argument
  that is no letter fits any: ``p(x \mid 0)``. A bare ``q`` is ``"q(z)"``, if that is the only one.

Integrals, expectations, divergences and derivatives are **computed from the print**, by sums and by differences.

* An integral over z is a sum over nodes. Give them and their weights under ``"dz"``; `latex_numerics.grid` makes both.
  Between finite ends, as in ``\int_0^1``, none are needed.
* ``\E_{z \sim q}[f(z)]``, ``\E_{q(z)}[...]``, ``\E_{q}[...]``, ``\Var_{q(z \mid x)}[...]`` and ``\KL(q \,\|\, p)`` are
  sums over the same nodes, times the density; or, if z is discrete, over its values, given under ``r"\sum_z"``. The
  density must sum up to one.
* ``\nabla_\phi f``, ``\frac{\partial}{\partial \phi_j} f`` and ``\frac{d}{d\phi} f`` are differences of what is
  printed. Give the value of ``\phi``, and what follows from it as `Depends`.
* A function under the printed sign itself (``r"\E_{z \sim q}"``, ``r"\int"``, ``r"\KL"``, ``r"\nabla_\phi"``) is
  called instead; so is one under ``r"\min_{U}"`` or ``r"\partial"``. The methods of `Reader` say with what.
* Of ``P(\theta_j < 0)`` the function gets the event, which says 0 or 1 of changed values; of ``f(x_1, \dots, x_N)`` the
  list of values, so that its key is ``f(x)``.

The files: `latex_names` (tokens, names, keys), `latex_arithmetic` (what may be added and multiplied), `latex_numerics`
(integrals and derivatives), and here the grammar.
"""

import itertools
import math
import operator
import re
from functools import cache, reduce

import latex_numerics
import numpy as np
from latex_arithmetic import (
    Depends,
    Indexed,
    added,
    determinant,
    entries,
    index_value,
    normal_density,
    number,
    operand,
    product,
    raised,
    resolved,
    same_shape,
    scalar,
    size,
    whole_number,
)  # fmt: skip
from latex_names import (
    ELEMENTARY,
    INDICES,
    MARKS,
    RELATIONS,
    SLOT,
    Name,
    Stream,
    by_key,
    given,
    is_differential,
    is_given,
    is_index,
    items_of,
    key_of,
    name_alone,
    parted,
    partial,
    signature,
    tokens_of,
    with_values,
)  # fmt: skip

__all__ = ["INDICES", "SLOT", "Depends", "Indexed", "claims", "holds", "key_of", "relation", "sides"]

# never a factor
ONLY_FUNCTIONS = {r"\loss", r"\enc", r"\dec", r"\softmax", r"\sigmoid", r"\relu", r"\Normal", r"\elbo"}
SETS = {r"\cap": operator.and_, r"\cup": operator.or_}
STOPS = {"+", "-", ")", "]", "}", r"\}", ",", ";", r"\mid", r"\odot", *SETS, *RELATIONS, None}
CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", r"\|": r"\|", r"\{": r"\}"}


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


# --- the grammar ---


class Reader(Stream):
    """A parser by recursive descent: one method for each rule of the grammar, each returns a function of the values."""

    def __init__(self, tokens, latex):
        super().__init__(tokens, latex)
        self.ends = []  # the signs that close what is open, the innermost last

    def group(self, opening):
        """What stands between two signs, which are taken too."""
        self.need(opening)
        return self.up_to(CLOSING[opening])

    def up_to(self, closing):
        self.ends.append(closing)
        inner = self.sum()
        self.need(self.ends.pop())
        return inner

    def read(self, tokens):
        """A formula of its own, as in a subscript or an exponent."""
        return formula_of(tuple(tokens), self.latex)

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
        return self.next() in STOPS or self.next() in self.ends[-1:] or is_differential(self.next())

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
        exponent = self.raw_group()
        if exponent == [r"\T"]:
            return lambda names: np.transpose(operand(base(names)))
        if exponent == ["-", r"\T"]:
            return lambda names: np.linalg.inv(np.atleast_2d(base(names))).T
        if exponent == ["-", "1"]:
            return lambda names: np.linalg.inv(np.atleast_2d(base(names)))
        rank = self.read(exponent)
        return lambda names: raised(base(names), rank(names))

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
            r"\argmin": self.repeated,
            r"\E": self.moment, r"\Var": self.moment, r"\KL": self.divergence, r"\int": self.integral,
            r"\ind": self.indicator, r"\nabla": self.gradient, r"\det": self.determinant, r"\binom": self.binomial,
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
        if self.is_derivative():
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

    def determinant(self):
        self.need(r"\det")
        inner = self.group("(") if self.next() == "(" else self.symbol(only=True)
        return lambda names: determinant(inner(names))

    def binomial(self):
        self.need(r"\binom")
        above, below = self.read(self.raw_group()), self.read(self.raw_group())
        return lambda names: float(math.comb(whole_number(above(names)), whole_number(below(names))))

    def diagonal(self):
        r"""``\diag(v)``, ``\diag(\lambda_1, \dots, \lambda_m)``."""
        self.need(r"\diag")
        listed = self.listed(self.raw("(", ")"))
        return lambda names: np.diag(np.concatenate([np.ravel(one) for one in listed(names)]))

    def listed(self, tokens):
        r"""Values parted by commas, as a list; ``f(x_1), \dots, f(x_N)`` stands for all from 1 to N."""
        pieces, _ = parted(tokens)
        if [r"\dots"] not in pieces:
            formulas = [self.read(piece) for piece in pieces]
            return lambda names: [one(names) for one in formulas]
        entry, bounds = self.numbered(pieces)
        return lambda names: [entry(k)(names) for k in bounds(names)]

    def numbered(self, pieces):
        r"""Of ``f(x_1), \dots, f(x_N)`` the formula of an entry, and the numbers, which depend on the values."""
        if len(pieces) != 3 or pieces[1] != [r"\dots"]:
            raise self.error(r"of a list with \dots the first and the last should be printed")
        first, _, last = pieces
        before = shared(first, last)
        after = shared(first[before:][::-1], last[before:][::-1])
        lower, upper = (piece[before : len(piece) - after] for piece in (first, last))
        if first[before - 1 : before] != ["_"] or not lower or not upper:
            raise self.error("the first and the last of a list should differ in one index")
        low, high = self.read(lower), self.read(upper)
        tail = first[len(first) - after :]
        return (
            lambda k: self.read([*first[:before], str(k), *tail]),
            lambda names: range(whole_number(low(names)), whole_number(high(names)) + 1),
        )

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
        bare = self.is_name() or (self.next() or "")[0:1].isdigit() or self.next() == r"\frac"
        before = list(self.tokens)
        argument = self.afterwards(self.symbol(only=True)) if self.is_name() else self.factor()
        last = before[len(before) - len(self.tokens) - 1]
        if bare and last != ")" and not self.at_end():
            raise self.error("it is not clear how far the logarithm (or the like) reaches")

        def value(names):
            inside = argument(names)
            # the exponential of a column is that of its entries; a matrix has another one
            by_entry = function is np.exp and np.shape(inside)[1:] == (1,)
            result = function(inside if by_entry else scalar(inside))
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
        ``\prod``, ``\max``, ``\min``. The elements of ``\sum_x`` are given under that name. What is given under
        ``\min_{U}`` or ``\argmin_{U}``, as it is printed, is called with a function of changed values.
        """
        sign = self.tokens.pop(0)
        if sign in (r"\max", r"\min") and self.next() == "(":
            arguments = self.arguments()[0]
            return lambda names: (max if sign == r"\max" else min)(scalar(one(names)) for one in arguments)
        self.need("_")
        below = self.raw_group()
        own = f"{sign}_{{{' '.join(below)}}}" if sign in (r"\max", r"\min", r"\argmin") else ""
        ranges = self.ranges(sign, below, own)
        body = self.term()

        def value(names):
            if own in names:
                return resolved(names[own], names)(lambda **changed: body(with_values(names, changed)))
            if sign == r"\argmin":
                raise ValueError(f"no value was given for {own}")
            found = [body(inner) for inner in ranges(names)]
            if sign == r"\sum":
                return reduce(added, found) if found else 0.0
            found = [scalar(one) for one in found]
            return {r"\prod": math.prod, r"\max": max, r"\min": min}[sign](found)

        return value

    def ranges(self, sign, below, own):
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
            if not own:
                raise self.error(f"a {sign} over {' '.join(below)} is not known")
            return lambda names: given(names, own)
        return lambda names: [
            names | dict(zip(letters, chosen, strict=True))
            for chosen in itertools.product(*(given(names, rf"\sum_{one}") for one in letters))
        ]

    def moment(self):
        r"""``\E_p[...]``: what is given under ``\E_p`` is called with a function of what is drawn. Or else the mean
        is computed from the law: ``\E_{q(z)}``, ``\E_{z \sim q}``, ``\E_{q_\phi(z \mid x)}``, ``\E_{q}``,
        ``\E_{z \sim q_\phi(\cdot \mid x)}``, ``\E_{z_1, \dots, z_M \sim q}``.
        """
        sign, below = self.tokens.pop(0), None
        if self.take("_"):
            below = self.raw_group()
        name = sign if below is None else f"{sign}_{{{' '.join(below)}}}"
        nested = self.next() in (r"\E", r"\Var")
        inner = self.moment() if nested else self.group("(" if self.next() == "(" else "[")
        compute = {r"\E": latex_numerics.mean, r"\Var": latex_numerics.variance}[sign]

        def value(names):
            if is_given(names, name):
                return given(names, name)(lambda **drawn: inner(with_values(names, drawn)))
            try:
                law, indices = self.drawn(below or [])
                draws = law.draws(names, indices and indices(names))
            except ValueError as error:
                raise ValueError(f"no value was given for {name}, nor could it be computed: {error}") from error
            return compute((inner(one), chance) for one, chance in draws)

        return value

    def drawn(self, below):
        r"""The law below an expectation, and what numbers the draws if they are numbered."""
        if r"\sim" not in below:
            return Law(below, self.latex), None
        at = below.index(r"\sim")
        law, pieces = below[at + 1 :], parted(below[:at])[0]
        if [r"\dots"] in pieces:
            (_, bounds), name = self.numbered(pieces), name_alone(pieces[0])
            if name is None or len(name.items) != 1:
                raise self.error("what is drawn should be one letter with one index")
            return Law(law, self.latex, name.head), bounds
        names = [name_alone(piece) for piece in pieces]
        if None in names or len({(name.head, len(name.items)) for name in names}) > 1 or len(names[0].items) > 1:
            raise self.error("what is drawn should be one letter, with or without an index")
        indices = [self.read(item) for name in names for item in name.items]
        if len(indices) < len(names) and len(names) > 1:
            raise self.error("several draws should have indices")
        return Law(law, self.latex, names[0].head), indices and (
            lambda values: [whole_number(one(values)) for one in indices]
        )

    def integral(self):
        r"""``\int f(z) \, dz``, ``\int_{\R^m} f(z) \, dz``: a sum over the nodes given under ``dz`` with their weights;
        ``\int_a^b f(z) \, dz`` needs none, and one end may be infinite. What is given under ``\int`` is called with a
        function of what is drawn.
        """
        self.need(r"\int")
        lower = self.raw_group() if self.take("_") else None
        upper = self.raw_group() if self.take("^") else None
        inner = self.sum()
        if not is_differential(self.next()):
            raise self.error("dx expected")
        letter = self.tokens.pop(0)[1:]
        items = items_of(self.raw_group()) if self.take("_") else []
        index = self.read(items[0]) if items else None
        between, dimension = None, None
        if upper == [r"\infty"] and lower == ["-", r"\infty"]:
            dimension = self.read(["1"])
        elif upper is not None and lower is not None:
            infinite = {r"\infty": lambda names: math.inf, r"-\infty": lambda names: -math.inf}
            between = [infinite.get("".join(end)) or self.read(end) for end in (lower, upper)]
        elif lower is not None:
            if lower[:1] != [r"\R"] or lower[1:2] not in ([], ["^"]):
                raise self.error(f"an integral over {' '.join(lower)} is not known")
            dimension = self.read(Stream(lower[2:], self.latex).raw_group() or ["1"])

        def value(names):
            if is_given(names, r"\int"):
                return given(names, r"\int")(lambda **drawn: scalar(inner(with_values(names, drawn))))
            at = None if index is None else whole_number(index(names))
            ends = between and latex_numerics.interval(*(scalar(end(names)) for end in between))
            if dimension is not None:
                rows = max(1, np.size(latex_numerics.nodes(names, letter, at, sums=False)[0][0]))
                if rows != whole_number(dimension(names)):
                    raise ValueError(f"an integral over {dimension(names)} dimensions, and the nodes have {rows}")
            return latex_numerics.integrated(inner, names, letter, at, ends)

        return value

    def divergence(self):
        r"""``\KL(p \,\|\, q)``: what is given under ``\KL`` is called with both; with a function of z for ``q(z)``.
        Or else it is computed from the densities.
        """
        self.need(r"\KL")
        inside = self.raw("(", ")")
        if inside.count(r"\|") != 1:
            raise self.error(r"two laws parted by \| expected")
        at = inside.index(r"\|")
        laws = [Law(side, self.latex) for side in (inside[:at], inside[at + 1 :])]

        def value(names):
            if is_given(names, r"\KL"):
                return given(names, r"\KL")(*(law.as_argument(names) for law in laws))
            printed = [law.printed(names) for law in laws if law.letter]
            if len(set(printed)) > 1:
                raise ValueError(f"a divergence of laws of different letters: {self.latex}")
            letter, index = printed[0] if printed else (None, None)
            letter = letter or laws[0].sole_letter(names)
            first, second = (law.density(letter) for law in laws)
            return latex_numerics.divergence(first, second, names, letter, index)

        return value

    # derivatives

    def is_derivative(self):
        r"""``\frac{\partial ...}{...}``, ``\frac{d}{d\phi}``; ``\frac{d}{2}`` is none."""
        if self.tokens[:2] == ["{", r"\partial"]:
            return True
        ahead = Stream(self.tokens, self.latex)
        if ahead.raw_group()[:1] != ["d"]:
            return False
        first, *rest = ahead.raw_group() or [""]
        if is_differential(first):
            rest.insert(0, first[1:])
        return (is_differential(first) or first == "d") and name_alone(rest) is not None

    def derivative(self):
        r"""``\frac{\partial R_i}{\partial w_{jm}^{(\ell)}}``: a family given under this very name, with the indices in
        the order of print (of each name the layer first). Or else what is given under ``\partial`` is called with a
        function of changed values, the name that changes, and its indices. Or else it is computed by differences.
        ``\frac{\partial}{\partial x} f`` is the same, of all that follows.
        """
        above = self.raw_group()
        name = partial(self)
        function = self.read(above[1:]) if above[1:] else self.term()
        numerator = name_alone(above[1:]) if above[1:] else None

        def value(names):
            if numerator:
                for (key, first), (last, second) in itertools.product(numerator.candidates, name.candidates):
                    if f"{key}/{last}" in names:
                        where = [index_value(self.read(item)(names)) for item in first + second]
                        return entries(names[f"{key}/{last}"], where, f"the derivative of {numerator} by {name}")
            head = Name(name.head, [item for item in name.items if not is_index(item)], [], name.tail)
            indices = name.layer + [item for item in name.items if is_index(item)]
            if is_given(names, r"\partial") or (numerator and not isinstance(names.get(numerator.key), Depends)):
                where = [index_value(self.read(item)(names)) for item in indices]
                change = given(names, r"\partial")
                return change(lambda changed: function(with_values(names, changed)), str(head), *where)
            return self.by_differences(function, names, name)

        return value

    def by_differences(self, function, names, name):
        for key, items in name.candidates:
            family = name.items and len(items) == len(name.items)
            if key in names or (family and name.head in names):
                where = [self.read(item)(names) for item in items]
                return latex_numerics.derivative(function, names, name, where)
        raise ValueError(rf"no value was given for \partial, nor for {name}")

    def gradient(self):
        r"""``\nabla R_i(\theta)``: a function given under ``\nabla R_i``. Or else what is given under ``\nabla`` is
        called with a function of changed values. Or else ``\nabla_\phi`` is computed by differences.
        """
        self.need(r"\nabla")
        below = self.raw_group() if self.take("_") else []
        sign = r"\nabla" + (f"_{{{' '.join(below)}}}" if below else "")
        variable = name_alone(below) if below else None

        def changing(names, inner):
            if variable and not is_given(names, sign):
                return self.by_differences(inner, names, variable)
            return given(names, sign)(lambda changed: inner(with_values(names, changed)))

        if not self.is_name():
            inner = self.factor()
            return lambda names: changing(names, inner)
        before = list(self.tokens)
        name = self.name(sign + " ")
        gradient, left = self.applied(name), self.tokens
        self.tokens = before[: len(before) - len(left)]
        inner, self.tokens = self.symbol(), left

        def value(names):
            keys = [key for key, _ in name.candidates]
            own = any(given_key in keys or given_key.split("(")[0] in keys for given_key in names)
            if own or not (variable or is_given(names, sign)):
                return gradient(names)
            return changing(names, inner)

        return value

    # names and functions

    def arguments(self):
        r"""What stands in the brackets of a function, the signs between, and the letters that stand alone.
        Of ``x_1, \dots, x_N`` the function gets the list.
        """
        pieces, marks = parted(Stream(self.tokens, self.latex).raw("(", ")"))
        if [r"\dots"] in pieces:
            self.raw("(", ")")
            return self.with_lists(pieces, marks)
        self.need("(")
        self.ends.append(")")
        found, marks, letters = [], [], []
        while True:
            before = list(self.tokens)
            found.append(self.argument())
            name = name_alone(before[: len(before) - len(self.tokens)])
            letters.append(name and name.letter)
            mark = self.take(*MARKS)
            if not mark:
                break
            marks.append(mark)
        self.need(self.ends.pop())
        return found, marks, letters

    def with_lists(self, pieces, marks):
        found, signs, letters = [], [], []
        while pieces:
            first, *pieces = pieces
            if pieces[:1] == [[r"\dots"]]:
                entry, bounds = self.numbered([first, *pieces[:2]])
                found.append(lambda names, entry=entry, bounds=bounds: [entry(k)(names) for k in bounds(names)])
                pieces, marks = pieces[2:], marks[2:]
            else:
                found.append(self.read(first))
            name = name_alone(first)
            letters.append(name and name.letter)
            signs, marks = signs + marks[:1], marks[1:]
        return found, signs, letters

    def argument(self):
        r"""Of ``P(\theta_j < 0)`` the function gets the event: a function of changed values, with the value 0 or 1."""
        left = self.sum()
        if self.next() not in RELATIONS:
            return left
        sign = self.tokens.pop(0)
        right = self.sum()
        compare = operator.eq if sign == "=" else RELATIONS[sign]

        def value(names):
            left(names), right(names)  # what cannot be computed here, cannot be computed there
            return lambda **changed: float(
                compare(*(number(side(with_values(names, changed))) for side in (left, right)))
            )

        return value

    def symbol(self, only=False):
        if not self.is_name():
            raise self.error("something that is not known")
        return self.applied(self.name(), only)

    def applied(self, name, only=False):
        """A name, and the arguments behind it: a function of them, or a product with them if it is no function."""
        if self.next() != "(":
            return lambda names: self.find(names, name)
        arguments, marks, letters = self.arguments()
        suffix = "" if set(marks) <= {","} else f"({''.join(marks)})"
        exact = signature([letter or UNKNOWN for letter in letters], marks)
        after = self.afterwards(lambda names: names[SLOT])  # what stands behind the bracket

        def value(names):
            function = self.find(names, name, suffix, exact)
            given_to_it = [number(one(names)) for one in arguments]
            if callable(function):
                return after(names | {SLOT: function(*given_to_it)})
            if marks or only or name.head in ONLY_FUNCTIONS:
                raise ValueError(f"{name} is no function, so its bracket makes no sense here: {self.latex}")
            return product(function, after(names | {SLOT: given_to_it[0]}))

        return value

    def find(self, names, name, suffix="", exact=""):
        """The value of a name. Before arguments: first the key with their letters, then the one with their signs."""
        endings = (exact, suffix) if exact else ("",)
        found = [(key + end, items) for key, items in name.candidates for end in endings if key + end in names]
        if not found:
            like = [(only_one_like(names, key, exact or f"({UNKNOWN})"), items) for key, items in name.candidates]
            found = [one for one in like if one[0]]
        if found:
            key, items = found[0]
            where = [index_value(self.read(item)(names)) for item in items]
            return entries(resolved(names[key], names), where, name)
        if name.head == r"\Normal" and suffix == "(;,)":
            return normal_density
        raise ValueError(f"no value was given for {name}{exact.replace(UNKNOWN, '...') if suffix else ''}")


@cache
def formula_of(tokens, latex):
    """What these tokens are worth, as a function of the values; the same tokens are read once."""
    return Reader(tokens, latex).whole_inside()


def shared(first, last):
    """How many tokens two lists have in common at their beginning."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


UNKNOWN = "?"  # an argument that is no letter, in a signature


def only_one_like(names, key, wanted):
    r"""The one key that has arguments as wanted, where some of them are no letters, or None if there is none.

    So ``p(x, f(y))`` and ``\log p(0)`` are found, and the bare ``q`` of ``\elbo(q; x)`` is that of ``q(z)``.
    """
    if UNKNOWN not in wanted:
        return None
    pattern = re.compile(re.escape(wanted).replace(re.escape(UNKNOWN), r"[^,;()]*?"))
    found = [name for name in names if name.startswith(key + "(") and pattern.fullmatch(name[len(key) :])]
    found = [name for name in found if name.count(r"\mid") == wanted.count(r"\mid") and name[len(key) + 1 :] != ")"]
    if len(found) > 1:
        raise ValueError(f"{key}{wanted} could be any of {', '.join(found)}")
    return found[0] if found else None


class Law:
    r"""A law as it stands below an expectation or in a divergence: ``q``, ``q(z)``, ``q(\cdot \mid x)``, ``q_j(z_j)``,
    ``\Normal(\mu, \Sigma)``. Its letter is printed in it, or before (``z \sim q``), or it is that of the key ``q(z)``.
    """

    def __init__(self, tokens, latex, letter=None):
        stream = Stream(tokens, latex)
        self.tokens, self.latex, self.letter, self.index = tokens, latex, letter, None
        if not stream.is_name():
            raise ValueError(f"{' '.join(tokens)} is no law, in {latex}")
        self.name = stream.name()
        self.head = tokens[: len(tokens) - len(stream.tokens)]
        self.inside = stream.raw("(", ")") if stream.next() == "(" else [r"\cdot"]
        pieces, marks = parted(self.inside)
        if self.head == [r"\Normal"] and ";" not in marks:
            pieces, self.inside = [[r"\cdot"], *pieces], [r"\cdot", ";", *self.inside]
        self.is_open = pieces[0] == [r"\cdot"]
        if not self.is_open:
            own = name_alone(pieces[0])
            if stream.tokens or not own or len(own.items) > 1 or letter not in (None, own.head):
                raise ValueError(f"{' '.join(tokens)} is no law of one letter, in {latex}")
            self.letter = own.head
            self.index = formula_of(tuple(own.items[0]), latex) if own.items else None
        elif stream.tokens:
            raise ValueError(f"{' '.join(tokens)} is no law, in {latex}")

    def density(self, letter):
        """As a function of the values, that of the letter among them."""
        first = tokens_of(letter) if self.is_open else []
        rest = self.inside[1:] if self.is_open else self.inside
        return formula_of((*self.head, "(", *first, *rest, ")"), self.latex)

    def printed(self, names):
        """Its letter, and the index of the letter if it has one."""
        return self.letter, self.index and whole_number(self.index(names))

    def sole_letter(self, names):
        """If none is printed: that of its density, or the one letter that has nodes or values."""
        own = only_one_like(names, self.name.key, f"({UNKNOWN})")
        if own:
            return own[len(self.name.key) + 1 : -1]
        known = {one[1:] for one in names if is_differential(one)} | {
            found[1] for one in names if (found := re.fullmatch(r"\\sum_\{(.*)\}", one))
        }
        if len(known) != 1:
            raise ValueError(f"it is not clear which letter {self.name} is a law of")
        return known.pop()

    def draws(self, names, indices=None):
        """All that can be drawn, once or several times: changed values, and their probabilities."""
        letter, index = self.printed(names)
        letter = letter or self.sole_letter(names)
        chances = latex_numerics.probabilities(self.density(letter), names, letter, index)
        return latex_numerics.draws(chances, names, letter, indices or [index])

    def as_argument(self, names):
        r"""What a function that is given under ``\KL`` gets: a value, or for ``q(z)`` a function of z."""
        if self.name.head == r"\Normal" or len(self.tokens) == len(self.head):
            return formula_of(tuple(self.tokens), self.latex)(names)
        letter, index = self.printed(names)
        letter = letter or self.sole_letter(names)
        density = self.density(letter)
        return lambda z: density(latex_numerics.with_value(names, letter, z, index))
