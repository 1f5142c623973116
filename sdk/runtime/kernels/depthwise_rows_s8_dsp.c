/* Assembly of depthwise_rows_s8_dsp.h. */
#include "depthwise_rows_s8_dsp.h"

#if defined(__ARM_FEATURE_DSP)

#define FUNCTION(name) \
    ".syntax unified\n .thumb\n" \
    ".section .text." name ",\"ax\",%progbits\n" \
    ".balign 4\n" \
    ".global " name "\n" \
    ".type " name ",%function\n" \
    ".thumb_func\n" name ":\n"
#define END(name) ".size " name ", .-" name "\n"

/* ---- unpacking -------------------------------------------------------------------------------------------------- */
__asm__(FUNCTION("embarq_columns3_s8")
    "push {r4-r11, lr}\n ldrd r4, r5, [sp, #36]\n movs r6, #0\n"
    "1:\n ldr r7, [r0, r6]\n ldr r8, [r1, r6]\n ldr r9, [r2, r6]\n add r6, r5\n subs r4, #1\n"
    "sxtb16 r10, r7\n sxtb16 r11, r7, ror #8\n sxtb16 r12, r8\n sxtb16 lr, r8, ror #8\n"
    "pkhbt r7, r10, r12, lsl #16\n pkhbt r8, r11, lr, lsl #16\n pkhtb r10, r12, r10, asr #16\n pkhtb r11, lr, r11, asr #16\n"
    "sxtb16 r12, r9\n sxtb16 lr, r9, ror #8\n stm.w r3!, {r7, r8, r10, r11, r12, lr}\n bne 1b\n"
    "pop {r4-r11, pc}\n" END("embarq_columns3_s8"));

__asm__(FUNCTION("embarq_columns2_s8")
    "push {r4-r11, lr}\n ldrd r4, r5, [sp, #36]\n ldr r6, [sp, #44]\n"
    "1:\n ldr r7, [r0]\n ldr r8, [r1]\n add r0, r2\n add r1, r5\n subs r4, #1\n"
    "sxtb16 r10, r7\n sxtb16 r11, r7, ror #8\n sxtb16 r12, r8\n sxtb16 lr, r8, ror #8\n"
    "pkhbt r7, r10, r12, lsl #16\n pkhbt r8, r11, lr, lsl #16\n pkhtb r10, r12, r10, asr #16\n pkhtb r11, lr, r11, asr #16\n"
    "stm.w r3, {r7, r8, r10, r11}\n add r3, r6\n bne 1b\n"
    "pop {r4-r11, pc}\n" END("embarq_columns2_s8"));

__asm__(FUNCTION("embarq_columns1_s8")
    "push {r4-r6, lr}\n ldr r4, [sp, #16]\n"
    "1:\n ldr r5, [r0]\n add r0, r1\n subs r3, #1\n sxtb16 r6, r5\n sxtb16 r5, r5, ror #8\n"
    "strd r6, r5, [r2]\n add r2, r4\n bne 1b\n"
    "pop {r4-r6, pc}\n" END("embarq_columns1_s8"));

/* ---- multiplying ------------------------------------------------------------------------------------------------
 * r2 r3 r4 r5 sums, r0 columns, r1 stream, r6-r9 activations, r10 r11 r12 lr weights. */
#define PAIRS \
    "ldm.w r0!, {r6, r7, r8, r9}\n ldm.w r1!, {r10, r11, r12, lr}\n" \
    "smlad r2, r6, r10, r2\n smlad r3, r7, r11, r3\n smlad r4, r8, r12, r4\n smlad r5, r9, lr, r5\n"
#define SINGLE \
    "ldm.w r0!, {r6, r7}\n ldm.w r1!, {r10, r11}\n" \
    "smlabb r2, r6, r10, r2\n smlabb r3, r7, r11, r3\n smlatt r4, r6, r10, r4\n smlatt r5, r7, r11, r5\n"

/* 2 A in `a` -> int8 at [r12, place]; mult, c, e in the registers named */
#define STORE_ANY(a, mult, c, e, place) \
    "add " c ", " c ", " a ", asr #31\n smmlar " a ", " a ", " mult ", " c "\n" \
    "asr " a ", " a ", " e "\n ssat " a ", #8, " a "\n strb " a ", [r12, #" place "]\n"
#define STORE_RELU(a, mult, c, e, place) \
    "smmlar " a ", " a ", " mult ", " c "\n asr " a ", " a ", " e "\n ssat " a ", #8, " a "\n strb " a ", [r12, #" place "]\n"
#define STORES(STORE) \
    "ldm.w r1!, {r6, r7, r8, r9, r10, r11}\n" STORE("r2", "r6", "r7", "r8", "0") STORE("r3", "r9", "r10", "r11", "1") \
    "ldm.w r1!, {r6, r7, r8, r9, r10, r11}\n" STORE("r4", "r6", "r7", "r8", "2") STORE("r5", "r9", "r10", "r11", "3")

/* stack: +0 out, +4 out_step, +8 way back to the next window, +12 end */
#define ROW3X3(name, STORE) \
    FUNCTION(name) \
    "push {r4-r11, lr}\n sub sp, #16\n strd r2, r3, [sp]\n" \
    "ldrd r4, r5, [sp, #52]\n sub r4, r4, #72\n strd r4, r5, [sp, #8]\n" \
    "1:\n ldm.w r1!, {r2, r3, r4, r5}\n" \
    PAIRS SINGLE PAIRS SINGLE PAIRS SINGLE \
    "ldrd r12, lr, [sp]\n" STORES(STORE) \
    "add r12, lr\n str r12, [sp]\n ldrd r6, r7, [sp, #8]\n subs r1, #136\n add r0, r6\n cmp r0, r7\n bne 1b\n" \
    "add sp, #16\n pop {r4-r11, pc}\n" END(name)
__asm__(ROW3X3("embarq_row3x3_s8", STORE_ANY));
__asm__(ROW3X3("embarq_row3x3_s8_relu", STORE_RELU));

/* stack: +0 embarq_row, +4 end of this window's words */
#define ROW(name, STORE) \
    FUNCTION(name) \
    "push {r4-r11, lr}\n sub sp, #8\n str r0, [sp]\n" \
    "1:\n ldr r12, [sp]\n ldr r1, [r12]\n ldm.w r1!, {r2, r3, r4, r5}\n" \
    "ldrd r0, r6, [r12, #12]\n cbz r6, 3f\n add r6, r0\n str r6, [sp, #4]\n" \
    "2:\n" PAIRS "ldr r6, [sp, #4]\n cmp r0, r6\n bne 2b\n ldr r12, [sp]\n" \
    "3:\n ldrd r0, r6, [r12, #24]\n cbz r6, 5f\n add r6, r0\n mov lr, r6\n" \
    "4:\n" SINGLE "cmp r0, lr\n bne 4b\n" \
    "5:\n ldr lr, [sp]\n ldr r12, [lr, #4]\n" STORES(STORE) \
    "ldrd r6, r7, [lr, #4]\n add r6, r7\n str r6, [lr, #4]\n" \
    "ldr r6, [lr, #12]\n ldr r7, [lr, #20]\n add r6, r7\n str r6, [lr, #12]\n" \
    "ldr r6, [lr, #24]\n ldr r7, [lr, #32]\n add r6, r7\n str r6, [lr, #24]\n" \
    "ldr r6, [lr, #36]\n subs r6, #1\n str r6, [lr, #36]\n bne 1b\n" \
    "add sp, #8\n pop {r4-r11, pc}\n" END(name)
__asm__(ROW("embarq_row_s8", STORE_ANY));
__asm__(ROW("embarq_row_s8_relu", STORE_RELU));

#endif
