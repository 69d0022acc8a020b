"""Reusable parts of the MNIST notebook: data, training, testing, figures. Read, import, copy and change them.

Images are float32 tensors (N, channels, rows, columns), labels int64 tensors (N,). Accuracy is in percent, 0 to 100.
"""

import contextlib
import gzip
import math
import time
import urllib.request
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from IPython.display import display
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, scaled to 0..1
BACKGROUND = -MEAN / STD  # a black pixel, normalised
SHIFTS = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]  # rows down, columns to the right: the five looks

STYLE = {  # for plt.rcParams.update: legible on a phone, colours that the colour-blind can tell apart
    "figure.figsize": (5.4, 2.2), "figure.dpi": 100, "figure.constrained_layout.use": True,
    "font.size": 10, "axes.titlesize": 10.5, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=["#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"]),  # Okabe and Ito's
}  # fmt: skip


# ---- Data


def read_mnist(root="data", timeout: float = 10) -> list[torch.Tensor]:
    """MNIST as stored: training images (60000, 28, 28) uint8, their labels, test images, test labels.

    Downloads what is missing or damaged in root/MNIST/raw; a mirror that is silent for timeout seconds is left.
    Raises RuntimeError where that fails.
    """
    folder, arrays = Path(root, "MNIST", "raw").expanduser(), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in MNIST.resources:
        path = folder / name
        for mirror in MNIST.mirrors:
            if not check_integrity(path, md5):
                with contextlib.suppress(Exception), urllib.request.urlopen(mirror + name, timeout=timeout) as answer:
                    path.write_bytes(answer.read())  # whatever goes wrong, the next mirror may answer
        if not check_integrity(path, md5):
            raise RuntimeError(f"{path} is missing or damaged: connect to the internet, or put a copy there")
        array = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)  # a header, then a byte a pixel or a label
        arrays.append(array[16:].reshape(-1, 28, 28) if "images" in name else array[8:].astype(np.int64))
    return [torch.tensor(array) for array in arrays]


def normalise(images: torch.Tensor, mean=MEAN, std=STD) -> torch.Tensor:
    """Turn uint8 images, grey or colour, into float32 (N, channels, rows, columns) with mean 0 and deviation 1.

    mean and std are MNIST's: for other images give theirs, of the training pixels scaled to 0..1, as numbers or as
    tensors (channels, 1, 1). Raises ValueError for images of another type or shape.
    """
    images = images.unsqueeze(1) if images.ndim == 3 else images
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be uint8 (N, [1 or 3,] rows, columns), got {images.dtype} {tuple(images.shape)}")
    return images.float().div(255).sub(mean).div(std)


def load_mnist(root="data", device="cpu") -> tuple[TensorDataset, TensorDataset]:
    """The training set and the test set: normalised images and their labels, on the device."""
    train_images, train_labels, test_images, test_labels = read_mnist(root)
    train_set = TensorDataset(normalise(train_images).to(device), train_labels.to(device))
    test_set = TensorDataset(normalise(test_images).to(device), test_labels.to(device))
    return train_set, test_set


class TensorLoader:
    """Batches of a TensorDataset (images, labels), or a Subset of one, on its device; len() counts batches.

    Works where a DataLoader works, and is faster: it picks a whole batch at once. augment, a function from images to
    images, changes each batch. generator (on the CPU) fixes the order. ValueError for other kinds of dataset.
    """

    def __init__(self, dataset, batch_size, *, shuffle=False, augment=None, generator=None):
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.augment, self.generator = augment, generator
        self.indices = torch.arange(len(dataset))  # into the tensors
        while isinstance(dataset, Subset):  # such as random_split's
            dataset, self.indices = dataset.dataset, torch.as_tensor(dataset.indices, dtype=torch.int64)[self.indices]
        if not isinstance(dataset, TensorDataset) or len(dataset.tensors) != 2:
            raise ValueError("dataset must be a TensorDataset (images, labels), or its Subset; else use a DataLoader")
        self.tensors = dataset.tensors

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self):
        images, labels = self.tensors
        order = self.indices
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=self.generator)]
        for batch in order.to(labels.device).split(self.batch_size)[
            : len(self)
        ]:  # of no image, split makes one empty batch
            picked = images[batch]
            yield picked if self.augment is None else self.augment(picked), labels[batch]


# ---- Training and testing


def check_batch(output, labels: torch.Tensor) -> None:
    """Raise ValueError for what would be trained on without an error, or with an obscure one."""
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"model must return one tensor (N, classes), got a {type(output).__name__}")
    if output.ndim != 2 or labels.dtype != torch.int64 or labels.shape != output.shape[:1]:
        got = f"got {tuple(output.shape)}, and {labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"model must return (N, classes), and labels be class numbers, int64 (N,); {got}")
    if labels.min() < 0 or labels.max() >= output.shape[1]:
        raise ValueError(f"labels must be 0 to {output.shape[1] - 1}, got {labels.min()} to {labels.max()}")
    if output.min() >= 0 and (output.sum(1) - 1).abs().max() < 0.01:
        raise ValueError("model returns probabilities: leave out its softmax, the loss takes logits")


def per_sample(loss_sum, correct, samples: int) -> tuple[float, float]:
    """(loss, accuracy in %) per sample. Raises ValueError where there was no sample, or the loss is no number."""
    if samples == 0:
        raise ValueError("loader gave no batch: its dataset is empty, or smaller than a batch that drop_last drops")
    if not math.isfinite(loss_sum):
        raise ValueError("the loss became nan or infinite: lower the learning rate, or look at the images")
    return float(loss_sum) / samples, 100 * int(correct) / samples


def train(model: nn.Module, device, loader, optimizer, scheduler=None, average=None) -> tuple[float, float]:
    """Train for one epoch; return (loss, accuracy in %), averaged over the samples seen.

    model maps images to logits or log-probabilities (N, classes); loader gives pairs (images, labels). After every
    batch, scheduler moves the learning rate, and average (an AveragedModel) takes in the weights, where they are given.
    Raises ValueError for labels or outputs that can't be right, and for a loss of nan.
    """
    model.train()
    loss_sum = correct = samples = 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        output = model(images)
        if samples == 0:
            check_batch(output, labels)
        # Takes logits, and log-probabilities too: the log-softmax of log-probabilities is themselves.
        loss = F.cross_entropy(output, labels)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if average is not None:
            average.update_parameters(model)
        loss_sum += loss.detach() * len(labels)  # no .item(): a GPU would wait for it at every batch
        correct += (output.argmax(1) == labels).sum()
        samples += len(labels)
    return per_sample(loss_sum, correct, samples)


@torch.no_grad()
def test(model: nn.Module, device, loader) -> tuple[float, float]:
    """Return (loss, accuracy in %) of the model over all samples of the loader; nothing is learned."""
    model.eval()
    loss_sum = correct = samples = 0
    for images, labels in loader:
        images, labels = images.to(device, copy=True), labels.to(device)  # a copy: a forward may work in place
        output = model(images)
        if samples == 0:
            check_batch(output, labels)
        loss_sum += F.cross_entropy(output, labels, reduction="sum")
        correct += (output.argmax(1) == labels).sum()
        samples += len(labels)
    return per_sample(loss_sum, correct, samples)


@torch.no_grad()
def log_probabilities(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The model's log-probabilities (N, classes) for images, a thousand at a time."""
    model.eval()
    return torch.cat([F.log_softmax(model(batch.clone()), dim=1) for batch in images.split(1000)])


def shifted(images: torch.Tensor, rows: int, columns: int, background: float = BACKGROUND) -> torch.Tensor:
    """Images (..., rows, columns) moved down and to the right by whole pixels; background comes in at the edge."""
    return F.pad(images, (columns, -columns, rows, -rows), value=background)


def five_looks(model: nn.Module, images: torch.Tensor, background: float = BACKGROUND) -> torch.Tensor:
    """Log-probabilities (N, classes) for images: the mean over each and its four neighbours, a pixel away."""
    looks = [log_probabilities(model, shifted(images, *shift, background)) for shift in SHIFTS]
    return torch.stack(looks).mean(0).log_softmax(dim=1)  # so that probabilities add up to 1 again


def count_parameters(model: nn.Module) -> int:
    """All of a network's parameters, frozen ones too."""
    return sum(parameter.numel() for parameter in model.parameters())


def epoch_line(history: list[dict]) -> str:
    """The last epoch of a history as a line of text."""
    losses = "epoch {epoch}: loss {train_loss:.4f} in training, {test_loss:.4f} in test"
    return (losses + "; test accuracy {test_accuracy:.2f}%").format_map(history[-1])


def print_epoch(history: list[dict]) -> None:
    """What fit does after every epoch, where nothing else is asked for."""
    print(epoch_line(history))


def fit(
    model: nn.Module, device, train_loader, test_loader, optimizer, scheduler=None, epochs: int = 20, average=None,
    step_every: str = "epoch", checkpoint=None, resume: bool = False, after_epoch=print_epoch,
) -> pd.DataFrame:  # fmt: skip
    """Train for some epochs, testing after each; return the history, a DataFrame of one row an epoch.

    Columns: epoch, lr (at its start), train_loss, train_accuracy, test_loss, test_accuracy, seconds (of training only).
    scheduler steps after every "batch" or "epoch"; ReduceLROnPlateau is given the test loss, or with mode "max" the
    test accuracy. With average, an AveragedModel, the test columns are the average's. after_epoch(history) is called
    with the list of all rows so far. Raises ValueError for a schedule or a checkpoint that can't be meant.

    Every epoch is written to the file checkpoint, if one is named. With resume=True the run goes on from there; model,
    optimizer, scheduler and loaders must be made as they were, which is not checked: with other settings the result is
    a mixture. On a CPU it then ends with the same weights, to the bit, as a run that was never cut off. Not restored:
    random states other than torch's own and train_loader.generator's, such as numpy's, or a sampler's generator.
    """
    if step_every not in ("batch", "epoch"):
        raise ValueError(f'step_every must be "batch" or "epoch", got {step_every!r}')
    if step_every == "epoch" and isinstance(scheduler, OneCycleLR) and scheduler.total_steps >= 10 * epochs:
        raise ValueError(f'scheduler plans {scheduler.total_steps} steps for {epochs} epochs: say step_every="batch"')
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average}
    parts = {name: part for name, part in parts.items() if part is not None}
    path = None if checkpoint is None else Path(checkpoint).expanduser()
    history = load_checkpoint(path, resume, parts, train_loader)
    if len(history) > epochs:
        raise ValueError(f"{path} holds {len(history)} epochs, more than the {epochs} to train: name another file")
    if history:
        after_epoch(history)  # a complete run is shown, too
    for epoch in range(len(history) + 1, epochs + 1):
        lr, start = float(optimizer.param_groups[0]["lr"]), time.perf_counter()
        by_batch = scheduler if step_every == "batch" else None
        train_loss, train_accuracy = train(model, device, train_loader, optimizer, by_batch, average)
        seconds = time.perf_counter() - start
        test_loss, test_accuracy = test(model if average is None else average, device, test_loader)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(test_loss if scheduler.mode == "min" else test_accuracy)
        elif scheduler is not None and by_batch is None:
            scheduler.step()
        history.append({"epoch": epoch, "lr": lr, "train_loss": train_loss, "train_accuracy": train_accuracy,
                        "test_loss": test_loss, "test_accuracy": test_accuracy, "seconds": seconds})  # fmt: skip
        save_checkpoint(path, history, parts, train_loader)
        after_epoch(history)
    return pd.DataFrame(history)


def load_checkpoint(path: Path | None, resume: bool, parts: dict, loader) -> list[dict]:
    """Bring all parts to where the file left them, if resume says so; return the history up to there.

    Says what it found: a file that is not resumed is replaced as soon as a new epoch is complete.
    Raises ValueError for a file of another kind, and OSError where none can be written.
    """
    if path is None:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.new").touch()  # what can't be written is better known before the training
    Path(f"{path}.new").unlink()
    if not path.exists():
        if resume:
            print(f"{path} is not there: this run starts anew.")
        return []
    # Numbers of numpy, such as learning rates from np.logspace, are safe; other things than torch's could run code.
    numbers = [np.dtype, np.float64().__reduce__()[0], *(type(np.dtype(code)) for code in "fdilq")]
    try:
        with torch.serialization.safe_globals(numbers):
            saved = torch.load(path, map_location="cpu", weights_only=True)
        epochs, states = len(saved["history"]), saved["parts"]
    except Exception as error:  # of many kinds
        raise ValueError(f"{path} is no checkpoint of fit: name another file, or move this one away") from error
    if not resume:
        print(f"{path} holds {epochs} epochs of an earlier run. This run starts anew, and replaces it.")
        return []
    for name, part in parts.items():
        part.load_state_dict(states[name])
    torch.set_rng_state(saved["random"])
    torch.cuda.set_rng_state_all(saved["random_cuda"])
    if getattr(loader, "generator", None) is not None:
        loader.generator.set_state(saved["random_order"])
    print(f"{path}: this run goes on after its epoch {epochs}.")
    return saved["history"]


def save_checkpoint(path: Path | None, history: list[dict], parts: dict, loader) -> None:
    """Write all that a run needs to go on, in such a way that the file is whole at any moment."""
    if path is None:
        return
    saved = {"history": history, "parts": {name: part.state_dict() for name, part in parts.items()}}
    saved |= {"random": torch.get_rng_state(), "random_cuda": torch.cuda.get_rng_state_all()}  # [] without a GPU
    if getattr(loader, "generator", None) is not None:
        saved["random_order"] = loader.generator.get_state()
    torch.save(saved, f"{path}.new")
    Path(f"{path}.new").replace(path)


# ---- Figures


class LiveCurves:
    """For fit's after_epoch in a notebook: the curves of a run, drawn anew in one place after every epoch."""

    def __init__(self, epochs: int, title: str = "", target: float | None = None):
        self.epochs, self.title, self.target = epochs, title, target
        self.place = None  # in the notebook

    def __call__(self, history: list[dict]) -> None:
        if get_ipython() is None:  # a script has no place for pictures
            return print(epoch_line(history))
        figure = plot_curves(pd.DataFrame(history), self.title, self.target, self.epochs)
        plt.close(figure)  # or the notebook would show it a second time
        # Text goes with the picture: it is what a terminal shows of the run.
        content = {"image/png": print_figure(figure, bbox_inches=None, base64=True), "text/plain": epoch_line(history)}
        if self.place is None:
            self.place = display(content, raw=True, display_id=True)
        else:
            self.place.update(content, raw=True)


def plot_curves(history: pd.DataFrame, title="", target: float | None = None, epochs=None) -> plt.Figure:
    """Loss, accuracy and learning rate by epoch, from fit's history; target is a line across the accuracy."""
    figure, panels = plt.subplots(3, 1, figsize=(5.4, 3.4), sharex=True, height_ratios=[3, 3, 1.5])
    for axes, name in zip(panels, ("loss", "accuracy")):
        axes.plot(history["epoch"], history[f"train_{name}"], "C3o-", markersize=4, label="training")
        axes.plot(history["epoch"], history[f"test_{name}"], "C0s-", markersize=4, label="test")
    panels[2].step(history["epoch"], history["lr"], "C2.-", where="mid")
    panels[0].set(ylabel="loss (log scale)", yscale="log", title=title)
    low = min(99, target or 99, history["test_accuracy"].iloc[-1]) - 1  # the first epochs are out of sight
    panels[1].set(ylabel="accuracy (%)", ylim=(low, 100.1))
    panels[2].set(ylabel="learning\nrate", xlabel="epoch", xlim=(0.5, (epochs or len(history)) + 0.5), ylim=(0, None))
    panels[2].xaxis.set(major_locator=plt.MaxNLocator(integer=True))
    panels[0].yaxis.set(major_locator=plt.LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    if target is not None:
        panels[1].axhline(target, color="C4", linewidth=1)
        panels[1].text(1.01, target, f"{target}%", color="C4", va="center", transform=panels[1].get_yaxis_transform())
    panels[0].legend()
    return figure


def plot_digits(images: torch.Tensor, titles=None, columns=10) -> plt.Figure:
    """A grid of images (N, rows, columns) or (N, 1 or 3 channels, rows, columns), each under its title."""
    images = images.reshape(len(images), -1, *images.shape[-2:]).movedim(1, -1).cpu()
    if images.shape[-1] == 3:  # colours are drawn from 0 to 1
        images = (images - images.min()) / (images.max() - images.min())
    titles = [""] * len(images) if titles is None else [f"{title}" for title in titles]
    rows = math.ceil(len(images) / columns)
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    size = (5.4, rows * (5.4 / columns + 0.2 * lines))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images, titles):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(title, fontsize=9, loc="center")
    return figure


def plot_mistakes(images, labels, answers, count=18) -> plt.Figure:
    """The wrong answers given with most confidence: label → answer, and the answer's probability in %.

    images as for plot_digits, labels (N,), answers (N, classes) as log-probabilities. ValueError if none is wrong.
    """
    images, labels = images.cpu(), labels.cpu()
    confidence, digits = answers.cpu().exp().max(1)
    wrong = (digits != labels).nonzero().flatten()
    if len(wrong) == 0:
        raise ValueError("there is no mistake to show: all answers equal their labels")
    worst = wrong[confidence[wrong].argsort(descending=True)][:count]
    titles = [f"{labels[i]} → {digits[i]}\n{100 * confidence[i]:.0f}%" for i in worst]
    return plot_digits(images[worst], titles, columns=6)


def plot_confusion(labels: torch.Tensor, answers: torch.Tensor, title="", classes=10) -> plt.Figure:
    """Counts of the answers (columns) given to each label (rows), numbers (N,) both; colour marks mistakes."""
    both = torch.stack([labels.cpu(), answers.cpu()]).long()
    if both.min() < 0 or both.max() >= classes:
        raise ValueError(f"labels and answers must be below classes={classes}, got {both.min()} to {both.max()}")
    counts = torch.bincount(both[0] * classes + both[1], minlength=classes**2).reshape(classes, classes)
    mistakes = counts.clone().fill_diagonal_(0)
    figure, axes = plt.subplots(figsize=(0.54 * classes, 0.5 * classes), layout="constrained")
    axes.imshow(mistakes, cmap="Blues", vmax=2 * max(1, mistakes.max()))  # the lighter half: black is legible on it
    for (row, column), count in np.ndenumerate(counts.numpy()):
        axes.text(column, row, count or "·", ha="center", va="center")
    axes.set(xlabel="answer", ylabel="label", xticks=range(classes), yticks=range(classes), title=title)
    return figure
