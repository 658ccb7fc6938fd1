"""The page in a real browser, offline: it draws, it fits, it can be read, and nothing gets out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from report.chromium import Page, find_chromium
from report.synthetic_run import ATTACK

# Contrast of every piece of text in the charts with the page behind it, after WCAG 2.
CONTRASTS = """
(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const c = part / 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  const against = (colour) => {
    const ink = luminance(colour);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  };
  const texts = [...document.querySelectorAll('.chart svg text')].filter((t) => t.textContent);
  const lines = [...document.querySelectorAll('.chart svg .mark-line path')];
  return [
    texts.map((t) => against(getComputedStyle(t).fill)),
    lines.map((l) => against(getComputedStyle(l).stroke)),
  ];
})()
"""

# A legend that is wider than its chart would be cut off, and nobody would miss what it names.
CUT = (
    "[...document.querySelectorAll('svg.marks')].flatMap((s) => "
    "[...s.querySelectorAll('.role-legend-label text')].filter((t) => "
    "t.getBoundingClientRect().right > s.getBoundingClientRect().right + 1).map((t) => t.textContent))"
)


@pytest.fixture(scope="module")
def page(reproduction: Path) -> Iterator[Page]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no chromium on this machine: the report was not looked at in a browser")
    with Page(binary) as opened:
        opened.resize(1280)
        opened.open(reproduction)
        yield opened


@pytest.fixture(autouse=True)
def _as_it_was(page: Page) -> Iterator[None]:
    page.resize(1280)
    yield
    page.complaints.clear()


def test_it_loads_itself_and_nothing_else_and_has_nothing_to_complain_of(
    page: Page, reproduction: Path
) -> None:
    assert page.requests == [reproduction.resolve().as_uri()]
    assert page.complaints == []


def test_every_chart_is_drawn(page: Page) -> None:
    slots = page.ask("[...document.querySelectorAll('[data-spec]')].map((s) => [s.id, s.dataset.state])")
    assert len(slots) == 9
    assert {state for _, state in slots} == {"drawn"}
    sizes = page.ask(
        "[...document.querySelectorAll('[data-spec] svg.marks')]"
        ".map((s) => [s.getBoundingClientRect().width, s.getBoundingClientRect().height,"
        " s.querySelectorAll('path[d], line, text').length])"
    )
    assert len(sizes) == 9
    assert all(width > 300 and height > 150 and marks > 20 for width, height, marks in sizes)


def test_text_that_looks_like_a_script_is_inert_and_can_be_read(page: Page) -> None:
    assert ATTACK in page.ask("document.body.innerText")
    assert page.ask("document.images.length") == 0
    assert page.ask("[...document.scripts].filter((s) => !s.type && s.text.includes('alert(1)')).length") == 0


def test_the_policy_stops_what_would_have_slipped_through(page: Page) -> None:
    page.ask(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.slipped = 1';"
        " document.body.append(s); s.remove(); })()"
    )
    assert page.ask("typeof window.slipped") == "undefined"
    assert page.ask("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert page.ask("(() => { try { return eval('1'); } catch { return 'stopped'; } })()") == "stopped"
    assert sum("Content Security Policy" in complaint for complaint in page.complaints) >= 2


def test_pointing_at_a_chart_tells_the_numbers(page: Page) -> None:
    page.ask(
        "document.getElementById('kl-by-position').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    x, y = page.ask(
        "(() => { const b = document.querySelector('#kl-by-position svg.marks').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    told = ""
    for step in range(40):
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + step % 3, y=y)
        told = page.ask("document.querySelector('#vg-tooltip-element.visible')?.innerText ?? ''")
        if told:
            break
        time.sleep(0.05)
    assert "mean KL, nats" in told
    assert "answers" in told
    assert page.complaints == []


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_sticks_out_sideways(page: Page, width: int) -> None:
    page.resize(width)
    edges = (
        "Math.max(...[...document.querySelectorAll('svg.marks')].map((s) => s.getBoundingClientRect().right))"
    )
    deadline = time.monotonic() + 5
    while page.ask(edges) > width and time.monotonic() < deadline:  # charts follow the window a moment later
        time.sleep(0.05)
    assert page.ask(edges) <= width
    assert page.ask("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("dark", [False, True])
def test_charts_can_be_read_on_light_and_dark_screens(page: Page, dark: bool) -> None:
    page.resize(1280, dark=dark)
    background = page.ask("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    texts, lines = page.ask(CONTRASTS)
    assert len(texts) > 50
    assert len(lines) > 10
    assert min(texts) >= 4.5
    assert min(lines) >= 2.5


def test_the_page_of_one_model_without_base_is_whole_too(page: Page, audit_alone: Path) -> None:
    page.requests.clear()
    page.open(audit_alone)
    states = page.ask("[...document.querySelectorAll('[data-spec]')].map((s) => s.dataset.state)")
    assert states == ["drawn"] * 4
    assert page.complaints == []
    assert page.requests == [audit_alone.resolve().as_uri()]
    assert "No base model was given" in page.ask("document.body.innerText")


@pytest.mark.parametrize("kind", ["deepened", "compared"])
def test_the_pages_of_recovery_training_draw_every_chart_and_fit(
    page: Page, kind: str, request: pytest.FixtureRequest
) -> None:
    built: Path = request.getfixturevalue(kind)
    page.open(built)
    slots = page.ask("[...document.querySelectorAll('[data-spec]')].map((s) => [s.id, s.dataset.state])")
    assert len(slots) == {"deepened": 11, "compared": 7}[kind]
    assert {state for _, state in slots} == {"drawn"}
    assert page.complaints == []
    for dark in (False, True):
        page.resize(1280, dark=dark)
        texts, lines = page.ask(CONTRASTS)
        assert len(lines) > 5
        assert min(texts) >= 4.5
        assert min(lines) >= 2.5
    for width in (1280, 390):
        page.resize(width)
        time.sleep(0.3)
        assert page.ask("document.documentElement.scrollWidth") == width
    assert page.ask(CUT) == []


@pytest.mark.parametrize(
    ("kind", "charts"), [("dynamics", 8), ("finetune", 8), ("attack", 2), ("sweep", 2), ("reproduce", 31)]
)
def test_the_pages_about_fine_tuning_draw_every_chart_fit_and_load_nothing(
    page: Page, kind: str, charts: int, about_finetuning: dict[str, Path]
) -> None:
    _draws_every_chart_fits_and_loads_nothing(page, about_finetuning[kind], charts)


@pytest.mark.parametrize(("kind", "charts"), [("audit", 27), ("suffix", 2), ("adaptive", 2)])
def test_the_pages_of_other_attacks_draw_every_chart_fit_and_load_nothing(
    page: Page, kind: str, charts: int, attacked: dict[str, Path]
) -> None:
    _draws_every_chart_fits_and_loads_nothing(page, attacked[kind], charts)


@pytest.mark.parametrize(("kind", "charts"), [("judge", 20), ("utility", 6), ("audit", 5), ("finetune", 9)])
def test_the_pages_on_judges_and_utility_draw_every_chart_fit_and_load_nothing(
    page: Page, kind: str, charts: int, trusted: dict[str, Path]
) -> None:
    _draws_every_chart_fits_and_loads_nothing(page, trusted[kind], charts)


@pytest.mark.parametrize(("kind", "charts"), [("measure", 4), ("served", 4)])
def test_the_pages_of_servers_and_of_runs_without_replies_draw_every_chart_fit_and_load_nothing(
    page: Page, kind: str, charts: int, measured: dict[str, Path]
) -> None:
    _draws_every_chart_fits_and_loads_nothing(page, measured[kind], charts)


def _draws_every_chart_fits_and_loads_nothing(page: Page, path: Path, charts: int) -> None:
    page.requests.clear()
    page.open(path)
    slots = page.ask("[...document.querySelectorAll('[data-spec]')].map((s) => [s.id, s.dataset.state])")
    assert len(slots) == charts
    assert {state for _, state in slots} == {"drawn"}
    assert page.requests == [path.resolve().as_uri()]
    assert page.complaints == []
    assert page.ask("document.images.length") == 0
    for dark in (False, True):
        page.resize(1280, dark=dark)
        texts, lines = page.ask(CONTRASTS)
        assert min(texts) >= 4.5
        assert min(lines, default=2.5) >= 2.5
    for width in (1280, 390):
        page.resize(width)
        time.sleep(0.3)
        assert page.ask("document.documentElement.scrollWidth") == width
    assert page.ask(CUT) == []


def test_before_and_after_stand_beside_each_other_where_there_is_room(page: Page, deepened: Path) -> None:
    page.open(deepened)
    tops = (
        "[...document.querySelector('.beside').children]"
        ".map((c) => Math.round(c.getBoundingClientRect().top))"
    )
    assert len(set(page.ask(tops))) == 1
    page.resize(390)
    assert len(set(page.ask(tops))) == 3
