/* LD_PRELOAD: the O1_EIO_AT-th write, pwrite, fsync or fdatasync of a regular file fails with EIO.
   Standard input, output and error do not count. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static long calls;

static int fails(int file) {
    const char *at = getenv("O1_EIO_AT");
    struct stat status;
    if (!at || file < 3 || fstat(file, &status) || !S_ISREG(status.st_mode)) return 0;
    if (++calls != atol(at)) return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    return fails(file) ? -1 : real(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
    REAL(pwrite);
    return fails(file) ? -1 : real(file, data, size, place);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    return fails(file) ? -1 : real(file, data, size, place);
}

int fsync(int file) {
    REAL(fsync);
    return fails(file) ? -1 : real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    return fails(file) ? -1 : real(file);
}
