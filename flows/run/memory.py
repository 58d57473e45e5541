"""What a lack of memory looks like: libraries report it in many ways, and none is a bug of the code."""

import errno

# In the texts of ImportError (the dynamic loader's), RuntimeError (PyTorch's and ONNX Runtime's) and OSError.
LACKS = (MemoryError, ImportError, RuntimeError)
"""what else may be raised where memory is missing, beside OSError; each may mean something else as well"""
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
    """One line, where memory is what was missing; None for any other error."""
    text = " ".join(str(error).split())
    is_sign = isinstance(error, ImportError | RuntimeError | OSError) and any(
        sign in text.lower() for sign in SIGNS
    )
    if not (is_sign or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM):
        return None
    reason = f" ({text[:200]})" if text else ""
    return f"not enough memory{reason}; free some, or raise the limit (ulimit -v, or the container's)"
