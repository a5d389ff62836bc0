"""How fast is it? `python -m experiments.speed [--only PART …] [--repeat N] [--seconds S]`: one table, and results/."""

import argparse
import csv
import importlib
import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from experiments.speed.common import Figure

PARTS = ("one_run", "host", "post_loop", "start_up", "overhead", "sweep", "vmapped", "accelerator", "evaluation")
PARTS += ("ppo", "ppo_seeds", "ppo_pendulum", "pendulum", "half_cheetah", "physics")
PACKAGES = (
    *("jax", "jaxlib", "equinox", "optax", "gymnasium", "gymnax", "brax", "flax", "mujoco", "numpy", "wandb"),
    *("stable-baselines3", "torch"),
)
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    model = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": model[0] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def row(figure: Figure) -> dict[str, object]:
    target = (
        f">= {figure.at_least:g}"
        if figure.at_least is not None
        else f"<= {figure.at_most:g}"
        if figure.at_most is not None
        else ""
    )
    numbers = (figure.median, min(figure.values), max(figure.values)) if figure.values else ("", "", "")
    return {
        "figure": figure.name,
        "median": numbers[0],
        "min": numbers[1],
        "max": numbers[2],
        "unit": figure.unit,
        "target": target,
        "met": {True: "yes", False: "NO", None: ""}[figure.met],
        "note": figure.note,
        "values": " ".join(f"{x:.6g}" for x in figure.values),
    }


def show(figure: Figure) -> str:
    x = row(figure)
    numbers = f"{_short(x['median']):>9}  {_short(x['min']):>9} – {_short(x['max']):<9}" if figure.values else " " * 32
    return f"{figure.name:<62} {numbers} {figure.unit:<12} {x['target']:<11} {x['met']:<4} {figure.note}".rstrip()


def _short(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--repeat", type=int, default=5, help="rounds; medians, minima and maxima are over them")
    parser.add_argument("--seconds", type=float, default=60, help="training time of the run in `overhead`")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    print(f"{'':<62} {'median':>9}  {'min':>9} – {'max':<9}")
    for part in options.only:
        about, start = machine(), time.perf_counter()
        figures = importlib.import_module(f"experiments.speed.{part}").run(options.repeat, options.seconds)
        about |= {"rounds": options.repeat, "seconds": round(time.perf_counter() - start, 1)}
        with open(RESULTS / f"{part}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(row(figures[0])))
            writer.writeheader()
            writer.writerows(map(row, figures))
        (RESULTS / f"{part}.machine.json").write_text(json.dumps(about, indent=2) + "\n")
        print(f"\n{part}  ({about['cpu']}, {about['cores']} cores, load {about['load_before']}, {about['seconds']} s)")
        print("\n".join(map(show, figures)), flush=True)


if __name__ == "__main__":
    main()
