/* int8 convolution on cores with DSP instructions: three output pixels are unpacked into columns, then multiplied with
 * all channels two by two. A block's input is read whole before its output is written, so output may follow input closely. */
#include "bytes.h"
#include "fixed.h"
#include "limits_s8_dsp.h"
#include "matrix_s8_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum { BLOCK = 3, QUAD_WORDS = 2 * BLOCK };

typedef struct {
    const embarq_conv2d_s8_dsp_params *p;
    embarq_mat3x2 *multiply;
    const int8_t *image; /* [in_h][in_w][in_c] */
    int32_t row_bytes;   /* kernel_w * in_c */
    int32_t quads;       /* depth / 4, rounded up */
    uint32_t *columns;   /* [quads][U0 U1 U2 Y0 Y1 Y2] */
    int8_t *gathered;    /* [quads * 4] one pixel's window when it cannot be read in place */
} work;

/* Copy one window into `gathered`, the zero point where it leaves the image. */
static void gather(const work *k, int32_t top, int32_t left)
{
    const embarq_window *w = &k->p->window;
    embarq_fill(k->gathered, (uint8_t)k->p->input_zero_point, (size_t)k->quads * 4);
    for (int32_t i = 0; i < w->kernel_h; i++) {
        const int32_t y = top + i * w->dilation_h;
        if (y < 0 || y >= w->in_h) {
            continue;
        }
        const int8_t *row = k->image + y * w->in_w * w->in_c;
        int8_t *to = k->gathered + i * k->row_bytes;
        if (w->dilation_w == 1) {
            const int32_t first = embarq_max(0, -left), end = embarq_min(w->kernel_w, w->in_w - left);
            if (end > first) {
                embarq_copy(to + first * w->in_c, row + (left + first) * w->in_c, (size_t)((end - first) * w->in_c));
            }
            continue;
        }
        for (int32_t j = 0; j < w->kernel_w; j++, to += w->in_c) {
            const int32_t x = left + j * w->dilation_w;
            if (x >= 0 && x < w->in_w) {
                embarq_copy(to, row + x * w->in_c, (size_t)w->in_c);
            }
        }
    }
}

/* Rows of the windows at (top, left) and up to right_edge lie inside the image and can be read by words. */
static int readable(const work *k, int32_t top, int32_t left, int32_t right_edge)
{
    const embarq_window *w = &k->p->window;
    return (k->row_bytes & 3) == 0 && w->dilation_h == 1 && w->dilation_w == 1 && top >= 0 && top + w->kernel_h <= w->in_h && left >= 0 &&
           right_edge <= w->in_w;
}

/* Unpack output pixel (y, x) into column `slot`. */
static void unpack_pixel(const work *k, int32_t y, int32_t x, int32_t slot)
{
    const embarq_window *w = &k->p->window;
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    uint32_t *column = k->columns + slot;
    if (!readable(k, top, left, left + w->kernel_w)) {
        gather(k, top, left);
        embarq_widen1_s8(k->gathered, column, k->quads);
        return;
    }
    const int8_t *row = k->image + (top * w->in_w + left) * w->in_c;
    for (int32_t i = 0; i < w->kernel_h; i++, row += w->in_w * w->in_c, column += k->row_bytes / 4 * QUAD_WORDS) {
        embarq_widen1_s8(row, column, k->row_bytes / 4);
    }
}

/* Unpack output pixels (y, x), (y, x + 1), (y, x + 2) of one row at once; 0 when one of them is at an edge. */
static int unpack_block(const work *k, int32_t y, int32_t x)
{
    const embarq_window *w = &k->p->window;
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    if (x + BLOCK > w->out_w || !readable(k, top, left, left + (BLOCK - 1) * w->stride_w + w->kernel_w)) {
        return 0;
    }
    const int8_t *row = k->image + (top * w->in_w + left) * w->in_c;
    uint32_t *columns = k->columns;
    for (int32_t i = 0; i < w->kernel_h; i++, row += w->in_w * w->in_c) {
        columns = embarq_widen3_s8(row, w->stride_w * w->in_c, columns, k->row_bytes / 4);
    }
    return 1;
}

/* Multiply the columns with every channel: pixel s goes to out + s * stride. */
static void multiply(const work *k, int8_t *out, int32_t stride)
{
    const embarq_conv2d_s8_dsp_params *p = k->p;
    const uint32_t *end = k->columns + k->quads * QUAD_WORDS;
    const int32_t channels = p->window.out_c, pairs = channels / 2;
    if (pairs > 0) {
        k->multiply(p->stream, k->columns, end, out, stride);
    }
    if (channels & 1) {
        int8_t last[BLOCK][2];
        k->multiply(p->stream + pairs * (8 + 2 * k->quads), k->columns, end, last[0], 2);
        for (int32_t s = stride ? 0 : BLOCK - 1; s < BLOCK; s++) {
            out[s * stride + channels - 1] = last[s][0];
        }
    }
}

static void image_loop(work *k, int8_t *out)
{
    const embarq_window *w = &k->p->window;
    const int32_t pixels = w->out_h * w->out_w, channels = w->out_c;
    const int narrow = k->p->low > INT8_MIN || k->p->high < INT8_MAX;
    int32_t y = 0, x = 0;
    for (int32_t done = 0; done < pixels;) {
        /* The last pixels, fewer than a block, go one by one: in the last column, with stride 0, so that what the other
         * columns still hold is written first and overwritten. */
        const int32_t count = pixels - done >= BLOCK ? BLOCK : 1;
        if (count == BLOCK && unpack_block(k, y, x)) {
            x += BLOCK;
        } else {
            for (int32_t slot = BLOCK - count; slot < BLOCK; slot++, x++) {
                if (x == w->out_w) {
                    x = 0;
                    y++;
                }
                unpack_pixel(k, y, x, slot);
            }
        }
        if (x == w->out_w) {
            x = 0;
            y++;
        }
        multiply(k, out, count == BLOCK ? channels : 0);
        if (narrow) {
            embarq_limit_s8(out, count * channels, k->p->low, k->p->high);
        }
        done += count;
        out += count * channels;
    }
}

static void run(const embarq_conv2d_s8_dsp_params *p, const embarq_memory *memory, embarq_mat3x2 *multiply_columns)
{
    const embarq_window *w = &p->window;
    const int32_t row_bytes = w->kernel_w * w->in_c, quads = (w->kernel_h * row_bytes + 3) / 4;
    uint32_t *columns = embarq_at(memory, p->scratch);
    work k = {p, multiply_columns, embarq_at(memory, p->input), row_bytes, quads, columns, (int8_t *)(columns + quads * QUAD_WORDS)};
    int8_t *out = embarq_at(memory, p->output); /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, k.image += w->in_h * w->in_w * w->in_c, out += w->out_h * w->out_w * w->out_c) {
        image_loop(&k, out);
    }
}

void embarq_conv2d_s8_dsp(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_mat3x2_s8);
}

void embarq_conv2d_s8_dsp_relu(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_mat3x2_s8_relu);
}

void embarq_conv2d_s8_dsp_once(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_mat3x2_s8_once);
}

#endif
