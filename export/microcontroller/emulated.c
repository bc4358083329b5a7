// What a Cortex-M does first, for an emulator that has put the program into memory; the rest is
// newlib's _start with semihosting. A board has its own start-up code.

#include <stdint.h>

extern uint32_t __stack;
extern void _start(void);

static void Halt(void) {
  for (;;) {
  }
}

static void Reset(void) {
  volatile uint32_t *const access = (uint32_t *)0xE000ED88;  // CPACR: switches the FPU and MVE on
  *access |= 0xF << 20;
  __asm volatile("dsb\n isb");
  _start();
}

__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    &__stack, Reset, Halt, Halt, Halt, Halt, Halt,
};
