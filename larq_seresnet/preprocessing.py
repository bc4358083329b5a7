"""From image bytes to what SEResNet14 takes, and from its probabilities to class names."""

import numpy as np
import tensorflow as tf

#: Mean and standard deviation of the red, green and blue values of the 50,000 training images of
#: CIFAR-10 (JPEG-75 copy), 8-bit scale. Training, export and devices read them here alone.
MEAN = (124.14, 122.96, 112.57)
STD = (62.50, 61.85, 66.42)

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
        images: uint8, 0..255, shape (H, W, 3) or (N, H, W, 3), RGB; a numpy array or a tensor.

    Returns:
        float32 of the same shape, a numpy array for a numpy array, else a tensor.

    Raises:
        TypeError: If `images` is neither array nor tensor, or not uint8.
        ValueError: If its shape is another.
    """
    if not isinstance(images, np.ndarray) and not tf.is_tensor(images):
        raise TypeError(
            f"`images` must be a numpy array or a tensor, received {type(images).__name__}."
        )
    if images.dtype != np.uint8:
        raise TypeError(f"`images` must be uint8 with pixels 0..255, received {images.dtype.name}.")
    shape = tf.TensorShape(images.shape)
    if shape.rank not in (3, 4) or shape[-1] != 3:
        raise ValueError(
            f"`images` must have the shape (H, W, 3) or (N, H, W, 3), received {shape}."
        )
    floats = (
        images.astype(np.float32) if isinstance(images, np.ndarray) else tf.cast(images, "float32")
    )
    return (floats - np.float32(MEAN)) / np.float32(STD)


def decode_predictions(preds, top=5, class_names=CIFAR10_CLASSES):
    """Names the most probable classes.

    Args:
        preds: Probabilities, shape (N, num_classes); a numpy array or an eager tensor.
        top: How many classes an image, at most num_classes.
        class_names: One name a class, in the order of the labels. Default: CIFAR-10's.

    Returns:
        One list an image, of `top` pairs (class name, probability), most probable first.

    Raises:
        ValueError: If shape, `top` and `class_names` do not fit together.
    """
    preds = np.asarray(preds)
    if preds.ndim != 2 or preds.shape[1] != len(class_names):
        raise ValueError(
            f"`preds` must have the shape (N, {len(class_names)}), one column for each of "
            f"`class_names`, received {preds.shape}."
        )
    if top not in range(1, len(class_names) + 1):
        raise ValueError(f"`top` must be from 1 to {len(class_names)}, received {top!r}.")
    return [
        [(class_names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in preds
    ]
