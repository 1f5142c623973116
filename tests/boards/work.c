/* Known workloads. Each prints one line: name, result, ticks it took. The first line is the ticks in a second, the last "end".
 * Inline assembly where the instruction itself is the point: LDM, IT blocks, SMLAD. */
#include "board.h"

static void text(const char *s)
{
    size_t n = 0;
    while (s[n]) {
        n++;
    }
    board_uart_write((const uint8_t *)s, n);
}

static void number(uint32_t value)
{
    uint8_t out[9];
    for (uint32_t i = 0; i < 8; i++) {
        out[i + 1] = (uint8_t)"0123456789abcdef"[value >> (28u - 4u * i) & 15u];
    }
    out[0] = ' ';
    board_uart_write(out, 9);
}

static volatile uint32_t data[8];

__attribute__((noinline)) static uint32_t loop(uint32_t n)
{
    __asm volatile("1: subs %0, #1\n\t"
                   "bne 1b"
                   : "+l"(n)
                   :
                   : "cc");
    return n;
}

__attribute__((noinline)) static uint32_t nothing(uint32_t n)
{
    __asm volatile("" : "+r"(n));
    return n;
}

#if __ARM_ARCH >= 7
__attribute__((noinline)) static uint32_t if_then(uint32_t n)
{
    uint32_t sum = 0;
    __asm volatile("1: tst %1, #1\n\t"
                   "ittet eq\n\t"
                   "addeq %0, %0, #3\n\t"
                   "addeq %0, %0, #4\n\t"
                   "subne %0, %0, #1\n\t"
                   "moveq r3, #5\n\t"
                   "subs %1, #1\n\t"
                   "bne 1b"
                   : "+r"(sum), "+r"(n)
                   :
                   : "cc", "r3");
    return sum;
}

__attribute__((noinline)) static uint32_t load_many(uint32_t n)
{
    uint32_t sum = 0;
    __asm volatile("1: mov r3, %2\n\t"
                   "ldmia r3!, {r4, r5, r6, r8}\n\t"
                   "push {r4, r5}\n\t"
                   "smlad %0, r4, r5, %0\n\t"
                   "smlad %0, r6, r8, %0\n\t"
                   "pop {r4, r5}\n\t"
                   "add %0, r8\n\t"
                   "subs %1, #1\n\t"
                   "bne 1b"
                   : "+r"(sum), "+r"(n)
                   : "r"(data)
                   : "cc", "r3", "r4", "r5", "r6", "r8", "memory");
    return sum;
}
#endif

__attribute__((noinline)) static uint32_t floats(uint32_t n)
{
    union {
        float f;
        uint32_t u;
    } a = {1.0f};
    float b = 0.5f;
    for (uint32_t i = 0; i < n; i++) {
        a.f = a.f * 1.0001f + b;
        b = b / 1.01f;
        if (a.f > 100.0f) {
            a.f -= 99.0f;
        }
    }
    return a.u;
}

__attribute__((noinline)) static uint32_t choices(uint32_t n)
{
    volatile uint32_t seed = 12345;
    uint32_t a = 0;
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 1103515245u + 12345u;
        switch (seed >> 16 & 7u) {
        case 0: a += 1; break;
        case 1: a += i; break;
        case 2: a ^= i << 3; break;
        case 3: a = a * 5; break;
        case 4: a -= 7; break;
        case 5: a += i / 3; break;
        case 6: a |= 1; break;
        default: a ^= 0x55; break;
        }
    }
    return a;
}

static void run(const char *name, uint32_t (*work)(uint32_t), uint32_t n)
{
    uint32_t before = board_ticks(), result = work(n), after = board_ticks();
    text(name);
    number(result);
    number(after - before);
    text("\n");
}

int main(void)
{
    board_init();
    for (uint32_t i = 0; i < 8; i++) {
        data[i] = i * 0x01030507u;
    }
    text("hz");
    number(board_ticks_hz());
    text("\n");
    run("nothing", nothing, 7);
    run("loop", loop, 1000);
    run("loop", loop, 200000);
#if __ARM_ARCH >= 7
    run("if_then", if_then, 50000);
    run("load_many", load_many, 50000);
#endif
    run("floats", floats, 20000);
    run("choices", choices, 20000);
    text("end\n");
    for (;;) {
        (void)board_uart_read();
        board_wait();
    }
}
