"""Standard output and error that may be closed, full, or unable to show a character.

What can no longer be said there changes neither how a run ends nor its exit code.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any


class _Tolerant:
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: Any):
        self._stream = stream
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="replace")  # an ASCII terminal shows "?" for "±"

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def close(self) -> None:
        """Some libraries close what they log to when the program ends; others still write then."""
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # a closed pipe, a full disk: what waits in the buffer would fail again when Python ends
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Within this block no printing fails."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the parent process; other files must not get its number
            stream = open(os.devnull, mode)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Tolerant, before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def no_tracebacks_beside() -> None:
    """Print neither what a log on a full disk raises, a traceback a line, nor what Orbax raises in its own threads: it is
    raised in ours as well."""
    logging.raiseExceptions = False
    threading.excepthook = _of_thread


def _of_thread(failed: threading.ExceptHookArgs) -> None:
    if "orbax" not in type(failed.thread).__module__:
        threading.__excepthook__(failed)
