"""Errors that a user can cause: one or two lines that say what was wrong and what to do, no traceback."""

import difflib
from collections.abc import Iterable


class RunError(Exception):
    """The run failed, and the message says why: exit code 1."""

    exit_code = 1


class InputError(RunError):
    """The input was wrong: exit code 2."""

    exit_code = 2


def describe_os_error(error: OSError, unnamed: str = "a file") -> str:
    """`cannot read or write FILE: No space left on device`, in one line."""
    return f"cannot read or write {error.filename or unnamed}: {error.strerror or error}"


def escape_unprintable(text: str) -> str:
    """The text in one line that any terminal, log and file takes.

    The name of a file or of a class may hold what moves a cursor, ends a line or changes the direction of
    writing, and bytes that are no UTF-8, which Python reads as surrogates.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe_syntax_error(error: SyntaxError) -> str:
    """Where a project's code cannot be read, in one line."""
    return f"{error.filename}, line {error.lineno}: {error.msg}"


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: `did you mean train?`, or a list of the known ones."""
    known = list(known)
    matches = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {matches[0]}?" if matches else f"choose one of {', '.join(known)}"
