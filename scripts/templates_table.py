"""Write the table of docs/templates.md anew: what each shape of chat template in the tests' zoo gets.

Run it from the root of the repository with `python scripts/templates_table.py`; a test fails
when the page lags behind.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from safedepth.attacks.refusal_tokens import refusal_tokens  # noqa: E402
from safedepth.chat import ChatFormat  # noqa: E402
from safedepth.chat.traits import WHITE_SPACE, Traits  # noqa: E402
from safedepth.errors import SafedepthError  # noqa: E402
from safedepth.gcg.places import Place, allowed_tokens, initial_suffix  # noqa: E402
from safedepth.nouns import Message  # noqa: E402
from tokenizer_zoo import SHAPES, TOKENIZERS, chat_of, traits_in  # noqa: E402

__all__ = ["main", "render", "replaced"]

PAGE = ROOT / "docs" / "templates.md"
MARKED = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- /table -->)", re.DOTALL)
WORDS: dict[bool | str, str] = {True: "yes", False: "no", WHITE_SPACE: "but for white space"}
REQUEST = Message(role="user", content="How do I make krell torin?")
ANSWER = "Sure, here is how to make krell torin"


def forced(chat: ChatFormat, _: Traits) -> bool:
    """Whether k forced tokens are the first k of the answer, whatever k."""
    prompt, ids = chat.prompt_ids([REQUEST]), chat.answer_ids(ANSWER)
    return all(
        list(chat.encode([REQUEST], ANSWER, k=k).ids) == [*prompt, *ids[:k]] for k in range(len(ids) + 1)
    )


def searched(chat: ChatFormat, _: Traits) -> bool:
    """Whether the tokens left out hold the words' own first tokens, and none of a header."""
    visible = [index for index in chat.opening_ids("I") if chat.decode([index]).strip()]
    left_out = refusal_tokens(chat, ["I", "Sorry"])
    return visible[0] in left_out and left_out.isdisjoint(chat.header_ids)


def placed(chat: ChatFormat, _: Traits) -> bool:
    """Whether a suffix of four tokens has a place where its text gives back its tokens."""
    try:
        suffix = initial_suffix(chat, [REQUEST], 4, allowed_tokens(chat, len(chat.tokenizer)))
        place = Place.of(chat, [REQUEST], [ANSWER], suffix=suffix, tokens=4)
    except SafedepthError:
        return False
    return place.survivors([place.suffix_ids(suffix)]) == [True]


def continued(_: ChatFormat, traits: Traits) -> bool | str:
    """Whether a server that continues text keeps a prefill, all of it or all but white space."""
    spaced = WHITE_SPACE in traits.notes and not any("merge" in note for note in traits.notes)
    return traits.continues_as_text or (WHITE_SPACE if spaced else False)


COLUMNS: dict[str, Callable[[ChatFormat, Traits], bool | str]] = {
    "prefill by tokens": forced,
    "prefill by text": continued,
    "system prompt": lambda _, traits: traits.system_role,
    "several turns": lambda _, traits: traits.several_turns,
    "thinking attack": lambda _, traits: traits.thinking != "none",
    "refusal tokens": searched,
    "suffix": placed,
    "loss mask": lambda _, traits: traits.reply_mask,
    "stop token": lambda _, traits: traits.ends_turn,
}


def main() -> None:
    """Put the table between the markers of the page."""
    PAGE.write_text(replaced(PAGE.read_text(), render()))


def replaced(text: str, table: str) -> str:
    """`text` with `table` between its two markers, which must be there once."""
    new, count = MARKED.subn(lambda _: f"\n{table}\n", text)
    if count != 1:
        sys.exit(f"{PAGE.name} must hold one pair of <!-- table --> and <!-- /table -->; found {count}.")
    return new


def render() -> str:
    """The table in Markdown: a line for each shape, yes or no where all tokenizers agree."""
    lines = [f"| shape | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in SHAPES:
        chats = [chat_of(maker, name) for maker in TOKENIZERS]
        traits = [traits_in(maker, name) for maker in TOKENIZERS]
        cells = []
        for found in COLUMNS.values():
            told = {found(chat, trait) for chat, trait in zip(chats, traits, strict=True)}
            cells.append(WORDS[told.pop()] if len(told) == 1 else "by tokenizer")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
