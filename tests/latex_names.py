r"""The names of `latex_reader`: tokens of LaTeX, names with indices, layers and arguments, and the keys of a situation.

The keys may be spelled as one likes to write them. Each has one normal form, in which `SLOT` stands for every index
and arguments stand by their letters: ``x_i`` is ``x_{·}``, ``p_\theta(x_i\mid z)`` is ``p_{\theta}(x \mid z)``.
"""

import itertools
import operator
import re
from functools import cache, cached_property

import numpy as np
from latex_arithmetic import resolved

INDICES = {"i", "j", "k", "l", "m", "r", "s", "t", r"\ell"}  # in a subscript these number the entries of a family
ELEMENTARY = {name: getattr(np, name[1:]) for name in (r"\log", r"\exp", r"\sin", r"\cos", r"\tanh")}
ACCENTS = {r"\hat", r"\bar", r"\tilde"}
RELATIONS = {
    "=": None, "<": operator.lt, ">": operator.gt, r"\le": operator.le, r"\leq": operator.le, r"\ge": operator.ge,
    r"\geq": operator.ge, r"\ne": operator.ne, r"\neq": operator.ne, r"\in": lambda a, b: a in b,
}  # fmt: skip
REPEATED = {r"\sum", r"\prod", r"\max", r"\min", r"\argmin"}
NO_NAMES = {
    *ELEMENTARY, *RELATIONS, *REPEATED, r"\frac", r"\sqrt", r"\tr", r"\diag", r"\det", r"\binom", r"\E", r"\Var",
    r"\KL", r"\int", r"\ind", r"\nabla", r"\dots", r"\infty",
}  # fmt: skip
MARKS = (",", ";", r"\mid")  # between the arguments of a function

DIFFERENTIAL = re.compile(  # with a space between, `d \varepsilon` is a product
    r"d(?:[uxyz]|\\(?:varepsilon|phi|theta|mu|gamma|sigma|rho|eta|xi|zeta|tau))"
)
TOKEN = re.compile(rf"\\[A-Za-z]+|\\[|{{}}]|\d+(?:\.\d+)?|{DIFFERENTIAL.pattern}(?![A-Za-z])|[A-Za-z]|\S")
LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle)(?![A-Za-z])|\\[,;:!]"
    r"|\\(?:begin|end)\{aligned\}|\{\}&|&|\\\\(?=\s|$)"
)
SLOT = "\N{MIDDLE DOT}"  # where an index stands in the name of a family


def tokens_of(latex):
    return TOKEN.findall(LAYOUT.sub(" ", latex).strip(" .,:"))


def is_differential(token):
    return DIFFERENTIAL.fullmatch(token or "") is not None


def is_index(item):
    return len(item) > 1 or item[0] in INDICES or item[0] == SLOT


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

    @cached_property
    def key(self):
        """The name of the family, with a slot for each index."""
        return self.spelled([SLOT if is_index(item) else "".join(item) for item in self.items + self.layer])

    @cached_property
    def letter(self):
        """How it is called among the arguments of a function: without accent, primes, indices and layer."""
        return re.sub(r"^\\(?:hat|bar|tilde)\{(.*)\}", r"\1", self.head).rstrip("'")

    @cached_property
    def candidates(self):
        """Names to look for, and which items are then indices. An item such as 0, 1 or D may be a part of the name."""
        items, found = self.items + self.layer, []
        options = [[True] if is_index(item) else [False, True] for item in items]
        for chosen in itertools.product(*options):
            key = self.spelled([SLOT if slot else "".join(item) for slot, item in zip(chosen, items, strict=True)])
            below = [item for slot, item in zip(chosen, items, strict=True) if slot]
            above = below[len(below) - sum(chosen[len(self.items) :]) :]
            found.append((key, above + below[: len(below) - len(above)]))
        return found


class Stream:
    """Tokens that are taken one by one, and names among them."""

    def __init__(self, tokens, latex):
        self.latex, self.tokens = latex, list(tokens)

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

    def raw_group(self):
        """The tokens between two braces, or the one token that stands without."""
        return self.raw("{", "}") if self.next() == "{" else [self.tokens.pop(0)] if self.tokens else []

    def raw(self, opening, closing):
        """The tokens between two signs, which are taken too."""
        self.need(opening)
        inner, depth = [], 1
        while self.tokens:
            token = self.tokens.pop(0)
            depth += (token == opening) - (token == closing)
            if not depth:
                return inner
            inner.append(token)
        raise self.error(f"{closing} expected")

    def is_name(self):
        token = self.next() or ""
        return re.fullmatch(r"[A-Za-z]|\\[A-Za-z]+", token) is not None and token not in NO_NAMES

    def name(self, prefix=""):
        """A name with its accent, primes, star, subscript and layer, in whatever order they stand."""
        if self.next() == r"\nabla":
            self.need(r"\nabla")
            prefix = r"\nabla" + (f"_{{{' '.join(self.raw_group())}}}" if self.take("_") else "") + " "
        head = self.tokens.pop(0) if self.tokens else ""
        if head in ACCENTS:
            head += "{" + "".join(self.raw_group()) + "}"
        if head in (r"\E", r"\Var", *REPEATED) and self.take("_"):
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


def name_alone(tokens):
    """The name that these tokens are, or None if they are more or something else."""
    stream = Stream(tokens, " ".join(tokens))
    name = stream.name() if stream.is_name() else None
    return None if stream.tokens else name


# --- keys ---


def signature(letters, marks):
    """The letters of some arguments, and the signs between them, as a key spells them."""
    text = letters[0]
    for mark, letter in zip(marks, letters[1:], strict=True):
        text += (f" {mark} " if mark == r"\mid" else f"{mark} ") + letter
    return f"({text})"


def parted(tokens):
    """What stands between commas, semicolons and bars that are in no bracket, and these signs."""
    pieces, marks, depth = [[]], [], 0
    for token in tokens:
        depth += (token in ("(", "[", "{", r"\{")) - (token in (")", "]", "}", r"\}"))
        if depth == 0 and token in MARKS:
            marks.append(token)
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces, marks


@cache
def key_of(spelling):
    """The name of a family, however its key is spelled."""
    if SLOT in spelling or "/" in spelling:
        return spelling  # it is one already
    stream = Stream(tokens_of(spelling), spelling)
    if is_differential(stream.next()):
        return "d" + key_of(spelling[1:])
    if stream.take(r"\frac"):
        return "/".join(partial(stream).key for _ in "ab")
    key = stream.name().key
    if stream.next() == "(":
        pieces, marks = parted(stream.raw("(", ")"))
        if not any(pieces):  # the signs alone: p(\mid)
            key += f"({''.join(marks)})"
        else:
            names = [name_alone(piece) for piece in pieces]
            if None in names:
                raise ValueError(f"the arguments of the key {spelling} are no names")
            key += signature([name.letter for name in names], marks)
    if stream.tokens:
        raise ValueError(f"the key {spelling} is not one name")
    return key


def partial(stream):
    r"""``{\partial name}``, or ``{d name}``."""
    inner = Stream(stream.raw_group(), stream.latex)
    if is_differential(inner.next()):
        inner.tokens[0] = inner.tokens[0][1:]
    elif not inner.take(r"\partial", "d"):
        raise inner.error(r"\partial expected")
    name = inner.name()
    if inner.tokens:
        raise inner.error("one name expected")
    return name


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


def given(names, name):
    if key_of(name) not in names:
        raise ValueError(f"no value was given for {name}")
    return resolved(names[key_of(name)], names)


def is_given(names, name):
    return key_of(name) in names
