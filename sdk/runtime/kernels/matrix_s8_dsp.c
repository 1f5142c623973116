/* Assembly of matrix_s8_dsp.h: the loops in which a network spends its time. */
#include "matrix_s8_dsp.h"

#if defined(__ARM_FEATURE_DSP)

#define FUNCTION(name) \
    ".section .text." name ",\"ax\",%progbits\n" \
    ".balign 4\n" \
    ".global " name "\n" \
    ".type " name ",%function\n" \
    ".thumb_func\n" name ":\n"
#define END(name) ".size " name ", .-" name "\n"

/* ---- three columns times two channels --------------------------------------------------------------------------
 * r0 stream, r1 columns, r2 their end, r3 r4 r5 sums of channel 0, r6 r7 r8 of channel 1, r9 r10 r11 activations,
 * r12 lr weights. Every instruction of QUAD has 32 bits: the first entry into the loop is computed. */
#define QUAD_BYTES "68"
#define SUMS \
    "smlad r3, r9, r12, r3\n smlad r4, r10, r12, r4\n smlad r5, r11, r12, r5\n" \
    "smlad r6, r9, lr, r6\n smlad r7, r10, lr, r7\n smlad r8, r11, lr, r8\n"
#define LOAD "ldm.w r0!, {r12, lr}\n ldm.w r1!, {r9, r10, r11}\n"
#define ODD "sxtb16 r12, r12\n sxtb16 lr, lr\n ldm.w r1!, {r9, r10, r11}\n" SUMS
#define QUAD LOAD SUMS ODD
/* the first quad also copies the start of a channel's sum to its three pixels */
#define FIRST_QUAD \
    LOAD \
    "smlad r4, r10, r12, r3\n smlad r5, r11, r12, r3\n smlad r3, r9, r12, r3\n" \
    "smlad r7, r10, lr, r6\n smlad r8, r11, lr, r6\n smlad r6, r9, lr, r6\n" ODD

/* 256 A in `a` -> int8 at [r12 place]; r9 mult, r10 c, r11 e */
#define STORE_ANY(a, place) \
    "asr " a ", " a ", #7\n add r1, r10, " a ", asr #31\n smmlar " a ", " a ", r9, r1\n" \
    "asr " a ", " a ", r11\n ssat " a ", #8, " a "\n strb " a ", [r12" place "]\n"
#define STORE_RELU(a, place) \
    "asr " a ", " a ", #7\n smmlar " a ", " a ", r9, r10\n" \
    "asr " a ", " a ", r11\n ssat " a ", #8, " a "\n strb " a ", [r12" place "]\n"

#define STORE_ONCE(a, place) \
    "asr " a ", " a ", #7\n smmla " a ", " a ", r9, r10\n" \
    "asr " a ", " a ", r11\n ssat " a ", #8, " a "\n strb " a ", [r12" place "]\n"

/* stack: +0 out, +4 stride, +8 columns, +12 entry, +16 nine registers, +52 the fifth argument */
#define MAT3X2(name, STORE) \
    FUNCTION(name) \
    "push {r4-r11, lr}\n sub sp, #16\n" \
    "ldr r4, [sp, #52]\n strd r3, r4, [sp]\n str r1, [sp, #8]\n" \
    "sub r4, r2, r1\n movs r5, #24\n udiv r4, r4, r5\n subs r4, #1\n" /* quads after the first */ \
    "and r4, r4, #7\n rsb r4, r4, #8\n movs r5, #" QUAD_BYTES "\n muls r4, r5, r4\n" \
    "adr.w r5, 2f\n adds r4, r4, r5\n orr r4, r4, #1\n str r4, [sp, #12]\n" \
    "1:\n ldm.w r0!, {r3, r6}\n" FIRST_QUAD "ldr pc, [sp, #12]\n" \
    ".balign 4\n" \
    "2:\n .rept 8\n" QUAD ".endr\n cmp r1, r2\n bne.w 2b\n" \
    "ldm.w r0!, {r9, r10, r11}\n ldrd r12, lr, [sp]\n" \
    STORE("r3", "") STORE("r4", ", lr") STORE("r5", ", lr, lsl #1") \
    "ldm.w r0!, {r9, r10, r11}\n add r12, r12, #1\n" \
    STORE("r6", "") STORE("r7", ", lr") STORE("r8", ", lr, lsl #1") \
    "add r12, r12, #1\n ldr r1, [sp, #8]\n str r12, [sp]\n cmp r11, #0\n bge.w 1b\n" \
    "add sp, #16\n pop {r4-r11, pc}\n" END(name)

__asm__(".syntax unified\n .thumb\n" MAT3X2("embarq_mat3x2_s8", STORE_ANY));
__asm__(".syntax unified\n .thumb\n" MAT3X2("embarq_mat3x2_s8_relu", STORE_RELU));
__asm__(".syntax unified\n .thumb\n" MAT3X2("embarq_mat3x2_s8_once", STORE_ONCE));

/* ---- one vector times four channels ----------------------------------------------------------------------------
 * r0 stream, r1 input, r2 its end, r4 r5 r6 r7 sums, r3 and r8 activations, r9-r12 weights, lr free. */
#define DENSE_QUAD_BYTES "64"
#define DENSE_LOAD "ldr r8, [r1], #4\n ldm.w r0!, {r9, r10, r11, r12}\n eor r3, r8, #0x007f007f\n sxtb16 r8, r8\n"
#define DENSE_QUAD \
    DENSE_LOAD \
    "smlad r4, r8, r9, r4\n smlad r5, r8, r10, r5\n smlad r6, r8, r11, r6\n smlad r7, r8, r12, r7\n" \
    "sxtb16 r9, r9\n sxtb16 r10, r10\n sxtb16 r11, r11\n sxtb16 r12, r12\n" \
    "smlad r4, r3, r9, r4\n smlad r5, r3, r10, r5\n smlad r6, r3, r11, r6\n smlad r7, r3, r12, r7\n"

#define DENSE_STORE_ANY(a, mult, c, e, place) \
    "asr " a ", " a ", #7\n add " c ", " c ", " a ", asr #31\n smmlar " a ", " a ", " mult ", " c "\n" \
    "asr " a ", " a ", " e "\n ssat " a ", #8, " a "\n strb " a ", [lr, #" place "]\n"
#define DENSE_STORE_RELU(a, mult, c, e, place) \
    "asr " a ", " a ", #7\n smmlar " a ", " a ", " mult ", " c "\n" \
    "asr " a ", " a ", " e "\n ssat " a ", #8, " a "\n strb " a ", [lr, #" place "]\n"
#define DENSE_STORE_ONCE(a, mult, c, e, place) \
    "asr " a ", " a ", #7\n smmla " a ", " a ", " mult ", " c "\n" \
    "asr " a ", " a ", " e "\n ssat " a ", #8, " a "\n strb " a ", [lr, #" place "]\n"

/* stack: +0 out, +4 input, +8 entry */
#define MAT1X4(name, STORE) \
    FUNCTION(name) \
    "push {r4-r11, lr}\n sub sp, #12\n strd r3, r1, [sp]\n" \
    "sub r4, r2, r1\n asrs r4, r4, #2\n and r4, r4, #7\n rsb r4, r4, #8\n adr.w r5, 2f\n" \
    "add r4, r5, r4, lsl #6\n orr r4, r4, #1\n str r4, [sp, #8]\n" \
    "1:\n ldm.w r0!, {r4, r5, r6, r7}\n ldr pc, [sp, #8]\n" \
    ".balign 4\n" \
    "2:\n .rept 8\n" DENSE_QUAD ".endr\n cmp r1, r2\n bne.w 2b\n" \
    "ldr lr, [sp]\n ldm.w r0!, {r1, r3, r8, r9, r10, r11}\n" \
    STORE("r4", "r1", "r3", "r8", "0") STORE("r5", "r9", "r10", "r11", "1") \
    "ldm.w r0!, {r1, r3, r8, r9, r10, r11}\n" \
    STORE("r6", "r1", "r3", "r8", "2") STORE("r7", "r9", "r10", "r11", "3") \
    "add lr, lr, #4\n ldr r1, [sp, #4]\n str lr, [sp]\n cmp r11, #0\n bge.w 1b\n" \
    "add sp, #12\n pop {r4-r11, pc}\n" END(name)

__asm__(".syntax unified\n .thumb\n" MAT1X4("embarq_mat1x4_s8", DENSE_STORE_ANY));
__asm__(".syntax unified\n .thumb\n" MAT1X4("embarq_mat1x4_s8_relu", DENSE_STORE_RELU));
__asm__(".syntax unified\n .thumb\n" MAT1X4("embarq_mat1x4_s8_once", DENSE_STORE_ONCE));

/* ---- int8 words to U and Y --------------------------------------------------------------------------------------- */
__asm__(".syntax unified\n .thumb\n"
    FUNCTION("embarq_widen1_s8")
    "tst r2, #1\n beq 2f\n ldr r3, [r0], #4\n eor r12, r3, #0x007f007f\n sxtb16 r3, r3\n str r12, [r1, #12]\n str r3, [r1], #24\n"
    "2: lsrs r2, r2, #1\n beq 4f\n push {r4, r5}\n"
    "3: ldr r3, [r0], #4\n ldr r4, [r0], #4\n subs r2, #1\n eor r12, r3, #0x007f007f\n eor r5, r4, #0x007f007f\n"
    "sxtb16 r3, r3\n sxtb16 r4, r4\n str r12, [r1, #12]\n str r4, [r1, #24]\n str r5, [r1, #36]\n str r3, [r1], #48\n bne 3b\n"
    "pop {r4, r5}\n"
    "4: mov r0, r1\n bx lr\n" END("embarq_widen1_s8"));

#define WIDEN3 \
    "ldr r4, [r0], #4\n ldr r5, [r1], #4\n ldr r6, [r12], #4\n" \
    "eor r7, r4, #0x007f007f\n eor r8, r5, #0x007f007f\n eor r9, r6, #0x007f007f\n" \
    "sxtb16 r4, r4\n sxtb16 r5, r5\n sxtb16 r6, r6\n stm.w r2!, {r4, r5, r6, r7, r8, r9}\n"
__asm__(".syntax unified\n .thumb\n"
    FUNCTION("embarq_widen3_s8")
    "push {r4-r9, lr}\n add r12, r0, r1, lsl #1\n add r1, r0\n tst r3, #1\n beq 2f\n" WIDEN3 "2: lsrs r3, r3, #1\n beq 4f\n"
    "3:\n" WIDEN3 WIDEN3 "subs r3, #1\n bne 3b\n"
    "4: mov r0, r2\n pop {r4-r9, pc}\n" END("embarq_widen3_s8"));

#endif
