"""Every error that a user can cause. Each says what came, what was expected and what to do.

A user's error ends the command line with exit code 2 and one message; anything else is a bug or a broken machine
and ends with code 1. Errors cross process borders (Ray pickles them), so their arguments are positional and plain.
"""

from __future__ import annotations


class UserError(Exception):
    """The input, the config or the machine cannot do what was asked.

    Args:
        problem: one sentence, with the file and the line where there is one.
        got: what came.
        expected: what would have been right.
        fix: what to do about it.
    """

    def __init__(self, problem: str, got: str = "", expected: str = "", fix: str = "") -> None:
        super().__init__(problem, got, expected, fix)
        self.problem, self.got, self.expected, self.fix = problem, got, expected, fix

    def __str__(self) -> str:
        parts = [("got", self.got), ("expected", self.expected), ("fix", self.fix)]
        return "\n".join([self.problem, *(f"  {name}: {text}" for name, text in parts if text)])


class ConfigError(UserError):
    """The config file or an override of it is wrong."""


class InputError(UserError):
    """A corpus, queries, judgements or run file is wrong."""


class ResourceError(UserError):
    """The machine or cluster has less than the config asks for."""


class WorkspaceError(UserError):
    """The workspace lacks what was asked of it."""


def too_many(problems: list[str], limit: int = 20) -> str:
    """Joins problems into lines, the first `limit` of them in full and the rest as a count."""
    shown = problems[:limit]
    rest = len(problems) - len(shown)
    return "\n".join([*shown, *([f"... and {rest} more"] if rest > 0 else [])])
