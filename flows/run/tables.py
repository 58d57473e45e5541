"""A table that a flow shows twice: as text on the terminal, and as Markdown in a Prefect artifact."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable

from tasks.reporting.markdown import format_row


@dataclass(frozen=True)
class Table:
    """A table of numbers, shown with six significant digits, and of strings, shown unchanged.

    A column of numbers is aligned right, and so is one that `right` names.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    right: Collection[str] = ()

    def as_text(self) -> str:
        table = RichTable(*self.columns, box=None, pad_edge=False)
        for row in self._cells():
            table.add_row(*row)
        for column, is_right in zip(table.columns, self._alignments(), strict=True):
            column.justify = "right" if is_right else "left"
        console = Console(width=120, color_system=None, markup=False, emoji=False)
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def as_markdown(self) -> str:
        rule = ["---:" if is_right else "---" for is_right in self._alignments()]
        return "\n".join(map(format_row, [self.columns, rule, *self._cells()]))

    def _cells(self) -> list[list[str]]:
        return [[cell if isinstance(cell, str) else f"{cell + 0.0:.6g}" for cell in row] for row in self.rows]

    def _alignments(self) -> list[bool]:
        """Say for each column whether it is aligned right."""
        return [
            name in self.right or not any(isinstance(row[index], str) for row in self.rows)
            for index, name in enumerate(self.columns)
        ]
