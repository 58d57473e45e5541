"""The errors a user can cause: one or two lines that say what was wrong and what to do, never a traceback."""

import difflib
from collections.abc import Iterable


class RunError(Exception):
    """The run failed for a reason that its message explains: exit code 1."""

    exit_code = 1


class InputError(RunError):
    """What the user gave was wrong: exit code 2."""

    exit_code = 2


def suggest(word: str, known: Iterable[str]) -> str:
    """What to offer for a word that is not known: `did you mean train?`, or all that are known."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"
