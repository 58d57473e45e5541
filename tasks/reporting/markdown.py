"""Escape text from outside for Markdown, which Prefect's artifacts and forms and pull requests render.

The names of files and classes, reasons and messages may hold any characters, which are then shown as they
are.
"""

import re
from collections.abc import Iterable

from tasks.workspace.errors import escape_unprintable

# These are the markup of CommonMark, the borders of table cells, formulas, and what GitHub turns into a link
# without any markup. An underscore between letters is no markup.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    """Return the text in one line, escaped so that Markdown shows it unchanged, also in a table's cell."""
    return _MARKUP.sub(r"\\\g<0>", escape_unprintable(" ".join(text.split())))


def format_row(cells: Iterable[object]) -> str:
    """Return a row of a Markdown table whose cells show plain text."""
    return f"| {' | '.join(escape_markdown(str(cell)) for cell in cells)} |"
