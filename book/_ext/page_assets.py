"""What a page of the book loads, put right after the theme has had its say.

Each part mends one thing that was seen in a browser, and does nothing where a newer version has mended it itself.
"""

import re
import shutil
from pathlib import Path

# Icons as Font Awesome's script lists them:  name:[width,height,[aliases],"code point","path" or ["path","path"]]
ICON = re.compile(
    r'(?P<name>"[^"]+"|[\w$]+):\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]*",(?:"[^"]*"|\[(?:"[^"]*",?)*\])\],?'
)


def drop_thebe(app):
    """Leave out sphinx-thebe, which Jupyter Book always loads: its script appears twice and the second one fails."""
    for listeners in app.events.listeners.values():
        listeners[:] = [
            one for one in listeners
            if getattr(one.handler, "__name__", "") not in ("init_thebe_core", "update_thebe_context")
        ]  # fmt: skip


def offer_readers_edition(app, pagename, templatename, context, doctree):
    """Let the download button give the reader's edition, not the executed MyST notebook, which shows raw MyST."""
    edition = Path(app.srcdir, pagename).with_suffix(".ipynb")
    target = Path(app.outdir, "_sources", pagename).with_suffix(".ipynb")
    if edition.exists() and target.exists():
        shutil.copy2(edition, target)


def keep_used_icons(app, exception):
    """Cut Font Awesome's script (1.5 MB, two thousand icons) down to the icons that the pages and scripts name."""
    static = Path(app.outdir, "_static")
    scripts = list(static.glob("scripts/fontawesome*.js"))
    if exception or not scripts:
        return
    readers = [*Path(app.outdir).rglob("*.html"), *(path for path in static.rglob("*.js") if path not in scripts)]
    used = {
        name
        for path in readers
        for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8", errors="ignore"))
    }

    def keep(match):
        names = {match["name"].strip('"'), *re.findall(r'"([^"]+)"', match["aliases"])}
        return match[0] if names & used else ""

    for script in scripts:
        script.write_text(ICON.sub(keep, script.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app):
    drop_thebe(app)
    app.connect("html-page-context", offer_readers_edition, priority=900)  # after the theme's 501
    app.connect("build-finished", keep_used_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
