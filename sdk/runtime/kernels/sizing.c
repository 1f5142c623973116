/* What to lend a kernel: pure integer functions, compiled for the host and asked there. */
#include "embarq_kernels.h"

static int32_t largest(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t smallest(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* First input pixel (row * in_w + column) that the window of output pixel (y, x) reads; the image's end when it reads none. */
static int32_t first_read(const embarq_window *w, int32_t y, int32_t x)
{
    int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    while (top < 0) {
        top += w->dilation_h;
    }
    while (left < 0) {
        left += w->dilation_w;
    }
    return top < w->in_h && left < w->in_w ? top * w->in_w + left : w->in_h * w->in_w;
}

int32_t embarq_raster_overlap_bytes(const embarq_window *w, int32_t in_item, int32_t out_item)
{
    const int32_t image = w->in_h * w->in_w, in_pixel = w->in_c * in_item, out_pixel = w->out_c * out_item;
    int32_t distance = -w->batch * image * in_pixel;
    int32_t read = w->batch * image; /* first input pixel that is still read from here on */
    for (int32_t n = w->batch - 1; n >= 0; n--) {
        for (int32_t y = w->out_h - 1; y >= 0; y--) {
            for (int32_t x = w->out_w - 1; x >= 0; x--) {
                const int32_t written = ((n * w->out_h + y) * w->out_w + x + 1) * out_pixel;
                read = smallest(read, n * image + first_read(w, y, x));
                distance = largest(distance, written - read * in_pixel);
            }
        }
    }
    return distance;
}
