"""The side of `pgx.tracker.WandbTracker` that imports wandb: `python -m pgx.wandb_process`.

Requests come in on stdin, one JSON object a line: {"run": 1, "do": "start", …}, with the arguments of the
function of that name below. Answers go out on stdout: {"run": 1, "error": null}, once a run, when it has
finished or when something went wrong; what is asked of it after that is ignored. Several runs may be open at once.
"""

import json
import os
import sys
import tempfile
from typing import Any, TextIO

from pgx import child

QUIET = {
    "silent": True,
    "console": "off",
    "save_code": False,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


def start(_: None, **init: Any) -> Any:
    import wandb

    run = wandb.init(**init, settings=wandb.Settings(**QUIET), reinit="create_new")
    run.define_metric("env_steps")
    run.define_metric("*", step_metric="env_steps")
    import pandas  # noqa: F401  half a second: wandb does it with the first picture, when somebody waits

    return run


def log(run: Any, rows: list[dict[str, Any]]) -> Any:
    for row in rows:
        run.log(row)
    return run


def image(run: Any, name: str, path: str) -> Any:
    import wandb

    run.log({name: wandb.Image(path)})
    return run


def finish(run: Any, summary: dict[str, Any], exit_code: int) -> None:
    run.summary.update(summary)
    run.finish(exit_code=exit_code)


DO = {function.__name__: function for function in (start, log, image, finish)}


def main() -> None:
    answers = child.answers()  # wandb-core inherits what it does with signals
    # wandb leaves folders for temporary files to its exit handler, which would wait for a core that may be gone
    with tempfile.TemporaryDirectory(prefix="pgx-wandb-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        _serve(answers)
    os._exit(0)


def _serve(answers: TextIO) -> None:
    runs: dict[int, Any] = {}

    def answer(number: int, error: str | None) -> None:
        runs.pop(number, None)
        print(json.dumps({"run": number, "error": error}), file=answers, flush=True)

    for line in sys.stdin:
        request = json.loads(line)
        number, do = request.pop("run"), request.pop("do")
        if do != "start" and number not in runs:
            continue  # it has failed
        try:
            runs[number] = DO[do](runs.get(number), **request)
            if runs[number] is None:
                answer(number, None)
        except BaseException as error:  # wandb raises SystemExit and KeyboardInterrupt of its own, too
            answer(number, f"{type(error).__name__}: {error}")
            if isinstance(error, ConnectionError):  # wandb-core is lost; for other runs a new process will be started
                break
    else:  # whoever asked is gone; runs still open did not end well
        for run in runs.values():
            run.finish(exit_code=1)


if __name__ == "__main__":
    main()
