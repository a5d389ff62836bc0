"""A research harness for policy gradients: does this one really learn, and how stably?"""

import os
import signal
import sys

__version__ = "0.1.0"

_PUBLIC = {
    "train": "pgx.api",
    "assemble": "pgx.api",
    "evaluate": "pgx.api",
    "configuration": "pgx.api",
    "Run": "pgx.api",
    "Parts": "pgx.build",
    "Limits": "pgx.loop",
    "ConfigError": "pgx.errors",
    "CheckpointError": "pgx.errors",
}
"""What programs and notebooks use: name → the module that has it, imported when it is first asked for."""

__all__ = [
    "__version__",
    "CheckpointError",
    "ConfigError",
    "Limits",
    "Parts",
    "Run",
    "assemble",
    "configuration",
    "evaluate",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pgx' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(type(sys)):
    """`pgx.evaluate` is the function, also when the command of that name, a module, has been imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _PUBLIC or not isinstance(value, type(sys)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _look_here_last() -> None:
    """`python -m pgx.…` looks into the working folder first: a random.py or jax.py there would be taken for Python's or
    JAX's own. It comes last; a person's own modules there are found all the same. In a run's or a sweep's folder, which
    is data, nothing is: jax and Hydra import whatever plugins they find on the path."""
    if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # while the package is being imported
        here = sys.path.pop(0)
        if not (os.path.exists("run.json") or os.path.exists("members.json")):
            sys.path.append(here)


_look_here_last()


def _refuse_namesake() -> None:
    """Stop if the distribution `pgx`, a library of board games, is installed: it owns the same import name.

    Which of the two answers to `import pgx` then depends on the folder one stands in: at the top of this repository
    ours does, and says so; anywhere else theirs does, and `pgx.run` is not found.
    """
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")  # 0.4 ms in all; importlib.metadata takes tens
        except OSError:
            continue
        for name in names:
            if name.startswith("pgx-") and name.endswith(".dist-info"):
                message = (
                    f"pgx: {name.removesuffix('.dist-info')} (JAX board games, another project) is installed beside this "
                    "harness and has the same import name: run `pip uninstall pgx`, or use a fresh environment"
                )
                if sys.argv[:1] == ["-m"]:  # `python -m pgx.…`, while the package is being imported
                    print(message, file=sys.stderr)
                    raise SystemExit(2)
                raise ImportError(message)


def _leave(*_: object) -> None:
    os._exit(130)


def started() -> None:
    """A command has been imported: from here on Ctrl-C is its own affair."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_refuse_namesake()
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)  # Ctrl-C while a command is being imported is no error with a traceback
