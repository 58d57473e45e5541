"""Render the HTML pages, each of which is one file that needs no other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.reporting.svg import theme_css

TEMPLATE = Path(__file__).with_name("page.html")


def render_page(values: Mapping[str, Any], template: Path = TEMPLATE) -> str:
    """Render a template with values, which are escaped; a name without a value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([TEMPLATE.parent, template.parent]),  # base.html is in the first.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _format_percent
    environment.filters["number"] = _format_number
    environment.filters["inline"] = _inline_svg
    environment.globals["theme"] = Markup(theme_css(":root"))  # noqa: S704 - These are colors.
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def _format_percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def _format_number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _inline_svg(svg: str, label: str) -> Markup:
    """Embed a figure in the page, with a text for those who do not see it."""
    return Markup(svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))  # noqa: S704 - This project made it.
