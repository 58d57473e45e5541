"""Recognize a lack of memory, which libraries report in many ways."""

import errno

# The dynamic loader raises ImportError, and PyTorch and ONNX Runtime raise RuntimeError.
LACKS = (MemoryError, ImportError, RuntimeError)
"""what may be raised where memory is missing, beside OSError; each may mean something else as well"""
SIGNS = (
    "failed to map segment",
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "out of memory",
    "bad allocation",
    "bad_alloc",
    "can't start new thread",
)


def describe_lack_of_memory(error: BaseException) -> str | None:
    """Describe the error in one line if memory was missing; return None for any other error."""
    text = " ".join(str(error).split())
    is_sign = isinstance(error, ImportError | RuntimeError | OSError) and any(
        sign in text.lower() for sign in SIGNS
    )
    if not (is_sign or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM):
        return None
    reason = f" ({text[:200]})" if text else ""
    return f"not enough memory{reason}; free some, or raise the limit (ulimit -v, or the container's)"
