/* A disk that fails on purpose: preloaded into the gateway, it lets calls on the spool's files, or on those that FAULTY_NAME names, fail while a file named by
 * FAULTY_DISK holds a word. Nothing else of the process notices.
 *
 *   eio      writing and syncing fail, as on a worn card
 *   enospc   writing fails: the disk is full
 *   erofs    writing fails: the kernel has remounted it read-only
 *   torn     half of each write arrives, then it fails
 *   nosync   syncing fails, writing does not
 *   hang     syncing takes until there is another word
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_spool(int fd) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    const char *name = getenv("FAULTY_NAME");
    return strstr(path, name ? name : "/spool.db") != NULL;
}

/* The word of the moment; empty when all is well. */
static const char *fault(int fd) {
    static __thread char word[16];
    int keep = errno;
    const char *file = getenv("FAULTY_DISK");
    FILE *f = file ? fopen(file, "r") : NULL;
    word[0] = 0;
    if (f) {
        if (fscanf(f, "%15s", word) != 1) word[0] = 0;
        fclose(f);
    }
    if (word[0] && !is_spool(fd)) word[0] = 0;
    errno = keep;
    return word;
}

/* 1: the call fails; 2: half of it is to be done first. */
static int writing_fails(int fd) {
    const char *word = fault(fd);
    if (!strcmp(word, "eio")) return errno = EIO, 1;
    if (!strcmp(word, "enospc")) return errno = ENOSPC, 1;
    if (!strcmp(word, "erofs")) return errno = EROFS, 1;
    if (!strcmp(word, "torn")) return 2;
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t n) {
    int fails = writing_fails(fd);
    if (fails == 2) { REAL(write)(fd, data, n / 2); errno = EIO; }
    return fails ? -1 : REAL(write)(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    int fails = writing_fails(fd);
    if (fails == 2) { REAL(pwrite)(fd, data, n / 2, at); errno = EIO; }
    return fails ? -1 : REAL(pwrite)(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    int fails = writing_fails(fd);
    if (fails == 2) { REAL(pwrite64)(fd, data, n / 2, at); errno = EIO; }
    return fails ? -1 : REAL(pwrite64)(fd, data, n, at);
}

int ftruncate(int fd, off_t n) { return writing_fails(fd) ? -1 : REAL(ftruncate)(fd, n); }
int ftruncate64(int fd, off64_t n) { return writing_fails(fd) ? -1 : REAL(ftruncate64)(fd, n); }

static int syncing_fails(int fd) {
    while (!strcmp(fault(fd), "hang")) poll(NULL, 0, 20);
    const char *word = fault(fd);
    if (!strcmp(word, "eio") || !strcmp(word, "nosync")) return errno = EIO, 1;
    return 0;
}

int fsync(int fd) { return syncing_fails(fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return syncing_fails(fd) ? -1 : REAL(fdatasync)(fd); }
