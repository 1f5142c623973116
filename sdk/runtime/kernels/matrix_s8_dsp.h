/* The inner blocks of the int8 kernels on Armv7E-M cores with the DSP instructions (Cortex-M4, M7, M33).
 *
 * Pairs. A word holds four int8 activations x0..x3, lowest byte first. Two instructions make both operands of SMLAD:
 *     U = SXTB16(word)          = (x0, x2)                                as int16 halfwords
 *     Y = word ^ 0x007f007f     = (256 x1 + 127 - x0, 256 x3 + 127 - x2)
 * Four weights b0..b3 are packed as h = (256 b0 + b1, 256 b2 + b3); one SXTB16 gives e = (b1, b3). Then
 *     SMLAD(h, U) + SMLAD(e, Y) = 256 (b0 x0 + b1 x1 + b2 x2 + b3 x3) + 127 (b1 + b3),
 * eight multiplications for one unpacking of the weights and two of the activations. The constant is taken from the
 * accumulator's start, so that it ends at 256 A exactly; A must lie in [-2^23, 2^23), which the host checks per channel.
 *
 * Requantisation. SMMLAR(2 A, mult, c) = c + round(A mult / 2^31); shifting right by e with c = 2^(e-1) + (zero_point << e)
 * is LiteRT's rounding to nearest, but for halves below zero, which go away from it: c - 1 for negative A. Where the
 * activation cuts everything below the zero point (relu, relu6) that makes no difference and is left out. LiteRT's dense
 * layer rounds once: SMMLA cuts, and cutting twice is cutting once.
 */
#ifndef EMBARQ_MATRIX_S8_DSP_H
#define EMBARQ_MATRIX_S8_DSP_H

#include "embarq_kernels.h"

#if defined(__ARM_FEATURE_DSP)

/* Three columns (output pixels) times all channel pairs of `stream`; out[pixel * stride + channel].
 *
 * columns: per four values of depth the words U0 U1 U2 Y0 Y1 Y2. stream, per pair of channels: 2 accumulator starts,
 * then per four values of depth h0 h1, then mult, c, e of both; bit 31 of the second e ends the stream. */
typedef void embarq_mat3x2(const int32_t *stream, const uint32_t *columns, const uint32_t *columns_end, int8_t *out, int32_t stride);
embarq_mat3x2 embarq_mat3x2_s8;      /* any activation */
embarq_mat3x2 embarq_mat3x2_s8_relu; /* output low limit >= zero point */
embarq_mat3x2 embarq_mat3x2_s8_once; /* one rounding */

/* The input vector [depth rounded up to 4] times all groups of four channels of `stream`; out[channel].
 *
 * stream, per group: 4 accumulator starts, then per four values of depth h0..h3, then mult, c, e of each; bit 31 of the
 * last e ends the stream. */
typedef void embarq_mat1x4(const int32_t *stream, const int8_t *in, const int8_t *in_end, int8_t *out);
embarq_mat1x4 embarq_mat1x4_s8;
embarq_mat1x4 embarq_mat1x4_s8_relu;
embarq_mat1x4 embarq_mat1x4_s8_once; /* one rounding */

/* Write U and Y of `quads` words, at least one, into one column of three; `column` points at its U0, U1 or U2. Returns the next. */
uint32_t *embarq_widen1_s8(const int8_t *in, uint32_t *column, int32_t quads);

/* The same for three columns, whose inputs lie `stride` bytes apart. Returns the next quad's place. */
uint32_t *embarq_widen3_s8(const int8_t *in, int32_t stride, uint32_t *columns, int32_t quads);

#endif
#endif
