// PReLU and RReLU: rectifiers whose slopes are arguments.

#include "kernels/activations/slopes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bind/activations/activations.h"

namespace fuseprop {
namespace bind {
namespace {

struct Row {
  const char* name;
  size_t num_parameters;
  const char* learned;
};
struct Table {
  const Row* rows;
  size_t size;
};

// PReLU: init, num_parameters. RReLU: lower, upper.
constexpr size_t kPReLU = 0;
constexpr Row kRows[] = {{"prelu", 2, "alpha"}, {"rrelu", 2, nullptr}};
constexpr Table kTable = {kRows, 2};

// `value` within T's finite range.
template <class T>
double Held(double value) {
  const double largest = static_cast<double>(std::numeric_limits<T>::max());
  return std::min(std::max(value, -largest), largest);
}

// The number of T that stands for a parameter: a finite one, and 0 only for 0; as Parameter in simd/compat-inl.h.
template <class T>
T Nearest(double value) {
  const double smallest = static_cast<double>(std::numeric_limits<T>::denorm_min());
  if (value != 0.0 && std::abs(value) < smallest) value = std::copysign(smallest, value);
  return static_cast<T>(Held<T>(value));
}

double Mean(double low, double high) {
  const double width = high - low;
  return std::isfinite(width) ? low + width / 2 : low / 2 + high / 2;
}

class Slopes final : public ActivationFamily {
 public:
  const char* structure() const override { return "slopes"; }
  bool Find(const char* name, size_t* row, size_t* num_parameters) const override {
    return FindByName(kTable, name, row, num_parameters);
  }
  Ref Names() const override { return bind::Names(kTable); }
  const char* Learned(const char* name) const override {
    size_t row = 0;
    size_t num_parameters = 0;
    return Find(name, &row, &num_parameters) ? kRows[row].learned : nullptr;
  }

  void OutputShape(const Formula& formula, int ndim, npy_intp* shape) const override {
    CheckChannels(formula, ndim, shape);
  }
  Ref Forward(const Formula& formula, const ActivationArgs& args) const override {
    const Ref x = FloatArray(args.x, "x");
    return IsFloat32(x) ? RunForward<float>(formula, args, x) : RunForward<double>(formula, args, x);
  }
  Ref Backward(const Formula& formula, const ActivationArgs& args) const override { return Run(formula, args, false); }
  Ref BackwardParams(const Formula& formula, const ActivationArgs& args) const override {
    return formula.learned == nullptr ? ActivationFamily::BackwardParams(formula, args) : Run(formula, args, true);
  }

 private:
  static npy_intp Channels(const Formula& formula) {
    return formula.row == kPReLU ? static_cast<npy_intp>(formula.parameters[1]) : 1;
  }

  static void CheckChannels(const Formula& formula, int ndim, const npy_intp* shape) {
    const npy_intp channels = Channels(formula);
    if (channels == 1 || (ndim != 0 && shape[ndim - 1] == channels)) return;
    Raise(PyExc_ValueError, "x has shape %s; expected a last axis of num_parameters = %zd",
          ShapeText(ndim, shape).c_str(), channels);
  }

  // The slopes of x's elements: those of its channels, or one for each element.
  template <class T>
  struct SlopesOf {
    Ref parameter;  // the caller's learned parameter, may be null
    int parameter_typenum = TypeNum<T>();
    Ref elements;         // the caller's slopes of every element
    std::vector<T> cast;  // otherwise
    const T* data = nullptr;
    size_t channels = 1;
    bool c_order = false;

    SlopesOf(const Formula& formula, const ActivationArgs& args, const Ref& x) {
      CheckChannels(formula, PyArray_NDIM(x.array()), PyArray_DIMS(x.array()));
      parameter = LearnedParameter(formula, args.learned, Channels(formula));
      if (parameter) parameter_typenum = PyArray_TYPE(parameter.array());
      channels = static_cast<size_t>(Channels(formula));
      c_order = channels != 1;
      if (formula.row == kPReLU) {
        RefuseSlopes(formula, args);
      } else if (args.slopes) {
        elements = FloatArray(args.slopes, "slopes");
        CheckSameDtype(x, "x", elements, "slopes");
        CheckSameShape(x, "x", elements, "slopes");
        channels = Size(x);
        return;
      }
      if (parameter && PyArray_TYPE(parameter.array()) == TypeNum<T>()) {
        data = Data<T>(parameter);
        return;
      }
      const double* p = formula.parameters;
      cast.assign(channels, formula.row == kPReLU ? Nearest<T>(p[0]) : Nearest<T>(Mean(Held<T>(p[0]), Held<T>(p[1]))));
      for (size_t i = 0; parameter && i < channels; ++i) {
        cast[i] = IsFloat32(parameter) ? static_cast<T>(Data<float>(parameter)[i])
                                       : static_cast<T>(Data<double>(parameter)[i]);
      }
      data = cast.data();
    }
  };

  template <class T>
  static Ref RunForward(const Formula& formula, const ActivationArgs& args, const Ref& x) {
    SlopesOf<T> slopes(formula, args, x);
    Ref operands[2] = {Ref::Borrow(x.get()), Ref::Borrow(slopes.elements.get())};
    const bool fortran = ToCommonOrder(operands, 2, args.out, slopes.c_order);
    if (operands[1]) slopes.data = Data<T>(operands[1]);
    Output y(args.out, "out", PyArray_NDIM(x.array()), PyArray_DIMS(x.array()), TypeNum<T>(), fortran);
    y.CheckOverlap(x, "x");
    y.CheckOverlap(slopes.elements, "slopes", false);
    y.CheckOverlap(slopes.parameter, "params", false);
    const size_t n = Size(x);
    {
      const ReleaseGil release(n);
      SlopesForward(Data<T>(operands[0]), slopes.data, slopes.channels, n, y.data<T>());
    }
    return y.FinishAsScalarIfZeroDim();
  }

  static Ref Run(const Formula& formula, const ActivationArgs& args, bool with_gradient) {
    const Ref x = FloatArray(args.x, "x");
    return IsFloat32(x) ? RunBackward<float>(formula, args, x, with_gradient)
                        : RunBackward<double>(formula, args, x, with_gradient);
  }

  template <class T>
  static Ref RunBackward(const Formula& formula, const ActivationArgs& args, const Ref& x, bool with_gradient) {
    SlopesOf<T> slopes(formula, args, x);
    PyArrayObject* like = x.array();
    Ref dy;
    if (args.dy) {
      dy = FloatArray(args.dy, "dy");
      CheckSameDtype(x, "x", dy, "dy");
      CheckSameShape(x, "x", dy, "dy");
    } else {
      dy = Ones(PyArray_NDIM(like), PyArray_DIMS(like), TypeNum<T>(), false);
    }
    Ref operands[3] = {Ref::Borrow(x.get()), Ref::Borrow(dy.get()), Ref::Borrow(slopes.elements.get())};
    // The order of the sums is that of C.
    const bool fortran = ToCommonOrder(operands, 3, args.out, slopes.c_order || with_gradient);
    if (operands[2]) slopes.data = Data<T>(operands[2]);
    Output dx(args.out, "out", PyArray_NDIM(like), PyArray_DIMS(like), TypeNum<T>(), fortran);
    dx.CheckOverlap(x, "x");
    dx.CheckOverlap(dy, "dy");
    dx.CheckOverlap(slopes.elements, "slopes", false);
    dx.CheckOverlap(slopes.parameter, "params", false);
    std::vector<double> gradient(with_gradient ? slopes.channels : 0);
    const size_t n = Size(x);
    {
      const ReleaseGil release(n);
      SlopesBackward(Data<T>(operands[0]), Data<T>(operands[1]), slopes.data, slopes.channels, n, dx.data<T>(),
                     with_gradient ? gradient.data() : nullptr);
    }
    Ref result = dx.FinishAsScalarIfZeroDim();
    if (!with_gradient) return result;
    return WithParameterGradient(formula, result, slopes.parameter_typenum, gradient.data(), gradient.size());
  }
};

}  // namespace

const ActivationFamily& SlopesFamily() {
  static const Slopes family;
  return family;
}

}  // namespace bind
}  // namespace fuseprop
