/* nRF52840: always 64 MHz; UART0 with its six-byte FIFO, polled (product specification 5.4, 6.9, 6.33). */
#include "board.h"
#include "common/cortex_m.h"

#define CLOCK_HFCLKSTART REG(0x40000000)
#define CLOCK_HFCLKSTARTED REG(0x40000100)
#define NVMC_ICACHECNF REG(0x4001E540)
#define GPIO(port) (0x50000000u + 0x300u * (port))
#define UART_STARTRX REG(EMBARQ_UART_BASE + 0x000)
#define UART_STARTTX REG(EMBARQ_UART_BASE + 0x008)
#define UART_RXDRDY REG(EMBARQ_UART_BASE + 0x108)
#define UART_TXDRDY REG(EMBARQ_UART_BASE + 0x11C)
#define UART_ENABLE REG(EMBARQ_UART_BASE + 0x500)
#define UART_PSELTXD REG(EMBARQ_UART_BASE + 0x50C)
#define UART_PSELRXD REG(EMBARQ_UART_BASE + 0x514)
#define UART_RXD REG(EMBARQ_UART_BASE + 0x518)
#define UART_TXD REG(EMBARQ_UART_BASE + 0x51C)
#define UART_BAUDRATE REG(EMBARQ_UART_BASE + 0x524)

static void pins_on(void)
{
    uint32_t tx = EMBARQ_PIN_TX, rx = EMBARQ_PIN_RX; /* 32 * port + pin */
    REG(GPIO(tx / 32u) + 0x508u) = 1u << (tx % 32u); /* OUTSET: the line idles high */
    REG(GPIO(tx / 32u) + 0x518u) = 1u << (tx % 32u); /* DIRSET */
    REG(GPIO(rx / 32u) + 0x700u + 4u * (rx % 32u)) = 3u << 2; /* PIN_CNF: input with pull-up */
    UART_PSELTXD = tx;
    UART_PSELRXD = rx;
}

void board_init(void)
{
    board_core_clock_hz = 64000000u;
    CLOCK_HFCLKSTARTED = 0;
    CLOCK_HFCLKSTART = 1; /* the crystal: the internal oscillator is too coarse for a UART in the long run */
    (void)board_reached(&CLOCK_HFCLKSTARTED, 1u, 1u);
    NVMC_ICACHECNF = 1;
    pins_on();
    /* Baud rate register: rate * 2^32 / 16 MHz, the low 12 bits unused (6.33.8.10). */
    UART_BAUDRATE = (uint32_t)(((((uint64_t)EMBARQ_UART_BAUD << 32) / 16000000u) + 0x800u) & 0xFFFFF000u);
    UART_ENABLE = 4;
    UART_STARTTX = 1;
    UART_STARTRX = 1;
    board_ticks_init();
}

int board_uart_read(void)
{
    if (UART_RXDRDY == 0) {
        return -1;
    }
    UART_RXDRDY = 0; /* before reading: a byte that follows sets it again */
    return (int)(UART_RXD & 0xFFu);
}

void board_uart_write(const uint8_t *data, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        UART_TXDRDY = 0;
        UART_TXD = data[i];
        while (UART_TXDRDY == 0) {
        }
    }
}
