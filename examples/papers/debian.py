"""Debian's descriptions of packages: in two languages, and by section.

`apt-get update` fetches the lists into the cache; the system's own are left alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from places import CACHE, made_once

Description = tuple[str, ...]
"""The title, then the paragraphs, each on one line."""


def descriptions(language: str) -> dict[str, Description]:
    """By key: the MD5 of the English text, whatever the language."""
    found = {}
    for stanza in _stanzas(_list_file(f"*_main_i18n_Translation-{language}.lz4")):
        text = stanza.get(f"Description-{language}")
        if text is not None:
            found[stanza["Description-md5"]] = _paragraphs(text)
    return found


def parallel(source: str, target: str) -> dict[str, list[tuple[str, str]]]:
    """By key, the pairs of paragraphs of each description that has as many in both languages.

    No pair is there twice, and none whose two sides are equal.
    """
    sources, targets = descriptions(source), descriptions(target)
    seen: set[tuple[str, str]] = set()
    found: dict[str, list[tuple[str, str]]] = {}
    for key, paragraphs in sources.items():
        others = targets.get(key, ())
        if len(others) != len(paragraphs):
            continue
        pairs = [pair for pair in zip(paragraphs, others, strict=True) if pair[0] != pair[1] and pair not in seen]
        seen.update(pairs)
        if pairs:
            found[key] = list(dict.fromkeys(pairs))
    return found


def sections() -> list[tuple[str, str, str]]:
    """Source package, section and English description of every package, one row for each different description.

    Packages of one source are alike, so sets are to be divided by source.
    """
    texts = descriptions("en")
    rows = {}
    for stanza in _stanzas(_list_file("*_main_binary-amd64_Packages.lz4")):
        key = stanza.get("Description-md5")
        if key in texts and "Section" in stanza:
            source = stanza.get("Source", stanza["Package"]).split()[0]
            rows[key] = (source, stanza["Section"], " ".join(texts[key]))
    return list(rows.values())


def _list_file(pattern: str) -> Path:
    """The largest: updates and security have lists of their own."""
    found = list(made_once(CACHE / "packages" / "apt-lists", _update).glob(pattern))
    if not found:
        raise SystemExit(f"No file `{pattern}` among apt's lists: apt must be set up with a Debian mirror.")
    return max(found, key=lambda path: path.stat().st_size)


def _update(folder: Path) -> None:
    lists = folder.resolve()
    (lists / "partial").mkdir()
    configuration = lists / "apt.conf"
    configuration.write_text(
        f'#clear Acquire::Languages;\nAcquire::Languages {{ "en"; "it"; }};\nDir::State::lists "{lists}";\n'
    )
    try:
        subprocess.run(["apt-get", "-c", str(configuration), "update"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit("`apt-get update` must be able to fetch Debian's lists, but failed.") from error


def _stanzas(path: Path) -> Iterator[Mapping[str, str]]:
    """Field -> value, the lines of which are joined by line ends."""
    read = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
    text = subprocess.run(read, check=True, capture_output=True).stdout.decode()
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith(" "):
                fields[name] += f"\n{line}"
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def _paragraphs(text: str) -> Description:
    title, *lines = text.splitlines()
    paragraphs = "\n".join(line[1:] for line in lines).split("\n.")
    joined = (" ".join(paragraph.split()) for paragraph in (title, *paragraphs))
    return tuple(paragraph for paragraph in joined if paragraph)
