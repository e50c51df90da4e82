r"""The reader of printed formulas can be trusted: SymPy agrees with it, it refuses what it does not know, and every
small change of a printed equation is seen.

**To add chapter NN**, write ``tests/situations_NN.py``. Every label that the chapter displays is looked up there:

``situations(label)``
    A list of dicts, the values of the symbols (see `latex_reader`) in a few situations where the display claims to
    hold. Choose them so general that no wrong formula holds by chance: no two symbols equal, no value 0 or 1, all
    widths different, matrices that are not symmetric unless the formula needs it. Expectations, divergences and
    integrals are summed over the nodes that you give; keep these few (60 for a line, 30 x 30 for a plane), since every
    change of the display is computed anew.
``NOT_MUTATED``
    ``{label: reason}`` for displays that cannot be computed as they stand (an arg min, a definition in words).
    Inequalities can be computed. Less than half of the claims of a chapter may stand here.
``STILL_TRUE``
    ``{label: (number, reason)}`` where some of the changes leave the claim true: how many, and why.
``READ_BY_SYMPY``, ``sympy_names(label)``
    ``{label: (0, 1)}``: the sides that SymPy can read, too, at dimension one, and the values of the symbols there.
    Both may be empty: SymPy knows no layers, no functions of ours, and no sums but those over one index.
``CHANGES`` (may be missing)
    More changes to try in this chapter, pairs for ``re.sub`` as below.

A change is seen if in some situation the changed display does not hold, or cannot be computed any more.
"""

import importlib
import re

import ledger
import numpy as np
import printed
import pytest

BY_LABEL = {equation.label: equation for equation in ledger.read()[0]}
LABELS = sorted(BY_LABEL, key=lambda label: (BY_LABEL[label].chapter.name, BY_LABEL[label].line))


def chapter_of(label):
    return BY_LABEL[label].chapter.stem[:2]


def situations_of(chapter):
    """The module of a chapter; an exception if it cannot be imported."""
    try:
        return importlib.import_module(f"situations_{chapter}")
    except Exception as error:
        return error


MODULES = {chapter: situations_of(chapter) for chapter in sorted({chapter_of(label) for label in LABELS})}


def module_of(label):
    """The module that knows a label, or a sentence on what to do."""
    chapter = chapter_of(label)
    name, module = f"tests/situations_{chapter}.py", MODULES[chapter]
    if isinstance(module, ModuleNotFoundError) and module.name == f"situations_{chapter}":
        pytest.fail(f"{label} is displayed, and there is no {name}; write it as tests/test_latex_reader.py says")
    if isinstance(module, Exception):
        raise module
    return module


def known(chapter, name):
    """What a module offers under a name; nothing if there is no module (its labels fail in a test of their own)."""
    return getattr(MODULES[chapter], name, {})


# --- SymPy, where it can read ---


def plainly(name, value):
    """A number, or for entries of a family the list of them."""
    is_family = printed.latex_reader.SLOT in printed.latex_reader.key_of(name)
    return list(np.ravel(value)) if is_family else float(np.squeeze(value))


@pytest.mark.parametrize("label", [label for chapter in MODULES for label in known(chapter, "READ_BY_SYMPY")])
def test_sympy_reads_the_same(label):
    module = module_of(label)
    names = module.sympy_names(label)
    plain = {name: plainly(name, value) for name, value in names.items() if not callable(value) and name != r"\pi"}
    for side in module.READ_BY_SYMPY[label]:
        ours = printed.readers(label)[side](names)
        assert printed.evaluate(printed.sides(label)[side], plain) == pytest.approx(float(np.squeeze(ours)))


# --- what it refuses ---

NAMES = {
    "a": 2.0, "b": 3.0, "d": 2, "n": 3, "i": 2, "A": np.eye(2), "v": np.array([[1.0], [2.0]]), "u": np.ones(2),
    "v_i": [1.0, 2.0], "x_{ij}": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "f": lambda x: x, "B": {1, 2},
    "w": [1.0, 2.0], r"h^{(\ell)}": {0: 5.0, 1: 6.0}, r"\ell": 1, "D": 1, "p": lambda x: 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("latex", "complaint"),
    [
        (r"a + \alpha", r"no value was given for \\alpha"),
        (r"a + (b", r"\) expected"),
        (r"a + + b", "a factor is missing"),
        (r"a ) b", "was not read"),
        (r"a^{2 + }", "a factor is missing"),
        (r"A + a", "a sum of shapes"),
        (r"A \odot v", "a product entry by entry of shapes"),
        (r"\frac{1}{A}", "a number is wanted"),
        (r"\log A", "a number is wanted"),
        (r"A^2", "a number is wanted"),
        (r"A^A", "a number is wanted"),
        (r"2 u", "a vector is a column"),
        (r"2 B", "a NumPy array is wanted"),
        (r"w + w", "a NumPy array is wanted"),
        (r"\|A\|", "needs its F"),
        (r"\|A\|_3", "the norm 3 is not known"),
        (r"a / b a", "not clear what is divided"),
        (r"\log a b", "not clear how far"),
        (r"\log a (b + 1)", "is no function"),
        (r"\loss(a, b)", r"no value was given for \\loss"),
        (r"p(a \mid b)", r"no value was given for p\(a \\mid b\)"),
        (r"a(b, d)", "is no function"),
        (r"f b", "without its arguments"),
        (r"\ind[a]", "a condition expected"),
        (r"\text{if } a", "no value was given"),
        # indices
        (r"\sum_{j=1}^{d} v_j + x_{jj}", "no value was given for j"),
        (r"\sum_{j=1}^{n} v_j", "has no entry 3"),
        (r"\sum_{j=0}^{d} v_j", "has no entry 0"),
        (r"\sum_{j=1}^{a b / 4} v_j", "a whole number is wanted"),
        (r"\sum_{j=1}^{d} x_j", "no value was given for x_j"),
        (r"\sum_{j=1}^{d} v_{jj}", r"no value was given for v_\{j,j\}"),
        (r"\sum_{j=1}^{n} x_{ji}", "has no entry 3"),
        (r"\sum_{j=1}^{d} a_j", "no value was given for a_j"),
        (r"v_{i+1}", "has no entry 3"),
        (r"v_{a/4}", "no value was given"),
        (r"v_b", "has no entry 3"),
        (r"h^{(\ell+1)}", "has no entry 2"),
        (r"h_i^{(\ell)}", "no value was given for h_i"),
        (r"\sum_{k} v_k", r"no value was given for \\sum_k"),
        (r"\sum_{1 \le k} v_k", "is not known"),
        (r"\frac{\partial a}{\partial v_j}", "no value was given for j"),
        (r"\frac{\partial a}{\partial b}", r"no value was given for \\partial"),
        (r"\nabla f(a)", r"no value was given for \\nabla f"),
        (r"\argmin_a (a - b)^2", r"no value was given for \\argmin_\{a\}"),
        (r"f(a < \alpha)", r"no value was given for \\alpha"),
        (r"f(a_1, \dots)", "the first and the last should be printed"),
    ],
)
def test_it_refuses_what_makes_no_sense(latex, complaint):
    with pytest.raises(ValueError, match=complaint):
        printed.reader(latex)(NAMES)


def test_it_refuses_two_keys_for_one_family():
    with pytest.raises(ValueError, match="given twice"):
        printed.reader("x_i")({"x_i": [1.0], "x_{j}": [2.0]})
    with pytest.raises(ValueError, match="not one name"):
        printed.reader("a")({"a": 1.0, "a b": 2.0})


def test_sides_are_those_of_one_chain_of_equalities():
    for latex in (r"a \le b", r"a = b , \quad b = a", r"a = b < d"):
        with pytest.raises(ValueError, match="more than one chain"):
            printed.latex_reader.sides(latex)


# --- what it reads ---


@pytest.mark.parametrize(
    ("latex", "value"),
    [
        (r"a - b - 1", -2.0),
        (r"-a^2 + 2 a b", 8.0),
        (r"\frac{1}{2} \left( a + b \right) a", 5.0),
        (r"x^\T B x", 5.0),
        (r"\tr(B^\T B) - \| B \|_F^2 + |B|", 1.0),
        (r"|2 B|", 4.0),
        (r"|a - b| + |S|", 3.0),
        (r"x^\T B^{-1} x", -1.0),
        (r"\sum_{j=1}^{d} ( v_j - 1 ) + 10", 12.0),
        (r"\log(a) - \frac{1}{2} \log a^2", 0.0),
        (r"\sin^2(a)", np.sin(2) ** 2),
        (r"\cos(a) + \tanh(a)", np.cos(2) + np.tanh(2)),
        (r"e^{-a^2 / 2} + \exp(-\frac{a^2}{2})", 2 * np.exp(-2)),
        (r"(1 - a b)^{2 d}", 625.0),
        (r"a^{-2} + a^{b} + \sqrt{a b - 2}", 10.25),
        (r"a \cdot b / 4", 1.5),
        (r"\| v \|^2 + \| v \|_1 - \| v \|_2", 8 - 5**0.5),
        (r"\max(0, a, b) + \min(a, b)", 5.0),
        (r"\ind[a < b] + \ind[a = b] + 3 \, \ind\{3 \in S\}", 4.0),
        (r"\tr(\diag(v))", 3.0),
        # indices
        (r"x_{ij} + x_{i,j+1} - x_{1 2}", 7.0),
        (r"\sum_{j=1}^{3} x_{ij}", 15.0),
        (r"\sum_{j=1}^{3} \sum_{m=1}^{d} x_{mj} v_m", 6 + 45.0),
        (r"\sum_{m \in S} m x_{i m}", 4 + 3 * 6.0),
        (r"\sum_{k} P_k \log P_k", 2 * 0.5 * np.log(0.5)),
        (r"\sum_{k \ne i} k", 1.0),
        (r"\sum_{k, x} k x", 1.5 * 3),
        (r"\prod_{m=1}^{d} \left( v_m + 1 \right)", 8.0),
        (r"\max_k 3 k - 1", 5.0),
        (r"(B v)_j", 7.0),
        (r"\sum_x q(x) x", 1.125),
        (r"\log \sum_{m=1}^{d} v_m", np.log(4.0)),
        (r"|\sum_{m=1}^{d} v_m| - 1", 3.0),
        (r"\theta_{t+1} - \theta_0 + \theta_{D}", 30.0),
        # layers
        (r"\sum_{\ell=1}^{D} n_\ell (n_{\ell-1} + 1)", 3 * 3 + 1 * 4),
        (r"n_D + n_0", 3.0),
        (r"\sum_{m=1}^{n_1} w_{jm}^{(\ell+1)} h_m^{(\ell)}", 6.0),
        (r"(W^{(\ell+1)} h^{(\ell)})_j - (h^{(1)\T} W^{(2)\T})^\T", 0.0),
        (r"h_2^{(1)} g_\ell'(a) g_{\ell+1}(a)", 2.0 * 2.0 * 4.0),
        (r"\|h^{(\ell)} \odot h^{(\ell)} - 2 W^{(2)\T}\|_1", 14.0),
        # functions
        (r"q(a) q(b) + f_\theta(a)^2 - a (1 - b)", 4 * 9 + 4 + 4.0),
        (r"p(a \mid b) - p(b \mid a) + p(a, b; d)", -1 + 8.0),
        (r"\loss(a, f_\theta(b)) + H(q) + H(q, q)", -4.0 + 3.0),
        (r"\softmax(v)_2 + \hat{R}(b) - \bar{x}", 2.0 + 30.0 - 7.0),
        (r"P(S \cap U) - P(S \cup U)", -3.0),
        (r"T(b z \ge 12, a) + T(z = 3, b)", 2.0 + 3.0),
        (r"G(a, v_1, \dots, v_d \mid b) - G(t, v_1, \dots, v_i \mid b)", 2 - 1.0),
        (r"\argmin_z (a - z)^2", 2.0),
        (r"\theta_0^* + \hat x'", 11.0 + 12.0),
        # expectations and derivatives
        (r"\E_{z \sim q}[z^2] + \E_B[a]^2 + \Var_B[ z ]", 5.0 + 4.0 + 1.0),
        (r"\int z \, q(z) \, dz", 1 + 8 + 1.0),
        (r"\nabla R_i(a) - \nabla_\theta \hat{R}(a)", 22.0 - 3.0),
        (r"\nabla_z [z^2 + a] + \nabla_z \loss(a, z)", 6.0 - 2.0),
        (r"\frac{\partial R_i}{\partial w_{j2}^{(\ell)}} + \frac{\partial (z^2)}{\partial z}", 2112.0 + 6.0),
        (r"\frac{\partial z}{\partial v_j}", 1.0),
        (r"\frac{\partial}{\partial z} z^2 a + a", 12.0 + 2.0),
        (r"\frac{\partial z}{\partial y_j^{(D)}}", 2.0),
    ],
)
def test_it_reads_as_a_person_reads(latex, value):
    reader = printed.latex_reader

    def slope(function, name, *index, h=1e-4):
        return index[0] if index else (function({name: 3 + h}) - function({name: 3 - h})) / (2 * h)

    names = {
        "a": 2.0, "b": 3.0, "d": 2, "t": 1, "i": 2, "j": 1, r"\ell": 1, "D": 2, "z": 3.0, "S": {1, 3}, "U": {3, 4, 5},
        "v_j": [1.0, 3.0], "v": np.array([[1.0], [2.0]]), "P_k": [0.5, 0.5, 1.0], r"\sum_k": [1, 2],
        r"\sum_x": [0.5, 1.0], "q": lambda x: x**2,
        "x": np.array([[1.0], [1.0]]), "B": np.array([[1.0, 3.0], [0.0, 1.0]]),
        "x_{ij}": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), r"\theta_t": {0: 10.0, 1: 15.0, 2: 20.0},
        r"n_\ell": {0: 2, 1: 3, 2: 1}, r"w_{jm}^{(\ell)}": {2: [[1.0, 1.0, 1.0]]},
        r"h_m^{(\ell)}": {1: [1.0, 2.0, 3.0]}, r"h^{(\ell)}": {1: np.array([[1.0], [2.0], [3.0]])},
        r"W^{(\ell)}": {2: np.array([[1.0, 4.0, 9.0]])}, "g_\\ell'": [lambda x: x], r"g_\ell": {2: lambda x: 2 * x},
    }  # fmt: skip
    names |= {
        r"f_\theta": lambda x: x, r"p(\mid)": lambda x, y: x, "p(,;)": lambda x, y, s: x * y + s,
        r"\loss": lambda y, f: y - 2 * f, "H": lambda *p: float(len(p)),
        r"\softmax": lambda x: x, r"\hat{R}": lambda x: 10 * x, r"\bar{x}": 7.0,
        "P": len, "T": lambda event, x: x * (event(z=4.0) + event(z=3.0)),
        r"G(a, v \mid b)": lambda a, v, b: a + sum(v), r"G(t, v \mid b)": lambda t, v, b: t + sum(v),
        r"\argmin_z": lambda f: min((0.0, 2.0, 5.0), key=lambda z: f(z=z)),
        r"\theta_t^*": {0: 11.0}, "\\hat{x}'": 12.0,
        r"\E_{z\sim q}": lambda f: (f(z=1.0) + f(z=3.0)) / 2, r"\E_B": lambda f: f(),
        r"\Var_B": lambda f: (f(z=1.0) - f(z=3.0)) ** 2 / 4, r"\int": lambda f: f(z=1.0) + f(z=2.0) + f(z=1.0),
        r"\nabla R_i": [None, lambda x: 11 * x], r"\nabla_\theta \hat{R}": lambda x: x + 1,
        r"\nabla_z": lambda f: slope(f, "z"), r"\partial": slope,
        r"\frac{\partial R_i}{\partial w_{jm}^{(\ell)}}": reader.Indexed(lambda *index: int("".join(map(str, index)))),
    }  # fmt: skip
    assert printed.reader(latex)(names) == pytest.approx(value)


def test_a_value_may_depend_on_others():
    names = {"z": 3.0, "R": printed.latex_reader.Depends(lambda names: names["z"] ** 2)}
    names[r"\partial"] = lambda function, name: function({name: 4.0}) - function({name: 3.0})
    assert printed.reader(r"\frac{\partial R}{\partial z} + R")(names) == 7 + 9


def test_relations_and_several_claims():
    latex = r"\begin{aligned} \sum_{i=1}^{2} a \le {}& b \\ & < \ind[a = b] + 4 . \end{aligned}"
    ((formulas, signs),) = printed.latex_reader.claims(latex)
    assert ([formula({"a": 1.5, "b": 3.0}) for formula in formulas], signs) == ([3.0, 3.0, 4.0], [r"\le", "<"])
    first, second = printed.latex_reader.claims(r"a = b , \qquad b > a .")
    assert (first[1], second[1]) == (["="], [">"])


def test_agree_says_what_does_not_agree():
    label, holding = "eq-log-inequality", {"m": 2.0}
    printed.agree(label, holding)
    assert printed.relation(label)[1] == printed.claims(label)[0][1] == [r"\geq"]
    with pytest.raises(AssertionError, match=r"eq-kl-shift: 7.0 = 0.125"):
        printed.agree("eq-kl-shift", {r"\KL": lambda p, q: 7.0, "p": 0, "q": 0, "t": 1.0, "a": 4.0})


@pytest.mark.parametrize(
    ("left", "sign", "right", "expected"),
    [
        (1.0, "=", 1.0 + 1e-6, True), (1.0, "=", 1.1, False), (1.0, r"\le", 1.0 - 1e-6, True),
        (1.0, r"\ge", 2.0, False), (1.0, "<", 1.0, False), (1.0, "<", 1.1, True), (1.0, r"\ne", 1.0, False),
        (np.eye(2), "=", 1.0, False),
    ],
)  # fmt: skip
def test_what_a_relation_means(left, sign, right, expected):
    assert printed.latex_reader.holds(sign, left, right) is expected


# --- every small change is seen ---

CHANGES = [
    # signs and numbers
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r"(?<=[\w}])-(?=\\mu)", "+"),
    (r"(?<=[({])-(?=\\|[a-zA-Z])", ""),
    (r"\\frac\{1\}\{2\}", "1"),
    (r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\\frac{\2}{\1}"),
    (r"\b2 ", "3 "),
    (r"\^2(?!\()", ""),
    (r"\\eta ", r"2 \\eta "),
    # dimensions and sizes
    (r"\\frac\{d\}", r"\\frac{1}"),
    (r" - d\b", " - 1"),
    (r"\{N\}", "{b}"),
    (r"\{b\}", "{N}"),
    (r"=1\}", "=2}"),
    (r"\\frac\{1\}\{(?:N|b|n)\} ", ""),
    # indices and layers
    (r"(?<=_)p", "q"),
    (r"(?<=_)q", "p"),
    (r"(?<=_\{)p", "q"),
    (r"(?<=_\{)q", "p"),
    (r"_\{([ijkmt])([ijkmt])\}", r"_{\2\1}"),
    (r"\(\\ell\)", r"(\\ell-1)"),
    (r"\(\\ell[+-]1\)", r"(\\ell)"),
    (r"_\\ell", r"_{\\ell-1}"),
    (r"_\{\\ell[+-]1\}", r"_\\ell"),
    (r"_t(?![a-z])", "_{t+1}"),
    (r"_\{t[+-]1\}", "_t"),
    # matrices, functions, operators
    (r"\^\\T|\\T(?=\})", ""),
    (r"\^\{-1\}", ""),
    (r"\\tr\(([^()]*)\)", r"|\1|"),
    (r"\\tr\(([^()]*)\)", r"(\1)"),
    (r"\|([^|\\]*\\Sigma[^|\\]*)\|", r"\\tr(\1)"),
    (r"\\KL\(p \\,\\\|\\, q\)", r"\\KL(q \\,\\|\\, p)"),
    (r"\(([^(),|]+), ([^(),|]+(?:\([^()]*\))?)\)", r"(\2, \1)"),
    (r"\((\w+) \\mid (\w+)\)", r"(\2 \\mid \1)"),
    (r"\\log(?![A-Za-z])", r"\\exp"),
    (r"\\log(?![A-Za-z])", ""),
    (r"\\odot ", ""),
    (r"'", ""),
    (r"B C", "C B"),
]


def changed(label):
    """Every version of a display in which one sign, factor or index is another."""
    latex = printed.book()[label]
    for pattern, new in CHANGES + list(known(chapter_of(label), "CHANGES")):
        for match in re.finditer(pattern, latex):
            wrong = latex[: match.start()] + match.expand(new) + latex[match.end() :]
            if wrong != latex:
                yield wrong


def holds(latex, names):
    """Whether all that a display claims can be computed and is so."""
    try:
        for formulas, signs in printed.latex_reader.claims(latex):
            values = [formula(names) for formula in formulas]
            triples = zip(values, signs, values[1:], strict=False)
            if not all(printed.latex_reader.holds(sign, left, right) for left, sign, right in triples):
                return False
    except (ValueError, KeyError, TypeError, IndexError, ArithmeticError, np.linalg.LinAlgError):
        return False
    return True


@pytest.mark.parametrize("chapter", MODULES)
def test_there_are_many_changes(chapter):
    own = [label for label in LABELS if chapter_of(label) == chapter]
    assert sum(1 for label in own for _ in changed(label)) >= 5 * len(own)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a wrong formula may well take the logarithm of minus one
def test_every_small_change_of_the_print_is_seen(label):
    module = module_of(label)
    if label in module.NOT_MUTATED:
        return
    where = module.situations(label)
    assert where, f"situations_{chapter_of(label)}.situations gives no values for {label}, nor does NOT_MUTATED say why"
    for names in where:  # of the print itself the error is shown, if it cannot be computed
        for formulas, _ in printed.claims(label):
            assert formulas
            for formula in formulas:
                formula(names)
    assert all(holds(printed.book()[label], names) for names in where)
    unseen = [wrong for wrong in changed(label) if all(holds(wrong, names) for names in where)]
    expected, _ = module.STILL_TRUE.get(label, (0, ""))
    assert len(unseen) == expected, "\n".join(unseen)


@pytest.mark.parametrize("chapter", MODULES)
def test_the_lists_of_a_chapter_are_of_its_own_labels(chapter):
    own = {label for label in LABELS if chapter_of(label) == chapter}
    module = module_of(min(own))
    assert set(module.NOT_MUTATED) | set(module.STILL_TRUE) | set(module.READ_BY_SYMPY) <= own
    assert not set(module.NOT_MUTATED) & set(module.STILL_TRUE)
    assert all(len(reason.split()) >= 4 for reason in module.NOT_MUTATED.values())
    assert all(len(reason.split()) >= 4 for _, reason in module.STILL_TRUE.values())
    claims = [label for label in own if label.startswith("eq-")]
    assert 2 * sum(label in module.NOT_MUTATED for label in claims) < len(claims)
