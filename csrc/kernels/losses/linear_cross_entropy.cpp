// For each block of rows of x:
//   z = x weight + bias;  g = dL/dz, in z's place;  dweight += x^T g;  dbias += the sum of g's rows;  dx = g weight^T
// The blocks are taken one after the other, each product on all threads. Each of them costs one more sweep over
// dweight.

#include "kernels/losses/linear_cross_entropy.h"

#include <algorithm>
#include <vector>

#include "kernels/dense/dense_gradient.h"
#include "kernels/dense/matmul.h"
#include "kernels/losses/class_weights.h"

namespace fuseprop {
namespace {

// So many rows suffice for the sweep over dweight to vanish beside the products. Fewer bytes than the least gain
// nothing, as they stay in the cache from one product to the next.
constexpr size_t kBlockRows = 256;
constexpr size_t kLeastBytes = size_t{2} << 20;
constexpr size_t kMostBytes = size_t{40} << 20;

// The most rows of a block. Does not depend on the threads, so that the results do not either.
template <class T>
size_t BlockRows(const LinearCrossEntropyArgs<T>& args) {
  const size_t rows = args.loss.rows;
  const size_t row_bytes = (args.loss.classes + args.features) * sizeof(T);
  if (row_bytes == 0) return rows;  // of which there may be more than a loop over blocks ever gets through
  const size_t bytes = std::clamp(kBlockRows * row_bytes, kLeastBytes, kMostBytes);
  const size_t most = std::max(size_t{1}, bytes / row_bytes);
  if (rows <= most) return rows;
  // Blocks of equal size.
  const size_t blocks = (rows + most - 1) / most;
  return (rows + blocks - 1) / blocks;
}

template <class T>
bool Ignores(const LinearCrossEntropyArgs<T>& args) {
  return args.loss.labels != nullptr && args.loss.options != nullptr && args.loss.options->ignores;
}

template <class T>
size_t Memory(const LinearCrossEntropyArgs<T>& args) {
  return BlockRows(args) * (args.loss.classes + (Ignores(args) ? args.features : 0));
}

// Some of the rows.
template <class T>
struct Block {
  const T* x;
  size_t x_stride;
  bool x_transposed;
  SoftmaxCrossEntropyArgs<T> loss;
  T* dx;  // perhaps x itself
};

// The rows that count, a block at a time. Where rows may be ignored, the others are copied next to each other: what is
// in the ignored ones has no influence then, and costs nothing.
template <class T>
class Blocks {
 public:
  explicit Blocks(const LinearCrossEntropyArgs<T>& args)
      : args_(args), ignores_(Ignores(args)), most_(BlockRows(args)), copied_x_(args.memory) {
    if (!ignores_) return;
    copied_x_ += most_ * args.loss.classes;
    kept_.resize(most_);
    labels_.resize(most_);
    if (args.loss.weight != nullptr) weight_.resize(most_);
    if (args.loss.row_value != nullptr) value_.resize(most_);
  }

  // The outputs of rows that are ignored.
  void SetZeros() const {
    if (!ignores_) return;
    if (args_.loss.row_value != nullptr) std::fill_n(args_.loss.row_value, args_.loss.rows, T(0));
    if (args_.dx != nullptr) std::fill_n(args_.dx, args_.loss.rows * args_.features, T(0));
  }

  // The first row after the blocks so far.
  size_t next() const { return next_; }

  // The next block; without rows if there is none.
  Block<T> Next() { return ignores_ ? NextCopied() : NextOfAll(); }

  // Puts the results of a block into their places.
  void Finish(const Block<T>& block) const {
    if (!ignores_) return;
    for (size_t r = 0; r < block.loss.rows; ++r) {
      if (args_.loss.row_value != nullptr) args_.loss.row_value[kept_[r]] = value_[r];
      if (args_.dx != nullptr) std::copy_n(block.dx + r * args_.features, args_.features, Dx(kept_[r]));
    }
  }

 private:
  const T* X(size_t row) const { return args_.x + (args_.x_transposed ? row : row * args_.x_stride); }
  T* Dx(size_t row) const { return args_.dx == nullptr ? nullptr : args_.dx + row * args_.features; }

  Block<T> NextOfAll() {
    static constexpr size_t kLabelBytes[] = {1, 2, 4, 8, 1, 2, 4, 8};  // of each LabelKind
    const size_t begin = next_;
    Block<T> block = {X(begin), args_.x_stride, args_.x_transposed, args_.loss, Dx(begin)};
    SoftmaxCrossEntropyArgs<T>& loss = block.loss;
    loss.rows = std::min(most_, loss.rows - begin);
    next_ += loss.rows;
    if (loss.labels != nullptr) {
      loss.labels = static_cast<const char*>(loss.labels) + begin * kLabelBytes[static_cast<size_t>(loss.label_kind)];
    }
    if (loss.distribution != nullptr) loss.distribution += begin * loss.classes;
    if (loss.weight != nullptr) loss.weight += begin;
    if (loss.row_value != nullptr) loss.row_value += begin;
    return block;
  }

  Block<T> NextCopied() {
    Block<T> block = {copied_x_, args_.features, false, args_.loss, copied_x_};
    SoftmaxCrossEntropyArgs<T>& loss = block.loss;
    loss.rows = FindKeptRows(loss.labels, loss.label_kind, loss.rows, loss.options->ignored_label, next_, most_,
                             kept_.data(), labels_.data());
    if (loss.rows == 0) return block;
    next_ = kept_[loss.rows - 1] + 1;
    T* to = copied_x_;
    for (size_t r = 0; r < loss.rows; ++r, to += args_.features) {
      const T* from = X(kept_[r]);
      if (args_.x_transposed) {
        for (size_t k = 0; k < args_.features; ++k) to[k] = from[k * args_.x_stride];
      } else {
        std::copy_n(from, args_.features, to);
      }
      if (loss.weight != nullptr) weight_[r] = loss.weight[kept_[r]];
    }
    loss.labels = labels_.data();
    loss.label_kind = LabelKind::kInt64;
    if (loss.weight != nullptr) loss.weight = weight_.data();
    if (loss.row_value != nullptr) loss.row_value = value_.data();
    return block;
  }

  const LinearCrossEntropyArgs<T>& args_;
  const bool ignores_;
  const size_t most_;
  size_t next_ = 0;
  T* copied_x_;
  std::vector<size_t> kept_;
  std::vector<int64_t> labels_;
  std::vector<T> weight_, value_;
};

template <class T>
void Logits(const LinearCrossEntropyArgs<T>& args, const Block<T>& block) {
  MatmulArgs<T> product;  // (rows, features) times (features, classes)
  product.m = block.loss.rows;
  product.n = block.loss.classes;
  product.k = args.features;
  product.a = block.x;
  product.lda = block.x_stride;
  product.transpose_a = block.x_transposed;
  product.b = args.weight;
  product.ldb = args.weight_stride;
  product.transpose_b = args.weight_transposed;
  product.c = args.memory;
  product.ldc = product.n;
  product.bias = args.bias;
  Matmul(product);
}

template <class T>
void WeightGradient(const LinearCrossEntropyArgs<T>& args, const Block<T>& block, bool accumulate) {
  MatmulArgs<T> product;  // (features, rows) times (rows, classes)
  product.m = args.features;
  product.n = block.loss.classes;
  product.k = block.loss.rows;
  product.a = block.x;
  product.lda = block.x_stride;
  product.transpose_a = !block.x_transposed;
  product.b = args.memory;
  product.ldb = product.n;
  product.c = args.dweight;
  product.ldc = product.n;
  product.accumulate = accumulate;
  Matmul(product);
}

template <class T>
void XGradient(const LinearCrossEntropyArgs<T>& args, const Block<T>& block) {
  MatmulArgs<T> product;  // (rows, classes) times (classes, features)
  product.m = block.loss.rows;
  product.n = args.features;
  product.k = block.loss.classes;
  product.a = args.memory;
  product.lda = product.k;
  product.b = args.weight;
  product.ldb = args.weight_stride;
  product.transpose_b = !args.weight_transposed;
  product.c = block.dx;
  product.ldc = product.n;
  Matmul(product);
}

template <class T>
SoftmaxCrossEntropyResult Run(const LinearCrossEntropyArgs<T>& given) {
  LinearCrossEntropyArgs<T> args = given;
  SoftmaxCrossEntropyArgs<T>& loss = args.loss;
  SoftmaxCrossEntropyResult result;
  result.first_invalid_row = loss.rows;
  // Those of a mean are the same in all blocks; a sum is left to each of them.
  ModerateWeights<T> moderate;
  if (loss.mean_of_labels) {
    moderate.Moderate(&loss, &result);
  } else if (loss.labels != nullptr) {
    result = CheckSoftmaxCrossEntropyLabels(loss);
  }
  if (result.first_invalid_row < loss.rows) return result;
  loss.labels_are_checked = loss.labels != nullptr;
  const size_t classes = loss.classes;
  const bool want_grad = args.dweight != nullptr;
  std::vector<T> bias_sum(args.dbias != nullptr ? classes : 0);
  std::vector<double> bias_total(bias_sum.size());
  Blocks<T> blocks(args);
  blocks.SetZeros();

  bool first = true;
  for (;; first = false) {
    const size_t begin = blocks.next();
    Block<T> block = blocks.Next();
    if (block.loss.rows == 0) break;
    Logits(args, block);
    block.loss.logits = args.memory;
    block.loss.grad = want_grad ? args.memory : nullptr;
    const SoftmaxCrossEntropyResult found = SoftmaxCrossEntropy(block.loss);
    if (found.first_invalid_row < block.loss.rows) {  // a distribution: none of these rows are ignored
      result.first_invalid_row = begin + found.first_invalid_row;
      return result;
    }
    result.sum += found.sum;
    if (want_grad) {
      WeightGradient(args, block, !first);
      XGradient(args, block);
    }
    if (args.dbias != nullptr) {
      ColumnSum(args.memory, block.loss.rows, classes, classes, false, bias_sum.data());
      std::transform(bias_sum.begin(), bias_sum.end(), bias_total.begin(), bias_total.begin(),
                     [](T sum, double total) { return total + static_cast<double>(sum); });
    }
    blocks.Finish(block);
  }
  if (first && want_grad) std::fill_n(args.dweight, args.features * classes, T(0));
  std::transform(bias_total.begin(), bias_total.end(), args.dbias, [](double sum) { return static_cast<T>(sum); });
  return result;
}

}  // namespace

size_t LinearCrossEntropyMemory(const LinearCrossEntropyArgs<float>& args) { return Memory(args); }
size_t LinearCrossEntropyMemory(const LinearCrossEntropyArgs<double>& args) { return Memory(args); }

SoftmaxCrossEntropyResult LinearCrossEntropy(const LinearCrossEntropyArgs<float>& args) { return Run(args); }
SoftmaxCrossEntropyResult LinearCrossEntropy(const LinearCrossEntropyArgs<double>& args) { return Run(args); }

}  // namespace fuseprop
