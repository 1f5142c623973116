/* The two USART designs of STM32: v1 (SR/DR, F1 to F4) and v2 (ISR/RDR/TDR, F7, H7, L4). */
#ifndef EMBARQ_STM32_USART_H
#define EMBARQ_STM32_USART_H

#include "board.h"
#include "common/cortex_m.h"

#if defined(EMBARQ_UART_V1)
#define USART_STATUS REG(EMBARQ_UART_BASE + 0x00)
#define USART_RX REG(EMBARQ_UART_BASE + 0x04)
#define USART_TX REG(EMBARQ_UART_BASE + 0x04)
#define USART_BRR REG(EMBARQ_UART_BASE + 0x08)
#define USART_CR1 REG(EMBARQ_UART_BASE + 0x0C)
#define USART_CR1_ON ((1u << 13) | (1u << 3) | (1u << 2)) /* UE, TE, RE */
#else
#define USART_STATUS REG(EMBARQ_UART_BASE + 0x1C)
#define USART_RX REG(EMBARQ_UART_BASE + 0x24)
#define USART_TX REG(EMBARQ_UART_BASE + 0x28)
#define USART_BRR REG(EMBARQ_UART_BASE + 0x0C)
#define USART_ICR REG(EMBARQ_UART_BASE + 0x20)
#define USART_CR1 REG(EMBARQ_UART_BASE + 0x00)
#define USART_CR1_ON ((1u << 3) | (1u << 2) | 1u) /* TE, RE, UE */
#endif
#define USART_RXNE (1u << 5)
#define USART_TXE (1u << 7)

static inline void usart_on(uint32_t divisor)
{
    USART_BRR = divisor;
    USART_CR1 = USART_CR1_ON;
}

/* Pin `pin` of the GPIO port at `port`: alternate function `function` (MODER, AFRL/AFRH), the same on all these families. */
static inline void stm32_alternate(uint32_t port, uint32_t pin, uint32_t function)
{
    uint32_t half = port + 0x20u + 4u * (pin / 8u);
    uint32_t at = 4u * (pin % 8u);
    REG(half) = (REG(half) & ~(0xFu << at)) | (function << at);
    REG(port) = (REG(port) & ~(3u << (2u * pin))) | (2u << (2u * pin));
}

#endif
