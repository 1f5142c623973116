/* int8 addition and subtraction of equal shapes on cores with DSP instructions.
 *
 * LiteRT rescales both sides and the sum, rounding three times. An output depends on two bytes only, so the host looks
 * for a, b and c with (x a + y b + c) >> shift equal to it for all 65,536 pairs, and uses this kernel when it finds them. */
#include "embarq_kernels.h"
#include "limits_s8_dsp.h"

#if defined(__ARM_FEATURE_DSP)

void embarq_add_words_s8(const int8_t *x, const int8_t *y, int8_t *out, const int8_t *out_end, const int32_t *a_b_c_shift);

/* r0 x, r1 y, r2 out, r3 its end, r4 a, r5 b, r6 c, r7 shift; four values a round */
#define ONE(byte) \
    "sxtb r10, r8, ror #" byte "\n sxtb r11, r9, ror #" byte "\n mla r10, r10, r4, r6\n mla r10, r11, r5, r10\n" \
    "asr r10, r7\n ssat r10, #8, r10\n strb r10, [r2], #1\n"
__asm__(".syntax unified\n .thumb\n"
    ".section .text.embarq_add_words_s8,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global embarq_add_words_s8\n"
    ".type embarq_add_words_s8,%function\n"
    ".thumb_func\nembarq_add_words_s8:\n"
    "push {r4-r11, lr}\n ldr r4, [sp, #36]\n ldm.w r4, {r4, r5, r6, r7}\n"
    "1:\n ldr r8, [r0], #4\n ldr r9, [r1], #4\n" ONE("0") ONE("8") ONE("16") ONE("24") "cmp r2, r3\n bne 1b\n"
    "pop {r4-r11, pc}\n .size embarq_add_words_s8, .-embarq_add_words_s8\n");

void embarq_add_s8_dsp(const void *params, const embarq_memory *memory)
{
    const embarq_add_s8_dsp_params *p = params;
    const int8_t *x = embarq_source_at(memory, &p->x), *y = embarq_source_at(memory, &p->y);
    int8_t *out = embarq_at(memory, p->output);
    const int32_t words = p->count & ~3;

    if (words > 0) {
        embarq_add_words_s8(x, y, out, out + words, &p->a);
    }
    for (int32_t i = words; i < p->count; i++) {
        out[i] = (int8_t)embarq_clamp((x[i] * p->a + y[i] * p->b + p->c) >> p->shift, INT8_MIN, INT8_MAX);
    }
    if (p->low > INT8_MIN || p->high < INT8_MAX) {
        embarq_limit_s8(out, p->count, p->low, p->high);
    }
}

#endif
