// For each block of rows of x:
//   z = x weight + bias;  g = dL/dz, in z's place;  dx = g weight^T;  dweight += x^T g;  dbias += the sum of g's rows
// The blocks are taken one after the other, each product on all threads. Each of them costs one more sweep over
// dweight.

#include "kernels/linear_xent.h"

#include <algorithm>
#include <vector>

#include "kernels/matmul.h"

namespace fuseprop {
namespace {

// So many rows of logits stay in the cache from one product to the next, and no more are needed for the sweep over
// dweight to vanish beside the products.
constexpr size_t kBlockRows = 256;
constexpr size_t kLeastBytes = size_t{2} << 20;
constexpr size_t kMostBytes = size_t{40} << 20;

// Rows [begin, begin + rows) of what `all` is about.
template <class T>
SoftmaxXentArgs<T> Rows(const SoftmaxXentArgs<T>& all, size_t begin, size_t rows) {
  static constexpr size_t kLabelBytes[] = {1, 2, 4, 8, 1, 2, 4, 8};  // of each LabelKind
  SoftmaxXentArgs<T> args = all;
  args.rows = rows;
  if (all.labels != nullptr) {
    args.labels = static_cast<const char*>(all.labels) + begin * kLabelBytes[static_cast<size_t>(all.label_kind)];
  }
  if (all.distribution != nullptr) args.distribution = all.distribution + begin * all.classes;
  if (all.weight != nullptr) args.weight = all.weight + begin;
  if (all.row_value != nullptr) args.row_value = all.row_value + begin;
  return args;
}

template <class T>
void Gradients(const LinearXentArgs<T>& args, const T* x, size_t begin, size_t rows, std::vector<T>* bias_sum,
               std::vector<double>* bias_total) {
  const size_t classes = args.loss.classes;

  MatmulArgs<T> by_x;  // (rows, classes) times (classes, features)
  by_x.m = rows;
  by_x.n = args.features;
  by_x.k = classes;
  by_x.a = args.logits;
  by_x.lda = classes;
  by_x.b = args.weight;
  by_x.ldb = args.weight_stride;
  by_x.transpose_b = !args.weight_transposed;
  by_x.c = args.dx + begin * args.features;
  by_x.ldc = args.features;
  Matmul(by_x);

  MatmulArgs<T> by_weight;  // (features, rows) times (rows, classes)
  by_weight.m = args.features;
  by_weight.n = classes;
  by_weight.k = rows;
  by_weight.a = x;
  by_weight.lda = args.x_stride;
  by_weight.transpose_a = !args.x_transposed;
  by_weight.b = args.logits;
  by_weight.ldb = classes;
  by_weight.c = args.dweight;
  by_weight.ldc = classes;
  by_weight.accumulate = begin != 0;
  Matmul(by_weight);

  if (args.dbias == nullptr) return;
  ColumnSum(args.logits, rows, classes, classes, false, bias_sum->data());
  for (size_t j = 0; j < classes; ++j) (*bias_total)[j] += static_cast<double>((*bias_sum)[j]);
}

template <class T>
SoftmaxXentResult Run(const LinearXentArgs<T>& args) {
  const size_t rows = args.loss.rows;
  const size_t classes = args.loss.classes;
  SoftmaxXentArgs<T> loss = args.loss;
  SoftmaxXentResult result;
  result.first_invalid_row = rows;
  if (loss.labels != nullptr) {
    result = CheckSoftmaxXentLabels(loss);
    if (result.first_invalid_row < rows) return result;
    if (loss.mean_of_labels) loss.scale = result.denominator == 0.0 ? 0.0 : 1.0 / result.denominator;
    loss.mean_of_labels = false;
  }
  const bool want_grad = args.dweight != nullptr;
  std::vector<T> bias_sum(args.dbias != nullptr ? classes : 0);
  std::vector<double> bias_total(bias_sum.size());
  if (want_grad && rows == 0) std::fill_n(args.dweight, args.features * classes, T(0));

  const size_t block_rows = LinearXentBlockRows(rows, classes, sizeof(T));
  for (size_t begin = 0; begin < rows; begin += block_rows) {
    const size_t count = std::min(block_rows, rows - begin);
    const T* x = args.x + (args.x_transposed ? begin : begin * args.x_stride);
    MatmulArgs<T> product;  // (count, features) times (features, classes)
    product.m = count;
    product.n = classes;
    product.k = args.features;
    product.a = x;
    product.lda = args.x_stride;
    product.transpose_a = args.x_transposed;
    product.b = args.weight;
    product.ldb = args.weight_stride;
    product.transpose_b = args.weight_transposed;
    product.c = args.logits;
    product.ldc = classes;
    product.bias = args.bias;
    Matmul(product);

    SoftmaxXentArgs<T> block = Rows(loss, begin, count);
    block.logits = args.logits;
    block.grad = want_grad ? args.logits : nullptr;
    const SoftmaxXentResult found = SoftmaxXent(block);
    if (found.first_invalid_row < count) {
      result.first_invalid_row = begin + found.first_invalid_row;
      return result;
    }
    result.sum += found.sum;
    if (want_grad) Gradients(args, x, begin, count, &bias_sum, &bias_total);
  }
  std::transform(bias_total.begin(), bias_total.end(), args.dbias, [](double sum) { return static_cast<T>(sum); });
  return result;
}

}  // namespace

size_t LinearXentBlockRows(size_t rows, size_t classes, size_t item_size) {
  const size_t row_bytes = std::max(size_t{1}, classes * item_size);
  const size_t bytes = std::clamp(kBlockRows * row_bytes, kLeastBytes, kMostBytes);
  const size_t most = std::max(size_t{1}, bytes / row_bytes);
  if (rows <= most) return rows;
  // Blocks of equal size.
  const size_t blocks = (rows + most - 1) / most;
  return (rows + blocks - 1) / blocks;
}

SoftmaxXentResult LinearXent(const LinearXentArgs<float>& args) { return Run(args); }
SoftmaxXentResult LinearXent(const LinearXentArgs<double>& args) { return Run(args); }

}  // namespace fuseprop
