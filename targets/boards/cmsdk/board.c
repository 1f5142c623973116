/* Arm's MPS2 and MPS3 boards with the CMSDK UART (Cortex-M System Design Kit, 4.3). Clocks and pins need nothing. */
#include "board.h"
#include "common/cortex_m.h"

#define UART_DATA REG(EMBARQ_UART_BASE + 0x00)
#define UART_STATE REG(EMBARQ_UART_BASE + 0x04)
#define UART_CTRL REG(EMBARQ_UART_BASE + 0x08)
#define UART_BAUDDIV REG(EMBARQ_UART_BASE + 0x10)
#define STATE_TX_FULL 1u
#define STATE_RX_FULL 2u

void board_init(void)
{
    uint32_t divisor = (EMBARQ_CLOCK_HZ + EMBARQ_UART_BAUD / 2u) / EMBARQ_UART_BAUD;
    board_core_clock_hz = EMBARQ_CLOCK_HZ;
    UART_BAUDDIV = divisor < 16u ? 16u : divisor; /* 16 is the least it takes */
    UART_CTRL = 3u;                               /* transmit, receive */
    board_ticks_init();
}

int board_uart_read(void)
{
    return (UART_STATE & STATE_RX_FULL) ? (int)(UART_DATA & 0xFFu) : -1;
}

void board_uart_write(const uint8_t *data, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        while (UART_STATE & STATE_TX_FULL) {
        }
        UART_DATA = data[i];
    }
}
