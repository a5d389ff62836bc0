"""The status of a sweep: `python -m pgx.sweep status SWEEP_DIR`. Exit code 1 if any member failed."""

import sys
from pathlib import Path

from pgx.errors import ConfigError
from pgx.gate import one_line_errors
from pgx.runs.restore import Parser
from pgx.streams import tolerant_streams
from pgx.sweep import index, ledger


def main() -> None:
    parser = Parser(prog="python -m pgx.sweep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="the table of a sweep's members; writes SWEEP_DIR/ledger.csv")
    status.add_argument("folder", metavar="SWEEP_DIR", type=Path)
    with tolerant_streams(), one_line_errors():
        folder = parser.parse_args().folder
        sweep = index.Index(folder)
        if not sweep.runs:
            what = f"{folder} holds no sweep and no run" if folder.is_dir() else f"there is no folder {folder}"
            raise ConfigError("SWEEP_DIR", what)
        if sweep.there:
            sweep.tell()
        sys.exit(ledger.show(sweep))


if __name__ == "__main__":
    main()
