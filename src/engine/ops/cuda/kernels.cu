// The operations that would take many passes over memory when composed, for f32, f16 and bf16.
//
// Every kernel writes one tensor, or changes tensors in place that nothing else reads meanwhile.
// Values are held in the kernel's type and computed with in f32; every sum is taken in one order
// that follows from shapes and the size of a block, without atomics, so that the same input gives
// the same bytes. Matrices are multiplied by cuBLAS, through candle.
//
// Also compiled as plain C++ (emulator/), where a block's threads run one after another from
// barrier to barrier: that is how the tests hold these kernels against the CPU's operations on a
// machine without a GPU. No warp's lockstep is relied upon, and no warp's instructions are used.

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "emulator/emulator.h"
#endif

// Most threads of a block; always a power of two.
#define MOST_THREADS 1024

typedef unsigned int uint;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ inline T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
// The normal distribution and its density.
__device__ inline float normal(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ inline float density(float x) { return 0.39894228040143268f * expf(-0.5f * x * x); }

// The sum of a value of each thread, the same in all threads.
__device__ inline float block_sum(float value, float *shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (uint half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    float sum = shared[0];
    // The next use of the memory must not come before the last read of it.
    __syncthreads();
    return sum;
}

__device__ inline float block_largest(float value, float *shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (uint half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
        }
        __syncthreads();
    }
    float largest = shared[0];
    __syncthreads();
    return largest;
}

// The position of a thread in a loop over single values; the grid covers them all.
__device__ inline uint position() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Norms. A row is what is normalised together: a group of channels, or the last axis.

// Mean and reciprocal deviation of each row: a block a row.
template <typename T> __device__ void moments(float *out, const T *x, uint length, float eps) {
    __shared__ float shared[MOST_THREADS];
    const T *row = x + (size_t)blockIdx.x * length;
    float sum = 0.0f;
    for (uint i = threadIdx.x; i < length; i += blockDim.x) sum += widen(row[i]);
    float mean = block_sum(sum, shared) / length;
    float squares = 0.0f;
    for (uint i = threadIdx.x; i < length; i += blockDim.x) {
        float centred = widen(row[i]) - mean;
        squares += centred * centred;
    }
    float variance = block_sum(squares, shared) / length;
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = mean;
        out[2 * blockIdx.x + 1] = rsqrtf(variance + eps);
    }
}

template <typename T>
__device__ void group_norm(T *y, const T *x, const float *statistics, const float *weight,
                           const float *bias, uint count, uint channels, uint members, uint plane,
                           uint silu) {
    uint i = position();
    if (i >= count) return;
    uint in_planes = i / plane;
    uint channel = in_planes % channels;
    const float *row = statistics + 2 * (in_planes / members);
    float z = (widen(x[i]) - row[0]) * (row[1] * weight[channel]) + bias[channel];
    y[i] = narrow<T>(silu ? z * sigmoid(z) : z);
}

// For each channel of each image the sums of the gradient times the normalised input, and of the
// gradient, both before the affine map: a block a plane.
template <typename T>
__device__ void group_norm_sums(float *out, const T *x, const T *gradient, const float *statistics,
                                const float *weight, const float *bias, uint channels, uint members,
                                uint plane, uint silu) {
    __shared__ float shared[MOST_THREADS];
    uint channel = blockIdx.x % channels;
    const float *row = statistics + 2 * (blockIdx.x / members);
    size_t start = (size_t)blockIdx.x * plane;
    float slopes = 0.0f, levels = 0.0f;
    for (uint i = threadIdx.x; i < plane; i += blockDim.x) {
        float normed = (widen(x[start + i]) - row[0]) * row[1];
        float g = widen(gradient[start + i]);
        if (silu) g *= silu_slope(normed * weight[channel] + bias[channel]);
        slopes += g * normed;
        levels += g;
    }
    slopes = block_sum(slopes, shared);
    levels = block_sum(levels, shared);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = slopes;
        out[2 * blockIdx.x + 1] = levels;
    }
}

// A block a plane.
template <typename T>
__device__ void group_norm_input(T *dx, const T *x, const T *gradient, const float *statistics,
                                 const float *weight, const float *bias, const float *sums,
                                 uint channels, uint members, uint plane, uint silu) {
    uint group = blockIdx.x / members;
    uint channel = blockIdx.x % channels;
    // Every thread adds up the group's few channels for itself.
    float slope = 0.0f, level = 0.0f;
    for (uint member = 0; member < members; member++) {
        uint of_group = group * members + member;
        slope += weight[of_group % channels] * sums[2 * of_group];
        level += weight[of_group % channels] * sums[2 * of_group + 1];
    }
    float length = (float)members * (float)plane;
    slope /= length;
    level /= length;
    float mean = statistics[2 * group], rate = statistics[2 * group + 1];
    size_t start = (size_t)blockIdx.x * plane;
    for (uint i = threadIdx.x; i < plane; i += blockDim.x) {
        float normed = (widen(x[start + i]) - mean) * rate;
        float g = widen(gradient[start + i]);
        if (silu) g *= silu_slope(normed * weight[channel] + bias[channel]);
        dx[start + i] = narrow<T>(rate * (weight[channel] * g - level - normed * slope));
    }
}

template <typename T>
__device__ void layer_norm(T *y, const T *x, const float *statistics, const float *weight,
                           const float *bias, uint count, uint channels) {
    uint i = position();
    if (i >= count) return;
    const float *row = statistics + 2 * (i / channels);
    uint channel = i % channels;
    y[i] = narrow<T>((widen(x[i]) - row[0]) * row[1] * weight[channel] + bias[channel]);
}

// A block a row.
template <typename T>
__device__ void layer_norm_input(T *dx, const T *x, const T *gradient, const float *statistics,
                                 const float *weight, uint channels) {
    __shared__ float shared[MOST_THREADS];
    float mean = statistics[2 * blockIdx.x], rate = statistics[2 * blockIdx.x + 1];
    size_t start = (size_t)blockIdx.x * channels;
    float slope = 0.0f, level = 0.0f;
    for (uint i = threadIdx.x; i < channels; i += blockDim.x) {
        float g = widen(gradient[start + i]) * weight[i];
        slope += g * (widen(x[start + i]) - mean) * rate;
        level += g;
    }
    slope = block_sum(slope, shared) / channels;
    level = block_sum(level, shared) / channels;
    for (uint i = threadIdx.x; i < channels; i += blockDim.x) {
        float normed = (widen(x[start + i]) - mean) * rate;
        float g = widen(gradient[start + i]) * weight[i];
        dx[start + i] = narrow<T>(rate * (g - level - normed * slope));
    }
}

// Sums over rows in two stages: this one adds up `chunk` rows for each column, a thread each, and
// leaves `[chunks, columns]`. With statistics, each gradient is first multiplied by its normalised
// input: a layer norm's weight.
template <typename T>
__device__ void layer_norm_weight(float *out, const T *x, const T *gradient,
                                  const float *statistics, uint rows, uint channels, uint chunk) {
    uint i = position();
    uint first = i / channels * chunk;
    if (first >= rows) return;
    uint channel = i % channels;
    uint end = min(first + chunk, rows);
    float sum = 0.0f;
    for (uint row = first; row < end; row++) {
        size_t at = (size_t)row * channels + channel;
        sum += widen(gradient[at]) * (widen(x[at]) - statistics[2 * row]) * statistics[2 * row + 1];
    }
    out[i] = sum;
}

template <typename T>
__device__ void column_sums(float *out, const T *x, uint rows, uint columns, uint chunk) {
    uint i = position();
    uint first = i / columns * chunk;
    if (first >= rows) return;
    uint end = min(first + chunk, rows);
    float sum = 0.0f;
    for (uint row = first; row < end; row++) sum += widen(x[(size_t)row * columns + i % columns]);
    out[i] = sum;
}

// The sum of each row, or of its squares: a block a row; the last row may be shorter.
template <typename T>
__device__ void row_sums(float *out, const T *x, uint count, uint length, uint squared) {
    __shared__ float shared[MOST_THREADS];
    size_t start = (size_t)blockIdx.x * length;
    size_t end = start + length < count ? start + length : count;
    float sum = 0.0f;
    for (size_t i = start + threadIdx.x; i < end; i += blockDim.x) {
        float value = widen(x[i]);
        sum += squared ? value * value : value;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Activations of single values; `kind` is 0 for SiLU, 1 for the exact GELU, 2 for CLIP's.

__device__ inline float activated(float x, uint kind) {
    if (kind == 0) return x * sigmoid(x);
    if (kind == 1) return x * normal(x);
    return x * sigmoid(1.702f * x);
}

__device__ inline float activation_slope(float x, uint kind) {
    if (kind == 0) return silu_slope(x);
    if (kind == 1) return normal(x) + x * density(x);
    return silu_slope(1.702f * x);
}

template <typename T> __device__ void activation(T *y, const T *x, uint count, uint kind) {
    uint i = position();
    if (i < count) y[i] = narrow<T>(activated(widen(x[i]), kind));
}

template <typename T>
__device__ void activation_input(T *dx, const T *x, const T *gradient, uint count, uint kind) {
    uint i = position();
    if (i < count) {
        dx[i] = narrow<T>(widen(gradient[i]) * activation_slope(widen(x[i]), kind));
    }
}

// `[rows, 2 half]` to `[rows, half]`; a thread a value of the result.
template <typename T> __device__ void geglu(T *y, const T *x, uint count, uint half) {
    uint i = position();
    if (i >= count) return;
    const T *row = x + (size_t)(i / half) * 2 * half;
    float b = widen(row[half + i % half]);
    y[i] = narrow<T>(widen(row[i % half]) * b * normal(b));
}

// A thread a value of the gradient, which gives two.
template <typename T>
__device__ void geglu_input(T *dx, const T *x, const T *gradient, uint count, uint half) {
    uint i = position();
    if (i >= count) return;
    size_t start = (size_t)(i / half) * 2 * half + i % half;
    float a = widen(x[start]), b = widen(x[start + half]), g = widen(gradient[i]);
    float phi = normal(b);
    dx[start] = narrow<T>(g * b * phi);
    dx[start + half] = narrow<T>(g * a * (phi + b * density(b)));
}

// Attention's scores, `[…, queries, keys]`, in place: a block a row.

// The softmax of `scale · scores + mask`. With `masked`, row r takes row `first + r % queries` of
// the mask `[…, keys]`.
template <typename T>
__device__ void softmax(T *scores, const float *mask, uint keys, float scale, uint masked,
                        uint first, uint queries) {
    __shared__ float shared[MOST_THREADS];
    T *row = scores + (size_t)blockIdx.x * keys;
    const float *added = mask + (size_t)(first + blockIdx.x % queries) * keys;
    float largest = -3.4e38f;
    for (uint i = threadIdx.x; i < keys; i += blockDim.x) {
        largest = fmaxf(largest, widen(row[i]) * scale + (masked ? added[i] : 0.0f));
    }
    largest = block_largest(largest, shared);
    float sum = 0.0f;
    for (uint i = threadIdx.x; i < keys; i += blockDim.x) {
        sum += expf(widen(row[i]) * scale + (masked ? added[i] : 0.0f) - largest);
    }
    float rate = 1.0f / block_sum(sum, shared);
    for (uint i = threadIdx.x; i < keys; i += blockDim.x) {
        float score = widen(row[i]) * scale + (masked ? added[i] : 0.0f);
        row[i] = narrow<T>(expf(score - largest) * rate);
    }
}

// From the gradient of the weights to that of the scores before their scale.
template <typename T>
__device__ void softmax_input(T *gradient, const T *weights, uint keys, float scale) {
    __shared__ float shared[MOST_THREADS];
    size_t start = (size_t)blockIdx.x * keys;
    float level = 0.0f;
    for (uint i = threadIdx.x; i < keys; i += blockDim.x) {
        level += widen(gradient[start + i]) * widen(weights[start + i]);
    }
    level = block_sum(level, shared);
    for (uint i = threadIdx.x; i < keys; i += blockDim.x) {
        float g = widen(gradient[start + i]) - level;
        gradient[start + i] = narrow<T>(g * widen(weights[start + i]) * scale);
    }
}

// Adds `shift[i / inner % period]` to value i, in place: a bias of rows (inner 1), a bias of planes
// (inner the plane), a shift of each image's channels (as that, period batch times channels).
template <typename T>
__device__ void add_vector(T *y, const float *shift, uint count, uint inner, uint period) {
    uint i = position();
    if (i < count) y[i] = narrow<T>(widen(y[i]) + shift[i / inner % period]);
}

// Doubles height and width by repetition; a thread a value of the result.
template <typename T> __device__ void upsample(T *y, const T *x, uint count, uint width) {
    uint i = position();
    if (i >= count) return;
    uint row = i / (2 * width), column = i % (2 * width);
    y[i] = x[(size_t)(row / 2) * width + column / 2];
}

template <typename T>
__device__ void upsample_input(T *dx, const T *gradient, uint count, uint width) {
    uint i = position();
    if (i >= count) return;
    size_t at = (size_t)(i / width) * 4 * width + 2 * (i % width);
    float upper = widen(gradient[at]) + widen(gradient[at + 1]);
    at += 2 * width;
    dx[i] = narrow<T>(upper + (widen(gradient[at]) + widen(gradient[at + 1])));
}

// What a convolution's kernel sees of `[images, channels, height, width]`, as columns
// `[images, channels · size², out_height · out_width]`; a thread a value of the result.
template <typename T>
__device__ void columns(T *out, const T *x, uint count, uint height, uint width, uint out_height,
                        uint out_width, uint size, uint stride, uint padding) {
    uint i = position();
    if (i >= count) return;
    uint column = i % out_width;
    uint row = i / out_width % out_height;
    uint tap = i / (out_width * out_height) % (size * size);
    uint plane = i / (out_width * out_height) / (size * size);
    // Below zero wraps around to what is beyond every height.
    uint y = row * stride + tap / size - padding;
    uint at = column * stride + tap % size - padding;
    bool inside = y < height && at < width;
    out[i] = inside ? x[((size_t)plane * height + y) * width + at] : narrow<T>(0.0f);
}

// The gradient of what [`columns`] read: each value gathers from the columns that it went to, in
// one order; a thread a value of the result.
template <typename T>
__device__ void columns_input(T *dx, const T *gradient, uint count, uint height, uint width,
                              uint out_height, uint out_width, uint size, uint stride,
                              uint padding) {
    uint i = position();
    if (i >= count) return;
    uint x = i % width;
    uint y = i / width % height;
    size_t plane = i / (width * height);
    float sum = 0.0f;
    for (uint tap = 0; tap < size * size; tap++) {
        uint down = y + padding - tap / size, right = x + padding - tap % size;
        uint row = down / stride, column = right / stride;
        // What would lie before the first row or column wraps around to beyond the last.
        if (down % stride == 0 && right % stride == 0 && row < out_height && column < out_width) {
            size_t at = ((plane * size * size + tap) * out_height + row) * out_width + column;
            sum += widen(gradient[at]);
        }
    }
    dx[i] = narrow<T>(sum);
}

#define KERNEL extern "C" __global__ void
#define OF_TYPE(T, t)                                                                              \
    KERNEL moments_##t(float *out, const T *x, uint length, float eps) {                           \
        moments<T>(out, x, length, eps);                                                           \
    }                                                                                              \
    KERNEL group_norm_##t(T *y, const T *x, const float *statistics, const float *weight,          \
                          const float *bias, uint count, uint channels, uint members, uint plane,  \
                          uint silu) {                                                             \
        group_norm<T>(y, x, statistics, weight, bias, count, channels, members, plane, silu);      \
    }                                                                                              \
    KERNEL group_norm_sums_##t(float *out, const T *x, const T *gradient,                          \
                               const float *statistics, const float *weight, const float *bias,    \
                               uint channels, uint members, uint plane, uint silu) {               \
        group_norm_sums<T>(out, x, gradient, statistics, weight, bias, channels, members, plane,   \
                           silu);                                                                  \
    }                                                                                              \
    KERNEL group_norm_input_##t(T *dx, const T *x, const T *gradient, const float *statistics,     \
                                const float *weight, const float *bias, const float *sums,         \
                                uint channels, uint members, uint plane, uint silu) {              \
        group_norm_input<T>(dx, x, gradient, statistics, weight, bias, sums, channels, members,    \
                            plane, silu);                                                          \
    }                                                                                              \
    KERNEL layer_norm_##t(T *y, const T *x, const float *statistics, const float *weight,          \
                          const float *bias, uint count, uint channels) {                          \
        layer_norm<T>(y, x, statistics, weight, bias, count, channels);                            \
    }                                                                                              \
    KERNEL layer_norm_input_##t(T *dx, const T *x, const T *gradient, const float *statistics,     \
                                const float *weight, uint channels) {                              \
        layer_norm_input<T>(dx, x, gradient, statistics, weight, channels);                        \
    }                                                                                              \
    KERNEL layer_norm_weight_##t(float *out, const T *x, const T *gradient,                        \
                                 const float *statistics, uint rows, uint channels, uint chunk) {  \
        layer_norm_weight<T>(out, x, gradient, statistics, rows, channels, chunk);                 \
    }                                                                                              \
    KERNEL column_sums_##t(float *out, const T *x, uint rows, uint columns, uint chunk) {          \
        column_sums<T>(out, x, rows, columns, chunk);                                              \
    }                                                                                              \
    KERNEL row_sums_##t(float *out, const T *x, uint count, uint length, uint squared) {           \
        row_sums<T>(out, x, count, length, squared);                                               \
    }                                                                                              \
    KERNEL activation_##t(T *y, const T *x, uint count, uint kind) {                               \
        activation<T>(y, x, count, kind);                                                          \
    }                                                                                              \
    KERNEL activation_input_##t(T *dx, const T *x, const T *gradient, uint count, uint kind) {     \
        activation_input<T>(dx, x, gradient, count, kind);                                         \
    }                                                                                              \
    KERNEL geglu_##t(T *y, const T *x, uint count, uint half) { geglu<T>(y, x, count, half); }     \
    KERNEL geglu_input_##t(T *dx, const T *x, const T *gradient, uint count, uint half) {          \
        geglu_input<T>(dx, x, gradient, count, half);                                              \
    }                                                                                              \
    KERNEL softmax_##t(T *scores, const float *mask, uint keys, float scale, uint masked,          \
                       uint first, uint queries) {                                                 \
        softmax<T>(scores, mask, keys, scale, masked, first, queries);                             \
    }                                                                                              \
    KERNEL softmax_input_##t(T *gradient, const T *weights, uint keys, float scale) {              \
        softmax_input<T>(gradient, weights, keys, scale);                                          \
    }                                                                                              \
    KERNEL add_vector_##t(T *y, const float *shift, uint count, uint inner, uint period) {         \
        add_vector<T>(y, shift, count, inner, period);                                             \
    }                                                                                              \
    KERNEL upsample_##t(T *y, const T *x, uint count, uint width) {                                \
        upsample<T>(y, x, count, width);                                                           \
    }                                                                                              \
    KERNEL upsample_input_##t(T *dx, const T *gradient, uint count, uint width) {                  \
        upsample_input<T>(dx, gradient, count, width);                                             \
    }                                                                                              \
    KERNEL columns_##t(T *out, const T *x, uint count, uint height, uint width, uint out_height,    \
                       uint out_width, uint size, uint stride, uint padding) {                     \
        columns<T>(out, x, count, height, width, out_height, out_width, size, stride, padding);    \
    }                                                                                              \
    KERNEL columns_input_##t(T *dx, const T *gradient, uint count, uint height, uint width,        \
                             uint out_height, uint out_width, uint size, uint stride,              \
                             uint padding) {                                                       \
        columns_input<T>(dx, gradient, count, height, width, out_height, out_width, size, stride,  \
                         padding);                                                                 \
    }

OF_TYPE(float, f32)
OF_TYPE(__half, f16)
OF_TYPE(__nv_bfloat16, bf16)

// A step of Adam on f32 masters, all three tensors in place. A share is one less its decay; `rate`
// holds the correction of the mean, `root` that of the squares.
KERNEL adam_f32(float *variable, const float *gradient, float *mean, float *square, uint count,
                float mean_share, float square_decay, float square_share, float rate, float root,
                float eps) {
    uint i = position();
    if (i >= count) return;
    float g = gradient[i];
    float m = mean[i] + mean_share * (g - mean[i]);
    float s = square_decay * square[i] + square_share * g * g;
    mean[i] = m;
    square[i] = s;
    variable[i] -= rate * m / (sqrtf(s) / root + eps);
}
