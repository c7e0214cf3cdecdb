"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file through a temporary one in the same folder, so that `path` is never half a file."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it first", str(path.parent))
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
