// What kernels.cu needs of CUDA, as plain C++: one block after another, and a block's threads as
// fibres that run one after another from barrier to barrier.
//
// A kernel that reads what another thread has yet to write, for want of a barrier, gives other
// values when the threads run in the opposite order: main.cpp runs both and compares.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static

struct Index {
    unsigned int x;
};
extern Index threadIdx, blockIdx, blockDim;

// Lets the block's other threads come as far.
void __syncthreads();

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline unsigned int min(unsigned int a, unsigned int b) { return a < b ? a : b; }

inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float of_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

struct __nv_bfloat16 {
    std::uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return of_bits((std::uint32_t)x.bits << 16); }
// To nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    std::uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(std::uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

struct __half {
    std::uint16_t bits;
};
inline float __half2float(__half x) {
    std::uint32_t sign = (std::uint32_t)(x.bits & 0x8000u) << 16;
    std::uint32_t exponent = x.bits >> 10 & 0x1fu, fraction = x.bits & 0x3ffu;
    if (exponent == 0x1f) return of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float small = (float)fraction * 0x1p-24f;
    return sign ? -small : small;
}
inline __half __float2half_rn(float x) {
    std::uint16_t sign = (std::uint16_t)(bits_of(x) >> 16 & 0x8000u);
    float size = fabsf(x);
    if (size != size) return {0x7fff};
    if (size >= 65520.0f) return {(std::uint16_t)(sign | 0x7c00u)};
    // What is below the least normal number is a multiple of 2^-24; `rintf` rounds ties to even.
    if (size < 0x1p-14f) return {(std::uint16_t)(sign | (std::uint16_t)rintf(size * 0x1p24f))};
    std::uint32_t bits = bits_of(size);
    bits += 0xfffu + (bits >> 13 & 1u);
    return {(std::uint16_t)(sign | ((bits >> 13) - (112u << 10)))};
}
