/* plane.h */
#include "plane.h"
#include "real_fma.h"

void embarq_plane_clear(float *plane, int32_t size)
{
    for (int32_t i = 0; i < size; i++) {
        plane[i] = 0.0f;
    }
}

void embarq_plane_put(float *plane, int32_t plane_w, int32_t top, int32_t left, const float *image, int32_t height, int32_t width, int32_t step)
{
    float *row = plane + top * plane_w + left;
    for (int32_t y = 0; y < height; y++, row += plane_w) {
        for (int32_t x = 0; x < width; x++, image += step) {
            row[x] = *image;
        }
    }
}

static void write(const embarq_correlation *c, int32_t at, float total)
{
    const float value = total + (c->base ? c->base[at] : c->start);
    c->out[at] = embarq_within(value, c->low, c->high);
}

/* 3x3 without dilation: the nine taps stay in registers. */
static void correlate_3x3(const embarq_correlation *c, const float *w)
{
    const float a = w[0], b = w[1], d = w[2], e = w[3], f = w[4], g = w[5], h = w[6], i = w[7], k = w[8];
    int32_t at = 0;
    for (int32_t y = 0; y < c->out_h; y++) {
        const float *top = c->plane + y * c->stride_h * c->plane_w, *middle = top + c->plane_w, *bottom = middle + c->plane_w;
        for (int32_t x = 0; x < c->out_w; x++, at += c->step, top += c->stride_w, middle += c->stride_w, bottom += c->stride_w) {
            float total = embarq_fma(top[1], b, top[0] * a);
            total = embarq_fma(top[2], d, total);
            total = embarq_fma(middle[0], e, total);
            total = embarq_fma(middle[1], f, total);
            total = embarq_fma(middle[2], g, total);
            total = embarq_fma(bottom[0], h, total);
            total = embarq_fma(bottom[1], i, total);
            total = embarq_fma(bottom[2], k, total);
            write(c, at, total);
        }
    }
}

static void correlate_any(const embarq_correlation *c, const embarq_view *view, int32_t first, float scale)
{
    int32_t at = 0;
    for (int32_t y = 0; y < c->out_h; y++) {
        for (int32_t x = 0; x < c->out_w; x++, at += c->step) {
            float total = 0.0f;
            for (int32_t i = 0, tap = first; i < c->kernel_h; i++) {
                const float *row = c->plane + (y * c->stride_h + i * c->dilation_h) * c->plane_w + x * c->stride_w;
                for (int32_t j = 0; j < c->kernel_w; j++, tap += c->w_step, row += c->dilation_w) {
                    total = embarq_fma(*row, embarq_view_at(view, tap), total);
                }
            }
            write(c, at, total * scale);
        }
    }
}

void embarq_correlate(const embarq_correlation *c, const embarq_view *view, int32_t first, float scale)
{
    if (c->kernel_h != 3 || c->kernel_w != 3 || c->dilation_h != 1 || c->dilation_w != 1) {
        correlate_any(c, view, first, scale);
        return;
    }
    float w[EMBARQ_TAPS];
    for (int32_t tap = 0; tap < EMBARQ_TAPS; tap++) {
        w[tap] = embarq_view_at(view, first + tap * c->w_step) * scale;
    }
    correlate_3x3(c, w);
}
