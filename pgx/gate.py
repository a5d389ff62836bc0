"""The gate before every run: what Hydra's messages become, and which folder a run is given.

A mistake is one line and exit code 2, before anything heavy is imported and before a folder exists.
"""

import contextlib
import itertools
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pgx.backend import check_platforms
from pgx.config import check, check_overrides, hint_for_option, options, unknown_key
from pgx.declared import CONF, Declared, folder_of, on_search_path
from pgx.errors import ConfigError, one_line, short
from pgx.runs import record

WITH_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether the person wants tracebacks. Asked at import: `pgx.run` sets the variable for Hydra."""


@contextlib.contextmanager
def one_line_errors(*, unforeseen: bool = False) -> Iterator[None]:
    """A wrong configuration ends the program: one line on stderr, exit code 2. `unforeseen`: so does an error
    that nobody foresaw."""
    try:
        with config_errors(lambda: typed(sys.argv[1:])):
            yield
    except ConfigError as error:
        message = str(error)
    except Exception as error:
        if not unforeseen:
            raise
        if WITH_TRACEBACK:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in record.NO_SPACE:
            print(f"pgx: {one_line(error)}", file=sys.stderr)
            raise SystemExit(1) from None
        message = f"command line: {one_line(error)}; HYDRA_FULL_ERROR=1 shows the traceback"
    else:
        return
    print(f"pgx: {message}", file=sys.stderr)
    raise SystemExit(2)


@contextlib.contextmanager
def config_errors(declared: Callable[[], Declared]) -> Iterator[None]:
    """What Hydra and OmegaConf say of a configuration is raised as a ConfigError: `declared` is what it may choose from."""
    try:
        yield
    except HydraException as error:
        raise _of_hydra(error, declared()) from error
    except OmegaConfBaseException as error:
        raise ConfigError(getattr(error, "full_key", None) or "config", str(error).splitlines()[0]) from error


def compose(words: Sequence[str], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The checked configuration of what one would type after `python -m pgx.run`, with `--config-dir` for each of the
    folders. Nothing is made, imported or printed, and what Hydra knows of a program around us stays. Raises ConfigError."""
    if wrong := [word for word in words if word.startswith("-")]:
        raise ConfigError(wrong[0], "is an option of the command line", "key=value, +group=option")
    declared = Declared((*folders, *typed(words).folders))
    with config_errors(lambda: declared):
        words = of_words(words)
        check_overrides(words, declared)
        whole = _load(words, folders)
        config = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        return check(config, on_search_path(whole.hydra))


def _load(words: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """Compose as `hydra.compose` does, which would keep its search path for the whole process."""
    search_path = create_config_search_path(str(CONF))
    for folder in folders:
        search_path.prepend("command-line", f"file://{folder}", "schema")  # which has to be the last
    setup_globals()
    around = VersionBase.instance().getbase()
    version.setbase("1.3")
    try:
        return ConfigLoaderImpl(search_path).load_configuration("config", list(words), RunMode.RUN, from_shell=False)
    finally:
        VersionBase.instance().version_base = around


def of_words(words: Sequence[str]) -> list[str]:
    """The command line as Hydra can read it: overrides may stand on both sides of an option such as -m.

    Raises ConfigError for what Hydra would answer with its own usage, or with an error that does not name the key.
    """
    parser = get_args_parser()
    parser.error = refuse
    known, rest = parser.parse_known_args(words)
    if wrong := [word for word in rest if word.startswith("-")]:
        name = wrong[0].lstrip("-").split("=")[0]
        raise ConfigError(
            wrong[0], "there is no such option", hint=f"settings are written key=value; {hint_for_option(name)}".rstrip("; ")
        )
    declared = typed(words)
    for override in map(_parsed, known.overrides + rest):
        if override is not None:
            _check_override(override, declared)
    overrides, options, left = [], [], Counter(known.overrides + rest)
    for word in words:
        (overrides if left[word] > 0 else options).append(word)
        left[word] -= 1
    return [*overrides, *options]


def _check_override(override: Override, declared: Declared) -> None:
    """Raises ConfigError for what would take the gate away, and for a group that is given anything but names."""
    key, value = override.key_or_group, override.value()
    if key.startswith("hydra.callbacks.gate") or (key == "hydra.callbacks" and (override.is_delete() or value is None)):
        raise ConfigError(key, "cannot be removed or changed")
    if not declared.has_group(key) or override.is_delete() or isinstance(value, dict):
        return
    chosen = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
    for option in chosen:
        if not isinstance(option, str | QuotedString | Glob):
            named = "null" if option is None else short(str(option))
            raise ConfigError(key, f"there is no {named!r}", ", ".join(options(key, declared)))


def refuse(message: str) -> NoReturn:
    """Raise argparse's complaint as a ConfigError."""
    where, problem = re.fullmatch(r"(?:argument ([^:]+): )?(.*)", message, re.DOTALL).groups()
    raise ConfigError(where or "command line", problem, hint="--help tells more")


def _parsed(word: str) -> Override | None:
    """The override; None if it is not in Hydra's grammar: Hydra says so itself."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    except Exception as error:  # say, a number of 5,000 digits
        key, _, value = word.partition("=")
        raise ConfigError(key.lstrip("+~"), f"{short(value)} cannot be read: {error}") from error


def _of_hydra(error: HydraException, declared: Declared) -> ConfigError:
    """The ConfigError that says what Hydra's message says."""
    text = f"{error}\n{error.__cause__ or ''}"
    if match := re.search(r"Could not find '([\w/@.]+)/([^'/]*)'", text):
        group, option = match.groups()
        if option == "submitit_slurm":
            missing = "hydra-submitit-launcher is not installed"
            return ConfigError("hydra/launcher", missing, hint="pip install -e '.[slurm]'")
        known = getattr(error, "options", None) or options(group.split("@")[0], declared)
        return ConfigError(group, f"there is no {option!r}", known=known, value=option)
    if match := re.search(r"Could not override '([^']+)'", text):
        inside = re.search(r"full_key: ([\w.]+)", text)  # of `policy={wide: 4}`
        key = max(match[1], inside[1] if inside else "", key=len)
        if declared.has_group(key):
            return ConfigError(key, "not chosen yet", f"+{key}={'|'.join(options(key, declared))}", "put a + before it")
        return unknown_key(key, declared)
    if match := re.search(r"An item is already at '([^']+)'", text):
        return ConfigError(match[1], "is there already", hint="leave the + out")
    if match := re.search(r"Multiple values for ([\w/]+)\. To override a value use 'override \1: ([^']+)'", text):
        group, option = match.groups()  # of `+experiment=pendulum +variant=ppo`
        return ConfigError(group, "is chosen already, by a file", hint=f"leave the + out: {group}={option}")
    if match := re.search(r"Error merging override ([^\s=]+)=", text):  # of hydra.sweeper.n_trials=abc
        return ConfigError(match[1].lstrip("+"), str(error.__cause__).splitlines()[0])
    hint = "several values are a multirun: add -m" if "Ambiguous value" in text else None
    return ConfigError("command line", next(line for line in text.splitlines() if line.strip()), hint=hint)


def typed(words: Sequence[str]) -> Declared:
    """What a command line declares that is not composed; afterwards the search path is known."""
    folders = [after for word, after in itertools.pairwise(words) if word in ("--config-dir", "-cd")]
    folders += [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    return Declared((*map(Path, folders), *filter(None, map(folder_of, search_path(words)))))


def search_path(overrides: Sequence[str]) -> list[str]:
    """The value of the last override that sets hydra.searchpath."""
    for override in reversed(overrides):
        if override.lstrip("+").startswith("hydra.searchpath="):
            with contextlib.suppress(HydraException):  # which Hydra says, too
                value = OverridesParser.create().parse_override(override).value()
                return [x for x in value if isinstance(x, str)] if isinstance(value, list) else []
    return []


class Gate(Callback):
    """Stands before every run: Hydra calls it when the configuration is composed and no file is touched yet."""

    modules: ClassVar[tuple[str, ...] | None] = None
    """Of environments, that may be imported; None: any, for all that is composed was typed."""
    passed: ClassVar[bool] = False
    """Whether a run or a multirun has come through."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with one_line_errors(unforeseen=True):
            check_platforms()
            if config.hydra.sweeper.get("params") and OmegaConf.is_missing(config, "variant"):
                raise ConfigError("variant", "none chosen", hint="what was chosen is a sweep: add -m")
            declared = on_search_path(config.hydra, self.modules)
            check_overrides(OmegaConf.to_container(config.hydra.overrides.task, resolve=False), declared)
            task = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            checked = check(task, declared)
            folder = Path(config.hydra.run.dir)
            if _names_a_moment(config.hydra.run):
                with open_dict(config.hydra):
                    config.hydra.run.dir = str(_claim(folder))
            else:
                self._locked = _enter(folder, checked)
        Gate.passed = True

    untouched: ClassVar["Untouched | None"] = None
    """The folder of a sweep in which no member has started; it is removed if none does."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with one_line_errors(unforeseen=True):
            check_platforms()
            overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
            check_overrides(overrides, on_search_path(config.hydra))
            folder = Path(config.hydra.sweep.dir)
            Gate.untouched = Untouched(folder)
            if _names_a_moment(config.hydra.sweep):
                folder = Gate.untouched.folder = _claim(folder, "hydra.sweep.dir")
                Gate.untouched.multirun = None
                with open_dict(config.hydra):
                    config.hydra.sweep.dir = str(folder)
                    # every member's configuration is composed anew, from these
                    config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
            else:
                record.make(folder, "hydra.sweep.dir")
                if (folder / "run.json").exists():
                    raise ConfigError("hydra.sweep.dir", f"{folder} holds a single run", hint="choose another folder")

    @classmethod
    def sweep_begins(cls) -> None:
        """Keep the sweep's folder from now on: its members are about to start."""
        cls.untouched = None

    @classmethod
    def take_back(cls) -> None:
        """Leave no trace of a sweep that did not begin."""
        if cls.untouched is not None:
            cls.untouched.restore()

    def on_job_start(self, **_: Any) -> None:
        Gate.sweep_begins()
        if hasattr(self, "_locked"):
            self._locked.close()  # Hydra has written its files; the run locks the folder for itself


class Untouched:
    """A sweep's folder before the command: Hydra makes it, and writes to it, before anybody has looked at the members."""

    def __init__(self, folder: Path):
        self.folder, self._there = folder, []
        self.multirun: tuple[bytes, int] | None = None
        """Hydra's note of an earlier command in this folder, and its time."""
        with contextlib.suppress(OSError):
            file = folder / "multirun.yaml"
            self.multirun = (file.read_bytes(), file.stat().st_mtime_ns) if file.exists() else None
        for path in (folder, *folder.parents):
            with contextlib.suppress(OSError):  # too long a name, say: it will not be made
                self._there += [path] if path.exists() else []

    def restore(self) -> None:
        """Take away what was made since: the note, the lock, and the folders, unless somebody else has put anything there."""
        with contextlib.suppress(OSError):
            file = self.folder / "multirun.yaml"
            if self.multirun is None:
                file.unlink(missing_ok=True)
            else:
                text, when = self.multirun
                file.write_bytes(text)
                os.utime(file, ns=(when, when))
        for path in (self.folder, *self.folder.parents):
            if path in self._there:
                return
            with contextlib.suppress(OSError):
                (path / ".lock").unlink(missing_ok=True)
                path.rmdir()


def _names_a_moment(where: DictConfig) -> bool:
    """Whether the folder's name has the second in it, as the default has: then every command has its own. Any other name,
    from the command line or from a file, is the folder that somebody wants."""
    text = str(OmegaConf.to_container(where, resolve=False)["dir"])
    return "${now:" in text and "%S" in text


def quoted(text: str) -> str:
    """A string of Hydra's grammar: a backslash counts as one, unless a quote follows."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + (r"\'" if match[2] else ""), text) + "'"


def _claim(folder: Path, where: str = "hydra.run.dir") -> Path:
    """Make a new folder of this name, or with -2, -3 … after it: two runs never share one."""
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        claimed = folder.with_name(folder.name + suffix)
        try:
            claimed.parent.mkdir(parents=True, exist_ok=True)
            claimed.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(where, f"cannot make {claimed}: {error.strerror}", "a folder that can be written") from error
        return claimed
    raise ConfigError(where, f"{folder} and 998 more exist")


def _enter(folder: Path, config: dict[str, Any]) -> contextlib.ExitStack:
    """Lock a folder the user named; close what is returned to unlock it. Ends the program if there is nothing
    to do there. Raises ConfigError if it cannot be written, is in use or holds another configuration's run."""
    record.make(folder)
    before = record.earlier_run(folder, config)
    if before is not None and not record.needs_more(before, config):
        print(record.last_line(before | {"already": True}, folder))
        raise SystemExit(record.exit_code(before))
    locked = contextlib.ExitStack()
    locked.enter_context(record.sole_use(folder))
    return locked
