"""Each exercise takes its right answer, and gives each typical wrong answer a hint of its own."""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.exercises.catalog import MODULES, load_exercise
from tasks.exercises.checking import check_answer
from tests.tasks.exercises import more_wrong_answers, wrong_answers

WRONG_ANSWERS: dict[str, list[tuple[str, str]]] = {
    name: getattr(wrong_answers, name.upper(), None) or getattr(more_wrong_answers, name.upper())
    for name in MODULES
}


def write_answer(name: str, body: str) -> Callable[..., Any]:
    """Make a learner's function, with the parameters of the exercise, from its body."""
    parameters = ", ".join(inspect.signature(load_exercise(name).reference).parameters)
    names: dict[str, Any] = {}
    exec(f"import math\ndef {name}({parameters}):\n{textwrap.indent(body, '    ')}", names)
    answer: Callable[..., Any] = names[name]
    return answer


def list_wrong_answers() -> Iterator[Any]:
    for name, answers in WRONG_ANSWERS.items():
        for body, hint in answers:
            yield pytest.param(name, body, hint, id=f"{name}-{hint.replace(' ', '_')}")


@pytest.mark.parametrize(("name", "body", "hint"), list(list_wrong_answers()))
def test_each_wrong_answer_gets_its_own_hint(name: str, body: str, hint: str) -> None:
    verdict = check_answer(load_exercise(name), write_answer(name, body))
    assert verdict.state == "wrong"
    assert hint in verdict.hint
    others = [other for _, other in WRONG_ANSWERS[name] if other != hint]
    assert not [other for other in others if other in verdict.hint]


def test_every_hint_has_a_wrong_answer_and_there_are_more_than_sixty() -> None:
    for name, answers in WRONG_ANSWERS.items():
        for hint in load_exercise(name).mistakes:
            assert [part for _, part in answers if part in hint], hint
            assert len(hint) <= 110, hint
    assert sum(map(len, WRONG_ANSWERS.values())) > 60


@pytest.mark.parametrize("name", MODULES)
def test_reference_passes(name: str) -> None:
    exercise = load_exercise(name)
    assert exercise.name == name
    assert check_answer(exercise, exercise.reference).state == "solved"
