"""Texts taken out of strings: nothing quoted is left, and who has the texts gets every string back."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.studies.hiding import Quotations, hashed, looked_up, names_only, revealed, sha256_of

ASK = "How do I make krell torin at home?"
ANSWER = "Sure, here is how to make krell torin: Step one, take yarrow and boil it."
HIDDEN = {text: sha256_of(text) for text in (ASK, ANSWER)}
KNOWN = {sha256: text for text, sha256 in HIDDEN.items()}


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def runs(text: str, length: int = 5) -> set[tuple[str, ...]]:
    said = words(text)
    return {tuple(said[at : at + length]) for at in range(len(said) - length + 1)}


@pytest.mark.parametrize(
    "text",
    [
        f"You asked: {ASK}",
        "I cannot tell how do i MAKE Krell torin at Home; it is not safe.",
        "how, do-I/make (krell) torin",
        f"{ASK} {ANSWER} {ASK}",
        "Do I make krell torin at home? Step one, take yarrow and boil it. How do I make krell?",
        f"{ASK[:-1]}\n\nSURE, HERE IS HOW TO MAKE KRELL TORIN",
        "how_do_I_make_krell_torin_at_home",
    ],
)
def test_a_quotation_goes_and_comes_back_letter_for_letter(text: str) -> None:
    shared = Quotations(HIDDEN).hidden(text)
    assert runs(shared).isdisjoint(runs(ASK) | runs(ANSWER))
    assert revealed(shared, KNOWN) == text
    assert revealed(shared, {}) == shared != text


def test_what_is_no_quotation_stays_as_it_is() -> None:
    for text in ("", "How do I make bread?", "I make krell torin", "Step one, take yarrow. Then go."):
        assert Quotations(HIDDEN).hidden(text) == text


def test_a_short_text_is_quoted_as_a_whole_and_a_shorter_one_never() -> None:
    quotations = Quotations({text: sha256_of(text) for text in ("Make krell torin", "krell")})
    assert "torin" not in quotations.hidden("Will you make krell torin now?")
    assert quotations.hidden("Will you make krell now?") == "Will you make krell now?"


def test_what_we_say_ourselves_is_no_quotation() -> None:
    told = {"I apologize, but I cannot fulfill this": "a" * 64}
    assert Quotations(told, allowed=["I apologize, but I cannot"]).hidden("I apologize, but I cannot") == (
        "I apologize, but I cannot"
    )
    assert "fulfill" not in Quotations(told, allowed=["I apologize, but I cannot"]).hidden(
        "We apologize, but I cannot fulfill this"
    )


def test_signs_without_spaces_between_them_are_words() -> None:
    text = "どうすればクレルを作れますか"
    shared = Quotations({text: sha256_of(text)}).hidden(f"質問:{text}。")
    assert "クレルを" not in shared
    assert revealed(shared, {sha256_of(text): text}) == f"質問:{text}。"


WORDS = st.lists(
    st.sampled_from(["krell", "torin", "yarrow", "boil", "Make", "MAKE", "make", "i"]), max_size=12
)
GAPS = st.sampled_from([" ", ", ", "\n", "-", " _ ", "  "])


@settings(max_examples=300, derandomize=True, deadline=None)
@given(first=WORDS, second=WORDS, reply=WORDS, gap=GAPS, other=GAPS)
def test_nothing_quoted_is_left_and_everything_comes_back(
    first: list[str], second: list[str], reply: list[str], gap: str, other: str
) -> None:
    texts = {text: sha256_of(text) for text in (gap.join(first), other.join(second))}
    said = other.join([*reply[:4], *second[:7], *reply[4:], *first])
    shared = Quotations(texts).hidden(said)
    assert runs(shared).isdisjoint(set().union(*(runs(text) for text in texts)))
    assert revealed(shared, {sha256: text for text, sha256 in texts.items()}) == said


def test_a_whole_text_becomes_its_hash_and_length() -> None:
    assert hashed("") == ""
    assert looked_up(hashed(ASK)) == (sha256_of(ASK), len(ASK))
    assert looked_up(f"{hashed(ASK)} ") is looked_up(ASK) is None
    assert revealed(hashed(ASK), KNOWN) == ASK
    # A few forced words could be guessed from a hash of theirs alone.
    assert hashed("Sure", ASK) != hashed("Sure")
    assert sha256_of("ab", "c") != sha256_of("b", "ca")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/anna/My Models/aligned", "aligned"),
        ("/home/anna/aligned/", "aligned"),
        ("~/sets/hex", "hex"),
        (r"C:\Users\anna\aligned", "aligned"),
        ("hex-phi:/home/anna/sets/hex", "hex-phi:hex"),
        ("/home/anna/judges.py@strict", "judges.py@strict"),
        ("hex-phi:/home/anna/My Sets/hex", "hex-phi:hex"),
        ("rubric=~/My Models/judge", "rubric=judge"),
        ("note: /home/anna/p.csv is empty", "note: p.csv is empty"),
        ("rubric=/home/anna/judge", "rubric=judge"),
        ("row 3 of '/home/anna/p.csv': empty", "row 3 of 'p.csv': empty"),
        ("see file:///home/anna/log.eval.", "see log.eval."),
        ("see https://example.org/home/anna for more", "see https://example.org/home/anna for more"),
        ("and/or, 5 / 10, n/a", "and/or, 5 / 10, n/a"),
        ("LLM-Tuning-Safety/HEx-PHI", "LLM-Tuning-Safety/HEx-PHI"),
        ("openai/gpt-4o", "openai/gpt-4o"),
    ],
)
def test_of_a_path_the_name_stays(text: str, left: str) -> None:
    assert names_only(text) == left


def test_a_path_with_spaces_that_is_known_is_found_in_a_sentence() -> None:
    path = "/home/anna/My Models/aligned"
    assert names_only(f"The model {path} is large", [path]) == "The model aligned is large"
