"""Folders of PGX_CONFIG_DIR stand on the search path of every command. Hydra looks for such plugins in this package."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class PgxSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from pgx.declared import FOLDERS, declared_folders

        for folder in declared_folders():
            search_path.append(FOLDERS, f"file://{folder}")
