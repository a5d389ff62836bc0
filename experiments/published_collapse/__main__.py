"""Why did the return drop to zero? The runs, then results/: `python -m experiments.published_collapse [--only PART …]`.

What is finished is not run again: all but the last three parts are the project's own sweeps, each in a fixed folder.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from experiments.published_collapse.interventions import (
    CHECKPOINTS,
    EPISODES,
    PARTS,
    SHORT,
    TORCH,
    TORCH_SEEDS,
    Part,
    folder_name,
)

ROOT = Path(__file__).resolve().parents[2]
STUDY = ("--config-dir", "experiments/published_collapse/conf")
ALL = (*PARTS, "estimator", "torch", "report")


def sweep(folder: Path, overrides: str, part: Part, seeds: int, more: list[str]) -> None:
    """The seeds of one intervention, through the project's multirun, which leaves finished ones alone."""
    command = [
        sys.executable, "-m", "pgx.run", "-m", *STUDY, *overrides.split(), *part.common.split(),
        f"seed=range(0,{seeds})", "tracker=none", f"hydra.sweep.dir={folder.resolve()}", *more,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def estimator(folder: Path, results: Path) -> None:
    from pgx import backend

    backend.prepare(1)
    import pandas as pd

    from experiments.published_collapse.estimator import measure

    runs = folder / "published" / folder_name("as published")
    rows = [measure(runs / str(seed), update, **EPISODES) for seed, update in CHECKPOINTS]
    results.mkdir(exist_ok=True)
    pd.concat(rows).to_csv(results / "estimator.csv", index=False, float_format="%.5g", lineterminator="\n")


def torch(folder: Path, episodes: int, env_steps: int) -> None:
    from experiments.published_collapse.pytorch import train

    for seed in range(TORCH_SEEDS):
        for name, one_step in TORCH.items():
            train(folder / "torch" / folder_name(name) / str(seed), seed, one_step, episodes, env_steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.published_collapse", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL), metavar="PART", help=", ".join(ALL))
    parser.add_argument("--names", nargs="+", metavar="NAME", help="only these interventions")
    parser.add_argument("--seeds", type=int, default=20, help="of every intervention (default: 20)")
    parser.add_argument("--folder", type=Path, default=Path("multirun/published_collapse"), help="of the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="of tables and figures")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="for every run of the sweeps")
    options = parser.parse_args()
    for name in options.only:
        start = time.perf_counter()
        if name == "estimator":
            estimator(options.folder, options.results)
        elif name == "torch":
            torch(options.folder, SHORT["episodes"], SHORT["env_steps"])
        elif name == "report":
            from experiments.published_collapse.report import write

            write(options.folder, options.results)
        else:
            for intervention, overrides in PARTS[name].names.items():
                if not options.names or intervention in options.names:
                    print(f"{name}: {intervention}", flush=True)
                    sweep(
                        options.folder / name / folder_name(intervention),
                        overrides,
                        PARTS[name],
                        options.seeds,
                        options.overrides,
                    )
        print(f"{name}: {time.perf_counter() - start:,.0f} s", flush=True)


if __name__ == "__main__":
    main()
