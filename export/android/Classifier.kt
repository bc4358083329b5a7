package larq.seresnet

import android.content.Context
import android.graphics.Bitmap
import java.io.Closeable
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.MappedByteBuffer
import java.nio.channels.FileChannel
import kotlin.math.max
import kotlin.math.min
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter

/**
 * Classifies images with a file that `convert.py --input-type uint8` wrote, and the labels.txt
 * beside it, both among the app's assets.
 *
 * @throws IllegalArgumentException if the file takes no image bytes, or the labels do not fit.
 */
class Classifier(context: Context, model: String, labels: String = "labels.txt", threads: Int = 1) :
    Closeable {
    private val interpreter =
        Interpreter(map(context, model), Interpreter.Options().setNumThreads(threads))
    private val labels = context.assets.open(labels).bufferedReader().use { it.readLines() }
    private val height: Int
    private val width: Int

    init {
        val input = interpreter.getInputTensor(0)
        require(input.dataType() == DataType.UINT8) {
            "$model must take uint8, it takes ${input.dataType()}: convert with --input-type uint8"
        }
        height = input.shape()[1]
        width = input.shape()[2]
        val classes = interpreter.getOutputTensor(0).shape()[1]
        require(this.labels.size == classes) {
            "$labels must name $classes classes, it names ${this.labels.size}"
        }
    }

    /** The most probable classes of the largest part of [bitmap] that has the model's shape. */
    fun classify(bitmap: Bitmap, top: Int = 3): List<Pair<String, Float>> {
        val output = interpreter.getOutputTensor(0)
        val bytes = ByteBuffer.allocateDirect(output.numBytes()).order(ByteOrder.nativeOrder())
        interpreter.run(pixels(bitmap), bytes)
        bytes.rewind()
        val probabilities =
            if (output.dataType() == DataType.INT8) {
                val (scale, zeroPoint) = output.quantizationParams().let { it.scale to it.zeroPoint }
                List(labels.size) { scale * (bytes.get() - zeroPoint) }
            } else {
                List(labels.size) { bytes.float }
            }
        return labels.zip(probabilities).sortedByDescending { it.second }.take(top)
    }

    override fun close() = interpreter.close()

    /**
     * The bytes of the network's input, as larq_seresnet.read_image makes them: each the mean of the
     * area that it covers, rounded, in whole numbers.
     */
    private fun pixels(bitmap: Bitmap): ByteBuffer {
        // The pixels of a hardware bitmap, ImageDecoder's default, cannot be read.
        val soft =
            if (bitmap.config == Bitmap.Config.HARDWARE)
                bitmap.copy(Bitmap.Config.ARGB_8888, false)
            else bitmap
        val tall = max(1, min(soft.height.toLong(), soft.width.toLong() * height / width).toInt())
        val wide = max(1, min(soft.width.toLong(), soft.height.toLong() * width / height).toInt())
        val top = (soft.height - tall) / 2
        val left = (soft.width - wide) / 2
        val row = IntArray(wide)
        val buffer = ByteBuffer.allocateDirect(3 * width * height)
        for (i in 0 until height) {
            val sums = LongArray(3 * wide)
            var y = (i.toLong() * tall / height).toInt()
            while (y.toLong() * height < (i + 1L) * tall) {
                soft.getPixels(row, 0, wide, left, top + y, wide, 1)
                val count = share(y, height, i.toLong() * tall, (i + 1L) * tall)
                for (x in 0 until wide) {
                    for (c in 0..2) sums[3 * x + c] += count * onWhite(row[x], 16 - 8 * c)
                }
                y++
            }
            for (j in 0 until width) for (c in 0..2) {
                var sum = 0L
                var x = (j.toLong() * wide / width).toInt()
                while (x.toLong() * width < (j + 1L) * wide) {
                    sum += share(x, width, j.toLong() * wide, (j + 1L) * wide) * sums[3 * x + c]
                    x++
                }
                val area = tall.toLong() * wide
                buffer.put(((2 * sum + area) / (2 * area)).toByte())
            }
        }
        buffer.rewind()
        return buffer
    }

    /** What part of [pixel], which counts [parts], lies between [start] and [stop]. */
    private fun share(pixel: Int, parts: Int, start: Long, stop: Long): Long =
        min((pixel + 1L) * parts, stop) - max(pixel.toLong() * parts, start)

    /** The channel of [colour] at the bit [shift], on white where it is transparent. */
    private fun onWhite(colour: Int, shift: Int): Int {
        val alpha = colour ushr 24
        return ((colour shr shift and 255) * alpha + 255 * (255 - alpha) + 127) / 255
    }

    private fun map(context: Context, asset: String): MappedByteBuffer =
        context.assets.openFd(asset).use { file ->
            FileInputStream(file.fileDescriptor).channel.map(
                FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
        }
}
