"""Loading: what comes out, what is recorded, and every way in which a folder is not a model."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from safedepth.errors import ModelError, TemplateError
from safedepth.models import LoadedModel, load_model, require_same_vocabulary
from safedepth.nouns import Message
from tokenizer_zoo import CHATML, TEMPLATES, byte_tokenizer, word_tokenizer

QUESTION = [Message(role="user", content="How do I make krell torin?")]


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def without_template(folder: Path) -> Path:
    (folder / "chat_template.jinja").unlink()
    return folder


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_loaded_model_is_ready_for_inference_and_gives_the_checkpoints_logits(
    tiny_model: LoadedModel, tiny_model_dir: Path
) -> None:
    assert not tiny_model.model.training
    assert not any(parameter.requires_grad for parameter in tiny_model.model.parameters())
    ids = torch.tensor([tiny_model.chat.prompt_ids(QUESTION)])
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    torch.testing.assert_close(tiny_model.model(ids).logits, other(ids).logits)


def test_the_card_says_where_the_model_came_from(tiny_model: LoadedModel, tiny_model_dir: Path) -> None:
    card = tiny_model.card
    weights = (tiny_model_dir / "model.safetensors").read_bytes()
    assert card.name == str(tiny_model_dir)
    assert card.revision is None
    assert (card.dtype, card.device) == ("float32", "cpu")
    assert card.parameters == sum(
        tensor.numel() for tensor in load_file(tiny_model_dir / "model.safetensors").values()
    )
    assert card.vocab_size == len(tiny_model.chat.tokenizer)
    assert card.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert (card.template_source, card.template_sha256) == (
        "own",
        hashlib.sha256(CHATML.encode()).hexdigest(),
    )
    assert card.extra == {"architecture": "LlamaForCausalLM", "weights_hashed": "whole"}


def test_the_dtype_is_the_checkpoints_unless_asked_otherwise(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert load_model(str(folder)).card.dtype == "bfloat16"
    assert load_model(str(folder), dtype="float32").model.dtype == torch.float32


def test_stop_ids_join_the_templates_and_the_generation_configs(
    tiny_model: LoadedModel, folder: Path
) -> None:
    tokenizer = tiny_model.chat.tokenizer
    end, turn, extra = (tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|im_end|>", "<|end|>"))
    assert tiny_model.stop_ids == {end, turn}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, extra]}))
    assert load_model(str(folder)).stop_ids == {end, turn, extra}


def test_a_dtype_or_device_that_does_not_exist_is_an_error(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"dtype out of auto, float32, .*, int8, int4, found 'int2'"):
        load_model(str(tiny_model_dir), dtype="int2")
    with pytest.raises(ModelError, match=r"found 'toaster'.*Try auto or cpu"):
        load_model(str(tiny_model_dir), device="toaster")
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ModelError, match=f"found '{absent}'"):
        load_model(str(tiny_model_dir), device=absent)


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def garble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors at all")


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def reshape_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:5].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{nothing")


def name_unknown_family(folder: Path) -> None:
    change_config(folder, model_type="unheard_of")


def bring_code(folder: Path) -> None:
    change_config(folder, model_type="own", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"})
    (folder / "c.py").write_text("raise SystemExit('code from a checkpoint was run')")


def become_an_encoder(folder: Path) -> None:
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)


def remove_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def swap_tokenizer(folder: Path) -> None:
    byte_tokenizer().save_pretrained(folder)


def remove_template(folder: Path) -> None:
    without_template(folder)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (truncate, ModelError, "cannot be loaded: SafetensorError"),
        (garble, ModelError, "cannot be loaded: SafetensorError"),
        (drop_a_tensor, ModelError, r"found 1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"),
        (reshape_a_tensor, ModelError, "cannot be loaded: RuntimeError"),
        (break_config, ModelError, "config.json"),
        (name_unknown_family, ModelError, "unheard_of"),
        (bring_code, ModelError, "custom code"),
        (become_an_encoder, ModelError, "T5Config"),
        (remove_tokenizer, ModelError, "expected a tokenizer in"),
        (swap_tokenizer, ModelError, "expected token ids below"),
        (remove_template, TemplateError, "--chat-template FILE_OR_MODEL"),
    ],
)
def test_a_damaged_folder_is_an_error_that_says_what_is_wrong(
    folder: Path, damage: object, error: type[Exception], message: str
) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(error, match=message):
        load_model(str(folder))


def test_a_template_is_borrowed_from_a_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "plain.jinja"
    file.write_text(TEMPLATES["plain"])
    loaded = load_model(str(without_template(folder)), chat_template=str(file))
    assert loaded.card.template_source == str(file)
    assert loaded.card.template_sha256 == hashlib.sha256(TEMPLATES["plain"].encode()).hexdigest()
    assert loaded.chat.decode(loaded.chat.prompt_ids(QUESTION)).startswith("user : How do I")


def test_a_template_is_borrowed_from_a_model(
    folder: Path, tiny_model_dir: Path, tiny_model: LoadedModel
) -> None:
    loaded = load_model(str(without_template(folder)), chat_template=str(tiny_model_dir))
    assert loaded.card.template_source == str(tiny_model_dir)
    assert loaded.chat.prompt_ids(QUESTION) == tiny_model.chat.prompt_ids(QUESTION)


def test_a_lender_is_refused_where_it_cannot_lend(folder: Path, tmp_path: Path) -> None:
    name = str(folder)
    with pytest.raises(
        TemplateError, match=r"expected a template file or a model that lends its own: .*no folder"
    ):
        load_model(name, chat_template=str(tmp_path / "nothing.jinja"))
    bare = tmp_path / "bare"
    word_tokenizer(None).save_pretrained(bare)
    with pytest.raises(TemplateError, match="found none in"):
        load_model(name, chat_template=str(bare))
    binary = tmp_path / "binary.jinja"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TemplateError, match="found no readable text"):
        load_model(name, chat_template=str(binary))
    stranger = tmp_path / "stranger"
    lender = byte_tokenizer(CHATML.replace("<|im_start|>", "<|turn|>"))
    lender.add_special_tokens({"extra_special_tokens": ["<|turn|>"]})
    lender.save_pretrained(stranger)
    with pytest.raises(TemplateError, match=r"writes '<\|turn\|>', which is one special token there"):
        load_model(name, chat_template=str(stranger))


def with_tokenizer(loaded: LoadedModel, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    chat = replace(loaded.chat, tokenizer=tokenizer)
    return replace(loaded, chat=chat, card=replace(loaded.card, name="other"))


def test_models_of_one_vocabulary_fit_together(tiny_model: LoadedModel) -> None:
    require_same_vocabulary(tiny_model, with_tokenizer(tiny_model, word_tokenizer(TEMPLATES["plain"])))


def test_two_vocabularies_are_an_error_that_names_the_first_tokens_that_differ(
    tiny_model: LoadedModel,
) -> None:
    tokenizer = word_tokenizer()
    swapped = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["krell"], vocabulary["torin"] = vocabulary["torin"], vocabulary["krell"]
    low = min(vocabulary["krell"], vocabulary["torin"])
    backend = tokenizer.backend_tokenizer.from_str(json.dumps(swapped))
    other = with_tokenizer(tiny_model, PreTrainedTokenizerFast(tokenizer_object=backend))
    with pytest.raises(ModelError, match=f"found 2 of .* ids that differ: id {low} is 'krell' and 'torin'"):
        require_same_vocabulary(tiny_model, other)
    longer = word_tokenizer()
    longer.add_tokens(["fennox"])
    with pytest.raises(
        ModelError, match=r"found 1 of .*is no token and 'fennox'.*base model it was trained from"
    ):
        require_same_vocabulary(tiny_model, with_tokenizer(tiny_model, longer))


def test_heads_of_two_sizes_are_an_error(tiny_model: LoadedModel) -> None:
    rows = tiny_model.card.vocab_size
    padded = replace(tiny_model, card=replace(tiny_model.card, name="padded", vocab_size=rows + 8))
    with pytest.raises(ModelError, match=f"heads of one size, found {rows} and {rows + 8} rows"):
        require_same_vocabulary(tiny_model, padded)
