"""Hostile text, read again by an independent renderer."""

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tasks.reporting.markdown import escape_markdown, format_row

NAMES = [
    "<img src=http://page.example/x.png> <script>alert(1)</script> <!-- a -->",
    "[l](javascript:alert(8)) [l]: x [^1] <http://page.example>",
    "![i](http://page.example/x.png)",
    "&lt;b&gt; &#60; &amp; &",
    "**strong** _emphasis_ __init__ ~~gone~~ `code` ``",
    "ftp://page.example www.page.example WWW.page.example a@page.example",
    r"$HOME $(id) $x$ \$ \\ \| \<",
    "a | b",
    "snake_case_name",
    "größe 猫 🐈",
]
PARSER = MarkdownIt("js-default", {"html": True})


def find_text(tokens: list[Token], kind: str = "inline") -> list[str]:
    """The texts of the tokens, which must hold no markup."""
    inlines = [token for token in tokens if token.type == kind]
    assert {child.type for token in inlines for child in token.children or ()} <= {"text", "text_special"}
    return ["".join(child.content for child in token.children or ()) for token in inlines]


@pytest.mark.parametrize("name", NAMES)
def test_escape_markdown_shows_the_text_itself(name: str) -> None:
    assert find_text(PARSER.parse(f"# {escape_markdown(name)}")) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_format_row_keeps_its_cells(name: str) -> None:
    tokens = PARSER.parse("\n".join(["| x | y |", "| --- | --- |", format_row((name, 7))]))
    assert find_text(tokens) == ["x", "y", name, "7"]


@pytest.mark.parametrize("name", NAMES)
def test_escape_markdown_leaves_no_address_that_becomes_a_link_by_itself(name: str) -> None:
    escaped = escape_markdown(name).lower()
    assert not any(address in escaped for address in ("http://", "ftp://", "www.page", "a@page"))


def test_escape_markdown_is_one_printable_line_of_utf_8() -> None:
    name = "bad\n# \u2028title\x1b[2J\u202etxt \udce9"
    assert escape_markdown(name) == r"bad # title\\x1b\[2J\\u202etxt \\udce9"
    assert find_text(PARSER.parse(escape_markdown(name))) == [r"bad # title\x1b[2J\u202etxt \udce9"]


def test_escape_markdown_leaves_ordinary_text_readable() -> None:
    text = "+4.21% on validation (p = 8.3e-11, required: 0.0066 at look 1 of a year); see val_accuracy"
    assert escape_markdown(text) == text
