/* Registers every Cortex-M has (Armv7-M ARM, B3.2; Armv6-M ARM, B3.2), and two helpers. */
#ifndef EMBARQ_CORTEX_M_H
#define EMBARQ_CORTEX_M_H

#include <stdint.h>

#define REG(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define SYST_CSR REG(0xE000E010)
#define SYST_RVR REG(0xE000E014)
#define SYST_CVR REG(0xE000E018)
#define SCB_VTOR REG(0xE000ED08)
#define SCB_AIRCR REG(0xE000ED0C)
#define SCB_CCR REG(0xE000ED14)
#define SCB_CFSR REG(0xE000ED28)
#define SCB_MMFAR REG(0xE000ED34)
#define SCB_BFAR REG(0xE000ED38)
#define SCB_CCSIDR REG(0xE000ED80)
#define SCB_CSSELR REG(0xE000ED84)
#define SCB_CPACR REG(0xE000ED88)
#define SCB_ICIALLU REG(0xE000EF50)
#define SCB_DCISW REG(0xE000EF60)
#define SCB_DEMCR REG(0xE000EDFC)
#define DWT_CTRL REG(0xE0001000)
#define DWT_CYCCNT REG(0xE0001004)

/* Waits until (register & mask) == value, but not for ever: an emulator or a broken crystal must not hang start-up. */
static inline int board_reached(volatile uint32_t *reg, uint32_t mask, uint32_t value)
{
    for (uint32_t tries = 0; tries < 20000u; tries++) {
        if ((*reg & mask) == value) {
            return 1;
        }
    }
    return 0;
}

static inline void board_barrier(void)
{
    __asm volatile("dsb\n\tisb" ::: "memory");
}

void board_ticks_init(void);         /* common/system.c */
void board_caches_on(void);          /* common/system.c: instruction and data cache of the Cortex-M7 */
extern uint32_t board_core_clock_hz; /* what the core runs at now; board_init sets it */

#endif
