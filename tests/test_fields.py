"""Receptive fields against their definition (what a gradient reaches), and against known networks."""

import random
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from lesson.fields import add_to, copy_of, count_multiplications, measured_receptive_field, receptive_field, trace
from lesson.networks import Net, Residual, fast_network, final_network, small_network


class Calls(nn.Module):
    """A 3x3 convolution of one channel to four, then whatever is given; modules in it become layers."""

    def __init__(self, call, *layers):
        super().__init__()
        self.conv, self.call, self.layers = nn.Conv2d(1, 4, 3, padding=1), call, nn.ModuleList(layers)

    def forward(self, x):
        return self.call(self.conv(x), *self.layers)


def last(model, input_size=(1, 28, 28)):
    return receptive_field(model, input_size)["receptive_field"].iloc[-1]


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def test_the_brief():
    table = receptive_field(Net())
    assert table["layer"].tolist() == ["conv1", "conv2", "conv3", "pool2", "conv5", "conv6", "conv7"]
    assert table["receptive_field"].tolist() == [3, 5, 9, 11, 19, 27, 43]
    assert table["start"].tolist() == [-1, -1, -3, -3, -7, -11, -11]
    assert table["jump"].tolist() == [1, 2, 2, 4, 4, 8, 8]
    assert table["output_size"].tolist() == [28, 13, 13, 6, 6, 3, 1]
    assert receptive_field(Net(), (1, 96, 96))["receptive_field"].tolist() == [3, 5, 9, 11, 19, 27, 43]


@pytest.mark.parametrize("network", [Net, final_network, small_network, fast_network])
def test_every_row_is_what_is_measured(network):
    model, state = network(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = receptive_field(model).drop_duplicates("layer", keep="last")  # the last call is measured
    for layer, field in zip(table["layer"], table["receptive_field"]):
        assert measured_receptive_field(model, (1, 96, 96), layer) == pair(field), layer
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_names_are_those_of_the_text():
    names = ["stem", "down1", "residual1", "residual2", "pool", "widen", "down2", "head"]
    assert receptive_field(final_network())["layer"].tolist() == names
    table = receptive_field(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU()))  # without geometry
    assert table.values.tolist() == [["image", 1, 1, 0, 28, 1, 0, 1]]


def test_known_networks():
    vgg, alexnet = models.vgg16(weights=None, init_weights=False).features, models.alexnet(weights=None).features
    assert last(vgg, (3, 64, 64)) == 212 and last(alexnet, (3, 64, 64)) == 195
    resnet = receptive_field(models.resnet18(weights=None).to(memory_format=torch.channels_last), (3, 64, 64))
    assert resnet["receptive_field"].iloc[-2] == 435  # the last convolution; the row after it pools all of the map
    later = receptive_field(models.mobilenet_v3_small(weights=None), (3, 64, 64))[2:]  # from its first mean on
    assert (later["start"] <= 0).all() and (later["start"] + later["receptive_field"] >= 64).all()
    assert later["jump"].iloc[1:].eq(0).all()  # from one output to the next, nothing moves


def test_what_lies_beside_the_answer_is_neither_listed_nor_refused():
    def forward(x, first, second):
        _, answer = second(x.flip(3)), first(x.mean((2, 3)))
        assert not answer.isnan().any() and answer.argmax(1).item() < 10 and second(x).softmax(1).shape
        return answer

    listed = trace(Calls(forward, nn.Linear(4, 10), nn.Linear(28, 3)))
    assert [(each.kind, each.inputs) for each in listed[1:]] == [("convolution", [0]), ("mean", [1]), ("addmm", [2])]
    with pytest.raises(ValueError, match="made of the image"):
        trace(Calls(lambda x: torch.zeros(1, 10)))


def test_a_cell_that_is_run_again_tells_of_its_own_layers(capsys):
    model = nn.Sequential()
    add_to(model, conv1=nn.Conv2d(1, 4, 3), relu1=nn.ReLU())
    add_to(model, conv2=nn.Conv2d(4, 8, 3, stride=2))
    add_to(model, conv1=nn.Conv2d(1, 4, 5), relu1=nn.ReLU())
    add_to(nn.Sequential(), input_size=(3, 32, 32), conv1=nn.Conv2d(3, 4, 3))
    said = capsys.readouterr().out.replace(" parameters so far; each number sees", "").splitlines()
    assert said[:2] == ["4×26×26 come out; 40 3×3", "8×12×12 come out; 336 5×5"]
    assert said[2:] == ["4×24×24 come out; 104 5×5", "4×30×30 come out; 112 3×3"] and len(model) == 3


def random_stack(draw: random.Random) -> nn.Sequential:
    """Layers drawn at random, rows and columns apart."""
    layers = [nn.Conv2d(1, 2, 1)]
    for kind in draw.choices(["max", "average", "depthwise", "residual"], k=draw.randint(1, 4)):
        kernel, stride = ((draw.randint(1, 3), draw.randint(1, 3)) for _ in range(2))
        padding, dilation = draw.randint(0, 1) * (min(kernel) > 1), draw.randint(1, 2)
        if kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=draw.random() < 0.5))
        elif kind == "average":
            layers.append(nn.AvgPool2d(kernel, stride, padding))
        elif kind == "depthwise":
            layers += [nn.Conv2d(2, 2, kernel, stride, padding, dilation, groups=2), nn.Conv2d(2, 2, 1)]
            layers += [nn.BatchNorm2d(2), nn.ReLU(inplace=True)]
        else:
            layers.append(Residual(nn.Conv2d(2, 2, kernel, padding="same", dilation=dilation), nn.ReLU()))
    return nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_computed_equals_measured_on_random_stacks():
    draw, size, compared = random.Random(0), 96, 0
    while compared < 30:
        model = random_stack(draw)
        try:
            table = receptive_field(model, (1, size, size))
        except RuntimeError:  # a map smaller than the next kernel: no network
            continue
        field, jump = (pair(table[column].iloc[-1]) for column in ("receptive_field", "jump"))
        if max(field) + max(jump) < size // 2:  # the image holds the central output's field
            assert measured_receptive_field(model, (1, size, size)) == field, model
            compared += 1


def test_rows_and_columns_apart():
    model = nn.Sequential(nn.ZeroPad2d((2, 1, 3, 0)), nn.Conv2d(1, 1, (3, 5), stride=(1, 2)), nn.MaxPool2d((1, 2)))
    table = receptive_field(model, (1, 20, 40))
    assert table["start"].tolist() == [(-3, -2)] * 3
    assert table["receptive_field"].tolist() == [1, (3, 5), (3, 7)] and table["jump"].tolist() == [1, (1, 2), (1, 4)]
    assert table["output_size"].tolist() == [(23, 43), (21, 20), (21, 10)]


def test_branches_are_seen_from_the_first_start_to_the_last_end():
    wide, narrow = nn.Conv2d(4, 2, 5, padding=2), nn.Conv2d(4, 2, 3, padding=1)
    down, pool = nn.Conv2d(4, 4, 3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True)  # pixels -1 to 1 and 0 to 2
    for branches, field in (([wide, narrow], 7), ([narrow, wide], 7), ([down, pool], 6)):
        model = Calls(lambda x, *branches: torch.cat([branch(x) for branch in branches], 1), *branches)
        assert last(model) == field and measured_receptive_field(model) == (field, field)
    model = Calls(lambda x, one, seven: one(x).add_(seven(x)), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 7, padding=3))
    assert last(model) == 9 and measured_receptive_field(model) == (9, 9)
    assert measured_receptive_field(model, layer="layers.0") == (3, 3)  # before it is changed


def test_branches_of_different_jumps_join_as_features_only():
    branches = nn.Conv2d(4, 1, 2, stride=2), nn.Conv2d(4, 1, 15)  # 14 rows each
    with pytest.raises(ValueError, match="layer 'add'.*measured_receptive_field"):
        receptive_field(Calls(lambda x, down, valid: down(x) + valid(x), *branches))
    model = Calls(lambda x, *branches: torch.cat([branch(x).mean((2, 3)) for branch in branches], 1), *branches)
    assert last(model) == 30 and measured_receptive_field(model) == (28, 28)
    assert last(Calls(lambda x: x * F.max_pool2d(x, 26))) == 30  # spread over a map of which it sees a part


SEEN = {  # the field after it, of the convolution's 3; 27 more where it sees the whole map
    "adaptive average pool": (nn.AdaptiveAvgPool2d(1), 30),
    "adaptive maximum pool": (nn.AdaptiveMaxPool2d(1), 30),
    "mean": (lambda x: x.mean((2, 3)), 30),
    "flatten": (lambda x: x.flatten(1), 30),
    "view, then relu in place": (lambda x: F.relu(x.view(x.size(0), -1), inplace=True), 30),
    "squeeze and excitation": (lambda x: x * x.mean((2, 3), keepdim=True), 30),
    "the same, spread first": (lambda x: F.max_pool2d(x * F.avg_pool2d(x, x.shape[2:]).expand_as(x), 3), 30),
    "a number made of the map": (lambda x: x - x.mean(), 30),
    "pools that step by their kernel": (lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2), 3 + 1 + 2),
    "a pool's overhang": (nn.Sequential(nn.MaxPool2d(3, 3, ceil_mode=True), nn.Conv2d(4, 1, 10)), 3 + 2 + 27),
    "channels sliced, spread, in chunks": (lambda x: torch.cat(x[:, :1].expand(-1, 4, -1, -1).chunk(2, 1), 1), 3),
    "channels shuffled": (lambda x: x.view(-1, 2, 2, 28, 28).transpose(1, 2).reshape(-1, 4, 28, 28), 3),
    "in place": (lambda x: F.relu_(x.add_(1)), 3),
    "into another": (lambda x: torch.zeros_like(x).add_(F.max_pool2d(x, 3, 1, 1)), 5),
    "softmax over channels": (lambda x: x.softmax(-3), 3),
    "mean and maximum over channels": (lambda x: x * x.mean(1, keepdim=True) + x.amax(1, keepdim=True), 3),
    "some activations": (nn.Sequential(nn.Hardswish(), nn.PReLU(), nn.GELU(), nn.Hardsigmoid(), nn.ReLU6()), 3),
    "another type": (lambda x: x.double().contiguous(memory_format=torch.channels_last), 3),
    "channels added": (lambda x: torch.cat([x, torch.zeros_like(x)], 1) + x.new_zeros(1), 3),
    "frozen statistics": (FrozenBatchNorm2d(4), 3),
}


@pytest.mark.parametrize("case", SEEN)
def test_what_is_seen(case):
    call, field = SEEN[case]
    assert last(Calls(call)) == field and measured_receptive_field(Calls(call)) == (min(field, 28),) * 2


REFUSED = {
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "transposed convolution": nn.ConvTranspose2d(4, 4, 2, stride=2),
    "softmax over places": lambda x: x.softmax(-1),
    "linear over columns": nn.Linear(28, 28),
    "cut-out": lambda x: x[:, :, :14],
    "transpose": lambda x: x.transpose(2, 3),
    "mean over columns": lambda x: x.mean(3, keepdim=True),
    "maps that become images": lambda x: x.view(-1, 1, 28, 28),
    "linear over the places of each channel": lambda x: F.linear(x.view(-1, 784), torch.ones(10, 784)),
    "wrapped around": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "changed in a part": lambda x: (x[:, :2].add_(1), x)[1],
    "written into a part": lambda x: (zeros := torch.zeros(1, 4, 28, 28), zeros[:, :2].copy_(x[:, :2]))[0] + x,
    "a number of Python's": lambda x: x / x.max().item(),
    "statistics of the batch": nn.BatchNorm2d(4, track_running_stats=False),
    "group norm": nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_formula_is_refused_by_name(case):
    name = "call" if isinstance(REFUSED[case], nn.Module) else ".+"
    with pytest.raises(ValueError, match=f"layer '{name}'.*measured_receptive_field"):
        receptive_field(Calls(REFUSED[case]))


class FourConvolutions(nn.Module):
    def __init__(self, before):
        super().__init__()
        stack = [[nn.Conv2d(4 if i else 1, 4, 3, padding=1), nn.ReLU()] for i in range(4)]
        self.before, self.stack = before, nn.Sequential(*sum(stack, []))

    def forward(self, x):
        return self.stack(self.before(x))


@pytest.mark.parametrize("before", [lambda x: x - 1, lambda x: -x, F.relu6, nn.BatchNorm2d(1), FrozenBatchNorm2d(1)])
def test_a_field_is_measured_after_what_would_make_a_relu_silent(before):
    if isinstance(before, nn.Module):
        before.running_mean.fill_(1e6)
    assert measured_receptive_field(FourConvolutions(before)) == (9, 9)


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize("change", [lambda x: prune.l1_unstructured(x, "weight", 0.3), weight_norm, spectral_norm])
def test_weights_that_are_computed_are_copied(change):
    model, images = FourConvolutions(lambda x: x), torch.rand(2, 1, 28, 28)
    plain = count_multiplications(model)
    for layer in model.stack[::2]:
        change(layer)
    model(images).sum().backward()
    assert last(model) == 9 and measured_receptive_field(model) == (9, 9)
    assert plain <= count_multiplications(model) < plain + 1000  # a spectral norm multiplies weights, too
    assert torch.equal(copy_of(model)(images), model.eval()(images))


def test_what_can_t_be_measured_is_named():
    with pytest.raises(ValueError, match="'bn6' is never called"):
        measured_receptive_field(Net(), layer="bn6")
    for call in (lambda x: x.detach(), lambda x: x * 0, lambda x: (x > 0).double()):
        with pytest.raises(ValueError, match="no gradient .*'call'"):
            measured_receptive_field(nn.Sequential(OrderedDict(call=Calls(call))), layer="call")
    with pytest.raises(ValueError, match="one row"):
        measured_receptive_field(Net(), (1, 96, 96))
    with pytest.raises(ValueError, match="input_size must be"):
        receptive_field(nn.Conv1d(28, 3, 3), (28, 28))


def test_multiplications_are_counted_as_by_hand():
    brief = [784 * 4 * 9, 169 * 16 * 4 * 9, 169 * 16 * 16 * 9, 36 * 32 * 16 * 9, 9 * 32 * 32 * 9, 10 * 32 * 9]
    for dtype in (torch.float, torch.half, torch.bfloat16, torch.double):
        assert count_multiplications(Net().to(dtype)) == sum(brief)
    assert count_multiplications(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))) == 7840
    assert count_multiplications(nn.Conv2d(4, 4, 3, groups=4), (4, 5, 5)) == 9 * 4 * 9
    assert count_multiplications(nn.ConvTranspose2d(4, 2, 2, stride=2), (4, 5, 5)) == 25 * 4 * 2 * 4
