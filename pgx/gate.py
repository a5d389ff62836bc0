"""The gate before every run: what Hydra's messages become, and which folder a run is given.

A mistake is one line and exit code 2, before anything heavy is imported and before a folder exists.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pgx import record
from pgx.config import CONF, check, check_overrides, options, unknown_key
from pgx.errors import ConfigError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """A wrong configuration ends the program: one line on stderr, exit code 2."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
    except HydraException as error:
        message = str(_of_hydra(error))
    except OmegaConfBaseException as error:
        message = f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}"
    else:
        return
    print(f"pgx: {message}", file=sys.stderr)
    raise SystemExit(2)


def _of_hydra(error: HydraException) -> ConfigError:
    """Hydra's message, in our form."""
    text = f"{error}\n{error.__cause__ or ''}"
    if found := re.search(r"Could not find '([\w/@.]+)/([^'/]*)'", text):
        group, option = found.groups()
        if option == "submitit_slurm":
            missing = "hydra-submitit-launcher is not installed"
            return ConfigError("hydra/launcher", missing, hint="pip install -e '.[slurm]'")
        known = options(group.split("@")[0])
        return ConfigError(group, f"there is no {option!r}", known=known, value=option)
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1]
        if (CONF / key).is_dir():
            return ConfigError(key, "not chosen yet", f"+{key}={'|'.join(options(key))}", "put a + before it")
        return unknown_key(key)
    hint = "several values are a multirun: add -m" if "Ambiguous value" in text else None
    return ConfigError("command line", next(line for line in text.splitlines() if line.strip()), hint=hint)


class Gate(Callback):
    """Stands before every run: Hydra calls it when the configuration is composed and no file is touched yet."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with one_line_errors():
            check_overrides(config.hydra.overrides.task)
            task = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            checked = check(task)
            if _is_set(config, "hydra.run.dir"):
                self._locked = _enter(Path(config.hydra.run.dir), checked)
            else:
                with open_dict(config.hydra):
                    config.hydra.run.dir = str(_claim(Path(config.hydra.run.dir)))

    new_folder: ClassVar[Path | None] = None
    """A sweep's, while nothing has run in it."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with one_line_errors():
            check_overrides(config.hydra.overrides.task)
            existed = _is_set(config, "hydra.sweep.dir") and Path(config.hydra.sweep.dir).exists()
            if not _is_set(config, "hydra.sweep.dir"):
                folder = str(_claim(Path(config.hydra.sweep.dir)))
                with open_dict(config.hydra):
                    config.hydra.sweep.dir = folder
                    # every member's configuration is composed anew, from these
                    config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
            Gate.new_folder = None if existed else Path(config.hydra.sweep.dir)

    @classmethod
    def take_back(cls) -> None:
        """Remove the folder of a sweep that did not begin: Hydra has written to it before it looked at the members."""
        folder = cls.new_folder
        if folder is not None and folder.is_dir() and {path.name for path in folder.iterdir()} <= {"multirun.yaml"}:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # multirun/<date>, if that is empty now
                folder.parent.rmdir()
                folder.parent.parent.rmdir()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from pgx.sweep import ledger, members

        sweep = Path(config.hydra.sweep.dir)
        if (sweep / members.FILE).exists() and (code := ledger.show(sweep)):
            raise SystemExit(code)

    def on_job_start(self, **_: Any) -> None:
        if hasattr(self, "_locked"):
            self._locked.close()  # Hydra has written its files; the run locks the folder for itself


def _is_set(config: DictConfig, key: str) -> bool:
    """Whether the command line says what this key of Hydra's is."""
    return any(override.lstrip("+").split("=")[0] == key for override in config.hydra.overrides.hydra)


def _claim(folder: Path) -> Path:
    """Make a new folder of this name, or with -2, -3 … after it: two runs never share one."""
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        claimed = folder.with_name(folder.name + suffix)
        try:
            claimed.parent.mkdir(parents=True, exist_ok=True)
            claimed.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError("hydra.run.dir", f"cannot make {claimed}: {error.strerror}", "a folder that can be written") from error
        return claimed
    raise ConfigError("hydra.run.dir", f"{folder} and 998 more exist")


def _enter(folder: Path, config: dict[str, Any]) -> contextlib.ExitStack:
    """Lock a folder the user named; close what is returned to unlock it. Ends the program if there is nothing
    to do there. Raises ConfigError if it cannot be written, is in use or holds another configuration's run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise ConfigError("hydra.run.dir", f"cannot write {folder}: {error.strerror}", "a folder that can be written") from error
    before = record.earlier_run(folder, config)
    if before is not None and not record.goes_on(before, config):
        print(record.last_line(before | {"already": True}, folder))
        raise SystemExit(record.exit_code(before))
    locked = contextlib.ExitStack()
    locked.enter_context(record.sole_use(folder))
    return locked
