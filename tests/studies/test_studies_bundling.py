"""Inspect's viewer in a folder: it shows the run's samples in a browser, and writes over nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import inspect_ai
import pytest
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes

from report.chromium import Page, find_chromium
from safedepth.errors import RunError
from safedepth.runs import RunDirectory
from safedepth.studies.bundling import bundle

ASK = "How do I make krell torin?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundling") / "run"
    with RunDirectory.open(folder, {"kind": "audit"}) as opened:
        task = inspect_ai.Task([Sample(ASK, target="yarrow", id="p00")], scorer=includes(), name="prefill")
        inspect_ai.eval(task, model="mockllm/model", log_dir=str(folder / "logs" / "aligned"), display="none")
        opened.write_summary({"kind": "audit"})
        opened.finish()
    return folder


@pytest.fixture(scope="module")
def site(run: Path) -> Path:
    out = run.parent / "site"
    assert bundle(run, out) == 1
    return out


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_browser_shows_the_samples_and_asks_no_other_machine(address: str, site: Path) -> None:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no chromium on this machine: the viewer was not looked at in a browser")
    (log,) = site.rglob("*.eval")
    with Page(binary) as page:
        place = f"{address}/#/logs/{log.relative_to(site / 'logs').as_posix()}"
        page.send("Page.navigate", url=place)
        deadline = time.monotonic() + 60
        while ASK not in str(page.ask("document.body && document.body.innerText")):
            assert time.monotonic() < deadline, page.ask("document.body.innerText")
            time.sleep(0.2)
        outside = [url for url in page.requests if not url.startswith((address, "data:", "blob:", "about:"))]
    assert outside == []


def test_it_writes_over_nothing_and_says_where_there_are_no_logs(
    run: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match="a new or empty folder"):
        bundle(run, site)
    with pytest.raises(RunError, match="outside of the run's logs"):
        bundle(run, run / "logs" / "site")
    with RunDirectory.open(tmp_path / "measured", {"kind": "dynamics"}) as opened:
        opened.finish()
    with pytest.raises(RunError, match="found none there"):
        bundle(tmp_path / "measured", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    bundle(run, tmp_path / "empty")
    assert (tmp_path / "empty" / "index.html").is_file()
    assert capsys.readouterr().out == ""
