"""What breaks in use: damaged data, killed runs, foreign checkpoints, two runs side by side."""

import errno
import functools
import http.server
import multiprocessing
import os
import random
import shutil
import tempfile
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import MNIST

from recipes import RECIPES, Net, RepairedNet, run_recipe
from results import ROOT

import helpers

RAW = ROOT / "data" / "MNIST" / "raw"
IMAGES = "train-images-idx3-ubyte.gz"


@pytest.fixture
def root(tmp_path) -> Path:
    """A data folder with the four sound files, as a user would have it."""
    shutil.copytree(
        RAW,
        tmp_path / "data" / "MNIST" / "raw",
        ignore=lambda folder, names: [n for n in names if not n.endswith(".gz")],
    )
    return tmp_path / "data"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nothing answers there


@pytest.fixture
def online(monkeypatch):
    """A mirror on this machine that has this project's own files."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=RAW)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield
        server.shutdown()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def truncate(root):
    path = root / "MNIST" / "raw" / IMAGES
    path.write_bytes(path.read_bytes()[:5_000_000])


def flip(root):
    path = root / "MNIST" / "raw" / IMAGES
    data = bytearray(path.read_bytes())
    data[1_000_000] ^= 1
    path.write_bytes(data)


def remove(root):
    (root / "MNIST" / "raw" / IMAGES).unlink()


def remove_all(root):
    shutil.rmtree(root)


FAULTS = {
    "truncated": (truncate, "damaged"),
    "a byte flipped": (flip, "damaged"),
    "missing": (remove, "missing"),
    "no folder": (remove_all, "missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_data_fault_without_network_is_named_and_nothing_is_lost(fault, root, offline):
    damage, word = FAULTS[fault]
    damage(root)
    before = contents(root)
    with pytest.raises(RuntimeError, match=f"{IMAGES} is {word}.*Remedy: connect"):
        helpers.load_mnist(root)
    assert contents(root) == before


@pytest.mark.parametrize("fault", FAULTS)
def test_a_data_fault_with_network_is_repaired_and_nothing_is_lost(fault, root, online):
    damage, word = FAULTS[fault]
    damage(root)
    before = contents(root)
    train_set, _ = helpers.load_mnist(root)
    assert len(train_set) == 60_000
    after = contents(root)
    assert after[f"MNIST/raw/{IMAGES}"] == (RAW / IMAGES).read_bytes()
    assert set(before.values()) <= set(after.values())  # the damaged file too is still there, under another name


def test_files_damaged_again_and_again_are_all_kept(root, online):
    before = []
    for length in (1000, 2000):
        (root / "MNIST" / "raw" / IMAGES).write_bytes(bytes(length))
        before.append(bytes(length))
        helpers.load_mnist(root)
    assert set(before) <= set(contents(root).values())
    assert contents(root)[f"MNIST/raw/{IMAGES}"] == (RAW / IMAGES).read_bytes()


def test_a_truncated_extracted_file_does_no_harm(root, offline):
    extracted = root / "MNIST" / "raw" / IMAGES.removesuffix(".gz")
    extracted.write_bytes(b"\0\0\10\3" + bytes(1000))  # as when extraction was killed
    before = contents(root)
    assert len(helpers.load_mnist(root)[0]) == 60_000
    assert contents(root) == before


def test_a_read_only_folder_will_do(root, offline):
    """Permissions don't stop root, so what matters is that nothing tries: no time of change moves."""
    everything = [root, *root.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
        os.utime(path, (0, 0))
    try:
        assert len(helpers.load_mnist(root)[0]) == 60_000
        assert [root, *root.rglob("*")] == everything and {path.stat().st_mtime for path in everything} == {0}
    finally:
        for path in everything:
            path.chmod(path.stat().st_mode | 0o200)


def test_a_full_disk_does_not_matter_where_the_files_are_sound(root, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(helpers.shutil, "copyfile", full)
    monkeypatch.setattr(helpers.tempfile, "mkdtemp", full)
    before = contents(root)
    assert len(helpers.load_mnist(root)[0]) == 60_000
    assert contents(root) == before


def test_a_download_that_does_not_fit_is_used_and_loses_nothing(root, online, monkeypatch):
    damaged, copyfile = root / "MNIST" / "raw" / IMAGES, shutil.copyfile

    def full(source, target):  # the user's disk is full, the temporary folder's is not
        if str(target).startswith(str(root)):
            Path(target).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copyfile(source, target)

    truncate(root)
    before = damaged.read_bytes()
    monkeypatch.setattr(helpers.shutil, "copyfile", full)
    assert len(helpers.load_mnist(root)[0]) == 60_000
    assert before in contents(root).values()
    monkeypatch.undo()  # there is room again, but no network: what was half written is named, not used
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(RuntimeError, match=f"{IMAGES} is damaged"):
        helpers.load_mnist(root)
    assert before in contents(root).values()


def test_no_temporary_files_are_left(root, offline, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    truncate(root)
    with pytest.raises(RuntimeError):
        helpers.load_mnist(root)
    assert list((tmp_path / "temporary").iterdir()) == []


# ---------------------------------------------------------------- resume

# Processes that find the libraries loaded; Windows has none of that kind.
KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
SERVER = multiprocessing.get_context(KIND)
if KIND == "forkserver":
    SERVER.set_forkserver_preload(["torch.export", "torchvision.datasets", "pandas", "matplotlib.pyplot", "IPython"])


def train_all_of_it(folder: Path, result: Path, started) -> None:
    """Train with shuffling, augmentation, dropout, schedule and average, and save what came of it."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(320, 1, 28, 28, generator=generator), torch.arange(320) % 10)
    recipe = replace(RECIPES["final"], network=lambda: RepairedNet(dropout=0.25), name="all of it")
    started.set()
    model, history = run_recipe(recipe, data, data, seed=5, epochs=10, folder=folder)
    torch.save([model.state_dict(), history.drop(columns="seconds").values.tolist()], result)


def start(folder: Path, result: Path):
    """A process that trains; waits until it starts to."""
    folder.mkdir(exist_ok=True)
    started = SERVER.Event()
    process = SERVER.Process(target=train_all_of_it, args=(folder, result, started))
    process.start()
    assert started.wait(60)
    return process


def finished(process) -> bool:
    process.join()
    return process.exitcode == 0


def kill_and_resume(tmp_path, kills: int) -> None:
    process = start(tmp_path / "whole", tmp_path / "whole.pt")
    began = time.perf_counter()
    assert finished(process)
    duration = time.perf_counter() - began
    chance, killed, attempt, resumed = random.Random(0), 0, 0, 0
    while killed < kills:
        attempt += 1
        folder, result = tmp_path / f"killed{attempt}", tmp_path / f"killed{attempt}.pt"
        while True:
            resumed += any(folder.glob("*.pt")) if folder.exists() else False
            process = start(folder, result)
            if killed < kills:
                process.join(chance.uniform(0, duration / 2))
                if process.is_alive():
                    process.kill()
                    process.join()
                    killed += 1
                    continue
            assert finished(process)
            break
        (weights, history), (expected, whole) = torch.load(result), torch.load(tmp_path / "whole.pt")
        assert history == whole
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert resumed > 0, "no kill left a checkpoint to resume from"


def test_a_killed_run_ends_as_one_never_killed(tmp_path):
    kill_and_resume(tmp_path, kills=3)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_one_never_killed(tmp_path):
    kill_and_resume(tmp_path, kills=20)


def toy_run(folder, recipe_name="as submitted", seed=1, epochs=2, network=None):
    """One short run of a recipe on noise, in a folder of checkpoints; returns model and history."""
    recipe = RECIPES[recipe_name]
    recipe = replace(recipe, network=network) if network else recipe
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(128, 1, 28, 28, generator=generator), torch.arange(128) % 10)
    return run_recipe(recipe, data, data, seed=seed, epochs=epochs, folder=folder)


def test_every_run_has_a_checkpoint_of_its_own(tmp_path):
    """Another network, recipe or seed never meets a foreign file."""

    class Edited(Net):  # as when a student changes the forward pass only: the same weights
        def forward(self, x):
            return super().forward(2 * x)

    for count, change in enumerate([{}, {"seed": 2}, {"recipe_name": "final"}, {"network": Edited}], 1):
        toy_run(tmp_path, **change)
        assert len(list(tmp_path.glob("*.pt"))) == count
    assert all(path.suffix == ".pt" for path in tmp_path.iterdir())  # no temporary file is left


def test_a_finished_run_is_read_back(tmp_path):
    first, history = toy_run(tmp_path)
    second, again = toy_run(tmp_path)
    pd.testing.assert_frame_equal(history, again)  # seconds too: nothing was trained again
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def fit_from(path, epochs=2, seed=1, lr=0.01, pixel=0.0, test_pixel=0.0):
    torch.manual_seed(seed)
    model = Net()
    loader, test_loader = (
        helpers.TensorLoader(TensorDataset(torch.full((64, 1, 28, 28), value), torch.arange(64) % 10), 32)
        for value in (pixel, test_pixel)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr)
    before = [p.clone() for p in model.parameters()]
    try:
        return helpers.fit(model, "cpu", loader, test_loader, optimizer, epochs=epochs, checkpoint=path)
    except ValueError:
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters())), "half loaded"
        raise


FOREIGN = {
    "number of epochs, 2": {"epochs": 1},
    "seed": {"seed": 2},
    "optimizer": {"lr": 0.1},
    "training data or loader": {"pixel": 1.0},
    "test data or loader": {"test_pixel": 1.0},
}


@pytest.mark.parametrize("differs", FOREIGN)
def test_a_foreign_checkpoint_is_refused_and_says_what_differs(differs, tmp_path):
    path = tmp_path / "run.pt"
    fit_from(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"run.pt is of another run, with another {differs}: give"):
        fit_from(path, **FOREIGN[differs])
    assert path.read_bytes() == before


def test_a_run_goes_on_to_more_epochs(tmp_path):
    fit_from(tmp_path / "run.pt", epochs=2)
    longer = fit_from(tmp_path / "run.pt", epochs=4)
    pd.testing.assert_frame_equal(
        longer.drop(columns="seconds"), fit_from(tmp_path / "whole.pt", epochs=4).drop(columns="seconds")
    )


def test_a_schedule_made_for_other_steps_is_another_run(tmp_path):
    toy_run(tmp_path, "final", epochs=2)
    toy_run(tmp_path, "final", epochs=3)  # its one-cycle schedule is another: trained anew, in a file of its own
    assert len(list(tmp_path.glob("*.pt"))) == 2


def cut_off(patch, epoch):
    """fit will be interrupted when it has trained and tested so many epochs, before the last is saved."""
    save = helpers.Checkpoint.save

    def saves_or_stops(self, history):
        if len(history) == epoch:
            raise KeyboardInterrupt
        save(self, history)

    patch.setattr(helpers.Checkpoint, "save", saves_or_stops)


SCHEDULES = {
    "batch": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12),
    "epoch": lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1),
    "batch, in two parts": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 4),
            torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12),
        ],
        [4],
    ),
}


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_fit_cell_alone_goes_on_after_an_interruption(schedule, epoch, tmp_path, monkeypatch):
    """The same model, optimizer and loader, as they were when the run was cut off: the file brings them back."""
    data = TensorDataset(torch.randn(96, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(96) % 10)

    def parts():
        torch.manual_seed(1)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        loader = helpers.TensorLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(1))
        return {
            "model": model,
            "device": "cpu",
            "train_loader": loader,
            "test_loader": helpers.TensorLoader(data, 32),
            "optimizer": optimizer,
            "scheduler": SCHEDULES[schedule](optimizer),
            "epochs": 4,
            "step_every": schedule[:5],
        }

    whole = helpers.fit(**parts())
    mine = parts()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_off(patch, epoch)
        helpers.fit(**mine, checkpoint=tmp_path / "run.pt")
    mine["device"] = torch.device("cpu")  # another way to say the same
    resumed = helpers.fit(**mine, checkpoint=tmp_path / "run.pt")
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_settings_changed_in_the_first_epoch_begin_anew(tmp_path, monkeypatch):
    """The file holds no epoch yet, so there is nothing to lose or to go on from."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_off(patch, epoch=1)
        fit_from(tmp_path / "run.pt")
    assert len(fit_from(tmp_path / "run.pt", lr=0.02)) == 2
    with pytest.raises(ValueError, match="another optimizer"):
        fit_from(tmp_path / "run.pt")


def test_a_loader_kept_from_an_interrupted_run_will_do(tmp_path):
    data = TensorDataset(torch.randn(96, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(96) % 10)
    order = torch.Generator()
    loader = helpers.TensorLoader(data, 32, shuffle=True, generator=order, augment=torch.neg, augment_epochs=2)
    test_loader = helpers.TensorLoader(data, 32)

    def run(path, interrupted=False):
        torch.manual_seed(1)
        order.manual_seed(1)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        if interrupted:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                cut_off(patch, epoch=3)
                helpers.fit(model, "cpu", loader, test_loader, optimizer, epochs=4, checkpoint=path)
            return None
        return helpers.fit(model, "cpu", loader, test_loader, optimizer, epochs=4, checkpoint=path).drop(
            columns="seconds"
        )

    whole = run(tmp_path / "whole.pt")
    run(tmp_path / "run.pt", interrupted=True)
    pd.testing.assert_frame_equal(run(tmp_path / "run.pt"), whole)


def shuffled(data):
    return DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(3))


def brightened(images):
    return images * np.random.rand() + random.random()


PARTS = {
    "Adam": (
        lambda data: helpers.TensorLoader(
            data, 32, shuffle=True, augment=torch.neg, generator=torch.Generator().manual_seed(3), augment_epochs=2
        ),
        "Adam",
    ),
    "AdamW with a DataLoader": (shuffled, "AdamW"),
    "a DataLoader without generator": (lambda data: DataLoader(data, 32, shuffle=True), "SGD"),
    "numbers of Python and numpy": (
        lambda data: helpers.TensorLoader(data, 32, shuffle=True, augment=brightened),
        "SGD",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_resumed_in_mid_run_it_ends_bit_for_bit_the_same(case, tmp_path):
    """With everything made anew, as after a restart; dropout and averaging too."""
    make_loader, optimizer_name = PARTS[case]
    data = TensorDataset(torch.randn(96, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(96) % 10)

    def run(path, epochs):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(1)
        model = Net()
        optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), 0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        average = RECIPES["final"].average(model)
        loader, test_loader = make_loader(data), DataLoader(data, 50)
        history = helpers.fit(model, "cpu", loader, test_loader, optimizer, scheduler, epochs, average, path)
        states = [*model.state_dict().values(), *average.state_dict().values()]
        return history.drop(columns="seconds"), states, torch.get_rng_state()

    whole, weights, drawn = run(tmp_path / "whole.pt", 5)
    run(tmp_path / "run.pt", 3)
    torch.rand(7), np.random.rand(7), random.random()  # what else happened since then does not matter
    resumed, again, drawn_again = run(tmp_path / "run.pt", 5)
    pd.testing.assert_frame_equal(resumed, whole)
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True)) and torch.equal(drawn, drawn_again)


def described(**changes):
    """What tells a run from others, for one with some things changed."""
    torch.manual_seed(1)
    data = TensorDataset(torch.zeros(50, 1, 28, 28), torch.zeros(50).long())
    model = changes.pop("model", None) or Net()
    optimizer = changes.pop("optimizer", torch.optim.SGD)(model.parameters(), 0.01)
    make_scheduler = changes.pop("scheduler", lambda optimizer: None)
    loader = changes.pop("loader", None) or helpers.TensorLoader(data, 50, augment=changes.pop("augment", None))
    average = changes.pop("average", lambda model: None)(model)
    return helpers.fingerprint(model, "cpu", loader, loader, optimizer, make_scheduler(optimizer), average)


class Shifted:
    """An augmentation that holds its strength."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __call__(self, images):
        return images.roll(self.pixels, -1)


def with_decay(decay):
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: decay**epoch)


def rolled(pixels):
    return lambda images: images.roll(pixels, -1)


def scaled_by(factor):
    class Scaled(Net):
        def forward(self, x):
            return super().forward(x * factor) if x.sum() > 0 else super().forward(x)  # can't be traced

    return Scaled()


def with_attribute(value):
    model = Net()
    model.strength = value
    return model


class Transformed(TensorDataset):
    """A dataset that changes its images as they are fetched."""

    def __init__(self, transform):
        super().__init__(torch.zeros(9, 1, 28, 28), torch.zeros(9).long())
        self.transform = transform


class Noted(Net):
    """A network with an attribute, and a hook, that change what it does."""

    def __init__(self, noise=0, factor=1):
        super().__init__()
        self.training_noise = noise
        self.register_forward_hook(lambda module, inputs, output: output * factor)


def loader_that_adds(number):
    class Adding(helpers.TensorLoader):
        def __iter__(self):
            return ((images + number, labels) for images, labels in super().__iter__())

    return Adding(TensorDataset(torch.zeros(9, 1, 28, 28), torch.zeros(9).long()), 3)


def that_keeps(factor):
    def augment(images):
        return augment.factor * images

    augment.factor = factor
    return augment


def decaying(chosen):
    """An optimizer that lets the first of every two weights decay, or the second."""

    def make(parameters, lr):
        weights = list(parameters)
        return torch.optim.SGD(
            [{"params": weights[chosen::2], "weight_decay": 0.01}, {"params": weights[1 - chosen :: 2]}], lr
        )

    return make


def set_to(optimizer, lr):
    """The same optimizer, after the student set its rate by hand."""
    optimizer.param_groups[0]["lr"] = lr
    return optimizer


class Blur(Net):
    """A network with a fixed number that moves with it to a device."""

    def __init__(self, strength):
        super().__init__()
        self.register_buffer("strength", torch.tensor(strength))


HOOKS = """register_step_pre_hook register_step_post_hook gradient:register_hook
    gradient:register_post_accumulate_grad_hook register_full_backward_hook register_full_backward_pre_hook""".split()


def clipping(kind, limit):
    """A network or an optimizer whose gradients are clipped by a hook, of a kind that is named as it is made."""
    model = Net()

    def clip(*given):
        torch.nn.utils.clip_grad_value_(model.parameters(), limit)

    def make(weights, lr):
        optimizer = torch.optim.SGD(weights, lr)
        getattr(optimizer, kind)(clip)
        return optimizer

    if "step" in kind:
        return {"optimizer": make}
    getattr(model.conv1.weight if "gradient" in kind else model, kind.removeprefix("gradient:"))(clip)
    return {"model": model}


CHANGED_INSIDE = {
    "the momentum of some weights": [
        {"optimizer": lambda weights, lr: torch.optim.SGD([{"params": weights, "momentum": 0.5}], lr)},
        {"optimizer": lambda weights, lr: torch.optim.SGD([{"params": weights, "momentum": 0.9}], lr)},
    ],
    **{f"a limit of gradients by {kind}": [clipping(kind, value) for value in (1, 2)] for kind in HOOKS},
    "a fixed buffer": [{"model": Blur(value)} for value in (1.0, 5.0)],
    "a learning rate without a schedule": [
        {"optimizer": lambda weights, lr: torch.optim.SGD(weights, 0.1)},
        {"optimizer": lambda weights, lr: set_to(torch.optim.SGD(weights, 0.1), lr)},
    ],
    "an attribute of a function": [{"augment": that_keeps(value)} for value in (1, 2)],
    "which weights decay": [{"optimizer": decaying(value)} for value in (0, 1)],
    "a loader's class": [{"loader": loader_that_adds(value)} for value in (1, 2)],
    "an attribute whose name begins as PyTorch's": [{"model": Noted(noise=value)} for value in (1, 2)],
    "a hook": [{"model": Noted(factor=value)} for value in (1, 2)],
    "a long array": [{"augment": rolled(np.where(np.arange(3000) == 1500, value, 0))} for value in (1, 2)],
    "the decay of PyTorch's own average": [
        {"average": functools.partial(AveragedModel, multi_avg_fn=get_ema_multi_avg_fn(value), use_buffers=True)}
        for value in (0.9, 0.99)
    ],
    "the decay of a LambdaLR": [{"scheduler": with_decay(value)} for value in (0.9, 0.8)],
    "a strength in a closure": [{"augment": rolled(value)} for value in (1, 2)],
    "a strength in an object": [{"augment": Shifted(value)} for value in (1, 2)],
    "a strength in a partial": [{"augment": functools.partial(torch.roll, shifts=value)} for value in (1, 2)],
    "a constant in a lambda": [{"augment": lambda images: images * 1}, {"augment": lambda images: images * 2}],
    "another call in a lambda": [{"augment": lambda images: images.neg()}, {"augment": lambda images: images.abs()}],
    "a default": [{"augment": lambda images, by=1: images + by}, {"augment": lambda images, by=2: images + by}],
    "a number in a forward that can't be traced": [{"model": scaled_by(value)} for value in (1.0, 2.0)],
    "an attribute of a network": [{"model": with_attribute(value)} for value in (1, 2)],
    "the average's share": [
        {"average": functools.partial(RECIPES["final"].average, least=value)} for value in (0.001, 0.01)
    ],
    "a subset": [
        {"loader": DataLoader(Subset(TensorDataset(torch.zeros(9, 1, 28, 28), torch.zeros(9).long()), range(n)), 3)}
        for n in (6, 9)
    ],
    "a transform of a plain dataset": [
        {"loader": DataLoader(Transformed(transforms.Normalize(value, 1)), 3)} for value in (0.1, 0.2)
    ],
}


@pytest.mark.parametrize("case", CHANGED_INSIDE)
def test_a_change_inside_makes_another_run(case):
    first, second = CHANGED_INSIDE[case]
    assert described(**dict(first)) == described(**dict(first))
    assert described(**dict(first)) != described(**dict(second))


# Each with a number to change, as a student would in a cell further up.
WRITTEN = {
    "a function that it calls": """
        def stronger(images):
            return images * 1
        def augment(images):
            return stronger(images)""",
    "a number for a nested function": """
        STRENGTH = 1
        def augment(images):
            return images.apply_(lambda pixel: pixel * STRENGTH)""",
    "an attribute of its class": """
        class Augment:
            strength = 1
            def __call__(self, images):
                return images * self.strength
        augment = Augment()""",
    "a property": """
        class Augment:
            @property
            def strength(self):
                return 1
            def __call__(self, images):
                return images * self.strength
        augment = Augment()""",
    "a static method": """
        class Augment:
            @staticmethod
            def change(images):
                return images * 1
            def __call__(self, images):
                return self.change(images)
        augment = Augment()""",
    "which of its methods is which": """
        class Augment:
            def first(self, images):
                return images * 1
            def second(self, images):
                return images * 2
            def __call__(self, images):
                return self.first(images)
        augment = Augment()""",
    "a named tuple's method": """
        from typing import NamedTuple
        class Augment(NamedTuple):
            name: str = "shift"
            def __call__(self, images):
                return images.roll(1, -1)
        augment = Augment()""",
}
EXCHANGED = str.maketrans("12", "21")


def written(source):
    """The augmentation that a notebook's cell defines."""
    cell = {"__name__": "__main__"}
    exec(textwrap.dedent(source), cell)
    return cell["augment"]


@pytest.mark.parametrize("case", WRITTEN)
def test_a_change_in_what_it_uses_makes_another_run(case):
    source = WRITTEN[case]
    assert described(augment=written(source)) == described(augment=written(source))
    assert described(augment=written(source)) != described(augment=written(source.translate(EXCHANGED)))


def test_a_global_that_only_shares_a_name_makes_no_other_run():
    source = "roll = {}\ndef augment(images):\n    return images.roll(1, -1)"
    first, second = (written(source.format(value)) for value in (1, 2))
    assert described(augment=first) == described(augment=second)


def test_a_change_in_a_module_of_ones_own_makes_another_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "import mine_for_this_test\ndef augment(images):\n    return images * mine_for_this_test.STRENGTH"
    sums = []
    for strength in (1, 2):
        (tmp_path / "mine_for_this_test.py").write_text(f"STRENGTH = {strength}\n")
        sums += [described(augment=written(source)) for _ in range(2)]
    assert sums[0] == sums[1] != sums[2] == sums[3]


def test_another_train_makes_another_run(monkeypatch):
    before = described()
    monkeypatch.setattr(helpers, "train", lambda *arguments: (0.0, 100.0))
    assert described() != before


IN_ANY_PROCESS = """
    from enum import Enum
    class Side(Enum):
        LEFT = -1
        RIGHT = 1
    def augment(images, side=Side.LEFT, known=frozenset({"left", "right", "up", "down"})):
        return images.roll(side.value, -1) if side.name.lower() in {"left", "right", "up"} else images"""


def describe_into(answers) -> None:
    answers.put(described(augment=written(IN_ANY_PROCESS)))


def test_another_process_describes_it_as_this_one_does():
    """Python shuffles sets of strings in each that is not forked from it."""
    answers = SERVER.SimpleQueue()
    process = SERVER.Process(target=describe_into, args=(answers,))
    process.start()
    assert finished(process)
    assert answers.get() == described(augment=written(IN_ANY_PROCESS))


@pytest.mark.parametrize("holds", ["an open file", "random numbers of its own", "an endless list"])
def test_what_cannot_be_told_is_never_resumed(holds):
    endless = []
    for _ in range(2000):
        endless = [endless]
    with open(__file__) as file:
        thing = {
            "an open file": file,
            "random numbers of its own": torch.Generator(),
            "an endless list": endless,
        }[holds]
        assert described(augment=rolled(thing)) != described(augment=rolled(thing))


def test_weights_and_progress_make_no_other_run():
    torch.manual_seed(1)
    model, other = Net(), Net()
    assert not torch.equal(model.conv1.weight, other.conv1.weight)
    assert described(model=model) == described(model=other)

    def run(epochs, scheduler):
        data = TensorDataset(torch.zeros(50, 1, 28, 28), torch.zeros(50).long())
        loader = helpers.TensorLoader(data, 25)
        torch.manual_seed(1)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        run = (model, "cpu", loader, loader, optimizer, scheduler(optimizer))
        before = helpers.fingerprint(*run)
        helpers.fit(*run, epochs=epochs)
        return before, helpers.fingerprint(*run)

    for scheduler in (SCHEDULES["epoch"], with_decay(0.5)):
        before, after = run(3, scheduler)
        assert before == after


class Evil:
    """Runs a command when it is unpickled, unless the reader refuses to."""

    def __reduce__(self):
        return os.system, ("echo harm > harm.txt",)


@pytest.mark.parametrize(
    "damage", ["truncated", "cut in the middle", "a bit flipped", "empty", "text", "weights only", "code", "list"]
)
def test_a_damaged_checkpoint_is_refused(damage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.pt"
    fit_from(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif damage == "cut in the middle":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "a bit flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "weights only":
        helpers.save_model(Net(), path)
    else:
        {
            "empty": lambda: path.write_bytes(b""),
            "text": lambda: path.write_text("no checkpoint"),
            "code": lambda: torch.save(Evil(), path),
            "list": lambda: torch.save([1, 2], path),
        }[damage]()
    with pytest.raises(ValueError, match="run.pt"):
        fit_from(path)
    assert not Path("harm.txt").exists()


def test_what_a_gpu_saved_is_read_on_a_cpu(tmp_path, monkeypatch):
    weights = Net().state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(weights, tmp_path / "weights.pt")
    read = helpers.load_file(tmp_path / "weights.pt")
    assert all(value.device.type == "cpu" and torch.equal(value, weights[name]) for name, value in read.items())


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fit_from(path)
    before = path.read_bytes()

    def full(state, file):
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(helpers.Checkpoint, "load", lambda *arguments: [])  # as if it began anew
    with pytest.raises(OSError, match="No space"):
        fit_from(path)
    assert path.read_bytes() == before


# ---------------------------------------------------------------- side by side


def test_two_runs_at_once_in_the_same_folder(tmp_path):
    processes = [start(tmp_path / "shared", tmp_path / f"{name}.pt") for name in ("one", "two")]
    assert all([finished(process) for process in processes])
    assert finished(start(tmp_path / "alone", tmp_path / "alone.pt"))
    expected = torch.load(tmp_path / "alone.pt")
    for name in ("one", "two"):
        weights, history = torch.load(tmp_path / f"{name}.pt")
        assert history == expected[1] and all(torch.equal(weights[key], expected[0][key]) for key in weights)
