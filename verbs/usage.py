"""A parser whose errors say what was meant: a usage of one line, and the option or verb that is nearest."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """As argparse's; what it says of wrong usage fits on three lines."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse, and remember the words for `error`."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def format_usage(self) -> str:
        """Return one line: the verb, what it cannot do without, and that there are options."""
        required = [a for a in self._actions if a.option_strings and a.required]
        positional = [a for a in self._actions if not a.option_strings]
        options = " [options]" if self._has_verbs() is None else ""
        parts = [f"{a.option_strings[0]} {_title(a)}" for a in required] + [_title(a) for a in positional]
        return f"usage: {self.prog}{options} {' '.join(parts)}\n"

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with the nearest word that would be right, and exit 2."""
        parser = self._parser_of_verb()
        unknown = parser.misspelt(self._words)
        hint = f"no option {unknown}{near(unknown, parser._option_string_actions)}" if unknown else ""
        verbs = self._has_verbs()
        if verbs is not None and self._words and self._words[0] not in verbs and not self._words[0].startswith("-"):
            hint = f"no verb {self._words[0]!r}{near(self._words[0], verbs)}"
        self.exit(2, f"{parser.format_usage()}{parser.prog}: error: {hint or message} ({parser.prog} --help has all)\n")

    def misspelt(self, words: Sequence[str]) -> str:
        """Return the first word that looks like an option and is none, nor the beginning of one."""
        options = self._option_string_actions
        for word in words:
            name = word.split("=")[0]
            if name == "--":
                break
            if name.startswith("--") and not any(option.startswith(name) for option in options):
                return name
        return ""

    def _has_verbs(self) -> dict[str, "Parser"] | None:
        found = [a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return found[0] if found else None

    def _parser_of_verb(self) -> "Parser":
        verbs = self._has_verbs() or {}
        return next((verbs[word] for word in self._words[:1] if word in verbs), self)


def near(word: str, known: Any) -> str:
    """Return a question that names the nearest known word, or nothing where none is near."""
    import difflib

    found = difflib.get_close_matches(word, list(known), 1, cutoff=0.7)
    return f": did you mean {found[0]}?" if found else ""


def _title(action: argparse.Action) -> str:
    names = action.metavar or action.dest.upper()
    name = names if isinstance(names, str) else names[0]
    if action.nargs == "+":
        return f"{name} [{name} ...]"
    return f"[{name} ...]" if action.nargs == "*" else name
