"""Small images of every kind that a folder can hold, with the pixels that they mean."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

#: Two by three blocks of 8x8 pixels: JPEG keeps such colours to within a level or two.
COLOURS = np.array(
    [[[250, 10, 20], [30, 200, 60], [0, 0, 255]], [[255, 255, 255], [9, 9, 9], [120, 60, 180]]]
)
GREYS = np.array([[0, 85, 170], [255, 85, 0]])
ALPHA = np.array([[255, 0, 128], [255, 64, 255]])
LOSSY = 3
EXIF_ORIENTATION = 0x0112


def _blocks(values):
    return values.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)


RGB, GREY, A = _blocks(COLOURS), _blocks(GREYS), _blocks(ALPHA)
GREY_RGB = np.stack([GREY] * 3, axis=-1)
WIDE = GREY.astype(np.int64) * 256 + 200  # the lower eight bits of 16 do not count


def _on_white(rgb):
    share = A[..., np.newaxis] / 255
    return np.floor(rgb * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def png(pixels, depth, colour_type, *chunks, interlaced=False):
    """A PNG of whole numbers, (H, W) or (H, W, C), `depth` bits each, every filter "none"."""
    pixels = pixels.reshape(*pixels.shape[:2], -1).astype(np.int64)
    starts = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first row and column, and steps
        starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
        starts += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b""
    for row, column, down, right in starts:
        for line in pixels[row::down, column::right]:
            bits = (line.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
            lines += b"\0" + np.packbits(bits.astype(np.uint8).ravel()).tobytes()
    header = struct.pack(
        ">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour_type, 0, 0, interlaced
    )
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def by_pillow(pixels, format, mode=None, orientation=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image = image.convert(mode) if mode else image
    if orientation:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        options["exif"] = exif
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def _stored(upright, orientation):
    """Pixels that show `upright` when a viewer turns them as `orientation` says."""
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


def images():
    """By file name: kind, content, the pixels that it means, uint8 (16, 24, 3), and a tolerance."""
    return _pngs() | _others() | _turned()


def _pngs():
    palette, index = np.unique(COLOURS.reshape(-1, 3), axis=0, return_inverse=True)
    index = _blocks(index.reshape(2, 3))
    plte = (b"PLTE", palette.astype(np.uint8).tobytes())
    transparent = _on_white_where(index == 2)
    rgb16 = RGB.astype(np.int64) * 256 + 77
    return {
        "grey1.png": ("PNG, 1 bit", png(GREY > 100, 1, 0), _black_or_white(GREY > 100), 0),
        "grey2.png": ("PNG, 2 bits", png(GREY // 85, 2, 0), GREY_RGB, 0),
        "grey4.png": ("PNG, 4 bits", png(GREY // 17, 4, 0), GREY_RGB, 0),
        "grey8.png": ("PNG, grey", png(GREY, 8, 0), GREY_RGB, 0),
        "grey16.png": ("PNG, 16 bits, grey", png(WIDE, 16, 0), GREY_RGB, 0),
        "rgb8.png": ("PNG", png(RGB, 8, 2), RGB, 0),
        "rgb16.png": ("PNG, 16 bits", png(rgb16, 16, 2), RGB, 0),
        "interlaced.png": ("PNG, interlaced", png(RGB, 8, 2, interlaced=True), RGB, 0),
        "grey_alpha.png": (
            "PNG, grey and alpha",
            png(np.stack([GREY, A], axis=-1), 8, 4),
            _on_white(GREY_RGB),
            0,
        ),
        "rgb_alpha.png": (
            "PNG, alpha",
            png(np.concatenate([RGB, A[..., np.newaxis]], axis=-1), 8, 6),
            _on_white(RGB),
            0,
        ),
        "palette.png": ("PNG, palette", png(index, 8, 3, plte), RGB, 0),
        "palette_transparent.png": (
            "PNG, palette with a transparent colour",
            png(index, 8, 3, plte, (b"tRNS", b"\xff\xff\0")),
            transparent,
            0,
        ),
        "grey_transparent.png": (
            "PNG, grey with a transparent level",
            png(GREY, 8, 0, (b"tRNS", struct.pack(">H", 85))),
            np.where(GREY_RGB == 85, 255, GREY_RGB).astype(np.uint8),
            0,
        ),
    }


def _others():
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    return {
        "photograph.jpg": ("JPEG", by_pillow(RGB, "JPEG", quality=98, subsampling=0), RGB, LOSSY),
        "grey.jpeg": ("JPEG, grey", by_pillow(GREY, "JPEG", quality=98), GREY_RGB, LOSSY),
        "cmyk.jpg": (
            "JPEG, CMYK",
            by_pillow(RGB, "JPEG", "CMYK", quality=98, subsampling=0),
            RGB,
            2 * LOSSY,
        ),
        "two_frames.gif": (
            "GIF, the first frame",
            by_pillow(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            RGB,
            0,
        ),
        "image.bmp": ("BMP", by_pillow(RGB, "BMP"), RGB, 0),
        "image.webp": ("WebP", by_pillow(RGB, "WEBP", lossless=True), RGB, 0),
        "image.tif": ("TIFF", by_pillow(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
        "grey16.tiff": ("TIFF, 16 bits, grey", by_pillow(WIDE.astype("<u2"), "TIFF"), GREY_RGB, 0),
        "image.ppm": ("PPM", by_pillow(RGB, "PPM"), RGB, 0),
        "image.pgm": ("PGM", by_pillow(GREY, "PPM"), GREY_RGB, 0),
        "grey16.pgm": (
            "PGM, 16 bits",
            b"P5 24 16 65535\n" + WIDE.astype(">u2").tobytes(),
            GREY_RGB,
            0,
        ),
    }


def _turned():
    found = {}
    for number in range(1, 9):
        for ending, format, tolerance in (("png", "PNG", 0), ("jpg", "JPEG", LOSSY)):
            options = {} if ending == "png" else {"quality": 98, "subsampling": 0}
            content = by_pillow(_stored(RGB, number), format, orientation=number, **options)
            kind = f"{format}, turned by EXIF"
            found[f"turned{number}.{ending}"] = (kind, content, RGB, tolerance)
    return found


def only(format):
    """The content of those of one format, by file name."""
    return {name: each[1] for name, each in images().items() if each[0].startswith(format)}


def _on_white_where(hidden):
    return np.where(hidden[..., np.newaxis], 255, RGB).astype(np.uint8)


def _black_or_white(bits):
    return np.repeat(255 * bits.astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def refused():
    """By file name: what has no one meaning in 8 bits, and a part of the sentence that says so."""
    floats, integers = GREY.astype(np.float32), GREY.astype(np.int32) * 100000
    level = struct.pack(">H", 1)
    return {
        "floats.tif": (by_pillow(floats, "TIFF"), "pixels of the kind 'F'"),
        "integers.tif": (by_pillow(integers, "TIFF"), "32-bit integers"),
        "lab.tif": (by_pillow(Image.new("LAB", (9, 9)), "TIFF"), "pixels of the kind 'LAB'"),
        "level4.png": (png(GREY // 17, 4, 0, (b"tRNS", level)), "transparent colour in 4 bits"),
        "level16.png": (png(GREY, 16, 0, (b"tRNS", level)), "transparent colour in 16 bits"),
        "words.png": (b"a cat", "is no image, or is damaged"),
        "empty.png": (b"", "is no image, or is damaged"),
    }


def photographs(images, folder):
    """Writes images (N, H, W, 3) as phones would: large, wide or tall, turned, in many formats.

    Each lies in the middle of its photograph, its pixels blocks of 8x8.

    Returns:
        The paths, in order.
    """
    kinds = [
        (".jpg", "JPEG", {"quality": 98, "subsampling": 0}),
        (".png", "PNG", {}),
        (".webp", "WEBP", {"lossless": True}),
        (".tif", "TIFF", {}),
    ]
    generator, paths = np.random.default_rng(0), []
    for number, image in enumerate(images):
        large = image.repeat(8, axis=0).repeat(8, axis=1)
        beside = 8 * int(generator.integers(0, 9))
        side = generator.integers(0, 256, (len(large), beside, 3), np.uint8)
        if number % 3:
            upright = np.concatenate([side, large, side], axis=1)
        else:
            upright = np.concatenate([side.swapaxes(0, 1), large, side.swapaxes(0, 1)], axis=0)
        ending, format, options = kinds[number % len(kinds)]
        turned = 1 + number // len(kinds) % 8
        path = folder / f"{number:03}{ending}"
        path.write_bytes(by_pillow(_stored(upright, turned), format, orientation=turned, **options))
        paths.append(path)
    return paths
