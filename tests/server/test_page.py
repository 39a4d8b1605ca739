"""The page in Chromium, against the server with real models: what it shows is what the library says."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from lmlab.config import described
from lmlab.decoding import PROCESSORS, chain_of

pytest.importorskip("playwright", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
PAGE = Path(__file__).parents[2] / "src" / "lmlab" / "server" / "page"
SPITEFUL = "<img src=x onerror=alert(1)>"
TEXT = "the cat saw a dog.\nan owl sang"


# -- without a browser ------------------------------------------------------------------------------------------------


def test_every_sampler_with_a_number_has_a_control_within_its_bounds():
    source = (PAGE / "samplers.js").read_text(encoding="utf-8")
    rows = {
        name: json.loads(f"[{rest}]") for name, rest in re.findall(r'^  \["(\w+)", ([^"]+), "', source, re.MULTILINE)
    }
    first = {name: described(kind)[0] for name, kind in PROCESSORS.items()}
    assert set(rows) == {name for name, field in first.items() if isinstance(field.default, (int, float))} - {"low"}
    for name, (default, least, most, _) in rows.items():
        assert default == first[name].default, name
        assert chain_of(**{name: least}), name
        assert chain_of(**{name: most}), name


def test_the_page_is_small_loads_nothing_from_elsewhere_and_makes_no_markup_of_data():
    files = [path for path in PAGE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            path
        )
        assert set(re.findall(r"https?://[^\"'` ]+", text)) <= {"http://www.w3.org/2000/svg"}, path
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in (PAGE / "index.html").read_text(
        encoding="utf-8"
    )


# -- in Chromium ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(entries: Any, **options: Any) -> Iterator[str]:
    """The address of a server on a free port."""
    import uvicorn

    from lmlab.server.app import make_app
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House

    app = make_app(House(entries, Bounds()), **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """A server of kn3, lstm, their mixture, and kn3 once more under a spiteful name."""
    from lmlab.server.house import Entry, entries_of

    entries = entries_of([str(runs / "kn3"), str(runs / "lstm")])
    entries += entries_of([str(runs / "lstm")], mix=[f"{runs / 'kn3'}:0.4"])[1:]
    with serving([*entries, Entry(SPITEFUL, entries[0].load, entries[0].told)]) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def sheet(browser: Any) -> Iterator[Any]:
    """A page of the browser that says nothing on its console."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append("a script ran"))
    yield page
    page.close()
    assert said == []


def address_of(address: str, view: str, **params: Any) -> str:
    return f"{address}/#{view}?{urlencode(params)}"


def exported(page: Any, kind: str) -> bytes:
    page.get_by_text("Export").click()
    with page.expect_download() as download:
        page.locator(f"[data-as={kind}]").click()
    return Path(download.value.path()).read_bytes()


def rows_of(page: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(exported(page, "csv").decode().splitlines(keepends=True)))


def in_mirror(page: Any, at: int) -> Any:
    """The mouse over a token of the text."""
    box = page.locator(".mirror .t").nth(at).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def waits(page: Any, selector: str, text: str) -> None:
    page.locator(selector, has_text=text).first.wait_for(timeout=10_000)


def open_write(page: Any, address: str, text: str = TEXT, **params: Any) -> None:
    page.goto(
        address_of(address, "write", model="kn3", text=text, live="false", chain="temperature=0.8,top_p=0.9", **params)
    )
    if text:
        waits(page, ".figures", "bits per byte")


def test_what_is_typed_is_coloured_by_the_bits_that_the_library_says(sheet, address, library):
    open_write(sheet, address, "")
    sheet.get_by_label("Text", exact=True).press_sequentially(TEXT)
    waits(sheet, ".figures", f"{library['kn3'].score(TEXT).total['bits_per_byte']:.3f}")
    expected = library["kn3"].score(TEXT).rows[:-1]
    rows = rows_of(sheet)
    assert [(row["text"], int(row["rank"])) for row in rows] == [(row["text"], row["rank"]) for row in expected]
    assert [float(row["bits"]) for row in rows] == pytest.approx([row["bits"] for row in expected])
    strongest = max(range(len(expected)), key=lambda at: expected[at]["bits"])
    strength = "spans => spans.map(span => Number(span.style.getPropertyValue('--b')))"
    shares = sheet.locator(".mirror .t").evaluate_all(strength)
    assert shares[strongest] == max(shares)


def test_hovering_shows_the_rank_and_p_before_and_after_the_samplers(sheet, address, library):
    open_write(sheet, address)
    in_mirror(sheet, 6)
    row = library["kn3"].score(TEXT).rows[6]
    waits(sheet, "aside", f"{row['bits']:.2f} bits, rank {row['rank']}")
    likeliest = library["kn3"].next_tokens(TEXT[:6], 10)
    shown = (
        "p => [...document.querySelectorAll('.bar .p:not(.after)')].map(cell => cell.textContent).join() === p.join()"
    )
    sheet.wait_for_function(shown, arg=[f"{100 * p:.1f} %" if p >= 0.001 else "< 0.1 %" for p in likeliest.values()])
    names = [name.replace(" ", "␣").replace("\n", "↵") for name in likeliest]
    assert sheet.locator(".bar .name").all_text_contents() == names
    left = sheet.locator(".bar:not(.cut)").count()
    ranked = sorted(library["kn3"].next_tokens(TEXT[:6], None).values(), reverse=True)
    sharper = [p ** (1 / 0.8) for p in ranked]
    mass, kept = 0.0, 0
    while mass < 0.9 - 1e-6:
        mass, kept = mass + sharper[kept] / sum(sharper), kept + 1
    assert left == min(kept, 10)
    assert sheet.locator(".bar.cut").count() == 10 - left


def test_a_click_on_a_rival_goes_on_from_there_and_both_branches_stay(sheet, address):
    open_write(sheet, address)
    editor = sheet.get_by_label("Text", exact=True)
    editor.focus()
    editor.evaluate("box => box.setSelectionRange(4, 4)")
    waits(sheet, ".place", "c")
    sheet.locator("[aria-busy=false]").wait_for()
    rival = sheet.locator(".bar:not(.chosen)").first
    letter = rival.locator(".name").text_content()
    rival.click()
    other = TEXT[:4] + letter
    sheet.wait_for_function("text => document.querySelector('.editor').value === text", arg=other)
    assert sheet.locator(".branch").all_text_contents() == ["the ", TEXT[4:].replace("\n", "↵"), letter]
    sheet.get_by_role("button", name="Undo").click()
    assert editor.input_value() == TEXT
    sheet.get_by_role("button", name="Redo").click()
    assert editor.input_value() == other
    sheet.locator(".branch").nth(1).click()
    assert editor.input_value() == TEXT


def test_a_continuation_is_the_library_s_and_its_grey_preview_too(sheet, address, library):
    from lmlab.decoding import Sample

    wanted = library["kn3"].generate("the cat", Sample(temperature=0.8, top_p=0.9, seed=3), max_tokens=20)[0].text
    open_write(sheet, address, "the cat", seed=3, tokens=20)
    sheet.get_by_label("show what comes next").check()
    sheet.wait_for_function(
        "text => [...document.querySelectorAll('.ghost')].map(s => s.textContent).join('') === text", arg=wanted
    )
    editor = sheet.get_by_label("Text", exact=True)
    editor.focus()
    editor.press("ArrowRight")
    assert editor.input_value() == "the cat" + wanted[0]
    editor.press("Control+z")
    assert editor.input_value() == "the cat"
    sheet.get_by_label("show what comes next").uncheck()
    editor.press("Control+Enter")
    sheet.wait_for_function("text => document.querySelector('.editor').value === text", arg="the cat" + wanted)
    sheet.get_by_role("button", name="Another").click()
    another = library["kn3"].generate("the cat", Sample(temperature=0.8, top_p=0.9, seed=4), max_tokens=20)[0].text
    sheet.wait_for_function("text => document.querySelector('.editor').value === text", arg="the cat" + another)
    assert "the cat" in sheet.locator(".branch").first.text_content()


def test_a_link_holds_what_is_seen(sheet, address, browser):
    open_write(sheet, address)
    sheet.get_by_label("Add a sampler").select_option("min_p")
    sheet.get_by_label("min_p, exactly").fill("0.2")
    sheet.wait_for_url("**min_p%3D0.2**")
    again = browser.new_page()
    again.goto(sheet.url)
    assert again.get_by_label("Text", exact=True).input_value() == TEXT
    assert again.get_by_label("min_p, exactly").input_value() == "0.2"
    again.close()


def test_two_texts_under_two_models(sheet, address, library):
    texts = {"A": "the cat saw 漢字.", "B": "naïve Zoë sang; 🦉 too"}
    sheet.goto(address_of(address, "score", models=json.dumps(["kn3", "lstm"]), a=texts["A"], b=texts["B"]))
    sheet.locator("tbody tr").nth(3).wait_for()
    cells = [
        row.split("\t")
        for row in sheet.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent).join('\\t'))"
        )
    ]
    for model, which, per_byte, *_ in cells:
        assert float(per_byte) == pytest.approx(library[model].score(texts[which]).total["bits_per_byte"], abs=6e-4)
    assert len(cells) == 4
    rows = rows_of(sheet)
    for model in ("kn3", "lstm"):
        mine = [row for row in rows if row["model"] == model and row["text"] == "B"]
        expected = library[model].score(texts["B"]).rows
        assert [float(row["bits"]) for row in mine] == pytest.approx([row["bits"] for row in expected], abs=1e-4)
        assert "".join(row["token"] for row in mine) == texts["B"] + "<eos>"
    shown = sheet.locator(".heat").nth(2).text_content()
    assert shown == texts["B"] + "■"
    words = library["kn3"].score(texts["A"]).by("word").rows, library["lstm"].score(texts["A"]).by("word").rows
    most = max(range(len(words[0]) - 1), key=lambda at: words[0][at]["bits"] + words[1][at]["bits"])
    first = sheet.locator(".places").first.locator("li").first
    assert first.locator("mark").text_content() == words[0][most]["text"]
    assert first.locator(".n").text_content() == f"{words[0][most]['bits']:.1f} / {words[1][most]['bits']:.1f}"


def test_a_heat_map_is_read_with_the_keyboard(sheet, address, library):
    sheet.goto(address_of(address, "score", models=json.dumps(["kn3", "lstm"]), a=TEXT))
    sheet.locator(".heat").first.focus()
    for _ in range(3):
        sheet.keyboard.press("ArrowRight")
    for model in ("kn3", "lstm"):
        row = library[model].score(TEXT).rows[2]
        waits(sheet, ".detail", f"{model} {row['text']}  {row['bits']:.2f} bits · rank {row['rank']}")
    assert sheet.locator(".heat .here").count() == 2


def test_colour_can_be_the_weights_of_a_mixture_or_the_matched_order(sheet, address, library):
    sheet.goto(address_of(address, "score", models=json.dumps(["kn3", "lstm+kn3"]), a=TEXT))
    colour = sheet.get_by_label("Colour")
    colour.select_option("weight of kn3")
    strength = "spans => [...new Set(spans.map(span => span.style.getPropertyValue('--b')))]"
    counted, mixed = sheet.locator(".heat").first.locator(".t"), sheet.locator(".heat").nth(1).locator(".t")
    assert mixed.evaluate_all(strength) == [f"{0.4**0.75:.3f}"]
    colour.select_option("matched order")
    orders = [int(row["matched"]) for row in rows_of(sheet) if row["model"] == "kn3" and row["matched"]]
    assert {"1", "2", "3"} >= set(map(str, orders)) > {"3"}
    assert counted.evaluate_all(strength.replace("new Set(", "").replace("))]", ")]")) == [
        f"{(order / 3) ** 0.75:.3f}" for order in orders
    ]
    counted.nth(5).hover()
    waits(sheet, ".detail", f"matched order {orders[5]}")
    found = library["kn3"].plot.ngram(TEXT[:6]).rows[5]
    waits(sheet, ".detail", f"{found['count']} of {found['of']} in training, as in “{found['training line'].strip()}”")
    waits(sheet, ".detail", "lstm 60.0 %, kn3 40.0 %")


def test_a_beam_is_followed_to_the_library_s_result(sheet, address, library):
    from lmlab.decoding import Beam

    sheet.goto(address_of(address, "beam", model="lstm", prompt="the ", width=3, tokens=8))
    best = library["lstm"].generate("the ", Beam(width=3), max_tokens=8)[0]
    waits(sheet, ".winners .context", best.text.replace("\n", "↵"))
    assert sheet.locator(".node.best").count() == 8
    rows = rows_of(sheet)
    assert {row["state"] for row in rows if int(row["step"]) < 8} <= {"live", "pruned", "ended"}
    assert all(row["why"] for row in rows if row["state"] == "pruned")
    assert all(sum(row["step"] == str(step) and row["state"] == "live" for row in rows) <= 3 for step in range(1, 9))
    frame = sheet.get_by_role("region", name="The search")
    frame.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown"):
        frame.press(key)
    first = [row for row in rows if row["step"] == "1"]
    waits(sheet, ".detail", f"score {float(first[3]['score']):.2f} · pruned: fell out of the beam")
    pruned = sheet.locator(".node.pruned").count()
    assert pruned == sum(row["state"] == "pruned" for row in rows) > 0
    sheet.get_by_label("show what was pruned").uncheck()
    assert sheet.locator(".node.pruned").count() == 0


def test_columns_are_compared(sheet, address, library):
    from lmlab.decoding import Greedy, Sample

    columns = [["kn3", "greedy", ""], ["lstm", "sample", "temperature=0.5"]]
    sheet.goto(address_of(address, "compare", prompt="a dog", tokens=12, seed=5, columns=json.dumps(columns)))
    wanted = (
        library["kn3"].generate("a dog", Greedy(), max_tokens=12)[0],
        library["lstm"].generate("a dog", Sample(temperature=0.5, seed=5), max_tokens=12)[0],
    )
    for at, one in enumerate(wanted):
        shown = "([at, text]) => document.querySelectorAll('.out')[at].textContent.replaceAll('↵', '') === text"
        sheet.wait_for_function(shown, arg=[at, "a dog" + one.text])
        bits = -one.logp / math.log(2)
        tokens = round(bits / math.log2(one.perplexity))
        waits(sheet, "article .note", f"{tokens} tokens · {bits / tokens:.2f} bits a token")
    sheet.get_by_role("button", name="Add a column").click()
    assert sheet.locator("article").count() == 3


@pytest.mark.parametrize(("view", "part"), [("write", ".surface"), ("score", ".whole"), ("compare", ".board")])
def test_an_exported_picture_is_what_is_seen(browser, address, view, part):
    from PIL import Image, ImageChops

    page = browser.new_page(viewport={"width": 900, "height": 900}, device_scale_factor=2)
    columns = json.dumps([["lstm", "sample", ""], ["kn3", "greedy", ""]])
    page.goto(address_of(address, view, text=TEXT, a=TEXT, prompt=TEXT, tokens=8, live="false", columns=columns))
    page.locator(f"#view-{view} .t").nth(7).wait_for()
    page.wait_for_timeout(300)
    drawn = Image.open(io.BytesIO(exported(page, "png"))).convert("RGB")
    page.mouse.move(0, 0)
    seen = Image.open(io.BytesIO(page.locator(part).screenshot())).convert("RGB")
    drawn = drawn.crop((48, 48, 48 + seen.width, 48 + seen.height))
    page.close()
    small = seen.width // 16, seen.height // 16
    differ = ImageChops.difference(drawn.resize(small, Image.Resampling.BOX), seen.resize(small, Image.Resampling.BOX))
    assert max(most for _, most in differ.getextrema()) < 45  # of 255; a letter that is missing makes more


def test_script_in_a_text_is_text_and_a_model_s_name_too(sheet, address):
    script = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    sheet.goto(address_of(address, "score", models=json.dumps([SPITEFUL]), a=script))
    waits(sheet, "tbody th", SPITEFUL)
    assert sheet.locator(".heat").text_content() == script + "■"
    for view in ("write", "beam", "compare"):
        sheet.locator(f"nav a[href='#{view}']").click()
        sheet.locator(f"#view-{view} option").first.wait_for(state="attached")  # a view is drawn after the click
        assert SPITEFUL in sheet.locator(f"#view-{view} option").all_text_contents()
    assert sheet.locator("img, main script").count() == 0


def test_a_click_is_not_lost_to_the_address_of_the_view_that_is_left(sheet, address):
    open_write(sheet, address)
    sheet.evaluate("location.hash = '#beam'; history.replaceState(null, '', '#write?text=')")  # a timer in between
    sheet.locator("#view-beam").wait_for()
    sheet.wait_for_url("**/#beam?**")


def test_what_the_server_refuses_is_said_and_mends_itself(browser, address):
    page = browser.new_page()  # a refusal is an error on the console
    page.goto(address_of(address, "write", model="kn3", text="the ☃", live="false"))
    waits(page, "#alert", "☃")
    page.get_by_label("allow unknown tokens").check()
    page.locator("#alert").wait_for(state="hidden")
    page.locator(".bar").first.wait_for()
    page.close()


def test_a_server_with_a_key_is_asked_once(browser, runs):
    from lmlab.server.house import entries_of

    with serving(entries_of([str(runs / "kn3")]), key="secret") as address:
        page = browser.new_page()  # a refusal is an error on the console
        page.goto(address)
        page.get_by_label("This server asks for its key").fill("secret")
        page.get_by_role("button", name="Use it").click()
        page.locator(".bar").first.wait_for()
        assert page.locator("#alert").is_hidden()
        page.reload()
        page.locator(".bar").first.wait_for()
        page.close()


@pytest.mark.parametrize("view", ["write", "score", "beam", "compare"])
def test_nothing_is_wider_than_a_phone(browser, address, view):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.goto(address_of(address, view, text=TEXT, a=TEXT, prompt="the cat saw", tokens=8, models='["kn3"]'))
    page.locator(f"#view-{view} :is(.bar, .heat .t, .node)").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.close()


def test_keys_in_quick_succession_end_at_the_library_s_answer_for_the_whole_text(sheet, address, library):
    open_write(sheet, address, "")
    sheet.get_by_label("Text", exact=True).press_sequentially(TEXT * 3)  # requests that a key overtakes are cut off
    sheet.locator("[aria-busy=false]").wait_for()
    likeliest = library["kn3"].next_tokens(TEXT * 3, 10)
    names = [name.replace(" ", "␣").replace("\n", "↵") for name in likeliest]
    assert sheet.locator(".bar .name").all_text_contents() == names


def test_a_stream_is_drawn_once_a_frame_at_most_however_many_tokens_come(sheet, address, library):
    open_write(sheet, address, "the cat", seed=3, tokens=1500)
    sheet.evaluate("""() => {
      const seen = (window.seen = { frames: 0, draws: 0 });
      const frame = () => requestAnimationFrame(() => { seen.frames++; frame(); });
      frame();
      new MutationObserver(() => seen.draws++).observe(document.querySelector(".mirror"), { childList: true });
    }""")
    sheet.get_by_role("button", name="Continue").click()
    whole = library["kn3"].generate("the cat", seed=3, max_tokens=1500, temperature=0.8, top_p=0.9)[0].text
    sheet.wait_for_function("text => document.querySelector('.editor').value === text", arg="the cat" + whole)
    sheet.get_by_role("button", name="Continue").wait_for()
    seen = sheet.evaluate("window.seen")
    assert 0 < seen["draws"] <= seen["frames"] + 2  # the rest when the stream ends, and once more when it is scored


@pytest.mark.parametrize("view", ["write", "score", "beam", "compare"])
def test_axe_finds_no_violation_in_light_and_dark_wide_and_narrow(browser, address, view):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = browser.new_page()
    asked = {"text": TEXT, "a": TEXT, "b": "an owl", "prompt": "the cat", "tokens": 8, "models": '["kn3", "lstm+kn3"]'}
    page.goto(address_of(address, view, **asked))
    page.locator(f"#view-{view} :is(.bar, .heat .t, .node)").nth(4).wait_for()
    for summary in [*page.locator("main summary").all(), page.get_by_text("Export")]:
        summary.click()
    page.evaluate("for (const id of ['key', 'alert']) document.getElementById(id).hidden = false")
    page.evaluate("document.getElementById('alert').textContent = 'What the server refuses.'")
    for scheme in ("light", "dark"):
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.wait_for_function("name => document.documentElement.dataset.theme === name", arg=scheme)
            found = axe.Axe().run(page)
            assert found.response["violations"] == [], (scheme, width, found.generate_report())
            assert len(found.response["passes"]) > 20
    page.close()


def test_the_address_keeps_what_urls_must_escape(sheet, address):
    text = "a dog & an owl = 1 + 1 # ?\n"
    sheet.goto(address_of(address, "score", models='["kn3"]', a=text))
    sheet.locator(".heat .t").first.wait_for()
    assert parse_qs(sheet.url.partition("?")[2], keep_blank_values=True)["a"] == [text]
