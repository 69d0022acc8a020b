"""helpers.py: data, training, the checkpoint, figures; each against a computation by hand."""

import copy
import os
import shutil
import socket
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

import helpers
from helpers import TensorLoader, fit, log_probabilities, test, train

DATA = Path(__file__).parent.parent / "data"


def noise(n=70, seed=0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 1, 28, 28, generator=generator), torch.arange(n) % 10)


def small_net(seed=1) -> nn.Module:
    """A network with BatchNorm and dropout that ends in logits."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 10))


def linear_net(seed=1, *last) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), *last)


def sgd(model, lr=0.01):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def same_state(one, two) -> bool:
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---- Data
def test_the_test_set_is_mnist_s_and_no_image_of_it_is_trained_on(mnist):
    train_images, train_labels, test_images, test_labels = mnist
    assert train_images.shape == (60_000, 28, 28) and len(train_labels) == 60_000
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test_images.shape == (10_000, 28, 28) and test_labels.bincount().tolist() == counts
    learned_from, tested_on = ({image.tobytes() for image in part.numpy()} for part in (train_images, test_images))
    assert not learned_from & tested_on


def test_training_pixels_have_mean_0_and_deviation_1(mnist):
    images = helpers.normalise(mnist[0][:20_000])
    assert images.shape == (20_000, 1, 28, 28) and images.dtype == torch.float32
    assert images.mean().abs() < 0.01 and abs(images.std() - 1) < 0.01
    assert images.min().item() == pytest.approx(helpers.BACKGROUND)
    means = torch.tensor([51, 102, 153]).view(3, 1, 1)  # of another data set, in colour
    images = helpers.normalise((means + 51).byte().expand(2, 3, 4, 6), means / 255, 0.1)
    assert images.shape == (2, 3, 4, 6) and torch.allclose(images, torch.tensor(2.0), atol=1e-5)
    for wrong in (mnist[0][:2].float(), mnist[0][:2, ..., None].expand(2, 28, 28, 3)):
        with pytest.raises(ValueError, match="uint8"):
            helpers.normalise(wrong)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:1000])])
def test_a_missing_or_damaged_file_is_named_or_fetched_from_a_mirror_that_answers(damage, tmp_path, monkeypatch):
    raw = shutil.copytree(DATA / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    damage(raw / "t10k-labels-idx1-ubyte.gz")
    (tmp_path / "train-images-idx3-ubyte.gz").write_text("not asked for: there is a sound one")
    monkeypatch.setenv("HOME", str(tmp_path))  # what ~ means
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirrors = [f"http://127.0.0.1:{silent.getsockname()[1]}/", f"{tmp_path.as_uri()}/"]
        monkeypatch.setattr(helpers.MNIST, "mirrors", mirrors)
        with pytest.raises(RuntimeError, match="t10k-labels-idx1-ubyte.gz is missing or damaged"):
            helpers.read_mnist("~", timeout=0.2)
        shutil.copy(DATA / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz", tmp_path)
        assert len(helpers.read_mnist("~", timeout=0.2)[3]) == 10_000


def test_a_loader_gives_every_image_once_in_another_order_each_time():
    data = noise(70)
    loader = TensorLoader(data, 32, shuffle=True, augment=lambda x: x + 100)
    distorted = list(loader)
    loader.augment = None
    passes = [list(loader) for _ in range(2)]
    assert len(loader) == 3 and [len(labels) for _, labels in passes[0]] == [32, 32, 6]
    assert distorted[0][0].mean() > 50 > passes[0][0][0].mean()
    first_pixels = [torch.cat([images for images, _ in batches])[:, 0, 0, 0] for batches in passes]
    assert not torch.equal(*first_pixels)
    assert torch.equal(first_pixels[1].sort().values, data.tensors[0][:, 0, 0, 0].sort().values)


def test_a_part_of_a_data_set_is_loaded_as_a_whole_one_is():
    part = random_split(Subset(noise(70), range(5, 65)), [20, 40], torch.Generator().manual_seed(1))[1]
    for data in (noise(70), part):
        for ours, theirs in zip(TensorLoader(data, 16), DataLoader(data, 16), strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    for wrong in ([(torch.zeros(1, 28, 28), 1)], TensorDataset(torch.zeros(9))):
        with pytest.raises(ValueError, match="use a DataLoader"):
            TensorLoader(wrong, 16)


# ---- Training and testing
@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Identity()], ids=["log-probabilities", "logits"])
def test_an_epoch_is_the_plain_loop(last):
    """Of 32, 32 and 6 images: the short last batch counts for its six."""
    model, plain, loader = linear_net(1, last), linear_net(1, nn.LogSoftmax(1)), TensorLoader(noise(70), 32)
    optimizer, loss_sum, right = sgd(plain), 0.0, 0
    images, labels = noise(70).tensors
    for x, y in zip(images.split(32), labels.split(32)):
        optimizer.zero_grad()
        answer = plain(x)
        loss = F.nll_loss(answer, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(y)
        right += (answer.argmax(1) == y).sum().item()
    assert train(model, "cpu", loader, sgd(model)) == pytest.approx((loss_sum / 70, 100 * right / 70))
    assert torch.allclose(model[1].weight, plain[1].weight, atol=1e-6)
    answer = plain(images)
    expected = F.nll_loss(answer, labels).item(), 100 * (answer.argmax(1) == labels).float().mean().item()
    assert test(model, "cpu", loader) == pytest.approx(expected)
    assert torch.allclose(log_probabilities(model, images), answer, atol=1e-5)


def test_testing_changes_neither_the_model_nor_the_images():
    model, data = nn.Sequential(nn.ReLU(inplace=True), small_net()), noise()
    images, before, random_state = data.tensors[0].clone(), copy.deepcopy(model), torch.get_rng_state()
    for call in (lambda: test(model, "cpu", [data.tensors]), lambda: log_probabilities(model, data.tensors[0])):
        model.train()
        call()
        assert same_state(model, before) and torch.equal(torch.get_rng_state(), random_state)
        assert torch.equal(data.tensors[0], images)
    train(model, "cpu", TensorLoader(data, 32), sgd(model))  # which hands out copies; it learns from three batches
    assert torch.equal(data.tensors[0], images) and model[1][1].num_batches_tracked == 3


def test_five_looks_are_the_mean_over_an_image_and_its_neighbours():
    images, model = noise(7).tensors[0], small_net()
    corners = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    for background in (helpers.BACKGROUND, 0.5):
        padded = F.pad(images, [1] * 4, value=background)
        by_hand = sum(log_probabilities(model, padded[:, :, y : y + 28, x : x + 28]) for y, x in corners) / 5
        assert torch.allclose(helpers.five_looks(model, images, background), by_hand.log_softmax(1), atol=1e-5)


IMAGES, LABELS = noise(20).tensors
SHAPES = "labels be class numbers, int64 .N,.; got .*"
WRONG = {
    "labels": (linear_net(), IMAGES, LABELS + 1, "labels must be 0 to 9, got 1 to 10"),
    "one-hot labels": (linear_net(), IMAGES, F.one_hot(LABELS), SHAPES + "int64 .10, 10."),
    "labels in a column": (linear_net(), IMAGES, LABELS[:, None], SHAPES + "int64 .10, 1."),
    "small labels": (linear_net(), IMAGES, LABELS.int(), SHAPES + "int32"),
    "maps": (nn.Conv2d(1, 10, 28), IMAGES, LABELS, SHAPES + ".10, 10, 1, 1."),
    "a tuple": (nn.Sequential(nn.Flatten(), nn.LSTM(784, 10)), IMAGES, LABELS, "got a tuple"),
    "probabilities": (linear_net(1, nn.Softmax(1)), IMAGES, LABELS, "leave out its softmax"),
    "nan": (linear_net(), IMAGES / 0, LABELS, "nan or infinite"),
    "nothing": (linear_net(), IMAGES[:0], LABELS[:0], "no batch"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_pytorch_is_silent_about_is_named_in_a_line(case):
    model, images, labels, message = WRONG[case]
    loader, optimizer = TensorLoader(TensorDataset(images, labels), 10), sgd(linear_net())
    for call in (lambda: train(model, "cpu", loader, optimizer), lambda: test(model, "cpu", loader)):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


# ---- A run of several epochs
def run(epochs=3, make_scheduler=lambda optimizer: None, averaged=False, seed=1, loader=None, **options):
    """A run made anew, of three batches an epoch: (model, average, history)."""
    model = small_net(seed)
    optimizer = sgd(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True) if averaged else None
    ours = TensorLoader(noise(), 32, shuffle=True, generator=torch.Generator().manual_seed(seed))
    loaders = loader or ours, TensorLoader(noise(30, seed=9), 16)
    history = fit(model, "cpu", *loaders, optimizer, make_scheduler(optimizer), epochs, average, **options)
    return model, average, history


@pytest.mark.parametrize("averaged", [False, True])
def test_the_same_seed_gives_the_same_bits_and_an_average_is_tested_in_place_of_the_model(averaged, capsys):
    (model, average, history), (again, _, rows), (other, _, _) = (run(averaged=averaged, seed=n) for n in (1, 1, 2))
    assert same_state(model, again) and not same_state(model, other)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), rows.drop(columns="seconds"))
    assert history["epoch"].tolist() == [1, 2, 3] and (history["seconds"] > 0).all()
    last, test_loader = history.iloc[-1], TensorLoader(noise(30, seed=9), 16)
    assert (last["test_loss"], last["test_accuracy"]) == test(average or model, "cpu", test_loader)
    assert average is None or average.n_averaged == 9
    assert f"in test; test accuracy {last['test_accuracy']:.2f}%\n" in capsys.readouterr().out


@pytest.mark.parametrize("mode, column", [("min", "test_loss"), ("max", "test_accuracy")])
def test_a_plateau_is_looked_for_on_the_test_set(mode, column, monkeypatch):
    seen = []
    monkeypatch.setattr(ReduceLROnPlateau, "step", lambda self, metrics: seen.append(metrics))
    history = run(3, lambda optimizer: ReduceLROnPlateau(optimizer, mode))[2]
    assert seen == history[column].tolist()


def one_cycle(optimizer):
    return OneCycleLR(optimizer, 0.4, total_steps=12)


def test_one_cycle_moves_with_every_batch_or_is_refused():
    """Of three an epoch: up from 1/25 of the peak, which lies at 0.3 * 12 - 1 batches, and down along a cosine."""
    falling = 0.2 * (1 + np.cos(np.pi * (np.array([3, 6, 9]) - 2.6) / 8.4))
    assert run(4, one_cycle, step_every="batch")[2]["lr"].tolist() == pytest.approx([0.016, *falling], rel=1e-3)
    with pytest.raises(ValueError, match='"batch" or "epoch", got \'Batch\''):
        run(step_every="Batch")
    with pytest.raises(ValueError, match="plans 12 steps for 1 epochs"):
        run(1, one_cycle)  # where it would hardly move
    run(2, one_cycle)  # it may be meant


# ---- The checkpoint
def numpy_s_numbers(optimizer):
    optimizer.param_groups[0]["lr"] = np.logspace(-3, -1, 3)[1]
    return MultiStepLR(optimizer, np.arange(1, 3), gamma=np.float32(0.5))


CUT_OFF = {
    "one-cycle and average": {"make_scheduler": one_cycle, "step_every": "batch", "averaged": True},
    "DataLoader": {"make_scheduler": numpy_s_numbers, "loader": DataLoader(noise(), 32, shuffle=True)},
}


@pytest.mark.parametrize("kind", CUT_OFF)
def test_a_run_that_was_cut_off_ends_as_a_whole_one_does_to_the_bit(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))  # what ~ means
    model, average, history = run(4, **CUT_OFF[kind])
    how, lengths = {"checkpoint": "~/new folder/run.pt", "resume": True, **CUT_OFF[kind]}, []
    run(2, **how)
    assert "goes on" not in capsys.readouterr().out  # there was no file: it started anew
    for _ in range(2):  # the second time it is complete, and read back
        again, again_average, rows = run(4, after_epoch=lambda rows: lengths.append(len(rows)), **how)
        assert same_state(again, model) and (average is None or same_state(again_average, average))
        pd.testing.assert_frame_equal(rows.drop(columns="seconds"), history.drop(columns="seconds"))
    out = capsys.readouterr().out
    assert "goes on after its epoch 2" in out and "goes on after its epoch 4" in out
    assert lengths == [2, 3, 4, 4] and os.listdir(tmp_path / "new folder") == ["run.pt"]
    with pytest.raises(ValueError, match="holds 4 epochs, more than the 2"):
        run(2, **how)


def test_the_file_is_whole_at_any_moment_and_replaced_without_resume(tmp_path, monkeypatch, capsys):
    def die_halfway(saved, file):
        Path(file).write_bytes(b"half of it")
        raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    run(2, checkpoint=path)
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", die_halfway)
        run(2, checkpoint=path)
    assert "holds 2 epochs" in capsys.readouterr().out and path.read_bytes() == before
    assert same_state(run(1, checkpoint=path)[0], run(1)[0])
    assert len(torch.load(path)["history"]) == 1


@pytest.mark.parametrize("resume", [True, False])
def test_what_is_no_checkpoint_is_named_and_left_alone(resume, tmp_path, capsys):
    torch.save(small_net().state_dict(), tmp_path / "weights.pt")
    torch.save({"history": [], "parts": [small_net()]}, tmp_path / "object.pt")  # which could run code
    (tmp_path / "empty.pt").touch()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in (tmp_path, *before):
        with pytest.raises(ValueError, match=f"{path.name} is no checkpoint"):
            run(1, checkpoint=path, resume=resume)
    with pytest.raises(OSError, match="long"):  # a name that no file can have
        run(1, checkpoint=tmp_path / ("long" * 63))
    assert capsys.readouterr().out == ""  # said before an epoch is trained
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


# ---- Figures
def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_digits_mistakes_and_confusion_show_what_they_are_given():
    images, labels = noise(12).tensors
    figure = helpers.plot_digits(images, labels)
    assert titles(figure) == [str(n % 10) for n in range(12)] and len(figure.axes) == 20
    assert torch.equal(torch.tensor(figure.axes[11].images[0].get_array()), images[11, 0])
    colours = torch.stack([images[:, 0, :9]] * 3, 1)
    drawn = torch.tensor(helpers.plot_digits(colours).axes[11].images[0].get_array())
    assert torch.allclose(drawn[..., 2], (colours[11, 2] - colours.min()) / (colours.max() - colours.min()))

    sure = torch.tensor([0.5, 0.9, 0.7, 0.6])
    answers = torch.stack([1 - sure, sure], 1).log()
    figure = helpers.plot_mistakes(images[:4], torch.tensor([0, 0, 1, 0]), answers, count=2)
    assert titles(figure) == ["0 → 1\n90%", "0 → 1\n60%"]
    with pytest.raises(ValueError, match="no mistake"):
        helpers.plot_mistakes(images[:4], answers.argmax(1), answers)

    axes = helpers.plot_confusion(torch.tensor([1, 2, 2, 2, 3]), torch.tensor([1, 1, 1, 2, 3])).axes[0]
    texts = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert (texts[2, 1], texts[1, 1], texts[1, 2]) == ("2", "1", "·") and len(texts) == 100
    assert len(helpers.plot_confusion(labels, labels + 1, classes=11).axes[0].texts) == 11**2
    for answers in (labels + 1, labels - 1):
        with pytest.raises(ValueError, match="classes=10, got"):
            helpers.plot_confusion(labels, answers)


def test_curves_show_the_history():
    history = run(3)[2]
    loss, accuracy, rate = helpers.plot_curves(history, "title", 99.4, epochs=5).axes
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert curves["training"] == history[f"train_{name}"].tolist()
        assert curves["test"] == history[f"test_{name}"].tolist()
    assert [accuracy.texts[0].get_text(), *accuracy.lines[2].get_ydata()] == ["99.4%", 99.4, 99.4]
    assert loss.get_title("left") + loss.get_title() == "title"
    assert list(rate.lines[0].get_ydata()) == history["lr"].tolist() and rate.get_xlim() == (0.5, 5.5)
    assert len(helpers.plot_curves(history[:1]).axes[1].lines) == 2  # no target is drawn unasked


def test_growing_curves_are_one_picture_and_in_a_script_lines(tmp_path, monkeypatch, capsys):
    lines = [helpers.epoch_line([row]) for row in run(3, after_epoch=helpers.LiveCurves(3))[2].to_dict("records")]
    assert capsys.readouterr().out.splitlines() == lines
    plt.close("all")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.instance()
    with capture_output() as captured:
        run(3, after_epoch=helpers.LiveCurves(3))
    InteractiveShell.clear_instance()
    assert [output.update for output in captured.outputs] == [False, True, True] and not plt.get_fignums()
    assert len({output.transient["display_id"] for output in captured.outputs}) == 1
    assert [output.data["text/plain"] for output in captured.outputs] == lines
    assert len({output.data["image/png"] for output in captured.outputs}) == 3
