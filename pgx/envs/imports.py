"""Imports of libraries of environments: only of what is wanted."""

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator

from pgx.envs.quiet import to_log


def module_of(package: str, module: str) -> types.ModuleType:
    """`package.module`, without what the files of the packages above it import.

    gymnax's import all its environments and with them matplotlib, pandas and seaborn, Playground's import brax and torch.
    Empty stand-ins for these packages let Python find the one module; they are taken away again, so a later
    `import package` gets the real thing.
    """
    root = importlib.util.find_spec(package).submodule_search_locations[0]
    above = [package, *(f"{package}.{module[:n]}" for n, letter in enumerate(module) if letter == ".")]
    stand_ins = [name for name in above if name not in sys.modules]
    try:
        for name in stand_ins:
            sys.modules[name] = stand_in = types.ModuleType(name)
            stand_in.__path__ = [root + name.removeprefix(package).replace(".", "/")]
        return importlib.import_module(f"{package}.{module}")
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def without_warp() -> Iterator[None]:
    """In here MJX is imported without NVIDIA's Warp, which it takes if it is there; it says that there is none, in the
    log."""
    hidden = {"warp": None} if "warp" not in sys.modules else {}
    sys.modules |= hidden
    try:
        with to_log("MJX"):
            yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
