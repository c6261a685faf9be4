"""Text with `code` in backticks, as help texts and messages have it, for pages."""

from __future__ import annotations

import json
import re

from markupsafe import Markup, escape

from ladle_contracts.safe_text import for_terminal
from ladle_service.pages.formulas import mathml

_CODE = re.compile(r"(`[^`\n]+`)")


def ticks(text: object) -> Markup:
    """The same with `<code>`. Everything else stays text."""
    parts = (
        Markup("<code>{}</code>").format(part[1:-1]) if _CODE.fullmatch(part) else escape(part)
        for part in _CODE.split(for_terminal(str(text)))
    )
    return Markup().join(parts)


def as_json(value: object) -> str:
    """A default as it would be typed."""
    return json.dumps(value, ensure_ascii=False)


def flops(per_second: float) -> str:
    """`50 TFLOP/s`"""
    return f"{per_second / 1e12:.3g} TFLOP/s" if per_second >= 1e12 else f"{per_second / 1e9:.3g} GFLOP/s"


FILTERS = {"ticks": ticks, "mathml": mathml, "as_json": as_json, "flops": flops}
