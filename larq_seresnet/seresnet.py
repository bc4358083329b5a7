"""SEResNet14: the architecture, one run from image to class."""

import functools
import inspect
import json
import types

import larq as lq

from larq_seresnet.arguments import (
    FILTERS,
    check_choice,
    check_keras_settings,
    configuration_name,
    is_count,
)
from larq_seresnet.blocks import blocks_of, check_blocks
from larq_seresnet.layers import (
    FMB,
    FMB_GRADIENTS,
    GATE_ACTIVATIONS,
    FrozenParts,
    PlaceChannels,
    RepeatChannels,
    Shift,
    SpatialAttention,
    SqueezeExcite,
)
from larq_seresnet.precision import ENDS, PRECISIONS
from larq_seresnet.weights import load_weights, read

import tensorflow as tf

#: Of the channels, of the positions, of both in turn.
ATTENTIONS = ("se", "se_paper", "se_float32", "spatial", "cbam", None)
#: After a block's last convolution, as the paper has it, or between its two.
GATE_PLACES = ("end", "middle")
SHORTCUTS = ("pool", "conv")
HEADS = ("norm", "bias")
POOLINGS = {
    None: None,
    "avg": tf.keras.layers.GlobalAveragePooling2D,
    "max": tf.keras.layers.GlobalMaxPooling2D,
}


@lq.utils.register_keras_custom_object  # HDF5 files name a model's class without its package
@tf.keras.utils.register_keras_serializable(package="larq_seresnet")
class SEResNet(FrozenParts, tf.keras.Model):
    """What `SEResNet14` returns: a functional model that knows the arguments it was built with.

    It keeps them when it is saved, pickled or cloned, so `save_weights` and conversion also work
    on a loaded model; `clone_model` with a `clone_function` or `input_tensors` loses them, as does
    ``tf.keras.Model.from_config``: ask ``type(model)``, or clone.

    Attributes:
        configuration: The arguments, as json.
    """

    configuration: str | None = None

    def get_config(self):
        return {**super().get_config(), "configuration": self.configuration}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        configuration = config.pop("configuration")
        model = super().from_config(config, custom_objects)
        model.configuration = configuration
        return model


def SEResNet14(
    *,
    input_shape=None,
    input_tensor=None,
    weights="cifar10",
    include_top=True,
    pooling=None,
    num_classes=10,
    precision="w1",
    activation="sigmoid",
    fmb=True,
    fmb_gradient="straight_through",
    attention="se",
    reduction_ratio=1,
    shortcut="pool",
    head="norm",
    ends=None,
    shift=False,
    filters=FILTERS,
    gate_at="end",
    inner=None,
    outer=None,
    squeezed=None,
    name=None,
):
    """SEResNet14 for 32x32 images, with 1-bit weights and channel Feature Map Binarization.

    A 3x3 stem, three stages of two residual blocks with two 3x3 convolutions each, and a
    classifier: 14 layers. Stages 2 and 3 begin with stride 2. Each block computes F' = gate(F) * F,
    then adds the shortcut. From Wu and Yamauchi, "A Speed-up Channel Attention Technique for
    Accelerating the Learning Curve of a Binarized Squeeze-and-Excitation (SE) Based ResNet Model",
    JAIT 15(5), 2024, doi:10.12720/jait.15.5.565-571. The paper does not state `filters`; the
    default is that of He et al. for CIFAR-10.

    Args:
        input_shape: (height, width, channels) in pixels, default (32, 32, 3). Without top, height
            and width may be None.
        input_tensor: Keras tensor to use as the input, instead of one of `input_shape`.
        weights: "cifar10" for pretrained weights, None for random initialisation, or the path of a
            file written by `larq_seresnet.save_weights`. Pretrained weights exist for "w1" and
            "w1a1", and for "w1" of `SEResNet14XS`, `S` and `M`, with any `fmb_gradient` and
            otherwise default arguments (larq_seresnet/weights/README.md). Without top, or with
            another number of classes, all but the classifier is loaded.
        include_top: Whether to end with average pooling and the classifier.
        pooling: What to return when `include_top` is False: None, the last feature map; "avg" or
            "max", its global average or maximum.
        num_classes: Number of classes, 2 or more. Ignored without top.
        precision: "float32"; "w1", in which every kernel has two values, including stem, shortcuts,
            attention and classifier; or "w1a1", in which the inputs of the twelve residual
            convolutions are +-1, too.
        activation: Of the attention values M_c: "sigmoid", "tanh", "hard_sigmoid" or "hard_tanh".
        fmb: Whether to binarise M_c to M'_c (Eq. 5 and 6).
        fmb_gradient: "straight_through", or "none" to read the paper literally; see `FMB`.
        attention: "se" (scaled 1-bit weights; gates start open), "se_paper" (bare +-1 weights
            without bias, as in the paper), "se_float32" (as "se_paper", but with float32 weights in
            every precision: a control), "spatial" (`SpatialAttention`, over positions instead of
            channels), "cbam" ("se" followed by "spatial"), or None for no attention. With None,
            `activation`, `fmb`, `fmb_gradient`, `reduction_ratio`, `gate_at` and `squeezed` are
            ignored.
        reduction_ratio: r of Eq. 4; the attention's weights are (C, C/r) and (C/r, C). Ignored for
            "spatial".
        shortcut: Where the shape changes: "pool", 2x2 average pooling with channels repeated and no
            weights; or "conv", He's 1x1 convolution with stride 2.
        head: What follows the classifier's weights: "norm", a BatchNorm of the logits, which
            becomes a scale and a bias in exported files; or "bias" alone, as in He's network.
        ends: How the kernels of the stem and the classifier are stored in "w1" and "w1a1": None, 1
            bit as all others; "sum3", sums of three 1-bit kernels with scales 4, 2 and 1; "int8", 8
            bits. Ignored for "float32".
        shift: Whether each channel of a 1-bit input gets a trainable shift before its sign
            (`Shift`). Ignored where inputs are not 1-bit.
        filters: Number of channels of the three stages.
        gate_at: Where in a block the attention is applied: "end", before the addition, as in the
            paper; or "middle", after the first convolution with its BatchNorm and ReLU, where
            removing a channel shrinks both convolutions (but in "w1a1" nothing can be removed).
        inner: For each of the six blocks, the number of channels between its two convolutions, as
            left by pruning; None for those of the stage. Not for "w1a1", whose shortcuts need all.
        outer: For each of the six blocks, the channels that its branch adds to, counted from 0, in
            ascending order; None for all.
        squeezed: For each of the six blocks, the number of units between W_0 and W_1 of its channel
            attention, 0 for a block without channel attention; None for C/r everywhere. Ignored for
            "spatial".
        name: Name of the model; by default derived from the arguments.

    Returns:
        A functional `tf.keras.Model`. It takes images from `preprocess_input`, of shape
        (N, H, W, channels), and returns float32 probabilities of shape (N, num_classes). Without
        top it returns the last feature map, (N, H/4, W/4, filters[-1]), sides rounded up, or with
        `pooling` (N, filters[-1]). The logits are the input of its layer "predictions".

    Raises:
        ValueError: If an argument is none of the above, if `weights` does not fit (for "cifar10"
            the message lists what exists), or if Keras's global settings are anything but
            channels_last and float32 or a mixed precision.
    """
    check_keras_settings()
    arguments = types.SimpleNamespace(
        precision=precision,
        attention=attention,
        activation=activation,
        fmb=fmb,
        fmb_gradient=fmb_gradient,
        reduction_ratio=reduction_ratio,
        shortcut=shortcut,
        head=head,
        ends=ends,
        shift=shift,
        filters=filters,
        gate_at=gate_at,
        inner=inner,
        outer=outer,
        squeezed=squeezed,
        num_classes=num_classes,
        include_top=include_top,
        pooling=pooling,
    )
    _drop_what_is_ignored(arguments)
    _check_arguments(arguments)
    image = _image_input(input_shape, input_tensor, include_top)
    arguments.input_shape = tuple(image.shape[1:])
    x = _features(image, arguments)
    if include_top:
        x = _top(x, arguments, PRECISIONS[precision])
    elif pooling:
        x = POOLINGS[pooling](name=f"{pooling}_pool")(x)

    inputs = image if input_tensor is None else tf.keras.utils.get_source_inputs(input_tensor)
    model = SEResNet(inputs, x, name=name or configuration_name(vars(arguments)))
    model.configuration = json.dumps(vars(arguments), default=int)  # numpy's integers, if need be
    if weights is not None:
        load_weights(model, weights)
    return model


def _drop_what_is_ignored(arguments):
    """Gives arguments without a meaning beside the others one value, so that names are alike."""
    if arguments.precision == "float32":
        arguments.ends = None
    if arguments.precision != "w1a1":
        arguments.shift = False
    if arguments.attention is None:
        arguments.activation, arguments.fmb, arguments.fmb_gradient = "sigmoid", False, "none"
        arguments.gate_at = "end"
    if arguments.attention in (None, "spatial"):
        arguments.reduction_ratio, arguments.squeezed = 1, None


def from_weights(path, **others):
    """The network that a weight file is of, such as a run's or a pruned one's, with its weights.

    Args:
        path: Of a file written by `save_weights`, train.py or prune.py.
        **others: Arguments of `SEResNet14` that are not to be the file's, such as
            ``include_top=False``, ``num_classes``, ``input_shape`` or ``input_tensor``.

    Returns:
        What `SEResNet14` returns.

    Raises:
        ValueError: If `path` is no weight file, was damaged or is of another version, or as for
            `SEResNet14`.
    """
    configuration = read(path).configuration
    known = inspect.signature(SEResNet14).parameters.keys() - {"input_tensor", "weights", "name"}
    if configuration.keys() != known:
        raise ValueError(
            f"{path} is of another version, whose arguments differ in "
            f"{sorted(configuration.keys() ^ known)}."
        )
    if others.get("input_tensor") is not None:
        del configuration["input_shape"]  # it has its own
    return SEResNet14(**configuration | others, weights=path)


def _features(x, arguments):
    """The stem and the three stages."""
    quantizers = PRECISIONS[arguments.precision]
    block = _float_block
    attend, skip = _attention(arguments, quantizers), _skip(arguments, quantizers)
    if quantizers.input_quantizer:
        block = functools.partial(_binary_block, shift=arguments.shift)
    x = _conv(x, arguments.filters[0], 3, 1, quantizers, "stem", **_end(arguments, 1.0))
    x = _batch_norm(x, "stem")
    if not quantizers.input_quantizer:  # the sign of what ReLU returns is always +1
        x = _relu(x, "stem")
    for shape in blocks_of(arguments):
        x = block(x, shape, quantizers, attend, skip)
    return x


def _float_block(x, block, quantizers, attend, skip):
    """Convolutions on float maps: He's block, with the gate before the addition or between them."""
    name = block.name
    shortcut = skip(x, block.channels, block.strides, name)
    x = _conv(x, block.inner, 3, block.strides, quantizers, f"{name}_1")
    x = _batch_norm(x, f"{name}_1")
    x = _relu(x, f"{name}_1")
    x = attend(x, block, "middle")
    x = _conv(x, len(block.outer), 3, 1, quantizers, f"{name}_2")
    x = _batch_norm(x, f"{name}_2")
    x = _placed(attend(x, block, "end"), block)
    x = tf.keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return _relu(x, name)


def _binary_block(x, block, quantizers, attend, skip, shift):
    """Convolutions on +-1: a shortcut around each carries what their sign loses.

    ReLU stands before BatchNorm because LCE fuses them into the convolution in this order only.
    """
    name = block.name
    for i, at in ((1, "middle"), (2, "end")):
        strides, channels = (block.strides, block.inner) if i == 1 else (1, len(block.outer))
        shortcut = skip(x, block.channels, strides, name) if i == 1 else x
        if shift:
            x = Shift(name=f"{name}_{i}_shift")(x)
        x = _conv(x, channels, 3, strides, quantizers, f"{name}_{i}", binary_input=True)
        x = _relu(x, f"{name}_{i}")
        x = _batch_norm(x, f"{name}_{i}")
        x = attend(x, block, at)
        x = _placed(x, block) if i == 2 else x
        x = tf.keras.layers.Add(name=f"{name}_{i}_add")([x, shortcut])
    return x


def _placed(x, block):
    """A branch among the channels of its block."""
    if len(block.outer) == block.channels:
        return x
    return PlaceChannels(block.channels, block.outer, name=f"{block.name}_place")(x)


def _attention(arguments, quantizers):
    """What stands at `gate_at` of a block: attention, FMB, product; by the arguments.

    With "cbam" twice, of the channels and of the positions.

    Attention and FMB compute in float32 under any policy: bfloat16 has no value between 0.499 and
    0.5, and would open gates in training that stay closed on a device.
    """
    kernels = PRECISIONS["float32"] if arguments.attention == "se_float32" else quantizers
    bare = arguments.attention in ("se_paper", "se_float32")

    def of_channels(block):
        return SqueezeExcite(
            arguments.activation,
            arguments.reduction_ratio,
            kernel_quantizer=kernels.kernel_quantizer if bare else kernels.scaled_kernel_quantizer,
            kernel_constraint=kernels.kernel_constraint,
            gate_bias=None if bare else 1.0,
            squeezed=block.squeezed,
            dtype="float32",
            name=f"{block.name}_se",
        )

    def of_positions(block):
        return SpatialAttention(
            arguments.activation,
            kernel_quantizer=kernels.scaled_kernel_quantizer,
            kernel_constraint=kernels.kernel_constraint,
            dtype="float32",
            name=f"{block.name}_spatial",
        )

    def gated(x, attention, name):
        gates = attention(x)
        if arguments.fmb:
            gates = FMB(
                arguments.activation, arguments.fmb_gradient, dtype="float32", name=f"{name}_fmb"
            )(gates)
        return tf.keras.layers.Multiply(name=f"{name}_gate")([x, gates])

    def attend(x, block, at):
        if at != arguments.gate_at:
            return x
        if arguments.attention not in (None, "spatial") and block.squeezed != 0:
            x = gated(x, of_channels(block), block.name)
        if arguments.attention in ("spatial", "cbam"):
            x = gated(x, of_positions(block), f"{block.name}_spatial")
        return x

    return attend


def _skip(arguments, quantizers):
    """The shortcut around a block, by the arguments."""

    def skip(x, channels, strides, name):
        if strides == 1 and x.shape[-1] == channels:
            return x
        if arguments.shortcut == "pool":
            return _pool_shortcut(x, channels, strides, f"{name}_shortcut")
        x = _conv(x, channels, 1, strides, quantizers, f"{name}_shortcut")
        return _batch_norm(x, f"{name}_shortcut")

    return skip


def _top(x, arguments, quantizers):
    """From the last feature map to probabilities."""
    x = tf.keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    x = lq.layers.QuantDense(
        arguments.num_classes,
        kernel_constraint=quantizers.kernel_constraint,
        use_bias=arguments.head == "bias",
        name="classifier",
        **{
            "kernel_quantizer": quantizers.scaled_kernel_quantizer,
            **_end(arguments, "fan_in"),
        },
    )(x)
    if arguments.head == "norm":
        x = _batch_norm(x, "classifier")
    return tf.keras.layers.Activation("softmax", dtype="float32", name="predictions")(x)


def _end(arguments, scale):
    """What the layer at an end of the network has for itself: its quantizer.

    It computes in float32 under any policy, for in bfloat16 a fifth of 8-bit levels were others.
    """
    if arguments.ends is None:
        return {}
    return {"kernel_quantizer": ENDS[arguments.ends](scale, dtype="float32"), "dtype": "float32"}


def _pool_shortcut(x, channels, strides, name):
    """The mean of the pixels that become one, and its channels as often as there is room."""
    if strides > 1:
        x = tf.keras.layers.AveragePooling2D(strides, padding="same", name=f"{name}_pool")(x)
    return x if x.shape[-1] == channels else RepeatChannels(channels, name=name)(x)


def _conv(x, channels, kernel_size, strides, quantizers, name, binary_input=False, **own):
    return lq.layers.QuantConv2D(
        channels,
        kernel_size,
        strides=strides,
        padding="same",
        pad_values=quantizers.pad_values if binary_input else 0.0,
        use_bias=False,
        input_quantizer=quantizers.input_quantizer if binary_input else None,
        kernel_constraint=quantizers.kernel_constraint,
        name=f"{name}_conv",
        **{"kernel_quantizer": quantizers.kernel_quantizer, **own},
    )(x)


def _batch_norm(x, name):
    return tf.keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)


def _relu(x, name):
    return tf.keras.layers.ReLU(name=f"{name}_relu")(x)


def _check_classes(arguments):
    classes = arguments.num_classes
    if not arguments.include_top:
        arguments.num_classes = None
    elif not is_count(classes) or classes == 1:
        raise ValueError(
            "`num_classes` must be an integer, 2 or more, for the softmax of one class is always "
            f"1, received {classes!r}."
        )


def _image_input(input_shape, input_tensor, include_top):
    """The Keras tensor that the network begins with."""
    if isinstance(input_shape, tf.TensorShape) and input_shape.rank is not None:
        input_shape = tuple(input_shape)
    if input_tensor is not None:
        if not (tf.is_tensor(input_tensor) and tf.keras.backend.is_keras_tensor(input_tensor)):
            raise ValueError(f"`input_tensor` must be a Keras tensor, received {input_tensor!r}.")
        if not input_tensor.dtype.is_floating:
            raise ValueError(
                "`input_tensor` must be of floats, as `preprocess_input` returns them, received "
                f"{input_tensor.dtype.name}."
            )
        shape, argument = tuple(input_tensor.shape[1:]), "input_tensor"
        is_other = not isinstance(input_shape, (tuple, list)) or tuple(input_shape) != shape
        if input_shape is not None and is_other:
            raise ValueError(
                f"`input_shape` must be that of `input_tensor`, {shape}, received {input_shape}."
            )
    else:
        shape = (32, 32, 3) if input_shape is None else input_shape
        argument = "input_shape"
        if not isinstance(shape, (tuple, list)):
            shape = (shape,)
    sizes = shape[:2] if include_top else [size for size in shape[:2] if size is not None]
    if len(shape) != 3 or not all(is_count(size) for size in [*sizes, shape[-1]]):
        unknown = "" if include_top else ", height and width may be None"
        raise ValueError(
            f"`{argument}` must have the shape (height, width, channels){unknown}, "
            f"received {shape}."
        )
    return tf.keras.layers.Input(shape, name="image") if input_tensor is None else input_tensor


def _check_arguments(arguments):
    for name, allowed in (
        ("precision", PRECISIONS),
        ("attention", ATTENTIONS),
        ("activation", GATE_ACTIVATIONS),
        ("fmb", (True, False)),
        ("fmb_gradient", FMB_GRADIENTS),
        ("include_top", (True, False)),
        ("shortcut", SHORTCUTS),
        ("head", HEADS),
        ("ends", ENDS),
        ("shift", (True, False)),
        ("pooling", POOLINGS),
        ("gate_at", GATE_PLACES),
    ):
        check_choice(name, getattr(arguments, name), allowed)
    if arguments.include_top and arguments.pooling:
        raise ValueError(
            f"`pooling` is for include_top=False, received {arguments.pooling!r} with top."
        )
    filters = arguments.filters
    if (
        not isinstance(filters, (tuple, list))
        or len(filters) != 3
        or not all(is_count(channels) for channels in filters)
    ):
        raise ValueError(f"`filters` must be three positive integers, received {filters!r}.")
    _check_classes(arguments)
    ratio = arguments.reduction_ratio
    if not is_count(ratio):
        raise ValueError(f"`reduction_ratio` must be a positive integer, received {ratio!r}.")
    check_blocks(arguments)
