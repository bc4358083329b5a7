"""Where in TFLM's arena each map lies: an offline memory plan, which the runtime follows.

TFLM's own planner puts the largest maps first, each as low as it can, and leaves gaps. A plan made
here tries many orders; the file carries it as the metadata "OfflineMemoryAllocation".
"""

import numpy as np

from larq_seresnet.export import anatomy, flatbuffer

METADATA = b"OfflineMemoryAllocation"
VERSION = 1
ALIGNMENT = 16
ORDERS = 300


def planned(tflite):
    """Adds a plan to a file; bytes in and out. Whatever changes its tensors must come before."""
    model = flatbuffer.read(tflite)
    offsets = best_offsets(model)
    entry = flatbuffer.schema.MetadataT()
    content = np.array([VERSION, 0, len(offsets), *offsets], "<i4")
    entry.name, entry.buffer = METADATA, flatbuffer.add_buffer(model, content)
    model.metadata = [entry]
    return flatbuffer.write(model)


def best_offsets(model):
    """An offset into the arena for each tensor of a graph, -1 for those that have no place there.

    Maps that are alive at once do not overlap. Among many orders in which maps are put as low as
    they go, large ones rather first, it takes the one that ends lowest.
    """
    sizes, lives = {}, {}
    for index, (first, last) in anatomy.lifetimes(model).items():
        sizes[index] = -(-anatomy.tensor_bytes(model, index) // ALIGNMENT) * ALIGNMENT
        lives[index] = first, last
    random = np.random.default_rng(0)
    best, least = {}, float("inf")
    for turn in range(ORDERS):
        weight = {each: sizes[each] * random.uniform(0.5, 1.0) for each in sizes}
        order = sorted(sizes, key=sizes.get if turn == 0 else weight.get, reverse=True)
        offsets = _put(order, sizes, lives)
        end = max(offsets[each] + sizes[each] for each in order)
        if end < least:
            best, least = offsets, end
    return [best.get(index, -1) for index in range(len(model.subgraphs[0].tensors))]


def _put(order, sizes, lives):
    offsets = {}
    for index in order:
        first, last = lives[index]
        taken = sorted(
            (offset, offset + sizes[other])
            for other, offset in offsets.items()
            if lives[other][0] <= last and first <= lives[other][1]
        )
        at = 0
        for start, end in taken:
            if at + sizes[index] <= start:
                break
            at = max(at, end)
        offsets[index] = at
    return offsets
