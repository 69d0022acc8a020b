# Made from the cells of S6_Part2.ipynb by benchmarks/export.py: change them there, not here.
"""The network, alive in a page: an HTML document that runs a trained network."""

import base64
import html
import io
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import display
from matplotlib.colors import LinearSegmentedColormap, to_rgba_array
from matplotlib.patches import Rectangle
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where helpers.py lies
from helpers import MEAN, STD, Layer, log_probabilities, normalise, receptive_field, trace_layers  # noqa: E402


def network_operations(model: nn.Module, input_size=(1, 28, 28)) -> list[dict]:
    """A network as a list of operations that the page can run, in the order of the calls.

    Each has name, kind, what (for people), inputs (places in this list), shape (maps, rows,
    columns), start, jump and field (each [rows, columns], from receptive_field's table), and what
    its kind needs. Weights are base64 of float32; where an operation uses another's, as a shared
    convolution does, its place. Raises ValueError, naming the layer, for what the page can't run.
    """
    layers = trace_layers(model, input_size)
    table = receptive_field(model, input_size, every_layer=True).to_dict("records")
    operations, place, stored, calls = [], {}, {}, {}  # place: of a layer, in operations
    for number, (layer, row) in enumerate(zip(layers, table)):
        operation = _operation(layer, [layers[source] for source in layer.inputs], row)
        if not operation:  # it passes on what it reads, as dropout does after training
            place[number] = place[layer.inputs[0]]
            continue
        place[number] = len(operations)
        calls[layer.name] = calls.get(layer.name, 0) + 1
        again = f" #{calls[layer.name]}" if calls[layer.name] > 1 else ""
        name = layer.name.removesuffix(".0") if operation["kind"] == "convolution" else layer.name
        seen = {"start": row["start"], "jump": row["jump"], "field": row["receptive_field"]}
        operation |= {
            "name": name + again,
            "inputs": [place[source] for source in layer.inputs],
            "shape": [*layer.shape[1:], 1, 1][:3],
        }  # plain features are maps of one unit
        operation |= {key: _pair(value) for key, value in seen.items()}
        _store(operation, stored, len(operations))
        operations.append(operation)
    return operations


def _store(operation: dict, stored: dict, place: int) -> None:
    """Turn an operation's tensors into text, or into the place where the same one is stored."""
    for key, values in operation.items():
        if isinstance(values, torch.Tensor):
            first, _ = stored.setdefault((key, values.data_ptr()), (place, values))
            numbers = values.detach().numpy().astype("<f4")
            text = base64.b64encode(numbers.tobytes()).decode()
            operation[key] = text if first == place else first


def _pair(value) -> list[int]:
    """One number as [rows, columns]."""
    return np.broadcast_to(value, 2).tolist()


def _operation(layer: Layer, sources: list[Layer], row: dict) -> dict:
    """What the page runs for a layer, by its row of the table; {} if it passes on what it reads."""
    made, before = None, sources[0].shape if sources else ()
    if layer.shape[0] == 1 and len(layer.shape) in (2, 4):
        made = _windowed(layer, before, row)
        made = _unitwise(layer, before, len(sources)) if made is None else made
    if made is None:
        raise ValueError(f"the page can't run layer {layer.name!r} ({layer.kind})")
    return made


def _unitwise(layer: Layer, before: tuple, sources: int) -> dict | None:
    """The operation of a layer that works unit by unit; {} if it passes all on, None for others."""
    given, same = layer.arguments, [*before, 1, 1][:4] == [*layer.shape, 1, 1][:4]
    match layer.kind:
        case "image":
            return {"kind": "image", "what": "image", "mean": MEAN, "std": STD}
        case "dropout" | "feature_dropout" | "alpha_dropout" if not given["train"]:
            return {}
        case "contiguous" | "clone" | "to":
            return {}
        case "flatten" | "view" | "reshape" if same or len(layer.shape) == 2:
            return {} if same else {"kind": "flatten", "what": "flatten"}
        case "batch_norm" if not given["training"]:
            return _scale_and_shift(given)
        case "relu":
            return {"kind": "relu", "what": "ReLU"}
        case "add" if given["alpha"] == 1 and sources == 2 and same:
            return {"kind": "add", "what": "sum"}
        case "cat" if given["dim"] == 1 and given["tensors"] == [None] * sources:
            return {"kind": "concatenate", "what": "side by side"}
        case "log_softmax" if given["dim"] in (1, -1) and layer.size == (1, 1):
            return {"kind": "log_softmax", "what": "log-softmax"}


def _scale_and_shift(given: dict) -> dict:
    """BatchNorm after training: its four lists of numbers, folded into two."""
    scale = (given["running_var"].double() + given["eps"]).rsqrt()
    scale = scale if given["weight"] is None else scale * given["weight"]
    shift = -given["running_mean"] * scale
    shift = shift if given["bias"] is None else shift + given["bias"]
    return {"kind": "scale_and_shift", "what": "BatchNorm", "scale": scale, "shift": shift}


def _windowed(layer: Layer, before: tuple, row: dict) -> dict | None:
    """The operation of a layer that slides a window over maps; None for others."""
    given = layer.arguments
    match layer.kind:
        case "conv2d":
            weights = {key: given[key] for key in ("groups", "weight", "bias")}
            return _sliding(layer, row, "convolution") | weights
        case "linear" if len(layer.shape) == 2:  # a 1×1 convolution of maps of one unit
            weights = {"groups": 1, "weight": given["weight"], "bias": given["bias"]}
            return _sliding(layer, row, "convolution") | weights | {"what": "linear"}
        case "max_pool2d":
            return _sliding(layer, row, "max_pool")
        case "avg_pool2d" if not given["ceil_mode"] and not given["divisor_override"]:
            padded = {"counts_padding": given["count_include_pad"]}
            return _sliding(layer, row, "average_pool") | padded
        case "mean" | "adaptive_avg_pool2d" if layer.size == (1, 1) and len(before) == 4:
            if {axis % 4 for axis in given.get("dim") or (2, 3)} == {2, 3}:
                return _sliding(layer, row, "average_pool")


def _sliding(layer: Layer, row: dict, kind: str) -> dict:
    """An operation that slides a window over its maps."""
    window = {key: _pair(row[key]) for key in ("kernel", "stride", "padding")}
    (height, width), stride = window["kernel"], max(window["stride"])
    what = f"{kind.replace('_', ' ')} {height}×{width}" + (f", stride {stride}" if stride > 1 else "")
    return {
        "kind": kind,
        "what": what,
        **window,
        "dilation": _pair(layer.arguments.get("dilation", 1)),
    }


PAGE_HEAD = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>The network, live</title>
<style>
  :root { color-scheme: light; --soft: #595959; --line: #8a8a8a; --mark: #c44e00; --blue: #0072b2; }
  * { box-sizing: border-box; margin: 0; }
  body { color: #1b1b1b; font: 13px/1.4 system-ui, sans-serif; }
  main { display: grid; grid-template: minmax(560px, 1fr) auto / 396px minmax(0, 1fr);
         gap: 8px 16px; height: 100vh; padding: 12px; background: #fff; }
  main[hidden] { display: none; }  /* where scripts don't run the frame stays clear */
  h2 { font-size: 15px; }
  h2 span { padding: 0 4px; white-space: nowrap; }
  figcaption, legend, small, .soft { color: var(--soft); }
  canvas { display: block; }
  button { padding: 2px 12px; border: 1px solid var(--line); border-radius: 4px; background: #fff;
           color: inherit; font: inherit; }
  button:hover { background: #e8eef2; }
  button[aria-pressed=true] { box-shadow: 0 0 0 2px var(--blue); }
  fieldset { padding: 0; border: 0; }
  legend { padding: 0; }
  :focus-visible { outline: 3px solid var(--blue); outline-offset: 1px; }
  .row { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
  .spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }

  #work { display: flex; flex-direction: column; gap: 8px; }
  #pair { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; align-items: end;
          background: #fff; }
  #pair canvas { width: 100%; aspect-ratio: 1; border: 1px solid var(--line); border-radius: 4px; }
  #drawing { cursor: crosshair; touch-action: none; }
  #bars { display: grid; grid-template-columns: repeat(10, 1fr); gap: 4px; padding: 0;
          list-style: none; text-align: center; }
  #bars div { display: flex; align-items: end; height: 46px; border-bottom: 1px solid var(--line); }
  #bars i { width: 100%; background: #9bb8c9; }
  #bars small { display: block; }
  #bars .winner { font-weight: 700; }
  #bars .winner i { background: var(--blue); }
  #answer { min-height: 1.4em; font-size: 15px; font-weight: 600; }
  #switch { gap: 2px 16px; }
  #examples button { width: 36px; padding: 1px 0 0; font-size: 11px; }
  #examples canvas { width: 28px; height: 28px; margin: auto; }
  #examples .wrong { color: var(--mark); font-weight: 700; text-decoration: underline; }
  #push { display: grid; grid-template-columns: 1fr 1fr; gap: 2px 14px; }
  #push label { display: grid; grid-template-columns: 38px 1fr 42px; align-items: center; }
  #push input { width: 100%; min-width: 0; }
  output { text-align: right; }

  #network { display: flex; flex-direction: column; }
  #layers { flex: 1 1 0; min-height: 420px; margin-top: 4px; overflow-y: auto;
            border: 1px solid var(--line); border-radius: 4px; }
  .layer { display: flex; gap: 8px; padding: 2px 6px; border-bottom: 1px solid #ddd; }
  .layer.chosen { background: #fdf1e7; box-shadow: inset 4px 0 var(--mark); }
  .layer p { flex: 0 0 192px; overflow: hidden; font-size: 12px; line-height: 1.15;
             text-overflow: ellipsis; white-space: nowrap; }
  .layer div { display: flex; flex-wrap: wrap; gap: 3px; align-content: center; }
  .layer canvas, .term canvas, #map { outline: 1px solid #c9c9c9; image-rendering: pixelated; }
  .layer canvas, #map { cursor: crosshair; }
  .layer canvas.chosen { outline: 3px solid var(--mark); }

  #unit { display: grid; grid: auto auto 1fr / 168px minmax(0, 1fr); grid-column: 1 / -1;
          gap: 2px 16px; height: 204px; }
  #map { grid-row: 1 / 4; width: 168px; height: 168px; }
  #made { overflow-y: auto; }
  pre { margin: 2px 0 6px; font: 12px/1.25 ui-monospace, monospace; }
  .term { width: 58px; font-size: 11px; text-align: center; }
  .term canvas { display: inline; width: 21px; height: 21px; margin: 0 1px; }
  @media (max-width: 1120px) { .layer p { flex-basis: 124px; } }
  @media (max-width: 859px) {
    main { display: flex; flex-direction: column; height: auto; }
    #work { display: contents; }  /* so that the digit stays in sight beside every layer */
    #pair { position: sticky; top: 0; padding-bottom: 4px; }
    #answer { min-height: 2.8em; }  /* whether it takes one line or two */
    .layer { display: block; }
    #unit { grid-template-columns: 112px minmax(0, 1fr); height: auto; }
    #map { grid-row: 1 / 3; width: 112px; height: 112px; }
    #made { grid-column: 1 / -1; }
  }
</style>

"""
PAGE_BODY = r"""<main hidden>
  <section id="work" aria-label="Your digit">
    <div id="pair">
      <figure>
        <figcaption>Draw a digit here</figcaption>
        <canvas id="drawing" role="img" aria-label="Your drawing"></canvas>
      </figure>
      <figure>
        <figcaption>The network sees this</figcaption>
        <canvas id="seen" role="img" aria-label="The 28 by 28 pixels that go in"></canvas>
      </figure>
    </div>
    <div class="row">
      <button id="undo">Undo</button> <button id="clear">Clear</button>
    </div>
    <ol id="bars" aria-label="Probabilities of 0 to 9, in percent"></ol>
    <p id="answer"></p>
    <p id="status" class="spoken" role="status"></p>
    <fieldset><legend>Which network answers</legend><div id="switch" class="row"></div></fieldset>
    <fieldset><legend>Or take an example (underlined: answered wrong)</legend>
      <div id="examples" class="row"></div></fieldset>
    <fieldset><legend>Push it until the answer breaks</legend><form id="push">
      <label>Turn
        <input type="range" id="turn" min="-90" max="90" value="0"><output></output></label>
      <label>Size
        <input type="range" id="size" min="40" max="160" value="100"><output></output></label>
      <label>Right
        <input type="range" id="right" min="-12" max="12" value="0"><output></output></label>
      <label>Down
        <input type="range" id="down" min="-12" max="12" value="0"><output></output></label>
      <button type="reset">Put it back</button></form></fieldset>
    <label><input type="checkbox" id="why"> Show what speaks for the answer</label>
    <p id="because" class="soft" hidden></p>
  </section>
  <section id="network" aria-label="Every layer">
    <h2>What every layer makes of it: <span style="background: #003a66; color: #fff">above 0</span>
      or <span style="background: #e69f00">below 0</span></h2>
    <p class="soft">Point at a unit, a small square of any map: the orange frame holds all that it
      sees. A click or tap keeps it; arrow keys move on.</p>
    <div id="layers" tabindex="0" role="application"
         aria-label="All maps. Up, down: another layer. Left, right: another map."></div>
  </section>
  <section id="unit" aria-label="One unit">
    <canvas id="map" tabindex="0" role="application"
            aria-label="The chosen map. Arrow keys: another unit."></canvas>
    <h2 id="name"></h2>
    <p id="field"></p>
    <div id="made" tabindex="0" role="group" aria-label="How its value is made"></div>
  </section>
</main>

<script type="application/json" id="data">DATA</script>
"""
PAGE_NETWORKS = r"""<script>
"use strict";
// ---- The networks: lists of operations. A map's numbers lie row by row, its layer's maps in turn.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);

// Where in a map the windows of an operation's units lie, one after the other; -1 in the padding.
function placesOf({shape, kernel: [ky, kx], stride, padding, dilation}, [, height, width]) {
  const columns = shape[2], size = ky * kx;
  return Int32Array.from({length: shape[1] * columns * size}, (_, i) => {
    const unit = Math.floor(i / size), line = Math.floor(i % size / kx);
    const y = Math.floor(unit / columns) * stride[0] - padding[0] + line * dilation[0];
    const x = unit % columns * stride[1] - padding[1] + i % kx * dilation[1];
    return y >= 0 && y < height && x >= 0 && x < width ? y * width + x : -1;
  });
}

// What a unit's window reads from a map; undefined in the padding.
function windowOf(op, map, unit) {
  const size = op.kernel[0] * op.kernel[1];
  return Array.from(op.places.subarray(unit * size, (unit + 1) * size), (place) => map[place]);
}

const pool = (join) => (op, [values]) => {
  const [maps, rows, columns] = op.shape, units = rows * columns, size = values.length / maps;
  return Float32Array.from({length: maps * units}, (_, i) => {
    const read = windowOf(op, values.subarray(Math.floor(i / units) * size), i % units);
    return join(read.filter((number) => number !== undefined), op.counts_padding && read.length);
  });
};

// How each kind of operation makes its numbers of the arrays that it reads.
const RUN = {
  image: (op, [pixels]) => Float32Array.from(pixels, (value) => (value / 255 - op.mean) / op.std),
  convolution({shape: [maps, rows, columns], kernel, groups, weight, bias, places}, [values]) {
    const units = rows * columns, window = kernel[0] * kernel[1];
    const patch = new Float64Array(weight.length / maps), depth = patch.length / window;
    const size = values.length / (depth * groups), output = new Float32Array(maps * units);
    for (let group = 0; group < groups; group++)
      for (let unit = 0; unit < units; unit++) {
        for (let i = 0; i < patch.length; i++) {
          const place = places[unit * window + i % window];
          patch[i] = place < 0 ? 0 : values[(group * depth + (i / window | 0)) * size + place];
        }
        for (let map = group * maps / groups; map < (group + 1) * maps / groups; map++) {
          let sum = bias?.[map] ?? 0, start = map * patch.length;
          for (let i = 0; i < patch.length; i++) sum += patch[i] * weight[start + i];
          output[map * units + unit] = sum;
        }
      }
    return output;
  },
  scale_and_shift({scale, shift}, [values]) {
    const size = values.length / scale.length;
    return values.map((value, i) => value * scale[i / size | 0] + shift[i / size | 0]);
  },
  relu: (op, [values]) => values.map((value) => Math.max(0, value)),
  max_pool: pool((read) => Math.max(...read)),
  average_pool: pool((read, size) => total(read) / (size || read.length)),
  add: (op, [values, others]) => values.map((value, i) => value + others[i]),
  concatenate: (op, arrays) => Float32Array.from(arrays.flatMap((values) => [...values])),
  flatten: (op, [values]) => values,
  log_softmax(op, [values]) {
    const most = Math.max(...values);
    const log = Math.log(total([...values].map((value) => Math.exp(value - most))));
    return values.map((value) => value - most - log);
  },
};

class Network {
  constructor(operations) {
    this.operations = operations;
    for (const op of operations) {
      for (const key of ["weight", "bias", "scale", "shift"])
        if (typeof op[key] === "string") op[key] = new Float32Array(bytes(op[key]).buffer);
        else if (typeof op[key] === "number") op[key] = operations[op[key]][key];  // shared
      if (op.kernel) op.places = placesOf(op, operations[op.inputs[0]].shape);
    }
  }
  run(pixels) {  // what every operation puts out for an image: 784 numbers, 0 to 255, row by row
    const outputs = [];
    for (const op of this.operations) {
      const read = op.inputs.map((place) => outputs[place]);
      outputs.push(RUN[op.kind](op, op.kind === "image" ? [pixels] : read));
    }
    return outputs;
  }
  logProbabilities(pixels) {
    return [...this.run(pixels).at(-1)];
  }
  fieldOf(layer, row, column) {  // [top, left, bottom, right]; layer is its place or its name
    const op = this.operations.find(({name}, place) => layer === place || layer === name);
    const [top, left] = [row, column].map((at, axis) => op.start[axis] + at * op.jump[axis]);
    return [top, left, top + op.field[0] - 1, left + op.field[1] - 1];
  }
}

const networks = window.networks = {};
for (const name in data.networks) networks[name] = new Network(data.networks[name]);
const examples = data.examples.map(({label, from, ink}) => {  // the pixels, from the first with ink
  const pixels = new Uint8Array(784);
  pixels.set(bytes(ink), from);
  return {label, pixels};
});

"""
PAGE_DRAWING = r"""// ---- What is known at the moment
const PEN = 2.4, LOOKS = 4;  // the pen's width; a pixel's grey is the mean of LOOKS × LOOKS looks
const COVER = 6, STEP = 2, CELLS = 14;  // covered are 6×6 pixels, at 14×14 places, 2 pixels apart
let drawn = {example: examples[data.start]}, earlier = [];  // or {strokes: [[[x, y], ...], ...]}
let pen = null;       // the pointer that draws
let answering = Object.keys(networks).at(-1), operations = [];
let digit = null;     // {toImage, pixels}, the image that goes in; null while nothing is drawn
let cover = null;     // [top, left] of the pixels that the pointer covers
let outputs = null;   // of all operations
let speakers = null;  // {changes, least, where}: what covering each place does to the answer
let layers = [];      // {line, canvases} of every operation
let kept = {layer: 4, map: 0, row: 6, column: 6}, pointed = null;  // units

// ---- Canvases
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const inked = (value) => value << 24;  // black, from transparent to opaque
const COLOURS = Int32Array.from({length: 511}, (_, i) => {  // orange, white, dark blue
  const value = i / 255 - 1, end = value > 0 ? [0, 58, 102] : [230, 159, 0];
  const [r, g, b] = end.map((part) => Math.round(255 + (part - 255) * Math.abs(value) ** 0.8));
  return 255 << 24 | b << 16 | g << 8 | r;
});
function coloured(numbers) {
  let most = 1e-9;
  for (const number of numbers) most = Math.max(most, Math.abs(number));
  return (number) => COLOURS[255 + Math.round(255 * number / most)];
}

function tiles(canvas, numbers, colour) {  // one pixel for each number
  canvas.image ??= new ImageData(canvas.width, canvas.height);
  const dots = new Int32Array(canvas.image.data.buffer);
  for (let i = 0; i < dots.length; i++) dots[i] = colour(numbers[i]);
  canvas.getContext("2d").putImageData(canvas.image, 0, 0);
  return canvas;
}

function sharp(canvas, side) {  // cleared, side units wide, with as many pixels as the screen has
  canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.scale(canvas.width / side, canvas.width / side);
  return context;
}

const picture = element("canvas", {width: 28, height: 28});
function ink(context) {  // what is drawn, in a square of 28 units
  if (drawn.example) context.drawImage(tiles(picture, drawn.example.pixels, inked), 0, 0);
  context.strokeStyle = "#000";
  context.lineWidth = PEN;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of drawn.strokes ?? []) {
    context.beginPath();
    for (const [x, y] of [...stroke, stroke.at(-1)]) context.lineTo(x, y);  // a point leaves a dot
    context.stroke();
  }
}

// ---- From the drawing to 28×28 pixels
const paper = element("canvas", {width: 28 * LOOKS, height: 28 * LOOKS})
  .getContext("2d", {willReadFrequently: true});
paper.imageSmoothingEnabled = false;

function pixelsOf(toImage) {  // the ink's share of every pixel, 0 to 255
  paper.clearRect(0, 0, paper.canvas.width, paper.canvas.width);
  paper.save();
  paper.setTransform(new DOMMatrix().scale(LOOKS).multiply(toImage));
  ink(paper);
  paper.restore();
  const {data, width} = paper.getImageData(0, 0, paper.canvas.width, paper.canvas.width);
  const sums = new Float64Array(784);
  for (let i = 0; i < width ** 2; i++)
    sums[Math.floor(i / width / LOOKS) * 28 + Math.floor(i % width / LOOKS)] += data[4 * i + 3];
  return Uint8Array.from(sums, (sum) => Math.round(sum / LOOKS ** 2));
}

// The way from the drawing to the image, as MNIST was made: the longer side becomes 20 pixels, the
// centre of mass goes to the middle, in whole pixels. Then comes what the sliders say.
function placed() {
  const [turn, size, right, down] = ["turn", "size", "right", "down"].map((id) => +$(id).value);
  const pushed = new DOMMatrix().translate(14 + right, 14 + down).rotate(turn).scale(size / 100)
    .translate(-14, -14);
  if (drawn.example) return pushed;
  const ends = [0, 1].map((axis) => {
    const along = drawn.strokes.flat().map((point) => point[axis]);
    return [Math.min(...along) - PEN / 2, Math.max(...along) + PEN / 2];
  });
  const scale = 20 / Math.max(...ends.map(([low, high]) => high - low));
  const inCorner = new DOMMatrix().scale(scale).translate(-ends[0][0], -ends[1][0]);
  const pixels = [...pixelsOf(inCorner)];
  const shift = ends.map(([low, high], axis) => {
    const moments = pixels.map((value, i) => value * (0.5 + (axis ? Math.floor(i / 28) : i % 28)));
    const middle = Math.round(14 - total(moments) / total(pixels));
    return Math.min(Math.max(0, middle), Math.floor(28 - (high - low) * scale));  // stays inside
  });
  return pushed.translate(...shift).multiply(inCorner);
}

"""
PAGE_ANSWERS = r"""// ---- Answers
const percent = (log) => `${(100 * Math.exp(log)).toFixed(1)}%`;
const winner = (logs) => logs.indexOf(Math.max(...logs));
const covered = (pixels, [top, left]) => pixels.map((value, i) => {
  const row = Math.floor(i / 28) - top, column = i % 28 - left;
  return row >= 0 && row < COVER && column >= 0 && column < COVER ? 0 : value;
});
const goesIn = () => (cover ? covered(digit.pixels, cover) : digit.pixels);

function soon(work) {  // work in the next frame, once however often it is asked for
  let due = false;
  return () => {
    if (!due) requestAnimationFrame(() => {
      due = false;
      work();
    });
    due = true;
  };
}
const refresh = soon(() => show()), rethink = soon(() => think());

function say(words) {  // to a screen reader, after the next frame
  requestAnimationFrame(() => setTimeout(() => { $("status").textContent = words(); }));
}

let rest;  // a timer: when the digit has rested for a moment, there is time for more
function think() {
  digit = outputs = null;
  if (drawn.example || drawn.strokes.length) {
    const toImage = placed();
    digit = {toImage, pixels: pixelsOf(toImage)};
    outputs = networks[answering].run(goesIn());
  }
  if (!cover) speakers = null;
  showAnswer();
  showMaps();
  show();
  clearTimeout(rest);
  rest = setTimeout(() => {
    compare();
    $("because").hidden = !$("why").checked;
    if (digit && $("why").checked && !speakers) findSpeakers(digit);
  }, 50);
}

// Cover each place in turn, and note how the odds of the answer change.
async function findSpeakers({pixels}) {
  const network = networks[answering], logs = network.logProbabilities(pixels);
  const best = winner(logs), changes = [], found = {changes, least: 0, where: [0, 0]};
  const odds = (all) => all[best] - Math.log(total(all.filter((_, k) => k !== best).map(Math.exp)));
  for (let cell = 0; cell < CELLS ** 2; cell++) {
    const corner = [Math.floor(cell / CELLS), cell % CELLS].map((along) => (along - 1) * STEP);
    const then = network.logProbabilities(covered(pixels, corner));
    changes.push(odds(logs) - odds(then));
    if (then[best] < found.least) Object.assign(found, {least: then[best], where: corner});
    await new Promise((done) => setTimeout(done));  // the page stays quick
    if (pixels !== digit?.pixels || cover) return;
  }
  speakers = found;
  $("because").textContent = `Filled squares speak for ${best}, hollow ones against. Without the `
    + `dashed 6×6 pixels ${percent(logs[best])} become ${percent(found.least)}. Point at what the `
    + "network sees, to cover others.";
  refresh();
}

function sentence() {
  if (!outputs) return "Draw something";
  const logs = [...outputs.at(-1)];
  const [best, next] = [...logs.keys()].sort((one, other) => logs[other] - logs[one]);
  const wrong = drawn.example && drawn.example.label !== best;
  return `Answer: ${best} (${percent(logs[best])}), then ${next} (${percent(logs[next])})`
    + (wrong ? `; its label is ${drawn.example.label}` : "");
}

function showAnswer() {
  const logs = outputs?.at(-1);
  [...$("bars").children].forEach((bar, k) => {
    const share = logs ? 100 * Math.exp(logs[k]) : 0;
    bar.className = logs && k === winner(logs) ? "winner" : "";
    bar.querySelector("i").style.height = `${share}%`;
    bar.querySelector("small").textContent = logs ? Math.round(share) : "–";
  });
  $("answer").textContent = sentence();
}

function compare() {  // what each of the networks answers
  for (const {dataset, lastChild} of $("switch").children) {
    const logs = digit ? networks[dataset.name].logProbabilities(goesIn()) : null;
    lastChild.textContent = logs ? `: ${winner(logs)} (${percent(Math.max(...logs))})` : "";
  }
}

function showMaps() {
  layers.forEach(({canvases}, layer) => {
    const size = canvases[0].width * canvases[0].height;
    const values = outputs?.[layer] ?? new Float32Array(canvases.length * size);
    const colour = coloured(values);
    canvases.forEach((canvas, map) => tiles(canvas, values.subarray(map * size), colour));
  });
}

"""
PAGE_UNITS = r"""// ---- Showing: the drawing and the image, and on both what the chosen unit sees
function show() {
  const unit = pointed ?? kept, {line, canvases} = layers[unit.layer];
  const [top, left, bottom, right] = networks[answering].fieldOf(unit.layer, unit.row, unit.column);
  const box = [left, top, right - left + 1, bottom - top + 1];
  const drawing = sharp($("drawing"), 28), seen = sharp($("seen"), 36);
  const whole = drawing.getTransform(), back = digit?.toImage.inverse() ?? new DOMMatrix();
  seen.fillStyle = "#e4e4e4";  // the padding
  seen.fillRect(0, 0, 36, 36);
  seen.translate(4, 4);
  drawing.setTransform(whole.multiply(back));
  for (const context of [drawing, seen]) {
    hatch(context, ...box);
    context.clearRect(0, 0, 28, 28);  // so that only what is padding stays hatched
  }
  drawing.setTransform(whole);
  ink(drawing);
  drawing.setTransform(whole.multiply(back));
  if (digit) seen.drawImage(tiles(picture, goesIn(), inked), 0, 0);
  for (const context of [drawing, seen]) {
    if (speakers) showSpeakers(context);
    frame(context, ...box);
  }
  for (const marked of $("layers").querySelectorAll(".chosen")) marked.classList.remove("chosen");
  for (const marked of [line, canvases[unit.map]]) marked.classList.add("chosen");
  showUnit(unit, box);
}

function hatch(context, left, top, width, height) {  // stripes: one wide dashed line
  context.strokeStyle = "#c44e00";
  context.lineWidth = height;
  context.setLineDash([0.25, 0.75]);
  context.beginPath();
  context.moveTo(left, top + height / 2);
  context.lineTo(left + width, top + height / 2);
  context.stroke();
  context.setLineDash([]);
}

function frame(context, ...box) {  // orange with a white rim, as wide at any scale
  context.save();
  context.beginPath();
  context.rect(...box);
  context.resetTransform();
  for (const [colour, width] of [["#fff", 5], ["#c44e00", 2.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * devicePixelRatio;
    context.stroke();
  }
  context.restore();
}

function showSpeakers(context) {  // the larger a square, the more its place counts
  const most = Math.max(...speakers.changes.map(Math.abs));
  context.fillStyle = context.strokeStyle = "#0072b2cc";
  context.lineWidth = 0.25;
  speakers.changes.forEach((change, cell) => {
    const side = STEP * 0.9 * Math.sqrt(Math.abs(change) / most), edge = (STEP - side) / 2;
    const square = [cell % CELLS * STEP + edge, Math.floor(cell / CELLS) * STEP + edge, side, side];
    if (side > 0.3) context[change > 0 ? "fillRect" : "strokeRect"](...square);
  });
  context.lineWidth = 0.4;
  context.setLineDash([0.9, 0.6]);
  context.strokeRect(speakers.where[1], speakers.where[0], COVER, COVER);
  context.setLineDash([]);
}

// ---- One unit: what it sees, and how its value is made
const shown = (number) => (Math.abs(number) < 0.005 ? 0 : number).toFixed(2).replace("-", "−");

function showUnit({layer, map, row, column}, [left, top, across, down]) {
  const op = operations[layer], [, height, width] = op.shape, unit = row * width + column;
  const value = outputs ? ` = ${shown(outputs[layer][map * height * width + unit])}` : "";
  $("name").textContent = `Layer ${layer}, ${op.name} (${op.what}): map ${map}, row ${row}, `
    + `column ${column}${value}`;
  const within = (start, size) => Math.min(start + size, 28) - Math.max(start, 0);
  const padding = across * down - within(left, across) * within(top, down);
  const range = (start, size) => `${start} to ${start + size - 1}`.replaceAll("-", "−");
  $("field").textContent = `It sees ${down}×${across} pixels: rows ${range(top, down)}, columns `
    + range(left, across)
    + (padding ? `; ${padding} of the ${across * down} lie in the padding (hatched).` : ".");
  const big = sharp($("map"), Math.max(height, width));
  if (outputs) big.drawImage(layers[layer].canvases[map], 0, 0);
  frame(big, column, row, 1, 1);
  if (pen === null) $("made").replaceChildren(...(outputs ? madeOf(op, map, unit) : []));
}

function madeOf(op, map, unit) {
  const sources = op.inputs.map((place) => outputs[place]), [, height, width] = op.shape;
  const [one, other] = sources.map((source) => shown(source[map * height * width + unit]));
  const [, rows, columns] = operations[op.inputs[0]].shape;
  const patch = (from) => windowOf(op, sources[0].subarray(from * rows * columns), unit);
  const pooled = () => patch(map).map((number) => number === undefined ? "padding" : shown(number))
    .join(", ");
  return {
    convolution: () => products(op, map, patch),
    scale_and_shift: () => [`${one} × ${shown(op.scale[map])} + ${shown(op.shift[map])}: after `
      + "training, BatchNorm is one factor and one shift for each map."],
    relu: () => [`The larger of 0 and ${one}.`],
    max_pool: () => [`The largest of ${pooled()}.`],
    average_pool: () => [`The mean of ${pooled()}.`],
    add: () => [`${one} + ${other}`],
    concatenate: () => ["Passed on: maps of several layers, one after the other."],
    flatten: () => ["Passed on: all maps in one long row."],
    log_softmax: () => [`The score ${one}, less the logarithm of the summed exponentials of all `
      + `ten: the logarithm of a probability, ${percent(outputs.at(-1)[map])}.`],
  }[op.kind]();
}

function products(op, map, patchOf) {  // patch × kernel, of every map that is read
  const [height, width] = op.kernel, size = height * width;
  const depth = op.weight.length / op.shape[0] / size;
  const first = Math.floor(map * op.groups / op.shape[0]) * depth;
  const terms = Array.from({length: depth}, (_, i) => {
    const patch = patchOf(first + i).map((number) => number ?? 0), start = (map * depth + i) * size;
    const kernel = [...op.weight.subarray(start, start + size)];
    const sum = total(patch.map((number, k) => number * kernel[k]));
    return {from: first + i, patch, kernel, sum};
  }).sort((one, other) => Math.abs(other.sum) - Math.abs(one.sum));
  const colours = ["patch", "kernel"].map((key) => coloured(terms.flatMap((term) => term[key])));
  const draw = (numbers, k) => tiles(element("canvas", {width, height}), numbers, colours[k]);
  const pictures = terms.slice(0, 32).map(({from, patch, kernel, sum}) => element("div",
    {className: "term"}, ...[patch, kernel].map(draw), element("br"), `${from}: ${shown(sum)}`));
  const table = (numbers) => element("pre", {}, numbers.map((number, i) =>
    shown(number).padStart(6) + ((i + 1) % width ? "" : "\n")).join(""));
  const [{from, patch, kernel, sum}] = terms;
  const maps = depth > 1 ? `${depth} maps` : "the one map";
  return [`Patch × kernel, summed over ${maps} before it, plus ${shown(op.bias?.[map] ?? 0)}. `
    + `Map ${from} counts most, with ${shown(sum)}:`,
    element("div", {className: "row"}, table(patch), "×", table(kernel)),
    element("div", {className: "row"}, ...pictures)];
}

"""
PAGE_READER = r"""// ---- What the reader does
function change(next) {
  earlier.push(drawn);
  drawn = next;
  settle();
}
function settle() {  // a step is done: show it, and say the answer
  rethink();
  say(sentence);
  for (const button of $("examples").children)
    button.setAttribute("aria-pressed", button.example === drawn.example);
}

$("drawing").onpointerdown = (event) => {
  if (pen !== null || event.button) return;
  pen = event.pointerId;
  event.target.setPointerCapture(pen);
  change({strokes: [...(drawn.strokes ?? []), []]});
  $("drawing").onpointermove(event);
};
$("drawing").onpointermove = (event) => {
  if (event.pointerId !== pen) return;
  const {left, top, width} = event.target.getBoundingClientRect();
  const inside = (offset) => Math.min(Math.max(offset * 28 / width, PEN / 2), 28 - PEN / 2);
  for (const {clientX, clientY} of [...(event.getCoalescedEvents?.() ?? []), event])
    drawn.strokes.at(-1).push([inside(clientX - left), inside(clientY - top)]);
  rethink();
};
$("drawing").onpointerup = $("drawing").onpointercancel = (event) => {
  if (event.pointerId !== pen) return;
  pen = null;
  if (event.type === "pointercancel") drawn = earlier.pop();
  settle();
};
$("undo").onclick = () => {
  drawn = earlier.pop() ?? drawn;
  settle();
};
$("clear").onclick = () => change({strokes: []});
$("why").onchange = $("push").onchange = settle;
$("push").onreset = () => setTimeout(() => {
  $("push").oninput();
  settle();
});
$("push").oninput = () => {
  for (const [id, unit] of Object.entries({turn: "°", size: "%", right: " px", down: " px"}))
    $(id).nextSibling.textContent = $(id).value.replace("-", "−") + unit;
  rethink();
};

// While it is asked what speaks for the answer, the pointer covers pixels of the image.
$("seen").onpointermove = $("seen").onpointerleave = ({type, offsetX, offsetY, target}) => {
  const covers = digit && $("why").checked && type === "pointermove";
  cover = covers ? [offsetY, offsetX].map((offset) =>
    Math.round(offset * 36 / target.clientWidth) - 4 - COVER / 2) : null;
  if ($("why").checked) rethink();
};

for (let k = 0; k < 10; k++)
  $("bars").append(element("li", {}, element("small"), element("div", {}, element("i")), `${k}`));
for (const name in networks) {
  const radio = element("input", {type: "radio", name: "network", checked: name === answering});
  radio.onchange = () => answerWith(name);
  $("switch").append(element("label", {}, radio, ` ${name}`, element("span")));
  $("switch").lastChild.dataset.name = name;
}
for (const example of examples) {
  const small = tiles(element("canvas", {width: 28, height: 28}), example.pixels, inked);
  const onclick = () => change({example});
  $("examples").append(element("button", {example, onclick}, small, element("span")));
}

function answerWith(name) {
  answering = name;
  ({operations} = networks[name]);
  for (const button of $("examples").children) {
    const {label, pixels} = button.example;
    const answer = winner(networks[name].logProbabilities(pixels)), wrong = answer !== label;
    button.lastChild.textContent = wrong ? `${label}→${answer}` : label;
    button.className = wrong ? "wrong" : "";
    const taken = wrong ? `, taken for a ${answer}` : "";
    button.setAttribute("aria-label", `Example: a ${label}${taken}`);
  }
  listLayers();
  settle();
  keep({layer: 4});
}

function listLayers() {
  layers = operations.map(({name, what, shape: [maps, height, width], field}, layer) => {
    const target = height > 9 ? 28 : maps > 64 ? 6 : 18;  // pixels of the page
    const zoom = Math.max(1, Math.round(target / Math.max(height, width)));
    const canvases = Array.from({length: maps}, (_, map) => {
      const canvas = element("canvas", {width, height, unit: {layer, map}});
      canvas.style.cssText = `width: ${zoom * width}px; height: ${zoom * height}px`;
      return canvas;
    });
    const words = element("p", {title: `${name}: ${what}`}, element("b", {}, `${layer} `), name,
      element("br"), element("small", {}, `sees ${field.join("×")}, `
        + what.replace("convolution", "conv")));
    const line = element("div", {className: "layer"}, words, element("div", {}, ...canvases));
    return {line, canvases};
  });
  $("layers").replaceChildren(...layers.slice(1).map(({line}) => line));  // all but the image
}

function keep(change) {  // a unit, within what there is
  const held = (value, length) => Math.min(Math.max(value, 0), length - 1);
  const {layer, map, row, column} = {...kept, ...change};
  kept = {layer: Math.max(1, held(layer, operations.length))};
  const [maps, height, width] = operations[kept.layer].shape;
  Object.assign(kept, {map: held(map, maps), row: held(row, height), column: held(column, width)});
  pointed = null;
  refresh();
}

function unitUnder({target, offsetX, offsetY}) {  // on a map, small or large; null between them
  if (target.tagName !== "CANVAS") return null;
  const unit = target.unit ?? kept, [, height, width] = operations[unit.layer].shape;
  const zoom = target.clientWidth / (target.unit ? width : Math.max(height, width));
  const [row, column] = [[offsetY, height], [offsetX, width]].map(([offset, length]) =>
    Math.max(0, Math.min(length - 1, Math.floor(offset / zoom))));
  return {...unit, row, column};
}

const ARROWS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
for (const area of [$("layers"), $("map")]) {
  area.onpointermove = area.onpointerleave = (event) => {
    const points = event.type === "pointermove" && event.pointerType !== "touch";
    pointed = points ? unitUnder(event) : null;
    refresh();
  };
  area.onclick = (event) => keep(unitUnder(event) ?? {});
  area.onkeydown = (event) => {
    const [down, right] = ARROWS[event.key] ?? [], {layer, map, row, column} = kept;
    if (down === undefined) return;
    event.preventDefault();
    keep(area.id === "map" ? {row: row + down, column: column + right}
      : {layer: layer + down, map: map + right});
    layers[kept.layer].line.scrollIntoView({block: "nearest"});
    say(() => `${$("name").textContent}. ${$("field").textContent}`);
  };
}

document.onkeydown = (event) => event.stopPropagation();  // a notebook has keys of its own
document.querySelector("main").hidden = false;
new ResizeObserver(() => refresh()).observe(document.documentElement);
answerWith(answering);
$("push").oninput();
</script>
</html>
"""
PAGE = "".join([PAGE_HEAD, PAGE_BODY, PAGE_NETWORKS, PAGE_DRAWING, PAGE_ANSWERS, PAGE_UNITS, PAGE_READER])
MARK, BLUE = "#c44e00", "#0072b2"
STILL_COLOURS = LinearSegmentedColormap.from_list("page", ["#e69f00", "white", "#003a66"])
PALETTE = [MARK, BLUE, *"0 0.2 0.4 0.6 0.8".split(), *STILL_COLOURS(np.linspace(0, 1, 9))]


def page_still(model: nn.Module, image: torch.Tensor) -> bytes:
    """A still picture of the page, as PNG: a digit, one unit's field, the answer, feature maps."""
    convolutions = [op for op in network_operations(model) if op["kind"] == "convolution"]
    figure = plt.figure(figsize=(6.6, 6.0), dpi=100, layout="none")
    figure.suptitle("Live where scripts run: draw, and point at any unit", fontsize=14, y=0.985)
    _draw_field(figure.add_axes((0.01, 0.40, 0.455, 0.46)), image, convolutions[:4][-1])
    _draw_answer(figure.add_axes((0.56, 0.45, 0.43, 0.41)), _answers(model, image[None])[0].exp().numpy())
    for row, (name, maps) in enumerate(list(_convolved(model, image).items())[:5]):
        figure.text(0.15, 0.352 - row * 0.0725, name, fontsize=12, ha="right", va="center")
        _draw_maps(figure, maps, left=112, bottom=int(191 - 43.5 * row))
    picture, small = io.BytesIO(), io.BytesIO()
    figure.savefig(picture, format="png", facecolor="white")
    plt.close(figure)
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * to_rgba_array(PALETTE)[:, :3]).round().astype(np.uint8).tobytes())
    few = Image.open(picture).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(small, format="png", optimize=True)  # few colours take a third of the room
    return small.getvalue()


def _draw_field(axes: plt.Axes, image: torch.Tensor, unit: dict) -> None:
    """A digit, and the frame of what a unit in the middle of a layer sees."""
    axes.imshow(image, cmap="gray_r", extent=(0, 28, 28, 0))
    places = zip(unit["start"], unit["shape"][1:], unit["jump"])
    top, left = (start + length // 2 * jump for start, length, jump in places)
    height, width = unit["field"]
    for colour, line in (("white", 6), (MARK, 3)):
        axes.add_patch(Rectangle((left, top), width, height, fill=False, color=colour, lw=line))
    axes.set(xticks=[], yticks=[], xlim=(0, 28), ylim=(28, 0))
    axes.set_title(f"a unit of {unit['name']} sees\n{height}×{width} pixels", fontsize=13)


def _draw_answer(axes: plt.Axes, probabilities: np.ndarray) -> None:
    """The ten probabilities as bars."""
    best = int(probabilities.argmax())
    axes.bar(range(10), 100 * probabilities, color=BLUE)
    axes.set(xticks=range(10), yticks=[0, 50, 100], ylim=(0, 100))
    axes.tick_params(labelsize=13)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"the network answers {best}\n({100 * probabilities[best]:.1f}%)", fontsize=13)


def _draw_maps(figure: plt.Figure, maps: np.ndarray, left: int, bottom: int, side: int = 40) -> None:
    """A layer's first feature maps in a row, sharp: every unit is a square of whole pixels."""
    zoom, most = max(1, side // max(maps.shape[1:])), abs(maps).max() or 1
    for place, values in enumerate(maps[:10]):
        squares = STILL_COLOURS((values / most + 1) / 2).repeat(zoom, 0).repeat(zoom, 1)
        figure.figimage(squares, left + place * 54, bottom, origin="upper")


def _convolved(model: nn.Module, image: torch.Tensor) -> dict[str, np.ndarray]:
    """What every convolution puts out for an image, (maps, rows, columns), by its name."""
    found, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):

            def keep(module, inputs, output, name=name):
                found[name] = output[0].float().cpu().numpy()

            hooks.append(module.register_forward_hook(keep))
    _answers(model, image[None])
    for hook in hooks:
        hook.remove()
    return found


def page_examples(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> list[tuple]:
    """(image, label) of one digit of each class, answered right, and of three answered wrong.

    pixels are uint8 (N, 28, 28). The wrong ones are those of which the model is most certain.
    """
    logs = _answers(model, pixels)
    certain, answers = logs.max(1)
    right = [int(((labels == digit) & (answers == digit)).nonzero()[0]) for digit in range(10)]
    wrong = (answers != labels.to(answers.device)).nonzero().flatten()
    worst = wrong[certain[wrong].argsort(descending=True)][:3].tolist()
    return [(pixels[place], int(labels[place])) for place in [*right, *worst]]


def _answers(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, 10), on the CPU, for uint8 images (N, 28, 28)."""
    device = next(model.parameters()).device
    return log_probabilities(model, normalise(pixels).to(device)).cpu()


def _digit(image: torch.Tensor, label) -> dict:
    """An example for the page: its pixels from the first with ink to the last."""
    pixels = image.flatten()
    inked = pixels.nonzero()
    first, last = int(inked[0]), int(inked[-1])
    ink = base64.b64encode(bytes(pixels[first : last + 1].tolist())).decode()
    return {"label": int(label), "from": first, "ink": ink}


def network_page(networks: dict[str, nn.Module], examples: list[tuple], start: int = 0) -> str:
    """One HTML document that runs the networks, by name, on what its reader draws.

    examples are (uint8 image (28, 28), label); it opens with that at start. The last network is the
    one that answers first.
    """
    operations = {name: network_operations(model) for name, model in networks.items()}
    for name, made in operations.items():
        if made[-1]["kind"] != "log_softmax" or made[-1]["shape"] != [10, 1, 1]:
            raise ValueError(f"network {name!r} must end in the log-softmax of ten numbers")
    digits = [_digit(image, label) for image, label in examples]
    data = json.dumps({"networks": operations, "examples": digits, "start": start}, separators=(",", ":"))
    lines = [line.strip() for line in PAGE.splitlines()]  # without what the output has no room for
    page = "\n".join(line for line in lines if not line.startswith("//"))
    return page.replace("DATA", data.replace("<", "\\u003c"), 1)


def page_bundle(networks: dict[str, nn.Module], examples: list[tuple], start: int = 0) -> dict:
    """The page as one output: HTML (the still, and over it the page), the still, a line of text.

    The frame has no same-origin rights, and stays clear where scripts don't run: the still shows.
    """
    picture = base64.b64encode(page_still(list(networks.values())[-1], examples[start][0])).decode()
    words = f"The networks {', '.join(networks)}, live in a page: open this notebook where scripts run."
    page = html.escape(network_page(networks, examples, start), quote=False).replace('"', "&quot;")
    over = "grid-area: 1 / 1; width: 100%; border: 0"
    return {
        "text/html": f'<div style="display: grid" data-lm-suppress-shortcuts="true">'
        f'<img style="grid-area: 1 / 1; width: 100%; max-width: 660px" alt="{html.escape(words)}" '
        f'src="data:image/png;base64,{picture}">'
        f'<iframe style="{over}; height: 940px; color-scheme: light" sandbox="allow-scripts" '
        f'title="The network, live" srcdoc="{page}"></iframe></div>',
        "image/png": picture,
        "text/plain": words,
    }


def show_page(networks: dict[str, nn.Module], examples: list[tuple], start: int = 0) -> None:
    """Show the page under the cell; start is the place of the example that it opens with."""
    display.display(page_bundle(networks, examples, start), raw=True)
