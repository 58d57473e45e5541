// Two PyTorch operators compute relu(max_pool2d(conv2d(x, weight, bias), 2)) and its gradient, for the two
// such layers of `Net`.
//
// The forward pass pools four sums of a convolution while they are in registers, so the convolution's output
// never reaches memory. In the backward pass a maximum passes its gradient to one of its four inputs only,
// which takes a quarter of a convolution's work.
//
// Tensors are float32 and channels last, so a row of a filter is contiguous, and so are the values of the
// image that it is multiplied with. Gradients are added up in groups of images of a fixed size, so the result
// does not depend on the number of threads.
//
// In names, `x` and `y` are a column and a row of the output, `k` and `ky` those of a filter.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;

constexpr int64_t K = 5;  // the width and height of a filter
// A block of outputs has 4 x CHANNELS vectors of sums where lanes are columns, and 2 x COLUMNS per LANES
// channels where they are channels. These numbers are chosen so that the sums stay in the vector registers.
#if defined(__AVX512F__)
constexpr int64_t LANES = 16, COLUMNS = 4, CHANNELS = 6;
#elif defined(__AVX__)
constexpr int64_t LANES = 8, COLUMNS = 2, CHANNELS = 2;
#else
constexpr int64_t LANES = 4, COLUMNS = 2, CHANNELS = 2;
#endif
constexpr int64_t GROUP = 16;           // the number of images whose gradients are added up in order
constexpr int64_t PADDING = 2 * LANES;  // the last vectors reach so far beyond an image, without effect
constexpr uint8_t OFF = 4;              // the value of argmax where ReLU gives 0 and passes no gradient

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));

Vector load(const float* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);  // works for addresses that are not aligned, too
  return vector;
}

// Per lane, `value` is the maximum of four values, or 0 if all are negative; `index` says which of the four
// it is, or OFF.
struct Maximum {
  using Index = decltype(Vector{} > Vector{});
  Vector value;
  Index index{};

  explicit Maximum(const Vector (&values)[4]) : value(values[0]) {
    for (int i = 1; i < 4; i++) {
      const Index wins = (values[i] > value) | (values[i] != values[i]);  // NaN wins, as in PyTorch
      value = wins ? values[i] : value;
      index = wins ? Index{} + i : index;
    }
    // ReLU is applied to the maximum, which gives the same as to each of the four.
    const Index is_off = value <= 0;
    value = is_off ? Vector{} : value;
    index = is_off ? Index{} + OFF : index;
  }

  // Write the first `count` lanes to every `stride`th element of `out` and `argmax`.
  void store(int64_t count, int64_t stride, float* out, uint8_t* argmax) const {
    float values[LANES];
    int32_t indices[LANES];
    std::memcpy(values, &value, sizeof value);
    std::memcpy(indices, &index, sizeof index);
    for (int64_t lane = 0; lane < count; lane++) {
      out[lane * stride] = values[lane];
      argmax[lane * stride] = static_cast<uint8_t>(indices[lane]);
    }
  }
};

// A layer maps (N, IN, height, width) to (N, OUT, out_height, out_width).
template <int64_t IN, int64_t OUT>
class Layer {
  static constexpr int64_t ROW = K * IN;                       // the number of values in a row of a filter
  static constexpr int64_t PARTS = (ROW + LANES - 1) / LANES;  // the number of vectors that hold a row
  static constexpr int64_t FILTERS = OUT * K * PARTS;          // the number of vectors that hold all filters
  static constexpr bool BY_COLUMN = OUT % LANES != 0;  // a lane is an output column, or else a channel
  using Patch = Vector[K][PARTS];

  const int64_t images, height, width, out_height, out_width;
  const int64_t stride = width * IN, size = height * stride, out_size = out_height * out_width * OUT;
  const int64_t half = (width + 1) / 2, plane = height * half;  // the size of the even, or of the odd columns

 public:
  explicit Layer(const Tensor& x)
      : images(x.size(0)),
        height(x.size(2)),
        width(x.size(3)),
        out_height((height - K + 1) / 2),
        out_width((width - K + 1) / 2) {}

  void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& out, Tensor& argmax) const {
    const float *filters = weight.const_data_ptr<float>(), *biases = bias.const_data_ptr<float>();
    // Where lanes are channels, a vector holds one weight of each filter: [K * ROW][OUT].
    std::vector<float> transposed(K * ROW * OUT);
    for (int64_t i = 0; i < OUT * K * ROW; i++) transposed[i % (K * ROW) * OUT + i / (K * ROW)] = filters[i];
    const float* from = x.const_data_ptr<float>();
    float* to = out.mutable_data_ptr<float>();
    uint8_t* to_argmax = argmax.mutable_data_ptr<uint8_t>();
    parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> image(2 * size + PADDING);
      for (int64_t n = begin; n < end; n++) {
        if constexpr (BY_COLUMN)
          split_columns(from + n * size, image.data());
        else
          std::copy_n(from + n * size, size, image.data());
        // A row is computed in blocks. Its last block ends at the border, so it may compute again what the
        // block before it has computed: the same values, without a special case for the rest of a row.
        const int64_t block = BY_COLUMN ? LANES : COLUMNS / 2;
        for (int64_t y = 0; y < out_height; y++)
          for (int64_t x = 0; x < out_width; x += block) {
            const int64_t start = std::max<int64_t>(0, std::min(x, out_width - block));
            float* o = to + n * out_size;
            uint8_t* a = to_argmax + n * out_size;
            if constexpr (BY_COLUMN)
              forward_columns(image.data(), filters, biases, y, start, o, a);
            else
              forward_channels(image.data(), transposed.data(), biases, y, start, o, a);
          }
      }
    });
  }

  // Write the gradients of weight, bias and x from `gradient`, the gradient of the output. `x_gradient` is
  // empty if x needs no gradient.
  void backward(const Tensor& x, const Tensor& weight, const Tensor& gradient, const Tensor& argmax,
                Tensor& x_gradient, Tensor& weight_gradient, Tensor& bias_gradient) const {
    // Each row of a filter begins with a vector of its own, so that it can be loaded without its neighbor.
    std::vector<Vector> filters(FILTERS);
    for (int64_t row = 0; row < OUT * K; row++)
      std::memcpy(&filters[row * PARTS], weight.const_data_ptr<float>() + row * ROW, ROW * sizeof(float));
    // Threads add to the sums of their own groups. Without an image there is one group, whose sums are 0.
    const int64_t groups = std::max<int64_t>(1, (images + GROUP - 1) / GROUP);
    std::vector<Vector> filter_sums(groups * FILTERS);
    std::vector<float> bias_sums(groups * OUT);
    const float *from = x.const_data_ptr<float>(), *gradients = gradient.const_data_ptr<float>();
    const uint8_t* from_argmax = argmax.const_data_ptr<uint8_t>();
    float* to = x_gradient.numel() ? x_gradient.mutable_data_ptr<float>() : nullptr;
    parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> image(size + PADDING);
      for (int64_t n = begin * GROUP; n < std::min(images, end * GROUP); n++) {
        const float* g = gradients + n * out_size;
        const uint8_t* a = from_argmax + n * out_size;
        std::copy_n(from + n * size, size, image.data());
        const int64_t group = n / GROUP;
        add_weight_gradient(image.data(), g, a, &filter_sums[group * FILTERS], &bias_sums[group * OUT]);
        if (to == nullptr) continue;
        // The padded buffer, now free, takes the gradient: the last vectors write beyond the image's end.
        std::fill(image.begin(), image.end(), 0.0f);
        add_x_gradient(filters.data(), g, a, image.data());
        std::copy_n(image.data(), size, to + n * size);
      }
    });
    // The groups are added in order, on one thread, so rounding is the same for any number of threads.
    for (int64_t group = 1; group < groups; group++) {
      for (int64_t i = 0; i < FILTERS; i++) filter_sums[i] += filter_sums[group * FILTERS + i];
      for (int64_t o = 0; o < OUT; o++) bias_sums[o] += bias_sums[group * OUT + o];
    }
    for (int64_t row = 0; row < OUT * K; row++)
      std::memcpy(weight_gradient.mutable_data_ptr<float>() + row * ROW, &filter_sums[row * PARTS],
                  ROW * sizeof(float));
    std::copy_n(bias_sums.begin(), OUT, bias_gradient.mutable_data_ptr<float>());
  }

 private:
  // Copy an image to [IN][2][height][half], even columns apart from odd ones: pooling makes the lanes of a
  // vector read every second column, which are then contiguous.
  void split_columns(const float* image, float* planes) const {
    for (int64_t y = 0; y < height; y++)
      for (int64_t i = 0; i < IN; i++)
        for (int64_t odd = 0; odd < 2; odd++)
          for (int64_t x = 0; 2 * x + odd < width; x++)
            planes[(2 * i + odd) * plane + y * half + x] = image[y * stride + (2 * x + odd) * IN + i];
  }

  // Compute the outputs (y, x) to (y, x + LANES - 1) of one image, as far as they exist, from split columns.
  void forward_columns(const float* planes, const float* filters, const float* biases, int64_t y, int64_t x,
                       float* out, uint8_t* argmax) const {
    for (int64_t first = 0; first < OUT; first += CHANNELS) {
      // The second index is the place among the four convolutions that are pooled, row by row.
      Vector sums[CHANNELS][4];
      for (int64_t c = 0; c < CHANNELS; c++) std::fill_n(sums[c], 4, Vector{} + biases[first + c]);
      for (int64_t ky = 0; ky < K; ky++)
        for (int64_t k = 0; k < ROW; k++) {
          const float* even = planes + 2 * (k % IN) * plane + (2 * y + ky) * half + x;
          Vector values[4];
          for (int64_t index = 0; index < 4; index++) {
            const int64_t column = index % 2 + k / IN;
            values[index] = load(even + column % 2 * plane + index / 2 * half + column / 2);
          }
          for (int64_t c = 0; c < CHANNELS; c++)
            for (int64_t index = 0; index < 4; index++)
              sums[c][index] += filters[((first + c) * K + ky) * ROW + k] * values[index];
        }
      for (int64_t c = 0; c < CHANNELS; c++) {
        const int64_t at = (y * out_width + x) * OUT + first + c;
        Maximum(sums[c]).store(std::min(LANES, out_width - x), OUT, out + at, argmax + at);
      }
    }
  }

  // Compute the outputs (y, x) to (y, x + COLUMNS / 2 - 1) of one image, as far as they exist.
  void forward_channels(const float* image, const float* filters, const float* biases, int64_t y, int64_t x,
                        float* out, uint8_t* argmax) const {
    constexpr int64_t parts = OUT / LANES;
    Vector sums[2][COLUMNS][parts];
    for (auto& row : sums)
      for (auto& column : row)
        for (int64_t part = 0; part < parts; part++) column[part] = load(biases + part * LANES);
    for (int64_t ky = 0; ky < K; ky++) {
      const float* values = image + (2 * y + ky) * stride + 2 * x * IN;
      for (int64_t k = 0; k < ROW; k++)
        for (int64_t part = 0; part < parts; part++) {
          const Vector filter = load(filters + (ky * ROW + k) * OUT + part * LANES);
          for (int64_t row = 0; row < 2; row++)
            for (int64_t column = 0; column < COLUMNS; column++)
              sums[row][column][part] += values[row * stride + column * IN + k] * filter;
        }
    }
    for (int64_t c = 0; c < std::min(COLUMNS, 2 * (out_width - x)); c += 2)
      for (int64_t part = 0; part < parts; part++) {
        const int64_t at = (y * out_width + x + c / 2) * OUT + part * LANES;
        const Vector values[4] = {sums[0][c][part], sums[0][c + 1][part], sums[1][c][part],
                                  sums[1][c + 1][part]};
        Maximum(values).store(LANES, 1, out + at, argmax + at);
      }
  }

  // Add one image's gradient of the weights and of the bias. An output adds to its filter's gradient the
  // patch whose convolution was the maximum, times the output's gradient.
  void add_weight_gradient(const float* image, const float* gradient, const uint8_t* argmax,
                           Vector* filter_sums, float* bias_sums) const {
    for (int64_t o = 0; o < OUT; o++) {
      Patch sums = {};  // the filter's gradient over the whole image
      float bias_sum = 0;
      for (int64_t y = 0; y < out_height; y++)
        for (int64_t x = 0; x < out_width; x++) {
          // Where ReLU gave 0, the patch of index 0 is added 0 times, which needs no branch.
          const int64_t at = (y * out_width + x) * OUT + o, index = argmax[at] % OFF;
          const float g = argmax[at] == OFF ? 0 : gradient[at];
          const float* patch = image + patch_offset(y, x, index);
          bias_sum += g;
          for (int64_t ky = 0; ky < K; ky++)
            for (int64_t part = 0; part < PARTS; part++)
              sums[ky][part] += g * load(patch + ky * stride + part * LANES);
        }
      for (int64_t i = 0; i < K * PARTS; i++) filter_sums[o * K * PARTS + i] += sums[i / PARTS][i % PARTS];
      bias_sums[o] += bias_sum;
    }
  }

  // Add one image's gradient of x to `image`. An output's gradient goes, times its filter, to the patch whose
  // convolution was the maximum.
  void add_x_gradient(const Vector* filters, const float* gradient, const uint8_t* argmax,
                      float* image) const {
    for (int64_t y = 0; y < out_height; y++)
      for (int64_t x = 0; x < out_width; x++)
        for (int64_t index = 0; index < 4; index++) {
          const int64_t at = (y * out_width + x) * OUT;
          // List the channels whose maximum is at this place. Each is written, and counted only if it belongs
          // there: which do is random, so a branch would be mispredicted.
          int64_t channels[OUT], count = 0;
          for (int64_t o = 0; o < OUT; o++) {
            channels[count] = o;
            count += argmax[at + o] == index;
          }
          // The filters of these channels are added up first, so that the patch is read and written once.
          Patch sums = {};
          for (int64_t i = 0; i < count; i++)
            for (int64_t ky = 0; ky < K; ky++)
              for (int64_t part = 0; part < PARTS; part++)
                sums[ky][part] += gradient[at + channels[i]] * filters[(channels[i] * K + ky) * PARTS + part];
          float* patch = image + patch_offset(y, x, index);
          for (int64_t ky = 0; ky < K; ky++) {
            // Lanes beyond the row hold 0 times a gradient, which is NaN for an infinite one, and would reach
            // the next columns of the image.
            Vector& last = sums[ky][PARTS - 1];
            last = lanes_of_row() ? last : Vector{};
            for (int64_t part = 0; part < PARTS; part++) {
              float* to = patch + ky * stride + part * LANES;
              const Vector sum = load(to) + sums[ky][part];
              std::memcpy(to, &sum, sizeof sum);
            }
          }
        }
  }

  // Return a mask of the lanes in the last vector of a filter's row that hold values of the row.
  static Maximum::Index lanes_of_row() {
    Maximum::Index is_in_row{};
    for (int64_t lane = 0; lane < ROW - (PARTS - 1) * LANES; lane++) is_in_row[lane] = -1;
    return is_in_row;
  }

  // Return the offset in the image of the patch that the output (y, x) pools as its `index`th of four.
  int64_t patch_offset(int64_t y, int64_t x, int64_t index) const {
    return (2 * y + index / 2) * stride + (2 * x + index % 2) * IN;
  }
};

// Raise an error unless the tensor has this type, these sizes and its channels last: the loops trust them, so
// a wrong argument would corrupt memory.
void check(const char* name, const Tensor& tensor, ScalarType type, const std::vector<int64_t>& sizes) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == type, name, " must be on the CPU, of ",
                  type == ScalarType::Byte ? "uint8" : "float32");
  const int64_t dimensions = static_cast<int64_t>(sizes.size());
  bool has_sizes = tensor.dim() == dimensions;
  for (int64_t i = 0; has_sizes && i < dimensions; i++) has_sizes = tensor.size(i) == sizes[i];
  std::string expected;
  for (const int64_t size : sizes) expected += (expected.empty() ? "(" : ", ") + std::to_string(size);
  STD_TORCH_CHECK(has_sizes, name, " must have the sizes ", expected, ")");
  // Channels last means that strides grow in the order: channels, columns, rows, images.
  int64_t stride = 1;
  for (const int64_t i : dimensions == 4 ? std::vector<int64_t>{1, 3, 2, 0} : std::vector<int64_t>{0}) {
    STD_TORCH_CHECK(tensor.numel() == 0 || sizes[i] == 1 || tensor.stride(i) == stride, name,
                    " must be dense in memory, with its channels last");
    stride *= sizes[i];
  }
}

// Check the arguments that forward and backward have in common. `out` is the output, or its gradient.
template <int64_t IN, int64_t OUT>
void check_layer(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
                 const Tensor& argmax) {
  const int64_t images = x.size(0), height = x.size(2), width = x.size(3);
  STD_TORCH_CHECK(height > K && width > K, "x must have at least ", K + 1, " x ", K + 1, " pixels");
  const std::vector<int64_t> pooled{images, OUT, (height - K + 1) / 2, (width - K + 1) / 2};
  check("x", x, ScalarType::Float, {images, IN, height, width});
  check("weight", weight, ScalarType::Float, {OUT, IN, K, K});
  check("bias, or its gradient,", bias, ScalarType::Float, {OUT});
  check("out, or its gradient,", out, ScalarType::Float, pooled);
  check("argmax", argmax, ScalarType::Byte, pooled);
}

// Return the input channels, which tell the first layer of `Net` (3) from the second (6).
int64_t count_channels(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && (x.size(1) == 3 || x.size(1) == 6), "x must be (N, 3 or 6, height, width)");
  return x.size(1);
}

template <int64_t IN, int64_t OUT>
void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& out, Tensor& argmax) {
  check_layer<IN, OUT>(x, weight, bias, out, argmax);
  Layer<IN, OUT>(x).forward(x, weight, bias, out, argmax);
}

template <int64_t IN, int64_t OUT>
void backward(const Tensor& x, const Tensor& weight, const Tensor& gradient, const Tensor& argmax,
              Tensor& x_gradient, Tensor& weight_gradient, Tensor& bias_gradient) {
  check_layer<IN, OUT>(x, weight, bias_gradient, gradient, argmax);
  check("weight_gradient", weight_gradient, ScalarType::Float, {OUT, IN, K, K});
  if (x_gradient.numel())
    check("x_gradient", x_gradient, ScalarType::Float, {x.size(0), IN, x.size(2), x.size(3)});
  Layer<IN, OUT>(x).backward(x, weight, gradient, argmax, x_gradient, weight_gradient, bias_gradient);
}

void conv_pool_relu(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor out, Tensor argmax) {
  (count_channels(x) == 3 ? forward<3, 6> : forward<6, 16>)(x, weight, bias, out, argmax);
}

void conv_pool_relu_backward(const Tensor& x, const Tensor& weight, const Tensor& gradient,
                             const Tensor& argmax, Tensor x_gradient, Tensor weight_gradient,
                             Tensor bias_gradient) {
  (count_channels(x) == 3 ? backward<3, 6> : backward<6, 16>)(x, weight, gradient, argmax, x_gradient,
                                                              weight_gradient, bias_gradient);
}

}  // namespace

STABLE_TORCH_LIBRARY(cifarflow, library) {
  library.def(
      "conv_pool_relu(Tensor x, Tensor weight, Tensor bias, Tensor(a!) out, Tensor(b!) argmax) -> ()");
  library.def(
      "conv_pool_relu_backward(Tensor x, Tensor weight, Tensor gradient, Tensor argmax, Tensor(a!) "
      "x_gradient, "
      "Tensor(b!) weight_gradient, Tensor(c!) bias_gradient) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(cifarflow, CPU, library) {
  library.impl("conv_pool_relu", TORCH_BOX(&conv_pool_relu));
  library.impl("conv_pool_relu_backward", TORCH_BOX(&conv_pool_relu_backward));
}
