"""Why did the return drop to zero? `python -m experiments.published_collapse [--only PART …]`: the runs, then results/.

What is finished is not run again: every part but the last is a project's own sweep in a fixed folder.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from experiments.published_collapse.interventions import PARTS, Part, folder_name

ROOT = Path(__file__).resolve().parents[2]
STUDY = "hydra.searchpath=[file://experiments/published_collapse/conf]"


def sweep(folder: Path, overrides: str, part: Part, processes: int | None, more: list[str]) -> None:
    """The seeds of one intervention, through the project's multirun, which leaves finished ones alone."""
    command = [
        sys.executable, "-m", "pgx.run", "-m", STUDY, *overrides.split(), *part.common.split(), *more,
        f"seed=range(0,{part.seeds})", "tracker=none", "diagnose_every=1000000", f"hydra.sweep.dir={folder.resolve()}",
    ]  # fmt: skip
    if processes:
        command.append(f"hydra.launcher.processes={processes}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.published_collapse", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--folder", type=Path, default=Path("multirun/published_collapse"), help="of the runs")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="only these interventions")
    parser.add_argument("--processes", type=int, help="runs at the same time; by default one a core")
    options, more = parser.parse_known_args()
    for name in options.only:
        part, start = PARTS[name], time.perf_counter()
        for intervention, overrides in part.names.items():
            if options.names and intervention not in options.names:
                continue
            print(f"{name}: {intervention}", flush=True)
            sweep(options.folder / name / folder_name(intervention), overrides, part, options.processes, more)
        print(f"{name}: {time.perf_counter() - start:,.0f} s", flush=True)


if __name__ == "__main__":
    main()
