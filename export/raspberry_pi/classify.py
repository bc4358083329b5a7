"""Classifies images on a device: needs ai-edge-litert and numpy alone; JPEG needs Pillow.

    python classify.py litert_1bit_uint8_in.tflite cat.png

Takes a file that `convert.py --runtime litert --input-type uint8` wrote, and labels.txt, which it
wrote beside it. Images are PNG (8 bits a channel, not interlaced) or binary PPM; with Pillow, which
is faster for large ones, whatever it reads. The largest square in the middle is scaled to what the
model takes.
"""

import argparse
import pathlib
import re
import struct
import sys
import time
import zlib

import numpy as np
from ai_edge_litert.interpreter import Interpreter

PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type: grey, RGB, both with alpha


def main(argv=None):
    """Prints the most probable classes of each image."""
    parser = argparse.ArgumentParser(
        prog="classify.py", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("model", type=pathlib.Path, metavar="FILE", help="a .tflite file")
    parser.add_argument("image", type=pathlib.Path, nargs="+", help="PNG, PPM; JPEG with Pillow")
    parser.add_argument(
        "--labels", type=pathlib.Path, metavar="FILE", help="default: labels.txt beside the model"
    )
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes (default: 3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    arguments = parser.parse_args(argv)
    try:
        interpreter = load_model(arguments.model, arguments.threads)
        labels = load_labels(arguments.labels or arguments.model.with_name("labels.txt"))
        for path in arguments.image:
            probabilities, seconds = classify(interpreter, read_image(path))
            if len(labels) != len(probabilities):
                raise ValueError(
                    f"--labels must name {len(probabilities)} classes, received {len(labels)}."
                )
            best = np.argsort(-probabilities, kind="stable")[: arguments.top]
            named = ", ".join(f"{labels[index]} {probabilities[index]:.1%}" for index in best)
            print(f"{path}: {named} ({1e3 * seconds:.2f} ms)")
    except (ValueError, OSError) as problem:
        parser.exit(2, f"{parser.prog}: error: {problem}\n")


def load_model(path, threads=1):
    """An interpreter of a file that takes image bytes.

    Raises:
        ValueError: If it is no such file, or this version of LiteRT does not take it.
    """
    content = path.read_bytes()
    try:
        interpreter = Interpreter(model_content=content or b"empty", num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        if "Lce" in str(error):
            raise ValueError(
                f"{path} is for LCE ({str(error).splitlines()[0]}): convert with --runtime litert."
            ) from error
        raise ValueError(
            f"this LiteRT does not take {path} ({str(error).splitlines()[0]}): see the table of "
            f"versions in export/raspberry_pi/README.md."
        ) from error
    taken = interpreter.get_input_details()[0]
    if taken["dtype"] != np.uint8:
        raise ValueError(
            f"{path} must take uint8, it takes {np.dtype(taken['dtype']).name}: convert with "
            f"--input-type uint8."
        )
    return interpreter


def load_labels(path):
    """The lines of a file, one class each."""
    if not path.exists():
        raise ValueError(f"{path} is missing: copy the labels.txt that convert.py wrote, too.")
    return path.read_text().splitlines()


def classify(interpreter, image):
    """Probabilities of one image, uint8 (H, W, 3), and the seconds that the model took."""
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    _, height, width, _ = taken["shape"]
    interpreter.set_tensor(taken["index"], resize(image, height, width)[np.newaxis])
    started = time.perf_counter()
    interpreter.invoke()
    seconds = time.perf_counter() - started
    output = interpreter.get_tensor(given["index"])[0]
    if output.dtype == np.int8:
        scale, zero_point = given["quantization"]
        output = (output.astype(np.float32) - zero_point) * scale
    return output, seconds


def resize(image, height, width):
    """The largest rectangle in the middle of that shape, averaged to (height, width, 3)."""
    rows, columns = image.shape[:2]
    scale = min(rows / height, columns / width)
    top, left = (rows - scale * height) / 2, (columns - scale * width) / 2
    for axis, start, size in ((0, top, height), (1, left, width)):
        edges = start + scale * np.arange(size + 1)
        image = _average(np.moveaxis(image, axis, 0), edges)
        image = np.moveaxis(image, 0, axis)
    return np.round(image).astype(np.uint8)


def _average(values, edges):
    """Means of `values` between neighbouring edges, along the first axis."""
    means = []
    for start, stop in np.column_stack([edges[:-1], edges[1:]]):
        pixels = np.arange(int(start), min(int(np.ceil(stop)), len(values)))
        share = np.minimum(pixels + 1, stop) - np.maximum(pixels, start)  # of each that counts
        means.append(np.tensordot(share, values[pixels], axes=1) / (stop - start))
    return np.stack(means)


def read_image(path):
    """An image file as uint8, (H, W, 3): by Pillow where it is installed, else PNG and PPM."""
    content = path.read_bytes()
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return _read(content, path)
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image, or was cut off ({error}).") from error


def _read(content, path):
    if content.startswith(b"P6"):
        return _read_ppm(content, path)
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{path} must be PNG or binary PPM, or install Pillow.")
    try:
        return _read_png(content, path)
    except (zlib.error, struct.error, KeyError) as error:
        raise ValueError(f"{path} is damaged, or was cut off ({error}).") from error


def _read_ppm(content, path):
    header = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", content)
    if not header:
        raise ValueError(f"{path} must be a PPM of 8 bits a channel, without comments.")
    width, height = int(header[1]), int(header[2])
    pixels = np.frombuffer(content[header.end() :], np.uint8)
    if pixels.size != width * height * 3:
        raise ValueError(f"{path} must hold {width}x{height} pixels, and was cut off or changed.")
    return pixels.reshape(height, width, 3)


def _read_png(content, path):
    chunks, start = {}, 8
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        chunks[kind] = chunks.get(kind, b"") + content[start + 8 : start + 8 + size]
        start += 12 + size
    if b"IEND" not in chunks:
        raise ValueError(f"{path} was cut off.")
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if depth != 8 or colours not in PNG_CHANNELS or interlaced:
        raise ValueError(
            f"{path} must be a PNG of 8 bits a channel, without palette and not interlaced; "
            f"or install Pillow."
        )
    channels = PNG_CHANNELS[colours]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8)
    if lines.size != height * (1 + width * channels):
        raise ValueError(f"{path} is damaged: its size and its pixels do not fit.")
    lines = lines.reshape(height, 1 + width * channels)
    pixels = np.zeros((height + 1, width + 1, channels), np.int64)  # a border of zeros
    for row, line in enumerate(lines, start=1):
        _unfilter(line[0], line[1:].reshape(width, channels), pixels, row)
    image = pixels[1:, 1:].astype(np.uint8)
    return np.repeat(image[..., :1], 3, axis=2) if channels < 3 else image[..., :3]


def _unfilter(kind, line, pixels, row):
    """Undoes the filter of one line of a PNG, into `pixels`."""
    above, here = pixels[row - 1], pixels[row]
    if kind in (0, 2):  # none, or the pixel above
        here[1:] = (line + above[1:] * (kind == 2)) % 256
        return
    if kind == 1:  # the pixel to the left
        here[1:] = np.cumsum(line, axis=0, dtype=np.int64) % 256
        return
    for column in range(1, len(here)):
        left, up, corner = here[column - 1], above[column], above[column - 1]
        if kind == 3:  # the mean of both
            guess = (left + up) // 2
        else:  # Paeth: whichever of the three is closest to left + up - corner
            distances = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = np.where(
                (distances[0] <= distances[1]) & (distances[0] <= distances[2]),
                left,
                np.where(distances[1] <= distances[2], up, corner),
            )
        here[column] = (line[column - 1] + guess) % 256


if __name__ == "__main__":
    sys.exit(main())
