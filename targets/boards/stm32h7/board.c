/* STM32H743 at 400 MHz and STM32H7A3 at 280 MHz, both from the internal 64 MHz oscillator; USART3 on PD8/PD9
 * (RM0433 and RM0455: 4.3.8 wait states, 6.4 supply, 8.5 clocks, 48.5 USART). */
#include "common/stm32_usart.h"

#define RCC 0x58024400u
#define RCC_CR REG(RCC + 0x00)
#define RCC_CFGR REG(RCC + 0x10)
#define RCC_CPUCFGR REG(RCC + 0x18) /* D1CFGR, CDCFGR1 */
#define RCC_APBCFGR REG(RCC + 0x1C) /* D2CFGR, CDCFGR2 */
#define RCC_LOWCFGR REG(RCC + 0x20) /* D3CFGR, SRDCFGR */
#define RCC_PLLCKSELR REG(RCC + 0x28)
#define RCC_PLLCFGR REG(RCC + 0x2C)
#define RCC_PLL1DIVR REG(RCC + 0x30)
#define RCC_UARTSEL REG(RCC + 0x54) /* D2CCIP2R, CDCCIP2R */
#define RCC_AHB2ENR REG(RCC + 0xDC)
#define RCC_AHB4ENR REG(RCC + 0xE0)
#define RCC_APB1LENR REG(RCC + 0xE8)
#define PWR_CR3 REG(0x5802480C)
#define PWR_VOS REG(0x58024818) /* D3CR, SRDCR */
#define FLASH_ACR REG(0x52002000)
#define GPIOD 0x58020C00u

#define HSI_HZ 64000000u

#if defined(EMBARQ_H7A3)
#define CORE_HZ 280000000u
#define SUPPLY 4u           /* the board feeds the core from the chip's switching converter, without the linear regulator */
#define PLL_N 140u          /* 64 MHz / 16 * 140 / 2 */
#define CPU_DIVIDERS 0x040u /* AHB /1, APB3 /2 */
#define WAIT_STATES 0x36u   /* six, programming delay 3 */
#else
#define CORE_HZ 400000000u
#define SUPPLY 6u           /* linear regulator */
#define PLL_N 200u          /* 64 MHz / 16 * 200 / 2 */
#define CPU_DIVIDERS 0x048u /* AHB /2, APB3 /2 */
#define WAIT_STATES 0x24u   /* four, programming delay 2 */
#endif

static void clock_on(void)
{
    board_core_clock_hz = HSI_HZ;
    PWR_CR3 = (PWR_CR3 & ~7u) | SUPPLY; /* must be written before the voltage changes, and only once after power-on */
    PWR_VOS |= 3u << 14;                /* highest voltage */
    if (!board_reached(&PWR_VOS, 1u << 13, 1u << 13)) {
        return;
    }
    RCC_PLLCKSELR = 16u << 4;
    RCC_PLLCFGR = (2u << 2) | (1u << 16); /* input 4 to 8 MHz, wide oscillator, output P */
    RCC_PLL1DIVR = (PLL_N - 1u) | (1u << 9);
    RCC_CR |= 1u << 24; /* PLL1ON */
    if (!board_reached(&RCC_CR, 1u << 25, 1u << 25)) {
        return;
    }
    FLASH_ACR = WAIT_STATES;
    RCC_CPUCFGR = CPU_DIVIDERS;
    RCC_APBCFGR = 0x440u; /* APB1, APB2 /2 */
    RCC_LOWCFGR = 0x040u; /* APB4 /2 */
    RCC_CFGR = 3u;        /* PLL1 */
    if (board_reached(&RCC_CFGR, 7u << 3, 3u << 3)) {
        board_core_clock_hz = CORE_HZ;
    }
}

void board_init(void)
{
    clock_on();
    RCC_AHB2ENR |= 7u << 29; /* SRAM1 to SRAM3 */
    board_caches_on();
    RCC_AHB4ENR |= 1u << 3;   /* GPIOD */
    RCC_APB1LENR |= 1u << 18; /* USART3 */
    RCC_UARTSEL = 3u;         /* clocked by the 64 MHz oscillator, whatever the PLL does */
    stm32_alternate(GPIOD, 8, 7);
    stm32_alternate(GPIOD, 9, 7);
    usart_on((HSI_HZ + EMBARQ_UART_BAUD / 2u) / EMBARQ_UART_BAUD);
    board_ticks_init();
}
