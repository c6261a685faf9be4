"""Foreign text, made safe to show: names, paths, messages and log lines that somebody else chose.

A terminal obeys control characters, bidirectional marks reorder what a reader sees, and a newline begins a line that
looks like one of ours. Each such character becomes a visible escape, as in `\\x1b`. Letters of every script and emoji
stay. `ladle_contracts` and `ladle_report` have the same file, because the engine imports the second and not the first.
"""

from __future__ import annotations

import re

# Controls (C0, DEL, C1), and what is invisible or reorders: Unicode's categories Cf, Zl and Zp and the other characters
# of its property Default_Ignorable_Code_Point, without the variation selectors that emoji need; and lone surrogates,
# which stand for the bytes of a file name that is not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_BUT_NEWLINES = re.compile(f"(?![\n\t]){_UNSAFE.pattern}")
_JOINERS = "\u200c\u200d"


def one_line(text: str) -> str:
    """For what stands inside a line: newlines and tabs are escaped too."""
    return _UNSAFE.sub(_escaped, text)


def for_terminal(text: str) -> str:
    """For text of several lines, whose newlines and tabs are meant."""
    return _BUT_NEWLINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if char in _JOINERS and _joins(found.string, found.start()):
        return char
    return char.encode("unicode_escape", "surrogatepass").decode()


def _joins(text: str, index: int) -> bool:
    """Whether a joiner stands where some scripts and emoji need one: between two visible characters of theirs."""
    sides = text[max(0, index - 1) : index], text[index + 1 : index + 2]
    return all(side > "\u0590" and not _UNSAFE.match(side) for side in sides)
