// What a Cortex-M does first, for an emulator that has put the program into memory and computes what
// it asks of the computer beside it (semihosting). A board has its own start-up code.

#include <stdint.h>
#include <stdlib.h>

extern uint32_t __stack;
extern void initialise_monitor_handles(void);  // newlib's, for files
extern void __libc_init_array(void);
extern int main(int argc, char *argv[]);

void *__dso_handle;
void _init(void) {}
void _fini(void) {}

static void Halt(void) {
  for (;;) {
  }
}

static void Reset(void) {
  volatile uint32_t *const access = (uint32_t *)0xE000ED88;  // CPACR: switches the FPU and MVE on
  *access |= 0xF << 20;
  __asm volatile("dsb\n isb");
  initialise_monitor_handles();
  __libc_init_array();
  static char *arguments[] = {"main", "images.bin", NULL};
  exit(main(2, arguments));
}

__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    &__stack, Reset, Halt, Halt, Halt, Halt, Halt,
};
