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

/* Overlap of a kernel that reads the windows of up to `block` output pixels, then writes them; with `block` 0 it reads a
 * pixel's window while it writes the pixel. Blocks lie in one image; what is left over goes one pixel at a time. */
static int32_t overlap(const embarq_window *w, int32_t block, int32_t in_pixel, int32_t out_pixel)
{
    const int32_t image = w->in_h * w->in_w, out_image = w->out_h * w->out_w;
    int32_t distance = -w->batch * image * in_pixel;
    int32_t read = w->batch * image; /* first input pixel that is still read from here on */
    for (int32_t n = w->batch - 1; n >= 0; n--) {
        for (int32_t y = w->out_h - 1; y >= 0; y--) {
            for (int32_t x = w->out_w - 1; x >= 0; x--) {
                const int32_t pixel = y * w->out_w + x;
                const int whole = block < 2 || pixel % block == block - 1 || pixel >= out_image - out_image % block;
                const int32_t later = read;
                read = smallest(read, n * image + first_read(w, y, x));
                const int32_t needed = block ? later : read;
                if (whole && needed < w->batch * image) {
                    const int32_t written = (n * out_image + pixel + 1) * out_pixel;
                    distance = largest(distance, written - needed * in_pixel);
                }
            }
        }
    }
    return distance;
}

int32_t embarq_raster_overlap_bytes(const embarq_window *w, int32_t in_item, int32_t out_item)
{
    return overlap(w, 0, w->in_c * in_item, w->out_c * out_item);
}

/* Every window lies inside the image. */
static int inside(const embarq_window *w)
{
    const int32_t right = (w->out_w - 1) * w->stride_w - w->pad_left + (w->kernel_w - 1) * w->dilation_w;
    const int32_t bottom = (w->out_h - 1) * w->stride_h - w->pad_top + (w->kernel_h - 1) * w->dilation_h;
    return w->pad_top <= 0 && w->pad_left <= 0 && right < w->in_w && bottom < w->in_h && w->dilation_h == 1 && w->dilation_w == 1;
}

uint32_t embarq_conv2d_s8_dsp_scratch_bytes(const embarq_window *w)
{
    const int32_t row = w->kernel_w * w->in_c, rests = (w->kernel_h * (row % 4) + 3) / 4 * 4;
    const int32_t depth = w->kernel_h * (row / 4 * 4) + rests;
    const int32_t gathered = w->in_c % 4 == 0 || inside(w) ? 0 : (w->kernel_h * row + 3) / 4 * 4;
    return (uint32_t)(6 * depth + 3 * rests + gathered);
}

int32_t embarq_conv2d_s8_dsp_overlap_bytes(const embarq_window *w)
{
    return overlap(w, 3, w->in_c, w->out_c);
}

/* Output row y lies where input row y lay, and the windows of later rows reach pad_top rows above their own. */
int32_t embarq_depthwise_s8_dsp_kept_rows(const embarq_window *w)
{
    const int32_t rows = w->pad_top + 1;
    return w->stride_h == 1 && w->out_w <= w->in_w && w->out_h <= w->in_h && 2 * rows <= w->in_h ? rows : 0;
}

uint32_t embarq_depthwise_s8_dsp_scratch_bytes(const embarq_window *w, int32_t kept_rows)
{
    const int32_t width = (w->out_w - 1) * w->stride_w + w->kernel_w;
    return (uint32_t)(width * (w->kernel_h / 2 * 16 + w->kernel_h % 2 * 8) + kept_rows * w->in_w * w->in_c);
}

/* A row is read for four channels, then written for them; the next four channels read the same rows again. Where rows are
 * kept, the first row that is still to be read is the one behind the output row. */
int32_t embarq_depthwise_s8_dsp_overlap_bytes(const embarq_window *w, int32_t kept_rows)
{
    const int32_t row_bytes = w->in_w * w->in_c;
    int32_t distance = -w->batch * w->in_h * row_bytes;
    for (int32_t n = 0; n < w->batch; n++) {
        for (int32_t y = 0; y < w->out_h; y++) {
            const int32_t top = kept_rows ? y + 1 : largest(0, y * w->stride_h - w->pad_top);
            const int32_t written = (n * w->out_h + y + 1) * w->out_w * w->out_c;
            distance = largest(distance, written - (n * w->in_h + smallest(top, w->in_h)) * row_bytes);
        }
    }
    return distance;
}
