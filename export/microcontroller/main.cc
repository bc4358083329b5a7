// Classifies images on a microcontroller with TensorFlow Lite for Microcontrollers.
//
//   main IMAGES
//
// IMAGES holds images one after the other, each height x width x 3 bytes, red, green, blue. For each
// it prints the class and the probabilities of all classes in 256ths; in the end how many there
// were, the time of all in microseconds, and how much of the arena is used. The file is one of the
// computer beside it, which a debugger or an emulator reads (semihosting). On a board of your own
// keep the class Classifier, and give it the pixels of your camera.
//
// MODEL_HEADER is what convert.py --runtime tflm --c-array wrote.

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include MODEL_HEADER
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_time.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

constexpr int kImageBytes = model::kHeight * model::kWidth * model::kChannels;

alignas(16) uint8_t arena[model::kArenaBytes];

class Classifier {
 public:
  Classifier()
      : interpreter_(tflite::GetModel(model::kFile), resolver_, arena, sizeof(arena)),
        ready_(model::AddOperators(resolver_) && interpreter_.AllocateTensors() == kTfLiteOk) {}

  bool ready() const { return ready_; }
  size_t arena_used() const { return interpreter_.arena_used_bytes(); }

  // Takes the bytes of an image; returns what the network says of each class, see kZeroPoint, or
  // nullptr if it could not be computed.
  const int8_t* Classify(const uint8_t* pixels) {
    int8_t* input = interpreter_.input(0)->data.int8;
    for (int i = 0; i < kImageBytes; ++i) {
      input[i] = model::kPixel[i % model::kChannels][pixels[i]];
    }
    return interpreter_.Invoke() == kTfLiteOk ? interpreter_.output(0)->data.int8 : nullptr;
  }

 private:
  tflite::MicroMutableOpResolver<model::kOperators> resolver_;
  tflite::MicroInterpreter interpreter_;
  bool ready_;
};

int Fail(const char* message) {
  std::fprintf(stderr, "main: error: %s\n", message);
  return 1;
}

}  // namespace

int main(int argc, char* argv[]) {
  static Classifier classifier;
  if (!classifier.ready()) return Fail("the arena is too small, or an operator is missing");
  if (argc != 2) return Fail("usage: main IMAGES, a file of raw pixels");
  std::FILE* images = std::fopen(argv[1], "rb");
  if (images == nullptr) return Fail("IMAGES cannot be read: is it in the folder of the emulator?");
  static uint8_t pixels[kImageBytes];
  int count = 0;
  uint64_t ticks = 0;
  size_t read;
  for (; (read = std::fread(pixels, 1, kImageBytes, images)) == kImageBytes; ++count) {
    const uint32_t started = tflite::GetCurrentTimeTicks();
    const int8_t* output = classifier.Classify(pixels);
    ticks += tflite::GetCurrentTimeTicks() - started;
    if (output == nullptr) return Fail("an image could not be computed");
    std::printf("%s", model::kLabels[std::max_element(output, output + model::kClasses) - output]);
    for (int i = 0; i < model::kClasses; ++i) std::printf(" %d", output[i] - model::kZeroPoint);
    std::printf("\n");
  }
  std::fclose(images);
  if (count == 0 || read != 0) return Fail("IMAGES is not of whole images of the model's size");
  const uint32_t frequency = tflite::ticks_per_second();
  std::printf("%d images, %lu us, %u bytes of the arena\n", count,
              static_cast<unsigned long>(frequency == 0 ? 0 : ticks * 1000000 / frequency),
              static_cast<unsigned>(classifier.arena_used()));
  return 0;
}
