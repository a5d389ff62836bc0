"""Errors that are one line for the person at the keyboard. Everything may import this; it imports nothing of pgx."""

import difflib
import signal
from collections.abc import Iterable


class RunFailed(Exception):
    """A run, or a member of a sweep, failed; the message is one line and says where the traceback is."""


class Interrupted(KeyboardInterrupt):
    """A second signal: the run ends at once."""

    def __init__(self, by: signal.Signals):
        super().__init__(by.name)
        self.by = by


class CheckpointError(Exception):
    """A checkpoint cannot be written, or none can be used; the message is one line."""


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


def short(text: str) -> str:
    """A text that a person typed, cut to what a line can show."""
    return text if len(text) <= 60 else f"{text[:50]}… ({len(text):,} characters)"


def came_of(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error is of this kind, or was raised from one that is."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def one_line(error: BaseException, most: int = 500) -> str:
    """An error's kind and its message, of which at most so many characters: it goes into run.json, a table and the screen."""
    text = " ".join(f"{type(error).__name__}: {str(error)[: 10 * most]}".split()).removesuffix(":")
    return text if len(text) <= most else f"{text[:most]}…"
