"""GitHub's expressions, as far as our action and workflows use them. Whatever else is met is an error, not a guess.

https://docs.github.com/en/actions/reference/workflows-and-actions/expressions
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

HOLE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<name>[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)"
    r"|(?P<sign>\|\||&&|==|!=|!|\(|\)|,))"
)
#: Names of the contexts (`inputs`, `steps`, …) to nested mappings; the leaves are strings, booleans or None.
Contexts = Mapping[str, Any]


def interpolate(text: str, contexts: Contexts) -> str:
    """The text with the values of its `${{ … }}`, once: what a value holds is not looked at again."""
    return HOLE.sub(lambda hole: _text(evaluate(hole[1], contexts)), text)


def condition(text: str, contexts: Contexts) -> bool:
    """What an `if:` says; there `${{ }}` may be left out."""
    whole = HOLE.fullmatch(text.strip())
    return _truth(evaluate(whole[1] if whole else text, contexts))


def evaluate(expression: str, contexts: Contexts) -> Any:
    """The value of one expression. Raises ValueError on grammar, KeyError on names that are not known here."""
    reader = _Reader(expression, contexts)
    value = reader.either()
    if reader.tokens:
        raise ValueError(f"not understood from {reader.tokens[0][1]!r} on: {expression}")
    return value


class _Reader:
    """Reads an expression from left to right; each method reads one level of the grammar."""

    def __init__(self, expression: str, contexts: Contexts) -> None:
        self.contexts = contexts
        self.tokens: list[tuple[str, str]] = []
        place, end = 0, len(expression.rstrip())
        while place < end:
            found = TOKEN.match(expression, place)
            if not found:
                raise ValueError(f"not understood from {expression[place:]!r} on")
            self.tokens.append((str(found.lastgroup), str(found[str(found.lastgroup)])))
            place = found.end()

    def either(self) -> Any:
        value = self.both()
        while self.sign("||"):
            other = self.both()
            value = value if _truth(value) else other
        return value

    def both(self) -> Any:
        value = self.equal()
        while self.sign("&&"):
            other = self.equal()
            value = other if _truth(value) else value
        return value

    def equal(self) -> Any:
        value = self.one()
        if self.sign("=="):
            return _same(value, self.one())
        if self.sign("!="):
            return not _same(value, self.one())
        return value

    def one(self) -> Any:
        if self.sign("!"):
            return not _truth(self.one())
        if self.sign("("):
            value = self.either()
            self.need(")")
            return value
        kind, text = self.tokens.pop(0) if self.tokens else ("", "the end")
        if kind == "string":
            return text[1:-1].replace("''", "'")
        if kind == "name":
            return self.call(text) if self.sign("(") else self.look_up(text)
        raise ValueError(f"not expected here: {text}")

    def call(self, name: str) -> Any:
        given = []
        while not self.sign(")"):
            given.append(self.either())
            self.sign(",")
        return FUNCTIONS[name](self.contexts, *given)

    def look_up(self, name: str) -> Any:
        value: Any = self.contexts
        for part in name.split("."):
            if value is None:  # of nothing there is nothing, as on GitHub: github.event.issue.pull_request
                return None
            value = value[part]
        return value

    def sign(self, text: str) -> bool:
        found = bool(self.tokens) and self.tokens[0] == ("sign", text)
        if found:
            self.tokens.pop(0)
        return found

    def need(self, text: str) -> None:
        if not self.sign(text):
            raise ValueError(f"{text} is missing")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "always": lambda contexts: True,
    "cancelled": lambda contexts: contexts["job"]["cancelled"],
    "failure": lambda contexts: contexts["job"]["failed"],
    "success": lambda contexts: not contexts["job"]["failed"] and not contexts["job"]["cancelled"],
    "startsWith": lambda contexts, text, start: _text(text).lower().startswith(_text(start).lower()),
}


def _truth(value: Any) -> bool:
    return bool(value)


def _same(left: Any, right: Any) -> bool:
    """Strings are compared without case; other types must be the same, as nothing here is converted."""
    if isinstance(left, str) and isinstance(right, str):
        return left.lower() == right.lower()
    if left is None or right is None:  # null is '' there
        return _text(left) == _text(right)
    if type(left) is not type(right):
        raise ValueError(f"{left!r} and {right!r} have different types")
    return bool(left == right)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is no text")
