"""recipes.py: augmentation, averaging, optimiser and schedule, pictures of digits, each against its definition."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from recipes import (
    AS_SUBMITTED,
    AUGMENTED,
    FINAL,
    RECIPES,
    UNDISTORTED,
    MovingAverage,
    Net,
    RandomAffine,
    RandomDistortion,
    SharedBlock,
    build,
    centre,
    fit_to_box,
    ink_of,
    one_cycle,
    run_recipe,
)
from results import last_epochs, read_runs

BLACK = -0.4242


def noise(n, size=27, margin=0):
    """Images of noise, black in a margin; of an odd size, so that the middle is a pixel."""
    inner = torch.randn(n, 1, size - 2 * margin, size - 2 * margin, generator=torch.Generator().manual_seed(n))
    return F.pad(inner, [margin] * 4, value=BLACK)


def changed(images, draws, **limits):
    """RandomAffine with draws, from -1 to 1, instead of random numbers: angle, size, slant, right, down."""
    draws = torch.tensor(draws, dtype=torch.float32).reshape(5, -1).expand(5, len(images))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **_: (draws + 1) / 2)
        return RandomAffine(**limits)(images)


def close(first, second):
    return torch.allclose(first, second, atol=1e-3)


# ---------------------------------------------------------------- augmentation


def test_nothing_drawn_changes_nothing():
    assert close(changed(noise(3), [0, 0, 0, 0, 0]), noise(3))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_right_angle_is_a_turn(sign):
    assert close(changed(noise(3), [sign, 0, 0, 0, 0], degrees=90), noise(3).rot90(sign, (2, 3)))


@pytest.mark.parametrize("draws, moves", [([0, 0, 0, 1, 0], (0, -3)), ([0, 0, 0, 0, 1], (-3, 0))])
def test_a_whole_shift_is_a_roll(draws, moves):
    assert close(changed(noise(3, margin=3), draws, shift=3), noise(3, margin=3).roll(moves, (2, 3)))


def test_a_slant_moves_each_row_by_its_height():
    images = noise(3, margin=7)  # far enough from the border for the outermost row
    rows = [images[:, :, row].roll(13 - row, -1) for row in range(27)]
    assert close(changed(images, [0, 0, 1, 0, 0], shear=1), torch.stack(rows, 2))


def test_the_slant_is_turned_with_the_picture():
    images = noise(3, margin=7)
    slanted = changed(changed(images, [1, 0, 0, 0, 0], degrees=90), [0, 0, 1, 0, 0], shear=1)
    assert close(changed(images, [1, 0, 1, 0, 0], degrees=90, shear=1), slanted)


def test_twice_the_size_is_read_at_half_the_width():
    square = F.pad(torch.ones(1, 1, 16, 16), [6] * 4, value=BLACK)
    assert close(changed(square, [0, 1, 0, 0, 0], scale=1), F.pad(torch.ones(1, 1, 8, 8), [10] * 4, value=BLACK))


def test_what_comes_from_outside_is_black():
    moved = changed(torch.full((1, 1, 28, 28), 2.0), [0, 0, 0, 1, 0], shift=2)
    assert close(moved[..., -2:], torch.full((28, 2), BLACK)) and close(moved[..., :-2], torch.full((28, 26), 2.0))
    assert close(RandomAffine()(torch.full((9, 1, 28, 28), BLACK)), torch.full((9, 1, 28, 28), BLACK))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=10, max_size=10))
def test_places_are_those_of_affine_grid(draws):
    """Two images, each with its own draw."""
    angle, size, slant, right, down = np.array(draws).reshape(5, 2)
    angle, size, slant = np.radians(15) * angle, 1 + 0.1 * size, 0.2 * slant
    matrices = [
        size[i]
        * np.array([[np.cos(angle[i]), -np.sin(angle[i])], [np.sin(angle[i]), np.cos(angle[i])]])
        @ [[1, slant[i]], [0, 1]]
        for i in (0, 1)
    ]
    shifts = np.stack([right, down], 1)[..., None] * 2 / 14  # 28 pixels are 2 wide
    theta = torch.tensor(np.concatenate([matrices, shifts], 2), dtype=torch.float32)
    expected = (
        F.grid_sample(
            noise(2, 28) - BLACK, F.affine_grid(theta, (2, 1, 28, 28), align_corners=False), align_corners=False
        )
        + BLACK
    )
    assert close(changed(noise(2, 28), draws, degrees=15, scale=0.1, shear=0.2, shift=2), expected)


def test_every_image_has_its_own_draw():
    torch.manual_seed(1)
    images = RandomAffine()(noise(1, 28).expand(40, -1, -1, -1))
    assert len({image.numpy().tobytes() for image in images}) == 40


def test_control_points_pushed_alike_shift_the_picture():
    """By 0.5 of a deviation, as drawn, of 6 pixels: all points to the right, then all down."""
    images = noise(2, margin=3)
    for direction, moves in ((0, (0, -3)), (1, (-3, 0))):
        pushes = torch.zeros(2, 2, 25)
        pushes[:, direction] = 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 0.5))
            patch.setattr(torch, "randn", lambda *size, pushes=pushes, **_: pushes.reshape(size))
            assert close(RandomDistortion(elastic=6.0)(images), images.roll(moves, (2, 3)))


@pytest.mark.parametrize("points", [3, 5])
def test_a_control_point_moves_its_own_place_alone(points):
    """With 29 pixels a side every point is the middle of a pixel; the others don't move that one."""
    spread = RandomDistortion(points=points).spread(torch.zeros(1, 1, 29, 29)).view(points, points, 29, 29)
    step = 28 // (points - 1)
    at_points = spread[:, :, ::step, ::step].reshape(points**2, points**2)
    assert close(at_points, torch.eye(points**2))


def test_how_hard_it_bends_is_drawn_for_each_image():
    """Deviations between 0 and 2 pixels, evenly: their mean square is 2² / 3, up and down as sideways."""
    torch.manual_seed(1)
    images = torch.zeros(3000, 1, 28, 28)
    bent = RandomDistortion(0, 0, 0, 0, elastic=2.0).places(images)
    flat = RandomAffine(0, 0, 0, 0).places(images)
    corners = (14 * (bent - flat)).view(-1, 2, 28, 28)[..., [0, 0, -1, -1], [0, -1, 0, -1]]  # in pixels
    squares = corners.square().mean((0, 2))
    assert squares == pytest.approx([4 / 3] * 2, rel=0.1)
    strengths = corners.square().mean((1, 2)).sqrt()
    assert strengths.quantile(0.05) < 0.2 and 1.9 < strengths.quantile(0.98) < 3.2


# ---------------------------------------------------------------- networks


def test_a_shared_block_adds_what_one_convolution_finds_each_time():
    block, calls = SharedBlock(4, times=3), []
    block.conv.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0]))
    x = torch.randn(2, 4, 6, 6)
    found = block(x) - x
    assert len(calls) == 3 and found.min() >= 0 and found.max() > 0  # a ReLU adds nothing negative
    assert len({norm.running_mean.sum().item() for norm in block.norms}) == 3  # each norm has met its own maps


# ---------------------------------------------------------------- a recipe's run


def toy_data(n=70):
    return TensorDataset(torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 10)


@pytest.mark.parametrize("share, epochs, augmented", [(1.0, 3, 3), (0.9, 10, 9), (0.5, 3, 2), (0.0, 2, 0)])
def test_the_augmented_epochs_come_first(share, epochs, augmented):
    seen = []

    def recorded(images):
        seen.append(len(images))
        return images

    recipe = replace(UNDISTORTED, augment=recorded, augment_share=share)
    data = toy_data()
    run_recipe(recipe, data, data, epochs=epochs)
    assert seen == [64, 6] * augmented  # batches of the training set only


def test_the_last_epochs_are_not_distorted():
    means = []

    class Recorder(Net):
        def forward(self, x):
            if self.training:
                means.append(x.mean().item())
            return super().forward(x)

    data = toy_data(64)
    run_recipe(
        replace(UNDISTORTED, network=Recorder, augment=lambda x: x + 100, augment_share=0.5), data, data, epochs=4
    )
    assert [mean > 50 for mean in means] == [True, True, False, False]


@pytest.mark.parametrize("name", ["averaged weights", "final"])
def test_the_model_to_use_is_the_moving_average(name):
    record = []

    class Recorder(MovingAverage):
        def update_parameters(self, model):
            record.append({name: value.clone() for name, value in model.state_dict().items()})
            super().update_parameters(model)

    data = toy_data()
    model, _ = run_recipe(replace(RECIPES[name], average=Recorder), data, data, epochs=15)
    expected = dict(record[0])
    for count, weights in enumerate(record[1:], 1):
        share = 9 / (10 + count)
        expected = {name: (1 - share) * expected[name] + share * weights[name] for name in weights}
    assert len(record) == 15 * math.ceil(len(data) / RECIPES[name].batch_size)
    for name, value in model.state_dict().items():
        if value.is_floating_point():  # BatchNorm's statistics too; a count of batches is no weight
            assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6), name
            assert not torch.equal(value, record[-1][name]), name


def test_an_average_never_counts_a_batch_for_less_than_its_least_share():
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, least=0.25)
    expected = None
    for count in range(60):
        nn.init.constant_(model.weight, math.sin(count))
        average.update_parameters(model)
        share = max(9 / (10 + count), 0.25)
        expected = math.sin(count) if count == 0 else expected + share * (math.sin(count) - expected)
        assert average.module.weight.item() == pytest.approx(expected, abs=1e-5)
    assert MovingAverage(model).least == 0.001


def test_a_run_is_kept_under_its_recipe_and_seed(tmp_path):
    data = toy_data(10)
    run_recipe(AS_SUBMITTED, data, data, epochs=1, folder=tmp_path)
    run_recipe(FINAL, data, data, seed=7, epochs=1, folder=tmp_path)
    names = sorted(path.name.rsplit(",", 1)[0] for path in tmp_path.iterdir())
    assert names == ["as submitted, seed 1", "final, seed 7"]


def test_without_an_average_the_trained_model_is_returned():
    data, kept = toy_data(), []

    def network():
        kept.append(Net())
        return kept[-1]

    model, history = run_recipe(replace(AUGMENTED, network=network), data, data, epochs=2)
    assert kept[-1] is model and len(history) == 2
    assert not torch.equal(model.conv1.weight, build(AUGMENTED).conv1.weight)


def test_other_starting_weights_make_another_run(tmp_path):
    """Although they are drawn by a function of the student's that only the recipe knows."""

    def drawn_with(spread):
        def network():
            model = Net()
            nn.init.normal_(model.conv1.weight, 0, spread)
            return model

        return network

    for spread in (0.1, 0.2, 0.1):
        recipe = replace(AS_SUBMITTED, network=drawn_with(spread))
        run_recipe(recipe, toy_data(10), toy_data(10), epochs=1, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


ONE_NET = Net()


@pytest.mark.parametrize("changes, message", [
    ({"network": ONE_NET}, r"give the recipe Net, not Net\(\)"),
    ({"network": lambda: ONE_NET}, "a new network at each call"),
    ({"augment": RandomAffine}, r"RandomAffine\(\), not RandomAffine"),
])  # fmt: skip
def test_a_recipe_that_could_not_be_repeated_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run_recipe(replace(FINAL, **changes), toy_data(10), toy_data(10), epochs=1)


def test_a_recipe_may_do_without_a_schedule():
    _, history = run_recipe(replace(AS_SUBMITTED, scheduler=None), toy_data(10), toy_data(10), epochs=2)
    assert history["lr"].tolist() == [0.01, 0.01]


@pytest.mark.parametrize("name", ["final", "small", "fast"])
def test_larger_images_are_refused_as_the_brief_s_network_does(name):
    """Each head would have a hundred answers or so for one image, and could be trained all the same."""
    data = TensorDataset(torch.zeros(10, 1, 56, 56), torch.arange(10))
    with pytest.raises(ValueError, match="batch_size"):
        run_recipe(replace(RECIPES[name], augment=None), data, data, epochs=1)


def test_a_recipe_has_its_own_number_of_epochs_and_tests_on_the_test_set():
    train_set, test_set = toy_data(64), toy_data(10)
    _, history = run_recipe(replace(AS_SUBMITTED, epochs=3), train_set, test_set)
    assert len(history) == 3
    assert {round(accuracy) % 10 for accuracy in history["test_accuracy"]} == {0}  # of 10 images
    assert any(accuracy % 10 for accuracy in history["train_accuracy"])  # of 64


def test_the_seed_sets_the_order_of_the_images_and_nothing_else_does():
    orders = []

    def order_of(recipe, seed):
        class Recorder(recipe.network if isinstance(recipe.network, type) else Net):
            def forward(self, x):
                if self.training:
                    seen.extend(x[:, 0, 0, 0].tolist())
                return super().forward(x)

        seen = []
        data = toy_data(64)
        run_recipe(replace(recipe, network=Recorder, augment=None), data, data, seed=seed, epochs=1)
        return seen

    orders = [order_of(recipe, seed) for recipe, seed in ((AS_SUBMITTED, 1), (FINAL, 1), (FINAL, 2))]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != toy_data(64).tensors[0][:, 0, 0, 0].tolist()


def test_only_cpus_get_channels_last():
    def is_last(recipe, device):
        weight = build(recipe, device).down1[0].weight
        return weight.is_contiguous(memory_format=torch.channels_last)

    assert (
        is_last(FINAL, "cpu") and not is_last(FINAL, "meta") and not is_last(replace(FINAL, channels_last=False), "cpu")
    )


# ---------------------------------------------------------------- optimiser and schedule


def test_one_cycle_descends_with_nesterov_momentum_and_weight_decay():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = one_cycle(lr=0.1, weight_decay=0.01)["optimizer"]([weight])
    expected, velocity = weight.detach().clone(), torch.zeros(2)
    for count in range(1, 5):
        gradient = torch.tensor([1.0, 2.0]) * count
        weight.grad = gradient.clone()
        optimizer.step()
        decayed = gradient + 0.01 * expected
        velocity = 0.9 * velocity + decayed
        expected = expected - 0.1 * (decayed + 0.9 * velocity)
        assert torch.allclose(weight, expected, atol=1e-6)


def test_the_brief_descends_with_momentum():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = AS_SUBMITTED.optimizer([weight])
    for _ in range(2):
        weight.grad = torch.tensor([1.0])
        optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.01 * (1 + 1.9))
    plateau = AS_SUBMITTED.scheduler(optimizer, 1)
    for loss in (1, 2, 2, 2):
        plateau.step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)  # halved after 2 epochs' patience


@pytest.mark.parametrize("name", ["one-cycle learning rate", "undistorted at the end", "final", "small"])
def test_a_recipe_makes_the_learning_rates_of_the_committed_runs(name):
    recipe, seeds = RECIPES[name], last_epochs(read_runs(), name, RECIPES[name].epochs)["seed"]
    rows = read_runs()
    committed = rows[(rows["recipe"] == name) & (rows["seed"] == seeds.iloc[0])]
    optimizer = recipe.optimizer([nn.Parameter(torch.zeros(1))])
    batches = math.ceil(60_000 / recipe.batch_size)
    scheduler, rates = recipe.scheduler(optimizer, recipe.epochs * batches), []
    for batch in range(recipe.epochs * batches):
        if batch % batches == 0:
            rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(committed["lr"].tolist(), rel=1e-3, abs=1e-6)
    decay = 5e-4 if name in ("final", "small") else 2e-4
    assert recipe.step_every == "batch" and optimizer.param_groups[0]["weight_decay"] == decay


def test_each_step_changes_what_its_name_says():
    """From one recipe to the next; networks are told apart by what they do to one image."""
    fields = ["optimizer", "scheduler", "step_every", "batch_size", "epochs", "augment", "augment_share", "average"]
    steps = list(RECIPES.values())[:9]
    changes = [
        {field for field in fields if getattr(before, field) != getattr(after, field)}
        for before, after in zip(steps, steps[1:])
    ]
    cycle = {"optimizer", "scheduler", "step_every"}
    assert changes == [set(), set(), set(), set(), cycle, {"augment"}, {"average"}, {"augment_share"}]


def test_the_brief_cuts_logits_at_zero_and_its_repair_does_not():
    def logits_below_zero(network):
        seen = []
        torch.manual_seed(0)
        model = network().eval()
        model.conv7.register_forward_hook(lambda module, inputs, output: seen.append(output.flatten(1)))
        answer = model(noise(4, 28))
        return [torch.allclose(answer, F.log_softmax(logits, 1), atol=1e-6) for logits in (seen[0], seen[0].relu())]

    assert logits_below_zero(Net) == [False, True]
    for name in ("no ReLU on the logits", "bn6 put to use", "BatchNorm before ReLU", "no dropout"):
        assert logits_below_zero(RECIPES[name].network) == [True, False]


def calls_of(network):
    """Names of a network's layers in the order of their calls, ReLU among them."""
    torch.manual_seed(0)
    model, seen = network().eval(), []
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.append((name, bool((inputs[0] >= 0).all())))
            )
    model(noise(4, 28))
    return seen


def test_the_repairs_move_batch_norm_and_dropout():
    brief, repaired, with_bn6, norm_first, without = (
        calls_of(RECIPES[name].network)
        for name in ("as submitted", "no ReLU on the logits", "bn6 put to use", "BatchNorm before ReLU", "no dropout")
    )
    order = "conv1 bn1 d_out conv2 bn2 d_out conv3 bn3 pool2 d_out conv5 bn5 conv6 conv7".split()
    assert [name for name, _ in brief] == order
    with_bn6_order = [*order[:-1], "bn6", "conv7"]
    for calls in (with_bn6, norm_first, without):
        assert [name for name, _ in calls] == with_bn6_order
    for calls, first in ((brief, False), (repaired, False), (with_bn6, False), (norm_first, True), (without, True)):
        norms = [positive for name, positive in calls if name.startswith("bn")]
        assert not any(norms) if first else all(norms)  # what goes into a BatchNorm has been through ReLU, or not
    assert [RECIPES[name].network().d_out.p for name in ("as submitted", "BatchNorm before ReLU", "no dropout")] == [
        0.25,
        0.25,
        0.0,
    ]


def test_blocks_add_to_their_input():
    """With the last normalisation of each branch at zero, the residual network is the one without branches."""
    for name, branches in (("final", ["residual1", "residual2"]), ("small", ["shared1", "shared2"])):
        torch.manual_seed(0)
        model = RECIPES[name].network().eval()
        for branch in branches:
            for module in getattr(model, branch).modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.zeros_(module.weight)
        with_branches = model(noise(4, 28))
        for branch in branches:
            setattr(model, branch, nn.Identity() if name == "small" else Zero())
        assert torch.equal(with_branches, model(noise(4, 28)))
        assert torch.allclose(with_branches.exp().sum(1), torch.ones(4))


class Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


# ---------------------------------------------------------------- pictures of digits


def written(path, ink, paper=255, pen=0, mode="L"):
    """A picture of the ink, an array of 0 to 1, on paper of one grey with a pen of another."""
    Image.fromarray((paper + (pen - paper) * ink).astype(np.uint8)).convert(mode).save(path)
    return path


def stroke(height=30, width=40):
    """A slanted stroke, unlike its mirror images."""
    ink = np.zeros((height, width))
    ink[5:20, 10:14] = 1
    ink[18:20, 10:30] = 1
    return ink


@pytest.mark.parametrize("paper, pen", [(255, 0), (0, 255), (180, 60), (100, 220)])
def test_ink_is_what_differs_from_the_paper(paper, pen, tmp_path):
    assert np.array_equal(ink_of(written(tmp_path / "one.png", stroke(), paper, pen)), 255 * stroke())


def test_ink_on_a_transparent_picture_is_read_as_on_white_paper(tmp_path):
    opaque = (255 * stroke()).astype(np.uint8)
    Image.fromarray(np.dstack([np.zeros((30, 40, 3), np.uint8), opaque]), "RGBA").save(tmp_path / "one.png")
    assert np.array_equal(ink_of(tmp_path / "one.png"), 255 * stroke())


def test_a_telephone_s_picture_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: to be shown turned by 90 degrees clockwise
    Image.fromarray((255 * (1 - stroke())).astype(np.uint8)).save(tmp_path / "one.png", exif=exif)
    assert np.array_equal(ink_of(tmp_path / "one.png"), 255 * np.rot90(stroke(), -1))


def test_grain_under_a_fifth_of_the_ink_is_paper(tmp_path):
    ink = stroke()
    ink[1, 1], ink[1, 3] = 0.18, 0.22
    seen = ink_of(written(tmp_path / "one.png", ink, paper=250, pen=50))
    assert seen[1, 1] == 0 and seen[1, 3] == pytest.approx(0.22 * 255, abs=1) and seen.max() == 255


@pytest.mark.parametrize("contrast, seen", [(29, False), (30, True)])
def test_what_hardly_stands_out_is_no_digit(contrast, seen, tmp_path):
    path = written(tmp_path / "one.png", stroke(), paper=200, pen=200 - contrast)
    if seen:
        assert np.array_equal(ink_of(path), 255 * stroke())
    else:
        with pytest.raises(ValueError, match="one.png shows no digit"):
            ink_of(path)


def test_a_thing_at_the_border_leaves_the_paper_paper(tmp_path):
    ink = stroke()
    ink[:10, 0] = 1  # less than half of the border
    assert np.array_equal(ink_of(written(tmp_path / "one.png", ink)), 255 * ink)


def test_fit_to_box_cuts_out_and_keeps_the_shape():
    box = fit_to_box(255 * stroke())  # its ink is 15 high and 20 wide
    assert np.array_equal(box, 255 * stroke()[5:20, 10:30])
    assert fit_to_box(255 * stroke(), 40).shape == (30, 40)
    assert fit_to_box(255 * stroke().T).shape == (20, 15)


made = st.tuples(st.integers(8, 60), st.integers(8, 60), st.integers(0, 2**31))


@settings(max_examples=40, deadline=None)
@given(made)
def test_the_longer_side_is_20_and_the_centre_of_mass_in_the_middle(drawn):
    height, width, seed = drawn
    ink = np.random.default_rng(seed).integers(100, 256, (height, width))
    box = fit_to_box(np.pad(ink, ((3, 7), (0, 11))))
    assert max(box.shape) == 20 and abs(20 * min(height, width) / max(height, width) - min(box.shape)) <= 0.5
    image = centre(box)
    assert image.shape == (1, 28, 28) and image.dtype == torch.uint8 and image.sum() == box.sum()
    for axis in (0, 1):
        mass = image[0].double().sum(1 - axis)
        # pixel 13.5 is the middle; a digit that would stick out is moved in
        assert abs((mass * torch.arange(28)).sum() / mass.sum() - 13.5) <= 0.5


def test_a_thin_stroke_stays():
    ink = np.zeros((400, 60))
    ink[50:350, 30:35] = 255
    assert fit_to_box(ink).shape == (20, 1) and centre(fit_to_box(ink)).any()


def test_a_digit_with_its_mass_at_one_end_stays_whole():
    digit = np.zeros((20, 20), np.uint8)
    digit[:, 0] = 1
    digit[0] = 255  # heavy at the top
    image = centre(digit)[0]
    assert (
        image.sum() == digit.sum(dtype=int)
        and image[8:, :].any()
        and torch.equal(image[8:, 4:24], torch.as_tensor(digit))
    )
