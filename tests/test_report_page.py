"""The report in a real browser: clicks, keys, lasso, exports, themes, a phone; no error, no network, no foreign markup.

It needs Debian's `chromium` (or a Chrome on the path) and the package `playwright`, and skips without either.
"""

import contextlib
import csv
import io
import itertools
import json
import re
import shutil

import pytest
from conftest import penult
from paper import HOSTILE, make_heads, make_store

from classify.page.assemble import embedded_json

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: penult[test] has it")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on the path: apt-get install chromium")

# Classes that are told apart without fail would leave nothing to click on.
CLASSES = (*HOSTILE, "a class whose name is so long that no column of any table could hold all of it")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    store = make_store(folder, CLASSES)
    heads = make_heads(store)
    done = penult("report", store.path, *heads, "-o", folder / "r.html", "--map", "pca", "tsne")
    assert done.returncode == 0, done.stderr
    return folder / "r.html"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def opened(browser, report):
    """The page, and what went wrong on it so far; one for all tests, as for somebody who looks at it for a while."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    with open_page(context, report) as (page, troubles):
        yield page, troubles


@contextlib.contextmanager
def open_page(context, report):
    page, troubles = context.new_page(), []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda r: troubles.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(report.as_uri())
    page.wait_for_selector("#ranking svg")
    yield page, troubles
    context.close()


@pytest.fixture
def page(opened):
    found, troubles = opened
    yield found
    assert not troubles


def download(page, button):
    with page.expect_download() as waiting:
        page.click(button)
    with open(waiting.value.path(), newline="", encoding="utf-8") as file:
        return waiting.value.suggested_filename, list(csv.DictReader(file))


def lasso(page):
    """Draw around nearly all points of the map."""
    canvas = page.locator("#map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98)]
    page.mouse.move(box["x"] + corners[0][0] * box["width"], box["y"] + corners[0][1] * box["height"])
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
    page.mouse.up()


def test_names_of_classes_and_files_are_text(page):
    assert page.title() == "paper: report"
    assert page.locator("img[onerror]").count() == page.locator("b", has_text="bold").locator("b").count() == 0
    assert page.locator("#classes svg text", has_text="<img src=x").count() == 1
    assert page.locator("#review .path").first.inner_text().count("<b>") == 1


def test_the_summary_and_the_ranking_say_which_head_is_best(page):
    words = page.locator(".summary").inner_text()
    assert "is right on" in words
    assert "What to look at next" in words
    assert page.locator("#ranking svg .name").all_text_contents() == names(page)
    before = page.locator("#ranking svg").inner_html()
    page.click("#ranking button:has-text('log-loss')")
    assert page.locator("#ranking svg").inner_html() != before
    page.click("#ranking button:has-text('accuracy') >> nth=0")


def names(page):
    """Return the heads in the order of the ranking."""
    return page.locator("nav select option").all_text_contents()


def test_a_cell_of_the_confusion_matrix_opens_its_pictures(page):
    cell = page.locator(".matrix .cell:text-is('3')").first
    row, column = (int(cell.get_attribute(f"data-{side}")) for side in ("row", "column"))
    cell.click()
    assert cell.get_attribute("aria-pressed") == "true"
    assert page.locator("#cell h3").inner_text().endswith("3 pictures")
    cards = page.locator("#cell .card")
    assert cards.count() == 3
    for card in cards.all():
        assert sorted(CLASSES)[row] in card.inner_text()
        assert sorted(CLASSES)[column] in card.inner_text()
        assert card.locator("img").get_attribute("src").startswith("data:image/")


def test_the_matrix_is_walked_by_arrows(page):
    page.locator(".matrix .cell").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[document.activeElement.dataset.row, document.activeElement.dataset.column]") == ["1", "1"]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaPressed") == "true"


def test_lists_are_narrowed_by_label_split_and_path(page):
    page.click("#tab-suspects")
    everything = page.locator("#review .card").count()
    assert everything
    page.select_option("#review select[aria-label=split]", label="train")
    train = page.locator("#review .card").count()
    page.select_option("#review select[aria-label=split]", label="test")
    assert train + page.locator("#review .card").count() == everything
    page.select_option("#review select[aria-label=split]", value="")
    page.fill("#review input", "0/<b>00")
    assert page.locator("#review .card").count() == 1
    page.fill("#review input", "nowhere")
    assert page.locator("#review .empty").inner_text() == "None here."
    page.fill("#review input", "")
    page.locator("#tab-suspects").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#review [aria-selected=true]").inner_text().startswith("Copies")
    assert "test and train" in page.locator("#review .group").first.inner_text()


def test_corrections_are_exported_and_fit_takes_them(page, report, tmp_path):
    page.click("#tab-suspects")
    page.fill("#review input", "0/<b>00")
    card = page.locator("#review .card")
    suggested = card.locator(".bad").inner_text()
    card.locator("button").click()
    assert "corrected" in card.get_attribute("class")
    page.fill("#review input", "")
    page.click("#tab-copies")
    for drop in page.locator("#review .group").first.locator("select").all()[:1]:
        drop.focus()
        drop.select_option("drop")
    assert page.locator("#review .group").first.locator(".corrected").count() == 2  # its copy moves with it
    assert page.locator(".tray").inner_text().startswith("2 corrections 1 new label, 1 to drop")
    name, rows = download(page, "#export")
    assert name == "corrections.csv"
    assert list(rows[0]) == ["path", "digest", "label", "corrected"]
    assert [rows[0]["path"], rows[0]["corrected"]] == ["0/<b>00.png", suggested]
    assert rows[1]["corrected"] == "drop"
    file = tmp_path / "c.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue())
    store = report.parent / "features.h5"
    done = penult("fit", store, "--head", "ridge", "-o", tmp_path / "r.head", "--relabel", file)
    assert "labels corrected before: 1, pictures left out: 1" in done.stdout, done.stderr
    page.reload()  # what was corrected is still there
    page.wait_for_selector(".tray:not([hidden])")
    page.click(".tray button:has-text('Clear')")
    assert not page.locator(".tray").is_visible()
    assert not page.locator(".corrected").count()


def test_a_second_round_of_corrections_keeps_the_first(browser, tmp_path):
    store = make_store(tmp_path, ("ant", "bee", "cat"), per_class=8)
    heads = make_heads(store, ("centroid",))
    view = store.view()
    digests = [digest.decode() for digest in view.digests.tolist()]
    first = [
        ["path", "digest", "label", "corrected"],
        [view.paths[9], digests[9], "bee", "cat"],
        ["", digests[3], "", "drop"],
    ]
    (tmp_path / "c.csv").write_text("".join(f"{','.join(row)}\n" for row in first))
    for name, more in (("one", ()), ("two", ("--relabel", tmp_path / "c.csv"))):
        done = penult("report", store.path, *heads, "-o", tmp_path / f"{name}.html", "--quick", *more)
        assert done.returncode == 0, done.stderr
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.goto((tmp_path / "one.html").as_uri())
    choose(page, digests[9], "ant")
    page.goto((tmp_path / "two.html").as_uri())
    assert not page.locator(".tray").is_visible()  # what was chosen on the labels from before is none of this page's
    choose(page, digests[9], "ant")
    choose(page, digests[16], "bee")
    assert page.locator(".tray").inner_text().startswith("2 corrections 2 new labels, beside 2 from before")
    elsewhere = ["far.png", "f" * 64, "ant", "bee"]  # which another report of the set showed
    page.evaluate(
        """([known, row]) => {
          const key = Object.keys(localStorage).find((key) => localStorage[key].includes(known));
          localStorage[key] = JSON.stringify([...JSON.parse(localStorage[key]), row]);
        }""",
        [digests[16], elsewhere],
    )
    page.reload()
    _, rows = download(page, "#export")
    assert [list(row.values()) for row in rows] == [
        [view.paths[9], digests[9], "bee", "ant"],
        [view.paths[3], digests[3], "ant", "drop"],
        [view.paths[16], digests[16], "cat", "bee"],
        elsewhere,
    ]
    context.close()


def test_a_class_without_a_measured_picture_is_named(browser, tmp_path):
    store = make_store(tmp_path, ("ant", "bee", "cat"), per_class=8)
    digests = [digest.decode() for digest in store.view().digests.tolist()]
    lines = ["digest,corrected", *(f"{digest},drop" for digest in digests[22:])]  # every cat of test
    (tmp_path / "c.csv").write_text("\n".join(lines))
    command = ("report", store.path, *make_heads(store, ("centroid",)), "-o", tmp_path / "r.html", "--quick")
    done = penult(*command, "--relabel", tmp_path / "c.csv")
    assert done.returncode == 0, done.stderr
    with open_page(browser.new_context(), tmp_path / "r.html") as (page, troubles):
        assert page.locator("#classes svg .name").all_text_contents() == ["ant", "bee"]
        assert page.locator("#classes .remark").inner_text() == "Without a picture in test, and so not measured: cat."
        assert page.locator("#data code").inner_text() == f"penult info {tmp_path / 'pictures'}"
        assert not troubles


def choose(page, digest, label):
    """Give a picture another label, from the list of those that the map holds."""
    lasso(page)
    select = page.locator(f"#selection [data-digest='{digest}'] select").first
    select.focus()
    select.select_option(label)


def test_copies_under_two_labels_take_either_of_them(browser, tmp_path):
    store = make_store(tmp_path, ("ant", "bee", "cat"), per_class=8, copied_as=2)
    done = penult("report", store.path, *make_heads(store, ("centroid",)), "-o", tmp_path / "r.html", "--quick")
    assert done.returncode == 0, done.stderr
    with open_page(browser.new_context(accept_downloads=True), tmp_path / "r.html") as (page, troubles):
        lasso(page)
        page.select_option("#selection [aria-label='label of all of these']", "cat")
        _, rows = download(page, "#export")
        digest = store.view().digests[8].decode()  # a bee, and in test a cat
        assert [row["corrected"] for row in rows if row["digest"] == digest] == ["cat"]
        page.click(".tray button:has-text('Clear')")
        select = page.locator(f"#selection [data-digest='{digest}'] select").first
        select.focus()
        assert select.locator("option").all_text_contents()[2:] == ["ant", "bee", "cat"]
        assert not troubles


def test_a_lasso_lists_what_it_holds_and_exports_it(page):
    lasso(page)
    heading = page.locator("#selection h3").inner_text()
    name, rows = download(page, "#export-selection")
    assert name == "selection.csv"
    assert heading == f"{len(rows)} pictures selected"
    assert 40 < len(rows) <= 64
    assert {len(row["digest"]) for row in rows} == {64}
    assert {row["label"] for row in rows} == set(CLASSES)
    page.click("#selection button:has-text('Clear')")
    assert not page.locator("#selection").inner_text()


def test_the_map_shows_a_picture_on_hover_and_by_keys(page):
    canvas = page.locator("#map canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".tip img").get_attribute("src").startswith("data:image/")
    first = page.locator(".tip .path").inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert page.locator(".tip .path").inner_text() != first
    page.keyboard.press("Enter")
    assert page.locator("#selection h3").inner_text() == "1 picture selected"
    page.keyboard.press("Escape")
    assert not page.locator("#selection").inner_text()
    page.locator("h1").click()
    assert not page.locator(".tip").is_visible()
    shown = canvas.evaluate("c => c.toDataURL()")
    page.click("#map button:has-text('t-SNE')")
    assert canvas.evaluate("c => c.toDataURL()") != shown
    page.select_option("#map select", "answer")
    assert "is wrong" in page.locator("#map .legend").inner_text()


def test_another_head_changes_what_is_said(page):
    page.click("#tab-mistakes")
    for number, name in enumerate(names(page)):
        page.select_option("nav select", str(number))
        assert page.locator("#review .remark").first.inner_text().startswith(f"{name} is wrong about")
        assert f"; {name} is" in page.locator("#calibration .remark").inner_text()
    page.select_option("nav select", "0")


def test_few_pictures_are_counted_in_whole_numbers(browser, report, tmp_path):
    before, data, after = re.split(r'(?<=id="findings">)(.*?)(?=</script>)', report.read_text(), maxsplit=1, flags=re.S)
    content = json.loads(data)
    for most, head in zip((1, 3, 13), content["heads"], strict=False):
        head["calibration"] = [{**part, "n": most} for part in head["calibration"]]
    (tmp_path / "few.html").write_text(before + embedded_json(content) + after)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    with open_page(context, tmp_path / "few.html") as (page, troubles):
        for number in range(len(content["heads"])):
            page.select_option("nav select", str(number))
            axis = page.locator("#calibration svg").last.locator(".tick[text-anchor=end]")
            labels = [int(label) for label in axis.all_text_contents()]
            assert labels[0] == 0
            assert len({high - low for low, high in itertools.pairwise(labels)}) == 1
        assert not troubles


def test_light_and_dark(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    page.click("button.theme")
    assert page.evaluate(ground) != dark
    page.emulate_media(color_scheme="light")
    page.click("button.theme")
    assert page.evaluate(ground) == dark
    page.click("button.theme")


def test_a_phone_scrolls_one_way_alone(browser, report):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    with open_page(context, report) as (page, troubles):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        wide = "[...document.querySelectorAll('svg,canvas,.cards')].filter((e) => e.clientWidth > 340).length"
        assert page.evaluate(wide) == 0
        page.locator(".matrix .cell").first.tap()
        assert page.locator("#cell h3").count() == 1
        assert not troubles


def test_the_matrix_of_many_classes_is_walked_and_opened_too(browser, tmp_path):
    store = make_store(tmp_path, tuple(f"class {i:02d}" for i in range(30)), per_class=8)
    heads = make_heads(store, ("centroid",))
    assert penult("report", store.path, *heads, "-o", tmp_path / "r.html", "--quick").returncode == 0
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    with open_page(context, tmp_path / "r.html") as (page, troubles):
        page.locator(".many canvas").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert page.locator(".tip").inner_text().startswith("class 01 right: ")
        page.keyboard.press("Enter")
        assert page.locator("#cell h3").inner_text().startswith("class 01, answered rightly: ")
        worst = page.locator(".worst li").first
        n = int(worst.locator(".number").inner_text())
        worst.locator("button").click()
        assert page.locator("#cell .card").count() == n
        page.fill("#classes input", "class 17")
        assert page.locator("#classes svg .name").all_text_contents() == ["class 17"]
        assert not troubles
