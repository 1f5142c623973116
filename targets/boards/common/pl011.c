/* Reading and writing a PL011 by polling. */
#include "common/pl011.h"
#include "board.h"
#include "common/cortex_m.h"

#define UART_DR REG(EMBARQ_UART_BASE + 0x00)
#define UART_FR REG(EMBARQ_UART_BASE + 0x18)
#define UART_IBRD REG(EMBARQ_UART_BASE + 0x24)
#define UART_FBRD REG(EMBARQ_UART_BASE + 0x28)
#define UART_LCR_H REG(EMBARQ_UART_BASE + 0x2C)
#define UART_CR REG(EMBARQ_UART_BASE + 0x30)
#define FR_RX_EMPTY (1u << 4)
#define FR_TX_FULL (1u << 5)

void pl011_on(uint32_t clock_hz)
{
    uint32_t divisor = (4u * clock_hz + EMBARQ_UART_BAUD / 2u) / EMBARQ_UART_BAUD; /* in 64ths of 16 clocks */
    UART_IBRD = divisor / 64u;
    UART_FBRD = divisor % 64u;
    UART_LCR_H = (3u << 5) | (1u << 4);
    UART_CR = (1u << 9) | (1u << 8) | 1u;
}

int board_uart_read(void)
{
    return (UART_FR & FR_RX_EMPTY) ? -1 : (int)(UART_DR & 0xFFu);
}

void board_uart_write(const uint8_t *data, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        while (UART_FR & FR_TX_FULL) {
        }
        UART_DR = data[i];
    }
}
