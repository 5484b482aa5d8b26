/* A disk that is full from some write on: preloaded, it stands before the C library's functions that write. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long first = -1, count = 0;

/* From write number `at` (counted from 1) on, everything under `where` is full; 0 only counts. */
void fault_set(const char *where, long at) { strncpy(root, where, PATH_MAX - 1); first = at; count = 0; }
long fault_count(void) { return count; }

static int full(int file) {
    char link[64], path[PATH_MAX];
    if (first < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, root, strlen(root))) return 0;
    __sync_fetch_and_add(&count, 1);
    if (first == 0 || count < first) return 0;
    errno = ENOSPC;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
ssize_t write(int file, const void *data, size_t size) { return full(file) ? -1 : NEXT(write)(file, data, size); }
ssize_t writev(int file, const struct iovec *data, int n) { return full(file) ? -1 : NEXT(writev)(file, data, n); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    return full(file) ? -1 : NEXT(pwrite64)(file, data, size, at);
}
int fsync(int file) { return full(file) ? -1 : NEXT(fsync)(file); }
