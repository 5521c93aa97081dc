"""What `make docs` does with the pages: formulas become MathML, which browsers show without a script, and links that
leave docs/ lead to pages made of the repository's other texts, or become the files' names."""

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "README.md",  # the project at a glance; on the site that is its first page
    "datasets/README.md": "datasets.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
"""Texts of the repository and the pages that they are on the site."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#:]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        if page != "README.md":
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to the repository's files into links to pages, or into the files' names."""
    place = page.file.src_uri
    source = next((text for text, made in PAGES.items() if made == place and made != "README.md"), f"docs/{place}")
    folder = posixpath.dirname(source)

    def turned(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            # What the first page of the repository says is not on the site's.
            found, anchor = PAGES[path], "" if path == "README.md" else anchor
        elif path.startswith("docs/") and files.get_file_from_path(path.removeprefix("docs/")):
            found = path.removeprefix("docs/")
        elif (ROOT / path).exists():
            return text if path in text else f"{text} (`{path}`)"
        else:
            return match[0]  # a strict build tells of it
        return f"[{text}]({posixpath.relpath(found, posixpath.dirname(place) or '.')}{anchor})"

    return with_formulas(LINK.sub(turned, markdown))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Give the theme's search dialog its name, for those who do not see it."""
    return output.replace('class="md-search"', 'class="md-search" aria-label="Search"', 1)


FORMULA = re.compile(r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|\$([^$\s][^$]*?)\$", re.DOTALL)


def with_formulas(markdown: str) -> str:
    """A text with its LaTeX, ``$inline$`` and ``$$on lines of its own$$``, as MathML; code stays."""

    def turned(match: re.Match[str]) -> str:
        code, alone, inline = match.groups()
        if code:
            return code
        formula = convert(" ".join((alone or inline).split()), display="block" if alone else "inline")
        return formula if alone else f"<span>{formula}</span>"  # else one at the start of a line is a paragraph

    return FORMULA.sub(turned, markdown)
