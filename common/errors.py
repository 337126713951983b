"""What a user can mend: an error that says what was wrong, where, and what to do.

A command prints the message of a `UserError` in one line and ends with status 2; anything else that is raised is a fault of
the code, and its traceback is shown. The kinds say which part of a user's input it was, for those who catch only one.
"""

import contextlib
from collections.abc import Iterator


class UserError(RuntimeError):
    """Any of these."""


class FileError(UserError):
    """A file that cannot be written; names it, and what was there is intact."""


class ModelError(UserError):
    """A model that cannot or must not be loaded: which, why, and what to do instead."""


class DataError(UserError):
    """A data file that is missing or not in the expected form; names it."""


class SetupError(UserError):
    """A training whose settings or checkpoint do not fit: which, and what to set instead."""


class TaskError(UserError):
    """A benchmark that cannot be run as asked: which, and why."""


class RecordError(UserError, ValueError):
    """A claim, record or result that is wrong: which file and field, and what to do."""


@contextlib.contextmanager
def needed(package: str, use: str) -> Iterator[None]:
    """Around the import of a package that a machine may lack. Raises SetupError that names it, what needs it, and the way out."""
    try:
        yield
    except ImportError as error:
        raise SetupError(f"{use} needs the package {package}, which cannot be imported here ({error}): pip install {package}") from error
