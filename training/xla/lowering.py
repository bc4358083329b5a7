"""One training as HLO: what its functions compute, and what their state is.

What a step computes is what `model.fit` computes: network, loss, optimizer and callbacks are those
of `train.py`, traced an epoch at a time.
"""

from larq_seresnet.layers import GATE_ACTIVATIONS
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import (
    batch_norm,
    callbacks,
    closing,
    data,
    fitting,
    teacher,
)
from larq_seresnet.weights import is_one_bit

import tensorflow as tf


class Lowering:
    """The functions of a training, and the variables that are their state.

    Args:
        settings: A `Config`; those that differ in `ASIDE` alone have the same functions.
        images: Its `data.ImageSet`.
    """

    def __init__(self, settings, images):
        self.settings, self.images = settings, images
        self.model = model = fitting.compiled_model(settings, images)
        model.optimizer.build(model.trainable_variables)
        self.closing = fitting.closing_of(model, settings, images)
        self.stepping = [*fitting.hardening(model, settings, images), *self.closing]
        self.statistics = batch_norm.BatchNormEstimator(images)
        self.statistics.set_model(model)
        self.gates = callbacks.GateRecorder("", None, (), "")
        self.gates.set_model(model)
        self.lengths = {}  # variables, so that a program serves runs of any length
        if settings.schedule == "one_cycle":
            self._make_variable("schedule", model.optimizer._learning_rate)
        for each in self.stepping:
            each.set_model(model)
            self._make_variable(type(each).__name__, each)
        self.state = [*model.weights]

    def _make_variable(self, name, holder):
        holder.steps = self.lengths[name] = tf.Variable(float(holder.steps), trainable=False)

    def number(self, variable):
        """The place of a variable in the state."""
        handle = _handle(variable)
        return next(i for i, each in enumerate(self.state) if _handle(each) is handle)

    def functions(self):
        """By name, the functions, and what they take."""
        pictures, labels = self._specs(self.images.train)
        count = len(self.images.train[0])
        drawn = [_spec([count]), _spec([2, count]), _spec([count], tf.bool)]
        if self.settings.teacher:
            views = teacher.views(self.settings.flip, self.settings.crop)
            shape = [count, len(views), len(self.images.class_names)]
            drawn += [_spec([count]), _spec(shape, tf.float16)]
        found = {
            "epoch": (self.epoch, [pictures, labels, *drawn]),
            "estimate": (
                self.estimate,
                [pictures, _spec([min(batch_norm.LAST_IMAGES, count)]), _spec([])],
            ),
            "test": (self.test, self._specs(self.images.test)),
        }
        if self.gates.gates:
            found["gates"] = (self.record, self._specs(self.images.test)[:1])
        if self.closing and self.settings.keep_by != "random":
            found["opened"] = (self.opened, [pictures, _spec([min(closing.IMAGES, count)])])
        return found

    def said(self, count):
        """What a teacher has besides: the function for its probabilities, for so many images."""
        pictures = _spec([count, *self.images.train[0].shape[1:]], tf.uint8)
        return self.say, [pictures, _spec([2]), _spec([], tf.bool)]

    @staticmethod
    def _specs(pair):
        return [_spec(array.shape, array.dtype) for array in pair]

    def epoch(self, images, labels, order, shift, mirrored, *taught):
        """Trains an epoch; returns Adam's rate at its last step."""
        settings = self.settings
        whole, rest = divmod(len(self.images.train[0]), settings.batch_size)

        def step(first, many):
            chosen = _part(order, first, many)
            own_shift = _part(shift, first, many, axis=1)
            seen = data.moved(tf.gather(images, chosen), own_shift, _part(mirrored, first, many))
            target = tf.one_hot(tf.gather(labels, chosen), len(self.images.class_names))
            if taught:
                views, said = taught
                of_view = tf.gather(said, chosen), _part(views, first, many)
                target = data.taught(
                    target,
                    tf.gather(*of_view, batch_dims=1),
                    settings.teacher_share,
                    settings.teacher_temperature,
                )
            for each in self.stepping:
                each.begin_step(self.model.optimizer.iterations)
            self.model.train_step((preprocess_input(seen), target))

        def body(index):
            step(index * settings.batch_size, settings.batch_size)
            return [index + 1]

        for each in self.closing:
            each.begin_epoch()
        if whole:
            begin = [tf.constant(0)]
            tf.while_loop(lambda index: index < whole, body, begin, maximum_iterations=whole)
        if rest:
            step(tf.constant(whole * settings.batch_size), rest)
        return tf.convert_to_tensor(self.model.optimizer.learning_rate)

    def estimate(self, images, chosen, count):
        """Estimates BatchNorm's statistics by the first `count` of the chosen images."""
        size = _size_of_equal(chosen.shape[0], batch_norm.BATCH_SIZE)
        batches = count // size
        self._begin_test()

        def body(index, *sums):
            batch = tf.gather(images, _part(chosen, index * size, size))
            found = self.statistics.of_batch(preprocess_input(batch))
            return [index + 1, *(total + each for total, each in zip(sums, found, strict=True))]

        zeros = [tf.zeros_like(statistic) for statistic in self.statistics.statistics]
        sums = tf.while_loop(lambda index, *_: index < batches, body, [0, *zeros])[1:]
        for statistic, total in zip(self.statistics.statistics, sums, strict=True):
            statistic.assign(total / tf.cast(batches, tf.float32))
        return tf.constant(0)

    def _begin_test(self):
        for each in self.stepping:
            each.on_test_begin()

    def test(self, images, labels):
        """Adds what the network errs on to the metrics."""
        self._begin_test()
        size = _size_of_equal(images.shape[0], data.TEST_BATCH_SIZE)
        batches = images.shape[0] // size

        def body(index):
            seen = preprocess_input(_part(images, index * size, size))
            answers = _part(labels, index * size, size)
            self.model.test_step((seen, tf.one_hot(answers, len(self.images.class_names))))
            return [index + 1]

        tf.while_loop(lambda index: index < batches, body, [0], maximum_iterations=batches)
        return tf.constant(0)

    def record(self, images):
        """Attention values of the first images, by module, float32 (images, C)."""
        self._begin_test()
        values = self.gates.probe(preprocess_input(images[: callbacks.GATE_IMAGES]), training=False)
        return {name: tf.cast(each, tf.float32)[:, 0, 0] for name, each in values.items()}

    def opened(self, images, chosen):
        """Which share of gates each channel has open, and its mean attention, over the chosen."""
        size = _size_of_equal(chosen.shape[0], closing.BATCH_SIZE)
        means, batches = self.closing[0].means_of_batch(), chosen.shape[0] // size
        for each in self.stepping:
            each.begin_step(self.model.optimizer.iterations)

        def body(index, *sums):
            batch = tf.gather(images, _part(chosen, index * size, size))
            found = means(preprocess_input(batch))
            return [index + 1, *(total + each for total, each in zip(sums, found, strict=True))]

        zeros = 2 * [tf.zeros(len(costs)) for costs in self.closing[0].costs]
        sums = tf.while_loop(lambda index, *_: index < batches, body, [0, *zeros])[1:]
        half = len(sums) // 2
        return [tf.concat(part, 0) / batches for part in (sums[:half], sums[half:])]

    def say(self, images, shift, mirrored):
        """What the network says of one view of all images, float16 (N, classes)."""
        size = _size_of_equal(images.shape[0], data.TEST_BATCH_SIZE)
        batches = images.shape[0] // size

        def body(index, said):
            batch = _part(images, index * size, size)
            shifts = tf.repeat(shift[:, tf.newaxis], size, axis=1)
            seen = data.moved(batch, shifts, tf.fill([size], mirrored))
            found = self.model(preprocess_input(seen), training=False)
            return [index + 1, said.write(index, tf.cast(found, tf.float16))]

        shape = [size, len(self.images.class_names)]
        said = tf.TensorArray(tf.float16, batches, element_shape=shape)
        _, said = tf.while_loop(lambda index, _: index < batches, body, [0, said])
        return said.concat()


def _size_of_equal(count, at_most):
    """How large the fewest batches of equal size are."""
    batches = -(-count // at_most)
    if count % batches:
        raise ValueError(
            f"images must divide into batches of one size, of at most {at_most}, received {count}: "
            f"`limit_train`, `limit_test` or `held_out` may leave others."
        )
    return count // batches


def _spec(shape, dtype=tf.int32):
    return tf.TensorSpec(shape, dtype)


def _part(values, first, many, axis=0):
    """`many` values from `first` on, of a static shape."""
    shape = [*values.shape]
    shape[axis] = many
    begin = [0] * len(shape)
    begin[axis] = first
    return tf.ensure_shape(tf.slice(values, tf.stack(begin), shape), shape)


def _handle(value):
    """What a variable has in common with those that wrap it, to cast it; a constant itself."""
    return getattr(value, "handle", value)


def lowered(function, specs, state):
    """A function as HLO; variables that it is the first to take are appended to the state.

    Returns:
        The module's bytes, and the places in the state of what it takes after its arguments.
    """
    traced = tf.function(function, jit_compile=True, autograph=False)
    concrete = traced.get_concrete_function(*specs)
    taken = concrete.captured_inputs  # handles of variables, and constants
    known = {id(_handle(value)) for value in state}
    variables = {id(variable.handle): variable for variable in concrete.graph.variables}
    state += [variables.get(id(each), each) for each in taken if id(each) not in known]
    places = {id(_handle(value)): i for i, value in enumerate(state)}
    taken = [places[id(each)] for each in taken]
    return traced.experimental_get_compiler_ir(*specs)(stage="hlo_serialized"), taken


def program(settings, images, teaches=None):
    """Everything that trains runs of some settings.

    Args:
        settings: A `Config`.
        images: Its `data.ImageSet`.
        teaches: Of a teacher: how many images it is asked about.

    Returns:
        Facts for json, arrays that the state begins with, and by name serialized HLO.
    """
    lowering = Lowering(settings, images)
    functions = lowering.functions()
    if teaches is not None:
        functions["said"] = lowering.said(teaches)
    modules, takes = {}, {}
    for name, (function, specs) in functions.items():
        modules[name], taken = lowered(function, specs, lowering.state)
        takes[name] = {"arguments": len(specs), "state": taken}
        if name in ("estimate", "opened"):
            takes[name]["chosen"] = specs[1].shape[0]
    state = _described(lowering)
    arrays = {
        str(i): variable.numpy()
        for i, (variable, described) in enumerate(zip(lowering.state, state, strict=True))
        if not described["drawn"]
    }
    known = {
        "functions": takes,
        "state": state,
        "lengths": {name: lowering.number(each) for name, each in lowering.lengths.items()},
        "metrics": {
            metric.name: [lowering.number(variable) for variable in metric.variables]
            for metric in lowering.model.metrics
        },
        "gates": sorted(lowering.gates.gates),
        "threshold": GATE_ACTIVATIONS[settings.activation].threshold,
    }
    return known | _of_closing(lowering), arrays, modules


def _described(lowering):
    """What `run.py` must know of each part of the state."""
    model = lowering.model
    drawn = {id(_handle(weight)) for weight in model.trainable_weights if weight.shape.rank > 1}
    weights = {id(_handle(weight)) for weight in model.weights}
    signs = {
        id(_handle(weight))
        for layer in model.layers
        for weight in layer.weights
        if is_one_bit(layer, weight)
    }
    return [
        {
            "name": getattr(variable, "name", "constant"),
            "shape": variable.shape.as_list(),
            "drawn": id(_handle(variable)) in drawn,
            "kept": id(_handle(variable)) in weights,
            "signs": id(_handle(variable)) in signs,
        }
        for variable in lowering.state
    ]


def _of_closing(lowering):
    """Where gates settle, and what the channels behind them cost; nothing where none do."""
    if not lowering.closing:
        return {}
    (settles,) = lowering.closing
    biases = [lowering.model.get_layer(f"{block}_se").expand.bias for block in settles.modules]
    return {
        "costs": [costs.tolist() for costs in settles.costs],
        "biases": list(map(lowering.number, biases)),
    }
