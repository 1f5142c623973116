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

/* LiteRT's ADD and SUB: both sides shifted left and brought to a common scale, then to the output's. */
typedef struct {
    embarq_source a, b;
    embarq_ref output;
    embarq_broadcast broadcast;
    int32_t a_zero_point, b_zero_point, out_zero_point;
    int32_t left_shift;
    int32_t a_mult, a_shift, b_mult, b_shift, out_mult, out_shift;
    int32_t sign; /* 1: a + b, -1: a - b */
    int32_t low, high;
} embarq_add_s8_params;

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
    int32_t count_pad;
    int32_t zero_point;
    int32_t low, high;
} embarq_pool_s8_params;

/* rows of depth values; mult, shift and diff_min as LiteRT prepares them for 5 integer bits */
typedef struct {
    embarq_ref input, output;
    int32_t rows, depth;
    int32_t mult, shift;
    int32_t diff_min;
} embarq_softmax_s8_params;

void embarq_conv2d_s8(const void *params, const embarq_memory *memory);
void embarq_conv2d_s8_dsp(const void *params, const embarq_memory *memory);
void embarq_conv2d_s8_dsp_relu(const void *params, const embarq_memory *memory);
void embarq_conv2d_s8_dsp_once(const void *params, const embarq_memory *memory);
void embarq_dense_s8_dsp(const void *params, const embarq_memory *memory);
void embarq_dense_s8_dsp_relu(const void *params, const embarq_memory *memory);
void embarq_dense_s8_dsp_once(const void *params, const embarq_memory *memory);
void embarq_depthwise_s8(const void *params, const embarq_memory *memory);
void embarq_depthwise_s8_dsp(const void *params, const embarq_memory *memory);
void embarq_depthwise_s8_dsp_relu(const void *params, const embarq_memory *memory);
void embarq_dense_s8(const void *params, const embarq_memory *memory);
void embarq_add_s8(const void *params, const embarq_memory *memory);
void embarq_add_s8_dsp(const void *params, const embarq_memory *memory);
void embarq_avg_pool_s8(const void *params, const embarq_memory *memory);
void embarq_max_pool_s8(const void *params, const embarq_memory *memory);
void embarq_softmax_s8(const void *params, const embarq_memory *memory);

/* ---- what to lend a kernel -------------------------------------------------------------------------------------
 * An overlap distance d: the kernel may write its output over its input as long as
 * address(input) - address(output) >= d. `in_item` and `out_item` are the bytes of one element. */

/* A kernel that writes output pixels in raster order, reading each one's window just before (conv2d, depthwise, pools). */
int32_t embarq_raster_overlap_bytes(const embarq_window *window, int32_t in_item, int32_t out_item);

/* conv2d_s8_dsp: columns of three pixels, and one gathered window where windows are not read in place. */
uint32_t embarq_conv2d_s8_dsp_scratch_bytes(const embarq_window *window);
int32_t embarq_conv2d_s8_dsp_overlap_bytes(const embarq_window *window);

/* depthwise_s8_dsp: the columns of four channels of one output row. */
uint32_t embarq_depthwise_s8_dsp_scratch_bytes(const embarq_window *window);
int32_t embarq_depthwise_s8_dsp_overlap_bytes(const embarq_window *window);

#ifdef __cplusplus
}
#endif
#endif
