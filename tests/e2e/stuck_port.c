/* A serial port whose driver hangs, as those of some USB adapters do after a brown-out: preloaded into the gateway, it never
 * returns from opening the port that STUCK_PORT names while a file named by STUCK_WORD exists. Nothing else is touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void hang_on(const char *path) {
    const char *port = getenv("STUCK_PORT"), *word = getenv("STUCK_WORD");
    if (!port || !word || !path || strcmp(path, port)) return;
    while (!access(word, F_OK)) pause();
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                                  \
    int name(const char *path, int flags, ...) {                                    \
        va_list rest;                                                               \
        va_start(rest, flags);                                                      \
        mode_t mode = mode_of(flags, rest);                                         \
        va_end(rest);                                                               \
        hang_on(path);                                                              \
        return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
