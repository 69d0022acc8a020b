"""The live page, tried in a real browser: the numbers, the drawing, the front ends."""

import base64
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from page import network_operations, network_page, page_bundle, page_examples
from recipes import FINAL, FinalNet, Net, SmallNet, run_recipe
from results import ROOT

from helpers import load_model, normalise, read_mnist, receptive_field

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROME = next(filter(None, map(shutil.which, NAMES)), None)
needs_chrome = pytest.mark.skipif(not CHROME, reason=f"none of {', '.join(NAMES)} is installed")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
MNIST_ROOT = os.environ.get("MNIST_ROOT", str(ROOT / "data"))
WEIGHTS = os.environ.get("FINAL_WEIGHTS")  # of a trained FinalNet, to save the training
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder to keep pictures in

# Ten digits as strokes, x and y from 0 to 100, drawn by hand for this test.
DIGITS = [
    [[(50, 15), (32, 25), (25, 50), (32, 75), (50, 85), (68, 75), (75, 50), (68, 25), (50, 15)]],
    [[(52, 14), (50, 50), (48, 86)]],
    [[(28, 32), (36, 18), (54, 15), (68, 26), (66, 42), (48, 62), (28, 82), (50, 82), (76, 82)]],
    [[(30, 20), (50, 14), (68, 24), (64, 40), (46, 48), (66, 54), (72, 70), (56, 85), (28, 80)]],
    [[(32, 14), (28, 34), (26, 52), (50, 53), (74, 52)], [(66, 16), (64, 50), (62, 88)]],
    [[(70, 16), (36, 16), (33, 46), (54, 42), (70, 56), (68, 76), (48, 86), (26, 80)]],
    [[(62, 12), (42, 30), (30, 56), (34, 78), (52, 86), (68, 74), (64, 58), (46, 54), (33, 66)]],
    [[(26, 18), (50, 18), (74, 18), (62, 44), (50, 66), (44, 88)]],
    [
        [
            (68, 24),
            (50, 14),
            (34, 24),
            (42, 42),
            (60, 56),
            (68, 74),
            (50, 87),
            (33, 74),
            (42, 55),
            (60, 42),
            (68, 24),
        ]
    ],
    [[(68, 34), (54, 46), (36, 40), (36, 22), (52, 14), (67, 22), (68, 34), (64, 62), (58, 88)]],
]


class Mixed(nn.Module):
    """All that the page can run and the notebook's networks don't use."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 4, (3, 5), stride=(2, 1), padding="valid")
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.last = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.hidden, self.out = nn.Linear(8 * 4 * 6, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = self.wide(x)
        x = self.norm(self.grouped(torch.cat([x, torch.relu(x)], 1)))
        x = self.last(self.pool(x)).flatten(1)
        return torch.log_softmax(self.out(torch.relu(self.hidden(x))), 1)


class Averaged(nn.Sequential):
    """A mean over the map at its end, as the exercises' networks have."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 10, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1))


@pytest.fixture(scope="session")
def mnist():
    return read_mnist(MNIST_ROOT)


@pytest.fixture(scope="session")
def networks(mnist):
    """final, trained for a short while, and others whose BatchNorm has seen digits."""

    def few(count):
        return TensorDataset(normalise(mnist[0][:count]), mnist[1][:count])

    torch.set_num_threads(1)  # two get in each other's way where something else runs
    final = load_model(FinalNet(), WEIGHTS) if WEIGHTS else run_recipe(FINAL, few(6000), few(100), epochs=3)[0]
    torch.manual_seed(0)
    made = {"as submitted": Net(), "small": SmallNet(), "mixed": Mixed(), "averaged": Averaged()}
    with torch.no_grad():
        made["as submitted"].conv7.weight *= 100  # else its answers hardly differ from image to image
        for model in made.values():
            model(few(512)[:][0])  # in training mode: BatchNorm counts
    return {name: model.eval() for name, model in (made | {"final": final}).items()}


@pytest.fixture(scope="session")
def examples(networks, mnist):
    return page_examples(networks["final"], mnist[2][:3000], mnist[3][:3000])


@pytest.fixture(scope="session")
def bundle(networks, examples):
    """The output as in the notebook: as submitted and final."""
    return page_bundle({name: networks[name] for name in ("as submitted", "final")}, examples, 4)


@pytest.fixture(scope="session")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROME, args=QUIET)
        yield browser
        browser.close()


def blank_page(browser, **options):
    """A page that waits long enough for a slow machine."""
    page = browser.new_page(**options)
    page.set_default_timeout(120_000)
    return page


@pytest.fixture(scope="session")
def output(browser, bundle, tmp_path_factory):
    """The output in a page of its own, with the addresses that it asks for, and its errors."""
    path, asked, errors = tmp_path_factory.mktemp("output") / "output.html", [], []
    path.write_text(f"<meta charset=utf-8>{bundle['text/html']}<p style='height: 3000px'>", "utf-8")
    page = blank_page(browser, viewport={"width": 1200, "height": 960}, has_touch=True)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.frame_locator("iframe").locator("#answer", has_text="Answer").wait_for()
    yield page, path.as_uri(), asked, errors
    page.close()


@pytest.fixture
def opened(output):
    """The output as it opens; at the end, no error and no request may have come of it."""
    page, own, asked, errors = output
    inner(page).evaluate(
        """() => {
             pen = null, earlier = [], drawn = {example: examples[data.start]};
             if ($("why").checked) $("why").click();
             [...document.querySelectorAll("[name=network]")].at(-1).click();
             $("push").reset();
             answerWith("final");
             keep({layer: 4, map: 0, row: 6, column: 6});
             scrollTo(0, 0);
           }"""
    )
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(0, 0)
    text(page, "#answer")
    yield page
    assert [url for url in asked if not url.startswith(("data:", own, "about:"))] == []
    assert errors == []


def inner(page):
    """The frame in which the network page runs."""
    return [frame for frame in page.frames if frame.url == "about:srcdoc"][-1]


def place_of(page, x, y):
    """A point of the drawing, 0 to 100 from its left and top, in the page."""
    box = inner(page).locator("#drawing").bounding_box()
    return box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"]


def draw(page, strokes, steps=1):
    """Strokes with the mouse."""
    for first, *points in strokes:
        page.mouse.move(*place_of(page, *first))
        page.mouse.down()
        for point in points:
            page.mouse.move(*place_of(page, *point), steps=steps)
        page.mouse.up()


def picture(page, name):
    """Keep a screenshot, in the folder SCREENSHOTS where the environment names one, to be looked at."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"))


def text(page, selector):
    """A text of the page, after the next two frames."""
    inner(page).evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")
    return inner(page).locator(selector).inner_text()


def answer(page):
    """The log-probabilities that the page shows."""
    text(page, "#answer")
    return inner(page).evaluate("[...outputs.at(-1)]")


# ---------------------------------------------------------------- the operations, without a browser
def test_a_layer_that_the_page_cannot_run_is_named():
    model = nn.Sequential(nn.Conv2d(1, 10, 28), nn.GELU(), nn.Flatten(), nn.LogSoftmax(1))
    with pytest.raises(ValueError, match=r"'1' \(gelu\)"):
        network_operations(model)
    with pytest.raises(ValueError, match="must end"):
        network_page({"mine": nn.Sequential(nn.Conv2d(1, 10, 28))}, [])


def test_a_shared_convolution_is_stored_once():
    operations = network_operations(SmallNet())
    weights = [op["weight"] for op in operations if op["name"].startswith("shared1.conv")]
    assert len(weights) == 4 and len({type(each) for each in weights[1:]}) == 1
    assert operations[weights[1]]["weight"] == weights[0] and set(weights[1:]) == {weights[1]}
    assert operations[weights[1]]["name"] == "shared1.conv"


def test_the_output_is_small_and_holds_a_still(bundle):
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    assert len(json.dumps(bundle)) < 300_000
    assert bundle["text/html"].index("<img") < bundle["text/html"].index("<iframe")
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


# ---------------------------------------------------------------- the numbers, in the browser
@pytest.fixture(scope="session")
def every(browser, networks, examples, tmp_path_factory):
    """A page that holds all networks."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(network_page(networks, examples), "utf-8")
    page = blank_page(browser)
    page.goto(path.as_uri())
    yield page
    page.close()


@needs_chrome
@pytest.mark.parametrize("name", ["as submitted", "final", "small", "mixed", "averaged"])
def test_it_computes_what_pytorch_computes(name, every, networks, mnist):
    pixels = mnist[2][: 100 if name in ("mixed", "averaged") else 1000]
    found = every.evaluate(
        """([name, text]) => {
             const all = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), logs = [];
             for (let i = 0; i < all.length; i += 784)
               logs.push(networks[name].logProbabilities(all.subarray(i, i + 784)));
             return JSON.stringify(logs);
           }""",
        [name, base64.b64encode(pixels.numpy().tobytes()).decode()],
    )
    with torch.no_grad():
        expected = networks[name](normalise(pixels))
        untrained = type(networks[name])().eval()(normalise(pixels))
    difference = (torch.tensor(json.loads(found)) - expected).abs().max().item()
    print(f"{name}: largest difference {difference:.1e}")
    assert torch.allclose(torch.tensor(json.loads(found)), expected, rtol=1e-5, atol=1e-4)
    assert (untrained - expected).abs().max() > 0.1  # so weights that don't arrive would be noticed


def pair(value) -> tuple:
    return value if isinstance(value, tuple) else (value, value)


@needs_chrome
@pytest.mark.parametrize("name", ["as submitted", "final", "small", "mixed", "averaged"])
def test_every_units_field_is_the_tables(name, every, networks):
    table, operations = receptive_field(networks[name], every_layer=True), network_operations(networks[name])
    found = every.evaluate(
        """(name) => networks[name].operations.map(({shape: [, rows, columns]}, place) =>
             Array.from({length: rows * columns}, (_, i) =>
               networks[name].fieldOf(place, Math.floor(i / columns), i % columns)))""",
        name,
    )
    names, place = [*(op["name"].split(" #")[0] for op in operations), "the end"], -1
    seen = None
    for row in table.itertuples():  # both are in the order of the calls
        if names[place + 1] not in (row.layer, row.layer.removesuffix(".0")):  # passed on, as dropout is
            assert (row.start, row.jump, row.receptive_field) == seen, row.layer
            continue
        place, seen = place + 1, (row.start, row.jump, row.receptive_field)
        (top, left), (down, right) = pair(row.start), pair(row.jump)
        (height, width), (rows, columns) = pair(row.receptive_field), pair(row.output_size)
        starts = [(top + r * down, left + c * right) for r in range(rows) for c in range(columns)]
        assert found[place] == [[y, x, y + height - 1, x + width - 1] for y, x in starts], row.layer
    assert place == len(operations) - 1


@needs_chrome
def test_every_layer_says_how_a_value_is_made(every):
    """Of the unit in the corner, which reads padding, too."""
    said = {}
    for name in ("mixed", "final"):
        said |= every.evaluate(
            """(name) => {
                 answerWith(name);
                 think();
                 return Object.fromEntries(operations.slice(1).map(({kind}, place) => {
                   kept = {layer: place + 1, map: 0, row: 0, column: 0};
                   show();
                   return [kind, $("made").innerText];
                 }));
               }""",
            name,
        )
    assert said["average_pool"].count("padding") == 5 and said["average_pool"].startswith("The mean of")
    assert "counts most" in said["convolution"] and "one factor and one shift" in said["scale_and_shift"]
    words = "".join(said.values())
    assert len(said) == 9 and all(said.values()) and "NaN" not in words and "undefined" not in words


# ---------------------------------------------------------------- what a reader does
@needs_chrome
def test_drawn_digits_are_answered(opened):
    answers = []
    for strokes in DIGITS:
        inner(opened).click("#clear")
        draw(opened, strokes)
        answers.append(text(opened, "#answer"))
    right = [f"Answer: {digit} " in answer for digit, answer in enumerate(answers)]
    assert sum(right) >= 9, answers


@needs_chrome
def test_a_blank_canvas_answers_nothing_and_undo_goes_back(opened):
    frame, shown = inner(opened), text(opened, "#answer")
    frame.click("#clear")
    assert text(opened, "#status") == text(opened, "#answer") == "Draw something"
    assert set(frame.locator("#bars small").all_inner_texts()) == {"–"}
    draw(opened, DIGITS[4][:1])
    one = text(opened, "#answer")
    draw(opened, DIGITS[4][1:])
    assert text(opened, "#status") == text(opened, "#answer") != one
    frame.click("#undo")
    assert text(opened, "#answer") == one
    frame.click("#undo")
    assert text(opened, "#answer") == "Draw something"
    frame.click("#undo")
    assert text(opened, "#answer") == shown


@needs_chrome
def test_a_finger_draws_and_does_not_scroll(opened):
    inner(opened).click("#clear")
    touch = opened.context.new_cdp_session(opened)
    points = [place_of(opened, 50, y) for y in range(90, 10, -5)]
    for i, (x, y) in enumerate(points):
        kind = "touchMove" if i else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert "Answer: 1 " in text(opened, "#answer")
    assert opened.evaluate("scrollY") == 0 and inner(opened).evaluate("scrollY") == 0


@needs_chrome
def test_a_cancelled_stroke_is_taken_back(opened):
    inner(opened).click("#clear")
    touch = opened.context.new_cdp_session(opened)
    for kind, y in (("touchStart", 20), ("touchMove", 60)):
        x, y = place_of(opened, 50, y)
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    assert "Answer" in text(opened, "#answer")
    touch.send("Input.dispatchTouchEvent", {"type": "touchCancel", "touchPoints": []})
    assert text(opened, "#answer") == "Draw something"


@needs_chrome
def test_the_keyboard_reaches_everything(opened):
    frame, reached = inner(opened), set()
    frame.focus("#undo")
    for _ in range(40):
        reached.add(frame.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        opened.keyboard.press("Tab")
    controls = frame.evaluate(
        """() => [...document.querySelectorAll("*")].map((one, i) =>
             one.matches("button, [tabindex], input:not([type=radio]), input:checked") ? i : -1)"""
    )
    assert set(controls) - {-1} <= reached  # arrow keys move between the radio buttons
    frame.focus("#layers")
    before = text(opened, "#name")
    opened.keyboard.press("ArrowDown")
    assert before.startswith("Layer 4") and text(opened, "#name").startswith("Layer 5")
    assert text(opened, "#status").startswith("Layer 5")
    frame.focus("#map")
    opened.keyboard.press("ArrowRight")
    assert "row 6, column 7" in text(opened, "#name")
    frame.locator("#examples button").nth(3).press("Enter")
    assert "Answer: 3 " in text(opened, "#status")


@needs_chrome
def test_pointing_shows_a_unit_and_a_click_keeps_it(opened):
    frame = inner(opened)
    maps = frame.locator(".layer").nth(3).locator("canvas")
    maps.nth(2).hover(position={"x": 5, "y": 9})
    assert "map 2, row 4, column 2" in text(opened, "#name")
    assert "It sees 5×5 pixels: rows 7 to 11, columns 3 to 7." == text(opened, "#field")
    frame.hover("h2 >> nth=0")
    assert "map 0, row 6, column 6" in text(opened, "#name")
    maps.nth(2).click(position={"x": 5, "y": 9})
    frame.hover("h2 >> nth=0")
    assert "map 2, row 4, column 2" in text(opened, "#name")
    frame.locator(".layer").first.locator("canvas").first.click(position={"x": 0, "y": 0})
    assert "5 of the 9 lie in the padding" in text(opened, "#field")


@needs_chrome
def test_what_speaks_for_it_and_what_breaks_it(opened):
    frame = inner(opened)
    frame.check("#why")
    frame.locator("#because", has_text="dashed").wait_for()
    whole = answer(opened)
    frame.hover("#seen")  # covers pixels
    assert answer(opened) != whole
    frame.hover("h2 >> nth=0")
    assert answer(opened) == whole
    frame.fill("#turn", "90")
    assert answer(opened) != whole
    frame.locator("button", has_text="Put it back").click()
    assert answer(opened) == whole
    frame.check("input[name=network] >> nth=0")
    assert answer(opened) != whole


# What a fixed piece of arithmetic takes, in milliseconds: 9 where an answer has to come within 30.
ARITHMETIC = """() => {
  const times = Array.from({length: 7}, () => {
    const start = performance.now(), numbers = new Float32Array(1000).fill(1.5);
    for (let i = 0; i < 5e6; i++) numbers[i % 1000] = numbers[i % 1000] * 0.5 + 1;
    return performance.now() - start;
  });
  return times.sort((one, other) => one - other)[3];
}"""


@needs_chrome
def test_an_answer_takes_less_than_30_ms(opened):
    """In the best of up to five drawings, as other work only adds time; on a slower machine in proportion."""
    frame = inner(opened)
    frame.evaluate(
        """() => {
             window.times = [];
             let since = null;
             addEventListener("pointermove", (event) => { since ??= event.timeStamp; }, true);
             new MutationObserver(() => {
               if (since !== null) times.push(performance.now() - since);
               since = null;
             }).observe(document.getElementById("answer"), {childList: true});
           }"""
    )
    for _ in range(5):
        frame.click("#clear")
        frame.evaluate("times = []")
        draw(opened, DIGITS[3], steps=5)
        times, arithmetic = frame.evaluate("times"), frame.evaluate(ARITHMETIC)
        median, bound = statistics.median(times), 30 * max(1, arithmetic / 9)
        print(f"stroke to answer: median {median:.1f} ms of {len(times)}; arithmetic {arithmetic:.1f} ms")
        assert len(times) > 20
        if median < bound:
            break
    assert median < bound


# ---------------------------------------------------------------- front ends
@pytest.fixture(scope="session")
def notebook(bundle, tmp_path_factory):
    """A notebook with the stored output, that nobody has trusted."""
    output = nbformat.v4.new_output("display_data", bundle)
    cells = [nbformat.v4.new_code_cell("show_page(...)", outputs=[output], execution_count=1)]
    path = tmp_path_factory.mktemp("notebook") / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture(scope="session")
def exported(notebook):
    """The notebook as HTML."""
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", str(notebook)]
    subprocess.run(command, check=True, capture_output=True)
    return notebook.with_suffix(".html").as_uri()


@needs_chrome
@pytest.mark.parametrize("width", [360, 1200])
def test_exported_html_runs_it(width, browser, exported):
    page = blank_page(browser, viewport={"width": width, "height": 1000})
    page.route("https://**", lambda route: route.abort())  # nbconvert's own scripts
    page.goto(exported, wait_until="domcontentloaded")
    page.frame_locator("iframe").locator("#answer", has_text="Answer").wait_for()
    draw(page, DIGITS[7])
    assert "Answer: 7 " in text(page, "#answer")
    assert page.locator("iframe").bounding_box()["height"] <= 1000
    assert inner(page).evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture(page, f"nbconvert_{width}")
    page.close()


@needs_chrome
def test_it_runs_in_a_frame_as_colab_gives_each_output(browser, bundle):
    """Colab itself isn't here: its frame has another origin, and grows with its content to 1000 pixels."""
    page = blank_page(browser, viewport={"width": 1000, "height": 1000})
    page.set_content("<iframe style='width: 100%; border: 0' sandbox='allow-scripts allow-forms'></iframe>")
    page.locator("iframe").evaluate("(frame, text) => { frame.srcdoc = text; }", bundle["text/html"])
    output = page.frame_locator("iframe")
    output.frame_locator("iframe").locator("#answer", has_text="Answer").wait_for()
    height = output.locator("html").evaluate("(whole) => whole.scrollHeight")
    assert height <= 1000
    page.locator("iframe").evaluate("(frame, height) => { frame.style.height = `${height}px`; }", height)
    draw(page, DIGITS[7])
    assert "Answer: 7 " in text(page, "#answer")
    picture(page, "colab_like")
    page.close()


@needs_chrome
def test_without_scripts_the_still_shows(browser, bundle, tmp_path):
    silent = bundle["text/html"].replace('sandbox="allow-scripts"', 'sandbox=""')
    (tmp_path / "still.html").write_text(silent, "utf-8")
    page = blank_page(browser)
    page.goto((tmp_path / "still.html").as_uri())
    assert not page.frame_locator("iframe").locator("main").is_visible()
    assert page.locator("img").is_visible()
    picture(page, "without_scripts")
    page.close()


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on loopback, in a folder and with settings of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        "MNIST_ROOT": str(Path(MNIST_ROOT).resolve()),
        "EPOCHS": "1",
    }
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={port}",
            "--IdentityProvider.token=",
            f"--ServerApp.root_dir={tmp_path}",
            "--LabApp.news_url=",
            "--LabApp.collaborative=False",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(400):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api").close()
            break
        except OSError:
            time.sleep(0.3)
    yield f"http://127.0.0.1:{port}/lab/tree"
    server.kill()
    server.wait()


@needs_chrome
def test_an_untrusted_copy_in_jupyterlab_shows_the_still(browser, notebook, lab, tmp_path):
    shutil.copy(notebook, tmp_path)
    page = blank_page(browser, viewport={"width": 1200, "height": 900})
    page.goto(f"{lab}/{notebook.name}")
    still = page.locator(".jp-OutputArea-output img")
    still.wait_for(timeout=60_000)
    assert page.locator(".jp-OutputArea-output iframe").count() == 0
    assert still.evaluate("(image) => image.complete && image.naturalWidth") == 660
    picture(page, "untrusted_jupyterlab")
    page.close()


@needs_chrome
@pytest.mark.slow
def test_run_all_in_jupyterlab(browser, lab, tmp_path):
    """The whole notebook with EPOCHS=1: no error, and a digit is drawn."""
    root = Path(__file__).parents[1]
    for path in ("S6_Part2.ipynb", "helpers.py"):
        shutil.copy(root / path, tmp_path)
    page = blank_page(browser, viewport={"width": 1200, "height": 900})
    page.goto(f"{lab}/S6_Part2.ipynb")
    idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first
    idle.wait_for(timeout=120_000)
    busy = page.locator(".jp-Notebook-ExecutionIndicator[data-status=busy]").first
    for _ in range(10):  # a click that comes too early is lost
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator("[role=menuitem][data-command='runmenu:run-all']").click()
        time.sleep(5)
        if busy.count():
            break
    assert busy.count()
    idle.wait_for(state="attached", timeout=1_800_000)
    page.keyboard.press("Control+s")
    saved, runs = tmp_path / "S6_Part2.ipynb", []
    for _ in range(60):
        outputs = [cell.outputs for cell in nbformat.read(saved, 4).cells if cell.cell_type == "code"]
        runs = [each for each in outputs if "1/1 epochs" in str(each)]
        if runs:
            break
        time.sleep(1)
    assert not any(output.output_type == "error" for each in outputs for output in each)
    assert len(runs) == 3 and all("image/png" in str(each) for each in runs)  # the curves
    live = page.locator("iframe[title='The network, live']")
    live.scroll_into_view_if_needed()
    inner(page).locator("#answer", has_text="Answer").wait_for()
    draw(page, DIGITS[3])
    answered = text(page, "#answer")
    picture(page, "run_all_jupyterlab")
    assert "Answer: 3 " in answered
    page.close()
