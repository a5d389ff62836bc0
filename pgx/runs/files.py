"""Files that are replaced whole: after a crash there is the old one or the new one. Imports nothing of pgx."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Put `content` (text: in UTF-8) in the place of `path`. Never follows a link, neither there nor on the way."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # a second process may write the same file
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as file:  # exclusively: through a link it would write elsewhere
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
