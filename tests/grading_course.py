"""A small assignment without PyTorch, and students' notebooks made from it, for the tests of the teacher's commands."""

import json
import shutil
from pathlib import Path

from course_lib.grading import release, source

SLUG = "01-sums"
SECRETS = ("test_of_zero_is_here", "987654")  # stand in hidden tests only
SOURCE = """\
---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Exercises 1. Sums

Two functions and an answer in words.

```{code-cell} ipython3
import math

from course_lib.checks import check, example, summary
```

## 1.1 Two numbers

```{code-cell} ipython3
---
exercise: {id: "1.1", role: answer, title: Two numbers, points: 3, level: warm-up}
---
def add(a, b):
    ### BEGIN SOLUTION
    return a + b
    ### END SOLUTION
```

```{code-cell} ipython3
---
exercise: {id: "1.1", role: examples, hint: Use plus.}
---
examples = [(2, 3), (5, 0), (0.0, 0.0)]
```

```{code-cell} ipython3
---
exercise: {id: "1.1", role: check}
---
check("1.1", add)
```

```{code-cell} ipython3
---
exercise: {id: "1.1a", role: hidden, points: 2}
---
same(add(987654, 11), 987665, what="large numbers")
```

```{code-cell} ipython3
---
exercise: {id: "1.1b", role: hidden, points: 1}
---
test_of_zero_is_here = add(0, 0)
same(test_of_zero_is_here, 0, what="zeros")
```

```{code-cell} ipython3
---
exercise: {id: "1.1", role: wrong, name: minus, loses: [1.1a], says: You subtract.}
---
def add(a, b):
    return a - b
```

```{code-cell} ipython3
---
exercise: {id: "1.1", role: wrong, name: one-more, loses: [1.1a, 1.1b], says: One too much.}
---
def add(a, b):
    return a + b + 1
```

```{code-cell} ipython3
---
exercise: {id: "1.1", role: wrong, name: product, loses: [1.1a], says: You multiply.}
---
def add(a, b):
    return a * b
```

## 1.2 A list

```{code-cell} ipython3
---
exercise: {id: "1.2", role: answer, title: A list, points: 4, level: hard, forbids: [math]}
---
def total(x):
    ### BEGIN SOLUTION
    return sum(x)
    ### END SOLUTION
```

```{code-cell} ipython3
---
exercise: {id: "1.2", role: examples, hint: Add them all.}
---
examples = [([2, 3],), ([],), ([4, 4, 4],)]
```

```{code-cell} ipython3
---
exercise: {id: "1.2", role: check}
---
check("1.2", total)
```

```{code-cell} ipython3
---
exercise: {id: "1.2a", role: hidden, points: 4}
---
same(total([1, 2, 987654]), 987657)
```

```{code-cell} ipython3
---
exercise: {id: "1.2", role: wrong, name: first, loses: [1.2a], says: That is the first.}
---
def total(x):
    return x[0] if x else 0
```

```{code-cell} ipython3
---
exercise: {id: "1.2", role: wrong, name: number, loses: [1.2a], says: That is how many.}
---
def total(x):
    return len(x)
```

```{code-cell} ipython3
---
exercise: {id: "1.2", role: wrong, name: largest, loses: [1.2a], says: That is the largest.}
---
def total(x):
    return max(x, default=0)
```

```{code-cell} ipython3
---
exercise: {id: "1.2", role: wrong, name: ready, forbidden: math}
---
def total(x):
    return int(math.fsum(x))
```

## 1.w In words

+++ {"exercise": {"id": "1.w", "role": "written", "points": 5}}

Why? (5 points)

+++ {"exercise": {"id": "1.w", "role": "scheme"}}

(5 points) For the scheme that nobody sees.

+++

The end.
"""
ADD, TOTAL, WORDS = "def add(a, b):\n    return a + b", "def total(x):\n    return sum(x)", "Because."


def project(path: Path, text: str = SOURCE) -> Path:
    """A project that holds this assignment only."""
    target = path / "exercises" / "source" / SLUG / f"{SLUG}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return path


def read(root: Path) -> source.Assignment:
    return source.read(root / "exercises" / "source" / SLUG / f"{SLUG}.md")


def handed_in(add=ADD, total=TOTAL, words=WORDS, own=(), change=None) -> str:
    """A student's notebook: his answers, cells of his own at the end, and what `change` does to its JSON."""
    content = json.loads(json.dumps(release.student_notebook(source.reads(SOURCE, SLUG))))
    answers = {"answer-1-1": add, "answer-1-2": total, "written-1-w": words}
    for cell in content["cells"]:
        text = answers.get(cell["metadata"]["nbgrader"]["grade_id"])
        cell["source"] = cell["source"] if text is None else text
    for text in own:
        cell = {"cell_type": "code", "source": text, "metadata": {}, "outputs": [], "execution_count": None}
        content["cells"].append(cell)
    if change is not None:
        change(content["cells"])
    return json.dumps(content)


def named(cells, name):
    return next(cell for cell in cells if cell["metadata"].get("nbgrader", {}).get("grade_id") == name)


def copy(source_folder: Path, target: Path) -> Path:
    shutil.copytree(source_folder, target)
    return target
