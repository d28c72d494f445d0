"""Files on disk: writing them atomically, and finding those that ship with the package."""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Failures to write that are about one file's name. Any other would meet every file after it too.
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL)

_PACKAGE = Path(__file__).resolve().parent


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it once the block has succeeded.

    A reader, or a process killed at any moment, sees either the old file or the whole new one.
    When the block raises, the temporary file is removed and `path` stays as it was.

    Example:
        >>> with atomic_write("mask.json") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with temporary.open("xb") as file:  # with the rights that any new file here has
        mode = os.fstat(file.fileno()).st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some writers replace the file by a private one
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, record: Any) -> None:
    """Write a record whole or not at all, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def resource(name: str) -> Path:
    """The path of a file that the project keeps at its top level and the wheel ships inside.

    Args:
        name: Path from the project's top, such as ``model_card.md`` or ``space/app.py``.

    Raises:
        FileNotFoundError: Neither an installed package nor a checkout holds it.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{name} is missing from this installation of fcn-hub.")
