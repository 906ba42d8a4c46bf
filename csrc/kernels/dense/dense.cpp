#include "kernels/dense/dense.h"

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

// What the backward pass of a layer computes.
template <class T>
struct LayerGradients {
  OutputGradient<T> du;
  MatmulArgs<T> dweight, dx;
  bool want_dx;

  LayerGradients(const DenseLayer<T>& layer, const T* x, size_t x_stride, size_t rows, T* dy, bool accumulate,
                 bool with_dx)
      : want_dx(with_dx) {
    du.m = rows;
    du.n = layer.out;
    du.dy = dy;
    du.stride = layer.out;
    du.activation = OpsOf(layer);
    du.parameters = layer.parameters;
    du.u = layer.From();
    du.du = dy;
    du.sums = layer.dbias;
    du.accumulate = accumulate;
    dweight.m = layer.in;
    dweight.k = rows;
    dweight.n = layer.out;
    dweight.a = x;
    dweight.lda = x_stride;
    dweight.transpose_a = true;
    dweight.b = dy;
    dweight.ldb = layer.out;
    dweight.c = layer.dweight;
    dweight.ldc = layer.out;
    dweight.accumulate = accumulate;
    dx.m = rows;
    dx.k = layer.out;
    dx.n = layer.in;
    dx.a = dy;
    dx.lda = layer.out;
    dx.b = layer.weight;
    dx.ldb = layer.out;
    dx.transpose_b = true;
    dx.c = layer.dx;
    dx.ldc = layer.in;
  }
  void Reserve() const {
    ReserveGradient(du);
    ReserveMatmul(dweight);
    if (want_dx) ReserveMatmul(dx);
  }
  void Compute() const {
    if (du.activation != nullptr || du.sums != nullptr) FinishGradient(du);
    Matmul(dweight);
    if (want_dx) Matmul(dx);
  }
};

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
  const auto gradients = [&](size_t i) {
    const T* from = i == 0 ? x : layers[i - 1].y;
    const size_t stride = i == 0 ? x_stride : layers[i].in;
    T* const layer_dy = i + 1 == count ? dy : layers[i + 1].dx;
    return LayerGradients<T>(layers[i], from, stride, rows, layer_dy, accumulate, i != 0 || want_dx);
  };
  // Gradients that are added to must not be left half done.
  for (size_t i = 0; accumulate && i < count; ++i) gradients(i).Reserve();
  for (size_t i = count; i-- != 0;) gradients(i).Compute();
}

template void DenseForward(const DenseLayer<float>*, size_t, const float*, size_t, size_t);
template void DenseForward(const DenseLayer<double>*, size_t, const double*, size_t, size_t);
template void DenseBackward(const DenseLayer<float>*, size_t, const float*, size_t, size_t, float*, bool, bool);
template void DenseBackward(const DenseLayer<double>*, size_t, const double*, size_t, size_t, double*, bool, bool);

}  // namespace fuseprop
