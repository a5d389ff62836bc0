"""Signals, and waits that do not end: what a run does when somebody, or a batch system, wants it to stop."""

import contextlib
import logging
import math
import os
import select
import signal
import sys
import threading
import time
from types import FrameType

from pgx.errors import Interrupted

log = logging.getLogger("pgx")

AT_ONCE = 2.0
"""Seconds that a second signal leaves the run to end by itself: what hangs outside of Python does not hear it."""
GRACE = 30.0
"""The same after a signal that nobody repeats, of a batch system; a run whose updates take longer has more."""
PATIENCE = 60.0
"""Seconds without progress after which a line says what takes so long; a run whose updates take longer has more."""


class Interrupt:
    """A signal of STOP ends a run after the chunk in progress; of a run `alone`, which has nobody who would tell it
    otherwise, a second Ctrl-C or `kill` at once.

    A thread of its own hears them, and says so, even while the run compiles. It also ends the process where the run
    does not: soon after a second signal, and, after any but Ctrl-C, when it has had time enough. And it says what
    takes so long when nothing has happened for a while.
    """

    STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    """Ctrl-C, `kill`, a closed terminal, and what `sbatch --signal=USR2@120` sends before a job's time is up."""

    def __init__(self, *, alone: bool = False):
        self.by: signal.Signals | None = None
        self._alone = alone
        self._first = 0.0
        self._again: signal.Signals | None = None
        self._doing, self._since, self._longest = "the start", time.monotonic(), 0.0

    def __enter__(self) -> "Interrupt":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._main = threading.get_ident()
            self._heard, self._bell = os.pipe()
            os.set_blocking(self._bell, False)
            self._bell_before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
            ignored = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else ()  # by nohup
            self._before = {number: signal.signal(number, self._note) for number in self.STOP if number not in ignored}
            self._thread = threading.Thread(target=self._watch, name="interrupt", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._bell_before)
        os.write(self._bell, b"\0")
        self._thread.join()
        os.close(self._heard)
        os.close(self._bell)

    def beat(self, doing: str, took: float = 0.0) -> None:
        """There is progress: a chunk that took so many seconds. What comes now is called `doing`."""
        self._longest = max(self._longest, took)
        self._doing, self._since = doing, time.monotonic()

    def _note(self, number: int, _: FrameType | None) -> None:
        """In the main thread, as soon as it is in Python again."""
        if self.by is None:
            self.by, self._first = signal.Signals(number), time.monotonic()
        elif self._again is None and self._is_second(number, time.monotonic() - self._first):
            self._again = signal.Signals(number)
            raise Interrupted(self._again)

    def _is_second(self, number: int, after: float) -> bool:
        """`timeout` sends SIGTERM twice in a row, to the process and to its group: that is one."""
        return self._alone and (number == signal.SIGINT or (number == signal.SIGTERM and after > 0.5))

    def _watch(self) -> None:
        """The thread's life."""
        first, came, at_once = None, 0.0, math.inf
        told = 0.0
        while True:
            for number in os.read(self._heard, 64) if select.select([self._heard], [], [], 0.25)[0] else b"":
                now = time.monotonic()
                if number == 0:
                    return
                if first is None and number in self.STOP:
                    first, came = signal.Signals(number), now
                    self._say(f"{first.name}: the run ends after the update in progress, and saves; once more ends it at once")
                elif first is not None and at_once == math.inf and self._is_second(number, now - came):
                    first, at_once = signal.Signals(number), now + AT_ONCE
            now = time.monotonic()
            unheard = first not in (None, signal.SIGINT) and now > max(came, self._since) + self._allowed(GRACE)
            if unheard or now > at_once:
                self._end(first)
            silent = now - self._since
            if silent < told:
                told = 0.0
            if silent > max(self._allowed(PATIENCE), 4 * told):
                log.warning(f"{self._doing} has taken {silent:.0f} s so far, {self._where()}")
                told = silent

    def _allowed(self, least: float) -> float:
        return max(least, 10 * self._longest)

    def _where(self) -> str:
        """The innermost function of Python that the main thread is in."""
        frame = sys._current_frames()[self._main]
        return f"in {frame.f_code.co_name} ({os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno})"

    def _end(self, by: signal.Signals) -> None:
        from pgx.runs.recording import abandon_all

        self._say(f"{by.name}: {self._doing} does not end, {self._where()}: the process ends all the same")
        abandon_all(by)
        os._exit(128 + by)

    def _say(self, what: str) -> None:
        if self._alone:
            line = "\r\033[K" if os.isatty(2) else ""  # over the progress bar
            with contextlib.suppress(OSError):  # not print: the thread that hangs may be in it
                os.write(2, f"{line}pgx: {what}\n".encode())
