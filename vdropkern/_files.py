"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file through a temporary one in the same folder, so that `path` is never half a file.

    Raises:
        OSError: it cannot be written; names the file that was to be, whatever step failed.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it first", str(path.parent))
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as err:
        with contextlib.suppress(OSError):  # where nothing can be written nothing can be removed
            temporary.unlink(missing_ok=True)
        if (
            isinstance(err, OSError) and err.errno is not None
        ):  # a full disk's names no file, others the temporary one
            raise OSError(err.errno, err.strerror, str(path)) from err
        raise
