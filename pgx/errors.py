"""Errors that are one line for the person at the keyboard. Everything may import this; it imports nothing of pgx."""

import difflib
from collections.abc import Iterable

from hydra.errors import InstantiationException


class RunFailed(Exception):
    """A run, or a member of a sweep, failed; the message is one line and says where the traceback is."""


class ConfigError(Exception):
    """One line for the person at the keyboard. `known` are the values that would do; the nearest to
    `value` becomes the hint."""

    def __init__(
        self,
        where: str,
        problem: str,
        allowed: str | None = None,
        hint: str | None = None,
        known: Iterable[str] | None = None,
        value: object = None,
    ):
        if known is not None:
            known = list(known)
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else hint
            allowed = allowed or (", ".join(known) if len(known) <= 20 else None)
        parts = [f"{where}: {problem}", allowed and f"allowed: {allowed}", hint]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))


def root(error: Exception) -> Exception:
    """The error that Hydra's instantiate wrapped."""
    return error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error


def one_line(error: Exception, most: int = 500) -> str:
    """Its kind and its message, of which at most so many characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= most else f"{text[:most]}…"
