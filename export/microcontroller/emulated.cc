// What a Cortex-M does first, for an emulator that has put the program into memory and does what it
// asks of the computer beside it (semihosting), and TFLM's clock. A board has its own of both.

#include <cstdint>
#include <cstdlib>

#include "tensorflow/lite/micro/micro_time.h"

extern "C" {

extern uint32_t __stack;
extern void initialise_monitor_handles(void);  // newlib's, for files
extern void __libc_init_array(void);
int main(int argc, char* argv[]);

void* __dso_handle;
void _init() {}
void _fini() {}

}  // extern "C"

namespace {

volatile uint32_t& Register(uint32_t address) {
  return *reinterpret_cast<volatile uint32_t*>(address);
}

constexpr uint32_t kCoprocessorAccess = 0xE000ED88;
constexpr uint32_t kSysTickControl = 0xE000E010, kSysTickReload = 0xE000E014,
                   kSysTickValue = 0xE000E018;
constexpr uint32_t kSysTickBits = 0xFFFFFF;
volatile uint32_t overflows = 0;

void CountOverflow() { overflows = overflows + 1; }

void Halt() {
  for (;;) {
  }
}

void Reset() {
  Register(kCoprocessorAccess) |= 0xF << 20;  // switches the FPU and MVE on
  __asm volatile("dsb\n isb");
  Register(kSysTickReload) = kSysTickBits;
  Register(kSysTickValue) = 0;
  Register(kSysTickControl) = 7;  // counts down with the processor's clock, and interrupts at 0
  initialise_monitor_handles();
  __libc_init_array();
  static char name[] = "main", images[] = "images.bin";
  static char* arguments[] = {name, images, nullptr};
  std::exit(main(2, arguments));
}

using Vector = void (*)();
__attribute__((section(".vectors"), used)) const Vector vectors[] = {
    reinterpret_cast<Vector>(&__stack), Reset, Halt, Halt, Halt, Halt, Halt, Halt, Halt, Halt,
    Halt, Halt, Halt, Halt, Halt, CountOverflow,
};

}  // namespace

namespace tflite {

uint32_t ticks_per_second() { return SYSTICK_HZ; }

uint32_t GetCurrentTimeTicks() {
  uint32_t before, value;
  do {
    before = overflows;
    value = Register(kSysTickValue);
  } while (before != overflows);
  return before * (kSysTickBits + 1) + (kSysTickBits - value);
}

}  // namespace tflite
