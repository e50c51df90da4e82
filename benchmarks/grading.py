"""How long the sandbox takes: ``python -m benchmarks.grading [SUBMISSIONS] [JOBS]``.

Each submission is a small exercise in PyTorch: three cells, two functions, ten calls. Prints seconds and memory.
"""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import torch

from course_lib.grading.box import Box
from course_lib.grading.process import tree, usage
from course_lib.grading.remote import student_names
from course_lib.grading.sandbox import Sandbox, problem

CELLS = [
    "import torch\nfrom course_lib.gaussians import kl_to_standard_normal",
    "def kl(mean, log_var):\n    return 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(-1)",
    "def softmax(x):\n    e = (x - x.amax(-1, keepdim=True)).exp()\n    return e / e.sum(-1, keepdim=True)",
]


def grade(job: int, jobs: int) -> tuple[int, dict]:
    """How many of ten answers are right, and what the sandbox used."""
    generator = torch.Generator().manual_seed(0)
    with Box(CELLS, Sandbox(job, jobs)) as box:
        names = student_names(box, ["kl", "softmax"])
        right = 0
        for _ in range(5):
            x = torch.randn(64, 8, generator=generator, dtype=torch.float64)
            expected = 0.5 * (x**2 + x.exp() - 1 - x).sum(-1)
            right += torch.allclose(names["kl"](x, x), expected) + torch.allclose(names["softmax"](x), x.softmax(-1))
        return right, usage(tree(box.process.popen.pid))


def work(job: int, jobs: int, count: int) -> list:
    torch.set_num_threads(1)
    return [grade(job, jobs) for _ in range(count)]


def main(count: int = 200, jobs: int = 2) -> None:
    if problem():
        sys.exit(problem())
    started = time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool:
        shares = [len(range(job, count, jobs)) for job in range(jobs)]
        results = [r for part in pool.map(work, range(jobs), [jobs] * jobs, shares) for r in part]
    seconds = time.perf_counter() - started
    own = usage(tree(os.getpid()))["memory"] / 2**20
    assert all(right == 10 for right, _ in results)
    print(f"{count} submissions, {jobs} jobs: {seconds:.1f} s, {seconds * jobs / count:.2f} s each and job")
    memory, processor = (max(use[name] for _, use in results) for name in ("memory", "processor"))
    print(f"sandbox: {memory / 2**20:.0f} MiB and {processor:.2f} s of the processor; grader: {own:.0f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
