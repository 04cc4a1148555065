/* The forward pass of the Jensen bound as one would write it by hand: the peer of benchmark_kl.py.

   cc -O3 -march=native -ffast-math -fopenmp -shared -fPIC pair_kl.c -o pair_kl.so -lm

   mean and variance are [d, size], row-major; returns mean_i log sum_j exp(l_ij). All pairs are
   computed, and each row is taken in blocks that fit the innermost cache. */
#include <math.h>

enum { BLOCK = 256, TOGETHER = 8 };

double mean_log_sum_exp(const float *mean, const float *variance, long size, long d) {
  double total = 0;
#pragma omp parallel for reduction(+ : total) schedule(static)
  for (long i = 0; i < size; i++) {
    float highest = -INFINITY;
    double sum = 0;
    for (long start = 0; start < size; start += BLOCK) {
      long width = size - start < BLOCK ? size - start : BLOCK;
      float squares[BLOCK], logs[BLOCK], product[BLOCK];
      for (long j = 0; j < width; j++) squares[j] = logs[j] = 0, product[j] = 1;
      for (long k = 0; k < d; k++) {
        const float *m = mean + k * size + start, *v = variance + k * size + start;
        float mi = mean[k * size + i], vi = variance[k * size + i];
        for (long j = 0; j < width; j++) {
          float s = vi + v[j], difference = mi - m[j];
          squares[j] += difference * difference / s;
          product[j] *= s;
        }
        /* One logarithm for a few dimensions. */
        if (k % TOGETHER == TOGETHER - 1 || k == d - 1)
          for (long j = 0; j < width; j++) logs[j] += logf(product[j]), product[j] = 1;
      }
      float higher = highest;
      for (long j = 0; j < width; j++) {
        squares[j] = -0.5f * (squares[j] + logs[j]);
        higher = squares[j] > higher ? squares[j] : higher;
      }
      float part = 0;
      for (long j = 0; j < width; j++) part += expf(squares[j] - higher);
      sum = sum * exp(highest - higher) + part;
      highest = higher;
    }
    total += highest + log(sum);
  }
  return total / size;
}
