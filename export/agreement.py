"""How a converted file and the Keras model agree, and whether that is enough: one kind of agreement
for each way in which files compute."""

import dataclasses

#: Greatest difference to a model that rounds inputs to 8 bits, too, of 99 % of the images: a step
#: of an input may round otherwise in Keras.
EIGHT_BIT_MOST = 0.05
#: Of a file for TFLM, or with an int8 output: how many images may be of another class than the
#: model's, and how many more wrong, as shares of all. Chance adds to it, of few images much: of
#: 10,000 it comes to 1.5 % and half a point.
OTHER_CLASS, MORE_ERROR = 0.0125, 0.0025


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How Keras's probabilities and a converted model's for the same images compare.

    Attributes:
        images: How many.
        max_difference, mean_difference: Of single probabilities, absolute.
        argmax_agreement: Share of images that both give the same class.
        keras_error, converted_error: Top-1 error of both; None where labels are not known.
        half_agreement, half_error: Where the file's scales are float16, all else is said of a Keras
            model whose scales were rounded (`half.rounded`), and this of the file and the model
            itself: the share of images of one class, and the model's error; else None.
        rounding: Greatest difference of a probability that counts as rounding.
        listed: Each image that changes class or differs by more: its index, both classes, Keras's
            "margin" (its greatest probability less the second), the "difference", and of the first
            values that tipped the "layer" and the "distance" from the threshold, relative to the
            largest value of that map; see `divergence.first_tipped`. Its "cause" is "tie"; "batch"
            where Keras, computing other images beside it, agrees with the file; "output" where they
            agree but for the steps of an int8 output; "8 bits" where files of this kind round to
            them; or None.
    """

    images: int
    max_difference: float
    mean_difference: float
    argmax_agreement: float
    keras_error: float | None
    converted_error: float | None
    rounding: float
    listed: list[dict]
    half_agreement: float | None = None
    half_error: float | None = None

    def unexplained(self):
        """Those of `listed` that neither rounding nor a tie explains."""
        return [image for image in self.listed if image["cause"] is None]

    def failures(self):
        """Why the file does not compute what the model computes: sentences, none if it does."""
        count = len(self.unexplained())
        found = [f"{count} images differ by more than rounding and not by a tie"] * bool(count)
        by_output = any(image["cause"] == "output" for image in self.listed)
        return found + (self._failures_of_classes() if by_output else [])

    def _failures_of_classes(self):
        """Where the class or the error differs by more than it may, and than chance explains."""

        def too_many(share, allowed):  # two standard deviations of their number, one image at least
            most = allowed * self.images + 2 * (OTHER_CLASS * self.images) ** 0.5
            return round(share * self.images) > max(1, most)

        found = []
        if too_many(1 - self.argmax_agreement, OTHER_CLASS):
            found.append(f"{self.argmax_agreement:.2%} of images have the class that Keras gives")
        if self.keras_error is not None:
            more = self.converted_error - self.keras_error
            if too_many(more, MORE_ERROR):
                found.append(f"the error is {100 * more:.2f} points above that of Keras")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfRoundedInputs(Agreement):
    """Of a file that rounds the inputs of layers to 8 bits; `listed` are those of another class.

    Attributes:
        eight_bit_median, eight_bit_most: The greatest difference of an image's probabilities to a
            Keras model that rounds them, too: median over images, and what 99 % of them stay under,
            or all but one.
    """

    eight_bit_median: float
    eight_bit_most: float

    def failures(self):
        if self.eight_bit_median <= self.rounding and self.eight_bit_most <= EIGHT_BIT_MOST:
            return []
        return [
            "Keras with layer inputs rounded to 8 bits differs by "
            f"{self.eight_bit_median:.1e} (median) and {self.eight_bit_most:.1e} (99 % of images)"
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfIntegers(Agreement):
    """Of a file for TFLM; `listed` are those of another class.

    Attributes:
        unpacked_same: How many images give the same outputs, to the last bit, as if the filters
            were stored as INT8.
        other_filters: How many output channels of the model's filters of 1 or 8 bits the file does
            not hold.
    """

    unpacked_same: int
    other_filters: int

    def failures(self):
        differ = self.images - self.unpacked_same
        found = [f"{differ} images differ from those of the same file, unpacked"] * bool(differ)
        if self.other_filters:
            found.append(f"{self.other_filters} channels of filters are not those of the model")
        return found + self._failures_of_classes()
