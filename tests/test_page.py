"""The live page, tried in a real browser: its numbers, and what a reader does with it."""

import copy
import html
import json
import math
import os
import re
import shutil
import subprocess
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from PIL import Image
from torch import nn

from helpers import TensorLoader, normalise, read_mnist, train
from lesson.fields import trace
from lesson.networks import Net, fast_network, final_network, small_network
from lesson.page import Stops, data_of, frame, network_operations, page_examples, render, show_page

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not CHROME, reason="no Chromium or Chrome is installed")

FOUR = [[(32, 14), (28, 34), (26, 52), (50, 53), (74, 52)], [(66, 16), (64, 50), (62, 88)]]  # strokes, 0 to 100


class BothSides(nn.Module):
    def forward(self, x):
        return torch.cat([x, torch.relu(x)], 1)


def mixed_network() -> nn.Sequential:
    """What the page can run and the lesson's networks don't use; it ends in logits."""
    layers = [nn.Conv2d(1, 4, (3, 5), stride=(2, 1), padding="valid"), BothSides()]
    layers += [nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(8, affine=False)]
    layers += [nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(2, 2, ceil_mode=True), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(192, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 10, bias=False))


@pytest.fixture(scope="module")
def made():
    """networks, whose BatchNorm has seen digits; stops, examples, and pixels of test images. fast is trained a little."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels, labels, *test = read_mnist("data")
    images = normalise(pixels[:12000])
    averaged = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1))
    networks = {"averaged": averaged, "as submitted": Net(), "final": final_network(), "small": small_network()}
    networks |= {"mixed": mixed_network(), "fast": fast_network()}
    states = [Net(), copy.deepcopy(networks["as submitted"]), networks["as submitted"]]
    with torch.no_grad():
        for model in [*networks.values(), *states[:2]]:
            model(images[:512])  # in training mode: BatchNorm counts
        for state in states[1:]:
            state.conv7.weight *= 100  # else its answers hardly differ from image to image
        states[1].conv1.weight.neg_()
    loader = TensorLoader(torch.utils.data.TensorDataset(images, labels[:12000]), 64, shuffle=True)
    train(networks["fast"], "cpu", loader, torch.optim.Adam(networks["fast"].parameters(), 0.003))
    networks = {name: model.eval() for name, model in networks.items()}
    examples = page_examples(networks["fast"], *(part[:3000] for part in test))
    return SimpleNamespace(networks=networks, stops=list(zip((0, 2, 5), states)), examples=examples, pixels=test[0])


def log_probabilities(model, *images):
    """PyTorch's, of uint8 images (28, 28), by the model as the page holds it: in 16 bits."""
    with torch.no_grad():
        return copy.deepcopy(model).half().float().eval()(normalise(torch.stack(images))).log_softmax(1)


def output_of(networks, examples, start=0):
    """The output in the notebook, and its page as docs has it."""
    with mock.patch("lesson.page.display") as display:
        show_page(networks, examples, start)
    data = display.call_args.args[0]
    return data, html.unescape(re.search('srcdoc="([^"]*)"', data["text/html"])[1])


@pytest.fixture(scope="module")
def output(made):
    """Of as submitted with its training, and fast; it opens with the 4."""
    return output_of({"as submitted": made.stops, "fast": made.networks["fast"]}, made.examples, start=4)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROME, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, output):
    """The page in a tab; at the end, no error and no request may have come of it."""
    page, noted = browser.new_page(viewport={"width": 1000, "height": 940}, has_touch=True), []
    for event in ("request", "console", "pageerror"):
        page.on(event, lambda what: noted.append(str(what)))
    page.set_content(output[1])
    yield page
    page.close()
    assert noted == []


@pytest.fixture(scope="module")
def every(browser, made):
    """A page that holds all networks, and a training."""
    page = browser.new_page()
    page.set_content(output_of(made.networks | {"as submitted": made.stops}, made.examples)[1])
    return page


def text(page, selector):
    """A text of the page, after the next frames."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 80)))")
    return page.locator(selector).inner_text()


def draw(page, *points):
    """A stroke with the mouse; points are 0 to 100 from the drawing's left and top."""
    box = page.locator("#drawing").bounding_box()
    for i, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"])
        page.mouse.down() if i == 0 else None
    page.mouse.up()


def percent(share):
    """As the page says it, of 1% and more."""
    return "> 99.99%" if share > 0.9999 else f"{100 * share:.{2 if share > 0.99 else 1}f}%"


def answer(page):
    """The log-probabilities that the page shows."""
    text(page, "#answer")
    return page.evaluate("logShares(outputs.at(-1))")


def colours(page, selector, index=0):
    """A canvas as drawn: (rows, columns, 4), red to alpha, 0 to 255."""
    text(page, "#answer")
    height, *values = page.locator(f"{selector} >> nth={index}").evaluate(
        """(canvas) => {
             const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {willReadFrequently: true});
             copy.drawImage(canvas, 0, 0);
             return [canvas.height, ...copy.getImageData(0, 0, canvas.width, canvas.height).data];
           }"""
    )
    return torch.tensor(values).view(height, -1, 4)


def test_what_the_page_cannot_run_is_named():
    over_the_batch = nn.LogSoftmax(0)
    for layer, words in ((nn.GELU(), "(gelu); it can run convolution, linear"), (over_the_batch, "(_log_softmax)")):
        with pytest.raises(ValueError, match=re.escape(f"'1' {words}")):
            network_operations(nn.Sequential(nn.Conv2d(1, 10, 28), layer, nn.Flatten()))


def test_a_stored_page_is_small_runs_in_its_frame_and_is_made_again_from_its_data(browser, output):
    data, document = output
    assert len(json.dumps(data)) < 320_000 and "docs/index.html" in data["text/plain"]
    assert frame(render(data_of(document)), data["text/plain"]) == data["text/html"]
    page = browser.new_page()
    page.set_content(data["text/html"])
    page.frame_locator("iframe").locator("#answer", has_text="Answer").wait_for()
    page.close()


def test_stops_are_copies_from_before_the_training_to_its_last_epoch():
    model, history, called = nn.Linear(1, 1), [], []
    stops = Stops(model, called.append, (0, 1, 4))
    for epoch in range(1, 4):
        model.weight.data.fill_(epoch)
        history.append({"epoch": epoch})
        stops(history)
    assert [(epoch, copied.weight.item()) for epoch, copied in stops[1:]] == [(1, 1), (3, 3)]
    assert stops[0][0] == 0 and abs(stops[0][1].weight.item()) < 1 and called == [history] * 3


def test_it_computes_what_pytorch_computes(every, made):
    pixels = made.pixels[:100]
    every.evaluate("(images) => { window.images = images; }", pixels.flatten(1).tolist())
    run = "networks[place].stop = stop; return images.map((image) => networks[place].logProbabilities(image));"
    for place, (name, model) in enumerate(made.networks.items()):
        for stop, (_, state) in enumerate(made.stops if name == "as submitted" else [(None, model)]):
            found = torch.tensor(every.evaluate(f"([place, stop]) => {{ {run} }}", [place, stop]))
            expected = log_probabilities(state, *pixels)
            assert (found - expected).abs().max() < 1e-4, name
        assert expected.std(0).max() > 0.001, name  # it differs from image to image
    exact = made.networks["fast"](normalise(pixels)).detach()
    assert (found - exact).abs().max() < 0.02 and (found.argmax(1) == exact.argmax(1)).all()  # fast came last


# The page's words for a unit, and what value they give; others only pass numbers on.
WORDS = {
    "scale_and_shift": (r"(\S+) × (\S+) \+ (\S+): after .*", lambda x, factor, shift: x * factor + shift),
    "relu": (r"The larger of 0 and (\S+)\.", lambda x: max(0, x)),
    "max_pool": (r"The largest of (.+)\.", lambda *read: max(x for x in read if x is not None)),
    "average_pool": (r"The mean of (.+)\.", lambda *read: sum(x or 0 for x in read) / len(read)),
    "add": (r"(\S+) \+ (\S+)", lambda x, y: x + y),
    "log_softmax": (r"The score .* a probability, (?:[<>] )?(\S+)%\.", lambda percent: math.log(percent / 100)),
}


def numbers(*words):
    """All numbers in the words; None for padding."""
    found = re.findall(r"−?\d+\.\d\d?|padding", " ".join(words))
    return [None if word == "padding" else float(word.replace("−", "-")) for word in found]


def sum_of_products(made, tables):
    """What the words for a convolution's unit give; the map that counts most is checked by its figures."""
    words, _, terms = made.partition("counts most, with ")
    (top, *_), (bias,), (patch, kernel) = numbers(terms), numbers(words), map(numbers, tables)
    assert abs(sum(x * y for x, y in zip(patch, kernel)) - top) < 0.006 * (1 + sum(map(abs, patch + kernel)))
    terms = numbers(*re.findall(r"\d+: \S+", terms))
    assert terms[0] == top
    return bias + sum(terms) if len(terms) < 32 else None  # of more, the first are shown


def test_what_a_unit_says_sums_to_its_value(every, made):
    """In a corner, which reads padding, and elsewhere; in the first map and in later ones."""
    said, checked = "", []
    for name in ("mixed", "averaged", "final", "as submitted"):
        units = every.evaluate(
            """(place) => {
                 answerWith(networks[place]);
                 think();
                 return answering.operations.slice(1).flatMap(({kind, shape: [maps, rows, columns]}, place) =>
                   [[0, 0, 0], [1, rows >> 1, columns >> 1], [maps - 2, rows >> 1, columns / 3 | 0]].map((unit) => {
                     keep({layer: place + 1, map: unit[0], row: unit[1], column: unit[2]});
                     show();
                     const tables = [...document.querySelectorAll("#made pre")].map((table) => table.innerText);
                     return [kind, $("name").innerText, $("made").innerText, tables];
                   }));
               }""",
            list(made.networks).index(name),
        )
        for kind, title, words, tables in units:
            (value,), said = numbers(title.split(" = ")[1]), said + words
            found, slack = None, 0.006 * (words.count(":") + 1)
            if kind == "convolution":
                found = sum_of_products(words, tables)
            elif kind in WORDS:
                pattern, value_of = WORDS[kind]
                read = numbers(*re.fullmatch(pattern, words).groups())
                found, slack = value_of(*read), 0.006 * (2 + sum(abs(x or 0) for x in read[:2]))
            if found is not None and value > -3:  # of a log-probability below, too few digits are shown
                assert abs(found - value) < slack, (name, title, words)
                checked += [kind] if abs(value) > slack else []  # a 0 says little
    assert "padding" in said and not re.search("NaN|undefined", said)
    assert min(map(checked.count, ["convolution", *WORDS])) >= 2


def test_colours_say_the_sign_and_the_size(opened, made):
    """Of the first layer's kernels and maps, at the training's first stop and in fast."""
    read = "(names) => names.map((one) => getComputedStyle(one).backgroundColor.match(/\\d+/g).map(Number))"
    blue, orange = torch.tensor(opened.locator("h2 span").evaluate_all(read))
    for stop, layer in ((None, made.networks["fast"].stem[0]), ("0", made.stops[0][1].conv1)):
        if stop:
            opened.locator("#switch input[type=range]").fill(stop)
        maps, kernels = layer(normalise(made.examples[4][0].unsqueeze(0)))[0].detach(), layer.weight[:, 0].detach()
        for values, selector in ((kernels, ".kernel"), (maps, ".layer >> nth=0 >> canvas:not(.kernel)")):
            for i, shares in enumerate(values[..., None] / values.abs().max()):
                expected = 255 + (torch.where(shares > 0, blue, orange) - 255) * shares.abs() ** 0.8
                assert (colours(opened, selector, i)[..., :3] - expected).abs().max() < 4


def test_names_like_numbers_scores_in_the_thousands_and_fields_in_the_padding(browser, made):
    scores = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    padded = nn.Sequential(nn.Conv2d(1, 10, (1, 3), padding=(2, 0)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    scores[1].weight.data *= 3000
    page = browser.new_page()
    page.set_content(output_of({"64": scores, "8": padded}, made.examples)[1])
    page.evaluate("keep({layer: 1, map: 0, row: 0, column: 0})")
    field = "It sees 1×3 pixels: rows −2 to −2, columns 0 to 2; 3 of the 3 lie in the padding (orange)."
    assert text(page, "#field") == field and text(page, "#name").startswith("Layer 1, [0] (convolution 1×3)")
    assert [label.split(":")[0].strip() for label in page.locator("#switch label").all_inner_texts()] == ["64", "8"]
    page.check("#switch input >> nth=0")
    expected = log_probabilities(scores, made.examples[0][0])[0]
    assert expected.min() < -1000 and torch.allclose(torch.tensor(answer(page)), expected, rtol=1e-4)
    assert text(page, "#answer").startswith(f"Answer: {expected.argmax()} (> 99.99%), then ")
    shares = page.evaluate("[0.99995, 0.99984, 0.985, 0.004, 0.00001].map((share) => percent(Math.log(share)))")
    assert shares == ["> 99.99%", "99.98%", "98.5%", "0.40%", "< 0.01%"]
    page.close()


def test_a_drawn_digit_is_answered_at_once_and_undo_goes_back(opened):
    shown = text(opened, "#answer")
    opened.click("#clear")
    assert text(opened, "#status") == text(opened, "#answer") == "Draw something"
    opened.locator("#drawing").click()
    assert "Answer" in text(opened, "#answer")  # to a dot
    opened.click("#undo")
    draw(opened, *FOUR[0])
    one = text(opened, "#answer")
    draw(opened, *FOUR[1])
    assert text(opened, "#status") == text(opened, "#answer") != one and "Answer: 4 " in text(opened, "#answer")
    ink = torch.tensor(opened.evaluate("[...digit.pixels]")).view(28, 28).double()  # placed as MNIST's digits are
    centre = torch.stack([ink.sum(axis) @ torch.arange(28.0).double() for axis in (1, 0)]) / ink.sum()
    assert (centre - 14).abs().max() < 0.55 and 18 <= max((ink > 64).any(axis).sum() for axis in (0, 1)) <= 21
    opened.click("#examples button >> nth=4")
    text(opened, "#answer")  # placed with the next frame
    assert opened.evaluate("drawn.example.pixels.every((value, i) => value === digit.pixels[i])")
    opened.click("#undo")
    # What a point of a stroke costs until it can be painted: placing, answering, drawing all maps, and the layout.
    took = "() => { const t = performance.now(); think(); document.body.offsetHeight; return performance.now() - t; }"
    assert min(opened.evaluate(took) for _ in range(20)) < 30  # ms; of the quickest: other work only adds time
    for expected in (one, "Draw something", shown):
        opened.click("#undo")
        assert text(opened, "#answer") == expected


def test_a_finger_draws_without_scrolling_and_a_cancelled_stroke_is_taken_back(opened):
    opened.set_viewport_size({"width": 360, "height": 640})
    opened.click("#clear")
    touch, box = opened.context.new_cdp_session(opened), opened.locator("#drawing").bounding_box()
    for end in ("touchCancel", "touchEnd"):
        for kind, share in [("touchStart", 0.9), *[("touchMove", share / 10) for share in range(8, 0, -1)]]:
            point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + share * box["height"]}
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        assert "Answer" in text(opened, "#answer") and opened.evaluate("scrollY") == 0
        touch.send("Input.dispatchTouchEvent", {"type": end, "touchPoints": []})
        assert (text(opened, "#answer") == "Draw something") == (end == "touchCancel")


def test_keyboard_and_pointer_reach_everything(opened):
    reached, everything = set(), "[...document.querySelectorAll('*')]"
    opened.focus("#undo")
    for _ in range(30):
        reached.add(opened.evaluate(f"{everything}.indexOf(document.activeElement)"))
        opened.keyboard.press("Tab")
    # Arrow keys move between radio buttons.
    wanted = "button:not([hidden]):not(#needed button), [tabindex], input:not([type=radio]), input:checked"
    controls = opened.evaluate(f"{everything}.flatMap((one, i) => one.matches('{wanted}') ? [i] : [])")
    assert set(controls) <= reached
    maps = opened.locator(".layer >> nth=0 >> canvas:not(.kernel)")
    maps.nth(2).hover(position={"x": 5, "y": 9})
    title = "Layer 1, stem (convolution 5×5, stride 2): map 2, row 4, column 2 = "
    assert text(opened, "#name").startswith(title)  # a unit of 12×12 on 24×24 pixels
    assert text(opened, "#field") == "It sees 5×5 pixels: rows 8 to 12, columns 4 to 8."
    opened.hover("h2 >> nth=0")
    assert "Layer 4" in text(opened, "#name")
    opened.evaluate("() => { window.requestAnimationFrame = (work) => setTimeout(work, 200); }")  # a busy machine
    opened.focus("#layers")
    opened.keyboard.press("ArrowDown")
    assert text(opened, "#name").startswith("Layer 5")
    opened.keyboard.press("ArrowRight")  # another map
    assert "map 1" in text(opened, "#name")
    assert text(opened, "#status") == f"{text(opened, '#name')}. {text(opened, '#field')}"
    opened.focus("#map")
    opened.keyboard.press("ArrowLeft")
    assert "row 5, column 4" in text(opened, "#name")
    opened.locator("#examples button").nth(3).press("Enter")
    assert "Answer: 3 " in text(opened, "#status")
    maps.nth(2).click(position={"x": 5, "y": 9})
    opened.hover("h2 >> nth=0")
    assert text(opened, "#name").startswith(title)  # it is kept


def test_what_speaks_for_it_is_what_is_missed(opened, made):
    """Against PyTorch's answers without the pixels of each place."""
    opened.evaluate("keep({layer: 1, map: 0, row: 0, column: 0})")  # its frame is out of the way
    opened.check("#why")
    opened.locator("#because", has_text="dashed").wait_for()
    image, covered = made.examples[4][0], []
    for top, left in ((2 * row, 2 * column) for row in range(-1, 13) for column in range(-1, 13)):
        covered.append(image.clone())
        covered[-1][max(top, 0) : top + 6, max(left, 0) : left + 6] = 0
    whole, *without = log_probabilities(made.networks["fast"], image, *covered).double().exp()
    best, without = whole.argmax(), torch.stack(without)
    lost = (whole.logit() - without.logit())[:, best].view(14, 14)
    least = without[without[:, best].argmin()]
    before, after = (f"{shares.argmax()} ({percent(shares.max())})" for shares in (whole, least))
    assert f"Filled squares speak for {best}, hollow ones against." in text(opened, "#because")
    assert f"Without the dashed pixels, {before} becomes {after}." in text(opened, "#because")
    picture = colours(opened, "#seen")
    middles = ((torch.arange(14) * 2 + 5) * len(picture) / 36).long()
    filled = (picture[middles][:, middles, 2] - picture[middles][:, middles, 0]) > 60
    large = lost.abs() > lost.abs().max() / 4
    assert torch.equal(filled[large], lost[large] > 0) and large.sum() > 5
    shown = answer(opened)
    opened.hover("#seen")  # covers pixels
    assert answer(opened) != shown
    opened.hover("h2 >> nth=0")
    assert answer(opened) == shown


def test_sliders_move_the_ink_as_their_names_say(opened):
    opened.click("#clear")
    draw(opened, (50, 20), (50, 80))

    def ink():
        """Of what goes in: the centre's x and y, the length as a deviation, and the angle, clockwise."""
        text(opened, "#answer")
        y, x = (torch.tensor(opened.evaluate("[...digit.pixels]")).view(28, 28) > 127).nonzero().T.double()
        (across, both), (_, along) = torch.cov(torch.stack([x, y])).tolist()
        angle = math.degrees(0.5 * math.atan2(2 * both, across - along)) % 180
        return torch.tensor([x.mean(), y.mean(), (across + along) ** 0.5, angle], dtype=torch.float64)

    x, y, length, angle = ink().tolist()
    for slider, value, shown, expected in (
        ("right", 5, "5 px", (x + 5, y, length, angle)),
        ("down", -3, "−3 px", (x, y - 3, length, angle)),
        ("size", 50, "50%", (x, y, length / 2, angle)),
        ("turn", 30, "30°", (x, y, length, angle + 30)),
    ):
        whole = answer(opened)
        opened.fill(f"#{slider}", str(value))
        assert ((ink() - torch.tensor(expected)).abs() < torch.tensor([0.6, 0.6, 0.4, 3])).all(), slider
        assert text(opened, f"output[for={slider}]") == shown
        opened.click("#back")
        assert answer(opened) == whole


def test_the_training_is_a_slider(opened, made):
    as_before = answer(opened)
    opened.locator("#examples", has_text="→").wait_for()
    marks = opened.locator("#examples button").all_inner_texts()  # fast's: one of each class, and three mistakes
    assert [mark.strip() for mark in marks[:10]] == list("0123456789") and "".join(marks).count("→") == 3
    opened.check("input[name=network] >> nth=0")
    trained = answer(opened)
    slider = opened.get_by_role("slider", name="Training of as submitted")
    assert opened.locator("#switch input[type=range]").count() == 1  # fast has one stop
    slider.focus()
    for key, (epoch, model) in zip(("Home", "ArrowRight", "ArrowRight"), made.stops):
        opened.keyboard.press(key)
        expected = log_probabilities(model, made.examples[4][0])[0]
        assert (torch.tensor(answer(opened)) - expected).abs().max() < 1e-4
        assert slider.get_attribute("aria-valuetext") == text(opened, "#switch output") == f"epoch {epoch}"
        marks = [label.split("→")[-1] for label in opened.locator("#examples button").all_inner_texts()]
        answers = log_probabilities(model, *[image for image, _ in made.examples]).argmax(1).tolist()
        assert [int(mark) for mark in marks] == answers
    assert answer(opened) == trained
    play = opened.get_by_role("button", name="Play training")
    opened.evaluate(
        """window.played = [];
           new MutationObserver(([{target}]) => played.push(target.textContent))
             .observe(document.querySelector("#switch output"), {childList: true});"""
    )
    play.click()
    play.wait_for()  # again: it has come to the end
    assert opened.evaluate("played") == [f"epoch {epoch}" for epoch, _ in made.stops]
    play.click()
    opened.check("input[name=network] >> nth=1")  # another network answers: it stops
    opened.wait_for_timeout(1500)
    assert answer(opened) == as_before


def zeroed(model, image, name, *maps):
    """PyTorch's answer where these maps of a layer are 0."""
    model = copy.deepcopy(model)
    model.get_submodule(name).register_forward_hook(lambda _, __, out: out.index_fill(1, torch.tensor(maps), 0))
    return log_probabilities(model, image)[0].double()


def test_a_map_that_is_off_is_zero_for_all_that_follows(opened, made):
    model, image, whole = made.networks["fast"], made.examples[4][0], answer(opened)
    opened.evaluate("keep({layer: 1, map: 3, row: 4, column: 4})")
    opened.focus("#layers")
    opened.keyboard.press("Enter")
    one = answer(opened)
    assert (torch.tensor(one) - zeroed(model, image, "stem.0", 3)).abs().max() < 1e-4 and one != whole
    assert colours(opened, ".layer >> nth=0 >> canvas.off")[..., 3].sum() == 0  # clear: hatching shows
    assert text(opened, "#made") == "This map is off: 0, whatever comes in."
    opened.keyboard.press("ArrowRight")
    opened.click("#off")
    two = answer(opened)
    assert (torch.tensor(two) - zeroed(model, image, "stem.0", 3, 4)).abs().max() < 1e-4
    said = f"Without map 3 of layer 1 and map 4 of layer 1: {two.index(max(two))} ({percent(math.exp(max(two)))})."
    assert text(opened, "#without").startswith(said) and said in text(opened, "#status")
    opened.get_by_role("button", name="Put back map 4 of layer 1").click()
    assert answer(opened) == one
    opened.get_by_role("button", name="Put all back").click()
    assert answer(opened) == whole and text(opened, "#without") == "" and opened.locator(".off").count() == 0


def test_the_map_that_the_answer_needs_most_is_named(opened, made):
    """Of all maps before the last layer with weights; never that of another state."""
    model, image, odds = made.networks["fast"], made.examples[4][0], {}
    for layer, operation in list(enumerate(trace(model)))[1:-3]:
        for map in range(operation.shape[1]):
            odds[layer, map] = zeroed(model, image, operation.name.removesuffix(".add"), map)[4].exp().logit()
    layer, map = min(odds, key=odds.get)
    words = f"Of the maps that are on, the answer 4 needs map {map} of layer {layer} most: without it, "
    opened.locator("#needed", has_text=words).wait_for(timeout=120_000)
    after = text(opened, "#needed").removeprefix(words).removeprefix("still ").split(". ")[0]
    opened.get_by_role("button", name="Show it").click()
    assert opened.evaluate("() => { $('off').click(); think(); return $('needed').textContent; }") == ""  # at once
    assert text(opened, "#without").startswith(f"Without map {map} of layer {layer}: {after}")


def test_an_accessibility_checker_finds_nothing(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    opened.check("#why")
    opened.locator("#because", has_text="dashed").wait_for()
    opened.locator("#switch input[type=range]").fill("1")
    opened.click("#off")
    opened.get_by_role("button", name="Put all back").wait_for()
    for width in (1000, 360):
        opened.set_viewport_size({"width": width, "height": 940})
        found = axe.run(opened, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.skipif(not shutil.which("firefox-esr"), reason="no Firefox is installed")
def test_firefox_answers_as_well(output, tmp_path):
    """A page that turns lime where its answer is right, photographed by Firefox itself: that needs no driver."""
    turn = "document.body.outerHTML = '<body bgcolor=lime>'"
    script = f"think(); if ($('answer').innerText.startsWith('Answer: 4 ')) {turn}"
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(f"{output[1]}<script>{script}</script>", encoding="utf-8")
    command = ["firefox-esr", "--headless", "--profile", tmp_path, "--screenshot", picture, page.as_uri()]
    subprocess.run(command, env={**os.environ, "HOME": str(tmp_path)}, timeout=120, check=True)
    assert Image.open(picture).convert("RGB").getpixel((5, 5)) == (0, 255, 0)
