"""The project's papers, packaging and workflows agree with each other and with the code."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# The one place that says what a package of pyproject.toml is called on conda-forge.
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
# What environment.yml lists besides: the interpreter, the installer, and what opens the notebooks.
CONDA_ONLY = {"python", "pip", "jupyterlab"}

# The modules in the order of the chapters: each may import those before it. A module whose name begins with
# an underscore, or that HELPERS names, serves them all and imports none of them.
ORDER = [
    *("probability", "gaussians", "losses", "data", "networks", "optimisers", "training", "backprop"),
    *("pca", "autoencoders", "sampling", "latent_models", "ppca", "latent", "elbo", "vae", "pretrained"),
    *("predictions", "linear_bayes", "mean_field", "bayes", "checks"),
]
HELPERS = {"notebooks"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def requirements(lines):
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}


PYPROJECT = tomllib.loads(read("pyproject.toml"))
PROJECT = PYPROJECT["project"]
VERSION = re.search(r'__version__ = "(.+)"', read("course_lib/_version.py")).group(1)
CONSTRAINTS = requirements(line for line in read("constraints.txt").splitlines() if not line.startswith("#"))


def text_files():
    """The text files that git holds or would add: path and content."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout.decode()  # fmt: skip
    for name in sorted(set(listed.split("\0")) - {""}):
        try:
            yield name, read(name)
        except (UnicodeDecodeError, FileNotFoundError):  # an image; a file deleted but not yet in git
            continue


def lines_with(pattern, skip=lambda name: False):
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in text_files()
        if not skip(name)
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


# Packaging


def test_the_conda_environment_has_the_names_and_bounds_of_pyproject():
    environment = yaml.safe_load(read("environment.yml"))
    assert environment["channels"] == ["conda-forge"]
    listed = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip[-1] == "-e ."
    conda = requirements(listed)
    assert str(conda["python"]) == PROJECT["requires-python"]

    pypi_names = {conda_name: name for name, conda_name in CONDA_NAMES.items()}
    found = {pypi_names.get(name, name): bound for name, bound in conda.items() if name not in CONDA_ONLY}
    found |= requirements(pip[:-1])
    assert found == requirements(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["book"])


def test_the_constraints_pin_every_dependency_within_its_bounds():
    extras = PROJECT["optional-dependencies"].values()
    wanted = requirements(PROJECT["dependencies"] + [line for extra in extras for line in extra])
    assert wanted.keys() <= CONSTRAINTS.keys()
    for name, bound in wanted.items():
        (pin,) = CONSTRAINTS[name]
        assert bound.contains(pin.version), f"{name}: {pin} is outside {bound}"


def test_the_constraints_are_exact_versions_without_addresses():
    for line in read("constraints.txt").splitlines():
        assert re.fullmatch(r"#.*|[\w.-]+==[\w.!]+", line), line  # no ==2.*, no local build such as +cpu
        assert "://" not in line


def test_pre_commit_and_the_constraints_name_the_same_ruff():
    (ruff,) = (r for r in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] if "ruff" in r["repo"])
    (pin,) = CONSTRAINTS["ruff"]
    assert ruff["rev"] == f"v{pin.version}"


def test_the_citation_and_the_changelog_name_the_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == VERSION
    assert citation["license"] == PROJECT["license"]
    assert f"## [{VERSION}]" in read("CHANGELOG.md")


def test_each_equation_that_a_docstring_names_is_in_the_book():
    name = r"(?:eq|def|thm|prop|lem|alg)-[a-z][\w-]*"
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "book").rglob("*.md"))
    shown = set(re.findall(rf"^\$\$ \(({name})\)$|^:label: ({name})$", pages, flags=re.MULTILINE))
    shown = {label for pair in shown for label in pair}
    named = {
        f"{module.name}: {label}"
        for module in (ROOT / "course_lib").glob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for label in re.findall(rf"\b{name}", ast.get_docstring(node) or "")
    }
    assert len(named) > 30
    assert not {place for place in named if place.split(": ")[1] not in shown}


# Papers


def targets():
    return set(re.findall(r"^([a-z]+):", read("Makefile"), flags=re.MULTILINE))


def made(text):
    """The targets of the `make` commands in a text: in backticks, or at the start of an indented line."""
    return set(re.findall(r"(?:`|^    )make ([a-z]+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("paper", PAPERS)
def test_each_make_command_in_the_papers_exists(paper):
    assert made(read(paper)) <= targets()


def test_the_papers_name_the_two_commands():
    assert {"book", "test"} <= made(read("README.md"))
    assert {"help", "book", "test", "notebooks", "serve", "bench", "lint", "clean"} <= targets()


@pytest.mark.parametrize("paper", PAPERS)
def test_each_link_in_the_papers_leads_to_a_file(paper):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", read(paper))
    missing = [link for link in links if "://" not in link and not (ROOT / link).is_file()]
    assert not missing


def test_no_file_holds_a_path_of_a_machine():
    folders = r"(home|Users|root)"  # written so that this line is not a hit
    assert not lines_with(rf"(?<![\w.\-/])/{folders}/\w|\b[A-Z]:\\{folders}\\")
    if len(ROOT.parts) > 2:  # a checkout in /book would be found in every text
        assert not lines_with(rf"(?<![\w.\-/]){re.escape(ROOT.as_posix())}\b")


def test_no_file_holds_the_address_of_a_package_index():
    assert not lines_with(r"p[y]pi\.org|p[y]thonhosted\.org|download\.p[y]torch\.org|--(extra-)?i[n]dex-url")


def test_the_repository_address_stands_in_one_place():
    address = yaml.safe_load(read("_config.yml"))["repository"]["url"]
    # The notebooks are generated, and name the repository in their first cell.
    hits = lines_with(re.escape(address.split("://")[1]), skip=lambda name: name.endswith(".ipynb"))
    assert [hit.split(":")[0] for hit in hits] == ["_config.yml"]


# Workflows


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_sound(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow[True], "`on:`, which YAML reads as true"
    assert text.startswith("# "), "a comment that gives the reason"
    assert "permissions" in workflow
    assert "write-all" not in text
    assert "group" in workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
        commands = step.get("run", "")
        assert set(re.findall(r"\bmake ([a-z]+)", re.sub(r"install make.*", "", commands))) <= targets()
        for script in re.findall(r"\S+\.py\b", commands):
            assert (ROOT / script).is_file()
        assert "${{" not in commands, "pass values by `env:`, so that none is read as a command"


def test_the_workflows_do_what_the_readme_promises():
    assert [path.name for path in WORKFLOWS] == ["publish.yml", "test.yml", "weekly.yml"]
    publish, test, weekly = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS)

    matrix = test["jobs"]["test"]["strategy"]["matrix"]
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.13"]
    assert [s["run"] for s in steps(test) if s.get("name") == "make test"] == ["make test"]

    # In this order: the notebooks name the new address, and a book that does not build moves nothing.
    said = "\n".join(step.get("run", step.get("uses")) for step in steps(publish))
    marks = ["set_repository", "make notebooks", "make book", "origin published", "upload-pages", "deploy-pages"]
    assert re.findall("|".join(marks), said) == marks
    assert publish[True]["workflow_run"]["workflows"] == [test["name"]]

    assert any(s.get("run", "").startswith("make book") and "CONSTRAINTS=" in s["run"] for s in steps(weekly))
    assert any("gh issue create" in s.get("run", "") and s["if"] == "failure()" for s in steps(weekly))


def test_ci_runs_what_the_readme_says():
    assert read(".ci/run").rstrip().endswith("\nmake test")
    assert "export CI=true" in read(".ci/run")
    if os.name == "posix":
        assert os.access(ROOT / ".ci" / "run", os.X_OK)


# The address of the repository

SCRIPT = ROOT / ".github" / "scripts" / "set_repository.py"


def set_repository(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_setting_the_repository_changes_two_lines_and_is_idempotent(tmp_path):
    copy = tmp_path / "_config.yml"
    copy.write_text(read("_config.yml"), encoding="utf-8")
    for _ in range(2):
        result = set_repository("https://git.example/someone/some.book", "published", copy)
        assert result.returncode == 0, result.stderr
        changed = copy.read_text(encoding="utf-8")
        pairs = list(zip(read("_config.yml").splitlines(), changed.splitlines(), strict=True))
        assert sum(old != new for old, new in pairs) == 2
        found = yaml.safe_load(changed)["repository"]
        assert found == {"url": "https://git.example/someone/some.book", "branch": "published"}


@pytest.mark.parametrize(
    ("url", "branch", "config", "word"),
    [
        ("git@git.example:a/b.git", "published", None, "address"),
        ("https://git.example/a", "published", None, "address"),
        ("https://git.example/a/b\ntitle: x", "published", None, "address"),
        ("https://git.example/a/b", "a branch", None, "branch"),
        ("https://git.example/a/b", "published", "title: no block here\n", "0 blocks"),
    ],
)
def test_setting_the_repository_refuses_what_it_cannot_do(tmp_path, url, branch, config, word):
    copy = tmp_path / "_config.yml"
    copy.write_text(config or read("_config.yml"), encoding="utf-8")
    before = copy.read_bytes()
    result = set_repository(url, branch, copy)
    assert result.returncode == 1
    assert word in result.stderr
    assert copy.read_bytes() == before


# The package


def modules(package=ROOT / "course_lib"):
    return {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.glob("*.py"))}


def imports_within(tree, package="course_lib"):
    """The package's own modules that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith(f"{package}."))


def backward_imports(trees):
    """What is wrong with the order of the modules, in sentences."""
    helpers = HELPERS | {name for name in trees if name.startswith("_")}
    for name in trees.keys() - {"__init__"}:  # which only collects
        if name not in helpers and name not in ORDER:
            yield f"{name} has no place in ORDER"
            continue
        earlier = helpers if name in helpers else helpers.union(ORDER[: ORDER.index(name)])
        for other in imports_within(trees[name]):
            if other in trees and other not in earlier:
                yield f"{name} imports {other}, which does not come before it"


def test_modules_import_only_earlier_chapters():
    assert list(backward_imports(modules())) == []


def test_a_backward_import_is_found():
    sources = {
        "probability": "from course_lib import gaussians",
        "gaussians": "from course_lib.probability import entropy\nfrom course_lib._shapes import check",
        "losses": "def f():\n    from .vae import VAE",
        "vae": "import course_lib.losses, course_lib.bayes",
        "bayes": "from . import vae",
        "extra": "",
        "_shapes": "from course_lib.gaussians import log_prob",
    }
    assert set(backward_imports({name: ast.parse(text) for name, text in sources.items()})) == {
        "probability imports gaussians, which does not come before it",
        "losses imports vae, which does not come before it",
        "vae imports bayes, which does not come before it",
        "extra has no place in ORDER",
        "_shapes imports gaussians, which does not come before it",
    }


PUBLIC = [
    pytest.param(node, id=f"{name}.{node.name}")
    for name, tree in modules().items()
    for node in tree.body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
    if not name.startswith("_") and not node.name.startswith("_")
]


@pytest.mark.parametrize("node", PUBLIC)
def test_a_public_name_has_a_docstring_with_an_example(node):
    first, _, rest = (ast.get_docstring(node) or "").partition("\n")
    assert first.endswith("."), "one sentence on the first line"
    assert ">>> " in rest, "an example that runs"


def test_importing_the_package_loads_nothing_heavy():
    names = ["course_lib", *(f"course_lib.{name}" for name in modules() if name != "__init__")]
    heavy = ["sklearn", "matplotlib", "scipy", "sympy", "pandas", "torch._dynamo", "torch._inductor"]
    code = f"import sys, {', '.join(names)}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "[]", "")


def test_every_file_of_the_package_is_installed_with_it():
    """A notebook in Colab has no other files than those of the wheel: modules, and what package-data names."""
    wanted = PYPROJECT["tool"]["setuptools"]["package-data"]["course_lib"]
    data = [path for path in sorted((ROOT / "course_lib").rglob("*.*")) if path.suffix not in (".py", ".pyc")]
    assert len(data) >= 4
    assert [path.name for path in data if not any(path.match(f"course_lib/{pattern}") for pattern in wanted)] == []
    assert sum(path.stat().st_size for path in data) < 3 * 2**19  # in bytes: half of it trained models


def test_the_package_says_its_version():
    spec = importlib.util.find_spec("course_lib")
    assert Path(spec.origin).parent == ROOT / "course_lib", "installed from another folder: run make test"
    import course_lib

    assert course_lib.__version__ == VERSION
