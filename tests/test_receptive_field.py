"""receptive_field against its definition (what a gradient reaches), and against known networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models

from recipes import FinalNet, Net, SmallNet

from helpers import effective_receptive_field, measured_receptive_field, receptive_field, trace_layers


def last(model, input_size=(1, 28, 28)):
    return receptive_field(model, input_size)["receptive_field"].iloc[-1]


def as_pair(value):
    return value if isinstance(value, tuple) else (value, value)


def test_the_brief():
    table = receptive_field(Net())
    assert list(table.columns) == [
        "layer",
        "kernel",
        "stride",
        "padding",
        "output_size",
        "jump",
        "start",
        "receptive_field",
    ]
    assert table["start"].tolist() == [-1, -1, -3, -3, -7, -11, -11]
    assert table["layer"].tolist() == ["conv1", "conv2", "conv3", "pool2", "conv5", "conv6", "conv7"]
    assert table["receptive_field"].tolist() == [3, 5, 9, 11, 19, 27, 43]
    assert table["jump"].tolist() == [1, 2, 2, 4, 4, 8, 8]
    assert table["output_size"].tolist() == [28, 13, 13, 6, 6, 3, 1]


def test_the_brief_measured():
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for layer, field in zip(receptive_field(model)["layer"], [3, 5, 9, 11, 19, 27, 43]):
        assert measured_receptive_field(model, (1, 96, 96), layer) == (field, field)
    assert measured_receptive_field(model) == (28, 28)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_known_networks():
    assert last(models.vgg16(weights=None, init_weights=False).features, (3, 224, 224)) == 212
    assert last(models.alexnet(weights=None).features, (3, 224, 224)) == 195
    resnet = receptive_field(models.resnet18(weights=None), (3, 224, 224))
    assert resnet["receptive_field"].iloc[-2] == 435  # the last convolution; the row behind it pools globally


# Random stacks: every layer as (kind, kernel, stride, padding, dilation), height and width apart.
pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
layers = st.lists(
    st.tuples(
        st.sampled_from(["conv", "max", "avg", "residual", "cat", "functional", "norm"]),
        pair,
        pair,
        st.integers(0, 1),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=4,
)


class Stack(nn.Module):
    """A network drawn at random, with branches and functional calls."""

    def __init__(self, drawn):
        super().__init__()
        self.drawn, self.layers = drawn, nn.ModuleList()
        for kind, kernel, stride, padding, dilation in drawn:
            padding = padding if min(kernel) > 1 else 0  # pooling allows at most half the kernel
            self.layers.append(
                {
                    "conv": lambda: nn.Conv2d(2, 2, kernel, stride, padding, dilation),
                    "max": lambda: nn.MaxPool2d(kernel, stride, padding, dilation),
                    "avg": lambda: nn.AvgPool2d(kernel, stride, padding),
                    "residual": lambda: nn.Conv2d(2, 2, kernel, padding="same", dilation=dilation),
                    "cat": lambda: nn.ModuleList([nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(2, 1, 5, padding=2)]),
                    "functional": nn.Identity,
                    "norm": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()),
                }[kind]()
            )
        self.first = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        x = self.first(x)
        for (kind, kernel, stride, _, _), layer in zip(self.drawn, self.layers):
            if kind == "residual":
                x = x + F.relu(layer(x))
            elif kind == "cat":
                x = torch.cat([layer[0](x), layer[1](x)], 1)
            elif kind == "functional":
                x = F.max_pool2d(F.relu(x), kernel, stride=stride)
            else:
                x = layer(x)
        return x


@settings(max_examples=40, deadline=None)
@given(layers)
def test_formula_equals_measurement_on_random_stacks(drawn):
    model = Stack(drawn)
    size = 96
    try:
        model.eval()(torch.zeros(1, 1, size, size))
    except RuntimeError as error:  # drawn so deep that a map is smaller than the next kernel: no network
        if "too small" not in str(error) and "greater than actual input size" not in str(error):
            raise
        reject()
    table = receptive_field(model, (1, size, size))
    formula = as_pair(table["receptive_field"].iloc[-1]) if len(table) else (1, 1)
    jump = as_pair(table["jump"].iloc[-1]) if len(table) else (1, 1)
    # Only where the image is large enough to hold the central output's field.
    if max(formula) + max(jump) < size // 2:
        assert measured_receptive_field(model, (1, size, size)) == formula


def test_height_and_width_apart():
    table = receptive_field(nn.Sequential(nn.Conv2d(1, 1, (3, 5), stride=(1, 2)), nn.MaxPool2d((1, 2))), (1, 20, 40))
    assert table["receptive_field"].tolist() == [(3, 5), (3, 7)] and table["jump"].tolist() == [(1, 2), (1, 4)]
    assert table["output_size"].tolist() == [18, (18, 9)]


def test_pointwise_layers_have_no_row():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.1))
    assert receptive_field(model)["layer"].tolist() == ["0"]


class Functional(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.conv, self.call = nn.Conv2d(1, 4, 3, padding=1), call

    def forward(self, x):
        return self.call(self.conv(x))


def test_functional_calls():
    def call(x):
        x = F.avg_pool2d(F.relu(x), 2)  # 3 + 1 = 4, jump 2
        x = torch.max_pool2d(x, 3, 1, 1)  # 4 + 4 = 8
        return F.max_pool2d(x, kernel_size=2, stride=2)  # 8 + 2 = 10, jump 4

    table = receptive_field(Functional(call))
    assert table["receptive_field"].tolist() == [3, 4, 8, 10] and table["jump"].tolist() == [1, 2, 2, 4]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: x.mean((2, 3)),
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, 1),
        lambda x: x.view(x.size(0), -1),
    ],
)
def test_global_layers_see_the_whole_map(call):
    assert last(Functional(call)) == 3 + 27
    assert measured_receptive_field(Functional(call)) == (28, 28)


def test_maps_that_become_images_are_refused():
    """The brief's view cuts answers, after the last layer; this one cuts maps, and layers follow."""
    for call in (lambda x: x.view(-1, 1, 28, 28), lambda x: x.reshape(-1, 1, 28, 28)):
        with pytest.raises(ValueError, match="does not understand"):
            receptive_field(Functional(call))


def test_padding_of_one_side_or_of_the_columns_alone():
    """Two numbers are left and right, four go on with top and bottom: start is where the first output begins."""
    for pad, start in [((2, 1), (-1, -3)), ((0, 0, 3, 1), (-4, -1)), ((2, 1, 3, 0), (-4, -3))]:
        table = receptive_field(Functional(lambda x, pad=pad: F.pad(x, pad)))
        assert np.broadcast_to(table["start"].iloc[-1], 2).tolist() == list(start)


def test_squeeze_and_excite_sees_the_whole_map():
    assert last(Functional(lambda x: F.max_pool2d(x * torch.sigmoid(x.mean((2, 3), keepdim=True)), 2))) == 3 + 27 + 1


@pytest.mark.parametrize("order", [(3, 5), (5, 3)])
def test_the_last_row_is_of_the_widest_branch(order):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList(nn.Conv2d(1, 2, kernel, padding=kernel // 2) for kernel in order)

        def forward(self, x):
            return torch.cat([branch(x) for branch in self.branches], 1)

    assert last(Branches()) == 5
    assert measured_receptive_field(Branches()) == (5, 5)


def test_branches_that_lie_apart_are_joined():
    """As in BN-Inception: the convolution's first output sees pixels -1 to 1, the pool's 0 to 2."""

    class Reduction(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)

        def forward(self, x):
            return torch.cat([self.conv(x), self.pool(x)], 1)

    assert last(Reduction()) == 4
    assert measured_receptive_field(Reduction()) == (4, 4)


def test_measurement_leaves_fixed_masks_alone():
    class Masked(nn.Conv2d):  # sees only the rows up to its own
        def __init__(self):
            super().__init__(1, 1, 7, padding=3)
            self.register_buffer("mask", (torch.arange(7) < 4).float()[:, None].expand(7, 7).clone())

        def forward(self, x):
            return F.conv2d(x, self.weight * self.mask, padding=3)

    assert measured_receptive_field(nn.Sequential(Masked())) == (4, 7)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)),
        (nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1)),
    ],
)
def test_padding_does_not_hide_the_border(layers):
    assert measured_receptive_field(nn.Sequential(*layers)) == (28, 28)


@pytest.mark.parametrize("layer", [nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(28)])
def test_global_maxima_are_measured_whole(layer):
    assert measured_receptive_field(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), layer)) == (28, 28)


NORMS = {
    "statistics of the batch": nn.BatchNorm2d(4, track_running_stats=False),
    "functional, in training": lambda x: F.batch_norm(x, None, None, training=True),
    "group norm": nn.GroupNorm(2, 4),
    "layer norm": nn.LayerNorm([4, 28, 28]),
    "instance norm": nn.InstanceNorm2d(4),
}


@pytest.mark.parametrize("case", NORMS)
def test_norms_that_see_the_whole_map_are_named_and_can_be_left_out(case):
    with pytest.raises(ValueError, match="takes means over the whole map.*ignore_norms=True"):
        receptive_field(Functional(NORMS[case]))
    table = receptive_field(Functional(NORMS[case]), ignore_norms=True)
    assert table["receptive_field"].tolist() == [3]


def test_flatten_of_one_position_is_no_layer():
    model = nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten(), nn.LogSoftmax(1))
    assert receptive_field(model)["layer"].tolist() == ["0"] and last(model) == 28


NOT_UNDERSTOOD = {
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "transposed convolution": nn.ConvTranspose2d(4, 4, 2, stride=2),
    "softmax over positions": lambda x: x.softmax(-1),
    "linear over columns": nn.Linear(28, 28),
    "cut-out": lambda x: x[:, :, :14],
    "transpose": lambda x: x.transpose(2, 3),
    "concatenated side by side": lambda x: torch.cat([x, x], 3),
    "images side by side": lambda x: torch.cat([x, x], 0),
    "features of images side by side": lambda x: torch.cat([x.mean((2, 3)), x.mean((2, 3))], 0),
    "wrapped around": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "pixel shuffle": nn.PixelShuffle(2),
}


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_an_error(case):
    with pytest.raises(ValueError, match="does not understand layer .*measured_receptive_field"):
        receptive_field(Functional(NOT_UNDERSTOOD[case]))


HARMLESS = {
    "channels sliced": lambda x: x[:, :2],
    "channels in chunks": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "channels split": lambda x: torch.cat(x.split([1, 3], 1), 1),
    "a view that keeps the map": lambda x: x.view(1, 2, 2, 28, 28).view(1, 4, 28, 28),
    "a power": lambda x: x.pow(2) + x**3,
    "log-softmax over channels": nn.LogSoftmax(1),
    "softmax over channels, counted from the end": lambda x: x.softmax(-3),
    "a condition on the shape": lambda x: F.relu(x) if x.shape[1] == 4 else x.flip(2),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_moves_no_position_changes_no_field(case):
    assert receptive_field(Functional(HARMLESS[case]))["receptive_field"].tolist() == [3]


def test_padding_apart_moves_the_start_only():
    table = receptive_field(nn.Sequential(nn.ZeroPad2d((2, 1, 3, 0)), nn.Conv2d(1, 1, 3)))
    assert table["start"].tolist() == [(-3, -2)] * 2 and table["receptive_field"].tolist() == [1, 3]


def test_a_number_made_of_the_map_is_seen_everywhere():
    assert last(Functional(lambda x: x - x.mean())) == last(Functional(lambda x: x * x.mean((2, 3), keepdim=True)))
    assert measured_receptive_field(Functional(lambda x: x + x.mean())) == (28, 28)


def test_the_overhang_of_a_pool_counts_as_seen_like_padding():
    """With ceil_mode the last window of 28 pixels by threes reaches two pixels past the image."""
    model = nn.Sequential(nn.MaxPool2d(3, 3, ceil_mode=True), nn.Conv2d(1, 1, 10))
    assert last(model) == 30 and measured_receptive_field(model) == (28, 28)


def test_pooling_by_the_map_s_own_size():
    assert last(Functional(lambda x: F.avg_pool2d(x, x.shape[2:]))) == 3 + 27


def test_a_network_without_geometry_has_one_row():
    table = receptive_field(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU()))
    assert table.values.tolist() == [["image", 1, 1, 0, 28, 1, 0, 1]]


def test_a_row_for_every_layer():
    table = receptive_field(Net(), every_layer=True)
    layers = trace_layers(Net())
    assert len(table) == sum(layer.kind not in ("view", "log_softmax") for layer in layers) + 2
    assert table["layer"].tolist() == [layer.name for layer in layers]


def test_multiplications_are_counted_as_by_hand():
    def count(model):
        return sum(layer.multiplications for layer in trace_layers(model))

    by_hand = [
        28 * 28 * 4 * 9,
        13 * 13 * 16 * 4 * 9,
        13 * 13 * 16 * 16 * 9,
        36 * 32 * 16 * 9,
        9 * 32 * 32 * 9,
        10 * 32 * 9,
    ]
    assert count(Net()) == sum(by_hand)
    assert (
        count(
            nn.Sequential(
                nn.Conv2d(1, 6, 3, groups=1), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(6 * 24 * 24, 10)
            )
        )
        == 26 * 26 * 54 + 24 * 24 * 54 + 6 * 24 * 24 * 10
    )
    assert count(SmallNet()) > count(FinalNet()) > count(Net())


def test_the_effective_field_lies_within_the_theoretical_one():
    torch.manual_seed(0)
    effect = effective_receptive_field(Net(), torch.randn(20, 1, 28, 28), "conv3")
    rows, columns = effect.nonzero(as_tuple=True)
    row = receptive_field(Net()).set_index("layer").loc["conv3"]
    first = row["start"] + row["output_size"] // 2 * row["jump"]
    for places in (rows, columns):
        assert places.min() >= first and places.max() < first + row["receptive_field"]
    middle = effect[first + 2 : first + 7, first + 2 : first + 7].sum() / effect.sum()
    assert middle > 1.3 * 25 / 81  # of the 9x9 pixels: more than their share


def test_a_layer_that_works_in_place_does_not_change_the_effective_field():
    torch.manual_seed(0)
    images, convolution = torch.randn(8, 1, 28, 28), nn.Conv2d(1, 4, 3)
    fields = [
        effective_receptive_field(nn.Sequential(convolution, nn.ReLU(inplace)), images, "0")
        for inplace in (False, True)
    ]
    assert torch.equal(*fields) and fields[0].sum() > 0


def test_measuring_leaves_the_random_numbers_alone():
    model, state = Net(), torch.get_rng_state()
    measured_receptive_field(model)
    receptive_field(model)
    assert torch.equal(state, torch.get_rng_state())


def test_different_jumps_are_an_error():
    with pytest.raises(ValueError, match="different jumps"):
        receptive_field(Diverging())


class Diverging(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.valid = nn.Conv2d(1, 1, 2, stride=2), nn.Conv2d(1, 1, 15)

    def forward(self, x):
        return self.down(x) + self.valid(x)


def test_control_flow_on_the_data_is_an_error():
    with pytest.raises(ValueError, match="can't be traced"):
        receptive_field(Functional(lambda x: x if x.sum() > 0 else -x))


def test_the_table_ends_before_a_view_that_mixes_samples():
    """The brief's view(-1, 10) makes 81 rows of one 96x96 image."""
    assert receptive_field(Net(), (1, 96, 96))["receptive_field"].tolist() == [3, 5, 9, 11, 19, 27, 43]
    with pytest.raises(ValueError, match="one row"):
        measured_receptive_field(Net(), (1, 96, 96))


def test_no_such_layer():
    with pytest.raises(ValueError, match="no layer 'conv9'"):
        measured_receptive_field(Net(), (1, 28, 28), "conv9")
