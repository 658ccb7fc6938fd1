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
from safedepth.studies.finetune_data import FinetuneArguments
from safedepth.train.config import RecoveryConfig
from safedepth.train.constrained_config import ConstrainedSFTConfig

__all__ = ["parse_deepen", "parse_finetune", "parse_training"]


class _Parser(TrlParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message}. See: {self.prog} --help")


def parse_deepen(arguments: Sequence[str]) -> tuple[DeepenOptions, RecoveryConfig, ModelConfig]:
    """The words after `safedepth deepen`; errors as `parse_training`."""
    options, config, model = parse_training(
        arguments,
        (DeepenOptions, RecoveryConfig),
        command="safedepth deepen",
        usage="MODEL --triplets FILE --anchors FILE --output_dir DIR",
    )
    return options, config, model


def parse_finetune(
    arguments: Sequence[str],
) -> tuple[FinetuneArguments, ConstrainedSFTConfig, ModelConfig]:
    """The words after `safedepth finetune`; errors as `parse_training`."""
    options, config, model = parse_training(
        arguments,
        (FinetuneArguments, ConstrainedSFTConfig),
        command="safedepth finetune",
        usage="MODEL --dataset_name FILE --output_dir DIR",
    )
    return options, config, model


def parse_training(
    arguments: Sequence[str], kinds: tuple[type, type], *, command: str, usage: str
) -> tuple[Any, Any, ModelConfig]:
    """MODEL (or --model_name_or_path), the options of both `kinds`, TRL's, and those of `--config FILE`.

    `kinds` are our options and a configuration of TRL's; `usage` is what comes after `command`. Raises
    DataError for what cannot be read, and as the configuration does.
    """
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words = ["--model_name_or_path", *words]
    parser = _Parser((*kinds, ModelConfig), prog=command)
    try:
        found: Any = parser.parse_args_and_config(words)
    except (ValueError, OSError, ImportError, yaml.YAMLError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"the options cannot be used: {said}. See: {command} --help") from error
    options, config, model = found
    if not model.model_name_or_path:
        raise DataError(f"expected a model: {command} {usage}")
    if not config.output_dir or config.output_dir == "trainer_output":
        raise DataError("expected --output_dir DIR: where the trained model and its report go")
    _require_usable(config, model)
    return options, config, model


def _require_usable(config: Any, model: ModelConfig) -> None:
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
