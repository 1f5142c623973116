/* embarq: parameter structs and prototypes of the kernels.
 *
 * Every kernel has the type embarq_kernel: it reads its parameter struct, finds its tensors in the lent memory, and
 * allocates nothing. Images are [batch, height, width, channels]. Whoever plans memory asks the *_scratch_bytes and
 * *_overlap_bytes functions at the end, which are compiled for the host too, so plan and board cannot differ.
 */
#ifndef EMBARQ_KERNELS_H
#define EMBARQ_KERNELS_H

#include "embarq.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EMBARQ_DIMS 4 /* most dimensions of a broadcast, after neighbours with equal strides are merged */

/* A value that is an activation or a constant: `data` where it is not NULL, else the memory at `ref`. */
typedef struct {
    embarq_ref ref;
    const void *data;
} embarq_source;

static inline const void *embarq_source_at(const embarq_memory *memory, const embarq_source *source)
{
    return source->data ? source->data : embarq_at(memory, source->ref);
}

/* Geometry of a convolution or a pooling. Padding below and to the right follows from the output size. */
typedef struct {
    int32_t batch;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int16_t kernel_h, kernel_w;
    int16_t stride_h, stride_w;
    int16_t dilation_h, dilation_w;
    int16_t pad_top, pad_left;
} embarq_window;

/* Per-channel requantisation: out[c] = clamp(rescale(acc, mult[c], shift[c]) + zero_point, low, high). */
typedef struct {
    const int32_t *mult;  /* [channels] in [2^30, 2^31), or 0 */
    const int32_t *shift; /* [channels] positive to the left */
    int32_t zero_point;
    int32_t low, high;
} embarq_requant;

/* weights [out_c][kernel_h][kernel_w][in_c / groups] */
typedef struct {
    embarq_ref input, output;
    embarq_window window;
    int32_t groups;
    int32_t input_zero_point;
    const int8_t *weights;
    const int32_t *bias; /* [out_c] */
    embarq_requant requant;
} embarq_conv2d_s8_params;

/* weights [kernel_h][kernel_w][in_c * multiplier]; output channel c reads input channel c / multiplier */
typedef struct {
    embarq_ref input, output;
    embarq_window window;
    int32_t multiplier;
    int32_t input_zero_point;
    const int8_t *weights;
    const int32_t *bias; /* [out_c] */
    embarq_requant requant;
} embarq_depthwise_s8_params;

/* input [rows][depth], weights [channels][depth], output [rows][channels] */
typedef struct {
    embarq_ref input, output;
    int32_t rows, depth, channels;
    int32_t input_zero_point, weight_zero_point;
    const int8_t *weights;
    const int32_t *bias; /* [channels] */
    embarq_requant requant;
} embarq_dense_s8_params;

/* Kernels for cores with DSP instructions. `stream` is packed as matrix_s8_dsp.h says; low and high are clamped to
 * after the saturation to int8, where they are narrower. */
typedef struct {
    embarq_ref input, output, scratch;
    embarq_window window;
    int32_t input_zero_point;
    int32_t low, high;
    const int32_t *stream;
} embarq_conv2d_s8_dsp_params;

typedef struct {
    embarq_ref input, output, scratch;
    embarq_window window; /* in_c = out_c, a multiple of 4 */
    int32_t input_zero_point;
    int32_t low, high;
    int32_t kept_rows;     /* 0, or embarq_depthwise_s8_dsp_kept_rows */
    const int32_t *stream; /* depthwise_rows_s8_dsp.h */
} embarq_depthwise_s8_dsp_params;

typedef struct {
    embarq_ref input, output, scratch;
    int32_t rows, depth, channels;
    int32_t low, high;
    const int32_t *stream;
} embarq_dense_s8_dsp_params;

/* Shapes of two operands brought to the output's; a stride of 0 repeats. Strides are in elements, innermost last. */
typedef struct {
    int32_t shape[EMBARQ_DIMS];
    int32_t stride_a[EMBARQ_DIMS];
    int32_t stride_b[EMBARQ_DIMS];
} embarq_broadcast;

/* Two tensors of int8 (item 1) or int16 (item 2). add: sign 1 or -1, both sides shifted left and brought to a common
 * scale, then to the output's; squared_difference the same; mul, div: out_mult and out_shift; maximum, minimum: none. */
typedef struct {
    embarq_source a, b;
    embarq_ref output;
    embarq_broadcast broadcast;
    int32_t item;
    int32_t a_zero_point, b_zero_point, out_zero_point;
    int32_t left_shift;
    int32_t a_mult, a_shift, b_mult, b_shift, out_mult, out_shift;
    int32_t sign;
    int32_t low, high;
} embarq_arithmetic_int_params;

/* out = clamp(saturate((x a + y b + c) >> shift)) of equal shapes; every intermediate value fits int32 */
typedef struct {
    embarq_source x, y;
    embarq_ref output;
    int32_t count;
    int32_t a, b, c, shift; /* in this order: read as one array */
    int32_t low, high;
} embarq_add_s8_dsp_params;

/* Average (count_pad: divided by the whole window, padding counted as zero_point) or maximum over a window. */
typedef struct {
    embarq_ref input, output;
    embarq_window window;
    int32_t item;
    int32_t count_pad;
    int32_t zero_point;
    int32_t low, high;
} embarq_pool_int_params;

/* rows of depth values; mult, shift and diff_min as LiteRT prepares them for 5 integer bits */
typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    int32_t mult, shift;
    int32_t diff_min;
} embarq_softmax_s8_params;

/* table[i] is the result for i - 128 */
typedef struct {
    embarq_ref input, output;
    int32_t count;
    const int8_t *table; /* [256] */
} embarq_table_s8_params;

/* lut16: 513 values over int16's range, read between two of them */
typedef struct {
    embarq_ref input, output;
    int32_t count;
    const int16_t *table; /* [513] */
} embarq_table_s16_params;

/* items of 1, 2 or 4 bytes; sign 0: the value, 1: its absolute value, 2: its negative is rescaled */
typedef struct {
    embarq_ref input, output;
    int32_t count;
    int32_t in_item, out_item;
    int32_t in_zero_point, out_zero_point;
    int32_t mult, shift;
    int32_t sign;
    int32_t low, high;
} embarq_requantize_int_params;

/* between real numbers and integers of `item` bytes */
typedef struct {
    embarq_ref real, whole;
    int32_t count;
    int32_t item;
    float scale;
    int32_t zero_point;
    int32_t low, high;
} embarq_quantize_params;

/* Output values are numbered through `outer`; each takes the values of `inner`. Strides in elements of the input. */
typedef struct {
    int32_t outer[3], outer_stride[3];
    int32_t inner[3], inner_stride[3];
} embarq_reduction;

/* sum, mean and reduce_max of int8 or int16; total = sum(x) - count * in_zero_point */
typedef struct {
    embarq_ref input, output;
    embarq_reduction reduction;
    int32_t item;
    int32_t in_zero_point, out_zero_point;
    int32_t mult, shift;
    int32_t low, high;
} embarq_reduce_int_params;

/* sum and mean (times factor 1 / count) and reduce_max of float32 */
typedef struct {
    embarq_ref input, output;
    embarq_reduction reduction;
    float divisor;
} embarq_reduce_f32_params;

/* output int32 (out_words 1) or int64 (2) */
typedef struct {
    embarq_ref input, output;
    embarq_reduction reduction;
    int32_t item;
    int32_t out_words;
} embarq_argmax_params;

#define EMBARQ_MOVE_DIMS 6

/* Strides and offsets in bytes; innermost dimension last. */
typedef struct {
    int32_t shape[EMBARQ_MOVE_DIMS];
    int32_t in_stride[EMBARQ_MOVE_DIMS], out_stride[EMBARQ_MOVE_DIMS];
    int32_t in_offset, out_offset;
    int32_t item;
} embarq_strided;

typedef struct {
    embarq_source input;
    embarq_ref output;
    embarq_strided strided;
} embarq_copy_params;

typedef struct {
    embarq_source input;
    embarq_ref output;
    embarq_strided strided;
    int32_t count; /* output values, filled before the input is copied over them */
    uint8_t value[8];
} embarq_pad_params;

#define EMBARQ_PARTS 8

/* outer times: bytes of each part in turn */
typedef struct {
    embarq_ref output;
    int32_t outer, count;
    struct {
        embarq_source input;
        int32_t bytes;
    } parts[EMBARQ_PARTS];
} embarq_concat_params;

/* indices int32 (index_words 1) or int64 (2) */
typedef struct {
    embarq_source input, indices;
    embarq_ref output;
    int32_t outer, axis, inner_bytes;
    int32_t count, index_words;
} embarq_gather_params;

typedef struct {
    embarq_ref input, output;
    int32_t batch, in_h, in_w, out_h, out_w, pixel_bytes;
    const int32_t *rows, *columns;
} embarq_resize_nearest_params;

/* Per output row and column the two input ones, and how far towards the second: in 1/1024 (integers) or as a float. */
typedef struct {
    embarq_ref input, output;
    int32_t batch, in_h, in_w, out_h, out_w, channels, item;
    const int32_t *top, *bottom, *left, *right;
    const int32_t *down, *across;
} embarq_resize_bilinear_int_params;

typedef struct {
    embarq_ref input, output;
    int32_t batch, in_h, in_w, out_h, out_w, channels;
    const int32_t *top, *bottom, *left, *right;
    const float *down, *across;
} embarq_resize_bilinear_f32_params;

typedef struct {
    embarq_ref input, output;
    int32_t count;
    int32_t from, to; /* embarq_dtype */
} embarq_cast_params;

/* LiteRT's log_softmax: back_mult and back_shift undo mult and shift */
typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    int32_t mult, shift;
    int32_t diff_min;
    int32_t back_mult, back_shift;
} embarq_log_softmax_s8_params;

typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    int32_t mult, shift;
    const int16_t *exponentials, *reciprocals; /* [513] each */
} embarq_softmax_s16_params;

/* x >= 0: same, else x * alpha: less */
typedef struct {
    embarq_source a, b; /* x, alpha */
    embarq_ref output;
    embarq_broadcast broadcast;
    int32_t a_zero_point, b_zero_point, out_zero_point;
    int32_t same_mult, same_shift, less_mult, less_shift;
} embarq_prelu_s8_params;

/* a [batch][rows][depth] times b [batch][depth][columns]; strides in elements cover transposes and broadcasts */
typedef struct {
    embarq_source a, b;
    embarq_ref output;
    int32_t batch, rows, depth, columns;
    int32_t a_batch, a_row, a_depth;
    int32_t b_batch, b_depth, b_column;
    int32_t item;
    int32_t a_zero_point, b_zero_point, out_zero_point;
    int32_t mult, shift; /* item 2: mult has 16 bits, see rescale_64 in fixed.h */
    int32_t low, high;
} embarq_batch_matmul_int_params;

typedef struct {
    embarq_source a, b;
    embarq_ref output;
    int32_t batch, rows, depth, columns;
    int32_t a_batch, a_row, a_depth;
    int32_t b_batch, b_depth, b_column;
} embarq_batch_matmul_f32_params;

/* gamma, beta [depth] */
typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    int32_t item;
    int32_t in_zero_point, out_zero_point;
    float in_scale, out_scale, eps;
    const float *gamma, *beta;
} embarq_layer_norm_int_params;

typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    float eps;
    const float *gamma, *beta;
} embarq_layer_norm_f32_params;

/* 16-bit activations (zero point 0), 8-bit weights, 64-bit sums. wide: one rounding with a 16-bit multiplier (bias int64
 * or none), else two roundings of an int32 sum, or one (dense). bias_low, bias_high: the two halves of an int64 bias. */
typedef struct {
    embarq_ref input, output;
    embarq_window window;
    int32_t groups;     /* conv2d */
    int32_t multiplier; /* depthwise */
    int32_t wide;
    const int8_t *weights;
    const int64_t *bias; /* [out_c] */
    embarq_requant requant;
} embarq_conv_s16_params;

typedef struct {
    embarq_ref input, output;
    int32_t rows, depth, channels;
    int32_t weight_zero_point;
    const int8_t *weights;
    const int64_t *bias; /* [channels] */
    embarq_requant requant;
} embarq_dense_s16_params;

/* float32; low and high are the fused activation, infinite where it has no bound */
typedef struct {
    embarq_ref input, output;
    embarq_window window;
    int32_t groups;     /* conv2d */
    int32_t multiplier; /* depthwise */
    const float *weights, *bias;
    float low, high;
} embarq_conv_f32_params;

typedef struct {
    embarq_ref input, output;
    int32_t rows, depth, channels;
    const float *weights, *bias;
    float low, high;
} embarq_dense_f32_params;

typedef struct {
    embarq_ref input, output;
    embarq_window window;
    int32_t count_pad;
    float low, high;
} embarq_pool_f32_params;

typedef struct {
    embarq_source a, b;
    embarq_ref output;
    embarq_broadcast broadcast;
    float low, high;
} embarq_arithmetic_f32_params;

/* first, second: alpha of leaky_relu, min and max of clip */
typedef struct {
    embarq_ref input, output;
    int32_t count;
    float first, second;
} embarq_unary_f32_params;

typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    float beta;
} embarq_softmax_f32_params;

/* x * scale[channel] + shift[channel] */
typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    const float *scale, *shift, *mean;
} embarq_batch_norm_f32_params;

typedef void embarq_kernel_function(const void *params, const embarq_memory *memory);

embarq_kernel_function embarq_conv2d_s8;
embarq_kernel_function embarq_conv2d_s8_dsp;
embarq_kernel_function embarq_conv2d_s8_dsp_relu;
embarq_kernel_function embarq_conv2d_s8_dsp_once;
embarq_kernel_function embarq_depthwise_s8;
embarq_kernel_function embarq_depthwise_s8_dsp;
embarq_kernel_function embarq_depthwise_s8_dsp_relu;
embarq_kernel_function embarq_dense_s8;
embarq_kernel_function embarq_dense_s8_dsp;
embarq_kernel_function embarq_dense_s8_dsp_relu;
embarq_kernel_function embarq_dense_s8_dsp_once;
embarq_kernel_function embarq_batch_matmul_int;
embarq_kernel_function embarq_add_int;
embarq_kernel_function embarq_add_s8_dsp;
embarq_kernel_function embarq_add_exact_s8_dsp;
embarq_kernel_function embarq_mul_int;
embarq_kernel_function embarq_div_int;
embarq_kernel_function embarq_squared_difference_int;
embarq_kernel_function embarq_maximum_int;
embarq_kernel_function embarq_minimum_int;
embarq_kernel_function embarq_prelu_s8;
embarq_kernel_function embarq_table_s8;
embarq_kernel_function embarq_table_s16;
embarq_kernel_function embarq_requantize_int;
embarq_kernel_function embarq_quantize_f32;
embarq_kernel_function embarq_dequantize_int;
embarq_kernel_function embarq_avg_pool_s8_dsp;
embarq_kernel_function embarq_avg_pool_int;
embarq_kernel_function embarq_max_pool_int;
embarq_kernel_function embarq_sum_int;
embarq_kernel_function embarq_reduce_max_int;
embarq_kernel_function embarq_argmax_int;
embarq_kernel_function embarq_softmax_s8;
embarq_kernel_function embarq_softmax_s16;
embarq_kernel_function embarq_log_softmax_s8;
embarq_kernel_function embarq_layer_norm_int;
embarq_kernel_function embarq_resize_bilinear_int;
embarq_kernel_function embarq_conv2d_s16;
embarq_kernel_function embarq_depthwise_s16;
embarq_kernel_function embarq_dense_s16;
embarq_kernel_function embarq_copy_strided;
embarq_kernel_function embarq_pad;
embarq_kernel_function embarq_concat;
embarq_kernel_function embarq_gather;
embarq_kernel_function embarq_cast;
embarq_kernel_function embarq_resize_nearest;
embarq_kernel_function embarq_conv2d_f32;
embarq_kernel_function embarq_depthwise_f32;
embarq_kernel_function embarq_dense_f32;
embarq_kernel_function embarq_batch_matmul_f32;
embarq_kernel_function embarq_avg_pool_f32;
embarq_kernel_function embarq_max_pool_f32;
embarq_kernel_function embarq_sum_f32;
embarq_kernel_function embarq_reduce_max_f32;
embarq_kernel_function embarq_argmax_f32;
embarq_kernel_function embarq_softmax_f32;
embarq_kernel_function embarq_log_softmax_f32;
embarq_kernel_function embarq_layer_norm_f32;
embarq_kernel_function embarq_batch_norm_f32;
embarq_kernel_function embarq_resize_bilinear_f32;
embarq_kernel_function embarq_add_f32;
embarq_kernel_function embarq_sub_f32;
embarq_kernel_function embarq_mul_f32;
embarq_kernel_function embarq_div_f32;
embarq_kernel_function embarq_maximum_f32;
embarq_kernel_function embarq_minimum_f32;
embarq_kernel_function embarq_squared_difference_f32;
embarq_kernel_function embarq_prelu_f32;
embarq_kernel_function embarq_clip_f32;
embarq_kernel_function embarq_leaky_relu_f32;
embarq_kernel_function embarq_elu_f32;
embarq_kernel_function embarq_hard_swish_f32;
embarq_kernel_function embarq_hard_sigmoid_f32;
embarq_kernel_function embarq_sigmoid_f32;
embarq_kernel_function embarq_tanh_f32;
embarq_kernel_function embarq_silu_f32;
embarq_kernel_function embarq_gelu_f32;
embarq_kernel_function embarq_gelu_tanh_f32;
embarq_kernel_function embarq_exp_f32;
embarq_kernel_function embarq_log_f32;
embarq_kernel_function embarq_sqrt_f32;
embarq_kernel_function embarq_rsqrt_f32;
embarq_kernel_function embarq_abs_f32;
embarq_kernel_function embarq_neg_f32;

/* ---- what to lend a kernel -------------------------------------------------------------------------------------
 * An overlap distance d: the kernel may write its output over its input as long as
 * address(input) - address(output) >= d. `in_item` and `out_item` are the bytes of one element. */

/* A kernel that writes output pixels in raster order, reading each one's window just before (conv2d, depthwise, pools). */
int32_t embarq_raster_overlap_bytes(const embarq_window *window, int32_t in_item, int32_t out_item);

/* conv2d_s8_dsp: columns of three pixels; where rows are not whole words, the bytes left of them and one gathered window. */
uint32_t embarq_conv2d_s8_dsp_scratch_bytes(const embarq_window *window);
int32_t embarq_conv2d_s8_dsp_overlap_bytes(const embarq_window *window);

/* depthwise_s8_dsp: the columns of four channels of one output row, and copies of the last `kept_rows` input rows: with
 * them the output may lie where the input lies. How many that takes; 0 where it does not help. */
int32_t embarq_depthwise_s8_dsp_kept_rows(const embarq_window *window);
uint32_t embarq_depthwise_s8_dsp_scratch_bytes(const embarq_window *window, int32_t kept_rows);
int32_t embarq_depthwise_s8_dsp_overlap_bytes(const embarq_window *window, int32_t kept_rows);

#ifdef __cplusplus
}
#endif

#include "embarq_training_kernels.h"

#endif
