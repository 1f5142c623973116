/* STM32F405: 168 MHz from the internal 16 MHz oscillator, USART1 on PA9/PA10 (RM0090 3.5.1, 6.3, 8.4, 30.6). */
#include "common/stm32_usart.h"

#define RCC 0x40023800u
#define RCC_CR REG(RCC + 0x00)
#define RCC_PLLCFGR REG(RCC + 0x04)
#define RCC_CFGR REG(RCC + 0x08)
#define RCC_AHB1ENR REG(RCC + 0x30)
#define RCC_APB2ENR REG(RCC + 0x44)
#define FLASH_ACR REG(0x40023C00)
#define GPIOA 0x40020000u

#define HSI_HZ 16000000u

/* 16 MHz / 8 * 168 / 2 = 168 MHz; APB1 = /4, APB2 = /2 = 84 MHz. Returns the clock of APB2. */
static uint32_t clock_on(void)
{
    board_core_clock_hz = HSI_HZ;
    RCC_PLLCFGR = 8u | (168u << 6) | (7u << 24);
    RCC_CR |= 1u << 24; /* PLLON */
    if (!board_reached(&RCC_CR, 1u << 25, 1u << 25)) {
        return HSI_HZ;
    }
    FLASH_ACR = 0x705u; /* five wait states, prefetch, both caches */
    RCC_CFGR = (5u << 10) | (4u << 13) | 2u;
    if (!board_reached(&RCC_CFGR, 3u << 2, 2u << 2)) {
        return HSI_HZ;
    }
    board_core_clock_hz = 168000000u;
    return 84000000u;
}

void board_init(void)
{
    uint32_t uart_clock_hz = clock_on();
    RCC_AHB1ENR |= 1u; /* GPIOA */
    RCC_APB2ENR |= 1u << 4; /* USART1 */
    stm32_alternate(GPIOA, 9, 7);
    stm32_alternate(GPIOA, 10, 7);
    usart_on((uart_clock_hz + EMBARQ_UART_BAUD / 2u) / EMBARQ_UART_BAUD);
    board_ticks_init();
}
