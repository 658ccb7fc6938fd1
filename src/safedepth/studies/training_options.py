"""The command line of a training command: our options, then TRL's by their own names, then a YAML file.

`TrlParser` reads them; a mistake becomes one message instead of a page of usage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from trl import ModelConfig, TrlParser

from safedepth.errors import DataError
from safedepth.studies.deepen_options import DeepenOptions
from safedepth.train.config import RecoveryConfig

__all__ = ["parse_deepen"]


class _Parser(TrlParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message}. See: safedepth deepen --help")


def parse_deepen(arguments: Sequence[str]) -> tuple[DeepenOptions, RecoveryConfig, ModelConfig]:
    """MODEL (or --model_name_or_path), our options, TRL's, and those of `--config FILE`.

    Raises DataError for what cannot be read, and as `RecoveryConfig` does.
    """
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words = ["--model_name_or_path", *words]
    parser = _Parser((DeepenOptions, RecoveryConfig, ModelConfig), prog="safedepth deepen")
    try:
        found: Any = parser.parse_args_and_config(words)
    except (ValueError, OSError, ImportError, yaml.YAMLError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"the options cannot be used: {said}. See: safedepth deepen --help") from error
    options, config, model = found
    if not model.model_name_or_path:
        raise DataError(
            "expected a model: safedepth deepen MODEL --triplets FILE --anchors FILE --output_dir DIR"
        )
    if not config.output_dir or config.output_dir == "trainer_output":
        raise DataError("expected --output_dir DIR: where the trained model and its report go")
    _require_usable(config, model)
    return options, config, model


def _require_usable(config: RecoveryConfig, model: ModelConfig) -> None:
    """Raise DataError for options of TRL's that would be ignored, or fail once the training begins."""
    if model.model_revision != "main":
        raise DataError(
            f"expected no --model_revision, found {model.model_revision!r}: only the trainer would heed it. "
            "Download that revision (hf download) and give its folder"
        )
    if config.trust_remote_code:
        raise DataError("expected a model that transformers knows: code that a model brings is not run")
    if config.resume_from_checkpoint:
        raise DataError("expected no --resume_from_checkpoint: the same command again resumes by itself")
