"""Run pytest in another folder, many times and quickly: a process that has imported the libraries forks for each run.

Half of the time of a short run of pytest is the import of PyTorch, SciPy and SymPy. Run as a script, this file imports
them once. Then it reads orders, a line of JSON each, forks, and answers with the exit code of the child. A child has
none of the project's modules and none of pytest's plugins yet: it imports them from its own folder, as a new process.
"""

import atexit
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("pytest", "torch", "scipy.stats", "scipy.optimize", "sympy", "nbformat", "yaml", "bs4")  # no plugins
CAN_FORK = sys.platform == "linux"  # elsewhere a fork is not there, or not safe after such imports


@functools.cache
def server() -> subprocess.Popen:
    """The process that forks. It ends with this one."""
    with tempfile.TemporaryDirectory() as elsewhere:  # so that it finds no module of this folder
        process = subprocess.Popen(
            [sys.executable, "-P", __file__], cwd=elsewhere, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )  # fmt: skip
        process.stdout.readline()  # it is ready
    atexit.register(process.communicate)  # closes its input, which ends it, and waits
    return process


def run_pytest(folder: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """The same as ``python -m pytest`` in that folder, which is also the first on the path; stderr is in stdout."""
    environment = environment | {"PYTHONPATH": str(folder)}
    if not CAN_FORK:
        command = [sys.executable, "-m", "pytest", *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as output:
        order = {"folder": str(folder), "arguments": arguments, "environment": environment, "output": output.name}
        process = server()
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, output.read())


def obey(order: dict) -> None:
    """In the child: become a new process as nearly as one can, and run pytest."""
    import pytest

    output = os.open(order["output"], os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(old, new)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path.insert(0, order["folder"])
    sys.argv = ["pytest", *order["arguments"]]
    code = int(pytest.main(order["arguments"]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                obey(json.loads(line))
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
