"""Pages that the project writes: one HTML file each, that needs no server and nothing from elsewhere."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image

import eql_d2
from eql_d2.analysis.page_style import PAGE_STYLE


def html_page(title: str, parts: Iterable[str], tool: str, *, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        title: of the window, plain text.
        parts: of the body, HTML.
        tool: what made the page, plain text for its foot.
        style: CSS in addition to that of all pages.
        script: JavaScript to run when the page is there; it must not hold ``</script``.
    """
    made = f"eql_d2 {eql_d2.__version__}, {html.escape(tool)}, {datetime.now():%Y-%m-%d %H:%M}"
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{PAGE_STYLE}{style}</style></head>"
    )
    body = "\n".join([*parts, f'<footer class="soft">{made}</footer>'])
    ending = f"<script>{script}</script>\n" if script else ""
    return f"{head}\n<body>\n{body}\n{ending}</body></html>\n"


def html_table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = (), texts: Sequence[int] = ()
) -> str:
    """A table; cells are HTML already, columns of ``numbers`` are set flush right, those of ``texts`` may be long."""
    classes = ["number" if i in numbers else "text" if i in texts else "" for i in range(len(headers))]

    def row(tag: str, cells: Sequence[Any]) -> str:
        contents = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
        filled = (
            f'<{tag} class="{name}">{text}</{tag}>' if name else f"<{tag}>{text}</{tag}>"
            for name, text in zip(classes, contents, strict=True)
        )
        return f"<tr>{''.join(filled)}</tr>"

    body = "\n".join(row("td", cells) for cells in rows)
    return f'<div class="wide"><table><thead>{row("th", headers)}</thead><tbody>\n{body}\n</tbody></table></div>'


def picture_url(pixels: np.ndarray, quality: int = 75) -> str:
    """A picture as a data URL.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        quality: of its JPEG file, in [1, 95].
    """
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(memory.getvalue()).decode()}"
