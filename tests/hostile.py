"""Text that tries to do more than be read, for every place that shows what somebody else chose."""

from __future__ import annotations

import unicodedata

FORGED = "FORGED-LINE"
HOSTILE = (
    "run\x1b]8;;https://evil.example\x07click\x1b]8;;\x07\x1b[2J\x9b31m\x7f\x00\x08\u202egnp\u2066\u200b\u2028"
    f"`*[a](https://evil.example)*`<script>alert(1)</script>|x|\r\n{FORGED}\n# {FORGED}\ttab"
)
NOT_UTF8 = "run-\udcff\udc80"
"""What Python makes of a file name that is not UTF-8."""
HARMLESS = "größe/模型/модель/מודל/نموذج/می‌خواهم/🧑🏽‍🚀/❤️‍🔥"
"""Names in several scripts, with the joiners that they need."""


def unsafe_in(text: str, but: str = "\n") -> set[str]:
    """The characters of `text` that a terminal would obey, hide or reorder by."""
    joined = text.replace("خواهم", "").replace("می\u200c", "").replace("🧑🏽\u200d🚀", "").replace("❤️\u200d🔥", "")
    return {char for char in joined if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set(but)
