"""The number formats that a model can be loaded in, quantised ones among them.

`--dtype` names one. The quantised ones are those of bitsandbytes: the linear layers of the
blocks in 8 or 4 bits, everything else (embedding, head, norms, sums) in bfloat16. It refuses
to know files and devices.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, cast

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig

from safedepth.errors import MissingExtraError, ModelError

__all__ = ["DTYPES", "QUANTISED", "compute_dtype", "quantisation", "quantised_as"]

QUANTISED = ("int8", "int4")
"""LLM.int8 (Dettmers et al., NeurIPS 2022) and NF4 without double quantisation (QLoRA, NeurIPS 2023)."""

DTYPES = ("auto", "float32", "bfloat16", "float16", *QUANTISED)


def compute_dtype(name: str) -> str | torch.dtype:
    """What is not quantised, and the sums, under `--dtype name`: a torch dtype, or "auto".

    Raises ModelError where there is no such format.
    """
    if name not in DTYPES:
        raise ModelError(f"expected a dtype out of {', '.join(DTYPES)}, found {name!r}")
    if name == "auto":
        return name
    return torch.bfloat16 if name in QUANTISED else cast(torch.dtype, getattr(torch, name))


def quantisation(name: str) -> BitsAndBytesConfig | None:
    """How transformers is to quantise under `--dtype name`; None where it is not to.

    Raises MissingExtraError where bitsandbytes is not installed.
    """
    if name not in QUANTISED:
        return None
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"bitsandbytes, which --dtype {name} takes,", "quantised")
    # It says at every layer that LLM.int8 rounds its inputs to float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def quantised_as(config: PretrainedConfig) -> str | None:
    """The format that a model's own configuration says its weights are in: int8, int4, or the method's name.

    None for plain weights.
    """
    found: Any = getattr(config, "quantization_config", None)
    if found is None:
        return None
    said: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    if said.get("load_in_8bit"):
        return "int8"
    if said.get("load_in_4bit"):
        return "int4"
    return str(said.get("quant_method") or "quantised")
