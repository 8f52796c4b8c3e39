/* Lets chosen calls of `tar` and `find` fail, or lie, for chosen paths. Loaded before them with LD_PRELOAD.

   FAULTS holds lines `CALL ERRNO PATH [OFFSET]`: the call fails with that number where the path that it is about ends with PATH; `read`
   only from OFFSET on. `end 1 PATH OFFSET`: reads give nothing from OFFSET on. `short BYTES PATH`: no read gives more than that.
   `blocks 1 PATH`: whoever asks is told that the file has no blocks. `inode NUMBER PATH`: that its inode has that number, and two names. `size BYTES PATH`: that it is so long, 0 bytes of 0 and 2^60 of 2^30. `no-ctime 1 PATH`: that it was changed last at the epoch. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

/* <sys/acl.h>, which is in a package of its own */
typedef void *acl_t;
typedef unsigned acl_type_t;
acl_t acl_get_file(const char *, acl_type_t);
acl_t acl_get_fd(int);

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static ssize_t link_of(int fd, char *to) {
    char from[64];
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    static ssize_t (*real)(const char *, char *, size_t);
    if (!real) real = (ssize_t(*)(const char *, char *, size_t))dlsym(RTLD_NEXT, "readlink");
    ssize_t size = real(from, to, 4095);
    to[size < 0 ? 0 : size] = 0;
    return size;
}

static int ends_with(const char *path, const char *end) {
    size_t one = strlen(path), other = strlen(end);
    return one >= other && !strcmp(path + one - other, end);
}

static int planned(const char *call, const char *path, off_t offset) {
    const char *line = getenv("FAULTS");
    while (line && *line) {
        char name[32], end[1024];
        int number = 0;
        long long from = 0;
        if (sscanf(line, "%31s %d %1023s %lld", name, &number, end, &from) >= 3 && !strcmp(name, call) &&
            ends_with(path, end) && offset >= from)
            return number ? number : -1;
        line = strchr(line, '\n');
        if (line) line++;
    }
    return 0;
}

static const char *full(int directory, const char *path, char *buffer) {
    if (path[0] == '/' && strncmp(path, "/proc/self/fd/", 14)) return path;
    if (!strncmp(path, "/proc/self/fd/", 14)) { /* as gnulib asks for what has no call of its own */
        directory = atoi(path + 14);
        path = strchr(path + 14, '/');
        if (!path) { link_of(directory, buffer); return buffer; }
        path++;
    }
    if (directory == AT_FDCWD) { if (!getcwd(buffer, 4096)) buffer[0] = 0; } else link_of(directory, buffer);
    size_t size = strlen(buffer);
    if (*path) snprintf(buffer + size, 8192 - size, "/%s", path);
    return buffer;
}

#define FAIL_AT(call, directory, path, result) do { char b_[8192]; int saved_ = errno; int e_ = planned(call, full(directory, path, b_), 0); errno = saved_; \
    if (e_) { errno = e_; return result; } } while (0)
#define FAIL_FD(call, fd, offset, result) do { char b_[8192]; int saved_ = errno; link_of(fd, b_); int e_ = planned(call, b_, offset); errno = saved_; \
    if (e_) { errno = e_; return result; } } while (0)

static int lie(const char *call, int directory, const char *path) { char b[8192]; int saved = errno; int e = planned(call, full(directory, path, b), 0); errno = saved; return e; }

#define LIES(d, p) if (!done) { if (lie("blocks", d, p)) to->st_blocks = 0; \
    int number = lie("inode", d, p); if (number) { to->st_ino = number; to->st_nlink = 2; } \
    int size = lie("size", d, p); if (size) to->st_size = size < 0 ? 0 : size >= 1 << 30 ? (off_t)1 << 60 : size; \
    if (lie("no-ctime", d, p)) { to->st_ctim.tv_sec = 0; to->st_ctim.tv_nsec = 0; } }

#define OPENAT(name) int name(int d, const char *p, int flags, ...) { \
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
    REAL(name); FAIL_AT("open", d, p, -1); return real(d, p, flags, mode); }
OPENAT(openat)
OPENAT(openat64)
#define OPEN(name) int name(const char *p, int flags, ...) { \
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
    REAL(name); FAIL_AT("open", AT_FDCWD, p, -1); return real(p, flags, mode); }
OPEN(open)
OPEN(open64)

/* as programs that were built with _FORTIFY_SOURCE call them */
int __open_2(const char *, int);
int __openat_2(int, const char *, int);
int __open_2(const char *p, int flags) { REAL(__open_2); FAIL_AT("open", AT_FDCWD, p, -1); return real(p, flags); }
int __openat_2(int d, const char *p, int flags) { REAL(__openat_2); FAIL_AT("open", d, p, -1); return real(d, p, flags); }

/* where data and holes are; OFFSET is where it is asked from */
#define LSEEK(name, kind) kind name(int fd, kind at, int whence) { REAL(name); \
    if (whence == SEEK_DATA || whence == SEEK_HOLE) { FAIL_FD("seek", fd, at, -1); } \
    return real(fd, at, whence); }
LSEEK(lseek, off_t)
LSEEK(lseek64, off64_t)

/* What comes before OFFSET is read first, and the call after that is what is planned, as of a bad sector. */
static int comes_to(const char *call, const char *path, off_t at, size_t *size) {
    int found = planned(call, path, at);
    size_t good = *size;
    while (!found && good && planned(call, path, at + (off_t)good - 1)) good /= 2;
    if (!found && good && good < *size) { /* to the byte */
        size_t step = good;
        while (step) { if (good + step < *size && !planned(call, path, at + (off_t)(good + step) - 1)) good += step; else step /= 2; }
    }
    *size = good;
    return found;
}
static int fails_from(int fd, off_t at, size_t *size) {
    char b[8192];
    int saved = errno;
    link_of(fd, b);
    int most = planned("short", b, at);
    if (most && *size > (size_t)most) *size = (size_t)most;
    int failed = comes_to("read", b, at, size);
    if (!failed && comes_to("end", b, at, size)) *size = 0;
    errno = failed ? failed : saved;
    return failed;
}
ssize_t read(int fd, void *to, size_t size) { REAL(read); return fails_from(fd, lseek(fd, 0, SEEK_CUR), &size) ? -1 : real(fd, to, size); }
#define PREAD(name, kind) ssize_t name(int fd, void *to, size_t size, kind at) { REAL(name); return fails_from(fd, at, &size) ? -1 : real(fd, to, size, at); }
PREAD(pread, off_t)
PREAD(pread64, off64_t)
/* of several buffers, the first is filled */
ssize_t readv(int fd, const struct iovec *to, int count) { (void)count; return read(fd, to->iov_base, to->iov_len); }
ssize_t preadv(int fd, const struct iovec *to, int count, off_t at) { (void)count; return pread(fd, to->iov_base, to->iov_len, at); }
ssize_t preadv64(int fd, const struct iovec *to, int count, off64_t at) { (void)count; return pread64(fd, to->iov_base, to->iov_len, at); }
ssize_t preadv2(int fd, const struct iovec *to, int count, off_t at, int flags) { (void)flags; return preadv(fd, to, count, at); }
ssize_t preadv64v2(int fd, const struct iovec *to, int count, off64_t at, int flags) { (void)flags; return preadv64(fd, to, count, at); }

#define FSTATAT(name, kind) int name(int d, const char *p, struct kind *to, int flags) { REAL(name); \
    if (*p) FAIL_AT(flags & AT_SYMLINK_NOFOLLOW ? "lstat" : "stat", d, p, -1); else FAIL_FD("stat", d, 0, -1); \
    int done = real(d, p, to, flags); LIES(d, p) return done; }
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)
#define STAT(name, kind, call) int name(const char *p, struct kind *to) { REAL(name); FAIL_AT(call, AT_FDCWD, p, -1); \
    int done = real(p, to); LIES(AT_FDCWD, p) return done; }
STAT(stat, stat, "stat")
STAT(stat64, stat64, "stat")
STAT(lstat, stat, "lstat")
STAT(lstat64, stat64, "lstat")
#define FSTAT(name, kind) int name(int fd, struct kind *to) { REAL(name); FAIL_FD("stat", fd, 0, -1); \
    int done = real(fd, to); LIES(fd, "") return done; }
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)

/* OFFSET is how many names of the directory come first */
static long names_before(DIR *d) { static DIR *last; static long count; if (d != last) { last = d; count = 0; } return count++; }
struct dirent *readdir(DIR *d) { REAL(readdir); FAIL_FD("readdir", dirfd(d), names_before(d), NULL); return real(d); }
struct dirent64 *readdir64(DIR *d) { REAL(readdir64); FAIL_FD("readdir", dirfd(d), names_before(d), NULL); return real(d); }

ssize_t readlinkat(int d, const char *p, char *to, size_t size) { REAL(readlinkat); FAIL_AT("readlink", d, p, -1); return real(d, p, to, size); }
ssize_t readlink(const char *p, char *to, size_t size) { REAL(readlink); FAIL_AT("readlink", AT_FDCWD, p, -1); return real(p, to, size); }

ssize_t llistxattr(const char *p, char *to, size_t size) { REAL(llistxattr); FAIL_AT("llistxattr", AT_FDCWD, p, -1); return real(p, to, size); }
ssize_t flistxattr(int fd, char *to, size_t size) { REAL(flistxattr); FAIL_FD("llistxattr", fd, 0, -1); return real(fd, to, size); }
ssize_t listxattr(const char *p, char *to, size_t size) { REAL(listxattr); FAIL_AT("llistxattr", AT_FDCWD, p, -1); return real(p, to, size); }
ssize_t getxattr(const char *p, const char *n, void *to, size_t size) { REAL(getxattr); FAIL_AT("lgetxattr", AT_FDCWD, p, -1); return real(p, n, to, size); }
ssize_t lgetxattr(const char *p, const char *n, void *to, size_t size) { REAL(lgetxattr); FAIL_AT("lgetxattr", AT_FDCWD, p, -1); return real(p, n, to, size); }
ssize_t fgetxattr(int fd, const char *n, void *to, size_t size) { REAL(fgetxattr); FAIL_FD("lgetxattr", fd, 0, -1); return real(fd, n, to, size); }
acl_t acl_get_file(const char *p, acl_type_t type) { REAL(acl_get_file); FAIL_AT("acl_get_file", AT_FDCWD, p, NULL); return real(p, type); }
acl_t acl_get_fd(int fd) { REAL(acl_get_fd); FAIL_FD("acl_get_file", fd, 0, NULL); return real(fd); }

/* what `tar` sets of what it extracts */
int fchownat(int d, const char *p, uid_t u, gid_t g, int flags) { REAL(fchownat); FAIL_AT("chown", d, p, -1); return real(d, p, u, g, flags); }
int fchown(int fd, uid_t u, gid_t g) { REAL(fchown); FAIL_FD("chown", fd, 0, -1); return real(fd, u, g); }
int fchmodat(int d, const char *p, mode_t mode, int flags) { REAL(fchmodat); FAIL_AT("chmod", d, p, -1); return real(d, p, mode, flags); }
int fchmod(int fd, mode_t mode) { REAL(fchmod); FAIL_FD("chmod", fd, 0, -1); return real(fd, mode); }
int utimensat(int d, const char *p, const struct timespec t[2], int flags) { REAL(utimensat); FAIL_AT("utime", d, p, -1); return real(d, p, t, flags); }
int futimens(int fd, const struct timespec t[2]) { REAL(futimens); FAIL_FD("utime", fd, 0, -1); return real(fd, t); }
int setxattr(const char *p, const char *n, const void *v, size_t size, int flags) { REAL(setxattr); FAIL_AT("setxattr", AT_FDCWD, p, -1); return real(p, n, v, size, flags); }
int lsetxattr(const char *p, const char *n, const void *v, size_t size, int flags) { REAL(lsetxattr); FAIL_AT("setxattr", AT_FDCWD, p, -1); return real(p, n, v, size, flags); }
int fsetxattr(int fd, const char *n, const void *v, size_t size, int flags) { REAL(fsetxattr); FAIL_FD("setxattr", fd, 0, -1); return real(fd, n, v, size, flags); }
int acl_set_file(const char *, acl_type_t, acl_t);
int acl_set_file(const char *p, acl_type_t type, acl_t acl) { REAL(acl_set_file); FAIL_AT("acl_set_file", AT_FDCWD, p, -1); return real(p, type, acl); }
int acl_delete_def_file(const char *);
int acl_delete_def_file(const char *p) { REAL(acl_delete_def_file); FAIL_AT("acl_delete_def_file", AT_FDCWD, p, -1); return real(p); }
int syncfs(int fd) { REAL(syncfs); FAIL_FD("syncfs", fd, 0, -1); return real(fd); }
ssize_t write(int fd, const void *from, size_t size) { REAL(write); FAIL_FD("write", fd, lseek(fd, 0, SEEK_CUR), -1); return real(fd, from, size); }
int symlinkat(const char *to, int d, const char *p) { REAL(symlinkat); FAIL_AT("symlink", d, p, -1); return real(to, d, p); }
int linkat(int od, const char *o, int d, const char *p, int flags) { REAL(linkat); FAIL_AT("link", d, p, -1); return real(od, o, d, p, flags); }
int mkfifoat(int d, const char *p, mode_t mode) { REAL(mkfifoat); FAIL_AT("mknod", d, p, -1); return real(d, p, mode); }
int mknodat(int d, const char *p, mode_t mode, dev_t dev) { REAL(mknodat); FAIL_AT("mknod", d, p, -1); return real(d, p, mode, dev); }
int mkdirat(int d, const char *p, mode_t mode) { REAL(mkdirat); FAIL_AT("mkdir", d, p, -1); return real(d, p, mode); }
