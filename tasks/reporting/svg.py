"""Write figures as SVG that is readable in light and dark and on a phone; the toys use it as well.

Figures are drawn in the colors of the light theme, which CSS variables then replace. A standalone figure (in
the README, in `dvc plots`) brings both themes with it; a figure inside a page takes the theme of the page.
"""

import io
import re
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # A page without figures need not wait for Matplotlib.
    from matplotlib.figure import Figure

LIGHT = {"ink": "#1b2230", "muted": "#5a6473", "line": "#d8dde5", "paper": "#fdfdfe", "blue": "#2361b5"}
LIGHT |= {"orange": "#b4530a"}
DARK = {"ink": "#e7eaf0", "muted": "#a0a9b8", "line": "#323a49", "paper": "#12161e", "blue": "#7db2ff"}
DARK |= {"orange": "#ffac5c"}
INK, MUTED, LINE, PAPER, BLUE, ORANGE = LIGHT.values()

# XML 1.0 has no way to write these characters, which names of classes may contain.
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WIDTH = 340 / 72  # inches: the width of a phone's screen, so that text keeps its size there
STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # matplotlib measures text by this font; the reader sees another
    "text.parse_math": False,  # a class may be named $x$
    "svg.fonttype": "none",
    "svg.hashsalt": "cifarflow",  # equal figures have equal bytes
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


def theme_css(selector: str) -> str:
    """Return the CSS variables of both themes for the elements that `selector` selects."""

    def declare(theme: dict[str, str]) -> str:
        return f"{selector}{{{''.join(f'--{name}:{value};' for name, value in theme.items())}}}"

    return f"{declare(LIGHT)}@media (prefers-color-scheme:dark){{{declare(DARK)}}}"


def render_svg(figure: "Figure") -> str:
    """Render the figure as a standalone SVG file."""
    return make_standalone(render_svg_element(figure))


def make_standalone(svg: str) -> str:
    """Turn an SVG element into a file with its own background, which light and dark pages may show."""
    style = f"<style>{theme_css(':root')}:root{{background:var(--paper)}}</style>"
    return svg.replace(">", f">{style}", 1) + "\n"


def render_svg_element(figure: "Figure") -> str:
    """Render the figure as an SVG element for a page that declares the variables of `theme_css`."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # The font lacks most of the world's letters, but it only measures text; the reader's fonts show it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # It would apply to the whole page.
    svg = NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: _adapt_tag(tag[0]), svg)  # The text stays as it is.
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _adapt_tag(tag: str) -> str:
    """Give a tag the page's colors and fonts, and remove an identifier that another figure may have, too."""
    tag = re.sub(r' id="[\w.]+_\d+"', "", tag)
    tag = tag.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    for name, color in LIGHT.items():
        tag = tag.replace(color, f"var(--{name})")
    return tag
