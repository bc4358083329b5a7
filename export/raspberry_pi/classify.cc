// Classifies an image on a Raspberry Pi with Larq Compute Engine.
//
//   classify lce_1bit_uint8_in.tflite labels.txt image.ppm
//
// The model is one that convert.py --runtime lce --input-type uint8 wrote, with labels.txt beside
// it; the image a binary PPM or PGM of any size.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "image.h"
#include "larq_compute_engine/tflite/kernels/lce_ops_register.h"
#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model.h"

namespace {

constexpr int kTop = 3;

void Require(bool holds, const std::string& otherwise) {
  if (!holds) throw std::runtime_error(otherwise);
}

std::vector<std::string> ReadLabels(const std::string& path) {
  std::ifstream file(path);
  Require(file.good(), path + " cannot be read: copy the labels.txt that convert.py wrote");
  std::vector<std::string> labels;
  for (std::string line; std::getline(file, line);) labels.push_back(line);
  return labels;
}

std::vector<float> Probabilities(const TfLiteTensor* output) {
  const int classes = output->dims->data[1];
  std::vector<float> values(classes);
  for (int i = 0; i < classes; ++i) {
    values[i] = output->type == kTfLiteInt8
                    ? output->params.scale * (output->data.int8[i] - output->params.zero_point)
                    : output->data.f[i];
  }
  return values;
}

void Classify(const std::string& model_path, const std::string& labels_path,
              const std::string& image_path) {
  const auto model = tflite::FlatBufferModel::VerifyAndBuildFromFile(model_path.c_str());
  Require(model != nullptr, model_path + " is no .tflite file");
  tflite::ops::builtin::BuiltinOpResolver resolver;
  compute_engine::tflite::RegisterLCECustomOps(&resolver);
  std::unique_ptr<tflite::Interpreter> interpreter;
  tflite::InterpreterBuilder(*model, resolver)(&interpreter);
  Require(interpreter != nullptr && interpreter->AllocateTensors() == kTfLiteOk,
          model_path + " is not for this runtime");

  TfLiteTensor* input = interpreter->input_tensor(0);
  Require(input->type == kTfLiteUInt8 && input->dims->size == 4 && input->dims->data[3] == 3,
          model_path + " must take uint8 (1, H, W, 3): convert with --input-type uint8");
  const auto pixels = Fit(ReadPpm(image_path), input->dims->data[1], input->dims->data[2]);
  std::memcpy(input->data.uint8, pixels.data(), pixels.size());
  const auto started = std::chrono::steady_clock::now();
  Require(interpreter->Invoke() == kTfLiteOk, "the model could not be computed");
  const std::chrono::duration<double, std::milli> taken =
      std::chrono::steady_clock::now() - started;

  const auto labels = ReadLabels(labels_path);
  const TfLiteTensor* output = interpreter->output_tensor(0);
  Require(output->dims->size == 2 &&
              (output->type == kTfLiteFloat32 || output->type == kTfLiteInt8),
          model_path + " must give (1, classes), float32 or int8");
  const auto probabilities = Probabilities(output);
  Require(labels.size() == probabilities.size(),
          labels_path + " must name " + std::to_string(probabilities.size()) + " classes");
  std::vector<size_t> order(labels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
  std::printf("%s:", image_path.c_str());
  for (size_t i = 0; i < std::min<size_t>(kTop, order.size()); ++i) {
    std::printf(" %s %.1f%%", labels[order[i]].c_str(), 100 * probabilities[order[i]]);
  }
  std::printf(" (%.2f ms)\n", taken.count());
}

}  // namespace

int main(int argc, char* argv[]) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s MODEL.tflite LABELS.txt IMAGE.ppm\n", argv[0]);
    return 2;
  }
  try {
    Classify(argv[1], argv[2], argv[3]);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s: error: %s\n", argv[0], problem.what());
    return 2;
  }
  return 0;
}
