"""What the lesson shows besides figures: source, answers that unfold, and a picture that moves."""

import html
import inspect
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import display
from PIL import Image, ImageDraw, ImageFont
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from lesson.figures import SIGNS

SCALE = 9  # pixels of the picture for each of the digit's


def show_source(thing) -> None:
    """Show the source of a function or class, without its docstring."""
    head, _, body = inspect.getsource(thing).split('"""', 2)
    source = head.rstrip() + body
    # Styles stand in the output itself: in Markdown, a page that nbconvert makes breaks code inside words.
    lines = "font-family: monospace; white-space: pre; word-break: normal; overflow-x: auto"
    coloured = highlight(source, PythonLexer(), HtmlFormatter(noclasses=True, nobackground=True, prestyles=lines))
    display.display({"text/html": coloured, "text/plain": source}, raw=True)


def show_folded(summary: str, text: str) -> None:
    """Show a line; the text comes when it is clicked, also where nothing runs."""
    lines = html.escape(text).replace("\n", "<br>")
    folded = f"<details><summary>{html.escape(summary)}</summary>{lines}</details>"
    display.display({"text/html": folded, "text/plain": text}, raw=True)


def animate_convolution(digit: torch.Tensor, result: torch.Tensor, frames: int = 40) -> display.Image:
    """A PNG that moves: a 3x3 kernel goes over a digit (28, 28), and its map (26, 26) fills; three rounds, then still."""
    ink = plt.get_cmap("gray_r")(digit.numpy(), bytes=True)[..., :3]
    signs = SIGNS((result / result.abs().max() / 2 + 0.5).numpy(), bytes=True)[..., :3]
    whole = draw_frame(ink, signs, result.numel()).quantize(200)
    counts = np.linspace(1, result.numel(), frames).round().astype(int)
    # All frames have one palette, as the format wants it.
    moving = [draw_frame(ink, signs, int(count)).quantize(palette=whole, dither=Image.Dither.NONE) for count in counts]
    file, times = io.BytesIO(), [1000] + [100] * (frames - 1) + [1000]  # milliseconds
    # The whole map comes first: it is what shows where nothing moves, and in print.
    whole.save(file, "PNG", save_all=True, append_images=moving, duration=times, loop=3)
    return display.Image(file.getvalue())


def draw_frame(ink: np.ndarray, signs: np.ndarray, count: int) -> Image.Image:
    """The digit with the kernel's place number count, and the first count numbers of the map."""
    row, column = divmod(count - 1, signs.shape[1])
    filled = signs.copy()
    filled.reshape(-1, 3)[count:] = 255
    picture = Image.new("RGB", (59 * SCALE, 31 * SCALE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for title, pixels, left, field in [("the image", ink, 0, 3), ("the map", filled, 31 * SCALE, 1)]:
        height, width = (SCALE * side for side in pixels.shape[:2])
        picture.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST), (left, 3 * SCALE))
        draw.text((left, 2), title, "black", font)
        draw.rectangle([left, 3 * SCALE, left + width - 1, 3 * SCALE + height - 1], outline="#aaaaaa")
        x, y = left + column * SCALE, (3 + row) * SCALE
        draw.rectangle([x - 1, y - 1, x + field * SCALE, y + field * SCALE], outline="#D55E00", width=3)
    return picture
