"""HTML of small tables, for notebooks and pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a caption; every cell is escaped, and all but the first of a row are set to the right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(_cell(str(cell), first=not index) for index, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, *, first: bool) -> str:
    side = "left" if first else "right"
    return f'<td style="text-align:{side}">{escape(text)}</td>'
