"""Write a repository's address and branch into _config.yml, where the whole book finds them.

Usage: python .github/scripts/set_repository.py https://github.com/owner/name branch [path/to/_config.yml]
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^repository:[ \t]*\n  url: \S+\n  branch: \S+$", re.MULTILINE)


def set_repository(text: str, url: str, branch: str) -> str:
    """The text of _config.yml with another address; its comments and all other lines stay as they are."""
    if not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", url) or url.endswith(".git"):
        raise ValueError(f"{url!r} is not an address such as https://github.com/owner/name")
    if not re.fullmatch(r"[\w./-]+", branch):
        raise ValueError(f"{branch!r} is not the name of a branch or tag")
    text, count = BLOCK.subn(lambda _: f"repository:\n  url: {url}\n  branch: {branch}", text)
    if count != 1:
        raise ValueError(f"_config.yml has {count} blocks `repository:` with url and branch, not one")
    return text


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    config = Path(sys.argv[3]) if len(sys.argv) == 4 else ROOT / "_config.yml"
    try:
        changed = set_repository(config.read_text(encoding="utf-8"), sys.argv[1], sys.argv[2])
    except ValueError as error:
        sys.exit(f"error: {error}")
    config.write_text(changed, encoding="utf-8", newline="\n")
    print(f"{config.name}: the repository is {sys.argv[1]}, branch {sys.argv[2]}")
