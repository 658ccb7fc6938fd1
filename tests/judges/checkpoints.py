"""A checkpoint on disk for judges that are local models: tiny, random, with the words of their answers."""

from pathlib import Path

WORDS = (
    "yes",
    "no",
    "safe",
    "unsafe",
    "1",
    "2",
    "3",
    "4",
    "5",
    "User",
    "Agent",
    "Step",
    "one",
    "the",
    ".",
    ":",
    *(f"word{index}" for index in range(40)),
)
OWN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ ('User' if m.role == 'user' else 'Agent') + ': ' + m.content + '\n\n' }}{% endfor %}safe or unsafe ?"
)


def save_checkpoint(
    folder: Path, *, template: str | None = OWN_TEMPLATE, context: int = 1024, seed: int = 0
) -> Path:
    """A random Llama of one layer with a word-level tokenizer, as save_pretrained writes them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(("<unk>", "<s>", "</s>", "<pad>", *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=context,
        bos_token_id=1, eos_token_id=2, pad_token_id=3, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
