"""Errors that a user can cause have a message of one or two lines: what is wrong, and what to do.

The command line prints the message without a traceback.
"""

import difflib
from collections.abc import Iterable


class RunError(Exception):
    """The run failed, and the message says why: exit code 1."""

    exit_code = 1


class InputError(RunError):
    """The input was wrong: exit code 2."""

    exit_code = 2


def describe_os_error(error: OSError, unnamed: str = "a file") -> str:
    """Describe the error in one line, as in `cannot read or write FILE: No space left on device`.

    `unnamed` stands for the file if the error does not name it.
    """
    return f"cannot read or write {error.filename or unnamed}: {error.strerror or error}"


def escape_unprintable(text: str) -> str:
    """Escape what is not printable, so that the text is one line in any terminal, log and file.

    The name of a file or of a class may hold characters that move a cursor, end a line or change the
    direction of writing, and bytes that are not UTF-8, which Python represents as surrogates.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe_syntax_error(error: SyntaxError) -> str:
    """Say in one line where Python code has a syntax error."""
    return f"{error.filename}, line {error.lineno}: {error.msg}"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown word: `did you mean train?`, or else a list of the known words."""
    known = list(known)
    matches = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {matches[0]}?" if matches else f"choose one of {', '.join(known)}"
