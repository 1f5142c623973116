/* RP2350, Arm cores: 150 MHz from the 12 MHz crystal, UART0 on GP0/GP1 (datasheet 7.5 resets, 8.1 clocks, 9.8 pads). */
#include "board.h"
#include "common/pl011.h"
#include "common/rp2_clock.h"

#define RESETS_RESET REG(0x40020000)
#define RESETS_DONE REG(0x40020008)
#define IO_GPIO0_CTRL REG(0x40028004)
#define IO_GPIO1_CTRL REG(0x4002800C)
#define PADS_GPIO0 REG(0x40038004)
#define PADS_GPIO1 REG(0x40038008)
#define PAD_ON 0x5Au /* isolation off, input on, pull-up, Schmitt trigger, 4 mA */
#define WANTED ((1u << 6) | (1u << 9) | (1u << 14) | (1u << 26)) /* pins, pads, PLL, UART0 */

void board_init(void)
{
    static const rp2_clock clock = {.xosc = 0x40048000u, .pll_sys = 0x40050000u, .clocks = 0x40010000u,
                                    .feedback = 125, .divider1 = 5, .divider2 = 2};
    board_core_clock_hz = 11000000u; /* about what the ring oscillator gives */
    RESETS_RESET &= ~WANTED;
    (void)board_reached(&RESETS_DONE, WANTED, WANTED);
    rp2_clock_on(&clock);
    IO_GPIO0_CTRL = 2u;
    IO_GPIO1_CTRL = 2u;
    PADS_GPIO0 = PAD_ON;
    PADS_GPIO1 = PAD_ON;
    pl011_on(RP2_CRYSTAL_HZ);
    board_ticks_init();
}
