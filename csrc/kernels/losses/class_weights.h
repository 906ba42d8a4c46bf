// Weights of rows and of classes of any size, as softmax cross-entropy can use them.

#ifndef FUSEPROP_KERNELS_LOSSES_CLASS_WEIGHTS_H_
#define FUSEPROP_KERNELS_LOSSES_CLASS_WEIGHTS_H_

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/losses/row_weights.h"
#include "kernels/losses/softmax_cross_entropy.h"
#include "simd/parameter.h"

namespace fuseprop {

// Rewrites the arguments of a call; holds the memory of what is new in them.
template <class T>
class ModerateWeights {
 public:
  // For any output: the weights as they are if that will do. With mean_of_labels, all of them are divided by one power
  // of two otherwise, which a mean does not notice. Returns its exponent, by which the sum of the losses is still to be
  // multiplied. The labels are checked: `result` says which row is invalid.
  int Moderate(SoftmaxCrossEntropyArgs<T>* args, SoftmaxCrossEntropyResult* result) {
    result->first_invalid_row = args->rows;
    if (args->options == nullptr) return 0;
    const bool classes_are_moderate = AreModerate(*args->options, args->classes);
    if (args->labels != nullptr && (args->mean_of_labels || !classes_are_moderate)) {
      *result = CheckSoftmaxCrossEntropyLabels(*args);
      if (result->first_invalid_row < args->rows) return 0;
    }
    if (args->mean_of_labels) {
      const double mean = result->denominator / static_cast<double>(std::max(args->rows, size_t{1}));
      if (result->denominator == 0.0 || (classes_are_moderate && IsModerate(mean))) return 0;
      return Normalise(args);
    }
    if (classes_are_moderate) return 0;
    if (IsProduct(*args)) {
      Fold(args, false);
      return 0;
    }
    // These are wanted as they are.
    if (args->row_value != nullptr || args->hess != nullptr) return 0;
    const int exponent = NormaliseClasses(args);
    args->scale = std::ldexp(args->scale, exponent);
    return exponent;
  }

  // For the sum of the losses alone: no weight is above 1. The labels must be valid. Returns the exponent of the power
  // of two by which the sum is to be multiplied.
  int Normalise(SoftmaxCrossEntropyArgs<T>* args) {
    if (IsProduct(*args)) return Fold(args, true);
    int exponent = 0;
    if (args->weight != nullptr) {
      weight_.resize(args->rows);
      exponent += Normalised(args->weight, args->rows, weight_.data());
      args->weight = weight_.data();
    }
    if (args->options != nullptr && args->options->class_weight != nullptr) exponent += NormaliseClasses(args);
    return exponent;
  }

 private:
  static bool AreModerate(const SoftmaxCrossEntropyOptions<T>& options, size_t classes) {
    const double* weight = options.exact_class_weight;
    return weight == nullptr ||
           std::all_of(weight, weight + classes, [](double w) { return w == 0.0 || IsModerate(w); });
  }

  // Whether a row's loss is its weight times that of its label times what knows no weights.
  static bool IsProduct(const SoftmaxCrossEntropyArgs<T>& args) {
    return args.labels != nullptr && args.hess == nullptr && args.options != nullptr &&
           args.options->class_weight != nullptr && args.options->smoothing == 0.0 && args.options->z_loss == 0.0;
  }

  // Makes those products the weights of the rows. What is left of the class weights is which of them are 0.
  int Fold(SoftmaxCrossEntropyArgs<T>* args, bool normalise) {
    const size_t rows = args->rows;
    const double* const class_weight = args->options->exact_class_weight;
    std::vector<double> of_label(rows);  // 0 for rows that are ignored
    constexpr size_t kMost = 1024;
    size_t kept[kMost];
    int64_t labels[kMost];
    const int64_t ignored = args->options->ignores ? args->options->ignored_label : -1;
    for (size_t begin = 0, count = kMost; count == kMost; begin = count == 0 ? 0 : kept[count - 1] + 1) {
      count = FindKeptRows(args->labels, args->label_kind, rows, ignored, begin, kMost, kept, labels);
      for (size_t i = 0; i < count; ++i) {
        // Labels may have changed since they were checked.
        if (static_cast<uint64_t>(labels[i]) < args->classes) of_label[kept[i]] = class_weight[labels[i]];
      }
    }
    weight_.resize(rows);
    const auto weight = [&](size_t row) { return args->weight == nullptr ? 1.0 : double{args->weight[row]}; };
    int exponent = 0;
    if (normalise) {
      exponent = NormalisedProducts(rows, weight, [&](size_t row) { return of_label[row]; }, weight_.data());
    } else {
      for (size_t row = 0; row < rows; ++row) weight_[row] = static_cast<T>(weight(row) * of_label[row]);
    }
    exact_.resize(args->classes);
    class_weight_.resize(args->classes);
    for (size_t j = 0; j < args->classes; ++j) {
      exact_[j] = class_weight[j] != 0.0;
      class_weight_[j] = static_cast<T>(exact_[j]);
    }
    args->weight = weight_.data();
    TakeClasses(args);
    return exponent;
  }

  int NormaliseClasses(SoftmaxCrossEntropyArgs<T>* args) {
    exact_.resize(args->classes);
    class_weight_.resize(args->classes);
    const int exponent = Normalised(args->options->exact_class_weight, args->classes, exact_.data());
    std::transform(exact_.begin(), exact_.end(), class_weight_.begin(), Parameter<T>);
    TakeClasses(args);
    options_.z_loss = std::ldexp(options_.z_loss, -exponent);
    return exponent;
  }

  void TakeClasses(SoftmaxCrossEntropyArgs<T>* args) {
    options_ = *args->options;
    options_.exact_class_weight = exact_.data();
    options_.class_weight = class_weight_.data();
    args->options = &options_;
  }

  std::vector<T> weight_, class_weight_;
  std::vector<double> exact_;
  SoftmaxCrossEntropyOptions<T> options_;
};

}  // namespace fuseprop

#endif  // FUSEPROP_KERNELS_LOSSES_CLASS_WEIGHTS_H_
