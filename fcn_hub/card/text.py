"""Text that is safe wherever a card puts it."""

import re
import shlex
import unicodedata
from typing import Any


class Markdown(str):
    """Text that is Markdown on purpose; every other value is escaped in the template."""


# What Markdown, HTML, math, emoji codes and automatic links are made of, inside a line. What has
# a meaning only at its beginning is harmless: the template puts no value there.
_MARKUP = re.compile(r"[#$&*:<>@\[\\\]_`|~]|(?<=www)\.", re.IGNORECASE)


def escape(value: Any) -> str:
    """A value as text on one line that no renderer of Markdown takes for markup."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", one_line(value))


def one_line(value: Any) -> str:
    """Text without line breaks, control characters or marks that turn the direction."""
    kept = [
        " " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
        for c in str(value)
        if not "\u202a" <= c <= "\u202e" and not "\u2066" <= c <= "\u2069"
    ]
    return " ".join("".join(kept).split())


def fenced(code: str, language: str) -> Markdown:
    """A block of code whose fence is longer than any within."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{code}\n{fence}")


def folded(command: str, width: int = 88) -> str:
    """A command line over several lines, one option or more on each."""
    try:
        words = [shlex.quote(word) for word in shlex.split(one_line(command))]
    except ValueError:
        return one_line(command)
    lines: list[str] = []
    options: list[str] = []  # each with its values
    for word in words:
        if word.startswith("--") or not options:
            options.append(word)
        else:
            options[-1] += f" {word}"
    for option in options:
        if lines and len(lines[-1]) + len(option) < width:
            lines[-1] += f" {option}"
        else:
            lines.append(option)
    return " \\\n    ".join(lines)


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
