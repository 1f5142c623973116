/* The parts of board.h that every Cortex-M shares: time, reset, waiting, caches. */
#include "board.h"
#include "common/cortex_m.h"

uint32_t board_core_clock_hz;

#if defined(EMBARQ_TICKS_TIM2) /* QEMU's STM32: its DWT counter stands still */
#define TIM2_CR1 REG(0x40000000)
#define TIM2_CNT REG(0x40000024)
#define TIM2_ARR REG(0x4000002C)

void board_ticks_init(void)
{
    REG(0x40023840) |= 1u; /* RCC_APB1ENR: TIM2 (RM0090 6.3.13) */
    TIM2_ARR = 0xFFFFFFFFu;
    TIM2_CR1 = 1;
}

uint32_t board_ticks(void)
{
    return TIM2_CNT;
}

uint32_t board_ticks_hz(void)
{
    return 1000000000u; /* QEMU's timer runs at 1 GHz */
}

#elif defined(EMBARQ_TICKS_CMSDK) /* MPS2 boards: CMSDK timer 0, counting down at the peripheral clock */
void board_ticks_init(void)
{
    REG(0x40000008) = 0xFFFFFFFFu; /* RELOAD */
    REG(0x40000004) = 0xFFFFFFFFu; /* VALUE */
    REG(0x40000000) = 1;           /* CTRL */
}

uint32_t board_ticks(void)
{
    return ~REG(0x40000004);
}

uint32_t board_ticks_hz(void)
{
    return EMBARQ_CLOCK_HZ;
}

#elif defined(EMBARQ_TICKS_SSE) /* MPS3 boards with SSE-300: the system counter, read through system timer 0 */
void board_ticks_init(void)
{
    REG(0x58100000) = 1; /* CNTCR.EN of the secure control frame */
}

uint32_t board_ticks(void)
{
    return REG(EMBARQ_TICKS_SSE); /* CNTPCT, low word */
}

uint32_t board_ticks_hz(void)
{
    return EMBARQ_CLOCK_HZ;
}

#elif defined(EMBARQ_TICKS_US) /* a free-running microsecond counter at that address: Armv6-M has no DWT counter */
void board_ticks_init(void)
{
}

uint32_t board_ticks(void)
{
    return REG(EMBARQ_TICKS_US);
}

uint32_t board_ticks_hz(void)
{
    return 1000000u;
}

#else /* DWT cycle counter (Armv7-M ARM C1.8.8) */
void board_ticks_init(void)
{
    SCB_DEMCR |= 1u << 24; /* TRCENA */
    DWT_CYCCNT = 0;
    DWT_CTRL |= 1u;
}

uint32_t board_ticks(void)
{
    return DWT_CYCCNT;
}

uint32_t board_ticks_hz(void)
{
    return board_core_clock_hz;
}
#endif

__attribute__((noinline)) void board_wait(void)
{
    __asm volatile("nop");
}

void board_reset(void)
{
    board_barrier();
    SCB_AIRCR = 0x05FA0004u; /* VECTKEY, SYSRESETREQ */
    board_barrier();
    for (;;) {
    }
}

/* Invalidate, then enable (Cortex-M7 devices generic user guide, 4.8). No DMA is used, so nothing ever needs cleaning. */
void board_caches_on(void)
{
    uint32_t size, sets, ways, shift;
    board_barrier();
    SCB_ICIALLU = 0;
    board_barrier();
    SCB_CSSELR = 0; /* level 1 data cache */
    board_barrier();
    size = SCB_CCSIDR;
    sets = (size >> 13) & 0x7FFFu;
    ways = (size >> 3) & 0x3FFu;
    shift = 30; /* four ways: the way number stands in the top two bits */
    for (uint32_t set = 0; set <= sets; set++) {
        for (uint32_t way = 0; way <= ways && way < 4; way++) {
            SCB_DCISW = (way << shift) | (set << 5);
        }
    }
    board_barrier();
    SCB_CCR |= (1u << 17) | (1u << 16);
    board_barrier();
}
