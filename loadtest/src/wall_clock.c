/* Loaded into a broker before the C library: its clock of the day differs from the machine's by what stands in a
 * shared file. Its monotonic clock is left alone, as it would be where somebody sets the time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_ms;
static int (*machine_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    machine_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CHRONIK_LOADTEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *shared = mmap(NULL, sizeof *offset_ms, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (shared != MAP_FAILED) offset_ms = shared;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int code = machine_clock(id, now);
    if (code == 0 && offset_ms && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_nsec + *offset_ms % 1000 * 1000000;
        now->tv_sec += *offset_ms / 1000 + (ns < 0 ? -1 : ns / 1000000000);
        now->tv_nsec = (ns % 1000000000 + 1000000000) % 1000000000;
    }
    return code;
}
