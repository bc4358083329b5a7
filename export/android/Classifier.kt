package larq.seresnet

import android.content.Context
import android.graphics.Bitmap
import java.io.Closeable
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.MappedByteBuffer
import java.nio.channels.FileChannel
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

    private fun pixels(bitmap: Bitmap): ByteBuffer {
        // The pixels of a hardware bitmap, ImageDecoder's default, cannot be read.
        val soft =
            if (bitmap.config == Bitmap.Config.HARDWARE)
                bitmap.copy(Bitmap.Config.ARGB_8888, false)
            else bitmap
        val scale = min(bitmap.height.toFloat() / height, bitmap.width.toFloat() / width)
        val rows = (scale * height).toInt()
        val columns = (scale * width).toInt()
        val middle =
            Bitmap.createBitmap(
                soft, (bitmap.width - columns) / 2, (bitmap.height - rows) / 2, columns, rows)
        // Bilinear scaling looks at four pixels alone; by halves every pixel counts.
        var scaled = middle
        while (scaled.width >= 2 * width && scaled.height >= 2 * height) {
            scaled = Bitmap.createScaledBitmap(scaled, scaled.width / 2, scaled.height / 2, true)
        }
        scaled = Bitmap.createScaledBitmap(scaled, width, height, true)
        val colours = IntArray(width * height)
        scaled.getPixels(colours, 0, width, 0, 0, width, height)
        val buffer = ByteBuffer.allocateDirect(3 * colours.size)
        for (colour in colours) {
            for (shift in intArrayOf(16, 8, 0)) buffer.put((colour shr shift).toByte())
        }
        buffer.rewind()
        return buffer
    }

    private fun map(context: Context, asset: String): MappedByteBuffer =
        context.assets.openFd(asset).use { file ->
            FileInputStream(file.fileDescriptor).channel.map(
                FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
        }
}
