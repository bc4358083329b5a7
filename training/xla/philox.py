"""The draws of `tf.random`, in NumPy alone: Philox (J. Salmon et al., SC 2011)."""

import numpy as np

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
#: The key by which TensorFlow makes key and counter of a seed.
_OF_SEEDS = (0x3EC8F720, 0x02461E29)


def _rounds(counters, key):
    """Philox4x32-10 of counters, four arrays uint64 of 32 bits each; returns likewise."""
    x0, x1, x2, x3 = counters
    k0, k1 = (np.array(part, np.uint64) for part in key)
    for _ in range(10):
        low, high = _MULTIPLIERS[0] * x0, _MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (
            (high >> _HALF) ^ x1 ^ k0,
            high & _LOW,
            (low >> _HALF) ^ x3 ^ k1,
            low & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([x0, x1, x2, x3])


def bits(seed, count):
    """So many uint32 that each seed, two integers, gives: (..., 2) to (..., count)."""
    words = np.array(seed, np.int64).astype(np.uint64)
    counter = [part for word in np.moveaxis(words, -1, 0) for part in (word & _LOW, word >> _HALF)]
    mixed = _rounds(counter, _OF_SEEDS)[..., np.newaxis]
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    zeros = np.zeros_like(mixed[2] + blocks)
    drawn = _rounds([zeros + blocks, zeros, zeros + mixed[2], zeros + mixed[3]], mixed[:2])
    drawn = np.moveaxis(drawn, 0, -1).reshape(*words.shape[:-1], -1)
    return drawn[..., :count].astype(np.uint32)


def uniform(seed, shape, low, high):
    """`tf.random.stateless_uniform` of float32."""
    mantissa = bits(seed, int(np.prod(shape))) & np.uint32(0x7FFFFF)
    unit = (mantissa | np.uint32(127 << 23)).view(np.float32) - np.float32(1)
    span = np.float32(high) - np.float32(low)
    return (unit * span + np.float32(low)).reshape(shape)


def integers(seed, shape, low, high):
    """`tf.random.stateless_uniform` of int32, from `low` to less than `high`, for each seed."""
    drawn = bits(seed, int(np.prod(shape))) % np.uint32(high - low)
    return (drawn.astype(np.int32) + np.int32(low)).reshape(*drawn.shape[:-1], *shape)


def of_epoch(seed, epoch, count, batch_size, flip, crop):
    """The order of an epoch's images, their shifts and mirroring, as `data.training_batches` draws.

    Args:
        seed: Of the run.
        epoch: Its number, from 0.
        count: How many images.
        batch_size: How many a step.
        flip, crop: Those of `data.augment`.

    Returns:
        Arrays int32 (count,), int32 (2, count) and bool (count,), in the order of training.
    """
    of_all = (seed, epoch)
    order, drawn = list(range(count)), bits(of_all, count).tolist()
    for place in range(count - 1):
        other = place + drawn[place] % (count - place)
        order[place], order[other] = order[other], order[place]
    whole, rest = divmod(count, batch_size)
    steps = np.arange(whole + bool(rest))
    of_steps = np.stack([np.full_like(steps, _words(of_all, 1)[0]), steps], axis=1)
    of_shift, of_mirror = _words(of_steps, 4).reshape(-1, 2, 2).swapaxes(0, 1)
    shift, mirrored = [], []
    parts = ((slice(whole), batch_size * bool(whole)), (slice(whole, None), rest))
    for own, many in (part for part in parts if part[1]):
        drawn = integers(of_shift[own], (2, many), -crop, crop + 1)
        shift.append(drawn.swapaxes(0, 1).reshape(2, -1))
        mirrored.append(flip & (integers(of_mirror[own], (many,), 0, 2) == 1).reshape(-1))
    shift, mirrored = np.concatenate(shift, axis=1), np.concatenate(mirrored)
    return np.array(order, np.int32), shift, mirrored


def _words(seed, count):
    """So many int64 that each seed gives, over their whole range."""
    drawn = bits(seed, 2 * count).astype(np.uint64)
    return (drawn[..., ::2] | drawn[..., 1::2] << _HALF).view(np.int64)


def glorot(seed, shape):
    """`tf.keras.initializers.GlorotUniform` of a seed."""
    receptive = int(np.prod(shape[:-2]))
    limit = np.sqrt(6.0 / (receptive * (shape[-2] + shape[-1])))
    return uniform((seed, 0), shape, -limit, limit)
