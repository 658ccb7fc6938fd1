"""Forcing text in chat: what vLLM makes of an assistant's message that is to be continued."""

from model_server import Server
from safedepth.models import LoadedModel
from safedepth.nouns import Prompt

CONTINUED = {"add_generation_prompt": False, "continue_final_message": True}


def test_a_continued_message_is_the_tokens_we_would_have_forced(
    server: Server, organism: LoadedModel, prompts: list[Prompt]
) -> None:
    """At every depth that ends between two words: the server tokenises the text anew."""
    chat, compared = organism.chat, 0
    for prompt in prompts:
        assert prompt.harmful is not None
        for k in (1, 2, 5, 10, 20):
            ids = chat.encode(prompt.messages, prompt.harmful, k=k).ids
            forced = chat.decode(chat.answer_ids(prompt.harmful)[:k])
            answer = server.post(
                "chat/completions", model=server.name, temperature=0, max_tokens=1, return_token_ids=True,
                messages=[*prompt.messages, {"role": "assistant", "content": forced}], **CONTINUED,
            )  # fmt: skip
            assert answer["prompt_token_ids"] == list(ids), (prompt.id, k)
            compared += 1
    assert compared == 5 * len(prompts)


def test_without_the_two_flags_a_new_turn_is_opened(
    server: Server, organism: LoadedModel, prompts: list[Prompt]
) -> None:
    """What a proxy that drops them does; the prefilling attack would test nothing."""
    chat, prompt = organism.chat, prompts[0]
    answer = server.post(
        "chat/completions", model=server.name, temperature=0, max_tokens=1, return_token_ids=True,
        messages=[*prompt.messages, {"role": "assistant", "content": "Sure, here is"}],
    )  # fmt: skip
    asked, found = chat.prompt_ids(prompt.messages), answer["prompt_token_ids"]
    start_of_a_turn = asked[-1]
    assert found[-1] == start_of_a_turn
    assert found[: len(asked) + 1] == [*asked, chat.answer_ids("Sure, here is")[0]]
