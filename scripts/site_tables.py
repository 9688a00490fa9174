"""For mkdocs: puts outputs/tables into the site as tables/, where the links of the pages then lead.

On a repository's pages the same links lead to the files themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

TABLES = "outputs/tables"


def on_files(files: Files, config: Any) -> Files:
    """Adds every file of outputs/tables; none of them is part of the navigation."""
    for path in sorted((Path(config["config_file_path"]).parent / TABLES).iterdir()):
        file = File.generated(config, f"tables/{path.name}", abs_src_path=str(path))
        file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links out of docs/ to outputs/tables, from whatever depth, as links to tables/."""
    return markdown.replace(f"../{TABLES}/", "tables/")
