"""The course's answers are right, and what it names is there."""

import re

import pytest

from flows.cli.main import COMMANDS
from flows.toys.catalog import TOYS
from tasks.exercises.catalog import MODULES, load_exercise
from tasks.exercises.checking import check_answer
from tests.conftest import ROOT

COURSE = ROOT / "docs/course.md"


def read_answers() -> dict[str, str]:
    """The code of each folded answer, by the exercise; the last function of a block has its name."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", COURSE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return {re.findall(r"^def (\w+)", block, re.MULTILINE)[-1]: block for block in blocks}


def test_every_exercise_has_an_answer_and_a_command() -> None:
    text = COURSE.read_text(encoding="utf-8")
    assert list(read_answers()) == list(MODULES)
    assert re.findall(r"^cifarflow learn (\w+)$", text, re.MULTILINE) == list(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_answer_of_the_course_is_right(name: str) -> None:
    names: dict[str, object] = {}
    exec(read_answers()[name], names)
    answer = names[name]
    assert callable(answer)
    assert check_answer(load_exercise(name), answer).state == "solved"


def test_commands_pictures_and_links_exist() -> None:
    text = COURSE.read_text(encoding="utf-8")
    commands = re.findall(r"^cifarflow(?: -C \w+)? ([\w-]+)", text, re.MULTILINE)
    assert commands
    assert set(commands) <= COMMANDS.keys()
    assert set(re.findall(r"^cifarflow toys (\w+)", text, re.MULTILINE)) <= TOYS.keys()
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    assert links
    assert not [link for link in links if not (COURSE.parent / link).is_file()]
    assert "the slide" not in text


def test_every_chapter_has_something_to_see_and_an_answer() -> None:
    head, *chapters = re.split(r"^## ", COURSE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(chapters) == head.count("](#")
    for chapter in chapters:
        assert re.match(r"\d+\. .*\?\n", chapter), chapter[:40]
        assert "**What to see.**" in chapter
        assert "**Exercise.**" in chapter
        assert "</details>" in chapter
