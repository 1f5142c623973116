/* embarq: parameter structs and prototypes of the kernels of a training step; embarq_kernels.h includes it.
 *
 * Activations and gradients are float, [batch, height, width, channels]. Weights are float, or int8 turned into floats in registers.
 */
#ifndef EMBARQ_TRAINING_KERNELS_H
#define EMBARQ_TRAINING_KERNELS_H

#include "embarq_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* float values where scales is NULL; else int8 values, real = scales[channel] * q */
typedef struct {
    embarq_source values;
    const float *scales;
} embarq_weights;

/* weights [out_c][kernel_h][kernel_w][in_c]; with an adapter of rank > 0: z [batch][in_h][in_w][rank], p [out_c][kernel_h][kernel_w][rank].
 * chunk, in 1..: channels that are gathered at once; scratch float[9 * chunk] */
typedef struct {
    embarq_ref input, output, scratch;
    embarq_window window;
    int32_t chunk;
    embarq_weights weights;
    embarq_source bias; /* [out_c] */
    int32_t rank;
    embarq_source z;
    embarq_weights p;
    float low, high;
} embarq_train_conv2d_params;

/* input: gradient of the output; output: gradient of the input, plus add where has_add */
typedef struct {
    embarq_ref input, output, scratch, add;
    embarq_window window; /* of the forward convolution */
    int32_t chunk;
    int32_t has_add;
    embarq_weights weights;
} embarq_train_conv2d_grad_params;

/* weights [kernel_h][kernel_w][in_c]; scratch, with int8 weights only: float[kernel_h * kernel_w * min(in_c, 64)] */
typedef struct {
    embarq_ref input, output, scratch;
    embarq_window window;
    embarq_weights weights;
    embarq_source bias;
    float low, high;
} embarq_train_depthwise_params;

typedef struct {
    embarq_ref input, output, scratch, add;
    embarq_window window;
    int32_t has_add;
    embarq_weights weights;
} embarq_train_depthwise_grad_params;

/* one row: input [depth], weights [channels][depth], output [channels]; an adapter as in embarq_train_conv2d_params */
typedef struct {
    embarq_ref input, output;
    int32_t depth, channels;
    embarq_weights weights;
    embarq_source bias;
    int32_t rank;
    embarq_source z;
    embarq_weights p;
    float low, high;
} embarq_train_dense_params;

/* one row: input [channels], output [depth] */
typedef struct {
    embarq_ref input, output, add;
    int32_t depth, channels;
    int32_t has_add;
    embarq_weights weights;
} embarq_train_dense_grad_params;

/* input [batch][pixels][in_c], output [batch][out_c], mask [batch][out_c][pixels] bits; scratch float[9 * (in_c + rank)] */
typedef struct {
    embarq_ref input, output, mask, scratch;
    int32_t batch, pixels, in_c, out_c;
    embarq_weights weights;
    embarq_source bias;
    int32_t rank;
    embarq_source z;
    embarq_weights p;
    float high; /* 6, or infinite */
} embarq_train_head_params;

/* input [batch][out_c], output [batch][pixels][in_c]; scratch float[9 * chunk] */
typedef struct {
    embarq_ref input, output, mask, scratch, add;
    int32_t batch, pixels, in_c, out_c;
    int32_t chunk, has_add;
    embarq_weights weights;
} embarq_train_head_grad_params;

/* How weights take a step: hyper float[4]; velocity: floats, where has_velocity; int8 weights: scales and counter int32[1] */
typedef struct {
    embarq_ref weights, hyper, velocity, counter;
    int32_t has_velocity;
    const float *scales; /* NULL: float weights */
} embarq_learn;

/* input [batch][in_h][in_w][in_c], dy [batch][out_h][out_w][out_c]. depth = in_c, or with a basis [in_c][depth] the channels of the
 * weights; scratch, with a basis only: float[4 * in_c + depth] */
typedef struct {
    embarq_ref input, dy, scratch;
    embarq_window window;
    int32_t depth, has_basis;
    embarq_weights basis;
    embarq_learn learn;
} embarq_train_conv2d_update_params;

typedef struct {
    embarq_ref input, dy;
    embarq_window window;
    embarq_learn learn;
} embarq_train_depthwise_update_params;

/* one row: input [depth], dy [channels], weights [channels][depth] */
typedef struct {
    embarq_ref input, dy;
    int32_t depth, channels;
    embarq_learn learn;
} embarq_train_dense_update_params;

/* input [batch][pixels][in_c], dy [batch][out_c], mask as embarq_train_head leaves it; scratch float[in_c], with a basis float[in_c + depth] */
typedef struct {
    embarq_ref input, dy, mask, scratch;
    int32_t batch, pixels, in_c, out_c;
    int32_t depth, has_basis;
    embarq_weights basis;
    embarq_learn learn;
} embarq_train_head_update_params;

/* dy [rows][channels]; with has_mask dy [rows][channels] is divided among `pixels`, those of the mask [rows][channels][pixels] */
typedef struct {
    embarq_ref dy, mask;
    int32_t rows, channels, pixels, has_mask;
    embarq_learn learn;
} embarq_bias_update_params;

/* bit i % 8 of byte i / 8: 0 < input[i] < high */
typedef struct {
    embarq_ref input, output;
    int32_t count;
    float high;
} embarq_pack_mask_params;

typedef struct {
    embarq_ref input, mask, output;
    int32_t count;
} embarq_mask_grad_params;

/* input [batch][channels], output [batch][pixels][channels] */
typedef struct {
    embarq_ref input, output;
    int32_t batch, pixels, channels;
} embarq_mean_grad_params;

/* input [outer][depth][inner], output [outer][length][inner]; matrix element (l, d) at l * step_length + d * step_depth */
typedef struct {
    embarq_ref input, output;
    int32_t outer, depth, length, inner;
    int32_t step_length, step_depth;
    embarq_source matrix;
} embarq_mode_product_params;

/* logits, gradient [rows][classes], label int32[rows], loss float[1] */
typedef struct {
    embarq_ref logits, label, loss, gradient;
    int32_t rows, classes;
} embarq_softmax_cross_entropy_params;

embarq_kernel_function embarq_train_conv2d;
embarq_kernel_function embarq_train_conv2d_grad;
embarq_kernel_function embarq_train_conv2d_update;
embarq_kernel_function embarq_train_depthwise;
embarq_kernel_function embarq_train_depthwise_grad;
embarq_kernel_function embarq_train_depthwise_update;
embarq_kernel_function embarq_train_dense;
embarq_kernel_function embarq_train_dense_grad;
embarq_kernel_function embarq_train_dense_update;
embarq_kernel_function embarq_train_head;
embarq_kernel_function embarq_train_head_grad;
embarq_kernel_function embarq_train_head_update;
embarq_kernel_function embarq_bias_update;
embarq_kernel_function embarq_pack_mask;
embarq_kernel_function embarq_mask_grad;
embarq_kernel_function embarq_mean_grad;
embarq_kernel_function embarq_mode_product;
embarq_kernel_function embarq_softmax_cross_entropy;

#ifdef __cplusplus
}
#endif
#endif
