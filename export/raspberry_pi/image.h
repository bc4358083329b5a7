// From an image file to the bytes that a network takes, as larq_seresnet.read_image has it.

#ifndef LARQ_SERESNET_IMAGE_H_
#define LARQ_SERESNET_IMAGE_H_

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int64_t height, width;
  std::vector<uint8_t> rgb;  // height * width * 3
};

// Reads a binary PPM or PGM of 8 bits; throws std::runtime_error for any other file.
inline Image ReadPpm(const std::string& path) {
  constexpr int64_t kMostPixels = int64_t{1} << 28;
  std::ifstream file(path, std::ios::binary);
  if (!file.good()) throw std::runtime_error(path + " cannot be read");
  std::string kind;
  int64_t width = 0, height = 0, greatest = 0;
  file >> kind >> width >> height >> greatest;
  if (!file.good() || (kind != "P5" && kind != "P6") || greatest != 255) {
    throw std::runtime_error(path + " must be a binary PPM or PGM of 8 bits without comments");
  }
  if (width < 1 || height < 1 || width > kMostPixels / height) {
    throw std::runtime_error(path + " has no pixels, or too many");
  }
  file.get();  // the one blank after the header
  const int channels = kind == "P5" ? 1 : 3;
  std::vector<uint8_t> pixels(height * width * channels);
  file.read(reinterpret_cast<char*>(pixels.data()), pixels.size());
  if (file.gcount() != static_cast<std::streamsize>(pixels.size())) {
    throw std::runtime_error(path + " was cut off");
  }
  if (channels == 3) return {height, width, std::move(pixels)};
  Image grey{height, width, {}};
  for (uint8_t value : pixels) grey.rgb.insert(grey.rgb.end(), 3, value);
  return grey;
}

// The largest rectangle in the middle that has the shape of the result, each of whose pixels is the
// mean of the area that it covers, rounded. A pixel of `image` counts as height * width parts and
// one of the result as tall * wide, so that all are whole numbers.
inline std::vector<uint8_t> Fit(const Image& image, int64_t height, int64_t width) {
  const int64_t tall =
      std::max<int64_t>(1, std::min(image.height, image.width * height / width));
  const int64_t wide =
      std::max<int64_t>(1, std::min(image.width, image.height * width / height));
  const int64_t top = (image.height - tall) / 2, left = (image.width - wide) / 2;
  const auto share = [](int64_t pixel, int64_t parts, int64_t start, int64_t stop) {
    return std::min((pixel + 1) * parts, stop) - std::max(pixel * parts, start);
  };
  std::vector<uint8_t> result;
  for (int64_t i = 0; i < height; ++i) {
    std::vector<int64_t> sums(3 * wide, 0);
    for (int64_t y = i * tall / height; y * height < (i + 1) * tall; ++y) {
      const int64_t count = share(y, height, i * tall, (i + 1) * tall);
      const uint8_t* row = &image.rgb[3 * ((top + y) * image.width + left)];
      for (int64_t k = 0; k < 3 * wide; ++k) sums[k] += count * row[k];
    }
    for (int64_t j = 0; j < width; ++j) {
      for (int64_t c = 0; c < 3; ++c) {
        int64_t sum = 0;
        for (int64_t x = j * wide / width; x * width < (j + 1) * wide; ++x) {
          sum += share(x, width, j * wide, (j + 1) * wide) * sums[3 * x + c];
        }
        result.push_back((2 * sum + tall * wide) / (2 * tall * wide));
      }
    }
  }
  return result;
}

#endif  // LARQ_SERESNET_IMAGE_H_
