"""The side of `pgx.runs.tracker.WandbTracker` that imports wandb: `python -m pgx.runs.wandb_process`.

Requests come in on stdin, one JSON object a line: {"run": 1, "do": "start", …}, with the arguments of `Mirror` or,
for anything but "start", of its method of that name. Answers go out on stdout: {"run": 1, "error": null}, once a run,
when it has finished or when something went wrong; what is asked of it after that is ignored. Several runs may be open
at once.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pgx.runs import child

QUIET = {
    "silent": True,
    "console": "off",
    "save_code": False,
    "disable_git": True,  # wandb would ask for the address it was cloned from, which may hold a password
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "program": "-m pgx.run",
}


class Mirror:
    """A run of W&B's, and the requests that it answers."""

    def __init__(self, *, dir: str, id: str, mode: str, commit: str | None, **init: Any):
        import wandb

        sys.argv[1:] = _overrides(Path(dir))  # with `program`, the command that W&B shows
        settings = wandb.Settings(**QUIET, git_commit=commit)
        self._run = wandb.init(**init, dir=dir, id=id, mode=mode, resume="allow", settings=settings, reinit="create_new")
        # What follows is appended to the run of that id. How far that is, W&B knows online only.
        self._last = _last_update(Path(dir), id) if self._run.offline else self._run.step - 1
        self._folder, self._id = dir, id
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")
        import pandas  # noqa: F401  half a second: wandb does it with the first picture, when somebody waits

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Add the rows that are not there yet."""
        for row in rows:
            if row["update"] > self._last:
                self._last = row["update"]
                self._run.log(row, step=self._last)

    def image(self, name: str, path: str, env_steps: int) -> None:
        import wandb

        self._show(name, wandb.Image(path), env_steps)

    def video(self, name: str, path: str, env_steps: int) -> None:
        import wandb

        self._show(name, wandb.Video(path, format="gif"), env_steps)

    def _show(self, name: str, what: Any, env_steps: int) -> None:
        """Show media in the row of the last update."""
        self._run.log({name: what, "env_steps": env_steps}, step=max(0, self._last))

    def checkpoint(self, folder: str) -> None:
        import wandb

        # W&B copies what it will upload: beside its other files, not into somebody's home
        os.environ["WANDB_DATA_DIR"] = str(Path(self._folder, "wandb"))
        artifact = wandb.Artifact(f"checkpoint-{self._id}", type="model", metadata={"update": int(Path(folder).name)})
        artifact.add_dir(folder)
        self._run.log_artifact(artifact, aliases=["best"])

    def finish(self, summary: dict[str, Any], exit_code: int) -> None:
        self._run.summary.update(summary)
        self._run.finish(exit_code=exit_code)


def _overrides(folder: Path) -> list[str]:
    """The command line that makes the run alone, as Hydra has it in its folder."""
    import yaml

    try:
        overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return [str(override) for override in overrides] if isinstance(overrides, list) else []


def _last_update(folder: Path, id: str) -> int:
    """The last update in the earlier parts of a run's mirror: W&B makes a folder whenever a run is resumed."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    last = 0
    for path in folder.glob(f"wandb/*run-*/run-{id}.wandb"):
        with contextlib.suppress(DecodeError):  # W&B cannot read on from there either
            for data in _records(path.read_bytes()):
                last = max(last, Record.FromString(data).history.step.num)
    return last


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after 7 bytes of W&B's own, in blocks of 32 kB of (crc, length, kind,
    bytes). One that was torn off at the end is none."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # too little of the block for a header
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4) and at <= len(data):  # whole, or the last part of one
            yield record
            record = b""


def main() -> None:
    answers = child.answers()  # wandb-core inherits what it does with signals
    # wandb leaves folders for temporary files to its exit handler, which would wait for a core that may be gone
    with tempfile.TemporaryDirectory(prefix="pgx-wandb-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        _serve(answers)
    os._exit(0)


def _serve(answers: TextIO) -> None:
    runs: dict[int, Mirror] = {}

    def answer(number: int, error: str | None) -> None:
        runs.pop(number, None)
        print(json.dumps({"run": number, "error": error}), file=answers, flush=True)

    for line in sys.stdin:
        request = json.loads(line)
        number, do = request.pop("run"), request.pop("do")
        if do != "start" and number not in runs:
            continue  # it has failed
        try:
            if do == "start":
                runs[number] = Mirror(**request)
            else:
                getattr(runs[number], do)(**request)
            if do == "finish":
                answer(number, None)
        except BaseException as error:  # wandb raises SystemExit and KeyboardInterrupt of its own, too
            answer(number, f"{type(error).__name__}: {error}")
            if isinstance(error, ConnectionError):  # wandb-core is lost; for other runs a new process will be started
                break
    else:  # whoever asked is gone; runs still open did not end well
        for run in runs.values():
            run.finish({}, exit_code=1)


if __name__ == "__main__":
    main()
