/* taps.h: eight channels in assembly where there is an FPU with a fused multiply-add, else in C. */
#include "taps.h"
#include "real_fma.h"

#if defined(__thumb2__) && defined(__ARM_FP) && defined(__ARM_FEATURE_FMA)
#define LANES_IN_ASSEMBLY 1

/* r0 x, r1 w of the row, r2 rows, r3 columns, r4 r5 steps, r6 r7 steps to the next row, r8 x, lr w, r12 columns left, r9 base and high, r10 out;
 * s0-s7 sums, s8-s15 x, s16-s23 w. Floats that are not negative are in the order of their bits. */
__asm__(".syntax unified\n .thumb\n .section .text.embarq_sum_lanes,\"ax\",%progbits\n .balign 4\n .global embarq_sum_lanes\n"
        ".type embarq_sum_lanes,%function\n .thumb_func\nembarq_sum_lanes:\n"
        "push {r4-r10, lr}\n vpush {d8-d11}\n mov r8, r0\n ldm r8!, {r0-r7}\n ldm r8, {r9, r10}\n vldm r9, {s0-s7}\n ldr r9, [r8, #8]\n"
        "cmp r2, #0\n beq 3f\n"
        "1:\n mov r8, r0\n mov lr, r1\n mov r12, r3\n"
        "2:\n vldm r8, {s8-s15}\n vldm lr, {s16-s23}\n add r8, r4\n add lr, r5\n"
        "vfma.f32 s0, s8, s16\n vfma.f32 s1, s9, s17\n vfma.f32 s2, s10, s18\n vfma.f32 s3, s11, s19\n"
        "vfma.f32 s4, s12, s20\n vfma.f32 s5, s13, s21\n vfma.f32 s6, s14, s22\n vfma.f32 s7, s15, s23\n"
        "subs r12, r12, #1\n bne 2b\n add r0, r6\n add r1, r7\n subs r2, r2, #1\n bne 1b\n"
        "3:\n cmp r9, #0\n bne 4f\n"
        "vstm r10, {s0-s7}\n vpop {d8-d11}\n pop {r4-r10, pc}\n"
        "4:\n .irp half, 0, 1\n"
        ".if \\half\n vmov r0, r1, d2\n vmov r2, r3, d3\n .else\n vmov r0, r1, d0\n vmov r2, r3, d1\n .endif\n"
        ".irp r, 0, 1, 2, 3\n bic r\\r, r\\r, r\\r, asr #31\n cmp r\\r, r9\n it gt\n movgt r\\r, r9\n .endr\n"
        "stm r10!, {r0-r3}\n .endr\n"
        "vpop {d8-d11}\n pop {r4-r10, pc}\n"
        ".size embarq_sum_lanes, .-embarq_sum_lanes\n");

void embarq_sum_lanes(const embarq_taps_sum *t);

#endif

static void sum_any(const embarq_taps_sum *t)
{
    union {
        int32_t bits;
        float value;
    } high = {t->high};
    for (int32_t c = 0; c < t->channels; c++) {
        const uint8_t *x_row = (const uint8_t *)(t->x + c), *w_row = (const uint8_t *)(t->w + c);
        float total = t->base[c];
        for (int32_t i = 0; i < t->rows; i++, x_row += t->x_row, w_row += t->w_row) {
            const uint8_t *x = x_row, *w = w_row;
            for (int32_t j = 0; j < t->columns; j++, x += t->x_step, w += t->w_step) {
                total = embarq_fma(*(const float *)(const void *)x, *(const float *)(const void *)w, total);
            }
        }
        t->out[c] = t->high ? embarq_within(total, 0.0f, high.value) : total;
    }
}

static void sum_lanes(const embarq_taps_sum *t)
{
#if defined(LANES_IN_ASSEMBLY)
    if (t->channels == EMBARQ_LANES) {
        embarq_sum_lanes(t);
        return;
    }
#endif
    sum_any(t);
}

void embarq_sum_taps(const embarq_taps_sum *sum)
{
    static const float zeros[EMBARQ_LANES] = {0};
    embarq_taps_sum t = *sum;
    int32_t left = sum->channels;
    t.base = sum->base ? sum->base : zeros;
    t.rows = sum->columns ? sum->rows : 0;
    t.channels = EMBARQ_LANES;
    for (; left > 0; left -= EMBARQ_LANES) {
        if (left < EMBARQ_LANES) {
            t.channels = left;
        }
        sum_lanes(&t);
        t.x += EMBARQ_LANES;
        t.w += EMBARQ_LANES;
        t.out += EMBARQ_LANES;
        t.base += sum->base ? EMBARQ_LANES : 0;
    }
}

embarq_meeting embarq_taps_of_output(int32_t out, int32_t kernel, int32_t stride, int32_t dilation, int32_t pad, int32_t size)
{
    embarq_meeting m = {0, 0, 1, out * stride - pad, dilation};
    while (m.first < kernel && m.place < 0) {
        m.first++;
        m.place += dilation;
    }
    int32_t end = m.first, at = m.place;
    while (end < kernel && at < size) {
        end++;
        at += dilation;
    }
    m.count = end - m.first;
    return m;
}

embarq_meeting embarq_taps_of_input(int32_t in, int32_t kernel, int32_t stride, int32_t dilation, int32_t pad, int32_t size)
{
    embarq_meeting m = {0, 0, kernel, 0, 0};
    for (int32_t tap = 0; tap < kernel; tap++) {
        const int32_t at = in + pad - tap * dilation;
        if (at < 0 || at % stride || at / stride >= size) {
            continue;
        }
        if (m.count == 0) {
            m.first = tap;
            m.place = at / stride;
        } else if (m.count == 1) {
            m.tap_step = tap - m.first;
            m.place_step = at / stride - m.place;
        }
        m.count++;
    }
    return m;
}

embarq_meeting embarq_outputs_of_tap(int32_t tap, int32_t outs, int32_t stride, int32_t dilation, int32_t pad, int32_t size)
{
    const int32_t shift = pad - tap * dilation; /* output i lies at i * stride - shift */
    embarq_meeting m = {shift > 0 ? (shift + stride - 1) / stride : 0, 0, 1, 0, stride};
    const int32_t end = size + shift > 0 ? (size + shift - 1) / stride + 1 : 0;
    m.count = (end < outs ? end : outs) - m.first;
    m.count = m.count > 0 ? m.count : 0;
    m.place = m.first * stride - shift;
    return m;
}

embarq_lanes embarq_lanes_of(const embarq_view *view, const embarq_window *window, int32_t c, int32_t count, float *scratch)
{
    const int32_t channels = window->in_c, taps = window->kernel_h * window->kernel_w;
    if (view->f32) {
        const embarq_lanes there = {view->f32 + c, channels, window->kernel_w * channels};
        return there;
    }
    const int8_t *from = view->s8 + c;
    float *to = scratch;
    for (int32_t tap = 0; tap < taps; tap++, from += channels, to += count) {
        const float *scales = view->scales + c;
        for (int32_t lane = 0; lane < count; lane++) {
            to[lane] = (float)from[lane] * scales[lane];
        }
    }
    const embarq_lanes made = {scratch, count, window->kernel_w * count};
    return made;
}
