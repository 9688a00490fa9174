"""Which code ran."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

from pruner.runtime.distributed import of_first

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1]


@of_first
def commit_of(package: str | Path = PACKAGE) -> str:
    """The git commit of the source tree that holds the `package` folder, with `-dirty` when its code differs.

    Empty when there is no such tree, no git, or the package is merely installed somewhere inside another
    repository. Code is the package and the conf folder beside it; results that changed do not count. Never raises.
    """
    package = Path(package).resolve()
    tree = package.parent
    top, _, commit = (_git(tree, "rev-parse", "--show-toplevel", "HEAD") or "").partition("\n")
    if not commit or Path(top).resolve() != tree:
        return ""
    clean = _git(tree, "status", "--porcelain", "--", package.name, "conf") == ""
    return commit if clean else f"{commit}-dirty"


def _git(tree: Path, *arguments: str) -> str | None:
    """What git prints, None when it fails or takes too long."""
    # Inside a git hook these variables point at whatever repository the hook runs for.
    environment = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    command = ["git", "--no-optional-locks", "-C", str(tree), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, env=environment)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        log.debug("no commit: %s", error)
        return None
    return done.stdout.strip() if done.returncode == 0 else None
