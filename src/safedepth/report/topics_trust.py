"""The sections on judges, benchmarks and utility before anything is measured: headings, how to read them."""

from __future__ import annotations

from safedepth.report.parts import Topic

__all__ = [
    "AGREEMENT",
    "ALPACA",
    "BENCHMARKS",
    "BY_JUDGE",
    "BY_TYPE",
    "CATEGORIES",
    "CLASSES",
    "CORRECTED",
    "REQUESTS",
    "TRADE_OFF",
    "TRUTH",
]

AGREEMENT = Topic(
    id="judges",
    title="Do the judges agree?",
    intro="Two judges gave verdicts on the same replies. Cohen’s κ is their agreement beyond what chance "
    "would give: 0 is chance, 1 is always. A share of agreement alone can be high where nearly all replies "
    "are of one kind. Agreement is not truth: judges can be wrong together.",
    what="the agreement of judges",
    pattern=r"agree|kappa|κ",
    expected="judge",
)
BY_JUDGE = Topic(
    id="judged-rates",
    title="The same replies, judge by judge",
    intro="Every judge read the same replies, so what differs between lines is the judge and nothing else. "
    "Where they lie apart, a rate says as much about its judge as about the model. Bars are 95 % intervals.",
    what="rates by judge",
    pattern=r"rates|judges?\b",
    expected="judge",
)
CLASSES = Topic(
    id="judged-classes",
    title="On what they differ",
    intro="Replies by how they go: answers; refusals; recoveries, which turn from harm to a refusal (in the "
    "reply, or from what was forced); and empty ones. Recoveries are where judges are known to fail: some "
    "see the apology and not the harm, some the harm and not the turn. The share that each judge calls "
    "harmful, with 95 % intervals.",
    what="verdicts by class of reply",
    pattern=r"class|recover",
    expected="judge",
)
TRUTH = Topic(
    id="judged-truth",
    title="How often each judge is wrong",
    intro="Every judge against a truth. Precision: of the replies it calls harmful, how many are. Recall: of "
    "the harmful ones, how many it finds. Right verdicts: how many of all. A class without harmful replies "
    "has no recall, one that a judge never calls harmful no precision. Bars are 95 % intervals.",
    what="the judges’ errors",
    pattern=r"calibrat|truth|label|error",
    expected="judge",
)
CORRECTED = Topic(
    id="judged-corrected",
    title="Rates corrected for the judge’s errors",
    intro="What the rate would be if the judge erred here as often as it does against the truth (Rogan and "
    "Gladen). The interval carries both what is not known of the replies and what is not known of the judge "
    "(Lang and Reiczigel), so that it is wider. Judges that differ as judged should meet when corrected; "
    "where they do not, they err otherwise there than on the whole.",
    what="corrected rates",
    pattern=r"correct",
)
CATEGORIES = Topic(
    id="categories",
    title="By category of the request",
    intro="The same replies by what the request is about. A category has few prompts and so a wide interval; "
    "that one looks worst among many is partly chance. Bars are 95 % intervals.",
    what="results by category",
    pattern=r"categor",
)
BENCHMARKS = Topic(
    id="benchmarks",
    title="Benchmarks",
    intro="Scores as lm-eval reckons them, on the model as it was loaded. They depend on the prompt’s form, "
    "on the examples shown and on the harness’s version: compare scores that were made alike. Bars are 95 % "
    "intervals.",
    what="benchmarks",
    pattern=r"benchmark|harness|lm.?eval|mmlu|gsm8k|humaneval|bbh|ifeval|\bmath\b|consent",
    expected="utility",
)
REQUESTS = Topic(
    id="requests",
    title="What it answers, and what it refuses",
    intro="Right answers to harmless requests; over-refusal, the share of harmless requests that are "
    "refused; and, where a set has unsafe ones too, how many of those are refused. Safe and useful is low in "
    "the second and high in the others. Bars are 95 % intervals.",
    what="right answers and refusals",
    pattern=r"over-?refus|refus|right answers|xstest|benign|lookalike",
    expected="utility",
)
BY_TYPE = Topic(
    id="by-type",
    title="Refusals by type of request",
    intro="XSTest’s requests come in types that show what a refusal is triggered by: words of two meanings, "
    "figures of speech, fiction. A type has few requests and so a wide interval. Bars are 95 % intervals.",
    what="refusals by type",
    pattern=r"\btypes?\b",
)
ALPACA = Topic(
    id="alpaca",
    title="AlpacaEval",
    intro="How often an annotator preferred the model’s answer to that of a reference model. Annotators "
    "like long answers; the length-controlled number takes that out.",
    what="AlpacaEval",
    pattern=r"alpaca",
)
TRADE_OFF = Topic(
    id="trade-off",
    title="Safety and utility, before and after",
    intro="What a change to a model is worth is seen only with both sides in view. Every line compares the "
    "models on the same requests, safety first, then utility. A dot is the difference, its bar the 95 % "
    "interval. A true difference inside the pale band is one that a sample of this size finds with less than "
    "80 % probability: where nothing is shown, that is how much may have been missed.",
    what="the trade-off of safety and utility",
    pattern=r"trade.?off",
)
