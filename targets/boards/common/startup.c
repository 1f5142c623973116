/* Vector table, reset and fault handlers of every Cortex-M board. Symbols beginning with __ come from the linker script. */
#include "board.h"
#include "common/cortex_m.h"

extern uint32_t __stack_limit, __stack_top, __data_load, __data_start, __data_end, __bss_start, __bss_end;

int main(void);
void Reset_Handler(void);
void Fault_Handler(void);
#if defined(EMBARQ_FLASH_NMI) /* the flash driver takes it */
void NMI_Handler(void);
#else
#define NMI_Handler Fault_Handler
#endif
void embarq_fault_stop(uint32_t *frame, uint32_t exc_return);

embarq_fault_record embarq_fault __attribute__((section(".noinit"), used));

typedef union {
    uint32_t *stack;
    void (*run)(void);
} vector;

/* No interrupt is ever enabled, so the sixteen system entries are the whole table. 128: the least VTOR can point to. */
__attribute__((section(".vectors"), used, aligned(128))) static const vector vectors[16] = {
    {.stack = &__stack_top}, {.run = Reset_Handler}, {.run = NMI_Handler},   {.run = Fault_Handler},
    {.run = Fault_Handler},  {.run = Fault_Handler}, {.run = Fault_Handler}, {.run = Fault_Handler},
    {.run = Fault_Handler},  {.run = Fault_Handler}, {.run = Fault_Handler}, {.run = Fault_Handler},
    {.run = Fault_Handler},  {.run = Fault_Handler}, {.run = Fault_Handler}, {.run = Fault_Handler},
};

/* Through volatile pointers, so that no compiler makes calls of memcpy and memset out of these loops. */
static void copy_data(void)
{
    const volatile uint32_t *from = &__data_load;
    for (volatile uint32_t *to = &__data_start; to < (volatile uint32_t *)&__data_end; to++) {
        *to = *from++;
    }
}

static void clear_bss(void)
{
    for (volatile uint32_t *to = &__bss_start; to < (volatile uint32_t *)&__bss_end; to++) {
        *to = 0;
    }
}

/* Apart from Reset_Handler, so that nothing here runs before the FPU is on. */
__attribute__((noinline, noreturn, used)) static void start(void)
{
    copy_data();
    clear_bss();
    main();
    for (;;) {
    }
}

void Reset_Handler(void)
{
    SCB_VTOR = (uint32_t)(uintptr_t)vectors; /* a bootloader may have left its own */
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    SCB_CPACR |= 0xFu << 20; /* full access to coprocessors 10 and 11: FPU and Helium */
    board_barrier();
#endif
    start();
}

/* Finds the stacked registers and hands them on. Armv6-M has no conditional execution, hence the branches.
 * After a stack overflow the stack pointer lies outside the RAM: the handler then takes the stack from its top. */
__attribute__((naked, used)) void Fault_Handler(void)
{
    __asm volatile("mov r1, lr\n\t"
                   "movs r0, #4\n\t"
                   "tst r0, r1\n\t"
                   "bne 1f\n\t"
                   "mrs r0, msp\n\t"
                   "b 2f\n"
                   "1:\n\t"
                   "mrs r0, psp\n"
                   "2:\n\t"
                   "ldr r2, =__stack_limit\n\t"
                   "cmp r0, r2\n\t"
                   "bhs 3f\n\t"
                   "ldr r2, =__stack_top\n\t"
                   "msr msp, r2\n"
                   "3:\n\t"
                   "ldr r2, =embarq_fault_stop\n\t"
                   "bx r2\n\t"
                   ".ltorg\n");
}

__attribute__((used)) void embarq_fault_stop(uint32_t *frame, uint32_t exc_return)
{
    uint32_t exception;
    (void)exc_return;
    __asm volatile("mrs %0, ipsr" : "=r"(exception));
    embarq_fault.exception = exception;
    embarq_fault.sp = (uint32_t)(uintptr_t)frame;
    if (frame >= &__stack_limit) {
        embarq_fault.lr = frame[5];
        embarq_fault.pc = frame[6];
        embarq_fault.psr = frame[7];
    } else { /* the stack overflowed: the registers found no place */
        embarq_fault.lr = 0;
        embarq_fault.pc = 0;
        embarq_fault.psr = 0;
    }
#if __ARM_ARCH >= 7
    embarq_fault.cfsr = SCB_CFSR;
    if (SCB_CFSR & (1u << 7)) {
        embarq_fault.address = SCB_MMFAR;
    } else if (SCB_CFSR & (1u << 15)) {
        embarq_fault.address = SCB_BFAR;
    } else {
        embarq_fault.address = 0;
    }
#else
    embarq_fault.cfsr = 0;
    embarq_fault.address = 0;
#endif
    embarq_fault.magic = EMBARQ_FAULT_MAGIC;
    for (;;) {
    }
}
