#include "kernels/dense.h"

namespace fuseprop {
namespace {

template <class T>
const ActivationOps<T>* OpsOf(const DenseLayer<T>& layer) {
  return layer.activation == DenseLayer<T>::kIdentity ? nullptr
                                                      : &Activations().rows[layer.activation].template Ops<T>();
}

template <class T>
void Forward(const DenseLayer<T>& layer, const T* x, size_t x_stride, size_t rows) {
  ActivationEpilogue<T> activate = {OpsOf(layer), layer.parameters, layer.From(), layer.y};
  MatmulArgs<T> args;
  args.m = rows;
  args.k = layer.in;
  args.n = layer.out;
  args.a = x;
  args.lda = x_stride;
  args.b = layer.weight;
  args.ldb = layer.out;
  args.c = layer.u != nullptr ? layer.u : layer.y;
  args.ldc = layer.out;
  args.bias = layer.bias;
  if (activate.ops != nullptr) {
    args.epilogue = &ActivationEpilogue<T>::Run;
    args.context = &activate;
  }
  Matmul(args);
}

template <class T>
void Backward(const DenseLayer<T>& layer, const T* x, size_t x_stride, size_t rows, T* dy, bool accumulate,
              bool want_dx) {
  OutputGradient<T> gradient;
  gradient.m = rows;
  gradient.n = layer.out;
  gradient.dy = dy;
  gradient.stride = layer.out;
  gradient.activation = OpsOf(layer);
  gradient.parameters = layer.parameters;
  gradient.u = layer.From();
  gradient.du = dy;
  gradient.sums = layer.dbias;
  gradient.accumulate = accumulate;
  if (gradient.activation != nullptr || gradient.sums != nullptr) FinishGradient(gradient);
  const T* du = dy;
  MatmulArgs<T> weight;
  weight.m = layer.in;
  weight.k = rows;
  weight.n = layer.out;
  weight.a = x;
  weight.lda = x_stride;
  weight.transpose_a = true;
  weight.b = du;
  weight.ldb = layer.out;
  weight.c = layer.dweight;
  weight.ldc = layer.out;
  weight.accumulate = accumulate;
  Matmul(weight);
  if (!want_dx) return;
  MatmulArgs<T> input;
  input.m = rows;
  input.k = layer.out;
  input.n = layer.in;
  input.a = du;
  input.lda = layer.out;
  input.b = layer.weight;
  input.ldb = layer.out;
  input.transpose_b = true;
  input.c = layer.dx;
  input.ldc = layer.in;
  Matmul(input);
}

}  // namespace

template <class T>
void DenseForward(const DenseLayer<T>* layers, size_t count, const T* x, size_t x_stride, size_t rows) {
  for (size_t i = 0; i < count; ++i) {
    Forward(layers[i], x, x_stride, rows);
    x = layers[i].y;
    x_stride = layers[i].out;
  }
}

template <class T>
void DenseBackward(const DenseLayer<T>* layers, size_t count, const T* x, size_t x_stride, size_t rows, T* dy,
                   bool accumulate, bool want_dx) {
  for (size_t i = count; i-- != 0;) {
    const T* from = i == 0 ? x : layers[i - 1].y;
    const size_t stride = i == 0 ? x_stride : layers[i].in;
    Backward(layers[i], from, stride, rows, dy, accumulate, i != 0 || want_dx);
    dy = layers[i].dx;
  }
}

template void DenseForward(const DenseLayer<float>*, size_t, const float*, size_t, size_t);
template void DenseForward(const DenseLayer<double>*, size_t, const double*, size_t, size_t);
template void DenseBackward(const DenseLayer<float>*, size_t, const float*, size_t, size_t, float*, bool, bool);
template void DenseBackward(const DenseLayer<double>*, size_t, const double*, size_t, size_t, double*, bool, bool);

}  // namespace fuseprop
