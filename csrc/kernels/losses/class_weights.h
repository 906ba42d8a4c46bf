// Weights of rows and of classes of any size, as softmax cross-entropy can use them.

#ifndef FUSEPROP_KERNELS_LOSSES_CLASS_WEIGHTS_H_
#define FUSEPROP_KERNELS_LOSSES_CLASS_WEIGHTS_H_

#include <algorithm>
#include <cmath>
#include <limits>
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
  // of two otherwise, which a mean does not notice, and `scale` gets what it divides by. Returns the exponent of the
  // power of two by which the sum of the losses is still to be multiplied. `result` has the denominator of a mean, and
  // the first row with an invalid label, if labels have been looked at: args->labels_are_checked.
  int Moderate(SoftmaxCrossEntropyArgs<T>* args, SoftmaxCrossEntropyResult* result) {
    result->first_invalid_row = args->rows;
    if (args->options == nullptr) return 0;
    const bool classes_are_moderate = AreModerate(*args->options, args->classes);
    if (args->mean_of_labels || (args->labels != nullptr && !classes_are_moderate && !args->labels_are_checked)) {
      *result = CheckSoftmaxCrossEntropyLabels(*args);
      if (result->first_invalid_row < args->rows) return 0;
      args->labels_are_checked = true;
    }
    if (args->mean_of_labels) {
      const double mean = result->denominator / static_cast<double>(std::max(args->rows, size_t{1}));
      if (!classes_are_moderate || !IsModerate(mean)) NormaliseMean(args, result);
      args->scale = result->denominator == 0.0 ? 0.0 : 1.0 / result->denominator;
      args->mean_of_labels = false;
      return 0;
    }
    if (classes_are_moderate) return 0;
    if (IsProduct(*args)) {
      Fold(args, false);
      return 0;
    }
    // Outputs that are wanted as they are; and where the largest is, no other one matters beside it.
    if (args->row_value != nullptr || args->hess != nullptr || IsModerate(Largest(*args))) return 0;
    // A gradient is multiplied by the power of two as T: what that has no room for stays with the weights.
    const int exponent =
        NormaliseClasses(args, std::numeric_limits<T>::min_exponent, std::numeric_limits<T>::max_exponent - 1);
    args->scale = std::ldexp(args->scale, exponent);
    return exponent;
  }

  // Whether no care is needed for the sum of the losses, but where losses themselves are near the ends of T's range.
  static bool AreModerate(const SoftmaxCrossEntropyArgs<T>& args) {
    return (args.options == nullptr || AreModerate(*args.options, args.classes)) &&
           (args.weight == nullptr || IsModerate(LargestSize(args.weight, args.rows)));
  }

  // As BoundWeights does.
  int Bound(SoftmaxCrossEntropyArgs<T>* args) {
    return args->weight == nullptr ? 0 : BoundWeights(&args->weight, args->rows, &args->scale, &weight_);
  }

  // For the sum of the losses alone: no product of weights is above 2. The labels must be valid. Returns the exponent
  // of the power of two by which the sum is to be multiplied.
  int Normalise(SoftmaxCrossEntropyArgs<T>* args) {
    if (IsProduct(*args)) return Fold(args, true);
    int exponent = 0;
    if (args->weight != nullptr) {
      weight_.resize(args->rows);
      exponent += Normalised(args->weight, args->rows, weight_.data());
      args->weight = weight_.data();
    }
    if (args->options != nullptr && args->options->class_weight != nullptr) {
      exponent += NormaliseClasses(args, std::numeric_limits<int>::min(), std::numeric_limits<int>::max());
    }
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

  // All weights divided by one power of two, and the mean's denominator with them.
  void NormaliseMean(SoftmaxCrossEntropyArgs<T>* args, SoftmaxCrossEntropyResult* result) {
    const bool is_product = IsProduct(*args);
    const int exponent = Normalise(args);
    // If the products, which are rounded to T now, have added up to 0, they need not do so any more. If all of them
    // have vanished, they have not added up to it.
    constexpr int kLeast = std::numeric_limits<double>::min_exponent;
    if (result->denominator == 0.0 && is_product && exponent > kLeast) return;
    *result = CheckSoftmaxCrossEntropyLabels(*args);
  }

  // The largest factor of a row's loss.
  static double Largest(const SoftmaxCrossEntropyArgs<T>& args) {
    return std::max(LargestSize(args.options->exact_class_weight, args.classes), args.options->z_loss);
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

  // The largest of them and z_loss comes to [1, 2): products with the power of two that is left are never above those
  // with the weight itself. Its exponent is within [least, most].
  int NormaliseClasses(SoftmaxCrossEntropyArgs<T>* args, int least, int most) {
    const double largest = Largest(*args);
    const int exponent = largest > 0.0 ? std::clamp(std::ilogb(largest), least, most) : 0;
    const double* const given = args->options->exact_class_weight;
    exact_.resize(args->classes);
    class_weight_.resize(args->classes);
    std::transform(given, given + args->classes, exact_.begin(), [&](double w) { return std::ldexp(w, -exponent); });
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
