/* Reading and writing an STM32 USART by polling; which of the two designs it is, the device file says. */
#include "common/stm32_usart.h"

int board_uart_read(void)
{
#if !defined(EMBARQ_UART_V1)
    if (USART_STATUS & (1u << 3)) {
        USART_ICR = 1u << 3; /* an overrun stops reception until it is cleared */
    }
#endif
    return (USART_STATUS & USART_RXNE) ? (int)(USART_RX & 0xFFu) : -1;
}

void board_uart_write(const uint8_t *data, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        while ((USART_STATUS & USART_TXE) == 0) {
        }
        USART_TX = data[i];
    }
}
