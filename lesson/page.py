"""The live page: page.html with trained networks in it, which it runs on what its reader draws."""

import base64
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import torch
from IPython.display import display
from torch import nn

from helpers import MEAN, STD, log_probabilities, normalise
from lesson.fields import Operation, copy_of, trace

TEMPLATE = Path(__file__).with_name("page.html")


class Stops(list):
    """For fit's after_epoch: pairs (epoch, copy of the model), as it is now, after these epochs, and after the last."""

    def __init__(self, model: nn.Module, epochs=(0, 1, 2, 5, 10, 20)):
        super().__init__([(0, copy_of(model))])
        self.model, self.epochs = model, epochs

    def __call__(self, history: list[dict]) -> None:
        if self[-1][0] not in self.epochs:
            self.pop()  # it was the last so far, no more
        self.append((len(history), copy_of(self.model)))


def network_operations(model: nn.Module) -> list[dict]:
    """A network for images (1, 28, 28) as operations that the page can run, in the order of the calls.

    Each has name, inputs (places in the list), shape (maps, rows, columns; plain features are maps of one unit),
    start, jump and field as in lesson.fields, and what _needs adds. All weights are rounded to 16 bits.
    Raises ValueError for other than ten answers, and for what the page can't run, naming the layer.
    """
    operations = trace(copy_of(model).cpu().half().float())
    last = operations[-1]
    if last.shape != (1, 10):
        raise ValueError(f"the page runs networks with ten answers, (1, 10); this one gives {last.shape}")
    if last.kind != "_log_softmax":  # a network that ends in logits
        last = replace(last, name="log_softmax", kind="_log_softmax", arguments={"dim": 1})
        operations.append(replace(last, inputs=[len(operations) - 1]))
    made = []
    for operation in operations:
        seen = {key: getattr(operation, key) for key in ("inputs", "start", "jump", "field")}
        seen |= {"name": re.sub(r"\.\d+$", "", operation.name), "shape": [*operation.shape[1:], 1, 1][:3]}
        made.append(seen | _needs(operation, [operations[place] for place in operation.inputs]))
    return made


def _needs(operation: Operation, sources: list[Operation]) -> dict:
    """What the page needs to run an operation that reads these: kind, what (for people), numbers and tensors."""
    given, shape, before = operation.arguments, operation.shape, sources[0].shape if sources else ()
    window = dict(zip(("kernel", "stride", "padding", "dilation"), operation.window))
    (height, width), stride = window["kernel"], max(window["stride"])
    size = f"{height}×{width}" + (f", stride {stride}" if stride > 1 else "")
    by_window = given.get("count_include_pad", True) and not (given.get("ceil_mode") or given.get("divisor_override"))
    match operation.kind if len(shape) in (2, 4) else None:
        case "image":
            return {"kind": "image", "what": "image", "mean": MEAN, "std": STD}
        case "convolution":
            weights = {key: given[key] for key in ("groups", "weight", "bias")}
            return {"kind": "convolution", "what": f"convolution {size}", **window, **weights}
        case "addmm" | "mm" if len(before) == 2:  # a 1×1 convolution of maps of one unit; addmm's self is its bias
            weights = {"groups": 1, "weight": given["mat2"].T, "bias": given.get("self")}
            return {"kind": "convolution", "what": "linear", **window, **weights}
        case "max_pool2d_with_indices":
            return {"kind": "max_pool", "what": f"max pool {size}", **window}
        case "avg_pool2d" | "mean" | "_adaptive_avg_pool2d" if by_window and shape[1] == before[1]:
            return {"kind": "average_pool", "what": f"average pool {size}", **window}
        case "native_batch_norm" | "_native_batch_norm_legit_no_training" if not given.get("training"):
            scale = (given["running_var"] + given["eps"]).rsqrt() * (1 if given["weight"] is None else given["weight"])
            shift = (0 if given["bias"] is None else given["bias"]) - given["running_mean"] * scale
            return {"kind": "scale_and_shift", "what": "BatchNorm", "scale": scale.tolist(), "shift": shift.tolist()}
        case "relu":
            return {"kind": "relu", "what": "ReLU"}
        case "add" if given["alpha"] == 1 and [source.shape for source in sources] == [shape, shape]:
            return {"kind": "add", "what": "sum"}
        case "cat" if sum(source.shape[1] for source in sources) == shape[1]:
            return {"kind": "concatenate", "what": "side by side"}
        case "view" | "_unsafe_view" | "squeeze" | "unsqueeze" | "clone" | "_to_copy" | "alias" | "detach":
            return {"kind": "pass_on", "what": "passed on"}
        case "_log_softmax" if len(shape) == 2 and given["dim"] in (1, -1):
            return {"kind": "log_softmax", "what": "log-softmax"}
    known = "convolution, linear, BatchNorm, ReLU, max and average pool, sum, cat, flatten, log-softmax over classes"
    raise ValueError(f"the page can't run layer {operation.name!r} ({operation.kind}); it can run {known}")


def page_examples(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> list[tuple]:
    """(image, label) of one digit of each class, answered right, and of the three surest wrong answers.

    pixels are uint8 (N, 28, 28), labels (N,). A class of which no digit is answered right is left out.
    """
    device = next(model.parameters()).device
    certain, answers = log_probabilities(model, normalise(pixels).to(device)).cpu().max(1)
    right = [((labels == digit) & (answers == digit)).nonzero()[:1, 0] for digit in range(10)]
    wrong = (answers != labels).nonzero()[:, 0]
    worst = wrong[certain[wrong].argsort(descending=True)][:3]
    return [(pixels[place], int(labels[place])) for place in torch.cat([*right, worst]).tolist()]


def network_page(networks: dict, examples: list[tuple], start: int = 0) -> str:
    """One HTML document that runs the networks, by name, on what its reader draws; it needs no other file.

    A network is a model, or a list of (epoch, model), such as Stops: the page shows its training as a slider.
    examples are (uint8 image (28, 28), label); it opens with that at start. The last network answers first.
    """
    listed = []  # not a dict: JavaScript would sort the names "64" and "8"
    for name, model in networks.items():
        stops = model if isinstance(model, list) else [(None, model)]
        listed.append((name, [(epoch, network_operations(state)) for epoch, state in stops]))
    data = {"networks": listed, "examples": [{"label": int(label), "pixels": image} for image, label in examples]}
    return render(json.dumps(data | {"start": start}, default=_text))


def _text(values: torch.Tensor) -> str:
    """A tensor's bytes as base64: 8 bits a pixel, 16 bits a weight."""
    values = values.detach().half() if values.is_floating_point() else values
    return base64.b64encode(values.numpy().tobytes()).decode()


def render(data: str) -> str:
    """page.html with its data, a JSON text, as one document."""
    page = re.sub(r"(?m)^\s*(//.*\s+)*", "", TEMPLATE.read_text("utf-8"))  # without indents and lines of comments
    return page.replace("DATA", data.replace("<", "\\u003c"), 1)


def data_of(document: str) -> str:
    """The data in a document that render made: render(data_of(document)) makes it anew from today's page.html."""
    return re.search(r'id="data">(.*?)</script>', document, re.DOTALL)[1]


def show_page(networks: dict, examples: list[tuple], start: int = 0) -> None:
    """Show network_page under the cell; where scripts don't run, words show instead."""
    words = f"The networks {' and '.join(networks)}, live where scripts run: open docs/index.html, or run this cell."
    display({"text/html": frame(network_page(networks, examples, start), words), "text/plain": words}, raw=True)


def frame(document: str, words: str) -> str:
    """A notebook's output: the document, without rights there, over the words, which show where scripts don't run."""
    return f"""<div style="display: grid" data-lm-suppress-shortcuts="true">
<p style="grid-area: 1 / 1">{html.escape(words)}</p>
<iframe style="grid-area: 1 / 1; width: 100%; height: 960px; border: 0; color-scheme: light" sandbox="allow-scripts"
title="Your digit, layer by layer" srcdoc="{html.escape(document)}"></iframe></div>"""
