"""`check_answer` compares a learner's function with the reference on some numbers, and names the mistake.

An exercise knows wrong formulas that people write, each with its hint. Where an answer equals a wrong formula
on all numbers, its hint is given; otherwise the first number that differs is shown.
"""

import contextlib
import copy
import inspect
import io
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tasks.workspace.errors import escape_unprintable

MAX_SHOWN = 200  # characters of a value or of a printed line
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-6, 1e-9


class AnswerError(Exception):
    """The answer has a form that the exercise cannot judge; the message is the hint."""


class TimeLimitError(BaseException):
    """The answer takes too long; this is no `Exception`, so that `except Exception` in it lets it pass."""


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    state: str
    """solved, wrong, or not begun"""
    hint: str = ""
    """one line that names the mistake"""
    evidence: str = ""
    """a call, what it should give and what it gives"""
    printed: str = ""
    """what the answer printed"""


def call(function: Callable[..., Any], *case: Any) -> Any:
    return function(*case)


@dataclass(frozen=True)
class Exercise:
    """A function to write, with numbers to try it on."""

    reference: Callable[..., Any]
    """the right function; its name is that of the exercise"""
    cases: Sequence[tuple[Any, ...]]
    """the arguments of each call"""
    mistakes: Mapping[str, Callable[..., Any]]
    """for each hint, the wrong function that it is about; a function that raises has no value in that case"""
    observe: Callable[..., Any] = call
    """how numbers are got from a function and a case, where a call does not return them"""

    @property
    def name(self) -> str:
        return self.reference.__name__


@dataclass(frozen=True)
class Failure:
    """The answer ended with an error instead of a value."""

    hint: str


def check_answer(exercise: Exercise, answer: Callable[..., Any], limit_s: float | None = None) -> Verdict:
    """Judge `answer`, a function, which may raise, print, or run too long; at most `limit_s`, where given."""
    output = io.StringIO()
    values = []
    try:
        with contextlib.redirect_stdout(output), limit_time(limit_s):
            for case in exercise.cases:
                values.append(_evaluate(exercise, answer, case))  # noqa: PERF401 - the limit may end the loop
    except NotImplementedError:
        return Verdict("not begun")
    except TimeLimitError as error:
        return Verdict("wrong", describe_error(error, answer.__code__.co_filename))
    printed = output.getvalue()
    expected = [exercise.observe(exercise.reference, *copy.deepcopy(case)) for case in exercise.cases]
    wrong = [i for i, value in enumerate(values) if not _is_close(value, expected[i])]
    if not wrong:
        return Verdict("solved", printed=printed)
    hint = _find_mistake(exercise, values)
    if hint:
        return Verdict("wrong", hint, _describe_case(exercise, wrong[0], values, expected), printed)
    # The first case that fails says most; an error is said only where no value is wrong before it.
    first = wrong[0]
    hint = _describe_form(values[first], expected[first], has_printed=bool(printed))
    return Verdict(
        "wrong", hint or "The numbers differ.", _describe_case(exercise, first, values, expected), printed
    )


def _evaluate(exercise: Exercise, answer: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    arguments = copy.deepcopy(case)
    try:
        value = _to_numbers(exercise.observe(answer, *arguments))
    except NotImplementedError:
        raise
    except AnswerError as error:
        return Failure(str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a learner's function may raise
        return Failure(describe_error(error, answer.__code__.co_filename))
    if exercise.observe is call:
        for name, before, after in zip(
            inspect.signature(exercise.reference).parameters, case, arguments, strict=True
        ):
            if not callable(before) and before != after:
                return Failure(
                    f"It changes its argument {name}, which belongs to the caller: make a new list."
                )
    return value


def _to_numbers(value: Any) -> Any:
    """Turn arrays and tensors into lists, and tuples as well, since either is right."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_to_numbers(item) for item in value] if isinstance(value, list | tuple) else value


def _find_mistake(exercise: Exercise, values: list[Any]) -> str:
    """Return the hint of the wrong function that gives these values; empty if none does."""
    for hint, function in exercise.mistakes.items():
        found = False
        for case, value in zip(exercise.cases, values, strict=True):
            try:
                wrong_value = exercise.observe(function, *copy.deepcopy(case))
            except (ArithmeticError, LookupError, ValueError):
                continue  # The function has no value here, so it can tell nothing.
            if not _is_close(value, _to_numbers(wrong_value)):
                break
            found = True
        else:
            if found:
                return hint
    return ""


def _is_close(value: Any, expected: Any) -> bool:
    if isinstance(expected, list | tuple):
        return (
            isinstance(value, list) and len(value) == len(expected) and all(map(_is_close, value, expected))
        )
    return _is_number(value) and math.isclose(
        value, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe_form(value: Any, expected: Any, *, has_printed: bool) -> str:
    """Say what is wrong with the kind of value; empty if only its numbers are wrong."""
    if isinstance(value, Failure):
        return value.hint
    if value is None:
        if has_printed:
            return "It prints its answer and returns nothing: write `return` in place of `print`."
        return "It returns nothing: the last line of a function is `return` and the value."
    if _form(value) == _form(_to_numbers(expected)):
        return ""
    return f"It should return {_form(_to_numbers(expected))}, not {_form(value)}."


def _form(value: Any) -> str:
    if not isinstance(value, list):
        return "a number" if _is_number(value) else f"a value of the type {type(value).__name__}"
    if not value:
        return "an empty list"
    forms = {_form(item) for item in value}
    if forms == {"a number"}:
        return f"a list of {len(value)} {'numbers' if len(value) > 1 else 'number'}"
    if len(forms) == 1:
        return f"a list of {len(value)} items, each {forms.pop()}"
    return f"a list of {len(value)} unlike items"


def _describe_case(exercise: Exercise, index: int, values: list[Any], expected: list[Any]) -> str:
    """Write `neuron([1, 2], [3, 4], 0.5) should be 0.62, and is 0.3`; empty where nobody could read it."""
    if exercise.observe is not call:
        return ""
    arguments = ", ".join(map(_write, exercise.cases[index]))
    should = f"{exercise.name}({arguments}) should be {_write(_to_numbers(expected[index]))}"
    if isinstance(values[index], Failure) or values[index] is None:
        return should
    return f"{should}, and is {_write(values[index])}"


def _write(value: Any) -> str:
    """Write a value in one line, numbers with six significant digits."""
    if isinstance(value, list):
        text = f"[{', '.join(map(_write, value))}]"
    elif callable(value):
        text = value.__name__
    elif _is_number(value):
        text = f"{value:.6g}"
    else:
        text = escape_unprintable(repr(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def describe_error(error: BaseException, file: str) -> str:
    """Say in one line what was raised, and in which line of `file`."""
    line, traceback = 0, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    place = f"Line {line}: " if line else ""
    match error:
        case TimeLimitError():
            return f"{place}it still runs after {error}; does a loop never end?"
        case SystemExit():
            return f"{place}it ends the program; a function ends with `return`."
        case EOFError():
            return f"{place}it asks for input; a function gets all that it needs as arguments."
        case RecursionError():
            return f"{place}it calls itself without an end."
        case MemoryError():
            return f"{place}it needs too much memory; does a list grow for ever?"
    text = " ".join(escape_unprintable(str(error).replace("\n", " ")).split())
    return f"{place}{type(error).__name__}: {text}"[:MAX_SHOWN]


@contextlib.contextmanager
def limit_time(seconds: float | None) -> Iterator[None]:
    """Raise `TimeLimitError` in the block after so many seconds, where the block runs Python code."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise TimeLimitError(f"{seconds:g} s")

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
