"""The sections on servers, log-probabilities and precision before anything is measured."""

from __future__ import annotations

from safedepth.report.parts import Topic

__all__ = ["ANSWERS", "PRECISION", "SERVER"]

SERVER = Topic(
    id="server",
    title="The server",
    intro="The model was reached through a server, and before anything was measured the server was asked "
    "what it can do: it was given the first half of an answer that the model itself had given, and only "
    "one that truly continues gives the other half. What is not sure is taken for a no. What a server "
    "cannot do is not measured through it.",
    what="the server",
    pattern=r"\bserver",
)
ANSWERS = Topic(
    id="answers",
    title="How likely a harmful answer is, token by token",
    intro="Both models read the same harmful answers. At every token, this is the mean log-probability of "
    "the token that the answer goes on with: 0 is certain, −4.6 is one in a hundred. Where the two lines "
    "meet, the aligned model would go on with the harm as the base model does. Bands are 95 % intervals.",
    what="log-probabilities of harmful answers",
    pattern=r"log-?prob|harmful answers",
    expected="measure",
)
PRECISION = Topic(
    id="precision",
    title="What rounding alone makes",
    intro="The same model twice, in float32 and in another number format, reading the same answers: what "
    "lies between the two is rounding. This is the floor of every KL taken in that format; a difference "
    "between models that is no larger may be none.",
    what="the precision floor",
    pattern=r"precision|floor|rounding",
)
