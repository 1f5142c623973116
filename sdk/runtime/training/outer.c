/* outer.h: in assembly where there is an FPU with a fused multiply-add, else in C. */
#include "outer.h"
#include "real_fma.h"

static const float *behind(const float *at, int32_t bytes)
{
    return (const float *)(const void *)((const uint8_t *)at + bytes);
}

void embarq_outer_part(const float *x, const float *dy, const embarq_runs *runs, int32_t rows, int32_t columns, float *g)
{
    for (int32_t i = 0; i < EMBARQ_BLOCK * EMBARQ_BLOCK; i++) {
        g[i] = 0.0f;
    }
    for (int32_t line = 0; line < runs->lines; line++) {
        for (int32_t pixel = 0; pixel < runs->count; pixel++) {
            for (int32_t a = 0; a < rows; a++) {
                for (int32_t b = 0; b < columns; b++) {
                    g[EMBARQ_BLOCK * a + b] = embarq_fma(dy[a], x[b], g[EMBARQ_BLOCK * a + b]);
                }
            }
            x = behind(x, runs->x_step);
            dy = behind(dy, runs->dy_step);
        }
        x = behind(x, runs->x_line);
        dy = behind(dy, runs->dy_line);
    }
}

#if defined(__thumb2__) && defined(__ARM_FP) && defined(__ARM_FEATURE_FMA)

/* r0 x, r1 dy, r3 g, r4-r9 the runs, r12 pixels left; s0-s15 g, s16-s19 x, s20-s23 dy */
#define ROW(a, first, second, third, fourth) \
    "vfma.f32 s" #first ", s16, s" #a "\n vfma.f32 s" #second ", s17, s" #a "\n" \
    "vfma.f32 s" #third ", s18, s" #a "\n vfma.f32 s" #fourth ", s19, s" #a "\n"

__asm__(".syntax unified\n .thumb\n .section .text.embarq_outer,\"ax\",%progbits\n .balign 4\n .global embarq_outer\n"
        ".type embarq_outer,%function\n .thumb_func\nembarq_outer:\n"
        "push {r4-r9}\n vpush {d8-d11}\n ldm r2, {r4-r9}\n adr r2, 9f\n vldm r2, {s0-s15}\n"
        "1:\n mov r12, r9\n"
        "2:\n vldm r0, {s16-s19}\n vldm r1, {s20-s23}\n add r0, r4\n add r1, r5\n"
        ROW(20, 0, 1, 2, 3) ROW(21, 4, 5, 6, 7) ROW(22, 8, 9, 10, 11) ROW(23, 12, 13, 14, 15)
        "subs r12, r12, #1\n bne 2b\n add r0, r6\n add r1, r7\n subs r8, r8, #1\n bne 1b\n"
        "vstm r3, {s0-s15}\n vpop {d8-d11}\n pop {r4-r9}\n bx lr\n"
        ".balign 4\n 9:\n .space 64\n .size embarq_outer, .-embarq_outer\n");

#else

void embarq_outer(const float *x, const float *dy, const embarq_runs *runs, float *g)
{
    embarq_outer_part(x, dy, runs, EMBARQ_BLOCK, EMBARQ_BLOCK, g);
}

#endif
