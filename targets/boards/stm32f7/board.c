/* STM32F746: 216 MHz with over-drive from the internal 16 MHz oscillator, caches on, USART1 on PA9/PB7 (RM0385 3.3.2, 4.1.4, 5.3, 31.8). */
#include "common/stm32_usart.h"

#define RCC 0x40023800u
#define RCC_CR REG(RCC + 0x00)
#define RCC_PLLCFGR REG(RCC + 0x04)
#define RCC_CFGR REG(RCC + 0x08)
#define RCC_AHB1ENR REG(RCC + 0x30)
#define RCC_APB1ENR REG(RCC + 0x40)
#define RCC_APB2ENR REG(RCC + 0x44)
#define PWR_CR1 REG(0x40007000)
#define PWR_CSR1 REG(0x40007004)
#define FLASH_ACR REG(0x40023C00)
#define GPIOA 0x40020000u
#define GPIOB 0x40020400u

#define HSI_HZ 16000000u

static int over_drive_on(void)
{
    RCC_APB1ENR |= 1u << 28; /* PWR */
    PWR_CR1 |= 1u << 16;
    if (!board_reached(&PWR_CSR1, 1u << 16, 1u << 16)) {
        return 0;
    }
    PWR_CR1 |= 1u << 17;
    return board_reached(&PWR_CSR1, 1u << 17, 1u << 17);
}

/* 16 MHz / 8 * 216 / 2 = 216 MHz; APB1 = /4, APB2 = /2 = 108 MHz. Returns the clock of APB2. */
static uint32_t clock_on(void)
{
    board_core_clock_hz = HSI_HZ;
    RCC_PLLCFGR = 8u | (216u << 6) | (9u << 24);
    RCC_CR |= 1u << 24; /* PLLON */
    if (!over_drive_on() || !board_reached(&RCC_CR, 1u << 25, 1u << 25)) {
        return HSI_HZ;
    }
    FLASH_ACR = 0x307u; /* seven wait states, prefetch, accelerator */
    RCC_CFGR = (5u << 10) | (4u << 13) | 2u;
    if (!board_reached(&RCC_CFGR, 3u << 2, 2u << 2)) {
        return HSI_HZ;
    }
    board_core_clock_hz = 216000000u;
    return 108000000u;
}

void board_init(void)
{
    uint32_t uart_clock_hz = clock_on();
    board_caches_on();
    RCC_AHB1ENR |= 3u; /* GPIOA, GPIOB */
    RCC_APB2ENR |= 1u << 4; /* USART1 */
    stm32_alternate(GPIOA, 9, 7);
    stm32_alternate(GPIOB, 7, 7);
    usart_on((uart_clock_hz + EMBARQ_UART_BAUD / 2u) / EMBARQ_UART_BAUD);
    board_ticks_init();
}
