"""Each drawing of the lesson shows the numbers that it was given: they are read off what is drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import same_color
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from helpers import SHIFTS, shifted
from lesson import figures
from lesson.networks import final_network
from lesson.recipes import COMPANIONS

plt.rcParams["figure.max_open_warning"] = 0
RECIPES = {  # of final, the mean is 99.37, the median 99.3
    "final": {"last": {"1": 99.2, "2": 99.3, "4": 99.61}, "parameters": 18_226},
    "small": {"last": {"1": 99.0, "2": 99.1, "3": 99.5}, "parameters": 2_020},
}
RECIPES["final"]["by_epoch"], RECIPES["small"]["by_epoch"] = [99.1, 99.2, 99.25], [98.1, 99.3]
RESULTS = {"brief": 99.28, "recipes": RECIPES}
IMAGES = torch.full((3, 1, 28, 28), -0.42)
IMAGES[:, :, 8:20, 12:16] = 2.8


def text_of(axes, words):
    """The one text of axes that contains words."""
    (text,) = [text for text in axes.texts if words in text.get_text()]
    return text


def check_brief(axes, accuracy, name):
    """The dashed line lies at an accuracy, and its name is said."""
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert line.get_ydata() == [accuracy] * 2 and axes.get_legend().get_texts()[0].get_text() == name


def box_of(outline):
    """Left, top, right, bottom of a contour."""
    corners = np.concatenate([path.vertices for path in outline.get_paths()])
    return [*corners.min(0), *corners.max(0)]


def test_a_convolution_s_products_and_the_places_of_its_strides():
    digit, kernel = torch.rand(28, 28), torch.tensor([[0, -2.5, 1 / 3], [0, 0, 0], [0, 0, 0]])
    result = nn.functional.conv2d(digit[None, None], kernel[None, None])[0, 0]
    left, middle, right = panels = figures.plot_convolution(digit, kernel, result, 4, 7).axes
    for axes, values in zip(panels, (digit, digit[4:7, 7:10] * kernel, result)):
        assert np.array_equal(axes.images[0].get_array(), values)
    frames = [patch.get_bbox().bounds for axes in panels for patch in axes.patches]
    assert frames == [(6.5, 3.5, 3, 3), (6.5, 3.5, 1, 1)]
    product = text_of(middle, "-2.5")
    assert product.get_text() == f"{digit[4, 8]:.1f}\n× -2.5\n= {-2.5 * digit[4, 8]:z.1f}"
    assert product.get_position() == (1, 0) and middle.get_xlabel() == f"their sum: {result[4, 7]:z.1f}"
    expected = [(0, 1, np.arange(1.5, 6)), (-1, 0, np.arange(0.5, 7)), (0, 2, np.arange(1.5, 6, 2))]
    for axes, (first, second, middles) in zip(figures.plot_strides().axes, expected, strict=True):
        assert [patch.get_x() for patch in axes.patches[2:]] == [second, first]
        assert np.array_equal(axes.lines[0].get_ydata(), middles)
        assert axes.get_title(loc="left").endswith(f"7×7 → {len(middles)}×{len(middles)}")


def test_jumps_show_what_each_layer_reads():
    axes = figures.plot_jumps([("one", 3, 1), ("two", 3, 2), ("three", 3, 1)]).axes[0]
    words = ["three\n2 apart", "two\n2 apart", "one\n1 apart", "pixels\n9 are seen"]
    assert [text.get_text() for text in axes.texts] == words
    reads = [{tuple(line.get_xdata()) for line in axes.lines if line.get_ydata()[0] == height} for height in (3, 2, 1)]
    middles = [([6], 2), ([4, 6, 8], 1), (range(3, 10), 1)]  # of one, three, seven numbers; how far they read
    assert reads == [{(x, x + step) for x in row for step in (-far, 0, far)} for row, far in middles]
    red = [same_color(colour, "C3") for colour in axes.collections[-1].get_facecolor()]
    assert list(axes.collections[-1].get_offsets()[red][:, 0]) == list(range(2, 11))


def test_fields_are_framed_on_an_image_of_any_size_and_channels():
    row = {"layer": "a", "start": (-20, 0), "jump": (2, 1), "output_size": 6, "receptive_field": (50, 3)}
    image = torch.rand(3, 28, 40)
    axes = figures.plot_receptive_field(pd.DataFrame([row]), image).axes[0]
    assert axes.patches[-1].get_bbox().bounds == (3, -14, 3, 50)  # x, y, width, height: start + 3 jumps
    assert text_of(axes, "a: 50×3").get_position() == (20, -16)  # close above its frame, and the image's
    assert np.allclose(axes.images[0].get_array(), image.mean(0)) and axes.images[0].get_extent() == [0, 40, 28, 0]


def blocks_drawn(axes):
    words = [text.get_text() for text in axes.texts if text.get_text()]
    return list(zip(words[::2], words[1::2]))


def test_a_network_is_drawn_with_its_maps_parameters_and_sums():
    (axes,) = figures.plot_network(final_network(), "mine").axes
    words = blocks_drawn(axes)
    assert axes.get_title(loc="left") == "mine" and words[0] == ("image: 1×28×28", "sees 1×1")
    assert words[1] == ("stem: 8×28×28", "88 parameters, sees 3×3")
    assert words[-1] == ("head: 10×1×1", "2,350 parameters, sees 47×47")
    assert sum(int(cost.split()[0].replace(",", "")) for _, cost in words if "parameters" in cost) == 18_226
    sheets = [patch for patch in axes.patches if isinstance(patch, plt.Rectangle)]
    assert [sheets[0].get_width(), sheets[7].get_width()] == [0.8, 0.8 * 13 / 28] and sheets[-1].get_width() >= 0.1
    arrows = [text for text in axes.texts if not text.get_text()]
    assert [(arrow.xyann[1], arrow.xy[1]) for arrow in arrows] == [(2, 3), (3, 4)]  # down1 → residual1 → residual2
    layer = weight_norm(nn.Conv2d(3, 4, 3))  # its weight is made of others: of each kernel a length
    layer.factor, layer.unused = nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(3, 3)  # its own; never called
    layer.register_forward_hook(lambda layer, inputs, output: output * layer.factor)
    (axes,) = figures.plot_network(layer, input_size=(3, 32, 32)).axes
    image, (name, cost) = blocks_drawn(axes)
    assert image == ("image: 3×32×32", "sees 1×1") and cost == f"{4 * 27 + 4 + 4 + 4} parameters, sees 3×3"


def test_seeds_are_dots_their_mean_a_diamond_their_deviation_a_bar():
    axes = figures.plot_seeds(RESULTS, ["small", "final"], {"final": 98.9}).axes[0]
    dots = [line for line in axes.lines if line.get_alpha()]
    runs = [pd.Series(RECIPES[name]["last"]) for name in ("small", "final")]
    for row, (line, bar, each) in enumerate(zip(dots, axes.containers, runs, strict=True)):
        assert list(line.get_xdata()) == list(each) and abs(line.get_ydata() - row).max() < 0.5
        assert bar[0].get_xdata() == [each.mean()] and abs(bar[0].get_ydata()[0] - row) < 0.5
        assert bar[2][0].get_segments()[0][:, 0] == pytest.approx([each.mean() - each.std(), each.mean() + each.std()])
        assert text_of(axes, f"{each.mean():.2f}%").get_position()[1] == row
    (brief,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [*brief.get_xdata(), text_of(axes, "the brief, 99.28%").get_position()[0]] == [99.28] * 3
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    x, y = star.get_xydata()[0]
    assert (x, round(y)) == (98.9, 1) and text_of(axes, "your run").get_position() == (x, y)
    assert [text_of(axes, words).get_ha() for words in ("your run", "the brief")] == ["left", "right"]  # there is room
    ticks = {row: label.get_text() for row, label in zip(axes.get_yticks(), axes.get_yticklabels())}
    assert ticks == {0: "small", 1: "final"} and axes.yaxis_inverted()


def named_lines(axes):
    """Points (x, y) of each line by the name in its colour, and where that name stands."""
    lines = {line.get_color(): line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == "-"}
    return {text.get_text(): (lines[text.get_color()], text.xy) for text in axes.texts if text.get_color() in lines}


def test_lines_over_epochs_seconds_and_batches():
    axes = figures.plot_epochs(RESULTS, ["small", "final"]).axes[0]
    final, small = [[1, 99.1], [2, 99.2], [3, 99.25]], [[1, 98.1], [2, 99.3]]
    assert named_lines(axes) == {"final": (final, (3, 99.25)), "small": (small, (2, pytest.approx(99.43)))}  # apart
    check_brief(axes, 99.28, "the brief, 99.28%")
    mine = pd.DataFrame({"seconds": [13.0, 12.0], "test_accuracy": [98.5, 99.3]})
    short = pd.DataFrame({"seconds": [2.0, 2.5], "test_accuracy": [98.6, 98.7]})
    axes = figures.plot_seconds({"mine": mine, "short": short}, target=99.0).axes[0]
    expected = {"mine": ([[13, 98.5], [25, 99.3]], (25, 99.3)), "short": ([[2, 98.6], [4.5, 98.7]], (4.5, 98.7))}
    assert named_lines(axes) == expected
    check_brief(axes, 99.0, "the brief, 99.0%")
    upper, lower = figures.plot_schedule(COMPANIONS).axes
    rates, momenta = upper.lines[0].get_xydata(), lower.lines[0].get_ydata()
    assert [*rates[0], *rates[-1]] == pytest.approx([0, 0.004, 100, 4e-7], abs=1e-6)
    assert [momenta[0], momenta[rates[:, 1].argmax()]] == pytest.approx([0.95, 0.85])
    check_brief(upper, 0.01, "the brief, 0.01")
    falls, explodes = [2.3 - 0.02 * i for i in range(30)], [2.3, 50.0] + [float("nan")] * 28
    axes = figures.plot_rates({"rate 0.01": falls, "rate 1": explodes}).axes[0]
    lines, means = named_lines(axes), [np.mean(falls[max(0, i - 9) : i + 1]) for i in range(30)]
    assert np.allclose(lines["rate 0.01"][0], [*zip(range(1, 31), means)])
    assert min(y for _, y in lines["rate 1"][0][1:]) > axes.get_ylim()[1]  # what explodes leaves the picture


def test_accuracies_by_size_go_from_the_smallest_on():
    public, order = [(7_752, 99.55), (697, 99.0)], ["small", "final"]
    axes = figures.plot_sizes(RESULTS, ["final", "small"], public, 99.3).axes[0]
    runs = {name: pd.Series(RECIPES[name]["last"]) for name in order}
    sizes, means = [2_020, 18_226], [each.mean() for each in runs.values()]
    tops = [each.mean() + each.std() for each in runs.values()]
    markers, _, (bars,) = axes.containers[0]
    assert np.allclose(markers.get_xydata(), [*zip(sizes, means)])
    assert np.allclose([bar[1, 1] for bar in bars.get_segments()], tops) and axes.get_xscale() == "log"
    assert np.allclose([text_of(axes, name).xy for name in order], [*zip(sizes, means)])
    (dots,) = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert dots.get_xydata().tolist() == [list(dot) for dot in public] and dots.get_linestyle() == "None"
    check_brief(axes, 99.3, "the brief, 99.3%")


def test_kernels_share_one_scale_as_do_the_maps_of_a_layer():
    first, second = figures.plot_kernels(torch.tensor([[[[-0.04, 1.26]]], [[[0.5, -2.0]]]])).axes[:2]
    words = [text.get_text() for axes in (first, second) for text in axes.texts]
    assert words == ["0.0", "1.3", "0.5", "-2.0"] and first.images[0].get_clim() == (-2, 2)
    assert same_color(figures.SIGNS(1.0), "#003a66") and same_color(figures.SIGNS(0.0), "#e69f00")  # blue, orange
    with pytest.raises(ValueError, match="1, k, k"):
        figures.plot_kernels(torch.zeros(4, 3, 3, 3))
    network = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(inplace=True), nn.Conv2d(10, 2, 3))
    *panels, key = figures.plot_maps(network, IMAGES[:1], ["0", "2"]).axes
    maps = network[0](IMAGES[:1])[0].detach().numpy()  # before the ReLU
    assert np.allclose([axes.images[0].get_array() for axes in panels[:8]], maps[:8])
    assert [axes.images[0].get_clim() for axes in panels[:8]] == [(-abs(maps).max(), abs(maps).max())] * 8
    assert [panels[row].get_ylabel() for row in (0, 8)] == ["0\n10×26×26", "2\n2×24×24"]
    assert [label.get_text() for label in key.get_yticklabels()] == ["below\nzero", "zero", "above\nzero"]


def test_looks_say_where_they_moved_and_what_they_answer_and_distortions_keep_the_outline():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))  # it answers 0 to 4, by where the ink is
    model[1].weight.data = torch.cat([shifted(IMAGES[:1], *shift) for shift in SHIFTS]).flatten(1)
    panels = figures.plot_looks(model, IMAGES[:1], label=0).axes
    moved = {}
    for axes in panels[:5]:
        rows, columns = (axes.images[0].get_array() > 0).nonzero()
        moved[axes.get_title(loc="left")] = (columns.min() - 12, rows.min() - 8)
        assert box_of(axes.collections[0]) == pytest.approx([11.5, 7.5, 15.5, 19.5], abs=0.1)  # stays where the ink was
    assert moved == {"as it is": (0, 0), "up ↑": (0, -1), "down ↓": (0, 1), "← left": (-1, 0), "right →": (1, 0)}
    labels = [(axes.get_xlabel(), axes.xaxis.label.get_color()) for axes in panels]
    right, wrong = ("0 ✓\n100%", "C2"), [(f"{answer} ✗\n100%", "C3") for answer in (1, 2, 3, 4)]
    assert labels == [right, *wrong, right]
    images = torch.cat([IMAGES, IMAGES, IMAGES + 3], dim=1)  # three channels: drawn as their mean
    axes = figures.plot_distortions(images, {"moved": lambda x: x.roll(3, 3), "as it is": lambda x: x}).axes
    assert len(axes) == 6 and [axes[row].get_ylabel() for row in (0, 3)] == ["moved", "as it is"]
    assert np.allclose(axes[1].images[0].get_array(), images[1].mean(0).roll(3, 1))
    assert box_of(axes[1].collections[0]) == pytest.approx([11.5, 7.5, 15.5, 19.5])
