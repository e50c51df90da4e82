r"""The appendix "Notation" is kept: every symbol that a chapter prints has one meaning there, and every row is used.

A symbol is a letter with its accent, and with its layer (``W`` and ``W^{(\ell)}`` are two). A row may also name a
letter with a subscript (``$N_B$``, ``$R_i$``); the letters of an index stand for each other there. Each table belongs
to the chapters that its heading names, "The whole book" to all.
"""

import re
from dataclasses import dataclass
from functools import cache

import ledger
import pytest
import yaml
from latex_reader import INDICES
from support import CHAPTERS, ROOT

APPENDIX = ROOT / "book/appendices/notation.md"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
MACROS = CONFIG["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]

GREEK = set(re.findall(r"\w+", """
    alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi varphi chi psi
    omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell
"""))  # fmt: skip
# What only says how symbols stand together, and signs that every reader knows.
PLAIN = set(re.findall(r"\w+", """
    frac sqrt sum prod int partial nabla log exp sin cos tanh max min lim sup inf left right big Big bigl bigr Bigl Bigr
    cdot cdots dots ldots times odot circ cap cup setminus emptyset subset in notin mid sim approx propto infty pm
    le ge leq geq neq ne to mapsto displaystyle underbrace overbrace prime star forall binom implies iff blacksquare
    quad qquad det binom
"""))  # fmt: skip
LAST = {"D", "K", "N"}  # where an index ends
ACCENTS = ("hat", "bar", "tilde")
# Spellings that have another one in this book. Of two in one line of PAIRS only one may be used, in all chapters.
FORBIDDEN = {
    r"\\operatorname|\\math(?:bb|cal|rm|bf|sf|it)|\\boldsymbol|\\bm(?![a-z])": "write a macro of _config.yml",
    r"\\top(?![a-z])|\^\s*T(?![a-z])|\^\{T\}": r"the transpose is \T",
    r"\\ln(?![a-z])": r"the natural logarithm is \log",
    r"D_\{?KL|(?<!\\)\bKL\b": r"the divergence is \KL",
    r"\\(?:parallel|vert|Vert)(?![a-z])": r"bars are | and \|",
    r"\\not(?![a-z])|\\neg(?![a-z])": r"unequal is \ne",
}
PAIRS = [(r"\epsilon", r"\varepsilon"), (r"\phi", r"\varphi"), (r"\bar", r"\overline"), (r"\dots", r"\ldots")]


# --- the symbols of a formula ---


def prose(chapter_text: str) -> str:
    """A chapter without its code; of a cell that makes a figure, the captions are left."""

    def head(cell):
        match = re.search(r"^---\n(.*?)^---$", cell.group(), re.M | re.S)
        return match[1] if match else ""

    without_front_matter = re.sub(r"\A---\n.*?^---$", "", chapter_text, count=1, flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", ledger.CODE_CELL.sub(head, without_front_matter))


def formulas(text: str) -> list[str]:
    """Every formula of a text, displayed or in a line."""
    displayed = [match["latex"] for match in ledger.DISPLAY.finditer(text)]
    return displayed + re.findall(r"(?<![\\$])\$([^$]+)\$", ledger.DISPLAY.sub("", text))


LAYER = r"\^\{\((?P<layer>[^()]*)\)"
SYMBOL = re.compile(
    r"(?:\\(?P<accent>" + "|".join(ACCENTS) + r")\s*(?:\{(?P<under>\\?[A-Za-z]+)\}|(?P<bare>\\[A-Za-z]+|[A-Za-z]))"
    r"|\\(?P<command>[A-Za-z]+)|(?P<letter>[A-Za-z]))'*"
    rf"(?P<sub>_(?:\{{(?P<group>[^{{}}]*)\}}|(?P<one>\\[A-Za-z]+|\w)))?'*(?:{LAYER})?(?:_(?P<late>\\[A-Za-z]+|\w))?"
)


def slots(subscript: str) -> str:
    """A subscript in which every index is a point: ``jm``, ``iN`` and ``i+1,j`` are alike; a label such as B stays."""
    tokens = re.findall(r"\\[A-Za-z]+|\w", re.sub(r"[+-]\s*\w", "", subscript))
    return "".join("." if token in INDICES | LAST or token.isdigit() else token for token in tokens)


def symbols(latex: str) -> list[tuple[str, ...]]:
    """The symbols of a formula. Each is a tuple of names, the one with its subscript first, the letter alone last."""
    latex = re.sub(r"\\(?:text|begin|end|tag|label)\s*\{[^{}]*\}", " ", latex)
    latex = re.sub(r"\\[,;:! ]\s*d(?=[xyz]\b|\\[a-z])", " ", latex)  # what is integrated over
    latex = re.sub(r"\\\\|\\[^A-Za-z]", lambda m: r" \| " if m[0] == r"\|" else " ", latex)
    latex = re.sub(r"(\\\|\s*_)[F12]", " ", latex)  # the kind of a norm
    latex = re.sub(r"(?<![A-Za-z\\])e(?=\s*\^)", " ", latex)  # the number e
    found = []
    position = 0
    while match := SYMBOL.search(latex, position):
        command = match["command"]
        position = match.end("sub") if match["sub"] and not match["layer"] else match.end()
        if command in PLAIN or command in MACROS:
            position = match.end("command")  # what stands below a sum is read by itself
            if command in MACROS:
                found.append(("\\" + command,))
            continue
        base = match["letter"] or f"\\{command}"
        if match["accent"]:
            base = f"\\{match['accent']}{{{match['under'] or match['bare']}}}"
        inside = match["group"] or match["one"] or match["late"] or ""
        layer = r"^{(\ell)}" if match["layer"] else ""
        names = (f"{base}_{{{slots(inside)}}}{layer}", base + layer) if inside else (base + layer,)
        found.append(names)
        found += symbols(inside) + symbols(match["layer"] or "")
    return found


def known_symbol(name: str) -> bool:
    """A letter, Greek or not, or a macro; not a command that nobody has heard of."""
    command = re.match(r"\\(?:(?:hat|bar|tilde)\{\\?)?([A-Za-z]+)", name)
    return not name.startswith("\\") or command[1] in GREEK | set(MACROS) or len(command[1]) == 1


# --- the tables of the appendix ---


@dataclass(frozen=True)
class Row:
    """A line of a table: the symbols that it explains, its chapters, its section, and all its cells."""

    names: tuple[str, ...]
    chapters: tuple[str, ...] | None  # None for all
    section: str
    cells: tuple[str, ...]


def chapters_of(heading: str) -> tuple[str, ...] | None:
    """The chapters that a heading names: "Chapter 2 ...", "... (chapters 1, 3 to 5)"; all for others."""
    if not (named := re.search(r"[Cc]hapters? ([\d, toand]+)", heading)):
        return None
    spans = re.findall(r"(\d+)(?: to (\d+))?", named[1])
    return tuple(f"{n:02d}" for first, last in spans for n in range(int(first), int(last or first) + 1))


def rows(text: str) -> list[Row]:
    found = []
    for heading, body in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        for line in re.findall(r"^\| *[$`].*\|$", body, re.M):
            cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            printed = re.findall(r"\$([^$]+)\$", cells[0])
            macros = re.findall(r"`(\\[A-Za-z]+)`", cells[0])
            names = tuple(dict.fromkeys([symbols(latex)[0][0] for latex in printed] + macros))
            found.append(Row(names, chapters_of(heading), heading, cells))
    return found


def problems(appendix: str, chapters: dict[str, str], code: str = "") -> list[str]:
    """What keeps the appendix and the chapters from agreeing, a sentence for each."""
    table, lines, used = rows(appendix), [], set()
    for number, text in chapters.items():
        valid: dict[str, Row] = {}
        for row in table:
            if row.chapters is None or number in row.chapters:
                for name in row.names:
                    if name in valid:
                        lines.append(
                            f"chapter {number}: {name} has two meanings, in {valid[name].section!r} and {row.section!r}"
                        )
                    valid[name] = row
        missing = {}
        for latex in formulas(prose(text)):
            for names in symbols(latex):
                name = next((name for name in names if name in valid), None)
                if name:
                    used.add((valid[name].section, name))
                else:
                    missing.setdefault(names[-1], latex)
        for name, latex in missing.items():
            what = "no row of the appendix explains" if known_symbol(name) else "this test does not know the command"
            lines.append(f"chapter {number}: {what} {name}, as in ${ledger.one_line(latex)}$")
    for row in table:
        planned = row.chapters and not set(row.chapters) & set(chapters)
        if not planned and not any((row.section, name) in used for name in row.names):
            lines.append(f"{row.section}: no chapter uses {row.cells[0]}")
        for name in row.names:
            if not planned and len(row.names) > 1 and (row.section, name) not in used:
                lines.append(f"{row.section}: no chapter uses {name}")
    lines += [f"the macro \\{name} has no row" for name in MACROS if not any(f"\\{name}" in row.names for row in table)]
    return lines


def wrong_spellings(text: str) -> list[str]:
    """Spellings in the formulas of a chapter that this book writes otherwise."""
    latex = "\n".join(formulas(prose(text)))
    return [f"{match[0]}: {remedy}" for wrong, remedy in FORBIDDEN.items() for match in re.finditer(wrong, latex)]


@cache
def texts() -> dict[str, str]:
    return {chapter.stem[:2]: chapter.read_text(encoding="utf-8") for chapter in CHAPTERS}


# --- the book ---


def test_every_symbol_has_one_meaning_and_every_row_is_used():
    found = problems(APPENDIX.read_text(encoding="utf-8"), texts())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_the_chapters_spell_with_macros(chapter):
    found = wrong_spellings(chapter.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


def both_spellings(all_chapters: str) -> list[str]:
    latex = "\n".join(formulas(prose(all_chapters)))
    return [
        f"both {one} and {other} are used"
        for one, other in PAIRS
        if all(re.search(re.escape(name) + "(?![A-Za-z])", latex) for name in (one, other))
    ]


def test_of_two_spellings_one_is_used():
    assert not both_spellings("\n".join(texts().values()))


def test_the_names_in_code_exist():
    """The third column names variables and functions of course_lib, or of the cells of the table's chapters."""
    library = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "course_lib").glob("*.py"))
    for row in rows(APPENDIX.read_text(encoding="utf-8")):
        if row.section == "Macros":
            continue
        own = row.chapters or tuple(texts())
        code = library + "".join(
            match.group() for number in own if number in texts() for match in ledger.CODE_CELL.finditer(texts()[number])
        )
        for name in re.findall(r"`([^`]+)`", row.cells[2]):
            for word in re.findall(r"[A-Za-z_]\w+|^[A-Za-z]$", name):
                assert re.search(rf"\b{word}\b", code), f"{row.section}: no code has {name}, for {row.cells[0]}"


# --- the checks can fail ---


def test_what_a_heading_says():
    assert chapters_of("Models (chapters 1, 3 to 5 and 7)") == ("01", "03", "04", "05", "07")
    assert chapters_of("Chapter 2") == ("02",)
    assert chapters_of("The whole book") is None


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"W^{(\ell+1)} x_3", [(r"W^{(\ell)}",), (r"\ell",), ("x_{.}", "x")]),
        (r"w_{jm}^{(\ell)}", [(r"w_{..}^{(\ell)}", r"w^{(\ell)}"), ("j",), ("m",), (r"\ell",)]),
        (r"W^{(D)\T} N_B", [(r"W^{(\ell)}",), ("D",), (r"\T",), ("N_{B}", "N"), ("B",)]),
        (r"\hat R_B(\theta_{t+1})", [(r"\hat{R}_{B}", r"\hat{R}"), ("B",), (r"\theta_{.}", r"\theta"), ("t",)]),
        (r"\E_{x \sim p}[e^{-x}] \, dx", [(r"\E",), ("x",), ("p",), ("x",), ("x",)]),
        (r"\int_{\R} p(x) \, d\mu", [(r"\R",), ("p",), ("x",), (r"\mu",)]),
        (r"\left\| A \right\|_F^2 \text{ if } g_\ell'(0)", [("A",), (r"g_{.}", "g"), (r"\ell",)]),
    ],
)
def test_the_symbols_of_a_formula(latex, expected):
    assert symbols(latex) == expected


EMPTY = "| | | | |\n"
PAGE = f"""# Notation

## The whole book

| symbol | meaning | in code | slides | notes | IE643 |
|---|---|---|---|---|---|
| $x$, $x_i$ | a datum {EMPTY}| $i$ | its index {EMPTY}| $B$ | a set {EMPTY}
## Networks (chapters 1 to 2)

| $W^{{(\\ell)}}$ | weights {EMPTY}| $\\ell$ | a layer {EMPTY}
## Chapter 1

| $\\hat{{R}}$ | a mean {EMPTY}| $N_B$ | a number {EMPTY}
## Chapter 9

| $v$ | planned {EMPTY}
## Macros

""" + "\n".join(f"| `\\{name}` | | |" for name in MACROS)
CHAPTER = r"""---
title: $q$
---
Let $x$ and $x_i$ be data, ``$s$`` is no formula. All macros: $MACROS$.

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: The mean $\hat{R}$.
---
print("$z$")
```

$$
\left\| W^{(\ell+1)} x \right\|_F^2 = \sum_{i=1}^{N_B} \frac{\log e^{-x}}{\text{all of it}} \, dx
$$ (eq-a)
""".replace("MACROS", " ".join(f"\\{name}" for name in MACROS))


def test_a_page_that_agrees():
    assert problems(PAGE, {"01": CHAPTER}) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("Let $x$", "Let $x$ and $y$", "no row of the appendix explains y"),
        ("$x_i$", "$x_i$, $x_k$", "explains k"),
        (r"W^{(\ell+1)}", "W", "explains W,"),
        (r"W^{(\ell+1)}", "W", r"no chapter uses $W^{(\ell)}$"),
        (r"\hat{R}", "R", "explains R,"),
        ("N_B", "N_A", "explains N,"),
        (r"\log", r"\logit", r"does not know the command \logit"),
        (" and $x_i$", "", "no chapter uses x_{.}"),
        (r"\E ", "", r"no chapter uses `\E`"),
    ],
)
def test_a_chapter_that_does_not_agree_is_found(old, new, complaint):
    found = problems(PAGE, {"01": CHAPTER.replace(old, new, 1)})
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("| $i$ | its index | | | | |\n", "", "explains i,"),
        ("| $i$ |", "| $i$, $s$ |", "no chapter uses s"),
        ("Chapter 9", "Chapter 1", "no chapter uses $v$"),
        (r"| $\hat{R}$ |", r"| $\hat{R}$, $x$ |", "chapter 01: x has two meanings"),
        ("## Chapter 1", "## Chapter 2", r"chapter 01: no row of the appendix explains \hat{R}"),
        (r"| `\E` |", "| E |", r"the macro \E has no row"),
    ],
)
def test_an_appendix_that_does_not_agree_is_found(old, new, complaint):
    found = problems(PAGE.replace(old, new, 1), {"01": CHAPTER})
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    "formula",
    [r"\operatorname{tr}(A)", r"\mathbb{E}", r"\mathbf{x}", r"x^T", r"x^\top", r"D_{KL}", r"\ln x", r"\mathrm{KL}(p)",
     r"a \parallel b"],
)  # fmt: skip
def test_wrong_spellings_are_found(formula):
    assert wrong_spellings(f"Text ${formula}$ and `$\\mathbb$`.")
    assert not wrong_spellings(f"Text `{formula}`, $x^\\T$, $\\KL(p \\,\\|\\, q)$, $A^{{T_1}}$.")


def test_two_spellings_of_one_sign_are_found():
    assert both_spellings(r"$\epsilon$ and $\varepsilon$")
    assert not both_spellings(r"$\epsilon$ and $\epsilon_1$, $\phi$")
