"""Text from outside as Markdown: Prefect's artifacts and forms, and comments on pull requests, render it.

The names of files and classes, reasons and messages may hold anything. Escaped, they are shown as they are.
"""

import re
from collections.abc import Iterable

from tasks.workspace.errors import escape_unprintable

# Markup of CommonMark, the table cells of GitHub's Markdown, formulas, and what GitHub's Markdown makes a
# link without any markup. An underscore between letters is none.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    """The text in one line, so that Markdown shows it unchanged, in a cell of a table as well."""
    return _MARKUP.sub(r"\\\g<0>", escape_unprintable(" ".join(text.split())))


def format_row(cells: Iterable[object]) -> str:
    """A row of a table whose cells are plain text."""
    return f"| {' | '.join(escape_markdown(str(cell)) for cell in cells)} |"
