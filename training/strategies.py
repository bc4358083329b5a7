"""One training on several devices or machines, by `tf.distribute`.

Every replica takes its part of each batch, and gradients are summed. With BatchNorm synchronised,
which then takes the mean and variance of the whole batch, what is computed is what one device would
compute, but for rounding. Every process runs the same program with the same arguments; only the
chief's run directory lasts.
"""

import concurrent.futures
import io
import json
import os
import pathlib
import zipfile

import numpy as np

from larq_seresnet import files

import tensorflow as tf

NAMES = ("none", "mirrored", "multi_worker")


def begin(name):
    """The `tf.distribute.Strategy` of a name; before TensorFlow computes anything.

    Args:
        name: One of `NAMES`. "mirrored" takes all GPUs of this machine, "multi_worker" the machines
            that the environment variable TF_CONFIG names.

    Raises:
        ValueError: If TF_CONFIG names no workers.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    _check_cluster(os.environ.get("TF_CONFIG"))
    return tf.distribute.MultiWorkerMirroredStrategy()


def _check_cluster(text):
    needed = (
        '--strategy multi_worker needs the environment variable TF_CONFIG, such as {"cluster": '
        '{"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
    )
    try:
        described = json.loads(text or "")
        task = described["task"]
        described["cluster"][task["type"]][int(task["index"])]
    except (ValueError, KeyError, IndexError, TypeError) as problem:
        raise ValueError(f"{needed}; received {text}.") from problem
    others = set(described["cluster"]) - {"worker", "chief"}
    if others:
        raise ValueError(f"{needed}; it names a {others.pop()}, for which there is no work.")


def is_chief():
    """Whether this process is the one of the current strategy whose files last."""
    resolver = _cluster()
    return resolver is None or (
        resolver.task_type == "chief"
        or ("chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0)
    )


def _cluster():
    """What knows the processes of the current strategy, None where there is one alone."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    return resolver if resolver is not None and resolver.task_type else None


def count():
    """How many replicas the current strategy has."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def check(images, test_images, batch_size, facts):
    """Raises ValueError for what several replicas cannot train together.

    Args:
        images, test_images: How many: every replica needs one in each batch.
        batch_size: Of all together.
        facts: What must be alike in all processes, by name.
    """
    if test_images < count():
        raise ValueError(
            f"there must be a test image for each of {count()} replicas, received {test_images}."
        )
    last = images % batch_size or batch_size
    if last < count():
        raise ValueError(
            f"`batch_size` must leave each of {count()} replicas an image in every batch, the last "
            f"of an epoch of {images} has {last}; received {batch_size}."
        )
    if _cluster() is None:
        return
    own = json.loads(json.dumps(facts, default=str))
    of_chief = json.loads(_from_chief(json.dumps(own).encode()))
    different = [name for name in own if own[name] != of_chief.get(name)]
    if int(_sum(lambda _: np.int64(len(different)))):
        which = "see what another worker says"
        if different:
            name = different[0]
            which = f"`{name}` is {own[name]}, with the chief it is {of_chief.get(name)}"
        raise ValueError(f"arguments and images must be alike in all workers: {which}.")


def copied_from_chief(folder, into):
    """A folder of the chief's, or None: in its own process itself, in others a copy.

    Args:
        folder: Where the chief has it, if anything is there yet.
        into: A folder that exists, in which the copy is put.
    """
    if _cluster() is None:
        return folder
    content = _from_chief(_packed(folder) if is_chief() else b"")
    if is_chief():
        return folder
    copy = pathlib.Path(into) / "run"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(copy)
    return copy


def _packed(folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")) if folder and folder.is_dir() else ():
            name = path.relative_to(folder)
            if path.is_file() and name.parts[0] not in (files.LOCK_FILE, "tensorboard"):
                archive.write(path, name)
    return buffer.getvalue()


def _from_chief(own):
    """The bytes that the chief has, in all processes."""
    if not is_chief():
        own = b""
    size = int(_sum(lambda replica: np.int64(len(own) if replica == 0 else 0)))
    padded = np.frombuffer(own.ljust(-(-size // 4) * 4, b"\0"), np.int32)
    zeros = np.zeros_like(padded)
    return _sum(lambda replica: padded if replica == 0 else zeros).numpy().tobytes()[:size]


def _sum(of_replica):
    """The sum of what a function makes of each replica's number; the chief's first has 0."""
    strategy = tf.distribute.get_strategy()
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(of_replica(context.replica_id_in_sync_group))
    )
    return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)


def alone(function, *arguments):
    """What a function returns that makes and uses variables of this process alone."""
    if count() == 1:
        return function(*arguments)
    with concurrent.futures.ThreadPoolExecutor(1) as other:  # a strategy is that of its thread
        return other.submit(function, *arguments).result()


def mean(values):
    """The mean of a tensor over all replicas, where several compute at this moment."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)


def bounds(size, part):
    """First place of a part, (index, count), of so many, and the one after its last."""
    index, parts = part
    return index * size // parts, (index + 1) * size // parts


def traced(function, shape):
    """A function of a batch of images, traced, of which each replica computes its part.

    Args:
        function: Of float32, (N, H, W, 3), in which every replica gets the same, as `mean` and the
            BatchNorm of `_synchronized` see to.
        shape: (None, H, W, 3).
    """
    if count() == 1:
        return tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32)])
    strategy = tf.distribute.get_strategy()
    parts = tf.function(lambda own: strategy.run(function, (own,)), reduce_retracing=True)

    def of_whole(inputs):
        def own(context):
            part = context.replica_id_in_sync_group, context.num_replicas_in_sync
            return tf.constant(inputs[slice(*bounds(len(inputs), part))])

        found = parts(strategy.experimental_distribute_values_from_function(own))
        return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], found)

    return of_whole


def distribute(make):
    """Batches of which every replica of the current strategy gets its part.

    Args:
        make: Makes a `tf.data.Dataset` of a part, (index, count), of every batch; of None, of whole
            batches.
    """
    if count() == 1:
        return make(None)

    def of_worker(context):
        local = count() // context.num_input_pipelines
        parts = [make((context.input_pipeline_id * local + i, count())) for i in range(local)]
        turns = tf.data.Dataset.range(local).repeat()
        return tf.data.Dataset.choose_from_datasets(parts, turns)

    return tf.distribute.get_strategy().distribute_datasets_from_function(of_worker)


def normalise_in_parts(model, batch_size, synchronized):
    """Says, and with `synchronized` changes, what BatchNorm's statistics are of in training.

    They are of each replica's part of a batch, or of the whole of it. Keras's own `synchronized`
    makes three exchanges where this makes one, and keeps a variance in mind that is smaller by a
    share of 1 / n than that of BatchNorm on one device.
    """
    if count() == 1:
        return
    images = f"{batch_size} images" if synchronized else f"each replica's {batch_size // count()}"
    print(f"{count()} replicas, BatchNorm's statistics are of {images} in training")
    for layer in model.layers if synchronized else ():
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.call = _synchronized(layer, layer.call)


def _synchronized(layer, of_one_device):
    def call(inputs, training=None):
        context = tf.distribute.get_replica_context()
        if not training or context is None:
            return of_one_device(inputs, training=training)
        x = tf.cast(inputs, tf.float32)
        axes = list(range(x.shape.rank - 1))
        size = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
        sums = tf.stack([tf.reduce_sum(x, axes), tf.reduce_sum(x**2, axes)])
        sums = tf.concat([sums, tf.fill([2, 1], size)], axis=1)
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        size = sums[0, -1]
        mean, of_squares = tf.unstack(sums[:, :-1] / size)
        variance = tf.maximum(of_squares - mean**2, 0.0)
        kept = variance * size / tf.maximum(size - 1.0, 1.0) if layer.fused else variance
        for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, kept)):
            moving.assign_sub((moving - value) * (1.0 - layer.momentum))
        normed = tf.nn.batch_normalization(
            x, mean, variance, layer.beta, layer.gamma, layer.epsilon
        )
        return tf.cast(normed, inputs.dtype)

    return call
