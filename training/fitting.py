"""A network, its optimizer and its callbacks as the arguments of a run say, and their training."""

import dataclasses
import math
import pathlib
import sys
import zlib

from larq_seresnet import SEResNet14
from larq_seresnet.precision import layers_in
from larq_seresnet.training import (
    callbacks,
    closing,
    config,
    data,
    machine,
    optimizers,
    relaxation,
    strategies,
)

import tensorflow as tf


def resolved(settings, images):
    """The settings with nothing left to this machine or these data to decide."""
    dtype = compute_dtype(settings.compute_dtype)
    flip = images.mirror if settings.flip is None else settings.flip
    data_dir = settings.data_dir and str(pathlib.Path(settings.data_dir).absolute())
    return dataclasses.replace(
        settings, dataset=images.name, data_dir=data_dir, compute_dtype=dtype, flip=flip
    )


def compute_dtype(asked):
    """The dtype that layers compute in here: of "auto" the one that is faster."""
    if asked != "auto":
        return asked
    return "bfloat16" if machine.has_bfloat16() else "float32"


def compiled_model(settings, images):
    """The model in the compute dtype of the settings, with its optimizer, everything seeded."""
    tf.keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    dtype = settings.compute_dtype
    with layers_in(dtype):
        model = SEResNet14(
            num_classes=len(images.class_names), weights=None, **settings.model_arguments()
        )
    initialise(model, settings.seed)
    model.compile(
        optimizers.build(settings, steps_of(settings, images) * settings.epochs),
        "categorical_crossentropy",
        metrics=[callbacks.error],
    )
    # with their variables there already, `fit` traces a step once and not twice
    probabilities = tf.zeros((1, len(images.class_names)))
    model.compiled_loss.build(probabilities)
    model.compiled_metrics.build(probabilities, probabilities)
    print(f"{model.name}: {model.count_params():,} parameters, computing in {dtype}")
    return model


def initialise(model, seed):
    """Draws every kernel anew, by the seed and its own name alone.

    So models that differ in a layer begin with the same weights everywhere else.
    """
    for weight in model.trainable_weights:
        if weight.shape.rank > 1:
            own_seed = zlib.crc32(f"{seed} {weight.name}".encode())
            weight.assign(tf.keras.initializers.GlorotUniform(own_seed)(weight.shape))


def trained(run_dir, settings, num_classes):
    """The network of a finished run, float32 unless called in `layers_in` another dtype."""
    return SEResNet14(
        num_classes=num_classes,
        weights=run_dir / config.WEIGHTS_FILE,
        **settings.model_arguments(),
    )


def steps_of(settings, images):
    """How many steps an epoch has."""
    return math.ceil(len(images.train[0]) / settings.batch_size)


def hardening_steps(settings, images):
    """Over how many steps kernels harden."""
    return settings.relaxation * steps_of(settings, images) * settings.epochs


def hardening(model, settings, images):
    """What lets a compiled model harden as the settings say: callbacks, or none."""
    if not settings.relaxation:
        return []
    steps = hardening_steps(settings, images)
    return [relaxation.Relaxation(model, steps, settings.relaxed_inputs)]


def closing_of(model, settings, images):
    """What closes gates as the settings say: callbacks, or none."""
    if settings.keep == 1:
        return []
    return [closing.Closing(model, settings, images, steps_of(settings, images))]


def fit(model, settings, images, epochs, run_callbacks, said):
    """Trains the epochs of a range, counted from 0; `said` is what a teacher says, or None.

    Raises:
        SystemExit: If the loss became NaN or infinite; the last good checkpoint stays.
    """
    classes = len(images.class_names)

    def training(part):
        batches = data.training_batches(
            images,
            settings.batch_size,
            settings.seed,
            epochs.stop,
            epochs.start,
            flip=settings.flip,
            crop=settings.crop,
            said=said,
            part=part,
        )
        return data.with_targets(
            batches, classes, settings.teacher_share, settings.teacher_temperature
        )

    def test(part):
        return data.with_targets(data.test_batches(images, part=part), classes)

    history = model.fit(
        strategies.distribute(training),
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        steps_per_epoch=steps_of(settings, images),
        validation_data=strategies.distribute(test),
        validation_steps=math.ceil(len(images.test[0]) / data.TEST_BATCH_SIZE),
        verbose=1 if sys.stdout.isatty() else 0,  # the log prints a line an epoch
        callbacks=[
            tf.keras.callbacks.TerminateOnNaN(),
            *hardening(model, settings, images),
            *closing_of(model, settings, images),
            *run_callbacks,
        ],
    ).history
    if history and not callbacks.is_finite({name: values[-1] for name, values in history.items()}):
        sys.exit("training diverged: the loss is no number. A lower --learning-rate may help.")
