"""What each chapter costs: the directive ``{performance}`` prints the table of the appendix.

The figures stand in ``book/appendices/performance.json``. `reader_edition` writes them when it executes a chapter.
"""

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import ledger

ROOT = Path(__file__).resolve().parents[2]


def store(root: Path = ROOT) -> Path:
    """The file of the figures."""
    return root / "book" / "appendices" / "performance.json"


def read(root: Path = ROOT) -> dict[str, dict]:
    """The figures of each chapter, by the name of its file."""
    path = store(root)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def machine() -> str:
    """What times depend on, without the names of anything."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        torch = f", PyTorch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        torch = ""
    return f"{cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}{torch}"


def peak_mib(pid: int) -> int | None:
    """The most memory that a running process has held so far, in MiB; None where Linux does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return None
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return round(int(peak.split()[1]) / 1024) if peak else None


def write(root: Path, chapter: str, seconds: float, peak: int | None) -> None:
    """Note what a chapter took. Figures of chapters that are gone go, too."""
    known = {path.stem for path in ledger.chapters(root)}
    figures = {name: row for name, row in read(root).items() if name in known}
    figures[chapter] = {"seconds": max(1, round(seconds)), "peak_mib": peak, "machine": machine()}
    store(root).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(sorted(figures.items())), indent=2) + "\n"
    store(root).write_text(text, encoding="utf-8", newline="\n")


def rows(root: Path = ROOT) -> list[str]:
    """The table, in MyST, and the machines below it."""
    figures = read(root)
    machines = sorted({row["machine"] for row in figures.values()})
    lines = ["| chapter | code cells | seconds | peak memory (MiB) | machine |", "|---|--:|--:|--:|--:|"]
    for chapter in ledger.chapters(root):
        code = [match.group() for match in ledger.CODE_CELL.finditer(chapter.read_text(encoding="utf-8"))]
        cells = sum("remove-cell" not in cell for cell in code)
        row = figures.get(chapter.stem)
        cost = [row["seconds"], row["peak_mib"] or "-", machines.index(row["machine"]) + 1] if row else ["-"] * 3
        lines.append(f"| {{doc}}`../{chapter.stem}` | {cells} | {' | '.join(map(str, cost))} |")
    lines += ["", *(f"Machine {number}: {name}.\n" for number, name in enumerate(machines, 1))]
    return lines


def setup(app):
    """Register the directive."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class Performance(SphinxDirective):
        """Print the table."""

        def run(self):
            for path in (store(), *ledger.chapters()):
                self.env.note_dependency(str(path))
            place = nodes.Element()
            self.state.nested_parse(StringList(rows(), source="performance"), self.content_offset, place)
            return place.children

    app.add_directive("performance", Performance)
    return {"parallel_read_safe": True}
