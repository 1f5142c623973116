/* RP2040: 133 MHz from the 12 MHz crystal, UART0 on GP0/GP1 (datasheet 2.14 resets, 2.19 pins, 4.6 timer, 4.7 watchdog tick). */
#include "board.h"
#include "common/pl011.h"
#include "common/rp2_clock.h"

#define RESETS_RESET REG(0x4000C000)
#define RESETS_DONE REG(0x4000C008)
#define IO_GPIO0_CTRL REG(0x40014004)
#define IO_GPIO1_CTRL REG(0x4001400C)
#define WATCHDOG_TICK REG(0x4005802C)
#define WANTED ((1u << 5) | (1u << 8) | (1u << 12) | (1u << 21) | (1u << 22)) /* pins, pads, PLL, timer, UART0 */

void board_init(void)
{
    static const rp2_clock clock = {.xosc = 0x40024000u, .pll_sys = 0x40028000u, .clocks = 0x40008000u,
                                    .feedback = 133, .divider1 = 6, .divider2 = 2};
    board_core_clock_hz = 6500000u; /* about what the ring oscillator gives */
    RESETS_RESET &= ~WANTED;
    (void)board_reached(&RESETS_DONE, WANTED, WANTED);
    rp2_clock_on(&clock);
    WATCHDOG_TICK = (1u << 9) | 12u; /* the timer counts microseconds of the crystal */
    IO_GPIO0_CTRL = 2u;
    IO_GPIO1_CTRL = 2u;
    pl011_on(RP2_CRYSTAL_HZ);
    board_ticks_init();
}
