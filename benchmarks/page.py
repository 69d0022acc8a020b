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
from helpers import MEAN, STD, Layer, normalise, receptive_field, trace_layers  # noqa: E402


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
        seen = {"start": row["start"], "jump": row["jump"], "field": row["receptive_field"]}
        operation |= {
            "name": layer.name + again,
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


def _scale_and_shift(given: dict) -> dict:
    """BatchNorm after training: its four lists of numbers, folded into two."""
    scale = (given["running_var"].double() + given["eps"]).rsqrt()
    scale = scale if given["weight"] is None else scale * given["weight"]
    shift = -given["running_mean"] * scale
    shift = shift if given["bias"] is None else shift + given["bias"]
    return {"kind": "scale_and_shift", "what": "BatchNorm", "scale": scale, "shift": shift}


PAGE = r"""<!doctype html>
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
  #pair { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; background: #fff; }
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
  .layer p { flex: 0 0 178px; overflow: hidden; font-size: 12px; line-height: 1.15;
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
    .layer { display: block; }
    #unit { grid-template-columns: 112px minmax(0, 1fr); height: auto; }
    #map { grid-row: 1 / 3; width: 112px; height: 112px; }
    #made { grid-column: 1 / -1; }
  }
</style>

<main hidden>
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
      <label><input type="checkbox" id="why"> What speaks for the answer?</label>
    </div>
    <p id="because" class="soft" hidden></p>
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
  </section>
  <section id="network" aria-label="Every layer">
    <h2>What every layer makes of it: <span style="background: #003a66; color: #fff">above 0</span>
      or <span style="background: #e69f00">below 0</span></h2>
    <p class="soft">Point at a unit, a small square of any map: the orange frame holds all that it
      sees. A click keeps it.</p>
    <div id="layers" tabindex="0" role="application"
         aria-label="All maps. Up, down: another layer. Left, right: another map."></div>
  </section>
  <section id="unit" aria-label="One unit">
    <canvas id="map" tabindex="0" role="application"
            aria-label="The chosen map. Arrow keys: another unit."></canvas>
    <h2 id="name"></h2>
    <p id="field"></p>
    <div id="made" tabindex="0" role="group" aria-label="How its value is made"></div>
    <p id="spoken" class="spoken" role="status"></p>
  </section>
</main>

<script type="application/json" id="data">DATA</script>
<script>
"use strict";
// ---- The networks: lists of operations. A map's numbers lie row by row, its layer's maps in turn.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);

// Where a unit lies: [map, row, column] of the place in its layer's numbers.
const positionOf = (place, [, rows, columns]) =>
  [Math.floor(place / (rows * columns)), Math.floor(place / columns) % rows, place % columns];

// What a unit's window reads from one map, line by line; undefined in the padding.
function windowOf(op, values, [, height, width], place, map) {
  const [, row, column] = positionOf(place, op.shape), [, kx] = op.kernel;
  return Array.from({length: op.kernel[0] * kx}, (_, i) => {
    const y = row * op.stride[0] - op.padding[0] + Math.floor(i / kx) * op.dilation[0];
    const x = column * op.stride[1] - op.padding[1] + (i % kx) * op.dilation[1];
    const inside = y >= 0 && y < height && x >= 0 && x < width;
    return inside ? values[(map * height + y) * width + x] : undefined;
  });
}

const pool = (join) => (op, [values], shape) =>
  Float32Array.from({length: op.shape.reduce((one, other) => one * other)}, (_, place) => {
    const read = windowOf(op, values, shape, place, positionOf(place, op.shape)[0]);
    return join(read.filter((number) => number !== undefined), op.counts_padding && read.length);
  });

// How each kind makes its numbers, of the arrays that it reads and the shape of the first of them.
const RUN = {
  image: (op, [pixels]) => Float32Array.from(pixels, (value) => (value / 255 - op.mean) / op.std),
  convolution(op, [values], [channels, height, width]) {
    const [maps, rows, columns] = op.shape, depth = channels / op.groups, [ky, kx] = op.kernel;
    const output = new Float32Array(maps * rows * columns);
    const patch = new Float64Array(depth * ky * kx);
    for (let group = 0; group < op.groups; group++)
      for (let place = 0; place < rows * columns; place++) {
        const top = (place / columns | 0) * op.stride[0] - op.padding[0];
        const left = place % columns * op.stride[1] - op.padding[1];
        for (let channel = 0, next = 0; channel < depth; channel++)
          for (let i = 0; i < ky; i++)
            for (let k = 0; k < kx; k++) {
              const y = top + i * op.dilation[0], x = left + k * op.dilation[1];
              const inside = y >= 0 && y < height && x >= 0 && x < width;
              const from = ((group * depth + channel) * height + y) * width + x;
              patch[next++] = inside ? values[from] : 0;
            }
        for (let map = group * maps / op.groups; map < (group + 1) * maps / op.groups; map++) {
          let sum = op.bias ? op.bias[map] : 0, start = map * patch.length;
          for (let i = 0; i < patch.length; i++) sum += patch[i] * op.weight[start + i];
          output[map * rows * columns + place] = sum;
        }
      }
    return output;
  },
  scale_and_shift(op, [values], [maps]) {
    const size = values.length / maps;
    return values.map((value, i) => value * op.scale[i / size | 0] + op.shift[i / size | 0]);
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
    for (const op of operations)
      for (const key of ["weight", "bias", "scale", "shift"])
        if (typeof op[key] === "string") op[key] = new Float32Array(bytes(op[key]).buffer);
        else if (typeof op[key] === "number") op[key] = operations[op[key]][key];  // shared
  }
  run(pixels) {  // what every operation puts out for an image: 784 numbers, 0 to 255, row by row
    const outputs = [];
    for (const op of this.operations) {
      const read = op.inputs.length ? op.inputs.map((place) => outputs[place]) : [pixels];
      outputs.push(RUN[op.kind](op, read, this.operations[op.inputs[0]]?.shape));
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

// ---- What is known at the moment
const SIDE = 140, PEN = 12;  // of the drawing, in its own units: 5 to a pixel of an example
const COVER = 6, STEP = 2, CELLS = 14;  // covered are 6×6 pixels, at 14×14 places, 2 pixels apart
let drawn = {example: examples[data.start]}, earlier = [];  // or {strokes: [[[x, y], ...], ...]}
let answering = Object.keys(networks).at(-1), operations = [];
let digit = null;     // {toImage, pixels}, the image that goes in; null while nothing is drawn
let cover = null;     // [top, left] of the pixels that the pointer covers
let outputs = null;   // of all operations
let speakers = null;  // {changes, least, where}: what covering each place does to the answer
let kept = {layer: 4, map: 0, row: 6, column: 6}, pointed = null;  // units

// ---- From strokes to 28×28 pixels
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function ink(context, strokes) {
  context.lineWidth = PEN;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    for (const [x, y] of [...stroke, stroke.at(-1)]) context.lineTo(x, y);  // a point leaves a dot
    context.stroke();
  }
}

const paper = element("canvas", {width: SIDE, height: SIDE})
  .getContext("2d", {willReadFrequently: true});

function inkOf({example, strokes}) {  // size × size numbers, 0 to 255
  if (example) return {values: example.pixels, size: 28};
  paper.clearRect(0, 0, SIDE, SIDE);
  ink(paper, strokes);
  const colours = paper.getImageData(0, 0, SIDE, SIDE).data;
  return {values: new Uint8Array(SIDE ** 2).map((_, i) => colours[4 * i + 3]), size: SIDE};
}

// The way from the drawing to the image, as MNIST was made: the longer side becomes 20 pixels, the
// centre of mass goes to the middle, in whole pixels. Then comes what the sliders say.
function placed({example, strokes}, {values, size}) {
  const [turn, zoom, right, down] = ["turn", "size", "right", "down"].map((id) => +$(id).value);
  const pushed = new DOMMatrix().translate(14 + right, 14 + down).rotate(turn).scale(zoom / 100)
    .translate(-14, -14);
  if (example) return pushed.scale(28 / SIDE);
  const ends = [0, 1].map((axis) => {
    const along = strokes.flat().map((point) => point[axis]);
    return [Math.min(...along) - PEN / 2, Math.max(...along) + PEN / 2];
  });
  const scale = 20 / Math.max(...ends.map(([low, high]) => high - low)), moments = [0, 0];
  values.forEach((value, i) => {
    moments[0] += value * (i % size + 0.5);
    moments[1] += value * ((i / size | 0) + 0.5);
  });
  const corners = ends.map(([low, high], axis) => {
    const corner = Math.round(14 - (moments[axis] / total(values) - low) * scale);
    return Math.min(Math.max(0, corner), Math.floor(28 - (high - low) * scale));  // stays inside
  });
  return pushed.translate(...corners).scale(scale).translate(-ends[0][0], -ends[1][0]);
}

// Every pixel is the mean of k × k looks at the ink under it, each between four numbers.
function sampled(toImage, {values, size}) {
  const back = new DOMMatrix().scale(size / SIDE).multiply(toImage.inverse());
  const {a, b, c, d, e, f} = back;
  const k = Math.max(1, Math.round(Math.hypot(a, b) / 2)), image = new Uint8Array(784);
  const at = (x, y) => (x < 0 || y < 0 || x >= size || y >= size ? 0 : values[y * size + x]);
  for (let i = 0; i < 784; i++) {
    let sum = 0;
    for (let look = 0; look < k * k; look++) {
      const u = i % 28 + (look % k + 0.5) / k, v = (i / 28 | 0) + ((look / k | 0) + 0.5) / k;
      const x = a * u + c * v + e - 0.5, y = b * u + d * v + f - 0.5;
      const left = Math.floor(x + 1e-6), top = Math.floor(y + 1e-6);
      const right = x - left, down = y - top;
      sum += (at(left, top) * (1 - right) + at(left + 1, top) * right) * (1 - down)
        + (at(left, top + 1) * (1 - right) + at(left + 1, top + 1) * right) * down;
    }
    image[i] = Math.round(sum / (k * k));
  }
  return image;
}

// ---- Answers
const percent = (log) => `${(100 * Math.exp(log)).toFixed(1)}%`;
const winner = (logs) => logs.indexOf(Math.max(...logs));
const covered = (pixels, [top, left]) => pixels.map((value, i) => {
  const row = Math.floor(i / 28) - top, column = i % 28 - left;
  return row >= 0 && row < COVER && column >= 0 && column < COVER ? 0 : value;
});
const goesIn = () => (cover ? covered(digit.pixels, cover) : digit.pixels);

let due = null;  // what the next frame has to do: "show", or "think" and show
function refresh(what = "show") {
  if (!due) requestAnimationFrame(() => {
    if (due === "think") think();
    due = null;
    show();
  });
  if (due !== "think") due = what;
}

let later = 0;  // what waits until the digit rests
function think() {
  digit = outputs = null;
  if (drawn.example || drawn.strokes.length) {
    const found = inkOf(drawn), toImage = placed(drawn, found);
    digit = {toImage, pixels: sampled(toImage, found)};
    outputs = networks[answering].run(goesIn());
  }
  showAnswer();
  showMaps();
  clearTimeout(later);
  later = setTimeout(() => {
    compare();
    if (!cover) findSpeakers();
  }, 50);
  if (!cover) speakers = null;
}

// Cover each place in turn, a few in a row, and note how the odds of the answer change.
function findSpeakers() {
  $("because").hidden = !$("why").checked;
  if (!digit || !$("why").checked) return;
  const network = networks[answering], {pixels} = digit, logs = network.logProbabilities(pixels);
  const best = winner(logs), changes = [], found = {changes, least: 0, where: [0, 0]};
  const odds = (all) => all[best] - Math.log(total(all.filter((_, k) => k !== best).map(Math.exp)));
  const work = () => {
    const end = performance.now() + 12;
    while (performance.now() < end && changes.length < CELLS ** 2) {
      const cell = [changes.length / CELLS | 0, changes.length % CELLS];
      const corner = cell.map((along) => (along + 0.5) * STEP - COVER / 2);
      const then = network.logProbabilities(covered(pixels, corner));
      changes.push(odds(logs) - odds(then));
      if (then[best] < found.least) Object.assign(found, {least: then[best], where: corner});
    }
    if (changes.length < CELLS ** 2) return void (later = setTimeout(work));
    speakers = found;
    $("because").textContent = `Filled squares speak for ${best}, hollow ones against it. Without `
      + `the dashed 6×6 pixels ${percent(logs[best])} become ${percent(found.least)}. Point at `
      + "what the network sees, to cover others.";
    refresh();
  };
  work();
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
  const logs = outputs ? [...outputs.at(-1)] : [];
  [...$("bars").children].forEach((bar, k) => {
    bar.className = k === winner(logs) ? "winner" : "";
    bar.querySelector("i").style.height = `${outputs ? 100 * Math.exp(logs[k]) : 0}%`;
    bar.querySelector("small").textContent = outputs ? Math.round(100 * Math.exp(logs[k])) : "–";
  });
  $("answer").textContent = sentence();
}

function compare() {  // what each of the networks answers
  for (const {dataset, lastChild} of $("switch").children) {
    const logs = digit ? networks[dataset.name].logProbabilities(goesIn()) : null;
    lastChild.textContent = logs ? `: ${winner(logs)} (${percent(Math.max(...logs))})` : "";
  }
}

// ---- Showing: numbers as colours, from orange through white to dark blue
const COLOURS = Uint32Array.from({length: 511}, (_, i) => {
  const value = i / 255 - 1, end = value > 0 ? [0, 58, 102] : [230, 159, 0];
  const [r, g, b] = end.map((part) => Math.round(255 + (part - 255) * Math.abs(value) ** 0.8));
  return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
});
const grey = (value) => (255 << 24 | (255 - value) * 0x10101) >>> 0;
const coloured = (numbers) => {
  let most = 1e-9;
  for (const number of numbers) most = Math.max(most, Math.abs(number));
  return (number) => COLOURS[255 + Math.round(255 * number / most)];
};

function tiles(canvas, numbers, colour) {  // one pixel for each number
  canvas.image ??= new ImageData(canvas.width, canvas.height);
  const dots = new Uint32Array(canvas.image.data.buffer);
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

function dotOf(context) {  // a pixel of the page, in the units of the context
  const {a, b} = context.getTransform();
  return devicePixelRatio / Math.hypot(a, b);
}

function frame(context, ...rectangle) {  // orange with a white rim
  for (const [colour, line] of [["#fff", 5], ["#c44e00", 2.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * dotOf(context);
    context.strokeRect(...rectangle);
  }
}

const picture = element("canvas", {width: 28, height: 28});

function show() {
  const unit = pointed ?? kept;
  const field = networks[answering].fieldOf(unit.layer, unit.row, unit.column);
  const drawing = sharp($("drawing"), SIDE), seen = sharp($("seen"), 36);
  if (drawn.strokes) ink(drawing, drawn.strokes);
  else drawing.drawImage(tiles(picture, drawn.example.pixels, grey), 0, 0, SIDE, SIDE);
  const back = digit ? digit.toImage.inverse() : new DOMMatrix().scale(SIDE / 28);
  drawing.transform(back.a, back.b, back.c, back.d, back.e, back.f);
  seen.fillStyle = "#e4e4e4";  // the padding
  seen.fillRect(0, 0, 36, 36);
  seen.translate(4, 4);
  seen.drawImage(tiles(picture, digit ? goesIn() : new Uint8Array(784), grey), 0, 0);
  for (const context of [drawing, seen]) {
    if (speakers) showSpeakers(context);
    showField(context, field);
  }
  for (const marked of $("layers").querySelectorAll(".chosen")) marked.classList.remove("chosen");
  const {line, canvases} = layers[unit.layer];
  for (const marked of [line, canvases[unit.map]]) marked.classList.add("chosen");
  showUnit(unit, field);
}

function showField(context, [top, left, bottom, right]) {  // hatched outside of the image
  const rectangle = [left, top, right - left + 1, bottom - top + 1], dot = dotOf(context);
  const [inside, outside] = [new Path2D(), new Path2D()];
  inside.rect(...rectangle);
  outside.rect(-99, -99, 226, 226);
  outside.rect(0, 0, 28, 28);
  context.save();
  context.clip(inside);
  context.clip(outside, "evenodd");
  context.beginPath();
  for (let x = -99; x < 99; x += 6 * dot) {
    context.moveTo(x, -40);
    context.lineTo(x + 108, 68);
  }
  context.lineWidth = dot;
  context.strokeStyle = "#c44e00";
  context.stroke();
  context.restore();
  frame(context, ...rectangle);
}

function showSpeakers(context) {
  const most = Math.max(...speakers.changes.map(Math.abs)), dot = dotOf(context);
  context.fillStyle = context.strokeStyle = "#0072b2";
  context.lineWidth = 1.5 * dot;
  speakers.changes.forEach((change, cell) => {
    const side = STEP * 0.9 * Math.sqrt(Math.abs(change) / most), edge = (STEP - side) / 2;
    const square = [cell % CELLS * STEP + edge, (cell / CELLS | 0) * STEP + edge, side, side];
    if (side > 0.3) context[change > 0 ? "fillRect" : "strokeRect"](...square);
  });
  context.setLineDash([5 * dot, 3 * dot]);
  context.lineWidth = 2.5 * dot;
  context.strokeRect(speakers.where[1], speakers.where[0], COVER, COVER);
  context.setLineDash([]);
}

let pen = null;   // the pointer that draws
let layers = [];  // {line, canvases} of every operation
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

function showMaps() {
  layers.forEach(({canvases}, layer) => {
    const size = canvases[0].width * canvases[0].height;
    const values = outputs?.[layer] ?? new Float32Array(canvases.length * size);
    const colour = coloured(values);
    canvases.forEach((canvas, map) => tiles(canvas, values.subarray(map * size), colour));
  });
}

// ---- One unit: what it sees, and how its value is made
const shown = (number) => (Math.abs(number) < 0.005 ? 0 : number).toFixed(2).replace("-", "−");

function showUnit({layer, map, row, column}, [top, left, bottom, right]) {
  const op = operations[layer], [, height, width] = op.shape;
  const at = (map * height + row) * width + column;
  const within = (low, high) => Math.max(0, Math.min(high, 27) - Math.max(low, 0) + 1);
  const size = op.field[0] * op.field[1];
  const padding = size - within(top, bottom) * within(left, right);
  $("name").textContent = `Layer ${layer}, ${op.name} (${op.what}): map ${map}, row ${row}, `
    + `column ${column}` + (outputs ? ` = ${shown(outputs[layer][at])}` : "");
  const [down, across] = [[top, bottom], [left, right]].map((ends) => ends.join(" to "));
  $("field").textContent = `It sees ${op.field.join("×")} pixels: rows ${down}, `.replace("-", "−")
    + `columns ${across}`.replace("-", "−")
    + (padding ? `; ${padding} of the ${size} lie in the padding (hatched).` : ".");
  const big = sharp($("map"), Math.max(height, width));
  if (outputs) big.drawImage(layers[layer].canvases[map], 0, 0);
  frame(big, column, row, 1, 1);
  if (pen === null) $("made").replaceChildren(...(outputs ? madeOf(op, at) : []));
}

function madeOf(op, at) {
  const sources = op.inputs.map((place) => outputs[place]), before = operations[op.inputs[0]].shape;
  if (op.kind === "convolution") return products(op, sources[0], before, at);
  const read = sources.map((source) => shown(source[at])), [map] = positionOf(at, op.shape);
  const pooled = () => windowOf(op, sources[0], before, at, map)
    .map((number) => (number === undefined ? "padding" : shown(number))).join(", ");
  return [{
    scale_and_shift: () => `${read[0]} × ${shown(op.scale[map])} + ${shown(op.shift[map])}: after `
      + "training, BatchNorm is one factor and one shift for each map.",
    relu: () => `The larger of 0 and ${read[0]}.`,
    max_pool: () => `The largest of ${pooled()}.`,
    average_pool: () => `The mean of ${pooled()}.`,
    add: () => `${read[0]} + ${read[1]}`,
    concatenate: () => "Passed on: maps of several layers, one after the other.",
    flatten: () => "Passed on: all maps in one long row.",
    log_softmax: () => `The score ${read[0]}, less the logarithm of the summed exponentials of all `
      + `ten: the logarithm of a probability, ${percent(outputs.at(-1)[at])}.`,
  }[op.kind]()];
}

function products(op, values, before, at) {
  const [height, width] = op.kernel, size = height * width, depth = before[0] / op.groups;
  const [map] = positionOf(at, op.shape), first = Math.floor(map * op.groups / op.shape[0]) * depth;
  const weights = op.weight.subarray(map * depth * size, (map + 1) * depth * size);
  const terms = Array.from({length: depth}, (_, i) => {
    const patch = windowOf(op, values, before, at, first + i).map((number) => number ?? 0);
    const kernel = weights.subarray(i * size, (i + 1) * size);
    const sum = total(patch.map((number, k) => number * kernel[k]));
    return {from: first + i, patch, kernel, sum};
  }).sort((one, other) => Math.abs(other.sum) - Math.abs(one.sum));
  const [{from, patch, kernel, sum}] = terms;
  const lines = Array.from({length: height}, (_, y) => {
    const [left, right] = [patch, kernel].map((numbers) => Array.from(
      numbers.slice(y * width, (y + 1) * width), (number) => shown(number).padStart(6)).join(""));
    return `${left} ${y === height >> 1 ? "×" : " "}${right}`;
  });
  const colours = [values, weights].map(coloured);
  const draw = (numbers, colour) => tiles(element("canvas", {width, height}), numbers, colour);
  const pictures = terms.slice(0, 32).map((term) => element("div", {className: "term"},
    draw(term.patch, colours[0]), draw(term.kernel, colours[1]), element("br"),
    `${term.from}: ${shown(term.sum)}`));
  const maps = depth > 1 ? `${depth} maps` : "the one map";
  const words = `Patch × kernel, summed over ${maps} before it, plus`
    + ` ${shown(op.bias ? op.bias[map] : 0)}. Map ${from} counts most, with ${shown(sum)}:`;
  return [words, element("pre", {}, lines.join("\n")),
    element("div", {className: "row"}, ...pictures)];
}

// ---- What the reader does
function change(next) {
  earlier.push(drawn);
  drawn = next;
  settle();
}
function settle() {  // a step is done: show it, and say the answer
  refresh("think");
  requestAnimationFrame(() => setTimeout(() => { $("status").textContent = sentence(); }));
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
  const inside = (offset) => Math.min(Math.max(offset * SIDE / width, PEN / 2), SIDE - PEN / 2);
  for (const {clientX, clientY} of [...(event.getCoalescedEvents?.() ?? []), event])
    drawn.strokes.at(-1).push([inside(clientX - left), inside(clientY - top)]);
  refresh("think");
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
$("why").onchange = settle;
$("push").onchange = settle;
$("push").onreset = () => setTimeout(() => {
  $("push").oninput();
  settle();
});
$("push").oninput = () => {
  for (const [id, unit] of Object.entries({turn: "°", size: "%", right: " px", down: " px"}))
    $(id).nextSibling.textContent = $(id).value.replace("-", "−") + unit;
  refresh("think");
};

// While it is asked what speaks for the answer, the pointer covers pixels of the image.
$("seen").onpointermove = $("seen").onpointerleave = (event) => {
  const before = cover, covers = digit && $("why").checked && event.type === "pointermove";
  cover = covers ? [event.offsetY, event.offsetX].map((offset) =>
    Math.round(offset * 36 / event.target.clientWidth) - 4 - COVER / 2) : null;
  if (cover || before) refresh("think");
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
  const small = tiles(element("canvas", {width: 28, height: 28}), example.pixels, grey);
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
  keep({layer: 4});
  settle();
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
    requestAnimationFrame(() => setTimeout(() => {
      $("spoken").textContent = `${$("name").textContent}. ${$("field").textContent}`;
    }));
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
    with torch.no_grad():
        return torch.cat([model.eval()(normalise(part).to(device)).cpu() for part in pixels.split(1000)])


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


def _digit(image: torch.Tensor, label) -> dict:
    """An example for the page: its pixels from the first with ink to the last."""
    pixels = image.flatten()
    inked = pixels.nonzero()
    first, last = int(inked[0]), int(inked[-1])
    ink = base64.b64encode(bytes(pixels[first : last + 1].tolist())).decode()
    return {"label": int(label), "from": first, "ink": ink}


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
