"""What libraries say while they are imported or set up: it goes into the run's log, and not on the terminal."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from functools import cache


@contextlib.contextmanager
def to_log(library: str) -> Iterator[None]:
    """What is printed in here by Python, and every warning, becomes lines of the log."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
    finally:
        for line in [*said.getvalue().splitlines(), *(str(warning.message) for warning in warned)]:
            note(library, line)


def mujoco_to_log() -> None:
    """By itself MuJoCo writes its warnings on the terminal and, wherever it is called, into a file MUJOCO_LOG.TXT."""
    import mujoco

    mujoco.set_mju_user_warning(_of_mujoco)


@cache  # once a message: every lane has the same
def note(library: str, message: str) -> None:
    logging.getLogger("pgx").debug(f"{library}: {' '.join(message.split())}")


def _of_mujoco(message: str) -> None:
    note("MuJoCo", message)
