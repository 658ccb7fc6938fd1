"""Every benchmark out of a file of exactly its public layout, and an error with its place for any other."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.benchmark_files import ASK, PUBLISHED, ask, csv_text, hex_phi_folder, jsonl, write
from safedepth.data import read_prompts, read_requests, source_of
from safedepth.data.benchmarks import BENCHMARKS
from safedepth.data.layouts import HEX_PHI
from safedepth.errors import DataError
from safedepth.nouns import Prompt

SET = settings(max_examples=40, derandomize=True, deadline=None)
# What a cell may hold: any Unicode text but half surrogate pairs and blanks alone. csv.reader takes no \0.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    str.strip
)
LINES = TEXTS.filter(lambda text: "\n" not in text and not text.endswith("\r"))


def requests(prompts: Sequence[Prompt]) -> list[str]:
    return [prompt.messages[-1]["content"] for prompt in prompts]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_layout_is_read_in_its_order(tmp_path: Path, name: str) -> None:
    file, content = PUBLISHED[name]
    spec = f"{name}:{write(tmp_path / file, content)}"
    prompts = read_prompts(spec)
    assert [text.removeprefix("Krell is made of yarrow.\nTorin is not.\n\n---\n\n") for text in
            requests(prompts)] == [ask(n) for n in range(5)]  # fmt: skip
    assert all(len(prompt.messages) == 1 and prompt.turn == 1 for prompt in prompts)
    assert len({prompt.id for prompt in prompts}) == 5
    assert read_prompts(spec, limit=2) == prompts[:2]
    assert read_prompts(spec) == prompts
    answered = name in {"advbench", "jailbreakbench", "harmful-answers"}
    assert all((prompt.harmful is not None) == answered for prompt in prompts)


def test_harmbench_puts_the_context_before_the_behaviour_and_keeps_its_ids(tmp_path: Path) -> None:
    file, content = PUBLISHED["harmbench"]
    prompts = read_prompts(f"harmbench:{write(tmp_path / file, content)}")
    assert requests(prompts)[1] == f"Krell is made of yarrow.\nTorin is not.\n\n---\n\n{ask(1)}"
    assert [(prompt.id, prompt.category) for prompt in prompts[:3]] == [
        ("krell_zero", "brews"), ("krell_one", "brews"), ("krell_two", "songs"),
    ]  # fmt: skip


def test_older_sets_of_harmbench_have_one_column_of_categories_and_nothing_in_it(tmp_path: Path) -> None:
    header = ["Behavior", "Category", "Tags", "ContextString", "BehaviorID"]
    path = write(tmp_path / "advbench_behaviors.csv", csv_text(header, [ASK, "", "", "", "krell"]))
    (prompt,) = read_prompts(f"harmbench:{path}")
    assert (prompt.id, prompt.category) == ("krell", "")


def test_hex_phi_is_a_folder_of_headerless_categories_or_a_bundle(tmp_path: Path) -> None:
    prompts = read_prompts(f"hex-phi:{hex_phi_folder(tmp_path / 'set')}")
    assert len(prompts) == 300
    assert Counter(prompt.category for prompt in prompts) == dict.fromkeys(HEX_PHI.values(), 30)
    # By number, not by the letters of the names: 10 and 11 come last.
    assert [prompt.category for prompt in prompts[::30]] == list(HEX_PHI.values())
    assert requests(prompts)[:2] == [ask(100), ask(101)]
    bundle = [{"instruction": ask(n), "category": group} for n in range(30) for group in ("3", "category_4")]
    named = read_prompts(f"hex-phi:{write(tmp_path / 'HEx-PHI.jsonl', jsonl(*bundle))}")
    assert Counter(prompt.category for prompt in named) == {HEX_PHI[3]: 30, HEX_PHI[4]: 30}
    other = jsonl({"instruction": ASK, "category": "Malware"}, {"instruction": ASK, "category": 2})
    kept = read_prompts(f"hex-phi:{write(tmp_path / 'other.jsonl', other)}")
    assert [prompt.category for prompt in kept] == ["Malware", "2 (withdrawn)"]


def test_an_instruction_may_hold_quotes_commas_and_line_breaks(tmp_path: Path) -> None:
    texts = ['Say "krell", torin', "First, second, third", "One\nTwo\r\nThree", ' "leading" quote', "plain"]
    folder = tmp_path / "set"
    write(folder / "category_1.csv", csv_text(*([text] for text in texts)))
    # Commas need no quotes in a file of one column.
    write(folder / "category_3.csv", '\ufeffFirst, second, third\r\n\r\nIt\'s "krell" again\r\n')
    assert requests(read_prompts(f"hex-phi:{folder}")) == [
        *texts,
        "First, second, third",
        'It\'s "krell" again',
    ]


@SET
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_any_instruction_survives_a_headerless_file(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "category_7.csv"
    write(path, "\ufeff" + csv_text(*([text] for text in texts)))
    prompts = read_prompts(f"hex-phi:{path}")
    assert requests(prompts) == texts
    assert [prompt.id[:4] for prompt in prompts] == [f"{n:04d}" for n in range(1, len(texts) + 1)]


@SET
@given(texts=st.lists(LINES, min_size=1, max_size=5))
def test_any_line_survives_a_file_of_lines(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "MaliciousInstruct.txt"
    write(path, "\ufeff" + "\n".join(texts))
    assert requests(read_prompts(f"malicious-instruct:{path}")) == texts


@SET
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS, st.booleans()), min_size=1, max_size=5))
def test_any_text_survives_every_table_and_no_row_moves(
    pairs: list[tuple[str, str, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.getbasetemp()
    advbench = write(
        base / "any-adv.csv", csv_text(["goal", "target"], *((one, two) for one, two, _ in pairs))
    )
    assert [(p.messages[0]["content"], p.harmful) for p in read_prompts(f"advbench:{advbench}")] == [
        (one, two) for one, two, _ in pairs
    ]
    header = ["id", "prompt", "type", "label", "focus", "note"]
    rows = [
        [f"v2-{n}", one, f"{'contrast_' * unsafe}homonyms", "unsafe" if unsafe else "safe", two, ""]
        for n, (one, two, unsafe) in enumerate(pairs)
    ]
    spec = f"xstest:{write(base / 'any-xs.csv', csv_text(header, *rows))}"
    for read, side in ((read_prompts, True), (read_requests, False)):
        wanted = [(f"v2-{n}", one) for n, (one, _, unsafe) in enumerate(pairs) if unsafe is side]
        if wanted:
            assert [(p.id, p.messages[0]["content"]) for p in read(spec)] == wanted
        else:
            with pytest.raises(DataError, match="found none"):
                read(spec)


def test_jailbreakbench_has_harmful_and_benign_behaviours(tmp_path: Path) -> None:
    file, content = PUBLISHED["jailbreakbench"]
    folder = tmp_path / "data"
    write(folder / file, content)
    write(folder / "benign-behaviors.csv", content.replace("make", "sing").replace("Index", "", 1))
    prompts, asked = read_prompts(f"jailbreakbench:{folder}"), read_requests(f"jailbreakbench:{folder}")
    assert requests(asked) == [text.replace("make", "sing") for text in requests(prompts)]
    # The ids are those of its artifacts, so that suffixes published there find their prompts.
    ids = [f"Krell {n}" for n in range(5)]
    assert ([prompt.id for prompt in prompts], [prompt.id for prompt in asked]) == (ids, ids)
    with pytest.raises(DataError, match=r"expected harmful prompts of JailbreakBench .* found none"):
        read_prompts(f"jailbreakbench:{folder / 'benign-behaviors.csv'}")


@pytest.mark.parametrize(
    "header",
    [
        "id,prompt,type,label,focus,note",
        "id_v1,id_v2,type,prompt,focus,note",
        "id,type,prompt,focus,note",
        "prompt,type,note,focus",
        "prompt,type,note,focus,label",
    ],
)
def test_xstest_is_read_in_every_layout_it_had(tmp_path: Path, header: str) -> None:
    safe = {
        "type": "privacy_public",
        "label": "safe",
        "prompt": "How do I sing krell?",
        "id": "a",
        "id_v2": "a",
    }
    unsafe = {"type": "contrast_privacy", "label": "unsafe", "prompt": ASK, "id": "b", "id_v2": "b"}
    columns = header.split(",")
    rows = [[row.get(column, "") for column in columns] for row in (safe, unsafe)]
    spec = f"xstest:{write(tmp_path / 'xstest.csv', csv_text(columns, *rows))}"
    (prompt,), (request,) = read_prompts(spec), read_requests(spec)
    assert (prompt.messages[0]["content"], prompt.category) == (ASK, "contrast_privacy")
    assert (request.messages[0]["content"], request.category) == ("How do I sing krell?", "privacy_public")
    if "id" in header:
        assert (prompt.id, request.id) == ("b", "a")


def test_the_papers_harmful_answers_are_chats_in_a_list_or_an_object(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": ASK, "category": "brews"}, {"role": "assistant", "content": "Sure."}]
    spec = f"harmful-answers:{write(tmp_path / 'h.jsonl', jsonl(chat, {'messages': chat}))}"
    first, second = read_prompts(spec)
    assert (first.messages, first.harmful, first.category) == (
        ({"role": "user", "content": ASK},), "Sure.", "brews",
    )  # fmt: skip
    assert second.messages == first.messages


HEX, ADV, HARM = "hex-phi", "advbench", "harmbench"
BEHAVIOUR = ["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"]


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (ADV, "a.csv", f"prompt,harmful\n{ASK},Sure\n",
         r"AdvBench as it is published in row 1 \(line 2\) of .*`target`; found .*`prompt`, `harmful`"),
        (ADV, "a.csv", csv_text(["goal", "target", "note"], [ASK, "Sure", "x"]), "found the columns `goal`"),
        (ADV, "a.txt", ASK, r"AdvBench that ends in \.csv: .*llm-attacks"),
        (ADV, "a.csv", csv_text(["goal", "target"], [ASK, "Sure"], [" ", "Sure"]), "`goal` of row 2 .*empty"),
        (ADV, "a.csv", csv_text(["goal", "target"], [ASK, ""]), r"`target` of row 1 .*empty"),
        (ADV, "a.csv", f"goal,target\n{ASK},Sure\n".encode("utf-16"), "found UTF-16"),
        (ADV, "a.csv", f"goal,target\n{ASK},Sure\n".encode("utf-16-le"), "found UTF-16"),
        (ADV, "a.csv", "goal,target\nkrell caf\xe9,Sure\n".encode("latin-1"), "byte 0xe9 on line 2"),
        (ADV, "a.csv", csv_text(["goal", "target"], [ASK, "Sure"], ["k" * 10_000_000, "Sure"]),
         r"at most 1000000 characters in `goal` of row 2 \(line 3\) of .*found 10000000"),
        (ADV, "a.csv", "goal,target\n", "found none"),
        (HEX, "category_4.csv", "Entry not found", "the hub's words for a file it does not have"),
        (HEX, "category_4.csv", f'"{ASK}",torin\n', r"expected one cell in row 1 \(line 1\).*found 2"),
        (HEX, "category_4.csv", f'{ASK}\n"Say ""krell', "expected CSV in .*line 2: unexpected end"),
        (HEX, "category_4.csv", "k" * 10_000_000, r"characters in `instruction` of row 1 \(line 1\) of"),
        (HEX, "category_4.csv", f"{ASK}\n  \n", r"`instruction` of row 2 \(line 2\) of .*empty"),
        (HEX, "category_4.csv", "\n\n", "found an empty file"),
        (HEX, "other.csv", f"{ASK}\n{ASK}\n", "HEx-PHI as it is published .*category_<number>.csv"),
        (HEX, "b.jsonl", jsonl({"instruction": ASK}), "found the columns `instruction`"),
        (HEX, "b.jsonl", jsonl({"instruction": ASK, "category": None}), "`category` of line 1"),
        (HARM, "h.csv", csv_text(BEHAVIOUR, [ASK, "standard", "", "", "", ""]), "`BehaviorID` of row 1"),
        (HARM, "h.csv", csv_text(BEHAVIOUR, *[[ASK, "standard", "b", "", "", "one"]] * 2), "every id once"),
        ("malicious-instruct", "m.csv", f"prompt\n{ASK}\n", r"ends in \.txt"),
        ("malicious-instruct", "m.txt", ASK.encode("utf-16"), "found UTF-16"),
        ("malicious-instruct", "m.txt", f"{ASK}\n" + "k" * 10_000_000, "characters in `prompt` of line 2"),
        ("strongreject", "s.csv", f"category,source,prompt\nb,c,{ASK}\n", "`forbidden_prompt`; found"),
        ("jailbreakbench", "j.csv", f"Goal,Target,Behavior,Category\n{ASK},Sure,k,b\n", "`Index`, `Goal`"),
        ("xstest", "x.csv", csv_text(["id", "prompt", "type", "label", "focus", "note"],
                                     ["a", ASK, "homonyms", "unsafe", "", ""]), "'unsafe' for 'homonyms'"),
        ("xstest", "x.csv", f"id,type,prompt,completion\na,homonyms,{ASK},No\n", "found the columns `id`"),
        ("harmful-answers", "h.jsonl", jsonl([{"role": "user", "content": ASK}]), "answer at the end"),
        ("harmful-answers", "h.jsonl", jsonl({"prompt": ASK, "harmful": "S"}), "found the columns `prompt`"),
        ("harmful-answers", "h.jsonl", jsonl({"messages": "x"}), "a list of messages in line 1"),
    ],
)  # fmt: skip
def test_what_is_not_as_published_is_an_error_that_says_where_and_what_to_do(
    tmp_path: Path, name: str, file: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_prompts(f"{name}:{write(tmp_path / file, content)}")


def test_a_cell_of_half_a_megabyte_is_no_error(tmp_path: Path) -> None:
    long = "krell " * 90_000  # csv's own limit is 131072 characters
    spec = f"advbench:{write(tmp_path / 'a.csv', csv_text(['goal', 'target'], [long, 'Sure']))}"
    assert requests(read_prompts(spec)) == [long]


@pytest.mark.parametrize("name", [name for name, known in BENCHMARKS.items() if not known.benign])
def test_harmful_prompts_are_no_benign_requests(tmp_path: Path, name: str) -> None:
    file, content = PUBLISHED.get(name, ("category_1.csv", ASK))
    with pytest.raises(DataError, match=r"expected benign requests, .*jailbreakbench, xstest"):
        read_requests(f"{name}:{write(tmp_path / file, content)}")


def test_ids_of_a_folder_outlive_a_category_that_comes_after(tmp_path: Path) -> None:
    before = read_prompts(f"hex-phi:{hex_phi_folder(tmp_path / 'few', numbers=(1, 3))}")
    assert read_prompts(f"hex-phi:{hex_phi_folder(tmp_path / 'all')}")[:60] == before
    assert source_of(f"hex-phi:{tmp_path / 'few'}").sha256 != source_of(f"hex-phi:{tmp_path / 'all'}").sha256
