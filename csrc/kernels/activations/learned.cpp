// One pass gives dx and the gradient of the parameter. To add one: its functor below, which adds to the activation's
// ParameterDerivative, the derivative by the parameter as factor root^2 (the square alone may overflow), and its row.

#include "kernels/activations/learned.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations/learned.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "kernels/activations/activations-inl.h"
#include "simd/loops-inl.h"

#ifndef FUSEPROP_KERNELS_LEARNED_CPP_  // this file is read once per target
#define FUSEPROP_KERNELS_LEARNED_CPP_
namespace fuseprop {
namespace {
struct LearnedTable {
  const LearnedRow* rows;
  size_t size;
};
}  // namespace
}  // namespace fuseprop
#endif  // FUSEPROP_KERNELS_LEARNED_CPP_

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

// x s(beta x) by beta: x^2 s(beta x) s(-beta x).
template <class D>
struct LearnedSwish : activations::Swish<D> {
  using V = hn::Vec<D>;
  HWY_INLINE LearnedSwish(D d, const double* parameters) : activations::Swish<D>(d, parameters) {}
  HWY_INLINE void ParameterDerivative(D d, V x, V* factor, V* root) const {
    // With beta 0 the bell is 1/4 for an infinite x too.
    const V finite = this->is_zero ? activations::FiniteOrNaN(d, x) : x;
    *factor = SigmoidDerivative(d, hn::Mul(this->beta, finite));
    // 0 for an infinite x, where the bell is 0.
    *root = hn::IfThenZeroElse(hn::Eq(*factor, hn::Zero(d)), x);
  }
};

// Adds dy factor root^2 to a sum, without overflow or underflow before the end.
template <class T, class V>
HWY_INLINE void AddDerivative(size_t index, V dy, V factor, V root, Accumulator<T>& sum) {
  if constexpr (sizeof(T) == sizeof(float)) {
    sum.AddProduct(index, dy, factor, root);  // in float64, which has room for all of them
  } else {
    const hn::ScalableTag<T> d;
    // factor root^2 is no larger than the whole where dy is large, dy root where it is small.
    const auto large = hn::Ge(hn::Abs(dy), hn::Set(d, T(1)));
    const V first = hn::Mul(factor, root);
    sum.AddProduct(index, hn::IfThenElse(large, hn::Mul(first, root), hn::Mul(dy, root)),
                   hn::IfThenElse(large, dy, first));
  }
}

template <template <class> class F, class T>
double Backward(const double* parameters, const T* x, const T* dy, T* dx, size_t n) {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  const D d;
  const F<D> f(d, parameters);
  return SumOverBlocks(n, [&](size_t begin, size_t end) HWY_ATTR {
    Accumulator<T> sum;
    ForEachVector<T>(begin, end, [&](size_t i, size_t index, size_t count, auto full) HWY_ATTR {
      const V vx = full ? hn::LoadU(d, x + i) : LoadPartial(d, x + i, count);
      const V vdy = full ? hn::LoadU(d, dy + i) : LoadPartial(d, dy + i, count);
      const V result = hn::Mul(vdy, f.Derivative(d, vx));
      V factor, root;
      f.ParameterDerivative(d, vx, &factor, &root);
      AddDerivative(index, vdy, factor, root, sum);
      if (full) {
        hn::StoreU(result, d, dx + i);
      } else {
        StorePartial(result, d, dx + i, count);
      }
    });
    return sum.Total();
  });
}

template <template <class> class F>
constexpr LearnedRow Row(const char* name, const char* parameter) {
  return {name, parameter, {Backward<F, float>}, {Backward<F, double>}};
}

const LearnedTable& Table() {
  static constexpr LearnedRow rows[] = {Row<LearnedSwish>("swish", "beta")};
  static constexpr LearnedTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

const LearnedRow* FindLearned(const char* name) {
  const LearnedTable& table = FUSEPROP_DISPATCH(Table)();
  for (size_t i = 0; i < table.size; ++i) {
    if (std::strcmp(table.rows[i].name, name) == 0) return &table.rows[i];
  }
  return nullptr;
}
}  // namespace fuseprop
#endif  // HWY_ONCE
