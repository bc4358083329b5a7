"""From image bytes to what SEResNet14 takes, and from its probabilities to class names."""

import warnings

import numpy as np

from larq_seresnet.arguments import is_count

import tensorflow as tf

#: Mean and standard deviation of the red, green and blue values of the 50,000 training images of
#: CIFAR-10, 8-bit scale. Training, export and devices read them here alone.
MEAN = (125.31, 122.95, 113.87)
STD = (62.99, 62.09, 66.70)

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def preprocess_input(images):
    """Normalises images: (x - MEAN) / STD per channel.

    Args:
        images: RGB, 0..255, shape (H, W, 3) or (N, H, W, 3): uint8, or floats as Keras's loaders
            give them; a numpy array or a tensor. In a graph sizes may be unknown.

    Returns:
        float32 of the same shape, a numpy array for a numpy array, else a tensor.

    Warns:
        UserWarning: If an array of floats looks as if it were divided by 255 already.

    Raises:
        TypeError: If `images` is neither array nor tensor, or neither uint8 nor floats.
        ValueError: If its shape is wrong, or an array of floats has values outside 0..255.
    """
    if not isinstance(images, np.ndarray) and not tf.is_tensor(images):
        raise TypeError(
            f"`images` must be a numpy array or a tensor, received {type(images).__name__}."
        )
    dtype = tf.dtypes.as_dtype(images.dtype)
    if dtype != tf.uint8 and not dtype.is_floating:
        raise TypeError(f"`images` must be uint8 or floats, 0..255, received {dtype.name}.")
    shape = tf.TensorShape(images.shape)
    if shape.rank in (3, 4) and shape[-1] is None:  # in a graph, as decode_jpeg gives it
        images = tf.ensure_shape(images, [*shape[:-1], 3])
        shape = images.shape
    if shape.rank not in (3, 4) or shape[-1] != 3:
        raise ValueError(
            f"`images` must have the shape (H, W, 3) or (N, H, W, 3), received {shape}."
        )
    if isinstance(images, np.ndarray):
        floats = images.astype(np.float32)
        if dtype.is_floating and images.size and not (0 <= images.min() and images.max() <= 255):
            raise ValueError(
                f"`images` must have pixels 0..255, received {images.min()} to {images.max()}."
            )
        if dtype.is_floating and images.size and images.max() <= 1 and (images % 1).any():
            warnings.warn(
                f"`images` should have pixels 0..255, received none above {images.max()}: were "
                "they divided by 255? Then they are all but black.",
                stacklevel=2,
            )
    else:
        floats = tf.cast(images, tf.float32)
    return (floats - np.float32(MEAN)) / np.float32(STD)


def decode_predictions(preds, top=None, class_names=CIFAR10_CLASSES):
    """Names the most probable classes.

    Pairs, not ImageNet's triples: these classes have no identifiers.

    Args:
        preds: Probabilities, shape (N, num_classes); a numpy array or an eager tensor.
        top: How many classes per image, at most num_classes; by default 5, or all if fewer.
        class_names: One name per class, in the order of the labels; None for their numbers.
            Default: CIFAR-10's.

    Returns:
        For each image a list of `top` pairs (class name, probability), most probable first.

    Raises:
        ValueError: If shape, `top` and `class_names` do not fit together.
    """
    preds = np.asarray(preds)
    if class_names is None:
        class_names = [str(number) for number in range(preds.shape[-1] if preds.ndim else 0)]
    if preds.ndim != 2 or preds.shape[1] != len(class_names):
        raise ValueError(
            f"`preds` must have the shape (N, {len(class_names)}), one column for each of "
            f"`class_names`, received {preds.shape}."
        )
    top = min(5, len(class_names)) if top is None else top
    if not is_count(top) or top > len(class_names):
        raise ValueError(f"`top` must be from 1 to {len(class_names)}, received {top!r}.")
    return [
        [(class_names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in preds
    ]
