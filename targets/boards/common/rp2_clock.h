/* Crystal and system PLL of the RP2040 and RP2350, which differ in addresses only (RP2040 datasheet 2.15, 2.16, 2.18). */
#ifndef EMBARQ_RP2_CLOCK_H
#define EMBARQ_RP2_CLOCK_H

#include "common/cortex_m.h"

#define RP2_CRYSTAL_HZ 12000000u

typedef struct {
    uint32_t xosc, pll_sys, clocks;
    uint32_t feedback;           /* oscillator = 12 MHz * feedback */
    uint32_t divider1, divider2; /* system clock = oscillator / divider1 / divider2 */
} rp2_clock;

/* clk_ref and clk_peri from the crystal, clk_sys from the PLL; what does not start leaves the clock before it. */
static inline void rp2_clock_on(const rp2_clock *c)
{
    REG(c->xosc + 0x0C) = 47u; /* start-up delay: 1 ms in 256 cycles */
    REG(c->xosc + 0x00) = (0xFABu << 12) | 0xAA0u;
    if (!board_reached(&REG(c->xosc + 0x04), 1u << 31, 1u << 31)) {
        return;
    }
    REG(c->clocks + 0x30) = 2u; /* CLK_REF: crystal */
    (void)board_reached(&REG(c->clocks + 0x38), 1u << 2, 1u << 2);
    REG(c->clocks + 0x48) = (1u << 11) | (4u << 5); /* CLK_PERI: crystal, so that the UART does not depend on the PLL */
    board_core_clock_hz = RP2_CRYSTAL_HZ;
    REG(c->pll_sys + 0x00) = 1u; /* reference divider */
    REG(c->pll_sys + 0x08) = c->feedback;
    REG(c->pll_sys + 0x04) &= ~((1u << 0) | (1u << 5)); /* PLL and its oscillator on */
    if (!board_reached(&REG(c->pll_sys + 0x00), 1u << 31, 1u << 31)) {
        return;
    }
    REG(c->pll_sys + 0x0C) = (c->divider1 << 16) | (c->divider2 << 12);
    REG(c->pll_sys + 0x04) &= ~(1u << 3); /* output dividers on */
    REG(c->clocks + 0x3C) = 0u;           /* CLK_SYS: auxiliary source is the PLL */
    REG(c->clocks + 0x3C) = 1u;           /* and now use it */
    if (board_reached(&REG(c->clocks + 0x44), 1u << 1, 1u << 1)) {
        board_core_clock_hz = RP2_CRYSTAL_HZ * c->feedback / c->divider1 / c->divider2;
    }
}

#endif
