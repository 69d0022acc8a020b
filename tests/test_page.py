"""The live page, tried in a real browser: its numbers, and what a reader does with it."""

import base64
import html
import json
import re
import shutil
import statistics

import pytest
import torch
from torch import nn

from benchmarks.recipes import Net, fast_network, final_network, small_network
from helpers import TensorLoader, normalise, read_mnist, train
from lesson import page as lesson_page
from lesson.fields import trace
from lesson.page import network_operations, network_page, page_examples, show_page

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not CHROME, reason="no Chromium or Chrome is installed")

# Digits as strokes, x and y from 0 to 100, drawn by hand for this test.
DIGITS = {
    1: [[(52, 14), (50, 50), (48, 86)]],
    2: [[(28, 32), (36, 18), (54, 15), (68, 26), (66, 42), (48, 62), (28, 82), (50, 82), (76, 82)]],
    3: [[(30, 20), (50, 14), (68, 24), (64, 40), (46, 48), (66, 54), (72, 70), (56, 85), (28, 80)]],
    4: [[(32, 14), (28, 34), (26, 52), (50, 53), (74, 52)], [(66, 16), (64, 50), (62, 88)]],
    7: [[(26, 18), (50, 18), (74, 18), (62, 44), (50, 66), (44, 88)]],
}


class Mixed(nn.Module):
    """What the page can run and the lesson's networks don't use; it ends in logits."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 4, (3, 5), stride=(2, 1), padding="valid")
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.pools = nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(2, 2, ceil_mode=True))
        self.norm, self.drop = nn.BatchNorm2d(8, affine=False), nn.Dropout()
        self.hidden, self.out = nn.Linear(8 * 4 * 6, 12), nn.Linear(12, 10, bias=False)

    def forward(self, x):
        x = self.wide(x)
        x = self.norm(self.grouped(torch.cat([x, torch.relu(x)], 1)))
        return self.out(self.drop(torch.relu(self.hidden(self.pools(x).flatten(1)))))


@pytest.fixture(scope="module")
def mnist():
    return read_mnist("data")


@pytest.fixture(scope="module")
def networks(mnist):
    """fast, trained for a moment, and others whose BatchNorm has seen digits."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    averaged = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1))
    made = {
        "averaged": averaged,
        "as submitted": Net(),
        "final": final_network(),
        "small": small_network(),
        "mixed": Mixed(),
    }
    images = normalise(mnist[0][:12000])
    with torch.no_grad():
        made["as submitted"].conv7.weight *= 100  # else its answers hardly differ from image to image
        for model in made.values():
            model(images[:512])  # in training mode: BatchNorm counts
    made["fast"] = fast_network()
    loader = TensorLoader(torch.utils.data.TensorDataset(images, mnist[1][:12000]), 64, shuffle=True)
    train(made["fast"], "cpu", loader, torch.optim.Adam(made["fast"].parameters(), 0.003))
    return {name: model.eval() for name, model in made.items()}


@pytest.fixture(scope="module")
def examples(networks, mnist):
    return page_examples(networks["fast"], mnist[2][:3000], mnist[3][:3000])


@pytest.fixture(scope="module")
def output(networks, examples):
    """The output as in the notebook, of as submitted and fast."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lesson_page, "display", lambda data, raw: shown.append(data))
        show_page({name: networks[name] for name in ("as submitted", "fast")}, examples, start=4)
    return shown[0]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROME, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, output, tmp_path):
    """The page as docs/index.html has it; at the end, no error and no request may have come of it."""
    path, asked, errors = tmp_path / "index.html", [], []
    path.write_text(html.unescape(re.search('srcdoc="([^"]*)"', output["text/html"])[1]), "utf-8")
    page = browser.new_page(viewport={"width": 1000, "height": 940}, has_touch=True)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert asked == [path.as_uri()] and errors == []


@pytest.fixture(scope="module")
def every(browser, networks, examples):
    """A page that holds all networks."""
    page = browser.new_page()
    page.set_content(network_page(networks, examples))
    return page


def text(page, selector):
    """A text of the page, after the next frames."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 80)))")
    return page.locator(selector).inner_text()


def place_of(page, x, y):
    """A point of the drawing, 0 to 100 from its left and top, in the page."""
    box = page.locator("#drawing").bounding_box()
    return box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"]


def draw(page, strokes, steps=1):
    """Strokes with the mouse."""
    for first, *points in strokes:
        page.mouse.move(*place_of(page, *first))
        page.mouse.down()
        for point in points:
            page.mouse.move(*place_of(page, *point), steps=steps)
        page.mouse.up()


def answer(page):
    """The log-probabilities that the page shows."""
    text(page, "#answer")
    return page.evaluate("[...outputs.at(-1)]")


# ---- The document


def test_a_layer_that_the_page_cannot_run_is_named():
    ends = [nn.Flatten(), nn.LogSoftmax(1)]
    with pytest.raises(ValueError, match=r"'1' \(gelu\)"):
        network_operations(nn.Sequential(nn.Conv2d(1, 10, 28), nn.GELU(), *ends))
    with pytest.raises(ValueError, match="ten answers"):
        network_operations(nn.Sequential(nn.Conv2d(1, 12, 28), *ends))


def test_the_output_is_small_and_says_what_to_do_without_scripts(output, networks, examples):
    assert list(output) == ["text/html", "text/plain"] and len(json.dumps(output)) < 320_000
    words = re.search("<p.*?>(.*?)</p>", output["text/html"])[1]
    assert "docs/index.html" in words and words == output["text/plain"]
    assert output["text/html"].index("<p") < output["text/html"].index("<iframe")


def test_layers_have_the_lessons_names(networks):
    names = [operation["name"] for operation in network_operations(networks["final"])]
    assert names[:5] == ["image", "stem", "stem", "stem", "down1"] and "residual2" in names


def test_examples_are_one_of_each_class_and_the_surest_mistakes(networks, examples):
    with torch.no_grad():
        answers = networks["fast"](normalise(torch.stack([image for image, _ in examples]))).argmax(1).tolist()
    labels = [label for _, label in examples]
    assert labels[:10] == answers[:10] == list(range(10))
    assert len(labels) == 13 and all(label != answer for label, answer in zip(labels[10:], answers[10:]))


# ---- The numbers


def test_it_computes_what_pytorch_computes(every, networks, mnist):
    pixels = mnist[2][:100]
    for name, model in networks.items():
        found = every.evaluate(
            """([name, text]) => {
                 const all = bytes(text), places = Array.from({length: all.length / 784}, (_, i) => 784 * i);
                 return places.map((i) => networks[name].logProbabilities(all.subarray(i, i + 784)));
               }""",
            [name, base64.b64encode(pixels.numpy().tobytes()).decode()],
        )
        with torch.no_grad():
            expected = model(normalise(pixels)).log_softmax(1)
        assert (torch.tensor(found) - expected).abs().max() < 1e-4, name
        assert expected.std(0).max() > 0.01, name  # it differs from image to image


def test_every_units_field_is_the_tables(every, networks):
    for name, model in networks.items():
        found = every.evaluate(
            """(name) => networks[name].operations.map(({shape: [, rows, columns]}, place) =>
                 [[0, 0], [rows - 1, columns - 1]].map((unit) => networks[name].fieldOf(place, ...unit)))""",
            name,
        )
        for operation, fields in zip(trace(model), found):  # a log-softmax may come after
            ends = operation.shape[2:] if len(operation.shape) == 4 else (1, 1)
            for unit, (top, left, bottom, right) in zip([(0, 0), (ends[0] - 1, ends[1] - 1)], fields):
                corner = [start + at * jump for start, at, jump in zip(operation.start, unit, operation.jump)]
                seen = [top, left], (bottom - top + 1, right - left + 1)
                assert seen == (corner, operation.field), (name, operation.name)


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
    assert said["average_pool"].count("padding") == 5 and "counts most" in said["convolution"]
    assert len(said) == 9 and all(said.values()) and not re.search("NaN|undefined", "".join(said.values()))


def test_digits_are_placed_as_in_mnist(every, mnist):
    """An MNIST digit stays as it is; what is drawn ends with its centre of mass at pixel 14."""
    pixels = mnist[2][:60]
    placed = every.evaluate(
        """(text) => {
             const all = bytes(text), placed = [];
             const see = (next) => { drawn = next; think(); return [...digit.pixels]; };
             for (let i = 0; i < all.length; i += 784) {
               const pixels = all.slice(i, i + 784), inked = [...pixels.keys()].filter((k) => pixels[k] > 127);
               const dots = inked.map((k) => [[3 + 0.7 * (k % 28), 1 + 0.7 * Math.floor(k / 28)]]); // moved, smaller
               placed.push([see({example: {pixels}, strokes: []}), see({strokes: dots})]);
             }
             return placed;
           }""",
        base64.b64encode(pixels.numpy().tobytes()).decode(),
    )
    same, drawn = torch.tensor(placed, dtype=torch.float64).view(-1, 2, 28, 28).unbind(1)
    assert torch.equal(same, pixels.double())
    mass, places = drawn.sum((1, 2)), torch.arange(28.0, dtype=torch.float64)
    centres = torch.stack([drawn.sum(2) @ places, drawn.sum(1) @ places]) / mass
    assert (centres - 14).abs().max() < 0.55 and (centres.mean(1) - 14).abs().max() < 0.15  # moved by whole pixels


# ---- What a reader does


def test_drawn_digits_are_answered(opened):
    right = 0
    for digit, strokes in DIGITS.items():
        opened.click("#clear")
        draw(opened, strokes)
        right += f"Answer: {digit} " in text(opened, "#answer")
    assert right >= 4  # of 5, by a network that was trained for a moment


def test_a_blank_canvas_answers_nothing_and_undo_goes_back(opened):
    shown = text(opened, "#answer")
    opened.click("#clear")
    assert text(opened, "#status") == text(opened, "#answer") == "Draw something"
    opened.locator("#drawing").click()
    assert "Answer" in text(opened, "#answer")  # to a dot
    opened.click("#undo")
    draw(opened, DIGITS[4][:1])
    one = text(opened, "#answer")
    draw(opened, DIGITS[4][1:])
    assert text(opened, "#status") == text(opened, "#answer") != one
    for expected in (one, "Draw something", shown):
        opened.click("#undo")
        assert text(opened, "#answer") == expected


def test_a_finger_draws_without_scrolling_and_a_cancelled_stroke_is_taken_back(opened):
    opened.set_viewport_size({"width": 360, "height": 640})
    opened.click("#clear")
    touch = opened.context.new_cdp_session(opened)
    for end in ("touchCancel", "touchEnd"):
        for i, y in enumerate(range(90, 10, -10)):
            x, y = place_of(opened, 50, y)
            kind = "touchMove" if i else "touchStart"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        assert "Answer" in text(opened, "#answer") and opened.evaluate("scrollY") == 0
        touch.send("Input.dispatchTouchEvent", {"type": end, "touchPoints": []})
        assert (text(opened, "#answer") == "Draw something") == (end == "touchCancel")


def test_the_keyboard_reaches_everything(opened):
    reached, everything = set(), "[...document.querySelectorAll('*')]"
    opened.focus("#undo")
    for _ in range(30):
        reached.add(opened.evaluate(f"{everything}.indexOf(document.activeElement)"))
        opened.keyboard.press("Tab")
    wanted = "button, [tabindex], input:not([type=radio]), input:checked"  # arrow keys move between radio buttons
    controls = opened.evaluate(f"{everything}.flatMap((one, i) => one.matches('{wanted}') ? [i] : [])")
    assert set(controls) <= reached
    opened.focus("#layers")
    opened.keyboard.press("ArrowDown")
    assert text(opened, "#name").startswith("Layer 5")
    opened.keyboard.press("ArrowRight")  # another map: on a busy machine what is said may be a frame behind
    assert "map 1" in text(opened, "#name") and text(opened, "#status").startswith("Layer 5")
    opened.focus("#map")
    opened.keyboard.press("ArrowLeft")
    assert "row 5, column 4" in text(opened, "#name")
    opened.locator("#examples button").nth(3).press("Enter")
    assert "Answer: 3 " in text(opened, "#status")


def test_pointing_shows_a_unit_and_a_click_keeps_it(opened):
    maps = opened.locator(".layer").nth(0).locator("canvas")
    maps.nth(2).hover(position={"x": 5, "y": 9})
    assert "map 2, row 4, column 2" in text(opened, "#name")  # a unit of 12×12 on 24×24 pixels
    assert text(opened, "#field") == "It sees 5×5 pixels: rows 8 to 12, columns 4 to 8."
    opened.hover("h2 >> nth=0")
    assert "Layer 4" in text(opened, "#name")
    maps.nth(2).click(position={"x": 5, "y": 9})
    opened.hover("h2 >> nth=0")
    assert "map 2, row 4, column 2" in text(opened, "#name")
    opened.locator(".layer").nth(3).locator("canvas").first.click(position={"x": 0, "y": 0})
    assert "32 of the 81 lie in the padding" in text(opened, "#field")


def test_what_speaks_for_it_and_what_breaks_it(opened):
    opened.check("#why")
    opened.locator("#because", has_text="dashed").wait_for()
    whole = answer(opened)
    opened.hover("#seen")  # covers pixels
    assert answer(opened) != whole
    opened.hover("h2 >> nth=0")
    assert answer(opened) == whole
    opened.fill("#turn", "90")
    assert answer(opened) != whole and text(opened, "output[for=turn]") == "90°"
    opened.click("#back")
    assert answer(opened) == whole
    opened.check("input[name=network] >> nth=0")
    assert answer(opened) != whole


def test_an_answer_takes_less_than_30_ms(opened):
    """The faster quarter, in the best of up to five drawings: other work only adds time."""
    opened.evaluate(
        """() => {
             window.times = [];
             let since = null;
             addEventListener("pointermove", (event) => { since ??= event.timeStamp; }, true);
             new MutationObserver(() => {
               if (since !== null) times.push(performance.now() - since);
               since = null;
             }).observe($("answer"), {childList: true});
           }"""
    )
    for _ in range(5):
        opened.click("#clear")
        opened.evaluate("times = []")
        draw(opened, DIGITS[3], steps=5)
        quarter, median, _ = statistics.quantiles(opened.evaluate("times"))
        print(f"from stroke to answer: {quarter:.1f} ms, median {median:.1f}")
        if quarter < 30:
            break
    assert quarter < 30


@pytest.mark.parametrize("width", [1000, 360])
def test_an_accessibility_checker_finds_nothing(width, opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    opened.set_viewport_size({"width": width, "height": 940})
    opened.check("#why")
    opened.locator("#because", has_text="dashed").wait_for()
    found = axe.run(opened, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_scripts_the_words_show(browser, output):
    page = browser.new_page()
    page.set_content(output["text/html"].replace('sandbox="allow-scripts"', 'sandbox=""'))
    assert not page.frame_locator("iframe").locator("main").is_visible()
    assert page.get_by_text("docs/index.html").is_visible()
    page.set_content(output["text/html"])
    page.frame_locator("iframe").locator("#answer", has_text="Answer").wait_for()
    page.close()
