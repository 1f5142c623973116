/* STM32L4R5: 120 MHz from the internal 16 MHz oscillator, LPUART1 on PG7/PG8 (RM0432 3.3.3, 5.1.8, 6.2, 50.4.4). */
#include "common/stm32_usart.h"

#define RCC 0x40021000u
#define RCC_CR REG(RCC + 0x00)
#define RCC_CFGR REG(RCC + 0x08)
#define RCC_PLLCFGR REG(RCC + 0x0C)
#define RCC_AHB2ENR REG(RCC + 0x4C)
#define RCC_APB1ENR1 REG(RCC + 0x58)
#define RCC_APB1ENR2 REG(RCC + 0x5C)
#define RCC_CCIPR REG(RCC + 0x88)
#define PWR_CR2 REG(0x40007004)
#define PWR_CR5 REG(0x40007080)
#define FLASH_ACR REG(0x40022000)
#define GPIOG 0x48001800u

#define HSI_HZ 16000000u
#define MSI_HZ 4000000u

/* 16 MHz / 4 * 60 / 2 = 120 MHz. Above 80 MHz the bus must run at half speed for a microsecond first (RM0432 5.1.8). */
static void clock_on(void)
{
    board_core_clock_hz = MSI_HZ;
    RCC_APB1ENR1 |= 1u << 28; /* PWR */
    PWR_CR5 &= ~(1u << 8);    /* range 1 boost mode */
    RCC_PLLCFGR = 2u | (3u << 4) | (60u << 8) | (1u << 24);
    RCC_CR |= 1u << 24; /* PLLON */
    if (!board_reached(&RCC_CR, 1u << 25, 1u << 25)) {
        return;
    }
    FLASH_ACR = 0x705u; /* five wait states, prefetch, both caches */
    RCC_CFGR = (8u << 4) | 3u;
    if (!board_reached(&RCC_CFGR, 3u << 2, 3u << 2)) {
        return;
    }
    for (volatile uint32_t wait = 0; wait < 60; wait++) {
    }
    RCC_CFGR = 3u;
    board_core_clock_hz = 120000000u;
}

void board_init(void)
{
    RCC_CR |= 1u << 8; /* HSION: clocks the PLL and the UART */
    if (board_reached(&RCC_CR, 1u << 10, 1u << 10)) {
        clock_on();
    }
    RCC_APB1ENR1 |= 1u << 28;
    PWR_CR2 |= 1u << 9;     /* supply of port G */
    RCC_AHB2ENR |= 1u << 6; /* GPIOG */
    RCC_APB1ENR2 |= 1u;     /* LPUART1 */
    RCC_CCIPR = (RCC_CCIPR & ~(3u << 10)) | (2u << 10); /* clocked by HSI16 */
    stm32_alternate(GPIOG, 7, 8);
    stm32_alternate(GPIOG, 8, 8);
    usart_on((uint32_t)((256ull * HSI_HZ + EMBARQ_UART_BAUD / 2u) / EMBARQ_UART_BAUD)); /* an LPUART divides by BRR / 256 */
    board_ticks_init();
}
