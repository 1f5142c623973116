/* int8 convolution on cores with DSP instructions: three output pixels are unpacked into columns, then multiplied with
 * all channels two by two. A block's input is read whole before its output is written, so output may follow input closely. */
#include "bytes.h"
#include "fixed.h"
#include "limits_s8_dsp.h"
#include "matrix_s8_dsp.h"
#include "window.h"

#if defined(__ARM_FEATURE_DSP)

enum { BLOCK = 3, QUAD_WORDS = 2 * BLOCK };

/* Depth runs over the whole words of every kernel row, then over the bytes that are left of every row. */
typedef struct {
    const embarq_conv2d_s8_dsp_params *p;
    embarq_mat3x2 *multiply;
    const int8_t *image;        /* [in_h][in_w][in_c] */
    int32_t row_bytes;          /* kernel_w * in_c */
    int32_t row_quads;          /* whole words of a row */
    int32_t rest;               /* bytes left of a row */
    int32_t quads, rest_quads;  /* of the whole depth, and of the bytes left */
    uint32_t *columns;          /* [quads][U0 U1 U2 Y0 Y1 Y2] */
    int8_t *rests;              /* [BLOCK][rest_quads * 4] */
    int8_t *gathered;           /* [kernel_h][row_bytes]: a window that leaves the image and cannot be unpacked tap by tap */
} work;

/* Collect the bytes left of every row of one window. */
static void collect_rests(const work *k, const int8_t *row, int32_t line, int8_t *to)
{
    row += k->row_quads * 4;
    for (int32_t i = 0; i < k->p->window.kernel_h; i++, row += line) {
        for (int32_t j = 0; j < k->rest; j++) {
            *to++ = row[j];
        }
    }
}

/* Unpack one window, whose rows lie `line` bytes apart, into column `slot`. */
static void unpack_rows(const work *k, const int8_t *row, int32_t line, int32_t slot)
{
    uint32_t *column = k->columns + slot;
    if (k->rest) {
        collect_rests(k, row, line, k->rests);
    }
    if (k->row_quads) {
        for (int32_t i = 0; i < k->p->window.kernel_h; i++, row += line) {
            column = embarq_widen1_s8(row, column, k->row_quads);
        }
    }
    if (k->rest) {
        embarq_widen1_s8(k->rests, column, k->rest_quads);
    }
}

/* Column words of the zero point. */
static uint32_t *pad(const work *k, uint32_t *column, int32_t quads)
{
    const uint32_t zero = (uint8_t)k->p->input_zero_point * UINT32_C(0x01010101);
    const uint32_t half = (uint16_t)k->p->input_zero_point;
    for (int32_t i = 0; i < quads; i++, column += QUAD_WORDS) {
        column[0] = half | half << 16;
        column[BLOCK] = zero ^ UINT32_C(0x007f007f);
    }
    return column;
}

/* Unpack a window that leaves the image, tap by tap: whole words of channels only. */
static void unpack_taps(const work *k, int32_t top, int32_t left, int32_t slot)
{
    const embarq_window *w = &k->p->window;
    const int32_t tap_quads = w->in_c / 4;
    const embarq_taps taps = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);
    uint32_t *column = k->columns + slot;
    for (int32_t i = 0; i < w->kernel_h; i++) {
        const int32_t y = top + i * w->dilation_h;
        if (y < 0 || y >= w->in_h || taps.first == taps.end) {
            column = pad(k, column, k->row_quads);
            continue;
        }
        const int8_t *in = k->image + (y * w->in_w + left + taps.first * w->dilation_w) * w->in_c;
        const int32_t count = taps.end - taps.first;
        column = pad(k, column, taps.first * tap_quads);
        if (w->dilation_w == 1) {
            column = embarq_widen1_s8(in, column, count * tap_quads);
        } else {
            for (int32_t j = 0; j < count; j++, in += w->dilation_w * w->in_c) {
                column = embarq_widen1_s8(in, column, tap_quads);
            }
        }
        column = pad(k, column, (w->kernel_w - taps.end) * tap_quads);
    }
}

/* The same by way of a copy, for any number of channels. */
static void gather(const work *k, int32_t top, int32_t left)
{
    const embarq_window *w = &k->p->window;
    const embarq_taps taps = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);
    int8_t *to = k->gathered;
    embarq_fill(to, (uint8_t)k->p->input_zero_point, (size_t)(w->kernel_h * k->row_bytes));
    for (int32_t i = 0; i < w->kernel_h; i++, to += k->row_bytes) {
        const int32_t y = top + i * w->dilation_h;
        if (y < 0 || y >= w->in_h) {
            continue;
        }
        const int8_t *in = k->image + (y * w->in_w + left) * w->in_c;
        if (w->dilation_w == 1) {
            embarq_copy(to + taps.first * w->in_c, in + taps.first * w->in_c, (size_t)((taps.end - taps.first) * w->in_c));
            continue;
        }
        for (int32_t j = taps.first; j < taps.end; j++) {
            embarq_copy(to + j * w->in_c, in + j * w->dilation_w * w->in_c, (size_t)w->in_c);
        }
    }
}

/* Windows from (top, left) to the column right_edge lie inside the image, their rows in one piece. */
static int inside(const embarq_window *w, int32_t top, int32_t left, int32_t right_edge)
{
    return top >= 0 && left >= 0 && top + w->kernel_h <= w->in_h && right_edge <= w->in_w && w->dilation_h == 1 && w->dilation_w == 1;
}

/* Unpack output pixel (y, x) into column `slot`. */
static void unpack_pixel(const work *k, int32_t y, int32_t x, int32_t slot)
{
    const embarq_window *w = &k->p->window;
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    if (inside(w, top, left, left + w->kernel_w)) {
        unpack_rows(k, k->image + (top * w->in_w + left) * w->in_c, w->in_w * w->in_c, slot);
    } else if (w->in_c % 4 == 0) {
        unpack_taps(k, top, left, slot);
    } else {
        gather(k, top, left);
        unpack_rows(k, k->gathered, k->row_bytes, slot);
    }
}

/* Unpack output pixels (y, x), (y, x + 1), (y, x + 2) of one row at once; 0 when one of them is at an edge. */
static int unpack_block(const work *k, int32_t y, int32_t x)
{
    const embarq_window *w = &k->p->window;
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    const int32_t step = w->stride_w * w->in_c, line = w->in_w * w->in_c;
    if (x + BLOCK > w->out_w || !inside(w, top, left, left + (BLOCK - 1) * w->stride_w + w->kernel_w)) {
        return 0;
    }
    const int8_t *row = k->image + (top * w->in_w + left) * w->in_c;
    uint32_t *columns = k->columns;
    if (k->rest) {
        for (int32_t slot = 0; slot < BLOCK; slot++) {
            collect_rests(k, row + slot * step, line, k->rests + slot * k->rest_quads * 4);
        }
    }
    if (k->row_quads) {
        for (int32_t i = 0; i < w->kernel_h; i++, row += line) {
            columns = embarq_widen3_s8(row, step, columns, k->row_quads);
        }
    }
    if (k->rest) {
        embarq_widen3_s8(k->rests, k->rest_quads * 4, columns, k->rest_quads);
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
    work k;
    k.p = p;
    k.multiply = multiply_columns;
    k.image = embarq_at(memory, p->input);
    k.row_bytes = w->kernel_w * w->in_c;
    k.row_quads = k.row_bytes / 4;
    k.rest = k.row_bytes % 4;
    k.rest_quads = (w->kernel_h * k.rest + 3) / 4;
    k.quads = w->kernel_h * k.row_quads + k.rest_quads;
    k.columns = embarq_at(memory, p->scratch);
    k.rests = (int8_t *)(k.columns + k.quads * QUAD_WORDS);
    k.gathered = k.rests + BLOCK * k.rest_quads * 4;

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
