"""The errors a user can cause: one or two lines that say what was wrong and what to do, never a traceback."""


class RunError(Exception):
    """The run failed for a reason that its message explains: exit code 1."""

    exit_code = 1


class InputError(RunError):
    """What the user gave was wrong: exit code 2."""

    exit_code = 2
