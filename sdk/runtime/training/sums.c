/* sums.h: in assembly where there is an FPU with a fused multiply-add, else in C. */
#include "sums.h"

#if defined(__thumb2__) && defined(__ARM_FP) && defined(__ARM_FEATURE_FMA)

/* r0 x, r1 its end, r2 weights of n = 0, r3 step_k, r4 step_n, r6 r7 weights, r8 the struct from `base`; s0-s17 sums, pixel by pixel, s18-s26 nine
 * pixels, s28 s29 weights. Behind the loop: r0 base, r1 out, r2 r3 their steps, r4 pixels, r5 high, s28 s29 scales. */
#define FUNCTION(name) \
    ".section .text." name ",\"ax\",%progbits\n" \
    ".balign 4\n" \
    ".global " name "\n" \
    ".type " name ",%function\n" \
    ".thumb_func\n" name ":\n"
#define END(name) ".size " name ", .-" name "\n"

/* Assembler macros, for a string in C may have no more than 4095 characters. mac: pixel p into sums a and b. store: sums a and b. Floats that are not
 * negative are in the order of their bits. */
#define MACROS \
    ".macro mac p, a, b\n vfma.f32 s\\a, s\\p, s28\n vfma.f32 s\\b, s\\p, s29\n .endm\n" \
    ".macro macs\n mac 18, 0, 1\n mac 19, 2, 3\n mac 20, 4, 5\n mac 21, 6, 7\n mac 22, 8, 9\n mac 23, 10, 11\n mac 24, 12, 13\n" \
    "mac 25, 14, 15\n mac 26, 16, 17\n .endm\n" \
    ".macro within r\n bic \\r, \\r, \\r, asr #31\n cmp \\r, r5\n it gt\n movgt \\r, r5\n .endm\n" \
    ".macro store a, b, limit\n vldr d9, [r0]\n vfma.f32 s18, s\\a, s28\n vfma.f32 s19, s\\b, s29\n" \
    ".if \\limit\n vmov r6, r7, d9\n within r6\n within r7\n strd r6, r7, [r1]\n .else\n vstr d9, [r1]\n .endif\n" \
    "subs r4, r4, #1\n beq.w 8f\n add r0, r2\n add r1, r3\n .endm\n" \
    ".macro stores limit\n store 0, 1, \\limit\n store 2, 3, \\limit\n store 4, 5, \\limit\n store 6, 7, \\limit\n store 8, 9, \\limit\n" \
    "store 10, 11, \\limit\n store 12, 13, \\limit\n store 14, 15, \\limit\n store 16, 17, \\limit\n .endm\n"
#define FORGET ".purgem mac\n .purgem macs\n .purgem within\n .purgem store\n .purgem stores\n"
#define WEIGHTS_S8 \
    "ldrsb r6, [r2]\n ldrsb r7, [r2, r4]\n add r2, r3\n vmov s28, s29, r6, r7\n vcvt.f32.s32 s28, s28\n vcvt.f32.s32 s29, s29\n"
#define WEIGHTS_F32 \
    "add r6, r2, r4\n vldr s28, [r2]\n vldr s29, [r6]\n add r2, r3\n"

/* 1: steps that are no multiple of four, one by one; 3: four at a time */
#define PAIR(name, WEIGHTS) \
    MACROS FUNCTION(name) \
    "push {r4-r8, lr}\n vpush {d8-d14}\n" \
    "mov r8, r0\n ldm r8!, {r0-r4}\n adr r6, 9f\n vldm r6, {s0-s17}\n" \
    "sub r6, r1, r0\n movs r7, #36\n udiv r6, r6, r7\n ands lr, r6, #3\n beq.w 2f\n" \
    "1:\n vldm r0!, {s18-s26}\n" WEIGHTS "macs\n subs lr, lr, #1\n bne 1b\n" \
    "2:\n cmp r0, r1\n beq.w 4f\n" \
    "3:\n .rept 4\n vldm r0!, {s18-s26}\n" WEIGHTS "macs\n .endr\n cmp r0, r1\n bne.w 3b\n" \
    "4:\n ldm r8, {r0-r3}\n vldr d14, [r8, #16]\n ldrd r4, r5, [r8, #24]\n cmp r5, #0\n bne.w 5f\n" \
    "stores 0\n" \
    "5:\n stores 1\n" \
    "8:\n vpop {d8-d14}\n pop {r4-r8, pc}\n" \
    ".balign 4\n 9:\n .space 72\n" END(name) FORGET

__asm__(".syntax unified\n .thumb\n" PAIR("embarq_pair_s8", WEIGHTS_S8));
__asm__(".syntax unified\n .thumb\n" PAIR("embarq_pair_f32", WEIGHTS_F32));

#else

#include "real_fma.h"

static void finish(const embarq_pair *t, const float *sums)
{
    const uint8_t *base = (const uint8_t *)t->base;
    uint8_t *out = (uint8_t *)t->out;
    union {
        int32_t bits;
        float value;
    } high = {t->high};
    for (int32_t p = 0; p < t->pixels; p++, base += t->base_step, out += t->out_step) {
        for (int32_t n = 0; n < EMBARQ_PAIR; n++) {
            const float value = ((const float *)(const void *)base)[n] + sums[EMBARQ_PAIR * p + n] * t->scale[n];
            ((float *)(void *)out)[n] = t->high ? embarq_within(value, 0.0f, high.value) : value;
        }
    }
}

#define PAIR(name, type) \
    void name(const embarq_pair *t) \
    { \
        const uint8_t *w = t->w; \
        float sums[EMBARQ_TILE * EMBARQ_PAIR] = {0}; \
        for (const float *x = t->x; x != t->end; x += EMBARQ_TILE, w += t->step_k) { \
            const float first = (float)*(const type *)(const void *)w, second = (float)*(const type *)(const void *)(w + t->step_n); \
            for (int32_t p = 0; p < EMBARQ_TILE; p++) { \
                sums[EMBARQ_PAIR * p] += x[p] * first; \
                sums[EMBARQ_PAIR * p + 1] += x[p] * second; \
            } \
        } \
        finish(t, sums); \
    }

PAIR(embarq_pair_s8, int8_t)
PAIR(embarq_pair_f32, float)

#endif
