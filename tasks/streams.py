"""Standard streams may be closed, full, or in an encoding that lacks characters; a run must not fail then."""

import os
import sys

DEFAULT_MODES = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def repair_standard_streams() -> set[str]:
    """Connect closed standard streams to the null device, and escape characters that cannot be encoded.

    Otherwise the next file that is opened would get the closed descriptor, and prints would go into it.
    Returns the names of the streams that were closed.
    """
    closed = set()
    for descriptor, name, mode in DEFAULT_MODES:
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
        if getattr(sys, name) is None:
            closed.add(name)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    return closed


def flush_standard_output() -> None:
    """Write what is buffered. On `OSError`, discard the rest, so that Python prints no error at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_standard_output()
        raise


def discard_standard_output() -> None:
    """Connect standard output to the null device, for a stream that can take no more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
