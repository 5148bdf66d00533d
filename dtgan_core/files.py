"""Files that a kill, a full disk or a power cut never leaves half written, and what they hold."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import os
import reprlib
import shutil
import stat
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

#: Bytes of one file that is read whole; an uncompressed picture of 100 megapixels in 16-bit grey
#: has 200 million.
LARGEST_FILE = 256 * 2**20
NO_PLAIN_FILE = "a pipe, socket, device or folder, expected a plain file"


def write_atomic(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Put a file under its final name, in a folder that exists, only when it is whole and on disk.

    `data` is the bytes, or a function that writes them to an open binary file. OSError: the disk is
    full or the folder cannot be written; whatever stood there before is untouched.
    """
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files; data sets are meant to be shared
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file found it full
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all (see `write_atomic`)."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """What a JSON file holds; FileNotFoundError or ValueError where there is none."""
    try:
        return json.loads(read_plain(path))
    except FileNotFoundError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear_temporary(*folders: Path, name: str = "") -> None:
    """Remove what a kill has left half written by `write_atomic` directly in these folders.

    Nobody else writes into them; they may be missing. `name` is that of the one file meant.
    """
    for folder in folders:
        for left in folder.glob(f".{glob.escape(name)}*.tmp"):
            remove(left)


def sync_folder(folder: Path) -> None:
    """Flush a folder's directory entry to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_plain(path: Path | str) -> io.BufferedReader:
    """Open a file to read its bytes; OSError: missing, or a pipe or device without an end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, NO_PLAIN_FILE, str(path))
    return open(path, "rb")


def read_plain(path: Path | str) -> bytes:
    """The bytes of a plain file, as `open_plain` gives it; OSError: over `LARGEST_FILE`."""
    with open_plain(path) as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise OSError(errno.EINVAL, f"more than {LARGEST_FILE:,} bytes, expected fewer", str(path))
    return data


def folded(name: str) -> str:
    """Names that give the same text are one file on disks that ignore case or kinds of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _label(name: str) -> str:
    """Labels become folders on any disk, and cells of tables that spreadsheets must not run."""
    odd = not name.isprintable() or any(sign in name for sign in '/\\:*?"<>|')
    if odd or not name.strip() or name.startswith((".", "=", "+", "-", "@")):
        raise ValueError(f"{name!r} cannot be a folder name or a cell of a CSV")
    return name


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    counts = Counter(map(folded, names))
    for name in names:
        if counts[folded(name)] > 1:
            raise ValueError(f"found {name!r} {counts[folded(name)]} times, expected once")
    return names


_Label = Annotated[str, AfterValidator(_label)]
Names = Annotated[tuple[_Label, ...], Field(min_length=1), AfterValidator(_each_once)]


def shown(name: str) -> str:
    """A name as it can be printed and stored as UTF-8: odd characters become escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in name
    )


def typed(value: Any, kind: Any, name: str = "") -> Any:
    """A value that was read from a file as a type, or a ValueError that names its field.

    `kind` is what pydantic takes: a plain type, a dataclass (missing fields take their defaults,
    groups must be there, unknown ones are refused) or a TypedDict (keys may stand beside its own).
    Nothing is converted but lists to tuples and whole numbers to float; NaN and infinity are
    refused. `name` is that of the field, such as "config.model"; empty for the whole file.
    """
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        for item in fields(kind):
            if is_dataclass(hints[item.name]) and item.name not in value:
                raise ValueError(f"found no {name}.{item.name}, expected it there")
    found = problems(value, kind, name)
    if found:
        raise ValueError(found[0])
    return _adapter(kind).validate_json(_json(value))[0]


def problems(value: Any, kind: Any, name: str = "") -> list[str]:
    """All that `typed` would refuse a value for, a line each."""
    try:
        _adapter(kind).validate_json(_json(value))
    except ValidationError as errors:
        return [_told(error, name, kind) for error in errors.errors(include_url=False)]
    return []


_WORDS = {
    **{"int": "a whole number", "string": "a text", "bool": "true or false"},
    **dict.fromkeys(("float", "finite"), "a finite number"),
    **dict.fromkeys(("list", "tuple"), "a list"),
    **dict.fromkeys(("dict", "dataclass"), "an object of named fields"),
}


def _told(error: Any, name: str, kind: Any) -> str:
    """One finding of pydantic in our words."""
    path, problem = error["loc"][1:], error["type"]
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    if problem == "missing":
        return f"found no {name}, expected it there"
    if problem == "unexpected_keyword_argument":
        for part in path[:-1]:
            kind = get_type_hints(kind)[part]
        names = ", ".join(item.name for item in fields(kind))
        return f"found an unknown field {name}, expected of {names}"
    if problem == "value_error":  # raised by a dataclass or a validator of ours
        return f"{name or 'it'}: {error['ctx']['error']}"
    expected = _WORDS.get(problem.partition("_")[0], error["msg"].removeprefix("Input should be "))
    return f"found {name or 'in it'} = {reprlib.repr(error['input'])}, expected {expected}"


def _json(value: Any) -> str:
    """A list with the value; in a list, since pydantic would else refuse the configuration."""
    return json.dumps([value], default=str)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    extra: Literal["allow", "forbid"] = "allow" if is_typeddict(kind) else "forbid"
    config = ConfigDict(strict=True, extra=extra, allow_inf_nan=False)
    return TypeAdapter(tuple[kind], config=config)
