// The table of elementary functions and the loop behind its rows.

#include "kernels/activations/elementary.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations/elementary.cpp"
#include "simd/targets.h"
// targets.h sets the targets that foreach_target.h loops over.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The per-target headers need highway.h.
#include "simd/loops-inl.h"
#include "simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fuseprop {
namespace HWY_NAMESPACE {
namespace {

#define FUSEPROP_FUNCTION(Name)               \
  struct Name##Functor {                      \
    template <class D, class V>               \
    HWY_INLINE V operator()(D d, V x) const { \
      return HWY_NAMESPACE::Name(d, x);       \
    }                                         \
  };
FUSEPROP_FUNCTION(Exp)
FUSEPROP_FUNCTION(Expm1)
FUSEPROP_FUNCTION(Log)
FUSEPROP_FUNCTION(Log1p)
FUSEPROP_FUNCTION(Erf)
#undef FUSEPROP_FUNCTION

template <class F, class T>
void Run(const T* x, T* y, size_t n, bool stream) {
  MapRange(F(), y, 0, n, stream, x);
}

template <class F>
constexpr ElementaryRow Row(const char* name) {
  return {name, Run<F, float>, Run<F, double>};
}

const ElementaryTable& Table() {
  static constexpr ElementaryRow rows[] = {
      Row<ExpFunctor>("exp"),     Row<Expm1Functor>("expm1"), Row<LogFunctor>("log"),
      Row<Log1pFunctor>("log1p"), Row<ErfFunctor>("erf"),
  };
  static constexpr ElementaryTable table = {rows, sizeof(rows) / sizeof(rows[0])};
  return table;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fuseprop
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fuseprop {
FUSEPROP_EXPORT(Table);

const ElementaryTable& ElementaryFunctions() { return FUSEPROP_DISPATCH(Table)(); }

namespace {

template <class T>
void OnAllThreads(void (*function)(const T*, T*, size_t, bool), const T* x, T* y, size_t n) {
  const bool stream = x != y && n * sizeof(T) >= kStreamBytes;
  ForEachRange(n, [&](size_t begin, size_t end) { function(x + begin, y + begin, end - begin, stream); });
}

}  // namespace

void Elementary(const ElementaryRow& row, const float* x, float* y, size_t n) { OnAllThreads(row.f32, x, y, n); }
void Elementary(const ElementaryRow& row, const double* x, double* y, size_t n) { OnAllThreads(row.f64, x, y, n); }
}  // namespace fuseprop
#endif  // HWY_ONCE
