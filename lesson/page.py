"""The live page: page.html with trained networks in it, which it runs on what its reader draws."""

import base64
import html
import json
import re
from pathlib import Path

import torch
from IPython.display import display

from helpers import MEAN, STD, log_probabilities, normalise, print_epoch
from lesson.fields import Operation, copy_of, trace

TEMPLATE = Path(__file__).with_name("page.html")


class Stops(list):
    """Pairs (epoch, copy of the model): as it is now, after these epochs, and the last; fit calls it, it calls then."""

    def __init__(self, model: torch.nn.Module, then=print_epoch, epochs=(0, 1, 2, 5, 10, 20)):
        super().__init__([(0, copy_of(model))])
        self.model, self.then, self.epochs = model, then, epochs

    def __call__(self, history: list[dict]) -> None:
        self[:] = [stop for stop in self if stop[0] in self.epochs] + [(len(history), copy_of(self.model))]
        self.then(history)


def network_operations(model: torch.nn.Module) -> list[dict]:
    """A network for images (1, 28, 28), with ten answers, as operations that the page can run, in the order of calls.

    Raises ValueError, naming the layer, for what the page can't run; an average pool's ceil_mode isn't followed.
    """
    operations, made = trace(copy_of(model).cpu().half().float()), []  # the page keeps 16 bits of a weight
    for each in operations:
        kind, what, numbers = _needs(each, [operations[place].shape for place in each.inputs])
        name = re.sub(r"\.\d+$", "", each.name)
        named = {"name": f"[{name}]" if name.isdigit() else name, "kind": kind, "what": what, "inputs": each.inputs}
        seen = {"shape": [*each.shape[1:], 1, 1][:3], "start": each.start, "jump": each.jump, "field": each.field}
        made.append(named | seen | numbers)
    return made


def _needs(operation: Operation, before: list[tuple]) -> tuple[str, str, dict]:
    """For an operation that reads these shapes: the page's kind, what people call it, its numbers and tensors."""
    given, shape = operation.arguments, operation.shape
    window = dict(zip(("kernel", "stride", "padding", "dilation"), operation.window))
    (height, width), stride = window["kernel"], max(window["stride"])
    size = f"{height}×{width}" + (f", stride {stride}" if stride > 1 else "")
    match operation.kind if len(shape) in (2, 4) else None:
        case "image":
            return "image", "image", {"mean": MEAN, "std": STD}
        case "convolution":
            weights = {key: given[key] for key in ("groups", "weight", "bias")}
            return "convolution", f"convolution {size}", window | weights
        case "addmm" | "mm" if len(before[0]) == 2:  # a convolution of maps of one unit; addmm's self is its bias
            return "convolution", "linear", window | {"groups": 1, "weight": given["mat2"].T, "bias": given.get("self")}
        case "max_pool2d_with_indices":
            return "max_pool", f"max pool {size}", window
        case "avg_pool2d" | "mean" | "_adaptive_avg_pool2d" if given.get("count_include_pad", True):
            return "average_pool", f"average pool {size}", window
        case "native_batch_norm" | "_native_batch_norm_legit_no_training" if not given.get("training"):
            scale = (given["running_var"] + given["eps"]).rsqrt() * (1 if given["weight"] is None else given["weight"])
            shift = (0 if given["bias"] is None else given["bias"]) - given["running_mean"] * scale
            return "scale_and_shift", "BatchNorm", {"scale": scale.tolist(), "shift": shift.tolist()}
        case "relu":
            return "relu", "ReLU", {}
        case "add" if given["alpha"] == 1 and before == [shape, shape]:
            return "add", "sum", {}
        case "cat" if sum(each[1] for each in before) == shape[1]:
            return "concatenate", "side by side", {}
        case "view" | "_unsafe_view" | "squeeze" | "unsqueeze" | "clone" | "_to_copy" | "alias" | "detach":
            return "pass_on", "passed on", {}
        case "_log_softmax" if len(shape) == 2 and given["dim"] in (1, -1):
            return "log_softmax", "log-softmax", {}
    known = "convolution, linear, BatchNorm, ReLU, max and average pool, sum, cat, flatten, log-softmax over classes"
    raise ValueError(f"the page can't run layer {operation.name!r} ({operation.kind}); it can run {known}")


def page_examples(model: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> list[tuple]:
    """(image, label) of one digit of each class, answered right, and of the three surest wrong answers.

    pixels are uint8 (N, 28, 28), labels (N,). A class of which no digit is answered right is left out.
    """
    certain, answers = log_probabilities(copy_of(model).cpu(), normalise(pixels)).max(1)
    right = [((labels == digit) & (answers == digit)).nonzero()[:1, 0] for digit in range(10)]
    wrong = (answers != labels).nonzero()[:, 0]
    worst = wrong[certain[wrong].argsort(descending=True)][:3]
    return [(pixels[place], int(labels[place])) for place in torch.cat([*right, worst]).tolist()]


def show_page(networks: dict, examples: list[tuple], start: int = 0) -> None:
    """Show a page that runs the networks, by name, on what its reader draws; words where scripts don't run.

    A network is a model, or a list of (epoch, model), such as Stops: the page shows its training as a slider.
    examples are (uint8 image (28, 28), label); it opens with that at start. The last network answers first.
    """
    listed = []  # not a dict: JavaScript would sort the names "64" and "8"
    for name, model in networks.items():
        stops = model if isinstance(model, list) else [(None, model)]
        listed.append((name, [(epoch, network_operations(state)) for epoch, state in stops]))
    shown = [{"label": int(label), "pixels": image} for image, label in examples]
    document = render(json.dumps({"networks": listed, "examples": shown, "start": start}, default=_text))
    words = f"The networks {' and '.join(networks)}, live where scripts run: open docs/index.html, or run this cell."
    display({"text/html": frame(document, words), "text/plain": words}, raw=True)


def _text(values: torch.Tensor) -> str:
    """A tensor's bytes as base64: 8 bits a pixel, 16 bits a weight."""
    values = values.detach().half() if values.is_floating_point() else values
    return base64.b64encode(values.numpy().tobytes()).decode()


def render(data: str) -> str:
    """page.html with its data, a JSON text, as one document."""
    return TEMPLATE.read_text("utf-8").replace("DATA", data.replace("<", "\\u003c"), 1)


def data_of(document: str) -> str:
    """The data in a document that render made: render(data_of(document)) makes it anew from today's page.html."""
    return re.search(r'id="data">(.*?)</script>', document, re.DOTALL)[1]


def frame(document: str, words: str) -> str:
    """A notebook's output: the document, without rights there, over the words, which show where scripts don't run."""
    return f"""<div style="display: grid" data-lm-suppress-shortcuts="true">
<p style="grid-area: 1 / 1">{html.escape(words)}</p>
<iframe style="grid-area: 1 / 1; width: 100%; height: 960px; border: 0; color-scheme: light" sandbox="allow-scripts"
title="Your digit, layer by layer" srcdoc="{html.escape(document)}"></iframe></div>"""
