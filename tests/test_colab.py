"""Colab rehearsed: the notebook alone, beside the oldest packages that course_lib allows, installs it and runs.

The packages lie in .cache/colab-env, made once for each list of requirements and never changed. Each rehearsal
gets an environment of its own on top of them, so what it installs cannot stay.

A rehearsal depends on its notebook, on course_lib and on these packages. Where none of them has changed since it last
went well, it is not repeated (but always in CI, where newer releases of what a notebook installs are met, too).
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from support import CHAPTERS, ROOT, digest, files_of_the_tree, installed, skip_if_passed_before

pytestmark = pytest.mark.slow

REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
# Colab has these, and the notebook changes none of them.
COLAB_HAS = ("torch", "numpy", "matplotlib", "scikit-learn", "tqdm")
VERSIONS = """\
import importlib.metadata, json
found = {}
for d in importlib.metadata.distributions():  # the first on the path is the one that is imported
    found.setdefault(d.name.lower().replace("_", "-"), d.version)
print(json.dumps(found))
"""


def python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*command, env=None, cwd=None) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def plain_env(**extra: str) -> dict[str, str]:
    """This process's variables without what would lead a new interpreter back into this environment."""
    unwanted = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COLAB_RELEASE_TAG", "MPLBACKEND")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | extra


def versions(environment: Path) -> dict[str, str]:
    return json.loads(run(python(environment), "-c", VERSIONS, env=plain_env(), cwd=environment))


# --- what the rehearsal needs ------------------------------------------------------------------------------------


def oldest_requirements() -> list[str]:
    """What Colab has, at the lower bounds of pyproject.toml, and what a notebook runs in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["book"]]
    bounds = dict(found.groups() for line in stated if (found := re.match(r"([\w-]+)>=([\d.]+)", line)))
    return [*(f"{name}=={bounds[name]}" for name in COLAB_HAS), "ipykernel"]


def oldest_packages() -> Path:
    """The environment with these packages, from the cache when it is there and as it was made."""
    requirements = oldest_requirements()
    cache = ROOT / ".cache" / "colab-env"
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:16]
    ready, record = cache / key, cache / key / "versions.json"
    if record.exists():
        if json.loads(record.read_text()) == versions(ready):
            return ready
        shutil.rmtree(ready)
    cache.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=cache, prefix="new-"))
    run(sys.executable, "-m", "venv", fresh)
    pip = (python(fresh), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, *requirements, env=plain_env(), cwd=fresh)
    (fresh / "versions.json").write_text(json.dumps(versions(fresh)))
    for old in cache.iterdir():  # of other requirements, a gigabyte each
        if old not in (fresh, ready) and not old.name.startswith("new-"):
            shutil.rmtree(old)
    try:
        fresh.rename(ready)
    except OSError:  # another process was quicker
        shutil.rmtree(fresh)
    return ready


def environment_over(packages: Path, where: Path) -> Path:
    """An environment that sees the packages and writes into its own folder only."""
    run(sys.executable, "-m", "venv", "--without-pip", where)
    site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    mine, theirs = (run(python(e), "-c", site, env=plain_env()).strip() for e in (where, packages))
    Path(mine, "packages.pth").write_text(theirs + "\n")
    return where


def repository_of_working_tree(where: Path) -> str:
    """A repository with the files as they lie here, committed or not, on the branch of _config.yml; its commit."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, where / name)
    who = {f"GIT_{role}_{what}": "rehearsal" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = plain_env(GIT_CONFIG_GLOBAL=os.devnull, **who)
    run("git", "init", "--quiet", "--initial-branch", REPOSITORY["branch"], cwd=where, env=env)
    run("git", "add", "--all", "--force", cwd=where, env=env)
    run("git", "commit", "--quiet", "--message", "The working tree", cwd=where, env=env)
    return run("git", "rev-parse", "HEAD", cwd=where).strip()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    clone = tmp_path_factory.mktemp("repository")
    return SimpleNamespace(packages=oldest_packages(), clone=clone, commit=repository_of_working_tree(clone))


def colab_env(clone: Path) -> dict[str, str]:
    """The variables of a Colab machine on which the repository's address leads to the clone."""
    return plain_env(
        COLAB_RELEASE_TAG="rehearsal",
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.{clone.as_uri()}.insteadOf",
        GIT_CONFIG_VALUE_0=REPOSITORY["url"],
    )


def rehearse(notebook, environment: Path, folder: Path, env: dict[str, str]):
    """Run the notebook in the environment, alone in an empty folder; return it with its outputs."""
    folder.mkdir()
    nbformat.write(notebook, folder / "notebook.ipynb")
    spec = folder.parent / "jupyter" / "kernels" / "rehearsal"
    spec.mkdir(parents=True)
    argv = [str(python(environment)), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "rehearsal", "language": "python"}))
    execute = (sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace", "--timeout=300")
    env = env | {"JUPYTER_PATH": str(spec.parents[1])}
    run(*execute, "--kernel_name=rehearsal", "notebook.ipynb", env=env, cwd=folder)
    return nbformat.read(folder / "notebook.ipynb", as_version=4)


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def first_cell(chapter: Path):
    """A notebook of the cell for Colab alone."""
    cell = nbformat.read(chapter.with_suffix(".ipynb"), as_version=4).cells[0]
    return nbformat.v4.new_notebook(cells=[cell])


def skip_if_rehearsed_before(chapter: Path, packages: Path) -> Path:
    """Skip a rehearsal that went well with this notebook, this course_lib and these packages."""
    installs = ("course_lib/", "pyproject.toml", "README.md", "LICENSE", "_config.yml")
    needed = [name for name in files_of_the_tree() if name.startswith(installs)]
    needed += [f"book/{chapter.stem}.ipynb", "tests/test_colab.py"]
    everything = digest(needed, installed(), json.dumps(versions(packages)))
    return skip_if_passed_before("colab", everything, chapter.stem)


# --- the rehearsals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_notebook_alone_runs_and_changes_no_package(chapter, stage, tmp_path):
    went_well = skip_if_rehearsed_before(chapter, stage.packages)
    environment = environment_over(stage.packages, tmp_path / "environment")
    before = versions(environment)
    assert {"course-lib", "jaxtyping"}.isdisjoint(before)
    for requirement in oldest_requirements()[:3]:
        name, bound = requirement.split("==")
        assert before[name].startswith(bound), f"{name} {before[name]} is not the oldest that is allowed, {bound}"

    notebook = nbformat.read(chapter.with_suffix(".ipynb"), as_version=4)
    # What a notebook made with another version would say, and where course_lib was found.
    other = notebook.cells[0].source[notebook.cells[0].source.index("from course_lib") :].replace('("', '("99.')
    probes = [textwrap.dedent("    " + other), "import course_lib\nprint(course_lib.__file__)"]
    notebook.cells += [nbformat.v4.new_code_cell(probe) for probe in probes]
    played = rehearse(notebook, environment, tmp_path / "alone", colab_env(stage.clone))

    after = versions(environment)
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= {"course-lib", "jaxtyping", "wadler-lindig"}
    installed = f"course_lib {after['course-lib']} is installed"
    assert printed(played.cells[0]) == f"{installed}, the version that this notebook was made with.\n"
    assert printed(played.cells[-2]).startswith(f"{installed}; this notebook was made with 99.")
    assert Path(printed(played.cells[-1]).strip()).is_relative_to(environment)
    record = next(environment.rglob("course_lib-*.dist-info/direct_url.json"))
    origin = json.loads(record.read_text())
    assert origin["url"] == REPOSITORY["url"]
    assert origin["vcs_info"]["commit_id"] == stage.commit
    assert origin["vcs_info"]["requested_revision"] == REPOSITORY["branch"]
    went_well.touch()


def test_an_address_that_does_not_answer_is_named(stage, tmp_path):
    environment = environment_over(stage.packages, tmp_path / "environment")
    nowhere = colab_env(tmp_path / "nowhere")
    said = re.escape(f"course_lib was not installed: check the network and git+{REPOSITORY['url']}")
    with pytest.raises(AssertionError, match=said):
        rehearse(first_cell(CHAPTERS[0]), environment, tmp_path / "alone", nowhere)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_elsewhere_the_first_cell_does_nothing(chapter, stage, tmp_path):
    environment = environment_over(stage.packages, tmp_path / "environment")
    before = versions(environment)
    source = first_cell(chapter).cells[0].source
    assert run(python(environment), "-c", source, env=plain_env(), cwd=tmp_path) == ""
    assert versions(environment) == before
