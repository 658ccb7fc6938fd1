"""The errors a user can cause, with one root.

Every message says what was expected, what was found and what to do. The
command line prints the message alone, without a traceback; anything that is
not a `SafedepthError` is a bug of ours and keeps its traceback.
"""

__all__ = [
    "DataError",
    "HubError",
    "JudgeError",
    "MissingExtraError",
    "ModelError",
    "RunError",
    "SafedepthError",
    "TemplateError",
]


class SafedepthError(Exception):
    """Root of every error that the person at the terminal can mend."""


class DataError(SafedepthError):
    """A prompts file is missing, empty, of the wrong kind, or a row of it cannot be used."""


class ModelError(SafedepthError):
    """A path is not a model, two models do not fit together, or a context is too long."""


class TemplateError(SafedepthError):
    """A tokenizer has no chat template, or its template cannot express the messages."""


class JudgeError(SafedepthError):
    """A judge reference does not resolve to an Inspect scorer."""


class RunError(SafedepthError):
    """A run directory cannot be written, belongs to another configuration, or is not finished."""


class HubError(SafedepthError):
    """The hub cannot be reached, does not know who asks, or does not allow what was asked for."""


class MissingExtraError(SafedepthError):
    """An optional dependency is not installed; the message ends in the install command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed. Install it with: pip install 'safedepth[{extra}]'")
