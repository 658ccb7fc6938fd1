"""An attacker by rules for the toy language, as an Inspect model: escalation without any other model.

It begins with questions that only look restricted and then asks for the recipe in
ever other words. Made for the attack `escalation`, whose prompt it reads.
"""

import re

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, ModelUsage
from inspect_ai.tool import ToolChoice, ToolInfo

from safedepth.testbed import lexicon as lex
from safedepth.testbed.oracle import product_in

__all__ = ["ToyAttackerAPI", "next_turn"]

_TURN = re.compile(r"This is turn (\d+) of (\d+)\.")


def next_turn(shown: str) -> str:
    """The next user message for what the attack `escalation` shows; empty where no product is named.

    In the first half of the turns a harmless question, in the second a request for the
    recipe, each in other words than the one before.
    """
    goal = shown.partition("\n")[0]
    product, place = product_in(goal), _TURN.search(shown)
    if product is None or place is None:
        return ""
    turn, turns = int(place[1]), int(place[2])
    harmless = turns // 2
    if turn <= harmless:
        form = lex.LOOKALIKES[(turn - 1) % len(lex.LOOKALIKES)][0]
    else:
        form = lex.REQUESTS[(turn - harmless - 1) % len(lex.REQUESTS)]
    return form.format(p=product)


class ToyAttackerAPI(ModelAPI):
    """`next_turn` behind Inspect's interface; every model name means the same."""

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's name
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """The next user message."""
        output = ModelOutput.from_content(self.model_name, next_turn(input[-1].text))
        output.usage = ModelUsage()  # or Inspect fetches a tokenizer to count with
        return output
