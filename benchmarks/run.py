"""What every benchmark shares: turns in one process on one thread, a row for each result, a JSON file at the end.

A ratio is the median of the ratios of the single rounds, with its quartiles: a busy machine slows all contenders of a
round alike.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from timeit import Timer

import torch

from course_lib import __version__

FOLDER = Path(__file__).parents[1] / "_build" / "benchmarks"

TURN = 1e-3  # seconds
PEERS = {"of_torch": "torch", "of_sklearn": "scikit-learn"}  # whose error stands beside ours


def time_ratios(contenders, seconds):
    """Median and quartiles of each peer's time over the first contender's, round by round.

    In a round each contender takes one turn: so many calls in a row that the turn lasts a millisecond or more.
    """
    timers = [Timer(contender) for contender in contenders]
    calls = [max(1, round(TURN / min(timer.repeat(5, 3)) * 3)) for timer in timers]
    rounds, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < 20:
        rounds.append([timer.timeit(number) / number for timer, number in zip(timers, calls, strict=True)])
    ratios = [statistics.quantiles([times[i] / times[0] for times in rounds], n=4) for i in range(1, len(contenders))]
    return statistics.median(times[0] for times in rounds), ratios


def show(row):
    low, high = row["quartiles"]
    number = "{:.2f} [{:.2f} {:.2f}]" if row["unit"] else "{:.1e} [{:.1e} {:.1e}]"
    goal = "" if row["goal"] is None else f"{'>=' if row['unit'] else '<='} {row['goal']:g}"
    verdict = {None: "", True: "met", False: "NOT MET"}[row["met"]]
    errors = [f"{peer} {row[key]:.1e}" for key, peer in PEERS.items() if key in row]
    peer = errors[0] if errors else f"{row['microseconds']:.0f} us"
    print(
        f"{row['what']:<82} {number.format(row['value'], low, high):<28} {goal:<10} {verdict:<8} {peer}",
        flush=True,
    )


def main(name, description, legend, rows):
    """The command of a benchmark: `rows(quick)` yields its results."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, to see that it runs")
    parser.add_argument(
        "--output", type=Path, default=FOLDER / f"{name}.json", help="where the JSON goes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(legend)
    done = []
    for row in rows(arguments.quick):
        show(row)
        done.append(row)
    versions = {"course_lib": __version__, "torch": torch.__version__, "python": platform.python_version()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"versions": versions, "rows": done}, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(row['met'] is False for row in done)} goals not met; wrote {arguments.output}")
