/* Says hello, then sends back what it hears. */
#include "board.h"

int main(void)
{
    board_init();
    board_uart_write((const uint8_t *)"hello\n", 6);
    for (;;) {
        int byte = board_uart_read();
        if (byte < 0) {
            board_wait();
        } else {
            uint8_t out = (uint8_t)byte;
            board_uart_write(&out, 1);
        }
    }
}
