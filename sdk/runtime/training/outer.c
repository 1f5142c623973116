/* outer.h: in assembly where there is an FPU with a fused multiply-add, else in C. */
#include "outer.h"

#if defined(__thumb2__) && defined(__ARM_FP) && defined(__ARM_FEATURE_FMA)

/* r0 x, r1 dy, r2 r3 their steps, r4 count, r5 g; s0-s15 g, s16-s19 x, s20-s23 dy */
#define ROW(a, first, second, third, fourth) \
    "vfma.f32 s" #first ", s16, s" #a "\n vfma.f32 s" #second ", s17, s" #a "\n" \
    "vfma.f32 s" #third ", s18, s" #a "\n vfma.f32 s" #fourth ", s19, s" #a "\n"

__asm__(".syntax unified\n .thumb\n .section .text.embarq_outer,\"ax\",%progbits\n .balign 4\n .global embarq_outer\n"
        ".type embarq_outer,%function\n .thumb_func\nembarq_outer:\n"
        "push {r4, r5}\n vpush {d8-d11}\n ldrd r4, r5, [sp, #40]\n vldm r5, {s0-s15}\n"
        "1:\n vldm r0, {s16-s19}\n vldm r1, {s20-s23}\n add r0, r2\n add r1, r3\n"
        ROW(20, 0, 1, 2, 3) ROW(21, 4, 5, 6, 7) ROW(22, 8, 9, 10, 11) ROW(23, 12, 13, 14, 15)
        "subs r4, #1\n bne 1b\n vstm r5, {s0-s15}\n vpop {d8-d11}\n pop {r4, r5}\n bx lr\n"
        ".size embarq_outer, .-embarq_outer\n");

#else

void embarq_outer(const float *x, const float *dy, int32_t x_step, int32_t dy_step, int32_t count, float *g)
{
    for (int32_t p = 0; p < count; p++) {
        for (int32_t a = 0; a < EMBARQ_BLOCK; a++) {
            for (int32_t b = 0; b < EMBARQ_BLOCK; b++) {
                g[EMBARQ_BLOCK * a + b] += dy[a] * x[b];
            }
        }
        x = (const float *)(const void *)((const uint8_t *)x + x_step);
        dy = (const float *)(const void *)((const uint8_t *)dy + dy_step);
    }
}

#endif
