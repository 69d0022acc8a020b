"""The lesson's own drawings, in the style of helpers.STYLE, which is set here: each function returns a figure."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LinearSegmentedColormap

from helpers import SHIFTS, STYLE, five_looks, log_probabilities, shifted
from lesson.fields import Operation, trace
from lesson.recipes import Recipe
from lesson.results import runs_of

plt.rcParams.update(STYLE)
SIGNS = LinearSegmentedColormap.from_list("signs", ["#e69f00", "white", "#003a66"])  # below zero, zero, above
EMPTY = {"xticks": [], "yticks": [], "frame_on": False}


def show(axes: plt.Axes, values, title="", most=None, texts=(), outline=None) -> None:
    """Draw values (rows, columns) as ink with another's outline, or as signs from -most to most, each with its text."""
    signs = {"cmap": SIGNS, "vmin": -(most or 1), "vmax": most or 1}
    axes.imshow(values, **({"cmap": "gray_r"} if most is None else signs))
    axes.set(xticks=[], yticks=[], title=title, frame_on=True)
    axes.spines[:].set(visible=True, color="#aaaaaa")
    for (row, column), text in np.ndenumerate(texts):
        colour = "white" if values[row, column] > 0.7 * most else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    if outline is not None:
        axes.contour(outline, levels=[(outline.min() + outline.max()) / 2], colors="C3", linewidths=1)


def plot_convolution(digit, kernel, result, row: int, column: int) -> plt.Figure:
    """A kernel (3, 3) at one place of a digit (28, 28), the nine products there, and the whole map (26, 26)."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(5.4, 2.4))
    patch = digit[row : row + 3, column : column + 3]
    texts = np.vectorize("{:.1f}\n× {:.3g}\n= {:z.1f}".format)(patch, kernel, patch * kernel)
    show(left, digit, "the image, 28×28")
    show(middle, patch * kernel, "pixel × kernel", abs(kernel).max(), texts)
    show(right, result, "the map, 26×26", abs(result).max())
    middle.set_xlabel(f"their sum: {result[row, column]:z.1f}")
    for axes, side in [(left, 3), (right, 1)]:
        axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), side, side, fill=False, color="C3", linewidth=2))
    return figure


def plot_strides() -> plt.Figure:
    """The first two places of a 3x3 kernel on a 7x7 image, and the middles of all, for three (stride, padding)."""
    plain = {**EMPTY, "xlim": (-1.2, 8.2), "ylim": (8.2, -1.2), "aspect": "equal"}
    figure, panels = plt.subplots(1, 3, figsize=(5.4, 2.4), subplot_kw=plain)
    for axes, (stride, padding) in zip(panels, [(1, 0), (1, 1), (2, 0)]):
        whole = 7 + 2 * padding
        axes.add_patch(plt.Rectangle((-padding, -padding), whole, whole, fill=False, hatch="////", color="C4"))
        axes.add_patch(plt.Rectangle((0, 0), 7, 7, facecolor="#dddddd"))
        middles = np.arange(0, whole - 2, stride) - padding + 1.5
        axes.plot(*np.meshgrid(middles, middles), "o", color="C4", markersize=4)
        for x, colour in [(stride - padding, "C1"), (-padding, "C0")]:
            axes.add_patch(plt.Rectangle((x, -padding), 3, 3, fill=False, color=colour, linewidth=2.5))
        axes.set_title(f"stride {stride}, padding {padding}\n7×7 → {len(middles)}×{len(middles)}")
    return figure


def plot_jumps(layers: list[tuple[str, int, int]], pixels=13) -> plt.Figure:
    """A row of an image, and of the maps above it, (name, kernel, stride) each: what one output of the last reads."""
    figure, axes = plt.subplots(figsize=(5.4, 2.4), subplot_kw=EMPTY)
    middles, windows = [np.arange(pixels)], []  # of all outputs, in pixels; of the inputs that each of them reads
    for _, kernel, stride in layers:
        windows.append([range(i, i + kernel) for i in range(0, len(middles[-1]) - kernel + 1, stride)])
        middles.append(np.array([middles[-1][window].mean() for window in windows[-1]]))
    seen = {len(middles[-1]) // 2}
    for height in reversed(range(len(middles))):
        colours = ["C3" if i in seen else "#bbbbbb" for i in range(len(middles[height]))]
        axes.scatter(middles[height], [height] * len(colours), c=colours, s=60, marker="s" if height == 0 else "o")
        reads = [(i, j) for i in seen for j in windows[height - 1][i]] if height else []
        for i, j in reads:
            axes.plot([middles[height][i], middles[height - 1][j]], [height, height - 1], color="C3", zorder=0)
        apart = f"{middles[height][1] - middles[height][0]:.0f} apart" if height else f"{len(seen)} are seen"
        axes.text(pixels, height, f"{layers[height - 1][0] if height else 'pixels'}\n{apart}", va="center", fontsize=9)
        seen = {j for _, j in reads}
    axes.set(xlim=(-1, pixels + 4), ylim=(-0.5, len(layers) + 0.5))
    return figure


def plot_receptive_field(table: pd.DataFrame, image: torch.Tensor, columns=4) -> plt.Figure:
    """What each layer's central output sees of an image (.., rows, columns), drawn in grey; table: receptive_field's."""
    named = ("start", "jump", "output_size", "receptive_field")
    start, jump, size, fields = (np.array([np.broadcast_to(value, 2) for value in table[name]]) for name in named)
    corners, pixels = start + size // 2 * jump, image.cpu().float().reshape(-1, *image.shape[-2:]).mean(0)
    low, high = np.minimum(corners.min(0), 0) - 1, np.maximum((corners + fields).max(0), pixels.shape) + 1
    (bottom, right), rows = pixels.shape, (len(table) + columns - 1) // columns
    figure, grid = plt.subplots(rows, columns, figsize=(5.4, 6.4 / columns * rows), squeeze=False, subplot_kw=EMPTY)
    for axes, layer, (y, x), (height, width) in zip(grid.flat, table["layer"], corners, fields):
        axes.add_patch(plt.Rectangle((x, y), width, height, hatch="////", facecolor="white", edgecolor="#aaaaaa"))
        axes.imshow(pixels, cmap="gray_r", extent=(0, right, bottom, 0), zorder=2)
        axes.add_patch(plt.Rectangle((0, 0), right, bottom, fill=False, edgecolor="C4", zorder=2))
        axes.add_patch(plt.Rectangle((x, y), width, height, fill=False, edgecolor="C3", linewidth=2, zorder=3))
        middle, top = (min(x, 0) + max(x + width, right)) / 2, min(y, 0)  # of both frames
        axes.text(middle, top - bottom / 14, f"{layer}: {height}×{width}", ha="center")
        axes.set(xlim=(low[1], high[1]), ylim=(high[0], low[0]))
    return figure


def parameters_used(model: torch.nn.Module, operations: list[Operation]) -> list[int]:
    """How many parameters each operation of trace is the first to use; those of a layer that is never called, none."""
    modules, counts = dict(model.named_modules()), [0] * len(operations)
    users = [each.name if each.name in modules else each.name.rpartition(".")[0] for each in operations]
    for path, parameter in model.named_parameters():
        owner = path.rpartition(".")[0].partition("parametrizations")[0].rstrip(".")
        own = [i for i, user in enumerate(users) if user == owner and i > 0]  # 0 is the image
        sizes = {i: [x.numel() for x in operations[i].arguments.values() if isinstance(x, torch.Tensor)] for i in own}
        if own:  # where it is read as it is; else it makes a weight, such as weight_norm's
            counts[min([i for i in own if parameter.numel() in sizes[i]] or own)] += parameter.numel()
    return counts


def blocks_of(model: torch.nn.Module, input_size: tuple) -> tuple[list[dict], list[tuple[int, int]]]:
    """Convolutions, pools and linear layers (stem, not stem.0), with what follows each; which is added to which."""
    operations, blocks, block_of, added = trace(model, input_size), [], [], []
    for operation, parameters in zip(operations, parameters_used(model, operations)):
        if operation.kind in ("image", "convolution", "addmm", "mm", "linear") or "pool2d" in operation.kind:
            blocks.append({"name": operation.name.partition(".")[0], "shape": operation.shape[1:], "parameters": 0})
        if operation.shape[1:] == blocks[-1]["shape"]:  # still its maps; after a sum, they see what the sum sees
            blocks[-1]["field"] = operation.field
        blocks[-1]["parameters"] += parameters
        if operation.kind == "add" and len(operation.inputs) > 1:
            added.append((min(block_of[i] for i in operation.inputs), len(blocks) - 1))
        block_of.append(len(blocks) - 1)
    return blocks, added


def plot_network(network: torch.nn.Module, title="", input_size=(1, 28, 28)) -> plt.Figure:
    """A network's maps, parameters and fields, from top to bottom."""
    blocks, added = blocks_of(network, input_size)
    figure, axes = plt.subplots(figsize=(3.1, 0.39 * len(blocks) + 0.25), subplot_kw=EMPTY)
    axes.set(xlim=(-0.2, 6.2), ylim=(len(blocks) - 0.4, -0.7), title=title)
    for y, block in enumerate(blocks):
        side = max(0.8 * (*block["shape"], 1)[1] / input_size[1], 0.12)  # or a map of one pixel would be a dot
        for sheet in reversed(range(min(block["shape"][0], 6))):
            corner = (0.4 - side / 2 + 0.055 * sheet, y - side / 2 - 0.03 * sheet)
            axes.add_patch(plt.Rectangle(corner, side, side, facecolor="white", edgecolor="C0"))
        shape, seen = ("×".join(map(str, numbers)) for numbers in (block["shape"], block["field"]))
        cost = f"{block['parameters']:,} parameters, " if block["parameters"] else ""
        axes.text(1.24, y - 0.03, f"{block['name']}: {shape}", size=10, in_layout=False, va="bottom", weight="bold")
        axes.text(1.24, y + 0.03, f"{cost}sees {seen}", size=10, in_layout=False, va="top")
    for first, last in added:
        curve = {"arrowstyle": "->", "connectionstyle": "arc3,rad=0.5", "color": "C3"}
        axes.annotate("", (0.15, last), (0.15, first), arrowprops=curve)
    return figure


def plot_seeds(results: dict, names: list[str], yours: dict | None = None) -> plt.Figure:
    """results.json's seeds, a row for each recipe; yours: accuracy (%) of a run, by name."""
    figure, axes = plt.subplots(figsize=(5.4, 1.1 + 0.32 * len(names)))
    in_margin = {"transform": axes.get_yaxis_transform(), "va": "center"}
    notes = [(results["brief"], -0.95, f" the brief, {results['brief']}% ", "C4")]
    for row, name in enumerate(names):
        runs = runs_of(results, name)
        heights = row - 0.2 + 0.25 * (0.618 * np.arange(len(runs)) % 1)  # so that equal runs show
        axes.plot(runs, heights, "o", color="C0", alpha=0.5, markersize=5)
        axes.errorbar(runs.mean(), row + 0.22, xerr=runs.std(), fmt="D", color="C3", capsize=3, markersize=5)
        axes.text(1.02, row, f"{runs.mean():.2f}%", **in_margin)
        if name in (yours or {}):
            axes.plot(yours[name], row - 0.4, "*", color="C1", markeredgecolor="black", markersize=13)
            notes.append((yours[name], row - 0.4, f"   your run, {yours[name]:.2f}%   ", "black"))
    axes.text(1.02, -0.95, "mean", **in_margin)
    axes.axvline(results["brief"], color="C4", linewidth=1, linestyle="--", zorder=0)
    for x, y, words, colour in notes:
        side = "left" if x < sum(axes.get_xlim()) / 2 else "right"  # where there is room
        axes.text(x, y, words, color=colour, ha=side, va="center", zorder=0.5, bbox={"color": "white", "pad": 0.5})
    axes.locator_params(axis="x", steps=[1, 2, 5, 10], nbins=5)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -1.2), xmargin=0.15, xlabel="test accuracy after the last epoch (%)")
    return figure


def plot_kernels(weights: torch.Tensor) -> plt.Figure:
    """Kernels (N, 1, k, k) with their numbers, blue above zero; ValueError for those of several channels."""
    if weights.shape[1] != 1:
        raise ValueError(f"kernels must be (N, 1, k, k), got {tuple(weights.shape)}: choose a channel, weights[:, [0]]")
    kernels, columns = weights[:, 0].detach().cpu(), 4 if weights.shape[-1] < 4 else 3  # numbers need room
    rows = (len(kernels) + columns - 1) // columns
    figure, grid = plt.subplots(rows, columns, figsize=(5.4, 5.4 / columns * rows), squeeze=False, subplot_kw=EMPTY)
    for axes, kernel in zip(grid.flat, kernels):
        show(axes, kernel, most=kernels.abs().max(), texts=np.vectorize("{:z.1f}".format)(kernel))
    return figure


def plot_maps(model: torch.nn.Module, image: torch.Tensor, layers: list[str]) -> plt.Figure:
    """What layers put out for one image (1, 1, 28, 28): a row each, up to 8 maps, signs on the row's own scale."""
    model, outputs = copy.deepcopy(model).eval(), {}
    for name in layers:  # a hook is called with what its layer puts out; cloned, since the next may work in place
        hook = lambda module, inputs, output, name=name: outputs.update({name: output[0].clone().cpu()})  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        model(image)
    figure, grid = plt.subplots(len(layers), 8, figsize=(5.4, 0.66 * len(layers)), squeeze=False, subplot_kw=EMPTY)
    for row, (name, maps) in zip(grid, outputs.items()):
        for axes, values in zip(row, maps):
            show(axes, values, most=maps.abs().max())
        row[0].set_ylabel(f"{name}\n{'×'.join(map(str, maps.shape))}", rotation=0, ha="right", va="center", fontsize=9)
    key = figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(-1, 1), SIGNS), ax=grid, shrink=0.6, pad=0.01)
    key.set_ticks([-1, 0, 1], labels=["below\nzero", "zero", "above\nzero"], fontsize=9)
    return figure


def plot_looks(model: torch.nn.Module, image: torch.Tensor, label: int) -> plt.Figure:
    """An image (1, 1, 28, 28) moved by SHIFTS, the answer to each, and that of five looks, their mean."""
    looks = torch.cat([shifted(image, *shift) for shift in SHIFTS])
    words = {(0, 0): "as it is", (-1, 0): "up ↑", (1, 0): "down ↓", (0, -1): "← left", (0, 1): "right →"}
    figure, panels = plt.subplots(1, len(looks) + 1, figsize=(5.4, 1.7), subplot_kw=EMPTY)
    for axes, look, shift in zip(panels, looks.cpu(), SHIFTS):
        show(axes, look[0], words.get(shift, f"{shift}"), outline=looks[0, 0].cpu())
    panels[-1].set(aspect="equal", title="their mean")
    for axes, answers in zip(panels, [*log_probabilities(model, looks), *five_looks(model, image)]):
        probability, answer = answers.exp().max(0)
        mark, colour = ("✓", "C2") if answer == label else ("✗", "C3")
        axes.set_xlabel(f"{answer} {mark}\n{100 * probability:.0f}%", color=colour, fontsize=11)
    return figure


def plot_distortions(images: torch.Tensor, ways: dict) -> plt.Figure:
    """Images (N, channels, rows, columns) in grey, distorted in several ways, a named row each, with their outline."""
    figure, grid = plt.subplots(len(ways), len(images), figsize=(5.4, 0.7 * len(ways)), squeeze=False)
    for row, (name, distort) in zip(grid, ways.items()):
        for axes, after, before in zip(row, distort(images).cpu(), images.cpu()):
            show(axes, after.mean(0), outline=before.mean(0))
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def with_target(figure: plt.Figure, target: float, unit="%") -> plt.Figure:
    """The figure, with a dashed line at the brief's figure, named where there is room."""
    line = figure.axes[0].axhline(target, xmax=0.95, color="C4", linewidth=1, linestyle="--", zorder=0)
    figure.axes[0].legend([line], [f"the brief, {target}{unit}"], labelcolor="C4")
    return figure


def draw_lines(lines: dict, ylim: tuple, xlabel: str, ylabel="test accuracy (%)", style="o-") -> plt.Figure:
    """Series over their index, by name, each named at its end, or above it where others go on."""
    figure, axes = plt.subplots(figsize=(5.4, 2.3))
    end, height = max(y.index[-1] for _, y in lines.items()), ylim[0]
    for number, (name, y) in enumerate(sorted(lines.items(), key=lambda line: line[1].iloc[-1])):
        axes.plot(y, style, markersize=3, color=f"C{number}")
        x, last, away = y.index[-1], y.iloc[-1], (-2, 8)
        if x > end / 2:
            last = height = min(max(last, height + 0.1 * (ylim[1] - ylim[0])), ylim[1])  # so that no two names overlap
            away = (4, 0)
        where = {"xytext": away, "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, last), color=f"C{number}", **where)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=ylim, xlim=(0, None))
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def plot_epochs(results: dict, names: list[str], ylim=(98, 99.8)) -> plt.Figure:
    """The seeds' mean test accuracy (%) after each epoch, a line for each recipe of results.json."""
    lines = {name: pd.Series(dict(enumerate(results["recipes"][name]["by_epoch"], 1))) for name in names}
    return with_target(draw_lines(lines, ylim, "epoch (each line: the mean of its seeds)"), results["brief"])


def plot_seconds(histories: dict[str, pd.DataFrame], target=99.28) -> plt.Figure:
    """Test accuracy (%) against seconds of training, summed up, for fit's histories."""
    lines = {name: run.set_index(run["seconds"].cumsum())["test_accuracy"] for name, run in histories.items()}
    return with_target(draw_lines(lines, (98, 99.8), "seconds of training"), target)


def plot_rates(losses: dict[str, list[float]]) -> plt.Figure:
    """Losses on the same batches, by name, as means of ten batches; what is too high leaves the picture."""
    top = 1.3 * max(each[0] for each in losses.values())
    table = pd.DataFrame(losses)
    means = table.set_index(table.index + 1).rolling(10, min_periods=1).mean()
    return draw_lines(means.fillna(9 * top).clip(upper=9 * top), (0, top), "batch", "loss, mean of ten", "-")


def plot_sizes(results: dict, names: list[str], public: list[tuple[int, float]], target: float) -> plt.Figure:
    """Test accuracy (%) against parameters: seeds' mean ± standard deviation; public: others' single runs, hollow."""
    sizes = pd.Series({name: results["recipes"][name]["parameters"] for name in names}).sort_values()
    runs = pd.DataFrame({name: runs_of(results, name) for name in sizes.index})
    figure, axes = plt.subplots(figsize=(5.4, 2.9))
    axes.plot(*np.transpose(public), "o", color="C4", fillstyle="none", markersize=5, zorder=3)
    axes.errorbar(sizes, runs.mean(), yerr=runs.std(), fmt="o-", color="C0", capsize=3, markersize=5)
    for name, size, mean in zip(sizes.index, sizes, runs.mean()):
        axes.annotate(name.split()[-1], (size, mean), (-5, 5), textcoords="offset points", ha="right", color="C0")
    axes.set(xscale="log", ylabel="test accuracy (%)", xlabel="parameters (numbers: widths; hollow: others' runs)")
    axes.xaxis.set(major_locator=plt.LogLocator(subs=(1, 2, 5)), major_formatter="{x:,.0f}", minor_formatter="")
    return with_target(figure, target)


def plot_schedule(recipe: Recipe, brief_rate=0.01) -> plt.Figure:
    """A recipe's learning rate and momentum over its run in %: of a thousand batches, in which nothing is trained."""
    optimizer = recipe.optimizer([torch.zeros(1, requires_grad=True)])
    scheduler, groups = recipe.scheduler(optimizer, 1000), []
    for _ in range(1000):
        groups.append({**optimizer.param_groups[0]})
        optimizer.step()
        scheduler.step()
    table = pd.DataFrame(groups, index=np.linspace(0, 100, 1000))[["lr", "momentum"]]
    panels = table.plot(subplots=True, title=["learning rate", "momentum"], legend=False, xlabel="part of the run (%)")
    return with_target(panels[0].figure, brief_rate, unit="")
