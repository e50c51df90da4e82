"""Make the reader's edition book/NN-name.ipynb of every chapter book/NN-name.md, executed, with no raw MyST in it.

Sphinx resolves numbers and references (see reader_markdown.py), the cells and their tags come from the chapter.
Text outputs are stored and pictures are left out. The same chapter gives the same bytes.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from copy import deepcopy
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

import nbformat
import performance
import yaml
from myst_nb.core.variables import format_plain_text
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from reader_markdown import GLUE_MARK, EditionError, Page, resolve_chapters, strip_colours

ROOT = Path(__file__).resolve().parents[2]
REMEDY = "make notebooks"
GLUED = "application/papermill.record/text/plain"
KEPT_MIMES = ("text/plain", GLUED)
GLUE_PATTERN = re.compile(GLUE_MARK.format(key="(.*?)", format="(.*?)"))

COLAB_CELL = """\
# On Colab, this installs course_lib from the branch that this notebook belongs to. Elsewhere it does nothing.
import importlib.util, os, subprocess, sys

if "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules:
    wanted = ["git+{url}@{branch}"]
    wanted += [name for name in ("jaxtyping", "wadler_lindig") if importlib.util.find_spec(name) is None]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *wanted]
    if (done := subprocess.run(pip, capture_output=True, text=True)).returncode:
        raise RuntimeError(done.stderr + "course_lib was not installed: check the network and " + wanted[0])
    importlib.invalidate_caches()
    from course_lib.notebooks import report_versions
    report_versions("{version}")"""


# --- From page to notebook ---------------------------------------------------------------------------------------


def colab_cell(root: Path) -> str:
    """The first cell; the address stands in _config.yml only."""
    repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")).get("repository", {})
    url, branch = repository.get("url"), repository.get("branch")
    if not url or not branch:
        raise EditionError("_config.yml: repository.url and repository.branch are needed for the cell for Colab")
    version = re.search(r'__version__ = "(.+?)"', (root / "course_lib/_version.py").read_text(encoding="utf-8"))
    return COLAB_CELL.format(url=url.rstrip("/"), branch=branch, version=version[1])


def assemble(page: Page, colab: str) -> nbformat.NotebookNode:
    """The notebook of a page, not executed; glued values are still marks."""
    cells = [nbformat.v4.new_code_cell(colab, metadata={"tags": ["colab"]})]
    fresh = True  # the next Markdown begins a cell
    tags: dict = {}
    for item in page.items:
        if isinstance(item, str):
            if fresh:
                cells.append(nbformat.v4.new_markdown_cell(item, metadata=tags))
                fresh, tags = False, {}
            else:
                cells[-1].source += "\n\n" + item
            continue
        source = page.cells[item]
        kept = {"tags": list(source.metadata["tags"])} if source.metadata.get("tags") else {}
        fresh = True
        if source.cell_type == "code":
            cells.append(nbformat.v4.new_code_cell(source.source, metadata=kept))
        elif source.cell_type == "markdown":
            tags = kept
        else:
            raise EditionError(f"cells of the kind {source.cell_type!r} are not supported")
    return nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def finish(notebook, outputs: list[list]) -> None:
    """Put the outputs, and the values that they hold, into the notebook, and number its cells."""
    for count, (cell, stored) in enumerate(zip(code_cells(notebook), outputs, strict=True), start=1):
        cell.outputs = stored
        cell.execution_count = count  # nbval compares nothing in a cell without a count
        for output in stored:
            if output.output_type == "execute_result":
                output.execution_count = count
    values = glued_values(notebook)
    fill_in(notebook, lambda key, spec: glued_text(values, key, spec))
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        # The identity follows from the content, so that a new cell does not rename all that follow it.
        name = hashlib.sha256(f"{cell.cell_type} {cell.source}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"


def fill_in(notebook, show) -> None:
    """Replace the marks of glued values by what `show` makes of their names and formats."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = GLUE_PATTERN.sub(lambda mark: show(*mark.groups()), cell.source)


def glued_values(notebook) -> dict[str, str]:
    values: dict[str, str] = {}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if GLUED in output.get("data", {}):
                name = output.metadata["scrapbook"]["name"]
                if name in values:
                    raise EditionError(f"the value {name!r} is glued twice")
                values[name] = output.data[GLUED]
    return values


def glued_text(values: dict[str, str], key: str, spec: str) -> str:
    """The value as MyST-NB's role shows it on the page."""
    if key not in values:
        raise EditionError(f"the text shows the value {key!r}, which no cell glues (known: {sorted(values)})")
    return format_plain_text(values[key], spec or "s")


# --- Execution ---------------------------------------------------------------------------------------------------


def execute(notebook, root: Path) -> tuple[list[list], float, int | None]:
    """Run the notebook in book/: the outputs of its code cells, cleaned, its seconds, and its peak memory in MiB."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")).get("execute", {})
    running = deepcopy(notebook)
    where = {"metadata": {"path": str(root / "book")}}
    client = NotebookClient(
        running, timeout=settings.get("timeout", 120), kernel_name="python3", resources=where,
        extra_arguments=["--log-level=ERROR"],  # ipykernel warns that it listens on this machine
    )  # fmt: skip
    begun, seconds, peak = 0.0, 0.0, None

    def before(**_):
        nonlocal begun
        begun = time.perf_counter()

    def after(**_):  # the last word is that of the last cell
        nonlocal seconds, peak
        seconds += time.perf_counter() - begun
        peak = performance.peak_mib(getattr(getattr(client.km.provisioner, "process", None), "pid", 0)) or peak

    client.on_cell_execute, client.on_cell_executed = before, after
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError) as error:
        failed = next((i for i, c in enumerate(code_cells(running)) if is_failed(c)), None)
        message = strip_colours(str(error)).strip()
        where = describe(running, failed)
        raise EditionError(f"{where} fails; the old notebook is untouched.\n{message}") from None
    outputs = []
    for index, cell in enumerate(code_cells(running)):
        try:
            outputs.append(clean(cell, root))
        except EditionError as error:
            raise EditionError(f"{describe(running, index)} {error}") from None
    return outputs, seconds, peak


def is_failed(cell) -> bool:
    allowed = "raises-exception" in cell.metadata.get("tags", [])
    return not allowed and any(output.output_type == "error" for output in cell.get("outputs", []))


def describe(notebook, index: int | None) -> str:
    """A cell in words; the cell for Colab is not counted, for the chapter does not have it."""
    if index is None:
        return "a cell"
    first = next((line for line in code_cells(notebook)[index].source.splitlines() if line.strip()), "")
    return f"code cell {index}, which begins with {first!r},"


def clean(cell, root: Path) -> list:
    """The outputs of a cell as text, without what differs from run to run or from machine to machine."""
    kept: list = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                raise EditionError(f"writes to stderr: {output.text.strip()!r}")
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
            else:
                kept.append(nbformat.v4.new_output("stream", name=output.name, text=output.text))
        elif output.output_type == "error":
            line = f"{output.ename}: {output.evalue}"  # the traceback names files of this machine
            kept.append(nbformat.v4.new_output("error", ename=output.ename, evalue=output.evalue, traceback=[line]))
        else:
            data = {mime: text for mime, text in output.data.items() if mime in KEPT_MIMES}
            scrapbook = output.metadata.get("scrapbook")
            note = {"scrapbook": scrapbook} if scrapbook else {}
            kept.append(nbformat.v4.new_output(output.output_type, data=data, metadata=note))
    text = json.dumps(kept, ensure_ascii=False)
    if re.search(r"\bat 0x[0-9a-f]{6,}", text) and "nbval-ignore-output" not in cell.metadata.get("tags", []):
        raise EditionError("shows an address in memory, which differs in every run; print what matters instead")
    if str(root) in text:
        raise EditionError(f"shows a folder of this machine, {root}")
    return kept


# --- Chapters, and the command -----------------------------------------------------------------------------------


def chapters(root: Path, wanted: list[str] | None = None) -> list[Path]:
    """The chapters book/NN-name.md; `wanted` selects by number, name or path."""
    found = sorted((root / "book").glob("[0-9][0-9]-*.md"))
    if not wanted:
        return found
    chosen = [path for path in found if any(w in (path.stem, path.stem[:2]) for w in (Path(w).stem for w in wanted))]
    if not chosen:
        raise EditionError(f"no chapter is called {', '.join(wanted)}; there are {', '.join(p.stem for p in found)}")
    return chosen


def plan(root: Path, paths: list[Path]) -> dict[Path, nbformat.NotebookNode]:
    """The notebook of each chapter, not executed, from one run of Sphinx over the whole book."""
    # all of them, whatever is wanted: one that is not resolved has no figures that the others could name
    names = {path.relative_to(root).with_suffix("").as_posix(): path for path in chapters(root)}
    colab, pages = colab_cell(root), resolve_chapters(root, list(names))
    return {names[name]: assemble(page, colab) for name, page in pages.items() if names[name] in paths}


def stored_outputs(notebook, stored, root: Path) -> list[list] | None:
    """The outputs of the stored notebook, None when its code is not that of `notebook`."""
    if stored is None:
        return None
    ours, theirs = code_cells(notebook), code_cells(stored)
    # The cell for Colab has no output; it may name another address or version.
    same = len(ours) == len(theirs) and all(a.source == b.source for a, b in zip(ours[1:], theirs[1:], strict=True))
    return [clean(cell, root) for cell in theirs] if same else None


def load(path: Path):
    return nbformat.read(path, as_version=4) if path.exists() else None


def text_of(notebook) -> str:
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def difference(notebook, path: Path, root: Path) -> str | None:
    """What is not as it should be in the stored edition, in words; None when nothing is."""
    stored = load(path)
    if stored is None:
        return "it does not exist"
    outputs = stored_outputs(notebook, stored, root)
    if outputs is not None:
        finish(notebook, outputs)
    else:  # compare as far as the cells are the same, with the values that are there
        values = glued_values(stored)
        fill_in(notebook, lambda key, spec: glued_text(values, key, spec) if key in values else "?")
    for index, (want, have) in enumerate(zip(notebook.cells, stored.cells, strict=False)):
        where = f"cell {index} ({want.cell_type})"
        if want.cell_type != have.cell_type:
            return f"{where} is stored as {have.cell_type}"
        if want.source != have.source:
            lines = zip_longest(want.source.splitlines(), have.source.splitlines(), fillvalue="")
            ours, theirs = next((pair for pair in lines if pair[0] != pair[1]), (want.source, have.source))
            return f"{where}: the chapter gives {ours!r}, stored is {theirs!r}"
        if want.metadata != have.metadata:
            return f"{where}: the chapter gives the metadata {dict(want.metadata)}, stored is {dict(have.metadata)}"
    if len(notebook.cells) != len(stored.cells):
        return f"the chapter gives {len(notebook.cells)} cells, stored are {len(stored.cells)}"
    if text_of(notebook) != path.read_text(encoding="utf-8"):
        return "its outputs or metadata are not as this program writes them"
    return None


def fingerprint(notebook, root: Path) -> str:
    """What the outputs of a chapter depend on: its code, course_lib, and the versions of what is installed."""
    digest = hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)[1:]).encode())
    for path in sorted((root / "course_lib").rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    installed = sorted(f"{d.name}=={d.version}" for d in metadata.distributions())
    digest.update("\n".join([sys.version, *installed]).encode())
    return digest.hexdigest()


def make(notebook, source: Path, root: Path, *, execute_mode: str) -> str:
    """Write the edition of one chapter; say what was done."""
    target = source.with_suffix(".ipynb")
    stamp = root / ".cache" / "editions" / f"{source.stem}.sha256"
    inputs = fingerprint(notebook, root)
    outputs = stored_outputs(notebook, load(target), root) if execute_mode != "always" else None
    if execute_mode == "changed" and outputs is not None:
        known = stamp.read_text() if stamp.exists() else ""
        if known != f"{inputs} {hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()}":
            outputs = None
        if source.stem not in performance.read(root):  # what it costs is not known
            outputs = None
    if execute_mode == "never" and outputs is None:
        raise EditionError(f"{target.name} does not hold the code of {source.name}, so it must be executed: {REMEDY}")
    done = "outputs kept" if outputs is not None else "executed"
    if outputs is None:
        outputs, seconds, peak = execute(notebook, root)
        performance.write(root, source.stem, seconds, peak)
    finish(notebook, outputs)
    text = text_of(notebook)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        fresh = target.with_suffix(".ipynb.new")  # a broken run never leaves half a notebook
        fresh.write_text(text, encoding="utf-8", newline="\n")
        os.replace(fresh, target)
    else:
        done += ", nothing new"
    if execute_mode != "never":
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(f"{inputs} {hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()}")
    return done


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapter", nargs="*", help="number, name or path of a chapter; all when none is given")
    parser.add_argument("--check", action="store_true", help="execute nothing; say whether the stored files are right")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--force", action="store_true", help="execute chapters that have not changed, too")
    how.add_argument("--keep-outputs", action="store_true", help="execute nothing; only text and address are renewed")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    mode = "always" if options.force else "never" if options.keep_outputs else "changed"
    root = options.root.resolve()
    try:
        planned = plan(root, chapters(root, options.chapter))
    except EditionError as error:
        print(error, file=sys.stderr)
        return 1
    wrong = 0
    for source, notebook in planned.items():
        target = source.with_suffix(".ipynb")
        try:
            if options.check:
                found = difference(notebook, target, root)
                wrong += found is not None
                report = f"not what {source.name} gives: {found}" if found else "right"
            else:
                report = make(notebook, source, root, execute_mode=mode)
            print(f"{target.name}: {report}", flush=True)
        except EditionError as error:
            wrong += 1
            print(f"{source.name}: {error}", file=sys.stderr, flush=True)
    if options.check and wrong:
        print(f"Make them again with: {REMEDY}", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
