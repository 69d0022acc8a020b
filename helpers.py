"""Reusable parts of the MNIST notebook: data, training, testing, figures. Read, import, copy and change them.

Images are float32 tensors (N, 1, 28, 28), labels int64 tensors (N,). Accuracy is in percent, 0 to 100.
"""

import contextlib
import gzip
import math
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.core.pylabtools import print_figure
from IPython.display import display
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity, download_url

MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to 0..1
BACKGROUND = -MEAN / STD  # a pixel without ink, normalised
SHIFTS = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]  # rows, columns

STYLE = {  # for plt.rcParams.update: legible on a phone, colours that the colour-blind can tell apart
    "figure.figsize": (5.4, 3.2),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # Okabe and Ito's blue, orange, green, vermilion, and a grey: C0 to C4
    "axes.prop_cycle": plt.cycler(color=["#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"]),
}


# ---- Data


def read_mnist(root="data") -> list[torch.Tensor]:
    """MNIST as stored: training images (60000, 28, 28) uint8, their labels, test images, test labels.

    Downloads what is missing or damaged in root/MNIST/raw. Raises RuntimeError where that fails.
    """
    folder, parts = Path(root, "MNIST", "raw"), []
    for name, md5 in MNIST.resources:
        for mirror in MNIST.mirrors:
            with contextlib.suppress(OSError, RuntimeError):  # the next mirror may answer
                download_url(mirror + name, str(folder), md5=md5)  # returns at once where the file is sound
        if not check_integrity(str(folder / name), md5):
            raise RuntimeError(f"{folder / name} is missing or damaged: connect to the internet, or put a copy there")
        data = gzip.decompress((folder / name).read_bytes())
        if "images" in name:  # 16 bytes of header, then a byte for each pixel
            parts.append(np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28))
        else:  # 8 bytes of header, then a byte for each label
            parts.append(np.frombuffer(data, np.uint8, offset=8).astype(np.int64))
    return [torch.tensor(part) for part in parts]


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images (N, 28, 28) into float32 (N, 1, 28, 28) with mean 0 and standard deviation 1."""
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise ValueError(f"images must be uint8, (N, 28, 28); got {images.dtype}, {tuple(images.shape)}")
    return images.unsqueeze(1).float().div(255).sub(MEAN).div(STD)


def load_mnist(root="data", device="cpu") -> tuple[TensorDataset, TensorDataset]:
    """The training set and the test set: normalised images and their labels, on the device."""
    train_images, train_labels, test_images, test_labels = read_mnist(root)
    train_set = TensorDataset(normalise(train_images).to(device), train_labels.to(device))
    test_set = TensorDataset(normalise(test_images).to(device), test_labels.to(device))
    return train_set, test_set


class TensorLoader:
    """Batches of a TensorDataset (images, labels) that lies on its device; len() counts batches.

    Works where a DataLoader works, and is faster: it picks a whole batch at once. augment, a function
    from images to images, changes each batch. generator (on the CPU) fixes the order.
    """

    def __init__(self, dataset, batch_size, *, shuffle=False, augment=None, generator=None):
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.augment, self.generator = augment, generator

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self):
        images, labels = self.dataset.tensors
        order = torch.arange(len(labels))
        if self.shuffle:
            order = torch.randperm(len(labels), generator=self.generator)
        for batch in order.to(labels.device).split(self.batch_size):
            picked = images[batch]
            yield picked if self.augment is None else self.augment(picked), labels[batch]


# ---- Training and testing


def check_batch(output, labels: torch.Tensor) -> None:
    """Raise ValueError for what would be trained on without an error, or with an obscure one."""
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"model must return one tensor (N, classes), got a {type(output).__name__}")
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

    model maps images to logits or log-probabilities (N, classes). After every batch, scheduler moves
    the learning rate, and average (an AveragedModel) takes in the weights, where they are given.
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
    """The model's log-probabilities for images (N, 1, 28, 28), a thousand at a time: (N, classes)."""
    model.eval()
    return torch.cat([F.log_softmax(model(batch.clone()), dim=1) for batch in images.split(1000)])


def shifted(images: torch.Tensor, rows: int, columns: int, background: float = BACKGROUND) -> torch.Tensor:
    """Images (N, C, H, W) moved down and to the right by some pixels; what comes in is background."""
    height, width = images.shape[2:]
    edge = max(abs(rows), abs(columns))
    padded = F.pad(images, [edge] * 4, value=background)
    return padded[:, :, edge - rows : edge - rows + height, edge - columns : edge - columns + width]


def five_looks(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, classes) for images (N, 1, 28, 28): the mean over each and its four neighbours."""
    looks = [log_probabilities(model, shifted(images, *shift)) for shift in SHIFTS]
    return torch.stack(looks).mean(0).log_softmax(dim=1)  # so that probabilities add up to 1 again


def count_parameters(model: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def epoch_line(history: list[dict]) -> str:
    """The last epoch of a history as a line of text."""
    last = history[-1]
    return (
        f"epoch {last['epoch']}: loss {last['train_loss']:.4f} in training, {last['test_loss']:.4f} in test; "
        f"test accuracy {last['test_accuracy']:.2f}%"
    )


def print_epoch(history: list[dict]) -> None:
    """What fit does after every epoch, where nothing else is asked for."""
    print(epoch_line(history))


def fit(
    model: nn.Module,
    device,
    train_loader,
    test_loader,
    optimizer,
    scheduler=None,
    epochs: int = 20,
    average=None,
    step_every: str = "epoch",
    checkpoint=None,
    resume: bool = False,
    after_epoch=print_epoch,
) -> pd.DataFrame:
    """Train for some epochs, testing after each; return the history, a DataFrame of one row an epoch.

    Columns: epoch, lr (at the epoch's start), train_loss, train_accuracy, test_loss, test_accuracy,
    seconds (of training only). scheduler steps after every "batch" or "epoch"; ReduceLROnPlateau is
    given the test loss, or with mode "max" the test accuracy. With average, an AveragedModel, the test
    columns are the average's. after_epoch(history) is called with the list of all rows so far.

    Every epoch is written to the file checkpoint, if one is named. With resume=True the run goes on
    from there; model, optimizer, scheduler and loaders must be made as they were, which is not
    checked: with other settings the result is a mixture. On a CPU it then ends with the same weights,
    to the bit, as a run that was never cut off. Not restored: random states other than torch's own
    and train_loader.generator's, such as those of numpy, persistent workers, or a sampler's generator.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average}
    parts = {name: part for name, part in parts.items() if part is not None}
    history = load_checkpoint(checkpoint, resume, parts, train_loader)
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
        save_checkpoint(checkpoint, history, parts, train_loader)
        after_epoch(history)
    return pd.DataFrame(history)


def load_checkpoint(path, resume: bool, parts: dict, loader) -> list[dict]:
    """Bring all parts to where the file left them, if resume says so; return the history up to there.

    Says what it found: a file that is not resumed is replaced as soon as a new epoch is complete.
    """
    if path is None or not Path(path).exists():
        return []
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not resume:
        print(f"{path} holds {len(saved['history'])} epochs of an earlier run. This run starts anew, and replaces it.")
        return []
    for name, part in parts.items():
        part.load_state_dict(saved["parts"][name])
    torch.set_rng_state(saved["random"])
    torch.cuda.set_rng_state_all(saved["random_cuda"])
    if getattr(loader, "generator", None) is not None:
        loader.generator.set_state(saved["random_order"])
    print(f"{path}: this run goes on after its epoch {len(saved['history'])}.")
    return saved["history"]


def save_checkpoint(path, history: list[dict], parts: dict, loader) -> None:
    """Write all that a run needs to go on, in such a way that the file is whole at any moment."""
    if path is None:
        return
    saved = {"history": history, "parts": {name: part.state_dict() for name, part in parts.items()}}
    saved |= {"random": torch.get_rng_state(), "random_cuda": torch.cuda.get_rng_state_all()}  # [] without a GPU
    if getattr(loader, "generator", None) is not None:
        saved["random_order"] = loader.generator.get_state()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(saved, f"{path}.new")
    os.replace(f"{path}.new", path)


# ---- Figures


class LiveCurves:
    """For fit's after_epoch in a notebook: the curves of a run, drawn anew in one place after every epoch."""

    def __init__(self, epochs: int, title: str = "", target: float | None = 99.28):
        self.epochs, self.title, self.target = epochs, title, target
        self.shown = None  # the place in the notebook

    def __call__(self, history: list[dict]) -> None:
        figure = plot_curves(pd.DataFrame(history), self.title, self.target, self.epochs)
        plt.close(figure)  # or the notebook would show it a second time
        # Text goes with the picture: it is what a terminal shows of the run.
        content = {"image/png": print_figure(figure, bbox_inches=None, base64=True), "text/plain": epoch_line(history)}
        if self.shown is None:
            self.shown = display(content, raw=True, display_id=True)
        else:
            self.shown.update(content, raw=True)


def plot_curves(history: pd.DataFrame, title="", target: float | None = 99.28, epochs=None) -> plt.Figure:
    """Loss, accuracy and learning rate by epoch, from fit's history; target is a line across the accuracy."""
    figure, panels = plt.subplots(3, 1, figsize=(5.4, 5.6), sharex=True, height_ratios=[3, 3, 1.3])
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
    """A grid of digits, images (N, 1, 28, 28) or (N, 28, 28), each under its title."""
    titles = [""] * len(images) if titles is None else [f"{title}" for title in titles]
    rows = math.ceil(len(images) / columns)
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.4, rows * (5.4 / columns + 0.2 * lines)), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images, titles):
        axes.imshow(image.reshape(28, 28).cpu(), cmap="gray_r")
        axes.set_title(title, fontsize=9, loc="center")
    return figure


def plot_mistakes(images, labels, answers, count=20) -> plt.Figure:
    """The wrong answers given with most confidence: label → answer, and the answer's probability in %.

    images (N, 1, 28, 28), labels (N,), answers (N, classes) as log-probabilities. Raises ValueError if none is wrong.
    """
    images, labels = images.cpu(), labels.cpu()
    confidence, digits = answers.cpu().exp().max(1)
    wrong = (digits != labels).nonzero().flatten()
    if len(wrong) == 0:
        raise ValueError("there is no mistake to show: all answers equal their labels")
    worst = wrong[confidence[wrong].argsort(descending=True)][:count]
    titles = [f"{labels[i]} → {digits[i]}\n{100 * confidence[i]:.0f}%" for i in worst]
    return plot_digits(images[worst], titles, columns=5)


def plot_confusion(labels: torch.Tensor, answers: torch.Tensor, title="") -> plt.Figure:
    """Counts of the answers (columns) given to each label (rows), digits (N,) both; colour marks mistakes."""
    counts = torch.bincount(labels.cpu() * 10 + answers.cpu(), minlength=100).reshape(10, 10)
    mistakes = counts.clone().fill_diagonal_(0)
    figure, axes = plt.subplots(figsize=(5.4, 5), layout="constrained")
    axes.imshow(mistakes, cmap="Blues", vmax=2 * max(1, mistakes.max()))  # the lighter half: black is legible on it
    for (row, column), count in np.ndenumerate(counts.numpy()):
        axes.text(column, row, count or "·", ha="center", va="center")
    axes.set(xlabel="answer", ylabel="label", xticks=range(10), yticks=range(10), title=title)
    return figure


# ---- A digit of one's own. scikit-image and scipy are imported where they are needed, once a picture is read.


def read_grey(path) -> np.ndarray:
    """A picture's brightness, upright, at most 400 pixels long: float (rows, columns), 0 to 255."""
    from PIL import Image, ImageOps

    picture = Image.open(path)
    picture.draft(None, (800, 800))  # a large JPEG is read at a fraction of its size
    picture = ImageOps.exif_transpose(picture)  # as phones store it
    if picture.mode[0] in "IF":  # 16 bits and more: the brightest pixel is white
        values = np.asarray(picture, dtype=float)
        picture = Image.fromarray((values * 255 / max(values.max(), 1)).clip(0).round().astype(np.uint8))
    picture = picture.convert("RGBA")
    picture.thumbnail((400, 400))
    on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(on_white.convert("L"), dtype=float)


def find_strokes(grey: np.ndarray, path) -> np.ndarray:
    """The strokes of a digit, dark on light or light on dark: 255 where there is ink, else 0.

    Leaves out shadows, specks, faint lines, and what touches the edge. Raises ValueError where no stroke
    stands out from what is around it, and for several digits side by side.
    """
    from scipy import ndimage
    from skimage import filters, measure, segmentation

    size = max(grey.shape)
    wide = size // 3  # no stroke is as wide: closing what is narrower leaves the paper
    light = ndimage.gaussian_filter(np.log(grey + 20), size / 400)  # in logarithms a shadow subtracts
    found = []
    for sign in (1, -1):  # dark ink, light ink
        contrast = ndimage.black_tophat(np.pad(sign * light, wide, mode="edge"), wide)[wide:-wide, wide:-wide]
        level = np.percentile(contrast[contrast >= filters.threshold_otsu(contrast)], 90)
        strokes = contrast > level / 2
        joined = measure.label(ndimage.binary_dilation(strokes, iterations=1 + size // 200))  # over small gaps
        for part in measure.regionprops(segmentation.clear_border(joined, size // 100) * strokes):
            length = max(part.image.shape)
            near = length // 10 + 1
            top, left, bottom, right = part.bbox
            around = light[max(top - near, 0) : bottom + near, max(left - near, 0) : right + near]
            darker = sign * (np.median(around) - np.median(light[part.slice][part.image]))
            if length > size / 20 and darker > max(level / 2, 0.05):  # unlike the paper between strokes
                is_sheet = part.solidity > 0.85 and min(part.image.shape) > 0.4 * length
                found.append({"part": part, "sign": sign, "strength": length * level, "is_sheet": is_sheet})
    if not found:
        raise ValueError(f"{path}: no strokes stand out from the paper; write with a thicker pen, away from the edge")
    best = max(found, key=lambda each: (not each["is_sheet"], each["strength"]))
    main = best["part"]
    parts = [each["part"] for each in found if each["sign"] == best["sign"] and each["part"].area > 0.1 * main.area]
    ink = np.zeros(grey.shape)
    for part in parts:
        beside = part.bbox[1] >= main.bbox[3] or part.bbox[3] <= main.bbox[1]
        if beside and part.image.shape[0] > main.image.shape[0] / 2:
            raise ValueError(f"{path}: several digits side by side; cut out one")
        ink[part.slice][part.image] = 255
    return ink


def digit_from_picture(path) -> torch.Tensor:
    """The digit on a photo, scan or drawing, as MNIST stores digits: uint8 (1, 28, 28), bright ink on black.

    As MNIST's makers did (LeCun et al. 1998, section III.A), it scales the digit's longer side to 20 pixels and puts
    its centre of mass in the middle: at pixel (14, 14), where it is in their files. A picture of at most 28x28 pixels
    is neither cleaned nor enlarged, so a digit of MNIST comes back unchanged.
    Raises ValueError, naming the file and a remedy, for what is no single digit.
    """
    from PIL import Image
    from scipy import ndimage

    grey = read_grey(path)
    is_tiny = max(grey.shape) <= 28
    ink = abs(grey - np.median(grey)) if is_tiny else find_strokes(grey, path)
    if not ink.any():
        raise ValueError(f"{path}: no strokes stand out, all pixels are alike; take a picture of a digit")
    rows, columns = ink.any(1).nonzero()[0], ink.any(0).nonzero()[0]
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if ink.mean() > 0.8 * ink.max() and min(ink.shape) > 0.4 * max(ink.shape):
        raise ValueError(f"{path}: ink fills its box, which no digit does; leave paper around the strokes")
    if not is_tiny or max(ink.shape) > 20:
        height, width = (max(1, round(20 * side / max(ink.shape))) for side in ink.shape)
        ink = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.HAMMING))
        ink = ink * 255 / ink.max()
    top, left = (min(max(round(14 - mass), 0), 28 - side) for mass, side in zip(ndimage.center_of_mass(ink), ink.shape))
    digit = torch.zeros(1, 28, 28, dtype=torch.uint8)
    digit[0, top : top + ink.shape[0], left : left + ink.shape[1]] = torch.from_numpy(ink.round().astype(np.uint8))
    return digit
