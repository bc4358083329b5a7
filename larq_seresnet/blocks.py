"""The six residual blocks: their shapes, and what pruning has left of each, by the arguments."""

import dataclasses

from larq_seresnet.arguments import are_ascending, is_count

#: Their names, in order: layers are called by them.
BLOCKS = tuple(f"stage{stage}_block{number}" for stage in (1, 2, 3) for number in (1, 2))


@dataclasses.dataclass(frozen=True)
class Block:
    """One residual block: its name, channels, stride, and what pruning has left of its branch."""

    name: str
    channels: int
    strides: int
    inner: int
    outer: tuple[int, ...]
    squeezed: int | None


def blocks_of(arguments):
    """The six blocks, in order."""
    return [
        Block(
            name,
            channels=arguments.filters[at // 2],
            strides=2 if name in ("stage2_block1", "stage3_block1") else 1,
            inner=arguments.inner[at] if arguments.inner else arguments.filters[at // 2],
            outer=(
                arguments.outer[at] if arguments.outer else tuple(range(arguments.filters[at // 2]))
            ),
            squeezed=arguments.squeezed[at] if arguments.squeezed else None,
        )
        for at, name in enumerate(BLOCKS)
    ]


def check_blocks(arguments):
    """Checks what is given for each block, and leaves out what says no more than the rest.

    Args:
        arguments: Those of `SEResNet14`, a namespace; checked but for these.

    Raises:
        ValueError: If `inner`, `outer`, `squeezed` or `reduction_ratio` do not fit the rest.
    """
    channels = [each for each in arguments.filters for _ in (1, 2)]
    inner, outer, squeezed = arguments.inner, arguments.outer, arguments.squeezed
    if inner is not None:
        if not _are_six(inner, is_count):
            raise ValueError(f"`inner` must be six positive integers, received {inner!r}.")
        if arguments.precision == "w1a1" and list(inner) != channels:
            raise ValueError(
                f'`inner` must be None for precision "w1a1", whose shortcuts add all channels to '
                f"the first convolution's, received {tuple(inner)}."
            )
        arguments.inner = None if list(inner) == channels else tuple(inner)
    if outer is not None:
        if not _are_six(outer, lambda places: True) or not all(map(are_ascending, outer, channels)):
            raise ValueError(
                f"`outer` must be, for each of the six blocks, numbers of some of its channels, "
                f"{channels}, counted from 0, in ascending order, received {outer!r}."
            )
        whole = [len(places) for places in outer] == channels
        arguments.outer = None if whole else tuple(map(tuple, outer))
    if squeezed is not None:
        if not _are_six(squeezed, lambda units: units == 0 or is_count(units)) or not any(squeezed):
            raise ValueError(
                f"`squeezed` must be six integers, 0 or more and not all of them 0 (for that there "
                f"is another `attention`), received {squeezed!r}."
            )
        usual = [each / arguments.reduction_ratio for each in _gated_channels(arguments)]
        arguments.squeezed = None if list(squeezed) == usual else tuple(squeezed)
    gated, ratio = _gated_channels(arguments), arguments.reduction_ratio
    if not arguments.squeezed and any(channels % ratio for channels in gated):
        raise ValueError(
            f"`reduction_ratio` must be a positive integer that divides the gated channels of all "
            f"blocks, {tuple(gated)}, received {ratio}."
        )


def _are_six(values, each):
    """Whether something is six values of a kind."""
    return isinstance(values, (tuple, list)) and len(values) == 6 and all(map(each, values))


def _gated_channels(arguments):
    """How many channels the attention of each block sees; none where there is no such attention."""
    if arguments.attention in (None, "spatial"):
        return []
    return [
        block.inner if arguments.gate_at == "middle" else len(block.outer)
        for block in blocks_of(arguments)
    ]
