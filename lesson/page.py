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
from lesson.fields import Operation, trace


def network_operations(model: nn.Module) -> list[dict]:
    """A network for images (1, 28, 28) as operations that the page can run, in the order of the calls.

    Each has name, kind, what (for people), inputs (places in the list), shape (maps, rows, columns; plain features
    are maps of one unit), start, jump and field as in lesson.fields, and the numbers and tensors that its kind needs.
    Raises ValueError for what the page can't run, naming the layer, and for other than ten answers.
    """
    operations = trace(model)
    last = operations[-1]
    if last.kind != "_log_softmax":  # a network that ends in logits
        operations.append(replace(last, name="log_softmax", kind="_log_softmax", inputs=[len(operations) - 1]))
    if last.shape != (1, 10):
        raise ValueError(f"the page runs networks with ten answers, (1, 10); this one gives {last.shape}")
    made = []
    for operation in operations:
        needs = _needs(operation, [operations[place] for place in operation.inputs])
        if len(operation.shape) not in (2, 4) or needs is None:
            raise ValueError(f"the page can't run layer {operation.name!r} ({operation.kind})")
        name = re.sub(r"\.\d+$", "", operation.name)  # stem, not stem.0
        seen = {key: getattr(operation, key) for key in ("inputs", "start", "jump", "field")}
        made.append({"name": name, "shape": [*operation.shape[1:], 1, 1][:3], **seen, **needs})
    return made


def _needs(operation: Operation, sources: list[Operation]) -> dict | None:
    """What the page needs to run an operation that reads these; None if it can't."""
    given, shape, before = operation.arguments, operation.shape, sources[0].shape if sources else ()
    window = dict(zip(("kernel", "stride", "padding", "dilation"), operation.window))
    (height, width), stride = window["kernel"], max(window["stride"])
    size = f"{height}×{width}" + (f", stride {stride}" if stride > 1 else "")
    match operation.kind:
        case "image":
            return {"kind": "image", "what": "image", "mean": MEAN, "std": STD}
        case "convolution":
            weights = {key: given[key] for key in ("groups", "weight", "bias")}
            return {"kind": "convolution", "what": f"convolution {size}", **window, **weights}
        case "addmm" | "mm" if len(before) == 2:  # a 1×1 convolution of maps of one unit
            weights = {"groups": 1, "weight": given["mat2"].T, "bias": given.get("self")}
            return {"kind": "convolution", "what": "linear", **window, **weights}
        case "max_pool2d_with_indices":
            return {"kind": "max_pool", "what": f"max pool {size}", **window}
        case "avg_pool2d" if given["count_include_pad"] and not (given["ceil_mode"] or given["divisor_override"]):
            return {"kind": "average_pool", "what": f"average pool {size}", **window}
        case "mean" | "_adaptive_avg_pool2d" if shape[1:2] == before[1:2]:  # of rows and columns, not of maps
            return {"kind": "average_pool", "what": f"average pool {size}", **window}
        case "native_batch_norm" | "_native_batch_norm_legit_no_training" if not given.get("training"):
            scale = (given["running_var"] + given["eps"]).rsqrt() * (1 if given["weight"] is None else given["weight"])
            shift = (0 if given["bias"] is None else given["bias"]) - given["running_mean"] * scale
            return {"kind": "scale_and_shift", "what": "BatchNorm", "scale": scale, "shift": shift}
        case "relu":
            return {"kind": "relu", "what": "ReLU"}
        case "add" if given["alpha"] == 1 and [source.shape for source in sources] == [shape, shape]:
            return {"kind": "add", "what": "sum"}
        case "cat" if sum(source.shape[1] for source in sources) == shape[1]:
            return {"kind": "concatenate", "what": "side by side"}
        case "view" | "_unsafe_view" | "squeeze" | "unsqueeze" | "clone" | "_to_copy" | "alias" | "detach":
            return {"kind": "pass_on", "what": "passed on"}
        case "_log_softmax" if len(shape) == 2:
            return {"kind": "log_softmax", "what": "log-softmax"}


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


def network_page(networks: dict[str, nn.Module], examples: list[tuple], start: int = 0) -> str:
    """One HTML document that runs the networks, by name, on what its reader draws; it needs no other file.

    examples are (uint8 image (28, 28), label); it opens with that at start. The last network answers first.
    """
    operations = {name: network_operations(model) for name, model in networks.items()}
    digits = [{"label": int(label), "pixels": image} for image, label in examples]
    data = json.dumps({"networks": operations, "examples": digits, "start": start}, default=_text)
    lines = [line.strip() for line in Path(__file__).with_name("page.html").read_text("utf-8").splitlines()]
    page = "\n".join(line for line in lines if line and not line.startswith("//"))
    return page.replace("DATA", data.replace("<", "\\u003c"), 1)


def _text(values: torch.Tensor) -> str:
    """A tensor's bytes as base64."""
    return base64.b64encode(values.detach().numpy().tobytes()).decode()


def show_page(networks: dict[str, nn.Module], examples: list[tuple], start: int = 0) -> None:
    """Show network_page under the cell; where scripts don't run, words show instead."""
    words = f"The networks {' and '.join(networks)}, live where scripts run: open docs/index.html, or run this cell."
    # The frame lies over the words, and stays clear where scripts don't run. It has no rights in the notebook.
    frame = f"""<div style="display: grid" data-lm-suppress-shortcuts="true">
<p style="grid-area: 1 / 1">{html.escape(words)}</p>
<iframe style="grid-area: 1 / 1; width: 100%; height: 960px; border: 0; color-scheme: light" sandbox="allow-scripts"
title="Your digit, layer by layer" srcdoc="{html.escape(network_page(networks, examples, start))}"></iframe></div>"""
    display({"text/html": frame, "text/plain": words}, raw=True)
